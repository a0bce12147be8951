"""Tests of contrib.counter.client."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import gatherResults

from consensus.errors import (
    InvalidCommandError,
    OutcomeUnknownError,
    ProtocolError,
    UnreachableError,
)
from contrib.counter import (
    Allowed,
    CounterClient,
    CounterOverflowError,
    Counters,
    OutOfBoundsError,
)
from tests.support.application import Application
from tests.support.deferreds import error_of, result_of
from tests.support.machines import MachineServer


class World(Application):
    """A server of counters, and a client."""

    def __init__(self) -> None:
        super().__init__(Counters)
        self.counters = CounterClient(self.client())


@pytest.fixture
def world() -> World:
    """Return a server without counters."""
    return World()


class CallTests:
    """Each call of the client."""

    def test_counting(self, world: World) -> None:
        counters = world.counters
        assert world.do(counters.add("n")) == 1
        assert world.do(counters.add("n", 5)) == 6
        assert world.do(counters.get("n")) == 6
        assert world.do(counters.get("n", consistency="stale")) == 6
        assert world.do(counters.compare_and_set("n", 5, 0)) is False
        assert world.do(counters.compare_and_set("n", 6, 7)) is True
        assert world.do(counters.counters()) == ["n"]
        assert world.do(counters.reset("n")) == 7

    def test_bounds(self, world: World) -> None:
        world.do(world.counters.bound("n", 0, 5))
        with pytest.raises(OutOfBoundsError, match="0 at least"):
            world.do(world.counters.add("n", -1))
        world.do(world.counters.bound("n"))
        assert world.do(world.counters.add("n", -1)) == -1
        with pytest.raises(CounterOverflowError):
            world.do(world.counters.add("n", -(2**63)))

    def test_reserve(self, world: World) -> None:
        assert world.do(world.counters.reserve("s", 10)) == range(1, 11)
        assert world.do(world.counters.reserve("s")) == range(11, 12)

    def test_allow(self, world: World) -> None:
        """By the log's time, which goes on while nobody asks."""
        counters = world.counters
        for _ in range(3):
            answer = world.do(counters.allow("r", limit=3, period=60))
            assert answer.is_allowed
        answer = world.do(counters.allow("r", limit=3, period=60))
        assert isinstance(answer, Allowed)
        assert not answer.is_allowed
        assert 19_900 <= answer.retry_after <= 20_000
        world.run(answer.retry_after / 1000 + 0.05)
        assert world.do(counters.allow("r", limit=3, period=60)).is_allowed
        with pytest.raises(ValueError, match="never happen"):
            world.do(counters.allow("r", 2, limit=3, period=60, burst=1))

    def test_what_makes_no_sense_is_not_sent(self, world: World) -> None:
        wrong: Any = {"a": 1}
        for call in (
            world.counters.add("", 1),
            world.counters.add("n", 2**63),
            world.counters.add("n", wrong),
            world.counters.get(""),
            world.counters.get(wrong),
            world.counters.reserve("s", 0),
            world.counters.ids("").next(),
            world.counters.allow("r", limit=0, period=1),
            world.counters.allow("r", limit=1, period=0),
            world.counters.allow("r", limit=1, period=float("inf")),
            world.counters.counters(limit=0),
        ):
            assert isinstance(error_of(call), InvalidCommandError)
        with pytest.raises(ValueError, match="at least one"):
            world.counters.ids("s", 0)

    def test_without_a_session(self, world: World) -> None:
        counters = CounterClient(world.client(), session=False)
        assert world.do(counters.add("n")) == 1

    def test_close(self, world: World) -> None:
        world.do(world.counters.close())
        assert isinstance(error_of(world.counters.add("n")), UnreachableError)

    def test_addresses_need_the_reactor(self) -> None:
        with pytest.raises(TypeError, match="needs the reactor"):
            CounterClient(["tcp:127.0.0.1:9101"])

    def test_a_server_that_has_no_counters(self) -> None:
        """Another application's answers are told apart."""
        server = MachineServer(Counters(), "no counters")
        counters = CounterClient(server.client, session=False)
        server.answered = b"\xc1"
        for call in (counters.add("n"), counters.get("n")):
            server.settle()
            assert isinstance(error_of(call), ProtocolError)


class IdsTests:
    """Ids from blocks."""

    def test_they_rise_and_a_block_is_one_call(self, world: World) -> None:
        ids = world.counters.ids("s", block=3)
        assert world.do(ids.next()) == 1
        assert [result_of(ids.next()) for _ in range(2)] == [2, 3]
        assert world.do(ids.next()) == 4

    def test_two_never_get_the_same(self, world: World) -> None:
        one = CounterClient(world.client()).ids("s", block=4)
        other = CounterClient(world.client()).ids("s", block=4)
        asked = [each.next() for _ in range(10) for each in (one, other)]
        found = world.do(gatherResults(asked))
        assert len(set(found)) == 20

    def test_many_at_once(self, world: World) -> None:
        """In the order in which they were asked for, also from within an answer."""
        ids = world.counters.ids("s", block=2)
        found: list[int] = []

        def more(number: int) -> None:
            found.append(number)
            if len(found) < 20:
                ids.next().addCallback(more)

        for _ in range(5):
            ids.next().addCallback(more)
        world.run(1.0)
        assert len(found) == 24
        assert found == sorted(set(found))

    def test_a_failure_leaves_a_gap_at_most(self) -> None:
        """Who asked is told, and to ask again gives other ids."""
        server = MachineServer(Counters(), "ids")
        ids = CounterClient(server.client, session=False).ids("s", block=5)
        server.loses_answer = True
        asked = [ids.next(), ids.next()]
        server.settle()
        for each in asked:
            assert isinstance(error_of(each), OutcomeUnknownError)
        again = ids.next()
        server.settle()
        assert result_of(again) == 6
