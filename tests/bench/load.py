"""
What issues operations and times them, inside the process that is measured.

An operation is a function that takes its number and returns a Deferred.  What
is refused because of too much load is tried again after a pause, as a client
does; its time counts from the first attempt.
"""

from __future__ import annotations

import random
import time
from abc import ABC, abstractmethod
from collections import Counter
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred

from consensus.errors import InvalidCommandError
from tests.bench.figures import Sample, quantiles

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.python.failure import Failure

    Operation = Callable[[int], Deferred[Any]]

#: How often the throughput is looked at, in seconds.
TICK = 0.1

# Pauses before another attempt, as those of the cluster's client.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.5
_STEP = 0.01

# Thousands of callers are not thousands of calls in one turn of the reactor: the
# server would send no heartbeats meanwhile.
_SLICE = 256


class _Load(ABC):
    """What closed and open loops have in common."""

    def __init__(
        self,
        operation: Operation,
        reactor: Any,
        seconds: float,
        now: Callable[[], float],
    ) -> None:
        self._now = now
        self._operation = operation
        self._reactor = reactor
        self._seconds = seconds
        self._finished: Deferred[Sample] = Deferred()
        self._latencies: list[float] = []
        self._errors: Counter[str] = Counter()
        self._issued = 0
        self._under_way = 0
        self._rates: list[float] = []
        self._last_look = (0.0, 0)
        self._step = 0
        self._put_off_until: dict[int, list[tuple[float, int, int]]] = {}

    def run(self) -> Deferred[Sample]:
        """Begin; the Deferred gives what was measured."""
        self._began = self._now()
        self._deadline = self._began + self._seconds
        self._last_look = (self._began, 0)
        self._reactor.callLater(TICK, self._look)
        self.begin()
        return self._finished

    @abstractmethod
    def begin(self) -> None:
        """Issue the first operations."""

    def _issue(self) -> None:
        number = self._issued
        self._issued = number + 1
        self._under_way += 1
        self._start(number, self._now(), 0)

    def _start(self, number: int, began: float, tries: int) -> None:
        self._operation(number).addCallbacks(
            self._done,
            self._failed,
            callbackArgs=(began,),
            errbackArgs=(began, number, tries),
        )

    def _done(self, _: Any, began: float) -> None:
        now = self._now()
        self._latencies.append(now - began)
        self._under_way -= 1
        self.after(now)

    def _failed(self, failure: Failure, began: float, number: int, tries: int) -> None:
        error = failure.value
        self._errors[type(error).__name__] += 1
        if isinstance(error, InvalidCommandError):
            if not self._finished.called:
                self._finished.errback(failure)
            return
        longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(tries, 10))
        pause = longest * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
        self._put_off(int(pause / _STEP), began, number, tries + 1)

    def _put_off(self, steps: int, began: float, number: int, tries: int) -> None:
        """Try again later; a timer for each of thousands would cost too much."""
        due = self._step + steps
        if not self._put_off_until:
            self._reactor.callLater(_STEP, self._next_step)
        self._put_off_until.setdefault(due, []).append((began, number, tries))

    def _next_step(self) -> None:
        self._step += 1
        due = self._put_off_until.pop(self._step, [])
        if self._put_off_until:
            self._reactor.callLater(_STEP, self._next_step)
        self._try_again(due)

    def _try_again(self, due: list[tuple[float, int, int]]) -> None:
        if len(due) > _SLICE:
            self._reactor.callLater(0, self._try_again, due[_SLICE:])
        for began, number, tries in due[:_SLICE]:
            if self._now() < self._deadline:
                self._start(number, began, tries)
            else:
                self._under_way -= 1
                self.after(self._now())

    @abstractmethod
    def after(self, now: float) -> None:
        """Go on after an operation."""

    def _look(self) -> None:
        if self._finished.called:
            return
        now, done = self._now(), len(self._latencies)
        before, done_before = self._last_look
        self._rates.append((done - done_before) / (now - before))
        self._last_look = (now, done)
        self._reactor.callLater(TICK, self._look)

    def _finish(self, now: float) -> None:
        if not self._finished.called:
            self._finished.callback(
                Sample(
                    len(self._latencies),
                    now - self._began,
                    quantiles(self._latencies),
                    self._rates,
                    dict(self._errors),
                )
            )


class ClosedLoop(_Load):
    """
    Some callers, each of which issues its next operation after its last.

    Args:
        operation: What they do.
        reactor: The reactor.
        outstanding: How many callers.
        seconds: For how long they begin new ones.
        count: Or how many operations there are, if that is sooner.
        now: What times are taken by, in seconds.
    """

    def __init__(
        self,
        operation: Operation,
        reactor: Any,
        *,
        outstanding: int,
        seconds: float = float("inf"),
        count: float = float("inf"),
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        super().__init__(operation, reactor, seconds, now)
        self._outstanding = outstanding
        self._count = count

    def stop(self) -> None:
        """Begin no more operations."""
        self._deadline = 0.0

    def begin(self) -> None:
        """Let every caller begin."""
        self._begin_some(self._outstanding)

    def _begin_some(self, callers: int) -> None:
        if self._finished.called:
            return
        for _ in range(min(callers, _SLICE, int(self._left()))):
            self._issue()
        if callers > _SLICE:
            self._reactor.callLater(0, self._begin_some, callers - _SLICE)

    def _left(self) -> float:
        """Return how many operations may still begin; at most what any slice is."""
        return min(_SLICE, self._count - self._issued)

    def _done(self, _: Any, began: float) -> None:
        # As the base and after() do, in one call: what the load takes of the
        # server's time is measured as the server's.
        now = self._now()
        self._latencies.append(now - began)
        number = self._issued
        if now < self._deadline and number < self._count:
            self._issued = number + 1
            self._start(number, now, 0)
        else:
            self._under_way -= 1
            self.after(now)

    def after(self, now: float) -> None:
        """Issue the next, unless that was it."""
        if now < self._deadline and self._issued < self._count:
            self._issue()
        elif not self._under_way:
            self._finish(now)


class OpenLoop(_Load):
    """
    Operations that come when they come (Poisson), however busy the server is.

    Args:
        operation: What they are.
        reactor: The reactor.
        rate: How many a second, on average.
        seconds: For how long.
        now: What times are taken by, in seconds.
    """

    def __init__(
        self,
        operation: Operation,
        reactor: Any,
        *,
        rate: float,
        seconds: float,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        super().__init__(operation, reactor, seconds, now)
        self._rate = rate

    def begin(self) -> None:
        """Wait for the first."""
        self._due = self._began
        self._wait()

    def _wait(self) -> None:
        self._due += random.expovariate(self._rate)
        self._reactor.callLater(max(0.0, self._due - self._now()), self._arrive)

    def _arrive(self) -> None:
        """Issue all that are due; each one's time counts from when it was."""
        now = self._now()
        while self._due <= now and self._due < self._deadline:
            number = self._issued
            self._issued = number + 1
            self._under_way += 1
            self._start(number, self._due, 0)
            self._due += random.expovariate(self._rate)
        if self._due < self._deadline:
            self._reactor.callLater(max(0.0, self._due - self._now()), self._arrive)
        elif not self._under_way:
            self._finish(self._now())

    def after(self, now: float) -> None:
        """Finish after the last."""
        if not self._under_way and self._due >= self._deadline:
            self._finish(now)
