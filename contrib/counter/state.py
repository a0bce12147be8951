"""
What the counters hold, and as what it goes into a snapshot.

A counter that is 0 and has no bounds is as one that never was, and so is a rate
of which everything is allowed again: they take no room.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import chain, islice
from typing import TYPE_CHECKING, Annotated

import msgspec

from consensus.applications.state_rows import RowsFormat, RowsReader
from contrib.counter.commands import (
    GREATEST,
    LEAST,
    Allow,
    CounterOverflowError,
    OutOfBoundsError,
    TooManyNamesError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The version of the records; the first byte of every snapshot.
VERSION = 1

#: How many counters, sequences and rates there may be together.
MAX_NAMES = 1_000_000

# Of how many rates it is seen whether they are still needed, each time that the
# log says the time, and each time that one is used.
_LOOKS_BY_TIME = 16
_LOOKS_BY_USE = 2

_Natural = Annotated[int, msgspec.Meta(ge=0)]
_Positive = Annotated[int, msgspec.Meta(ge=1)]


class _Record(
    msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True, gc=False
):
    """A part of the state; subclasses have its options."""


class Head(_Record, tag="head", frozen=True):
    """
    What there is one of.

    Args:
        time: The log's, in milliseconds.
    """

    time: _Natural


class Counter(_Record, tag="counter", frozen=True):
    """
    A counter.

    Args:
        name: Its name.
        value: Its value.
        floor: The least that it may have; ``None`` for any.
        ceiling: The most.
    """

    name: str
    value: int = 0
    floor: int | None = None
    ceiling: int | None = None

    @property
    def is_needed(self) -> bool:
        """Say whether it differs from one that never was."""
        return bool(self.value) or (self.floor, self.ceiling) != (None, None)

    def check(self) -> None:
        """
        See that the value may be what it is.

        Raises:
            OutOfBoundsError: It is out of its bounds.
            CounterOverflowError: It is out of 64 bits.
        """
        if self.floor is not None and self.value < self.floor:
            message = f"{self.name!r} is {self.floor} at least, and not {self.value}"
            raise OutOfBoundsError(message)
        if self.ceiling is not None and self.value > self.ceiling:
            message = f"{self.name!r} is {self.ceiling} at most, and not {self.value}"
            raise OutOfBoundsError(message)
        if not LEAST <= self.value <= GREATEST:
            message = f"{self.name!r} has 64 bits, and {self.value} has more"
            raise CounterOverflowError(message)


class Sequence(_Record, tag="sequence", frozen=True):
    """
    A sequence of ids.

    Args:
        name: Its name.
        next: The next one.
    """

    name: str
    next: _Positive = 1


class Rate(_Record, tag="rate", frozen=True):
    """
    What was allowed of a rate, and not so long ago that it no longer counts.

    Args:
        name: Its name.
        limit: How many tokens come in a period.
        period: In milliseconds.
        at: When it was used last, in the log's time.
        used: How many tokens were missing then, times *period*: *limit* of
            that come back in each millisecond, so that nothing is rounded.
    """

    name: str
    limit: _Positive
    period: _Positive
    at: _Natural
    used: _Natural

    def used_at(self, time: int) -> int:
        """Return what is missing at *time*."""
        return max(0, self.used - (time - self.at) * self.limit)


class Allowed(_Record, frozen=True, kw_only=True):
    """
    What became of a question for leave.

    Args:
        is_allowed: Whether it may happen; then it counts.
        left: How many more could happen at once.
        retry_after: If not: after how many milliseconds it might.
    """

    is_allowed: bool
    left: int
    retry_after: int


#: A row of a snapshot.
Record = Head | Counter | Sequence | Rate


class State:
    """All counters, sequences and rates, and the log's time."""

    def __init__(self) -> None:
        self.time = 0
        self.counters: dict[str, Counter] = {}
        self.sequences: dict[str, Sequence] = {}
        #: The one that was looked at longest ago comes first.
        self.rates: OrderedDict[str, Rate] = OrderedDict()

    def counter(self, name: str) -> Counter:
        """Return the counter *name*."""
        return self.counters.get(name) or Counter(name)

    def set(self, counter: Counter) -> None:
        """
        Put *counter* in the place of the one of its name.

        Raises:
            OutOfBoundsError: See :meth:`Counter.check`, as for the other.
            CounterOverflowError: It is out of 64 bits.
            TooManyNamesError: It would be one too many.
        """
        counter.check()
        if counter.is_needed:
            self._check_room(counter.name in self.counters)
            self.counters[counter.name] = counter
        else:
            self.counters.pop(counter.name, None)

    def reserve(self, name: str, count: int) -> int:
        """
        Reserve *count* ids of the sequence *name*; return the first.

        Raises:
            CounterOverflowError: There are not so many left.
            TooManyNamesError: It would be one too many.
        """
        sequence = self.sequences.get(name) or Sequence(name)
        first, following = sequence.next, sequence.next + count
        if following > GREATEST:
            message = f"{name!r} has {GREATEST - first} ids left, and not {count}"
            raise CounterOverflowError(message)
        self._check_room(name in self.sequences)
        self.sequences[name] = Sequence(name, following)
        return first

    def allow(self, asked: Allow) -> Allowed:
        """
        Take tokens, if there are so many.

        Raises:
            ValueError: There never are.
            TooManyNamesError: It would be one too many.
        """
        burst = asked.limit if asked.burst is None else asked.burst
        if asked.count > burst:
            message = f"{asked.count} never happen at once, but {burst} at most"
            raise ValueError(message)
        self._check_room(asked.name in self.rates)
        used = self._used(asked, burst)
        wanted = used + asked.count * asked.period
        lacking = wanted - burst * asked.period
        if lacking > 0:
            left = (burst * asked.period - used) // asked.period
            return Allowed(
                is_allowed=False, left=left, retry_after=-(-lacking // asked.limit)
            )
        self.rates[asked.name] = Rate(
            asked.name, asked.limit, asked.period, self.time, wanted
        )
        self.rates.move_to_end(asked.name)
        self._forget_rates(_LOOKS_BY_USE)
        return Allowed(is_allowed=True, left=-lacking // asked.period, retry_after=0)

    def _used(self, asked: Allow, burst: int) -> int:
        """Return what is missing now, in the measure of *asked*."""
        rate = self.rates.get(asked.name)
        if rate is None:
            return 0
        used = rate.used_at(self.time)
        if rate.period != asked.period:
            # Whoever changes the measure gains no token.
            used = -(-used // rate.period) * asked.period
        return min(used, burst * asked.period)

    def pass_time(self, time: int) -> None:
        """Let it be *time*."""
        self.time = max(self.time, time)
        self._forget_rates(_LOOKS_BY_TIME)

    def next_time(self) -> None:
        """Return ``None``: nothing has to happen by itself."""

    def _forget_rates(self, looks: int) -> None:
        """Look at a few rates, and forget those of which all is allowed again."""
        for name in list(islice(self.rates, looks)):
            if self.rates[name].used_at(self.time):
                self.rates.move_to_end(name)
            else:
                del self.rates[name]

    def _check_room(self, is_known: object) -> None:
        names = len(self.counters) + len(self.sequences) + len(self.rates)
        if not is_known and names >= MAX_NAMES:
            message = f"there are {names} names, and no more than that may be"
            raise TooManyNamesError(message)


def _rows_of(state: State) -> Iterator[Record]:
    """Return the records of *state*, which never change, in the order of its tables."""
    return chain(
        (Head(state.time),),
        state.counters.values(),
        state.sequences.values(),
        state.rates.values(),
    )


def _state_of(rows: Iterator[Record]) -> State:
    head = next(rows, None)
    if not isinstance(head, Head):
        raise ValueError("it has no head")  # noqa: TRY004 - of bytes, not of Python
    state = State()
    state.time = head.time
    for row in rows:
        _load(row, state)
    return state


def _load(record: Record, state: State) -> None:
    match record:
        case Counter():
            state.counters[record.name] = record
        case Sequence():
            state.sequences[record.name] = record
        case Rate():
            state.rates[record.name] = record
        case Head():
            raise ValueError("it has two heads")


#: What a snapshot is made of.
ROWS = RowsFormat(RowsReader(Record, VERSION, "the counters"), _rows_of, _state_of)
