"""Queries that have no answer yet, and whose callers wait for one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from consensus.interfaces import LATER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from twisted.internet.defer import Deferred

    from consensus.core.values import LogIndex
    from consensus.options import ReadOptions

#: A query that no state machine sees: it is answered, with nothing, when this
#: server has applied what the query has to wait for.
BARRIER = object()

#: As many are looked at whenever something was applied; more, at each tick, so
#: that those who wait never hold up those who write.
_EACH_TURN = 64


class Query(NamedTuple):
    """A read that somebody waits for."""

    query: Any
    options: ReadOptions
    size: int
    answer: Deferred[Any]


class _Waiter(NamedTuple):
    """Somebody who waits."""

    deadline: float
    query: Query


class WaitingQueries:
    """
    Those to which the state machine has answered ``LATER``.

    Args:
        ticks_per_second: What deadlines are counted in.
    """

    def __init__(self, ticks_per_second: float) -> None:
        self._ticks_per_second = ticks_per_second
        self._waiting: list[_Waiter] = []
        self._now = 0.0
        self._looked_at = -1
        # Since the last look, a tick has passed.
        self._has_ticked = False
        self._next_deadline = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, query: Query, last_applied: LogIndex) -> None:
        """Let *query* wait as long as it may; it has no answer at *last_applied*."""
        seconds = query.options.wait or 0.0
        deadline = self._now + max(1, round(seconds * self._ticks_per_second))
        if not self._waiting or deadline < self._next_deadline:
            self._next_deadline = deadline
        if not self._waiting:
            self._looked_at = last_applied
        self._waiting.append(_Waiter(deadline, query))

    def look(
        self, last_applied: LogIndex, ask: Callable[[Query], Any]
    ) -> list[tuple[Query, Any]]:
        """
        Let *ask* answer each, if more was applied since they were asked last.

        Returns:
            Those that wait no longer, with their answers.
        """
        waiting = self._waiting
        if not waiting or last_applied <= self._looked_at:
            return []
        if len(waiting) > _EACH_TURN and not self._has_ticked:
            return []
        self._looked_at, self._has_ticked = last_applied, False
        answered: list[tuple[Query, Any]] = []
        still: list[_Waiter] = []
        for waiter in waiting:
            answer = ask(waiter.query)
            if answer is LATER:
                still.append(waiter)
            else:
                answered.append((waiter.query, answer))
        if answered:
            self._keep(still)
        return answered

    def tick(self, now: float) -> list[Query]:
        """Let time pass; return those whose time is over."""
        self._now, self._has_ticked = now, True
        if not self._waiting or now < self._next_deadline:
            return []
        late = [each.query for each in self._waiting if each.deadline <= now]
        self._keep(each for each in self._waiting if each.deadline > now)
        return late

    def remove(self, is_lost: Callable[[Query], bool]) -> list[Query]:
        """Forget those of which *is_lost* holds; return them."""
        lost = [each.query for each in self._waiting if is_lost(each.query)]
        if lost:
            self._keep(each for each in self._waiting if not is_lost(each.query))
        return lost

    def _keep(self, waiting: Iterable[_Waiter]) -> None:
        self._waiting = list(waiting)
        deadlines = [each.deadline for each in self._waiting]
        self._next_deadline = min(deadlines, default=0.0)
