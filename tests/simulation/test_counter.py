"""
The counters under faults: partitions, crashes, changes of the leader, full disks.

What has to hold of them: what clients are answered is what one machine would
have answered; each amount of a session is added once; no id is given twice; and
no more is allowed than the rate.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from twisted.internet.defer import Deferred

from consensus.errors import RaftError, RejectedError
from consensus.interfaces import Tick
from consensus.testing.determinism import commands_in
from consensus.testing.history import Read, Write
from consensus.testing.logged import taken
from consensus.testing.simulation import Scenario
from consensus.testing.simulation import check as check_scenario
from contrib.counter import (
    Add,
    Allow,
    Bound,
    Compare,
    CounterClient,
    Counters,
    Get,
    OutOfBoundsError,
    Reserve,
    Reset,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Hashable, Iterable
    from random import Random

    from consensus.testing.plugin import MakeCluster
    from consensus.testing.simulator import SimulatedCluster
    from contrib.counter import Ids

SNAPSHOTS = {"snapshots": {"every_entries": 40, "keep_entries": 5}}
SECONDS = 20.0
LIMIT, PERIOD, BURST = 5, 1000, 3


def call(dice: Random) -> Write | Read:
    """Return a call about one of two counters, or a sequence."""
    name = dice.choice("ab")
    calls: list[Write | Read] = [
        Write(Add(name, dice.randrange(-3, 5))),
        Write(Add(name)),
        Write(Compare(name, dice.randrange(5), dice.randrange(5))),
        Write(Reset(name, dice.randrange(3))),
        Write(Bound(name, dice.choice([None, -5]), dice.choice([None, 9]))),
        Write(Reserve("ids", dice.randrange(1, 4))),
        Read(Get(name)),
        Read(Get(name)),
    ]
    return dice.choice(calls)


def part_of(body: Any) -> Hashable:
    """Return which counter or sequence *body* is about."""
    name: str = body.name
    return name


class LinearizableTests:
    """What clients are answered is what one machine would have answered."""

    @pytest.mark.parametrize("sessions", [False, True])
    @pytest.mark.parametrize("seed", range(4))
    def test_answers(self, seed: int, *, sessions: bool) -> None:
        scenario = Scenario(
            Counters,
            call,
            seconds=6.0,
            config=SNAPSHOTS,
            partition=part_of,
            client={"sessions": sessions},
        )
        check_scenario(scenario, seed)


class Traffic:
    """
    Clients that count, take ids and ask for leave, and what they were told.

    Args:
        cluster: Whose counters.
    """

    def __init__(self, cluster: SimulatedCluster) -> None:
        self.cluster = cluster
        self.dice = cluster.dice("traffic")
        self.is_over = False
        #: What was added for sure, and what may have been.
        self.added = 0
        self.unsure: list[int] = []
        self.values: list[int] = []
        self.sold = self.sold_out = self.unsure_sales = 0
        self.given: list[int] = []
        self.allowed = self.refused = 0
        self.work: list[Deferred[None]] = []
        for number in range(3):
            client = CounterClient(cluster.make_client(f"c{number}", timeout=2.0))
            for what in (self.count, self.sell, self.ask):
                self.begin(client, what)
            ids = client.ids("s", block=4)
            self.work.append(Deferred.fromCoroutine(self.take(client, ids)))

    def begin(
        self,
        client: CounterClient,
        what: Callable[[CounterClient], Coroutine[Any, Any, None]],
    ) -> None:
        """Let a client do something again and again."""
        self.work.append(Deferred.fromCoroutine(self.repeat(client, what)))

    async def repeat(
        self,
        client: CounterClient,
        what: Callable[[CounterClient], Coroutine[Any, Any, None]],
    ) -> None:
        """Do *what* until all is over."""
        while not self.is_over:
            await what(client)
            await client.cluster.pause(self.dice.uniform(0.0, 0.3))

    async def count(self, client: CounterClient) -> None:
        """Add something."""
        amount = self.dice.randrange(1, 10)
        try:
            self.values.append(await client.add("n", amount))
            self.added += amount
        except RejectedError:
            pass
        except RaftError:
            self.unsure.append(amount)

    async def sell(self, client: CounterClient) -> None:
        """Take one of a hundred, and never one more."""
        try:
            left = await client.add("stock", -1)
            assert left >= 0
            self.sold += 1
        except OutOfBoundsError:
            self.sold_out += 1
        except RejectedError:
            pass
        except RaftError:
            self.unsure_sales += 1

    async def ask(self, client: CounterClient) -> None:
        """Ask for leave."""
        with suppress(RaftError):
            answer = await client.allow(
                "r", limit=LIMIT, period=PERIOD / 1000, burst=BURST
            )
            self.allowed += answer.is_allowed
            self.refused += not answer.is_allowed

    async def take(self, client: CounterClient, ids: Ids) -> None:
        """Take ids."""
        mine: list[int] = []
        while not self.is_over:
            with suppress(RaftError):
                mine.append(await ids.next())
            await client.cluster.pause(self.dice.uniform(0.0, 0.2))
        assert mine == sorted(mine), "ids of one block after another rise"
        self.given += mine

    def stop(self) -> None:
        """Let all end what they do."""
        self.is_over = True
        for work in self.work:
            self.cluster.result(work, 60.0)


def allowed_in(commands: Iterable[Any]) -> list[int]:
    """Return when, in the log's time, something was allowed."""
    machine = Counters()
    state = machine.init("replay")
    times: list[int] = []
    for logged in commands:
        command = taken(machine, logged)
        try:
            result, state = machine.handle_write(command, state)
        except OutOfBoundsError:
            continue
        if isinstance(command, Allow) and result.is_allowed:
            times.append(state.time)
    return times


