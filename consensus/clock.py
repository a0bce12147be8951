"""
Time that the wall clock cannot disturb.

Twisted schedules ``callLater`` on the wall clock: with the clock set back by a
minute, no timer fires for a minute, and with it set forward all fire at once.
A leader would fall silent, or followers stand for election, at every step of
NTP.  Everything here that times out goes by a :class:`MonotonicClock` instead.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Any

from twisted.internet.task import Clock

#: How often the clock moves, in seconds; timers fire up to this much late.
RESOLUTION = 0.01

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
    for clock in _clocks.values():
        clock.begin_again()


os.register_at_fork(after_in_child=_begin_again)


class MonotonicClock(Clock):
    """
    An ``IReactorTime`` that goes by ``time.monotonic``.

    A thread wakes the reactor every :data:`RESOLUTION` seconds while somebody
    needs it: see :meth:`start`.

    Args:
        reactor: In whose thread the timers fire.
    """

    def __init__(self, reactor: Any) -> None:
        super().__init__()
        self._reactor = reactor
        self._users = 0
        self._stop = threading.Event()
        self._is_woken = False

    def seconds(self) -> float:
        """Return the time in seconds since an arbitrary moment."""
        return time.monotonic()

    def start(self) -> None:
        """Keep the clock ticking until :meth:`stop` is called as often."""
        self._users += 1
        if self._users == 1:
            self._begin()

    def begin_again(self) -> None:
        """Go on in a forked process, such as a daemon: threads do not cross over."""
        self._is_woken = False
        if self._users:
            self._begin()

    def _begin(self) -> None:
        self._stop = threading.Event()
        threading.Thread(
            target=self._tick, args=(self._stop,), name="raft-clock", daemon=True
        ).start()

    def stop(self) -> None:
        """Let the clock stand still if nobody else needs it."""
        self._users -= 1
        if not self._users:
            self._stop.set()

    def _tick(self, stop: threading.Event) -> None:
        while not stop.wait(RESOLUTION):
            # A reactor that is late has the last wake-up still before it.
            if not self._is_woken:
                self._is_woken = True
                self._reactor.callFromThread(self._catch_up)

    def _catch_up(self) -> None:
        self._is_woken = False
        self.advance(0)
