"""
The port for Redis' clients: a companion of the key-value store's servers.

See ``docs/reference/redis-commands.md``.
"""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, inlineCallbacks, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger

from consensus.addresses import AddressError, is_private, parse
from consensus.errors import UnreachableError
from consensus.tls_contexts import Contexts, Encrypting
from contrib.kvstore.resp.connection import Connection
from contrib.kvstore.resp.keys import Cursors
from contrib.kvstore.resp.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from twisted.internet.interfaces import IAddress

    from consensus.core.values import Address
    from consensus.interfaces import HomeServer
    from contrib.kvstore.resp.options import RespOptions

_log = Logger()

# How often connections are looked at.
_SWEEP = 1.0

# So long has a client to say the password, and to take what it was told last.
_STRANGER = 10.0
_PARTING = 1.0

_TAG_BITS = 31

_MILLISECONDS = 1000


def _now() -> int:
    return time.time_ns() // 1_000_000


class Port(Service):
    """
    Where Redis' clients are listened to.

    Args:
        home: The server beside it.
        options: What the YAML file says.
        address: Where to listen.
        date: Returns the milliseconds since 1970.
    """

    def __init__(
        self,
        home: HomeServer,
        options: RespOptions,
        address: Address,
        date: Callable[[], int] = _now,
    ) -> None:
        self.home = home
        self.options = options
        self.address = address
        #: Returns the milliseconds since 1970.
        self.date = date
        #: The longest word of a command, and the most of a batch.
        self.max_command = home.max_command_bytes
        #: The most that the words of a command, or of a transaction, may take.
        self.max_request = 4 * home.max_command_bytes
        #: Where scans go on.
        self.cursors = Cursors(secrets.randbits(_TAG_BITS) | 1)
        self.started_at = home.clock.seconds()
        #: How many connections came, how many of them had no room, and how
        #: many commands.
        self.accepted = self.rejected = self.commands = 0
        self._connections: dict[Connection, None] = {}
        self._listening: Any = None
        self._sweeping: Any = None
        self._is_empty: Deferred[None] | None = None
        self._has_warned = False

    # --- life ---------------------------------------------------------------------

    def startService(self) -> Deferred[None]:
        """
        Begin to listen.

        The Deferred fails with:
            UnreachableError: It is not possible, or not safe.
        """
        super().startService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._listen())

    async def _listen(self) -> None:
        options, tls = self.options, self.home.tls
        if options.resp_tls and tls is None:
            raise UnreachableError("resp_tls wants a tls: section in the config")
        if options.resp_password and self.home.gate is not None:
            raise UnreachableError(
                "with access: in the config, leave resp_password out"
            )
        is_open = not is_private(self.address)
        if is_open and not (options.resp_insecure or options.resp_tls):
            message = (
                f"{self.address!r} can be reached from other machines: write"
                " resp_tls: true, or resp_insecure: true, if Redis' clients shall come"
                " from there"
            )
            raise UnreachableError(message)
        try:
            endpoint = parse(self.address).server(self.home.reactor)
            self._listening = await endpoint.listen(self._factory())
        except (AddressError, CannotListenError, OSError) as error:
            message = f"cannot listen for Redis' clients on {self.address!r}: {error}"
            raise UnreachableError(message) from error
        self._sweep()
        _log.info(
            "{server} listens for Redis' clients on {address}",
            server=self.home.name,
            address=self.address,
        )

    def _factory(self) -> Any:
        """Return what makes connections, encrypted if the options ask for it."""
        plain, tls = _Factory(self), self.home.tls
        if not self.options.resp_tls or tls is None:
            return plain
        return Encrypting(Contexts(tls), plain, "a connection of a Redis client")

    @inlineCallbacks
    def stopService(self) -> Generator[Deferred[Any], Any, None]:
        """Listen no more, and close all connections."""
        super().stopService()  # type: ignore[no-untyped-call]
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        listening, self._listening = self._listening, None
        if listening is not None:
            yield maybeDeferred(listening.stopListening)
        for connection in list(self._connections):
            connection.finish()
        if self._connections:
            parting = self.home.clock.callLater(_PARTING, self._abort)
            self._is_empty = Deferred()
            yield self._is_empty
            if parting.active():
                parting.cancel()

    def _abort(self) -> None:
        for connection in list(self._connections):
            connection.abort()

    @property
    def number(self) -> int:
        """Return the TCP port that it listens on, 0 if it does not."""
        host = None if self._listening is None else self._listening.getHost()
        return int(getattr(host, "port", 0))

    # --- connections ----------------------------------------------------------------

    def accept(self, address: IAddress | None) -> Protocol:
        """Return the protocol of a new connection."""
        self.accepted += 1
        if len(self._connections) >= self.options.resp_max_connections:
            self.rejected += 1
            self._warn()
            return _Full()
        return Connection(self, Session(self, self.accepted, _text(address)))

    def _warn(self) -> None:
        if not self._has_warned:
            self._has_warned = True
            _log.warn(
                "more than {limit} Redis clients: raise resp_max_connections, or let"
                " them close their connections",
                limit=self.options.resp_max_connections,
            )

    def opened(self, connection: Connection) -> None:
        """Know *connection* from now on."""
        self._connections[connection] = None

    def closed(self, connection: Connection) -> None:
        """Forget *connection*."""
        self._connections.pop(connection, None)
        if self._is_empty is not None and not self._connections:
            done, self._is_empty = self._is_empty, None
            done.callback(None)

    def sessions(self) -> list[Session]:
        """Return what is known of each client."""
        return [connection.session for connection in self._connections]

    def _sweep(self) -> None:
        """Let go who says nothing, and who does not take what it is told."""
        self._sweeping = self.home.clock.callLater(_SWEEP, self._sweep)
        now = self.home.clock.seconds()
        timeout = self.options.resp_idle_timeout
        for connection in list(self._connections):
            session = connection.session
            if connection.closing_since is not None:
                if now - connection.closing_since > _PARTING:
                    connection.abort()
            elif (timeout and now - session.heard_at > timeout) or (
                not session.is_trusted and now - session.opened_at > _STRANGER
            ):
                connection.finish()

    # --- the store ------------------------------------------------------------------

    def read(self, query: Any, consistency: str | None = None) -> Deferred[Any]:
        """Answer *query*, as the options say if *consistency* does not."""
        chosen = consistency or self.options.resp_reads
        if chosen == "linearizable":
            return self.home.read(query)
        return self.home.read(query, consistency=chosen)


class _Factory(Factory):
    """Makes the protocols of new connections."""

    noisy = False

    def __init__(self, port: Port) -> None:
        self._port = port

    def logPrefix(self) -> str:
        """Return what Twisted calls this in its log."""
        return "Redis"

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        """Return a connection."""
        return self._port.accept(addr)


class _Full(Protocol):
    """A client for whom there is no room."""

    def connectionMade(self) -> None:
        """Tell it so."""
        transport: Any = self.transport
        transport.write(b"-ERR max number of clients reached\r\n")
        transport.loseConnection()


def _text(address: Any) -> str:
    host, number = getattr(address, "host", None), getattr(address, "port", None)
    return "?:0" if host is None else f"{host}:{number}"
