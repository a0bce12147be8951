"""
Elections and services under faults: partitions, crashes, pauses, slow clocks.

What has to hold of them: never two who believe to lead, nor two services that
run, but for processes that stand still; terms only rise; and what clients were
answered is what one machine would have answered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from twisted.application.service import Service

from consensus.applications.lease_commands import EndLease, OpenLease, RenewLease
from consensus.errors import StorageError
from consensus.testing.history import Read, Write
from consensus.testing.simulation import Scenario
from consensus.testing.simulation import check as check_scenario
from contrib.election import ElectionClient, ElectionMachine, LeaderService
from contrib.election.commands import Campaign, Discover, Observe, Register
from tests.support.simulated import ClientTrouble

if TYPE_CHECKING:
    from random import Random

    from consensus.testing.plugin import MakeCluster
    from consensus.testing.simulator import SimulatedCluster
    from contrib.election.state import State

SNAPSHOTS = {"snapshots": {"every_entries": 30, "keep_entries": 5}}
SECONDS = 30.0


class Watched(ElectionMachine):
    """Elections, whose terms and leaders are looked at after each command."""

    def handle_write(self, command: Any, state: State) -> tuple[Any, State]:
        """Apply *command*, and see that all is as it has to be."""
        before = {
            name: (each.leader, each.term, list(each.queue))
            for name, each in state.elections.items()
        }
        last = state.last_term
        result, state = super().handle_write(command, state)
        try:
            look_at(state, before, last)
        except AssertionError as error:
            # Any other would be the result of the command; this one ends the run.
            raise StorageError(str(error)) from error
        return result, state


def look_at(state: State, before: dict[str, Any], last: int) -> None:
    """See that leaders change in order, with terms that rise."""
    assert state.last_term >= last, "a term went back"
    for name, each in state.elections.items():
        leader, term, queue = before.get(name, (0, 0, []))
        if each.leader == leader:
            assert each.term == term, "the same leader in another term"
            continue
        assert each.term > last, "a new leader in an old term"
        assert leader not in each.queue, "who stands was deposed"
        still = [lease for lease in queue if lease in each.queue]
        assert not still or each.leader == still[0], "somebody was overtaken"


class Work(Service):
    """What is led."""

    def __init__(self, run: Run, number: int) -> None:
        self.run = run
        self.number = number

    def startService(self) -> None:
        """Note the term."""
        super().startService()  # type: ignore[no-untyped-call]
        term = self.run.services[self.number].term
        self.run.terms.append(term)


class Run:
    """
    Processes that stand for one office.

    Args:
        cluster: Whose.
        count: How many.
        drift: What they know of clocks.
        options: Of the services.
    """

    def __init__(
        self,
        cluster: SimulatedCluster,
        count: int,
        *,
        drift: float = 0.1,
        **options: Any,
    ) -> None:
        self.cluster = cluster
        dice = cluster.dice("processes")
        self.trouble = ClientTrouble(cluster, dice)
        self.terms: list[int] = []
        self.works: list[Work] = []
        self.hosts: list[Any] = []
        self.services: list[LeaderService] = []
        for number in range(count):
            client = cluster.make_client(f"c{number}", timeout=2.0)
            self.trouble.add(client.clock)
            self.hosts.append(client.clock)
            self.works.append(Work(self, number))
            self.services.append(
                LeaderService(
                    self.works[-1],
                    ElectionClient(client, timeout=2.0, drift=drift),
                    "cron",
                    candidate=f"c{number}",
                    **options,
                )
            )
        for service in self.services:
            service.startService()

    def look(self) -> None:
        """See that one leads at most, and one service runs."""
        believers = [each for each in self.services if each.is_elected]
        assert len(believers) <= 1, "two believe to lead"
        running = [
            each.number
            for each in self.works
            # Who stands still can stop nothing: that is what terms are for.
            if each.running and not self.hosts[each.number].pauses
        ]
        assert len(running) <= 1, f"{running} run together"
        assert self.terms == sorted(set(self.terms)), "terms went back"

    def stop(self) -> None:
        """Let all of them end."""
        self.trouble.is_over = True
        # Those that stand still, or are cut off, are so for some seconds more.
        self.cluster.run(5.0)
        for service in self.services:
            self.cluster.result(service.stopService(), 60.0)


class LeaderTests:
    """One leads, whatever happens."""

    @pytest.mark.raft_seeds(5)
    def test_one_at_a_time(self, raft_cluster: MakeCluster) -> None:
        """Whatever happens to servers, networks, clocks and processes."""
        cluster = raft_cluster(Watched, 3, config=SNAPSHOTS, deterministic=False)
        run = Run(cluster, 3, ttl=2.0, margin=0.4)
        run.trouble.begin()
        cluster.disturb(SECONDS, every=1.5)
        end = cluster.now + SECONDS
        while cluster.now < end:
            cluster.run(0.02)
            run.look()
        cluster.check()
        run.stop()
        cluster.check()
        assert len(run.terms) > 3
        assert not any(each.running for each in run.works)

    def test_it_can_fail(self, raft_cluster: MakeCluster) -> None:
        """With a client that believes for longer than the servers do."""
        cluster = raft_cluster(ElectionMachine, 1, deterministic=False)
        run = Run(cluster, 2, ttl=2.0, drift=-1.0)
        cluster.until(lambda: run.terms)
        chief = next(work.number for work in run.works if work.running)
        for server in cluster.names:
            cluster.cut(f"c{chief}", server)
        cluster.run(3.0)
        with pytest.raises(AssertionError, match="two believe"):
            run.look()

    def test_what_is_looked_at(self) -> None:
        """What the machine is watched for can be found."""
        machine = ElectionMachine()
        state = machine.init("s1")
        for number in (1, 2, 3):
            state.open_lease(1000, "")
            state.campaign(number, "a", "x")
        before = {"a": (1, 1, [1, 2, 3])}
        look_at(state, before, 1)
        for leader, term, match in (
            (1, 2, "another term"),
            (2, 1, "old term"),
            (2, 2, "deposed"),
        ):
            state.elections["a"].leader, state.elections["a"].term = leader, term
            state.last_term = term
            with pytest.raises(AssertionError, match=match):
                look_at(state, before, 1)
        del state.elections["a"].queue[1]
        state.elections["a"].leader = 3
        with pytest.raises(AssertionError, match="overtaken"):
            look_at(state, before, 1)


def call(dice: Random) -> Write | Read:
    """Return a call of one of a few clients that share leases 1 to 3."""
    lease = dice.randint(1, 3)
    calls: list[Write | Read] = [
        # For longer than the test: the judge knows nothing of time.
        Write(OpenLease(3_600_000)),
        Write(RenewLease(lease)),
        Write(EndLease(dice.choice([lease, 9, 9]))),
        Write(Campaign(lease, "a", f"c{lease}")),
        Write(Register(lease, lease, dice.randint(1, 9), "web", "w1", f"tcp:{lease}")),
        Read(Observe("a")),
        Read(Discover("web")),
    ]
    return dice.choice(calls)


class LinearizableTests:
    """What clients are answered is what one machine would have answered."""

    @pytest.mark.parametrize("seed", range(4))
    def test_answers(self, seed: int) -> None:
        scenario = Scenario(
            ElectionMachine,
            call,
            seconds=6.0,
            config=SNAPSHOTS,
            client={"sessions": True},
        )
        check_scenario(scenario, seed)
