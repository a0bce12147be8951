"""
One connection between two servers, or between a client and a server.

The end that made a connection to a peer says ``Hello`` first; the other end
looks at who it is and answers with who it is itself.  Messages of Raft may
travel both ways after that, and only then.  Clients say nothing of the kind:
they call methods.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from twisted.internet.interfaces import ITCPTransport
from twisted.logger import Logger

from adapters.transport.amp_boxes import Box, BoxProtocol
from adapters.transport.amp_bytes import PAYLOAD_KEY, encode_pairs, encode_payload
from adapters.transport.amp_codec import decode
from adapters.transport.amp_commands import MAX_VERSION, MIN_VERSION
from adapters.transport.amp_fields import (
    identity_items,
    read_identity,
    read_integer,
    read_payload,
    read_text,
)
from adapters.transport.amp_hello import (
    Introduction,
    introduction_pairs,
    versions_differ,
)
from adapters.transport.amp_login import COMMANDS, MAX_BOX_BYTES, Entrance
from consensus.core.messages import InstallSnapshot
from consensus.errors import (
    AuthenticationError,
    InvalidCommandError,
    OutcomeUnknownError,
    OverloadedError,
    ProtocolError,
    RaftError,
    UnreachableError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from twisted.internet.defer import Deferred
    from twisted.python.failure import Failure

    from consensus.core.messages import Message
    from consensus.core.values import Identity, ServerId
    from consensus.interfaces import Guard, Inbox

_log = Logger()

# Longer names of methods are not expected again; ours are much shorter.
_MAX_METHOD = 100

# What a call's box holds beside the payload itself, with room to spare.
_CALL_OVERHEAD = 4096


@dataclass(frozen=True, slots=True)
class AMPOptions:
    """
    What the YAML file may set under ``options:`` of the transport.

    Args:
        connect_timeout: Seconds to wait for a connection and again for the
            other end's ``Hello``; short, because a second attempt costs little.
        peer_timeout: Seconds without a sign of life after which a connection
            is taken for dead; TCP alone would notice minutes later.
        idle_timeout: Seconds after which an accepted connection that says
            nothing is closed, and one of our own that nobody uses.
        hello_timeout: Seconds that an accepted connection has for its first
            box, so that strangers cannot keep a place by saying nothing.
        max_connections: How many are accepted at once; more are closed.
        max_calls: How many calls of one connection may be under way; more
            are refused as overload.
        max_message_bytes: The largest message or call; larger than
            ``limits.max_command_bytes`` has to be, for the frame around it.
        max_unsent_bytes: How much may wait for one connection that does not
            take it; beyond it messages are lost, and calls refused.
    """

    connect_timeout: float = 2.0
    peer_timeout: float = 5.0
    idle_timeout: float = 60.0
    hello_timeout: float = 5.0
    max_connections: int = 500
    max_calls: int = 4096
    max_message_bytes: int = 2 * 1024 * 1024
    max_unsent_bytes: int = 16 * 1024 * 1024


class Owner(Protocol):
    """What a connection needs of the transport that it belongs to."""

    options: AMPOptions
    clock: Any
    identity: Identity | None
    inbox: Inbox | None
    guard: Guard | None

    def welcome(self, connection: Connection, introduction: Introduction) -> None:
        """
        Take *connection* for the one of the peer that introduces itself here.

        Raises:
            ProtocolError: It is not welcome; the peer is told why.
        """

    def opened(self, connection: Connection) -> None:
        """Remember *connection*."""

    def closed(self, connection: Connection) -> None:
        """Forget *connection*."""

    def violated(self, connection: Connection, error: ProtocolError) -> None:
        """Count and log that *connection* was dropped."""

    def refused(self, connection: Connection, reason: str) -> None:
        """Log that nothing passes on *connection*."""


class Connection(BoxProtocol):
    """
    A connection, seen from either end.

    Args:
        owner: The transport.
        is_accepted: Whether the other end made it.
    """

    def __init__(self, owner: Owner, *, is_accepted: bool) -> None:
        super().__init__(owner.clock, owner.options.max_message_bytes)
        self.is_accepted = is_accepted
        #: Who is at the other end; ``None`` for a client, and before Hello.
        self.peer: ServerId | None = None
        #: What it said of itself.
        self.identity: Identity | None = None
        self.opened_at = self.heard
        #: Whether anything but noise has come.
        self.is_proven = False
        #: Who is at the other end, for those who look at that.
        self.entrance = Entrance(owner.guard)
        self._is_guarded = owner.guard is not None
        if is_accepted and self._is_guarded:
            self._max_box_bytes = MAX_BOX_BYTES  # until it is known who calls
        self._owner = owner
        self._messages: list[Message] = []
        self._max_calls = owner.options.max_calls
        self._max_bytes = owner.options.max_unsent_bytes
        self._calls = 0
        self._call_bytes = 0
        self._method = ""
        self._max_payload = owner.options.max_message_bytes - _CALL_OVERHEAD

    def connectionMade(self) -> None:
        """Turn Nagle's algorithm off: it would hold small boxes back."""
        super().connectionMade()
        if ITCPTransport.providedBy(self.socket):
            # Twisted before 26 says the same of a UNIX socket, which has neither.
            with suppress(OSError):
                self.socket.setTcpNoDelay(True)
                self.socket.setTcpKeepAlive(True)
        self._owner.opened(self)

    def connectionLost(self, reason: Failure | None = None) -> None:
        """Fail what was asked, and be forgotten."""
        super().connectionLost(reason)
        self._owner.closed(self)

    def violated(self, error: ProtocolError) -> None:
        """Leave counting and logging to the transport."""
        self._owner.violated(self, error)

    @property
    def socket(self) -> Any:
        """Return the transport that has the socket."""
        return self.transport

    @property
    def host(self) -> str:
        """Return where the other end is; its port only if it listens there."""
        peer = self.transport.getPeer()
        host = str(getattr(peer, "host", "a UNIX socket"))
        port = "" if self.is_accepted else getattr(peer, "port", "")
        return f"{host}:{port}" if port else host

    @property
    def origin(self) -> str:
        """Return who is at the other end, as well as it is known."""
        if self.peer is not None:
            return f"server {self.peer!r}"
        return f"the peer at {self.transport.getPeer()}"

    @property
    def is_full(self) -> bool:
        """Say whether too much waits to be sent already."""
        return self.unsent > self._max_bytes

    def takes(self, message: Message) -> bool:
        """
        Say whether *message* can be sent now.

        Chunks of snapshots may fill a half of what may wait, so that there is
        room for the heartbeats of a leader that sends them.
        """
        is_bulk = type(message) is InstallSnapshot
        limit = self._max_bytes // 2 if is_bulk else self._max_bytes
        return self.unsent <= limit and self.is_open

    # Messages.

    def part_received(self) -> None:
        """Refuse messages of somebody who has not said who it is."""
        if self.peer is None:
            raise ProtocolError("a message came before Hello")

    def message_received(self, data: bytes) -> None:
        """Keep a message to hand over; a peer speaks for itself only."""
        message: Message = decode(data)
        if message.sender != self.peer:
            text = f"{self.peer!r} sent a message in the name of {message.sender!r}"
            raise ProtocolError(text)
        self._messages.append(message)

    def messages_end(self) -> None:
        """Hand the messages over that came together."""
        messages, self._messages = self._messages, []
        if messages and self._owner.inbox is not None:
            self._owner.inbox.deliver(*messages)

    # Introductions.

    def vouch(self, server: ServerId) -> None:  # noqa: ARG002 - TLS looks at it
        """
        See that the other end may say that it is *server*.

        Without TLS anybody may, or who knows the secret if there is one.

        Raises:
            ProtocolError: It may not.
        """
        self.entrance.vouch()

    async def greet(self, to: ServerId) -> None:
        """
        Introduce this server, and see who the other end says it is.

        Messages are accepted from then on if it is *to*, and welcome.

        Raises:
            RaftError: The other end refuses, or does not answer in time.
            ProtocolError: Likewise; or the answer is none, of another server,
                or of one that is not welcome.
        """
        own, inbox = self._owner.identity, self._owner.inbox
        if own is None or inbox is None:
            raise ProtocolError("a transport that does not listen has no identity")
        self.vouch(to)
        patience = self._owner.options.connect_timeout
        try:
            box = await self.ask(b"Hello", introduction_pairs(own, to), patience)
        except ProtocolError as error:
            inbox.refused(to, error)
            raise
        version = read_integer(box, b"version")
        other = read_identity(box)
        if not MIN_VERSION <= version <= MAX_VERSION:
            raise ProtocolError(versions_differ(other.server, version, version))
        if other.server != to:
            message = (
                f"the server there is {other.server!r}, not {to!r}: correct the"
                f" address of {to!r} under members, or start the right server"
            )
            raise ProtocolError(message)
        inbox.welcome(other)
        self.peer, self.identity = to, other

    def command_received(self, command: bytes, tag: bytes | None, box: Box) -> None:
        """Answer a command; one that wants no answer is none of ours."""
        if tag is None:
            message = f"the command {command!r} came without _ask"
            raise ProtocolError(message)
        if not self.is_accepted:
            raise ProtocolError("a server sent a command to its caller")
        if self.is_full:
            raise ProtocolError("the other end does not take its answers")
        match command:
            case b"Call":
                self._take_call(tag, box)
            case b"Ping":
                self.answer(tag, ())
            case b"Hello":
                self._take_hello(tag, box)
            case _ if command in COMMANDS:
                self._let_in(command, tag, box)
            case _:
                message = (
                    f"this release knows no command {command[:100]!r}; it speaks"
                    f" versions {MIN_VERSION} to {MAX_VERSION} of the protocol"
                )
                self.refuse(tag, ProtocolError(message))
        self.is_proven = self.entrance.is_open

    def _let_in(self, command: bytes, tag: bytes, box: Box) -> None:
        """See who the other end is; those who are wrong are told so."""
        looking = self.entrance.take(command, box, self.host)
        looking.addCallback(self._was_let_in, tag)
        looking.addErrback(self._was_refused, tag)

    def _was_let_in(self, pairs: Iterable[tuple[bytes, bytes]], tag: bytes) -> None:
        self.opened()
        if self._may_reply():
            self.answer(tag, pairs)

    def _was_refused(self, failure: Failure, tag: bytes) -> None:
        error = failure.value
        if not isinstance(error, RaftError):
            _log.failure("a login failed for a reason that is a bug", failure)
            error = AuthenticationError("the server failed; its log says why")
        self._reply_refusing(tag, error)

    def opened(self) -> None:
        """Take what clients send, if it is known by now who calls."""
        self.is_proven = self.entrance.is_open
        if self.is_proven:
            self._max_box_bytes = self._owner.options.max_message_bytes

    def _take_hello(self, tag: bytes, box: Box) -> None:
        own = self._owner.identity
        if own is None or self.peer is not None:
            raise ProtocolError("a second Hello on one connection")
        introduction = Introduction(
            read_integer(box, b"min_version"),
            read_integer(box, b"max_version"),
            read_identity(box),
            read_text(box, b"to"),
        )
        try:
            self._owner.welcome(self, introduction)
        except ProtocolError as error:
            self.refuse(tag, error)
            self.finish()
            return
        self.identity = introduction.identity
        self.peer = self.identity.server
        version = min(MAX_VERSION, introduction.max_version)
        self.answer(tag, ((b"version", b"%d" % version), *identity_items(own)))

    # Clients' calls.

    def call(self, method: str, payload: bytes, timeout: float) -> Deferred[bytes]:
        """
        Call *method* of the server at the other end.

        The Deferred fails as that of :meth:`BoxProtocol.ask`.

        Raises:
            InvalidCommandError: *payload* is larger than a box may be.
            OverloadedError: Too many calls wait for an answer already.
            UnreachableError: Too much waits to be sent already.
        """
        if len(payload) > self._max_payload:
            message = f"{len(payload)} bytes are more than max_message_bytes allows"
            raise InvalidCommandError(message)
        if self.asked >= self._max_calls:
            raise OverloadedError("too many calls wait for this server's answer")
        if self.is_full:
            raise UnreachableError("the server does not take what is sent to it")
        body = _head(method) + encode_payload(payload)
        return self.ask_encoded(body, timeout, read_payload)

    def _take_call(self, tag: bytes, box: Box) -> None:
        version = read_integer(box, b"version")
        method = read_text(box, b"method")
        payload = read_payload(box)
        if not MIN_VERSION <= version <= MAX_VERSION:
            error = ProtocolError(versions_differ("the caller", version, version))
            self.refuse(tag, error)
            return
        if version == MAX_VERSION and len(method) <= _MAX_METHOD:
            # The next call is most likely of the same method.
            self.expected, self._method = _head(method) + PAYLOAD_KEY, method
        self._do_call(tag, method, payload)

    def payload_received(self, tag: bytes, payload: bytes) -> None:
        """Answer a call that begins as the last one did."""
        if self.is_full:
            raise ProtocolError("the other end does not take its answers")
        self._do_call(tag, self._method, payload)

    def _do_call(self, tag: bytes, method: str, payload: bytes) -> None:
        inbox = self._owner.inbox
        if inbox is None:
            self.refuse(tag, ProtocolError("this server listens no more"))
            return
        size = len(payload)
        if self._calls >= self._max_calls or self._call_bytes > self._max_bytes:
            self.refuse(tag, OverloadedError("too many calls of this connection"))
            return
        self._calls += 1
        self._call_bytes += size
        if self._is_guarded:
            answer = self.entrance.answer(method, payload)
        else:
            answer = inbox.answer(method, payload)
        answer.addCallbacks(
            self._called,
            self._call_failed,
            callbackArgs=(tag, size),
            errbackArgs=(tag, size),
        )

    def _called(self, payload: bytes, tag: bytes, size: int) -> None:
        self._calls -= 1
        self._call_bytes -= size
        if len(payload) > self._max_payload:
            message = f"an answer of {len(payload)} bytes is more than a box may hold"
            self._reply_refusing(tag, ProtocolError(message))
        elif self._may_reply():
            self.answer_bytes(tag, payload)

    def _call_failed(self, failure: Failure, tag: bytes, size: int) -> None:
        self._calls -= 1
        self._call_bytes -= size
        error = failure.value
        if not isinstance(error, RaftError):
            _log.failure("a call failed for a reason that is a bug", failure)
            error = OutcomeUnknownError("the server failed; its log says why")
        self._reply_refusing(tag, error)

    def _reply_refusing(self, tag: bytes, error: RaftError) -> None:
        if self._may_reply():
            self.refuse(tag, error)

    def _may_reply(self) -> bool:
        """Say whether an answer can be sent; drop who does not take them."""
        if self.unsent > self._max_bytes:
            self.drop()
        return not (self.is_lost or self._is_dropped)


@lru_cache(maxsize=32)
def _head(method: str) -> bytes:
    """Return how a call of *method* begins."""
    return encode_pairs(
        (
            (b"_command", b"Call"),
            (b"version", b"%d" % MAX_VERSION),
            (b"method", method.encode()),
        )
    )
