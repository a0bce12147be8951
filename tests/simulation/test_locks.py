"""
The locks under faults: partitions, crashes, changes of the leader, pauses.

What has to hold of them: in the log's time never more hold a lock than may;
tokens only rise; nobody who believes to hold a lock shares that belief; those
who wait come in the order in which they queued up; and what clients were
answered is what one machine would have answered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from consensus.applications.lease_commands import EndLease, OpenLease, RenewLease
from consensus.errors import RaftError, StorageError
from consensus.interfaces import Tick
from consensus.testing.history import Read, Write
from consensus.testing.simulation import Scenario
from consensus.testing.simulation import check as check_scenario
from contrib.locks import LocksClient, LocksMachine
from contrib.locks.commands import Acquire, Inspect, Release, Withdraw
from contrib.locks.state import LocksError
from tests.support.simulated import ClientTrouble

if TYPE_CHECKING:
    from random import Random

    from consensus.testing.plugin import MakeCluster
    from consensus.testing.simulator import SimulatedCluster
    from contrib.locks import HeldLock
    from contrib.locks.state import State

SNAPSHOTS = {"snapshots": {"every_entries": 30, "keep_entries": 5}}
SECONDS = 25.0


class Watched(LocksMachine):
    """The locks, whose grants and holders are looked at after each command."""

    def handle_write(self, command: Any, state: State) -> tuple[Any, State]:
        """Apply *command*, and see that all is as it has to be."""
        before = {name: list(lock.queue) for name, lock in state.locks.items()}
        last = state.last_token
        result, state = super().handle_write(command, state)
        try:
            look_at(state, before, last, command)
        except AssertionError as error:
            # Any other would be the result of the command; this one ends the run.
            raise StorageError(str(error)) from error
        return result, state


def look_at(
    state: State, before: dict[str, list[Any]], last: int, command: Any
) -> None:
    """See that *command* has left everything as it has to be."""
    assert state.last_token >= last, "a token went back"
    for name, lock in state.locks.items():
        check_lock(lock)
        granted = [
            (each.lease, each.number)
            for token, each in lock.holders.items()
            if token > last
        ]
        check_order(before.get(name, []), granted, list(lock.queue), command)


def check_lock(lock: Any) -> None:
    """See that no more hold *lock* than may."""
    modes = [each.mode for each in lock.holders.values()]
    if lock.permits:
        assert len(modes) <= lock.permits, "too many holders"
    else:
        assert "writer" not in modes or len(modes) == 1, "a writer is not alone"
    assert list(lock.holders) == sorted(lock.holders), "tokens out of order"


def check_order(
    before: list[Any], granted: list[Any], after: list[Any], command: Any
) -> None:
    """See that those were granted who had waited longest, of the living."""
    still = [key for key in before if key in granted or key in after]
    came = [key for key in granted if key in before]
    assert still[: len(came)] == came, "somebody was overtaken"
    new = [key for key in granted if key not in before]
    assert not new or isinstance(command, Acquire), "granted without being asked for"
    assert not (new and after), "who came last was granted first"


@dataclass
class Belief:
    """
    That somebody holds a lock.

    Args:
        lock: Which.
        mode: How.
    """

    lock: HeldLock
    mode: str


class Believers:
    """
    Clients that acquire and release, and what they believe.

    Args:
        cluster: Whose locks.
        count: How many they are.
        ttl: Of their leases.
    """

    def __init__(self, cluster: SimulatedCluster, count: int, ttl: float) -> None:
        self.cluster = cluster
        self.dice = cluster.dice("believers")
        self.beliefs: list[Belief] = []
        self.tokens: dict[str, int] = {}
        self.is_over = False
        self.granted = 0
        self.trouble = ClientTrouble(cluster, self.dice)
        self.work: list[Deferred[None]] = []
        for number in range(count):
            name = f"c{number}"
            client = cluster.make_client(name, timeout=2.0)
            host: Any = client.clock
            self.trouble.add(host)
            locks = LocksClient(client, ttl=ttl, owner=name)
            self.work.append(Deferred.fromCoroutine(self.use(locks, host)))
        self.trouble.begin()

    async def use(self, locks: LocksClient, host: Any) -> None:
        """Acquire and release, again and again."""
        while not self.is_over:
            await deferLater(host, self.dice.uniform(0.0, 0.3))
            mode = self.dice.choice(
                ["mutex", "reader", "reader", "writer", "semaphore"]
            )
            lock = (
                locks.semaphore("s", 2)
                if mode == "semaphore"
                else getattr(locks, mode)("m" if mode == "mutex" else "rw")
            )
            try:
                held = await lock.acquire(self.dice.choice([None, 0.5, 3.0]))
            except (RaftError, LocksError):
                continue
            belief = Belief(held, mode)
            self.beliefs.append(belief)
            self.granted += 1
            self.look()
            await deferLater(host, self.dice.uniform(0.0, 1.5))
            self.beliefs.remove(belief)
            await held.release()

    def look(self) -> None:
        """See that what they believe goes together."""
        for name in ("m", "rw", "s"):
            here = [each for each in self.beliefs if each.lock.name == name]
            here = [each for each in here if each.lock.is_held]
            modes = [each.mode for each in here]
            if name == "s":
                assert len(modes) <= 2, "three hold a semaphore of two"
            elif len(modes) > 1:
                assert set(modes) == {"reader"}, f"{modes} together"
        tokens = [each.lock.token for each in self.beliefs]
        assert len(set(tokens)) == len(tokens), "two with one token"

    def stop(self) -> None:
        """Let them end what they do."""
        self.is_over = self.trouble.is_over = True
        for work in self.work:
            self.cluster.result(work, 60.0)


class BelieverTests:
    """Who believes to hold a lock does, and nobody else."""

    @pytest.mark.raft_seeds(5)
    def test_no_two_believe_the_same(self, raft_cluster: MakeCluster) -> None:
        """Whatever happens to servers, networks, clocks and clients."""
        cluster = raft_cluster(Watched, 3, config=SNAPSHOTS, deterministic=False)
        believers = Believers(cluster, 4, ttl=2.0)
        cluster.disturb(SECONDS, every=1.5)
        end = cluster.now + SECONDS
        while cluster.now < end:
            cluster.run(0.02)
            believers.look()
        cluster.check()
        believers.stop()
        cluster.check()
        assert believers.granted > 5

    def test_a_belief_without_a_margin_is_found(
        self, raft_cluster: MakeCluster
    ) -> None:
        """These tests can fail: with a client that believes for too long."""
        cluster = raft_cluster(LocksMachine, 1, deterministic=False)
        ada, bob = (
            LocksClient(cluster.make_client(name), ttl=2.0, drift=drift)
            for name, drift in (("ada", -2.0), ("bob", 0.1))
        )
        one = cluster.result(ada.mutex("m").acquire())
        for server in cluster.names:
            cluster.cut("ada", server)
        two = cluster.result(bob.mutex("m").acquire())
        assert one.is_held
        assert two.is_held


class OrderTests:
    """What the machine is watched for can be found."""

    def test_an_overtaking(self) -> None:
        with pytest.raises(AssertionError, match="overtaken"):
            check_order([1, 2, 3], [2], [1, 3], Release("a", 1))
        with pytest.raises(AssertionError, match="last was granted first"):
            check_order([1], [2], [1], Acquire(1, 1, "a", "mutex"))
        with pytest.raises(AssertionError, match="without being asked"):
            check_order([], [2], [], Tick(1))
        check_order([1, 2, 3], [2], [3], EndLease(1))


def call(dice: Random) -> Write | Read:
    """Return a call of one of a few clients that share leases 1 to 3."""
    lease, ticket = dice.randint(1, 3), dice.randint(1, 5)
    calls: list[Write | Read] = [
        # For longer than the test: the judge knows nothing of time.
        Write(OpenLease(3_600_000)),
        Write(RenewLease(lease)),
        Write(Withdraw(lease, ticket)),
        Write(Release("a", ticket)),
        Read(Inspect("a")),
        Write(EndLease(dice.choice([lease, 9, 9]))),
        *[Write(Acquire(lease, ticket, "a", "mutex", 1, ticket != 3))] * 2,
    ]
    return dice.choice(calls)


class LinearizableTests:
    """What clients are answered is what one machine would have answered."""

    @pytest.mark.parametrize("seed", range(4))
    def test_answers(self, seed: int) -> None:
        scenario = Scenario(
            LocksMachine,
            call,
            seconds=6.0,
            config=SNAPSHOTS,
            client={"sessions": True},
        )
        check_scenario(scenario, seed)
