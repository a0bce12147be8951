"""
Those who wait for a leader, or for another one.

They are bounded, each has a deadline where its caller wants one, and every
Deferred fires.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from twisted.internet.defer import Deferred

from consensus.errors import OverloadedError, TimedOutError

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from consensus.core.values import ServerId

#: Callers that may wait for one event of a server, such as a new leader.
MAX_WAITERS = 1000


class _LeaderWaiter(NamedTuple):
    """Somebody who waits for a leader, but for none of these."""

    answer: Deferred[ServerId]
    other_than: frozenset[ServerId]


class LeaderWaiters:
    """
    Those who wait until a leader is known.

    Args:
        clock: What their timeouts go by.
    """

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self._waiting: list[_LeaderWaiter] = []

    def add(
        self, timeout: float | None, other_than: frozenset[ServerId]
    ) -> Deferred[ServerId]:
        """
        Wait for a leader that is none of *other_than*, so many seconds.

        Raises:
            OverloadedError: Too many are waiting.
        """
        if len(self._waiting) >= MAX_WAITERS:
            self._waiting = [each for each in self._waiting if not each.answer.called]
        if len(self._waiting) >= MAX_WAITERS:
            raise OverloadedError("too many callers wait for a leader; back off")
        answer: Deferred[ServerId] = Deferred()
        self._waiting.append(_LeaderWaiter(answer, other_than))
        if timeout is not None:
            answer.addTimeout(timeout, self._clock, partial(_no_leader, timeout))
        return answer

    def known(self, leader: ServerId) -> None:
        """Tell those whom *leader* suits."""
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if leader in waiter.other_than:
                self._waiting.append(waiter)
            elif not waiter.answer.called:
                waiter.answer.callback(leader)

    def fail(self, error: Exception) -> None:
        """Tell all of them."""
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.answer.called:
                waiter.answer.errback(error)


def _no_leader(timeout: float, result: Any, after: float) -> Any:
    del result, after
    message = f"no leader within {timeout:g} s"
    raise TimedOutError(message)


class Transfers:
    """
    Those who wait until somebody else leads.

    Args:
        clock: What their timeouts go by.
    """

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self._waiting: list[Deferred[ServerId]] = []

    def check(self) -> None:
        """
        See that one more may wait.

        Raises:
            OverloadedError: Too many are waiting.
        """
        if len(self._waiting) >= MAX_WAITERS:
            self._waiting = [each for each in self._waiting if not each.called]
        if len(self._waiting) >= MAX_WAITERS:
            raise OverloadedError("too many callers wait for a transfer; back off")

    def add(self, timeout: float) -> Deferred[ServerId]:
        """Wait for who leads then, so many seconds."""
        waiter: Deferred[ServerId] = Deferred()
        self._waiting.append(waiter)
        return waiter.addTimeout(timeout, self._clock, _nobody_leads)

    def end(self, outcome: ServerId | Failure) -> None:
        """Tell all of them."""
        waiters, self._waiting = self._waiting, []
        for waiter in waiters:
            if not waiter.called:
                waiter.callback(outcome)


def _nobody_leads(result: Any, timeout: float) -> Any:
    """Fail as a transfer of leadership does that has come to nothing."""
    del result, timeout
    raise TimedOutError("nobody has taken over leadership yet")
