"""The counters' client."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred

from consensus.applications.client_commands import ApplicationClient, OnceCalls
from contrib.counter import commands
from contrib.counter.commands import (
    MAX_LIST,
    Add,
    Allow,
    Bound,
    Compare,
    CounterOverflowError,
    Get,
    ListCounters,
    OutOfBoundsError,
    Reserve,
    Reset,
    TooManyNamesError,
)
from contrib.counter.state import Allowed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from twisted.python.failure import Failure

    from consensus.client import Client
    from consensus.core.values import LogIndex
    from consensus.options import Consistency

#: What the state machine raises.
_ERRORS = (CounterOverflowError, OutOfBoundsError, TooManyNamesError, ValueError)


class CounterClient(ApplicationClient):
    """
    Counts, hands out ids and limits rates; follows the leader.

    Every Deferred fails with:
        RejectedError: It was not done and will not be; try again later.
        InvalidCommandError: It cannot be done: a name is empty or too long, a
            number out of its range.
        OutcomeUnknownError: Of a write only: it may have been done once, or
            may yet be.
        OutOfBoundsError: The counter would leave its bounds.
        CounterOverflowError: A number would not fit into 64 bits.
        TooManyNamesError: There would be too many names.

    Args:
        cluster: The cluster's client, which :meth:`close` closes too; or the
            addresses of its servers, one or more, as ``tcp:127.0.0.1:9101``.
        reactor: The reactor; needed with addresses only.
        timeout: Seconds after which a call gives up; with addresses only.
        session: Whether writes belong to a session: one that has no answer is
            sent again, and applied once all the same.
    """

    def __init__(
        self,
        cluster: Client | Iterable[str],
        reactor: Any = None,
        *,
        timeout: float = 10.0,
        session: bool = True,
    ) -> None:
        super().__init__(cluster, reactor, timeout=timeout)
        self._calls = OnceCalls(self.cluster, commands.encode, _ERRORS, session=session)

    def add(self, name: str, amount: int = 1) -> Deferred[int]:
        """Add *amount*, which may be negative; return the new value."""
        return self._calls.write(lambda: Add(name, amount), int)

    def get(
        self,
        name: str,
        *,
        consistency: Consistency = "linearizable",
        max_age: float | None = None,
        at_index: LogIndex | None = None,
    ) -> Deferred[int]:
        """
        Return the value of the counter *name*, 0 if it was never set.

        How it is read is said as to :meth:`.Client.read`.
        """
        return self._calls.read(
            Get(name),
            int,
            consistency=consistency,
            max_age=max_age,
            at_index=at_index,
        )

    def reset(self, name: str, value: int = 0) -> Deferred[int]:
        """Give the counter this *value*; return the one before."""
        return self._calls.write(lambda: Reset(name, value), int)

    def compare_and_set(self, name: str, expected: int, value: int) -> Deferred[bool]:
        """Give the counter this *value* if it is as *expected*; say if it was."""
        return self._calls.write(lambda: Compare(name, expected, value), bool)

    def bound(
        self, name: str, floor: int | None = None, ceiling: int | None = None
    ) -> Deferred[None]:
        """
        Keep the counter from *floor* to *ceiling* from now on.

        Args:
            name: Its name.
            floor: The least; ``None`` for any.
            ceiling: The most; ``None`` for any.
        """
        return self._calls.write(lambda: Bound(name, floor, ceiling), None)

    def reserve(self, name: str, count: int = 1) -> Deferred[range]:
        """Return the next *count* ids of the sequence *name*; nobody else gets them."""
        reserved = self._calls.write(lambda: Reserve(name, count), int)
        return reserved.addCallback(lambda first: range(first, first + count))

    def ids(self, name: str, block: int = 100) -> Ids:
        """
        Return what gives ids of the sequence *name*, one after the other.

        Args:
            name: The sequence's.
            block: How many are reserved at once.
        """
        return Ids(self, name, block)

    def allow(
        self,
        name: str,
        count: int = 1,
        *,
        limit: int,
        period: float,
        burst: int | None = None,
    ) -> Deferred[Allowed]:
        """
        Ask whether *count* things may happen now; if so, they count.

        Args:
            name: Of the rate.
            count: How many, all or none.
            limit: How many may happen in a *period*.
            period: In seconds.
            burst: How many may happen at once; ``None`` for as many as *limit*.
        """
        return self._calls.write(
            lambda: Allow(name, limit, round(period * 1000), count, burst),
            Allowed,
        )

    def counters(self, after: str = "", limit: int = MAX_LIST) -> Deferred[list[str]]:
        """Return the names of counters in order, *limit* from *after* on."""
        return self._calls.read(ListCounters(after, limit), list[str])


class Ids:
    """
    Gives ids that nobody else gets, and reserves a block when it has none.

    Ids of one such object rise.  What it has not given when the process ends
    is never given: there are gaps.

    Args:
        client: The counters' client.
        name: The sequence's.
        block: How many are reserved at once.

    Raises:
        ValueError: *block* is not at least one.
    """

    def __init__(self, client: CounterClient, name: str, block: int) -> None:
        if block < 1:
            raise ValueError("a block has at least one id")
        self._client = client
        self._name = name
        self._block = block
        self._left = range(0)
        self._waiting: deque[Deferred[int]] = deque()
        self._is_reserving = False

    def next(self) -> Deferred[int]:
        """
        Return the next id; mostly the Deferred has fired already.

        It fails as that of :meth:`CounterClient.reserve`; to ask again is safe.
        """
        waiting: Deferred[int] = Deferred()
        self._waiting.append(waiting)
        self._give()
        return waiting

    def _give(self) -> None:
        """Give what there is, and see that there is more for those who wait."""
        while self._left and self._waiting:
            number, self._left = self._left[0], self._left[1:]
            self._waiting.popleft().callback(number)
        if self._waiting and not self._is_reserving:
            self._reserve()

    def _reserve(self) -> None:
        self._is_reserving = True
        count = max(self._block, len(self._waiting))
        reserved = self._client.reserve(self._name, count)
        reserved.addCallbacks(self._reserved, self._failed)

    def _reserved(self, block: range) -> None:
        self._is_reserving, self._left = False, block
        self._give()

    def _failed(self, failure: Failure) -> None:
        self._is_reserving = False
        waiting, self._waiting = self._waiting, deque()
        for each in waiting:
            each.errback(failure)
