"""An application on a server in virtual time, and its clients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred

from adapters.transport.memory import MemoryOptions, MemoryTransport
from consensus.client import Client
from tests.support.servers import Servers

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from consensus.interfaces import StateMachine


class Application:
    """
    A server that runs *machine*.

    Args:
        machine: Which.
    """

    def __init__(self, machine: type[StateMachine]) -> None:
        self.cluster = Servers(("s1",), machine=machine)
        self.cluster.leader()

    def client(self) -> Client:
        """Return another client of the server."""
        network = self.cluster.mapping["transport"]["options"]["network"]
        reactor: Any = self.cluster.reactor
        transport = MemoryTransport(MemoryOptions(network=network), reactor, reactor)
        return Client({"s1": "s1"}, transport, reactor, timeout=2.0)

    def do(self, call: Deferred[Any] | Coroutine[Any, Any, Any]) -> Any:
        """Let time pass until *call* has come to something; return or raise it."""
        if not isinstance(call, Deferred):
            call = Deferred.fromCoroutine(call)
        return self.cluster.result(call)

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.cluster.run(seconds)
