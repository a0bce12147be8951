"""
AMP over Twisted endpoints: servers and clients on a network.

Between two servers there are two connections, because each makes one to the
other and sends its messages there.  A server that does not know the other's
address yet answers on the connection that the other made; so does one whose
own connection is broken.  Clients' calls travel on connections of their own,
one for each address, kept while they are used.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, ClassVar

from twisted.internet.defer import (
    CancelledError,
    Deferred,
    fail,
    maybeDeferred,
)
from twisted.internet.defer import (
    TimeoutError as DeferredTimeoutError,
)
from twisted.internet.error import (
    CannotListenError,
    ConnectError,
    ConnectingCancelledError,
)
from twisted.logger import Logger
from twisted.python.failure import Failure

from adapters.transport.amp_codec import encode
from adapters.transport.amp_connection import AMPOptions, Connection
from adapters.transport.amp_factory import make_factory
from adapters.transport.amp_hello import check_introduction
from adapters.transport.amp_login import enter
from adapters.transport.amp_outbound import Caller, PeerLink
from adapters.transport.amp_tls import SecureConnection, secured
from consensus.addresses import AddressError, check_address, parse
from consensus.errors import (
    Finding,
    ProtocolError,
    RaftError,
    UnreachableError,
)
from consensus.interfaces import Traffic, Transport
from consensus.tls_contexts import Contexts

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from adapters.transport.amp_hello import Introduction
    from consensus.core.messages import Message
    from consensus.core.values import Address, Identity, ServerId
    from consensus.interfaces import TLS, Guard, Inbox, Login

_log = Logger()

# What a message needs besides its commands, at the most: the headers of some
# thousand entries.
_FRAME_BYTES = 128 * 1024

# How often connections are looked at, and pinged when they are silent.
_SWEEP_INTERVAL = 1.0

# How long close() waits for what was written to be sent.
_PARTING_TIME = 1.0

# What is found of an address: it means nothing; it cannot be listened on.
_ADDRESS_IDS = ("transport.E101", "transport.E102")

# Strangers' names are remembered, in order to warn once, up to so many.
_MAX_REMEMBERED = 100

_CONNECT_ERRORS = (
    AddressError,
    ConnectError,
    ConnectingCancelledError,
    CancelledError,
    DeferredTimeoutError,
    OSError,
    ValueError,
)


class AMPTransport(Transport):
    """
    Servers and clients joined by AMP over TCP or UNIX sockets.

    The protocol stands in ``docs/reference/protocol.md``.
    """

    Options: ClassVar[type[Any]] = AMPOptions
    encrypts = True
    authenticates = True

    options: AMPOptions

    def __init__(self, options: Any, reactor: Any, clock: Any) -> None:
        super().__init__(options, reactor, clock)
        self.identity: Identity | None = None
        self.inbox: Inbox | None = None
        self.guard: Guard | None = None
        self._login: Login | None = None
        #: How many messages could not be sent.
        self.lost_messages = 0
        #: How many connections were dropped because the other end broke the
        #: protocol.
        self.violations = 0
        # Bytes of the connections that are closed: sent, and received.
        self._closed_bytes = [0, 0]
        self._links: dict[ServerId, PeerLink] = {}
        self._accepted: dict[ServerId, Connection] = {}
        self._callers: dict[Address, Caller] = {}
        self._connections: set[Connection] = set()
        self._warned: dict[ServerId, str] = {}
        self._contexts: Contexts | None = None
        self._port: Any = None
        self._sweep: Any = None
        self._is_closed = False
        self._is_gone = False
        self._closers: list[Deferred[None]] = []
        self._is_empty: Deferred[None] | None = None

    @classmethod
    def check(
        cls,
        options: Any,
        members: Mapping[ServerId, Address],
        serve: Collection[ServerId],
    ) -> Iterable[Finding]:
        """Yield addresses that mean nothing and ports in use; see the base."""
        yield from _check_options(options or AMPOptions())
        for name, address in members.items():
            yield from check_address(
                f"members.{name}", address, _ADDRESS_IDS, is_served=name in serve
            )

    @classmethod
    def max_command_bytes(cls, options: Any) -> int:
        """Return what remains of a message beside its frame; see the base."""
        largest = int((options or AMPOptions()).max_message_bytes)
        return max(0, largest - _FRAME_BYTES)

    def secure(self, tls: TLS) -> None:
        """Put TLS under every connection from now on; see the base."""
        self._contexts = Contexts(tls)

    def protect(self, guard: Guard) -> None:
        """Let *guard* answer all calls; see the base."""
        self.guard = guard

    def identify(self, login: Login) -> None:
        """Say *login* on all connections that are made from now on; see the base."""
        self._login = login

    # Listening.

    def listen(
        self, identity: Identity, address: Address, inbox: Inbox
    ) -> Deferred[None]:
        """Begin to accept connections at *address*; see the base."""
        return Deferred.fromCoroutine(self._listen(identity, address, inbox))

    async def _listen(self, identity: Identity, address: Address, inbox: Inbox) -> None:
        self.identity = identity
        self.inbox = inbox
        try:
            endpoint = parse(address).server(self.reactor)
            factory = make_factory(self, self._contexts, is_accepting=True)
            port = await endpoint.listen(factory)
        except (AddressError, CannotListenError, OSError) as error:
            self.identity = self.inbox = None
            message = f"cannot listen on {address!r}: {error}"
            raise UnreachableError(message) from error
        if self._is_closed:
            await maybeDeferred(port.stopListening)
            return
        self._port = port
        for link in self._links.values():
            link.start()

    @property
    def port(self) -> int:
        """Return the TCP port that this server listens on, 0 if it does not."""
        host = None if self._port is None else self._port.getHost()
        return int(getattr(host, "port", 0))

    def make(self, *, is_accepted: bool) -> Connection | None:
        """Return the protocol of a new connection, if there is room for it."""
        accepted = sum(connection.is_accepted for connection in self._connections)
        if not is_accepted or accepted < self.options.max_connections:
            kind = Connection if self._contexts is None else SecureConnection
            return kind(self, is_accepted=is_accepted)
        self._warn_once(
            "",
            f"more than {self.options.max_connections} connections: raise"
            " max_connections, or let clients close theirs",
        )
        return None

    # Peers.

    def connect(self, peer: ServerId, address: Address) -> None:
        """Keep a connection to *peer* at *address*; see the base."""
        link = self._links.get(peer)
        if link is not None:
            if link.address == address:
                return
            link.stop()
        link = self._links[peer] = PeerLink(self, peer, address)
        if self.identity is not None:
            link.start()

    def disconnect(self, peer: ServerId) -> None:
        """
        Forget *peer*; see the base.

        If it connects again of its own accord, and is welcome, its messages
        are answered.
        """
        link = self._links.pop(peer, None)
        if link is not None:
            link.stop()
        accepted = self._accepted.pop(peer, None)
        if accepted is not None:
            accepted.drop()

    def send(self, peer: ServerId, message: Message) -> None:
        """Send *message* to *peer* or lose it; see the base."""
        link = self._links.get(peer)
        connection = None if link is None else link.connection
        if connection is None:
            connection = self._accepted.get(peer)
        if connection is None or not connection.takes(message):
            self.lost_messages += 1
            return
        data = encode(message)
        if len(data) > self.options.max_message_bytes:
            self.lost_messages += 1
            _log.error(
                "a message of {size} bytes to {peer} is lost: max_message_bytes is"
                " {limit}",
                size=len(data),
                peer=peer,
                limit=self.options.max_message_bytes,
            )
            return
        connection.send_message(data)

    def welcome(self, connection: Connection, introduction: Introduction) -> None:
        """
        Take *connection* for the one of the peer that introduces itself here.

        Raises:
            ProtocolError: It is not welcome; the peer is told why.
        """
        other = introduction.identity
        try:
            connection.vouch(other.server)
            if self.identity is not None and self.inbox is not None:
                check_introduction(introduction, self.identity)
                self.inbox.welcome(other)
        except ProtocolError as error:
            self._warn_once(other.server, f"refused {other.server!r}: {error}")
            raise
        self._warned.pop(other.server, None)
        self._forgive(connection.host)
        former = self._accepted.get(other.server)
        self._accepted[other.server] = connection
        if former is not None:
            former.drop()

    def introduce(self, identity: Identity) -> None:
        """Be *identity* in every Hello from now on; see the base."""
        inbox = self.inbox
        if inbox is None or self._is_closed:
            return
        self.identity = identity
        for connection in list(self._connections):
            if connection.identity is None:
                continue
            try:
                inbox.welcome(connection.identity)
            except ProtocolError:
                # The reason is logged when one of the two connects again.
                connection.drop()

    # Clients.

    def ask(
        self, address: Address, method: str, payload: bytes, timeout: float
    ) -> Deferred[bytes]:
        """Call *method* of the server at *address*; see the base."""
        if self._is_closed:
            return fail(UnreachableError("the transport is closed"))
        caller = self._callers.get(address)
        if caller is None:
            caller = self._callers[address] = Caller(self, address)
            self._keep_watch()
        try:
            return caller.ask(method, payload, timeout)
        except RaftError as error:
            return fail(error)

    def traffic(self) -> Traffic:
        """Return what was sent, received, lost and refused; see the base."""
        sent, received = self._closed_bytes
        here = self._connections
        sent += sum(each.sent_bytes for each in here)
        received += sum(each.received_bytes for each in here)
        lost, violations = self.lost_messages, self.violations
        return Traffic(sent, received, lost, violations, len(here))

    # Connections.

    async def dial(self, address: Address) -> Connection:
        """
        Connect to *address*.

        Raises:
            UnreachableError: It did not work, or not in time.
            AuthenticationError: This end is not let in.
        """
        deadline = self.clock.seconds() + self.options.connect_timeout
        try:
            endpoint = parse(address).client(self.reactor)
            factory = make_factory(self, self._contexts, is_accepting=False)
            connecting = endpoint.connect(factory)
            # Twisted's own timeout goes by the wall clock.
            connecting.addTimeout(self.options.connect_timeout, self.clock)
            made: Connection = await connecting
            if self._contexts is not None:
                made = await secured(made, deadline)
        except (*_CONNECT_ERRORS, ProtocolError) as error:
            message = f"cannot connect to {address!r}: {error or 'no answer'}"
            raise UnreachableError(message) from error
        try:
            await enter(made, self.guard, self._login, self.options.connect_timeout)
        except BaseException:
            made.drop()
            raise
        return made

    def opened(self, connection: Connection) -> None:
        """Watch over *connection* from now on."""
        self._connections.add(connection)
        if self._is_closed:
            connection.drop()
        else:
            self._keep_watch()

    def closed(self, connection: Connection) -> None:
        """Forget *connection*, and let its link make another."""
        self._connections.discard(connection)
        self._closed_bytes[0] += connection.sent_bytes
        self._closed_bytes[1] += connection.received_bytes
        peer = connection.peer
        if peer is not None:
            if self._accepted.get(peer) is connection:
                del self._accepted[peer]
            link = self._links.get(peer)
            if link is not None and link.connection is connection:
                link.lost()
            self.look_for(peer)
        if self._is_empty is not None and not self._connections:
            done, self._is_empty = self._is_empty, None
            done.callback(None)

    def look_for(self, peer: ServerId) -> None:
        """
        Tell the server if there is nothing left of *peer*.

        A peer that cannot be connected to may be behind a firewall and live:
        then there is the connection that it has made.
        """
        link = self._links.get(peer)
        is_refused = link is not None and link.is_refused and link.connection is None
        if is_refused and peer not in self._accepted and self.inbox is not None:
            self.inbox.gone(peer)

    def violated(self, connection: Connection, error: ProtocolError) -> None:
        """Count *connection*, which was dropped because of *error*."""
        self.violations += 1
        if connection.speaks_tls:
            self.refused(connection, str(error))
            return
        self._warn_once(
            connection.peer or "",
            f"dropped {connection.origin}, it sent rubbish: {error}",
        )

    def refused(self, connection: Connection, reason: str) -> None:
        """Log that nothing passes on *connection*, once for each *reason*."""
        host = connection.host
        sentence = f"refused the connection with {host}: {reason}"
        self._warn_once(f"{host} {reason}", sentence)

    def _warn_once(self, name: ServerId, sentence: str) -> None:
        """Log *sentence* unless it was the last one about *name*."""
        if self._warned.get(name) == sentence:
            return
        if len(self._warned) >= _MAX_REMEMBERED:
            self._warned.clear()
        self._warned[name] = sentence
        _log.warn("{sentence}", sentence=sentence)

    def _forgive(self, host: str) -> None:
        """Log it again if somebody at *host*, who has been let in, is refused."""
        for key in [each for each in self._warned if each.startswith(f"{host} ")]:
            del self._warned[key]

    def _keep_watch(self) -> None:
        if self._sweep is None:
            self._sweep = self.clock.callLater(_SWEEP_INTERVAL, self._look_around)

    def _look_around(self) -> None:
        """Drop what is dead or idle; ask what is silent for a sign of life."""
        self._sweep = None
        now = self.clock.seconds()
        for caller in list(self._callers.values()):
            if caller.is_idle(now):
                del self._callers[caller.address]
                caller.stop()
        for connection in list(self._connections):
            self._look_at(connection, now)
        if self._connections or self._callers:
            self._keep_watch()

    def _look_at(self, connection: Connection, now: float) -> None:
        options = self.options
        silence = now - connection.heard
        if not connection.is_accepted:
            if silence > options.peer_timeout:
                connection.drop()
            elif silence >= _SWEEP_INTERVAL and connection.is_open:
                ping = connection.ask(b"Ping", (), options.peer_timeout)
                ping.addErrback(lambda failure: failure.trap(RaftError))
        elif silence > options.idle_timeout or (
            not connection.is_proven
            and now - connection.opened_at > options.hello_timeout
        ):
            connection.drop()

    # Closing.

    def close(self) -> Deferred[None]:
        """Stop listening and part from everybody; see the base."""
        done: Deferred[None] = Deferred()
        self._closers.append(done)
        if not self._is_closed:
            self._is_closed = True
            Deferred.fromCoroutine(self._close()).addBoth(self._tell_closers)
        elif self._is_gone:
            self._tell_closers(None)
        return done

    def _tell_closers(self, result: Any) -> None:
        self._is_gone = True
        closers, self._closers = self._closers, []
        for done in closers:
            done.callback(None)
        if isinstance(result, Failure):
            _log.failure("closing the transport failed", result)

    async def _close(self) -> None:
        for link in self._links.values():
            link.stop()
        for caller in list(self._callers.values()):
            caller.stop()
        if self._port is not None:
            port, self._port = self._port, None
            await maybeDeferred(port.stopListening)
        for connection in list(self._connections):
            connection.finish()
        if self._connections:
            parting = self.clock.callLater(_PARTING_TIME, self._drop_all)
            self._is_empty = Deferred()
            await self._is_empty
            if parting.active():
                parting.cancel()
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None

    def _drop_all(self) -> None:
        for connection in list(self._connections):
            connection.drop()


def _check_options(options: AMPOptions) -> Iterable[Finding]:
    """Yield the options that no transport could work with."""
    for field in fields(AMPOptions):
        value = getattr(options, field.name)
        if not isinstance(value, bool) and value <= 0:
            yield Finding(
                "transport.E103",
                f"{value!r} is not above 0",
                f"the default is {field.default!r}",
                f"transport.options.{field.name}",
            )
