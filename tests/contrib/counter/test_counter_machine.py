"""Tests of contrib.counter.machine and contrib.counter.state."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.applications.state_rows import RowsSnapshot
from consensus.errors import InvalidCommandError, StorageError
from consensus.interfaces import Tick
from consensus.testing.machine import StateMachineSuite
from contrib.counter import (
    Add,
    Allow,
    Allowed,
    Bound,
    Compare,
    CounterOverflowError,
    Counters,
    Get,
    ListCounters,
    OutOfBoundsError,
    Reserve,
    Reset,
    TooManyNamesError,
)
from contrib.counter import state as counter_state
from contrib.counter.commands import GREATEST, LEAST, encode
from contrib.counter.state import ROWS, Counter, Head
from tests.support.driven import Driven

NAMES = st.sampled_from(["a", "b"])
VALUES = st.sampled_from([-1, 0, 1, 2, GREATEST, LEAST])
BOUNDS = st.sampled_from([None, -2, 0, 3])
COMMANDS = st.one_of(
    st.builds(Add, NAMES, VALUES),
    st.builds(Reset, NAMES, VALUES),
    st.builds(Compare, NAMES, VALUES, VALUES),
    st.builds(Bound, NAMES, BOUNDS, BOUNDS),
    st.builds(Reserve, NAMES, st.sampled_from([1, 7, 2**32])),
    st.builds(
        Allow,
        NAMES,
        st.integers(1, 3),
        st.sampled_from([1, 10, 70]),
        st.integers(1, 3),
        st.sampled_from([None, 1, 5]),
    ),
)
QUERIES = st.builds(Get, NAMES) | st.builds(ListCounters, st.sampled_from(["", "a"]))


class TestCounters(StateMachineSuite):
    """The promises of state machines."""

    machine: ClassVar[Any] = Counters
    commands = COMMANDS
    queries = QUERIES


class Desk(Driven):
    """Counters, and short ways to call them."""

    def __init__(self, machine: Any = None) -> None:
        super().__init__(Counters() if machine is None else machine)

    def get(self, name: str = "n") -> int:
        """Return the value of a counter."""
        found = self.read(Get(name))
        assert isinstance(found, int)
        return found

    def allow(self, count: int = 1, limit: int = 10, **how: Any) -> Allowed:
        """Ask for leave, of ten in a second by default."""
        found = self.write(Allow("r", limit, how.pop("period", 1000), count, **how))
        assert isinstance(found, Allowed)
        return found

    def spend(self, **how: Any) -> int:
        """Return how often it is allowed until it is not."""
        times = 0
        while self.allow(**how).is_allowed:
            times += 1
        return times


def yes(left: int) -> Allowed:
    """Return the answer that leaves so many."""
    return Allowed(is_allowed=True, left=left, retry_after=0)


def no(left: int, retry_after: int) -> Allowed:
    """Return the answer that something is not allowed yet."""
    return Allowed(is_allowed=False, left=left, retry_after=retry_after)


@pytest.fixture
def desk() -> Desk:
    """Return no counters."""
    return Desk()


class CounterTests:
    """Numbers that go up and down."""

    def test_add(self, desk: Desk) -> None:
        assert desk.get() == 0
        assert desk.write(Add("n")) == 1
        assert desk.write(Add("n", 41)) == 42
        assert desk.write(Add("n", -50)) == desk.get() == -8
        assert desk.get("other") == 0

    def test_reset(self, desk: Desk) -> None:
        assert desk.write(Reset("n", 5)) == 0
        assert desk.write(Reset("n")) == 5
        assert desk.get() == 0

    def test_compare(self, desk: Desk) -> None:
        assert desk.write(Compare("n", 1, 5)) is False
        assert desk.write(Compare("n", 0, 5)) is True
        assert desk.get() == 5

    @pytest.mark.parametrize(
        "command", [Add("n", -4), Reset("n", -1), Compare("n", 3, 11)]
    )
    def test_bounds(self, desk: Desk, command: Any) -> None:
        """What leads beyond them is refused, and changes nothing."""
        desk.write(Add("n", 3))
        desk.write(Bound("n", 0, 10))
        with pytest.raises(OutOfBoundsError, match="'n' is"):
            desk.write(command)
        assert desk.get() == 3
        assert desk.write(Compare("n", 4, 11)) is False
        assert desk.write(Add("n", -3)) == 0
        assert desk.write(Add("n", 10)) == 10

    def test_bounds_that_cannot_be(self, desk: Desk) -> None:
        with pytest.raises(ValueError, match="nothing from 2 to 1"):
            desk.write(Bound("n", 2, 1))
        with pytest.raises(OutOfBoundsError, match="1 at least, and not 0"):
            desk.write(Bound("n", 1))

    def test_bounds_can_be_taken_away(self, desk: Desk) -> None:
        desk.write(Bound("n", 0))
        desk.write(Bound("n"))
        assert desk.write(Add("n", -1)) == -1

    @pytest.mark.parametrize(("end", "step"), [(GREATEST, 1), (LEAST, -1)])
    def test_sixty_four_bits(self, desk: Desk, end: int, step: int) -> None:
        """All of them are exact, and one more is an error."""
        assert desk.write(Add("n", end)) == desk.get() == end
        with pytest.raises(CounterOverflowError, match="64 bits"):
            desk.write(Add("n", step))
        assert desk.write(Add("n", -step)) == end - step
        with pytest.raises(InvalidCommandError):
            encode(Add("n", end + step))

    def test_what_is_zero_takes_no_room(self, desk: Desk) -> None:
        desk.write(Add("n", 3))
        desk.write(Bound("m", 0))
        assert desk.read(ListCounters()) == ["m", "n"]
        desk.write(Add("n", -3))
        desk.write(Bound("m"))
        assert desk.read(ListCounters()) == []
        assert desk.state.counters == {}

    def test_list(self, desk: Desk) -> None:
        for name in "cab":
            desk.write(Add(name))
        assert desk.read(ListCounters(limit=2)) == ["a", "b"]
        assert desk.read(ListCounters("b")) == ["c"]

    @given(st.lists(st.one_of(st.builds(Add, NAMES, st.integers(-5, 5)))))
    def test_a_counter_is_a_sum(self, commands: list[Add]) -> None:
        desk = Desk()
        for command in commands:
            desk.write(command)
        for name in ("a", "b"):
            assert desk.get(name) == sum(
                each.amount for each in commands if each.name == name
            )

    def test_a_query_is_not_written(self, desk: Desk) -> None:
        with pytest.raises(InvalidCommandError, match="Get changes nothing"):
            desk.write(Get("n"))

    def test_a_command_is_not_read(self, desk: Desk) -> None:
        with pytest.raises(InvalidCommandError, match="Add changes the state"):
            desk.read(Add("n"))

    def test_a_client_cannot_say_the_time(self) -> None:
        with pytest.raises(InvalidCommandError):
            Counters().encode(Tick(5))

    @pytest.mark.parametrize("data", [b"", b"\2\x90", b"\1\x90", b"\1\xc1"])
    def test_what_is_no_command(self, data: bytes) -> None:
        with pytest.raises(InvalidCommandError):
            Counters().decode(data)

    def test_what_is_no_result(self) -> None:
        with pytest.raises(InvalidCommandError, match="no command"):
            Counters().encode(object())


class SequenceTests:
    """Ids that are given once."""

    def test_blocks_follow_one_another(self, desk: Desk) -> None:
        assert desk.write(Reserve("s", 10)) == 1
        assert desk.write(Reserve("s")) == 11
        assert desk.write(Reserve("s", 2)) == 12
        assert desk.write(Reserve("t")) == 1

    def test_the_end(self, desk: Desk) -> None:
        desk.state.reserve("s", GREATEST - 5)
        with pytest.raises(CounterOverflowError, match="4 ids left, and not 5"):
            desk.write(Reserve("s", 5))
        assert desk.write(Reserve("s", 4)) == GREATEST - 4


class RateTests:
    """So many in a time, and no more."""

    def test_a_burst_and_then_the_rate(self, desk: Desk) -> None:
        assert desk.allow() == yes(9)
        assert desk.spend() == 9
        assert desk.allow() == no(0, 100)
        desk.tick(99)
        assert desk.allow() == no(0, 1)
        desk.tick(1)
        assert desk.allow() == yes(0)
        desk.tick(10_000)
        assert desk.spend() == 10

    def test_all_or_none(self, desk: Desk) -> None:
        assert desk.allow(7) == yes(3)
        assert desk.allow(7) == no(3, 400)
        assert desk.allow(3) == yes(0)

    def test_burst(self, desk: Desk) -> None:
        assert desk.spend(burst=1) == 1
        desk.tick(100)
        assert desk.spend(burst=1) == 1
        with pytest.raises(ValueError, match="2 never happen at once"):
            desk.allow(2, burst=1)

    def test_nothing_is_rounded(self, desk: Desk) -> None:
        """Three in seven milliseconds stay three in seven milliseconds."""
        times = 0
        for _ in range(7000):
            times += desk.allow(limit=3, period=7).is_allowed
            desk.tick(1)
        assert times in {3000, 3001, 3002}

    @given(
        st.lists(st.tuples(st.integers(0, 30), st.integers(1, 3)), max_size=40),
        st.integers(1, 4),
        st.integers(1, 40),
        st.integers(3, 5),
    )
    def test_never_more_than_the_rate(
        self, steps: list[tuple[int, int]], limit: int, period: int, burst: int
    ) -> None:
        """In no stretch of time are there more than the burst and what came in it."""
        desk = Desk()
        taken: list[tuple[int, int]] = []
        for pause, count in steps:
            desk.tick(pause)
            answer = desk.allow(count, limit, period=period, burst=burst)
            if answer.is_allowed:
                taken.append((desk.time, count))
            else:
                desk.tick(answer.retry_after)
                assert desk.allow(count, limit, period=period, burst=burst).is_allowed
                taken.append((desk.time, count))
        for first, (begin, _) in enumerate(taken):
            total = 0
            for now, count in taken[first:]:
                total += count
                assert total * period <= burst * period + (now - begin) * limit

    def test_another_measure_gains_nothing(self, desk: Desk) -> None:
        assert desk.spend() == 10
        assert desk.allow(limit=20).is_allowed
        assert desk.spend(limit=20) == 9
        desk.tick(50)
        assert desk.spend(limit=20, period=3000) == 1
        assert desk.spend(limit=5) == 0

    def test_a_rate_that_rests_takes_no_room(self, desk: Desk) -> None:
        desk.allow()
        for number in range(5):
            desk.write(Allow(f"r{number}", 1, 10))
        desk.tick(10)
        assert list(desk.state.rates) == ["r"]
        desk.tick(90)
        assert not desk.state.rates

    def test_uses_clear_away(self, desk: Desk) -> None:
        """Also where the time is said seldom."""
        for number in range(100):
            desk.write(Allow(f"r{number}", 1, 10))
        desk.leap(20)
        assert len(desk.state.rates) == 84
        desk.write(Allow("s", 1, 10))
        assert len(desk.state.rates) == 83


class StateTests:
    """Memory is bounded, and snapshots are read with care."""

    def test_too_many_names(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(counter_state, "MAX_NAMES", 3)
        desk.write(Add("n"))
        desk.write(Reserve("n"))
        desk.write(Allow("n", 1, 10))
        for command in (Add("m"), Bound("m", 0), Reserve("m"), Allow("m", 1, 10)):
            with pytest.raises(TooManyNamesError):
                desk.write(command)
        assert desk.write(Add("n")) == 2
        assert desk.write(Reserve("n")) == 2
        desk.tick(10)
        assert desk.write(Allow("m", 1, 10)).is_allowed

    def test_what_is_no_snapshot(self) -> None:
        rows: list[Any]
        for rows in ([], [Counter("n", 1)], [Head(1), Head(1)]):
            with pytest.raises(StorageError, match="head"):
                ROWS.restore(RowsSnapshot(1, rows).chunks())
