"""A simulated cluster of an application, and clients on hosts of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred

from consensus.testing.simulator import SimulatedCluster

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from random import Random

    from consensus.client import Client
    from consensus.interfaces import StateMachine
    from consensus.testing.sim_time import Host


class SimulatedWorld:
    """
    A cluster in virtual time, of one server unless more are needed.

    Args:
        machine: What it runs.
        servers: How many.
    """

    def __init__(self, machine: type[StateMachine], servers: int = 1) -> None:
        self.cluster = SimulatedCluster(machine, servers, seed=1)
        self.cluster.leader()

    def cluster_client(self, name: str) -> Client:
        """Return a client of the cluster on a host called *name*."""
        return self.cluster.make_client(name, timeout=2.0)

    def done(self, call: Deferred[Any] | Coroutine[Any, Any, Any]) -> Any:
        """Return what *call* gives, however long it takes."""
        if not isinstance(call, Deferred):
            call = Deferred.fromCoroutine(call)
        return self.cluster.result(call)

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.cluster.run(seconds)

    def cut_off(self, name: str) -> None:
        """Let the client called *name* reach nobody."""
        for server in self.cluster.names:
            self.cluster.cut(name, server)
            self.cluster.cut(server, name)

    def state(self) -> Any:
        """Return the leader's state."""
        applier = self.cluster.leader().applier
        assert applier is not None
        return applier.state


class ClientTrouble:
    """
    Processes of clients that stand still or are cut off, now and then.

    Args:
        cluster: Whose clients.
        dice: What chance goes by.
    """

    def __init__(self, cluster: SimulatedCluster, dice: Random) -> None:
        self._cluster = cluster
        self._dice = dice
        self._hosts: list[Host] = []
        #: Set by who has had enough of it.
        self.is_over = False

    def add(self, host: Host) -> None:
        """Let *host*, whose clock is fast or slow, have trouble too."""
        host.set_rate(1.0 + self._dice.uniform(-0.02, 0.02))
        self._hosts.append(host)

    def begin(self) -> None:
        """Begin; it goes on by itself."""
        if self.is_over:
            return
        time, dice = self._cluster.time, self._dice
        host, end = dice.choice(self._hosts), time.now + dice.uniform(0.1, 4.0)
        if dice.random() < 0.5:
            host.pause()
            time.at(end, host.resume)
        else:
            self._cut_off(host, end)
        time.at(time.now + dice.uniform(0.2, 1.5), self.begin)

    def _cut_off(self, host: Host, end: float) -> None:
        network, time = self._cluster.network, self._cluster.time
        for server in self._cluster.names:
            for link in ((host.name, server), (server, host.name)):
                network.cut(*link)
                time.at(end, network.join, *link)