def check_rate(times: list[int]) -> None:
    """See that in no stretch of time more was allowed than the rate has room for."""
    for place, begin in enumerate(times):
        for count, end in enumerate(times[place:], 1):
            assert (count - BURST) * PERIOD <= (end - begin) * LIMIT, "too many"


class CounterTests:
    """Nothing is counted twice, nothing is lost, and no id is given twice."""

    @pytest.mark.raft_seeds(6)
    def test_promises_are_kept(self, raft_cluster: MakeCluster) -> None:
        """Whatever happens to servers and networks."""
        cluster = raft_cluster(Counters, 3, config=SNAPSHOTS)
        cluster.write(Reset("stock", 100))
        cluster.write(Bound("stock", 0))
        traffic = Traffic(cluster)
        cluster.disturb(SECONDS, every=1.5)
        cluster.run(SECONDS + 0.001)
        cluster.check()
        traffic.stop()
        cluster.check()
        value = cluster.read(Get("n"))
        assert traffic.added <= value <= traffic.added + sum(traffic.unsure)
        assert traffic.unsure or value == traffic.added
        # Each amount is at least one, so that no two come to the same.
        assert len(set(traffic.values)) == len(traffic.values)
        left = cluster.read(Get("stock"))
        assert 0 <= left <= 100 - traffic.sold
        assert left >= 100 - traffic.sold - traffic.unsure_sales
        assert len(set(traffic.given)) == len(traffic.given), "an id was given twice"
        times = allowed_in(
            commands_in(entry for entry, _ in cluster.invariants.committed)
        )
        check_rate(times)
        # Enough happened for this to say something.
        assert len(times) >= traffic.allowed > 20
        assert traffic.refused > 5
        assert traffic.sold_out
        assert len(traffic.given) > 100

    def test_too_many_are_found(self) -> None:
        check_rate([0, 0, 0, 200, 400, 5000, 5000, 5000])
        with pytest.raises(AssertionError, match="too many"):
            check_rate([0, 0, 0, 199])

    def test_what_the_log_says(self) -> None:
        """The times of those that were allowed, and of no others."""
        machine = Counters()
        asked = machine.encode(Allow("r", 1, 10))
        assert allowed_in([asked, asked, Tick(10), asked]) == [0, 10]
