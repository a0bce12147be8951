"""
Virtual time, and the processes that live in it.

Everything that is going to happen stands in one queue, in order; nothing waits.
A :class:`Host` is what one process has of it: a reactor, and a clock that may
be fast or slow.  It can be paused, as by a signal or a busy hypervisor, and it
can die at any moment, as by ``kill -9``.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

from twisted.internet.error import AlreadyCalled, AlreadyCancelled

if TYPE_CHECKING:
    from collections.abc import Callable


class Timer:
    """
    A call that is due some day; an ``IDelayedCall``.

    Args:
        host: By whose clock.
        due: When, by the virtual time.
        call: What is called.
    """

    __slots__ = ("call", "due", "host", "state")

    def __init__(self, host: Host, due: float, call: Callable[[], Any]) -> None:
        self.host = host
        self.due = due
        self.call = call
        self.state = "active"

    def __call__(self) -> None:
        """Call it: it is due."""
        self.state = "called"
        self.call()

    def active(self) -> bool:
        """Say whether it is still to be called."""
        return self.state == "active"

    def getTime(self) -> float:
        """Return when it is due, by its host's clock."""
        return self.host.seconds() + (self.due - self.host.time.now) * self.host.rate

    def cancel(self) -> None:
        """Let it never be called."""
        if self.state == "called":
            raise AlreadyCalled
        if self.state == "cancelled":
            raise AlreadyCancelled
        self.state = "cancelled"

    def reset(self, secondsFromNow: float) -> None:  # noqa: N803 - Twisted's name
        """Let it be due so many seconds from now."""
        self.cancel()
        self.state = "active"
        moved = self.host.callLater(secondsFromNow, self.call)
        # The new one is called in this one's name.
        moved.call = self
        self.due = moved.due

    def delay(self, secondsLater: float) -> None:  # noqa: N803 - Twisted's name
        """Let it be due so many seconds later."""
        self.reset(self.getTime() - self.host.seconds() + secondsLater)


class VirtualTime:
    """The queue of all that is going to happen."""

    def __init__(self) -> None:
        #: In seconds, from 0.
        self.now = 0.0
        #: How much has happened.
        self.steps = 0
        self._queue: list[tuple[float, int, Host | None, Callable[..., Any], Any]] = []
        self._count = 0

    def at(
        self,
        when: float,
        function: Callable[..., Any],
        *args: Any,
        host: Host | None = None,
    ) -> None:
        """Call *function* at *when*, on *host* if it is alive and not paused."""
        self._count += 1
        heappush(self._queue, (when, self._count, host, function, args))

    def advance(self, end: float) -> None:
        """Let all happen that is due up to *end*."""
        while self._queue and self._queue[0][0] <= end:
            self.step()
        self.now = max(self.now, end)

    def step(self) -> None:
        """Let the next thing happen."""
        when, _, host, function, args = heappop(self._queue)
        if type(function) is Timer and function.state != "active":
            return
        # A call may be made for a moment that has passed.
        self.now = max(self.now, when)
        self.steps += 1
        if host is None:
            function(*args)
        else:
            host.perform(function, *args)


class Host:
    """
    One process: an ``IReactorTime``, and ``callFromThread``.

    Args:
        time: What it lives in.
        name: For people.
        rate: How many seconds its clock counts in one.
        seen: Called after everything that happened here.
    """

    def __init__(
        self,
        time: VirtualTime,
        name: str,
        rate: float = 1.0,
        seen: Callable[[], None] | None = None,
    ) -> None:
        self.time = time
        self.name = name
        self.rate = rate
        self.is_alive = True
        #: How many pauses are on.
        self.pauses = 0
        self._seen = seen
        self._base = self._since = time.now
        self._waiting: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()

    def seconds(self) -> float:
        """Return what the clock shows."""
        return self._base + (self.time.now - self._since) * self.rate

    def set_rate(self, rate: float) -> None:
        """Let the clock go faster or slower from now on; it does not jump."""
        self._base, self._since = self.seconds(), self.time.now
        self.rate = rate

    def callLater(
        self, delay: float, function: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Timer:
        """Call *function* after *delay* seconds of this clock."""

        def call() -> None:
            function(*args, **kwargs)

        plain = not (args or kwargs)
        due = self.time.now + delay / self.rate
        timer = Timer(self, due, function if plain else call)
        self.time.at(due, timer, host=self)
        return timer

    def callFromThread(self, function: Callable[..., Any], *args: Any) -> None:
        """Call *function* on the next turn."""
        self.time.at(self.time.now, function, *args, host=self)

    def getDelayedCalls(self) -> list[Timer]:
        """Return nothing: whoever waits for these would wait for ever."""
        return []

    def perform(self, function: Callable[..., Any], *args: Any) -> None:
        """Call *function* now; when the pause is over; or never."""
        if self.pauses:
            self._waiting.append((function, args))
            return
        if self.is_alive and not (type(function) is Timer and not function.active()):
            function(*args)
            if self._seen is not None:
                self._seen()

    def pause(self) -> None:
        """Let nothing happen here until :meth:`resume`; what is due waits."""
        self.pauses += 1

    def resume(self) -> None:
        """End one pause; after the last one, all that waited happens at once."""
        self.pauses -= 1
        if not self.pauses:
            waiting, self._waiting = self._waiting, deque()
            for function, args in waiting:
                self.time.at(self.time.now, function, *args, host=self)

    def kill(self) -> None:
        """Let nothing happen here any more."""
        self.is_alive = False
        self.pauses = 0
        self._waiting.clear()
