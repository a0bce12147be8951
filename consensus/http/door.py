"""
Who may be connected, and for how long without a whole request.

A connection has so many seconds to send each request, however it is cut, and
to take the answer: one timer a connection, on the clock that no change of the
wall clock disturbs.  Twisted's own timeout begins anew with every byte.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory

if TYPE_CHECKING:
    from twisted.internet.interfaces import IAddress, ITransport
    from twisted.python.failure import Failure
    from twisted.web.server import Site

_log = Logger()

#: So many connections at once.
MAX_CONNECTIONS = 200

#: Seconds for a request to be whole.
PATIENCE = 20.0


class Visit(ProtocolWrapper):
    """One connection; it is cut when a request takes too long to come."""

    factory: Any
    transport: Any
    _timer: Any = None

    def makeConnection(self, transport: ITransport) -> None:
        """Begin to count."""
        self.wait()
        super().makeConnection(transport)  # type: ignore[no-untyped-call]

    def wait(self) -> None:
        """Expect a whole request from now on."""
        self.stop_waiting()
        self._timer = self.factory.clock.callLater(PATIENCE, self._cut)

    def stop_waiting(self) -> None:
        """Take all the time that the answer needs."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _cut(self) -> None:
        self._timer = None
        self.transport.abortConnection()

    def dataReceived(self, data: bytes) -> None:
        """Take *data*, unless rubbish has come: what follows that means nothing."""
        if not self.disconnecting:
            super().dataReceived(data)  # type: ignore[no-untyped-call]

    def connectionLost(self, reason: Failure | None = None) -> None:
        """Count no more."""
        self.stop_waiting()
        super().connectionLost(reason)  # type: ignore[no-untyped-call]


class Door(WrappingFactory):
    """
    Lets so many connections in, and no more.

    Args:
        site: What they talk to.
        clock: By which they time out.
        name: The server's, for the log.
    """

    noisy = False
    protocol = Visit

    def __init__(self, site: Site, clock: Any, name: str) -> None:
        super().__init__(site)  # type: ignore[no-untyped-call]
        self.clock = clock
        self._name = name
        self._has_warned = False

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Return the protocol of a new connection, if there is room for it."""
        if len(self.protocols) < MAX_CONNECTIONS:
            return super().buildProtocol(addr)
        if not self._has_warned:
            self._has_warned = True
            _log.warn(
                "{server} has {limit} HTTP connections; more are closed at once",
                server=self._name,
                limit=MAX_CONNECTIONS,
            )
        return None

    def close(self) -> None:
        """Cut every connection."""
        for visit in list(self.protocols):
            visit.transport.abortConnection()
