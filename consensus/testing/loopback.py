"""A reactor whose TCP connections never leave the process, in virtual time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.address import IPv4Address
from twisted.internet.error import CannotListenError
from twisted.internet.error import ConnectionRefusedError as NobodyListensError
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.test import iosim

if TYPE_CHECKING:
    from collections.abc import Callable


class LoopbackReactor(MemoryReactorClock):
    """
    A reactor on which TCP connections of this process meet, in virtual time.

    Nothing moves but in :meth:`settle`.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._listening: dict[int, Any] = {}
        self._pumps: list[tuple[int, Any]] = []
        self._silent: set[int] = set()
        self._next_port = 40_000

    def listenTCP(
        self, port: int, factory: Any, backlog: int = 50, interface: str = ""
    ) -> Any:
        """Listen on *port*, or a free one for 0."""
        if not port:
            self._next_port += 1
            port = self._next_port
        if port in self._listening:
            raise CannotListenError(interface, port, OSError("address in use"))
        listening: Any = super().listenTCP(port, factory, backlog, interface)  # type: ignore[no-untyped-call]
        listening.stopListening = lambda: self._listening.pop(port, None)
        self._listening[port] = factory
        return listening

    def callFromThread(
        self, function: Callable[..., object], *args: object, **kwargs: object
    ) -> None:
        """Call *function* on the next turn."""
        self.callLater(0, function, *args, **kwargs)

    def silence(self, port: int) -> None:
        """Let nothing pass on connections to *port*, and none be made."""
        self._silent.add(port)

    def restore(self, port: int) -> None:
        """Undo :meth:`silence`."""
        self._silent.discard(port)

    def settle(self, seconds: float = 0.0) -> None:
        """Let *seconds* pass, and all happen that is then under way."""
        self._drain()
        while seconds > 0.0:
            step = min(seconds, 0.05)
            self.advance(step)
            seconds -= step
            self._drain()

    def _drain(self) -> None:
        is_moving = True
        while is_moving:
            self.advance(0)
            is_moving = self._join_clients()
            for pump in [
                pump for port, pump in self._pumps if port not in self._silent
            ]:
                is_moving |= bool(pump.pump(advanceClock=False))
            self._pumps = [
                (port, pump)
                for port, pump in self._pumps
                if not (pump.clientIO.disconnected and pump.serverIO.disconnected)
            ]

    def _join_clients(self) -> bool:
        """Connect or refuse who wants to connect; say if there was anybody."""
        clients = list(zip(self.tcpClients, self.connectors, strict=True))
        self.tcpClients.clear()
        self.connectors.clear()
        for client, connector in clients:
            port, factory = client[1], client[2]
            if connector.stoppedConnecting:
                continue
            if port in self._silent:
                self.tcpClients.append(client)
                self.connectors.append(connector)
            elif not self._join(port, factory, connector):
                reason = Failure(NobodyListensError())
                factory.clientConnectionFailed(connector, reason)
        return len(self.tcpClients) < len(clients)

    def _join(self, port: int, factory: Any, connector: Any) -> bool:
        listening = self._listening.get(port)
        if listening is None:
            return False
        served = listening.buildProtocol(connector.getDestination())
        client = factory.buildProtocol(connector.getDestination())
        self._next_port += 1
        where = IPv4Address("TCP", "127.0.0.1", port)
        whence = IPv4Address("TCP", "127.0.0.1", self._next_port)
        client_io = iosim.FakeTransport(client, False, whence, where)  # noqa: FBT003 - Twisted's signature
        if served is None:
            # A listening end without room closes the connection at once.
            client.makeConnection(client_io)
            client.connectionLost(Failure(client_io.disconnectReason))
            return True
        served_io = iosim.FakeTransport(served, True, where, whence)  # noqa: FBT003 - Twisted's signature
        pump = iosim.connect(served, served_io, client, client_io, greet=False)
        self._pumps.append((port, pump))
        return True
