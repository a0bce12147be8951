"""State machines that are told the time, under faults."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from twisted.internet.defer import Deferred

from consensus.errors import NotYetError, RaftError
from consensus.testing.faults import draw_plan, play
from consensus.testing.simulator import SimulatedCluster
from tests.support.alarms import Alarms

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from consensus.client import Client

_SECONDS = 10.0
_DRIFT = 0.02


class _Owner:
    """
    Sets alarms, and waits for each to ring.

    Args:
        cluster: Where.
        name: Its own.
    """

    def __init__(self, cluster: SimulatedCluster, name: str) -> None:
        self.cluster = cluster
        self.name = name
        #: When each alarm was asked for, by name, and after how many ms.
        self.asked: dict[str, tuple[float, int]] = {}
        #: Those that it knows to be set.
        self.acknowledged: set[str] = set()
        #: All that rang, in order, and by when it heard of it.
        self.heard: list[tuple[str, float]] = []
        self.is_over = self.is_deaf = False

    async def set_alarms(self) -> None:
        """Set one after the other."""
        client = self.cluster.make_client(f"{self.name} sets", 3.0)
        session, machine = client.session(), self.cluster.machine_for_clients
        dice = self.cluster.dice(self.name)
        while not self.is_over:
            name, after = f"{self.name}-{len(self.asked)}", dice.randrange(1000)
            self.asked[name] = (self.cluster.now, after)
            try:
                await session.write(machine.encode(["in", after, name]))
            except RaftError:
                pass
            else:
                self.acknowledged.add(name)
            await client.pause(dice.random() * 0.5)

    async def listen(self) -> None:
        """Wait at any server for what has not been heard."""
        client = self.cluster.make_client(f"{self.name} listens", 3.0)
        while not self.is_deaf:
            await self.hear(client)

    async def hear(self, client: Client) -> None:
        """Wait once."""
        machine = self.cluster.machine_for_clients
        query = machine.encode(["rung", len(self.heard)])
        try:
            answer = await client.read(query, consistency="stale", wait=2.0)
        except NotYetError:
            return
        except RaftError:
            await client.pause(0.1)
            return
        now = self.cluster.now
        self.heard += [(name, now) for name in machine.decode_result(answer)]


def _begin(owner: _Owner) -> None:
    def failed(failure: Failure) -> None:
        assert isinstance(failure.value, Exception)
        owner.cluster.broke(failure.value)

    for work in (owner.set_alarms(), owner.listen()):
        Deferred.fromCoroutine(work).addErrback(failed)


class AlarmsTests:
    """Alarms ring once, in order, and never early, whatever happens."""

    @pytest.mark.raft_seeds(20)
    def test_what_was_set_rings(self, raft_seed: int) -> None:
        """And whoever waits hears all of it, wherever they ask."""
        cluster = SimulatedCluster(Alarms, 3, seed=raft_seed, drift=_DRIFT)
        owners = [_Owner(cluster, name) for name in ("ann", "bob")]
        for owner in owners:
            _begin(owner)
        dice = Random(f"{raft_seed}/faults")  # noqa: S311 - reproducible, not secret
        play(cluster, draw_plan(dice, ["s1", "s2", "s3"], _SECONDS, every=1.0))
        cluster.run(_SECONDS)
        cluster.check()
        self.expect(cluster, owners)

    def expect(self, cluster: SimulatedCluster, owners: list[_Owner]) -> None:
        """See what became of the alarms, some time after the last fault."""
        asked: dict[str, Any] = {}
        acknowledged: set[str] = set()
        for owner in owners:
            asked |= owner.asked
            acknowledged |= owner.acknowledged
            owner.is_over = True
        assert acknowledged
        cluster.run(5.0)
        for owner in owners:
            owner.is_deaf = True
        for owner in owners:
            names = [name for name, _ in owner.heard]
            assert len(names) == len(set(names)), "one rang twice"
            assert acknowledged <= set(names), "one never rang"
            for name, at in owner.heard:
                began, after = asked[name]
                # The part of a millisecond is cut off, and leaders' clocks drift.
                least = (after - 1) / 1000 * (1 - _DRIFT)
                assert at - began > least, f"{name} rang early"
        first, second = ([name for name, _ in owner.heard] for owner in owners)
        assert first == second
