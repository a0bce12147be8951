"""
Time that the wall clock cannot disturb.

Twisted schedules ``callLater`` on the wall clock: with the clock set back by a
minute, no timer fires for a minute, and with it set forward all fire at once.
A leader would fall silent, or followers stand for election, at every step of
NTP.  Everything here that times out goes by a :class:`MonotonicClock` instead.
"""

from __future__ import annotations

import math
import os
import threading
import time
from operator import methodcaller
from typing import TYPE_CHECKING, Any

from twisted.internet.task import Clock

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.base import DelayedCall

#: A thread may not sleep for ever in one piece.
_LONGEST_REST = 3600.0

_clocks: dict[Any, MonotonicClock] = {}


def default_reactor() -> Any:
    """
    Return the reactor of this process.

    Importing it installs one; so nothing here imports it before it has to.
    """
    from twisted.internet import reactor  # noqa: PLC0415 - see above

    return reactor


def monotonic_clock(reactor: Any) -> MonotonicClock:
    """Return the clock that all servers on *reactor* share, ticking."""
    clock = _clocks.get(reactor)
    if clock is None:
        clock = _clocks[reactor] = MonotonicClock(reactor)
    return clock


def _begin_again() -> None:
    for reactor, clock in list(_clocks.items()):
        # A reactor in a thread of the parent's is not here.
        if getattr(reactor, "ends_with_process", False):
            del _clocks[reactor]
        else:
            clock.begin_again()


os.register_at_fork(after_in_child=_begin_again)


class MonotonicClock(Clock):
    """
    An ``IReactorTime`` that goes by ``time.monotonic``.

    A thread sleeps until the next timer is due, and wakes the reactor then,
    while somebody needs it: see :meth:`start`.

    Args:
        reactor: In whose thread the timers fire.
    """

    def __init__(self, reactor: Any) -> None:
        super().__init__()
        self._reactor = reactor
        self._users = 0
        self._alarm: _Alarm | None = None
        self._is_catching_up = False

    def seconds(self) -> float:
        """Return the time in seconds since an arbitrary moment."""
        return time.monotonic()

    def callLater(
        self,
        delay: float,
        callable: Callable[..., object],  # noqa: A002 - Twisted's name
        *args: object,
        **kw: object,
    ) -> Any:
        """Have *callable* called when *delay* seconds have passed; see Twisted's."""
        call: Any = super().callLater(delay, callable, *args, **kw)
        # Called when the call is put to an earlier time.
        call.resetter = self._look_at
        self._look_at(call)
        return call

    def start(self) -> None:
        """Let timers fire until :meth:`stop` is called as often."""
        self._users += 1
        if self._users == 1:
            self._begin()

    def begin_again(self) -> None:
        """Go on in a forked process, such as a daemon: threads do not cross over."""
        if self._users:
            self._begin()

    def _begin(self) -> None:
        self._alarm = _Alarm(self._wake)
        self._look()
        self._alarm.start()

    def stop(self) -> None:
        """Let the clock stand still if nobody else needs it."""
        self._users -= 1
        if not self._users and self._alarm is not None:
            self._alarm.stop()
            self._alarm = None

    def _look_at(self, call: DelayedCall) -> None:
        """Have the alarm go off when *call* is due, if not before."""
        if self._alarm is not None and not self._is_catching_up:
            self._alarm.set(call.getTime())

    def _look(self) -> None:
        """Have the alarm go off when the first timer is due."""
        if self.calls:
            self._look_at(min(self.calls, key=methodcaller("getTime")))

    def _wake(self) -> None:
        self._reactor.callFromThread(self._catch_up)

    def _catch_up(self) -> None:
        self._is_catching_up = True
        try:
            self.advance(0)
        finally:
            self._is_catching_up = False
            self._look()


class _Alarm:
    """
    A thread that calls *ring* once when the time that was set has come.

    A reactor that is late so has one wake-up before it at most: nobody sets
    the alarm again before it has been heard.
    """

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._due = math.inf
        self._is_over = False
        # Free when there is a reason to look at the time again.
        self._news = threading.Lock()

    def start(self) -> None:
        """Begin to watch the time."""
        threading.Thread(target=self._watch, name="raft-clock", daemon=True).start()

    def stop(self) -> None:
        """Never ring again, but for a ring that is under way."""
        self._is_over = True
        self._tell()

    def set(self, due: float) -> None:
        """Ring at *due*, unless it is set to an earlier time."""
        if due < self._due:
            self._due = due
            self._tell()

    def _tell(self) -> None:
        if self._news.locked():
            self._news.release()

    def _watch(self) -> None:
        while not self._is_over:
            rest = self._due - time.monotonic()
            if rest > 0:
                self._news.acquire(timeout=min(rest, _LONGEST_REST))
            else:
                # What is set from here on may be overwritten; but whoever
                # hears the ring looks again.
                self._due = math.inf
                self._ring()
