"""The conformance suite of transports, over real sockets and in real time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet import reactor
from twisted.internet.task import deferLater

from adapters.transport.amp import AMPTransport
from consensus.testing.transport import TransportSuite
from tests.support.processes import free_ports

if TYPE_CHECKING:
    from consensus.core.values import Address, ServerId


class RealTimeSuite(TransportSuite):
    """The suite of the AMP transport with the reactor of the process."""

    #: That of trial's ``TestCase``, with which this is mixed.
    addCleanup: Any  # noqa: N815 - the name is trial's

    def make_transport(self) -> AMPTransport:
        """Return another transport."""
        transport = AMPTransport(None, reactor, reactor)
        self.addCleanup(transport.close)
        return transport

    async def settle(self, seconds: float = 0.0) -> None:
        """Let time pass."""
        clock: Any = reactor
        await deferLater(clock, max(seconds, 0.01))


class TCPSuite(RealTimeSuite):
    """The suite over loopback TCP."""

    def setUp(self) -> None:
        """Begin with no addresses."""
        self.addresses: dict[ServerId, Address] = {}

    def address(self, name: ServerId) -> Address:
        """Return the address of *name*, on a port of its own."""
        if name not in self.addresses:
            self.addresses[name] = f"tcp:127.0.0.1:{free_ports(1)[0]}"
        return self.addresses[name]
