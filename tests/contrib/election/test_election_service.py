"""Tests of contrib.election.service, in virtual time."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import capturedLogs

from consensus.applications.lease_commands import EndLease
from contrib.election import (
    Candidate,
    ElectionClient,
    ElectionMachine,
    LeaderService,
    NotElectedError,
    leader_only,
)
from tests.support.deferreds import has_fired, result_of
from tests.support.simulated import SimulatedWorld

TTL = 5.0


class World(SimulatedWorld):
    """A cluster, and clients of its elections."""

    def __init__(self) -> None:
        super().__init__(ElectionMachine)

    def client(self, name: str) -> ElectionClient:
        """Return a client on a host of its own."""
        return ElectionClient(self.cluster_client(name), timeout=2.0)

    def candidate(self, name: str, work: Service, **options: Any) -> LeaderService:
        """Return what stands as *name* for *work*, running."""
        options = {"ttl": TTL, "candidate": name, **options}
        service = LeaderService(work, self.client(name), "cron", **options)
        service.startService()
        self.run(0.2)
        return service


class Work(Service):
    """What is led, and how often it was started and stopped."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.fails_to_start = self.fails_to_stop = False
        #: What stopping waits for.
        self.stopping: Any = None

    def startService(self) -> None:
        """Start."""
        if self.fails_to_start:
            raise ZeroDivisionError("cannot start")
        super().startService()  # type: ignore[no-untyped-call]
        self.log.append("started")

    def stopService(self) -> Any:
        """Stop, as soon as the test wants it."""
        super().stopService()  # type: ignore[no-untyped-call]
        self.log.append("stopped")
        if self.fails_to_stop:
            raise ZeroDivisionError("cannot stop")
        return self.stopping


@pytest.fixture
def world() -> World:
    """Return a new world."""
    return World()


class LeaderServiceTests:
    """A service runs where its process leads."""

    def test_one_at_a_time(self, world: World) -> None:
        one, two = Work(), Work()
        ada, bob = world.candidate("ada", one), world.candidate("bob", two)
        world.run(3 * TTL)
        assert (one.log, two.log) == (["started"], [])
        assert (ada.is_elected, bob.is_elected) == (True, False)
        assert (ada.term, bob.term) == (1, 0)
        stopping = ada.stopService()
        world.run(0.2)
        assert has_fired(stopping)
        assert (one.log, two.log) == (["started", "stopped"], ["started"])
        assert (ada.is_elected, bob.is_elected) == (False, True)
        assert bob.term == 2

    def test_nobody_else_before_it_has_stopped(self, world: World) -> None:
        one, two = Work(), Work()
        one.stopping = Deferred()
        ada = world.candidate("ada", one)
        world.candidate("bob", two)
        stopping = ada.stopService()
        world.run(2 * TTL)
        assert not has_fired(stopping)
        assert two.log == []
        one.stopping.callback(None)
        world.run(0.2)
        assert has_fired(stopping)
        assert two.log == ["started"]

    def test_one_that_is_cut_off_stops_first(self, world: World) -> None:
        """A margin before anybody else can be elected; then it stands again."""
        one, two = Work(), Work()
        ada = world.candidate("ada", one, margin=1.0)
        world.candidate("bob", two)
        world.cut_off("ada")
        while one.running:
            world.run(0.01)
        world.run(0.99)
        assert two.log == []
        world.run(2.0)
        assert two.log == ["started"]
        world.cluster.heal()
        world.run(3.0)
        assert world.done(world.client("eve").leader("cron")).waiting == 1
        assert not ada.is_elected
        assert one.log == ["started", "stopped"]

    def test_one_that_stops_too_slowly(self, world: World) -> None:
        """An operator is told that two may have run together."""
        one = Work()
        world.candidate("ada", one, margin=0.5)
        one.stopping = Deferred()
        world.cut_off("ada")
        world.run(TTL)
        assert one.log == ["started", "stopped"]
        with capturedLogs() as events:
            one.stopping.callback(None)
        assert "ended too late" in str(events[0]["log_format"])
        one.stopping = None

    def test_one_that_stops_in_time(self, world: World) -> None:
        one = Work()
        ada = world.candidate("ada", one)
        with capturedLogs() as events:
            ada.stopService()
            world.run(0.2)
        assert not [each for each in events if each["log_level"].name == "critical"]

    def test_one_that_cannot_start(self, world: World) -> None:
        """Others get their turn; it tries again later."""
        one, two = Work(), Work()
        one.fails_to_start = True
        with capturedLogs() as events:
            world.candidate("ada", one)
            bob = world.candidate("bob", two)
            world.run(2.0)
        assert [each for each in events if "cannot begin" in str(each["log_format"])]
        assert two.log == ["started"]
        one.fails_to_start = False
        bob.stopService()
        world.run(2.0)
        assert one.running

    def test_one_that_cannot_stop(self, world: World) -> None:
        """It is logged, and another leads."""
        one, two = Work(), Work()
        one.fails_to_stop = True
        ada = world.candidate("ada", one)
        world.candidate("bob", two)
        with capturedLogs() as events:
            stopping = ada.stopService()
            world.run(0.5)
        assert [each for each in events if "cannot end" in str(each["log_format"])]
        assert has_fired(stopping)
        assert two.log == ["started"]

    def test_stopping_before_it_is_elected(self, world: World) -> None:
        """Whenever that is, nothing is left."""
        for step in range(30):
            work = Work()
            service = LeaderService(work, world.client(f"c{step}"), "cron", ttl=TTL)
            service.startService()
            world.run(0.001 * step)
            stopping = service.stopService()
            world.run(1.0)
            assert has_fired(stopping)
            assert not work.running
            assert not world.state().items

    def test_starting_again(self, world: World) -> None:
        work = Work()
        ada = world.candidate("ada", work)
        ada.stopService()
        ada.startService()
        world.run(1.0)
        assert work.log == ["started", "stopped", "started"]
        assert ada.term == 2

    def test_stopping_twice(self, world: World) -> None:
        ada = world.candidate("ada", Work())
        ada.stopService()
        assert has_fired(ada.stopService())

    def test_without_servers(self, world: World) -> None:
        """It goes on trying, and can be stopped."""
        world.cut_off("ada")
        work = Work()
        ada = world.candidate("ada", work)
        world.run(10.0)
        world.cluster.heal()
        world.run(3.0)
        assert work.running
        world.cut_off("ada")
        stopping = ada.stopService()
        world.run(3.0)
        assert has_fired(stopping)

    def test_in_a_tree_of_services(self, world: World) -> None:
        """It starts and stops with its parent."""
        parent, work = MultiService(), Work()
        service = LeaderService(work, world.client("ada"), "cron", ttl=TTL)
        service.setServiceParent(parent)  # type: ignore[no-untyped-call]
        parent.startService()
        world.run(0.5)
        assert work.running
        parent.stopService()
        world.run(0.5)
        assert not work.running

    def test_options_that_cannot_be(self, world: World) -> None:
        """They end it, with a line in the log."""
        with capturedLogs() as events:
            for options in ({"ttl": 0.001}, {"margin": 77.0}):
                world.candidate("ada", Work(), **options)
        failures = [each for each in events if "log_failure" in each]
        assert len(failures) == 2


class CandidateTests:
    """What a subclass does."""

    def test_one_that_does_nothing(self, world: World) -> None:
        candidate = Candidate(world.client("ada"), "cron", ttl=TTL)
        assert (candidate.is_elected, candidate.term) == (False, 0)
        candidate.startService()
        world.run(0.5)
        assert (candidate.is_elected, candidate.term) == (True, 1)
        world.done(candidate.stopService())
        assert (candidate.is_elected, candidate.term) == (False, 0)

    def test_an_office_that_the_servers_have_ended(self, world: World) -> None:
        """It is left, and stood for again."""
        work = Work()
        ada = world.candidate("ada", work)
        world.cluster.write(EndLease(1))
        world.run(TTL)
        assert work.log == ["started", "stopped", "started"]
        assert ada.term == 2

    def test_a_process_that_stood_still(self, world: World) -> None:
        """It is not elected from the moment when it goes on."""
        ada = world.candidate("ada", Work())
        host: Any = ada._election.cluster.clock
        host.pause()
        world.run(TTL)
        assert not ada.is_elected


class LeaderOnlyTests:
    """Jobs that only a leader does."""

    def test_refusing(self, world: World) -> None:
        candidate = Candidate(world.client("ada"), "cron", ttl=TTL)
        done: list[int] = []

        @leader_only(candidate)
        def job(number: int, *, more: int = 0) -> int:
            """Note a number."""
            done.append(number + more)
            return number

        with pytest.raises(NotElectedError, match="does not lead 'cron'"):
            job(1)
        candidate.startService()
        world.run(0.5)
        assert job(2, more=3) == 2
        assert job.__doc__ == "Note a number."
        world.cut_off("ada")
        world.run(TTL)
        with pytest.raises(NotElectedError):
            job(4)
        assert done == [5]

    def test_coroutines(self, world: World) -> None:
        """They are refused when they are called, not when they are awaited."""
        candidate = Candidate(world.client("ada"), "cron", ttl=TTL)

        @leader_only(candidate)
        async def job() -> int:
            await deferLater(candidate._election.cluster.clock, 0.1)
            return 7

        with pytest.raises(NotElectedError):
            Deferred.fromCoroutine(job())
        candidate.startService()
        world.run(0.5)
        working = Deferred.fromCoroutine(job())
        world.run(0.5)
        assert result_of(working) == 7
