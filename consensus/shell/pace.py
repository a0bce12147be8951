"""
The pace of a server: how long its ticks are, and what they count.

Deadlines are counted in ticks as long as they were at the start, so that they
mean the same time when ticks have another length.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from consensus.settings.values import Timing

#: A leader without writes speaks once in so many ticks.
TICKS_PER_HEARTBEAT = 5


class Pace:
    """
    Ticks, at the interval that the config asks for.

    Args:
        timing: Says how long a tick is.
        clock: What has them come.
        tick: Called with each.
    """

    def __init__(self, timing: Timing, clock: Any, tick: Callable[[], None]) -> None:
        self._unit = timing.heartbeat_interval / TICKS_PER_HEARTBEAT
        self._clock = clock
        self._tick = tick
        self._waiting: Any = None
        self._next = 0.0
        #: The time, in ticks of the first length.
        self.now = 0.0
        self.interval = self._unit
        self.adopt(timing)

    def adopt(self, timing: Timing) -> None:
        """Be as *timing* says from now on."""
        before = self.interval
        #: The length of a tick, in seconds.
        self.interval = timing.heartbeat_interval / TICKS_PER_HEARTBEAT
        #: The same in ticks of the first length.
        self.stretch = self.interval / self._unit
        #: How long a call may take, in those.
        self.patience = max(1, round(timing.request_timeout / self._unit))
        #: How long a write to the disk may take, in those.
        self.stall = max(1, round(timing.disk_stall_timeout / self._unit))
        if self._waiting is not None and self.interval != before:
            self.stop()
            self.start()

    @property
    def deadline(self) -> float:
        """Return when a call fails that is made now."""
        return self.now + self.patience

    @property
    def ticks_per_second(self) -> float:
        """Return what a second is in ticks of the first length."""
        return 1 / self._unit

    @property
    def stall_seconds(self) -> float:
        """Return how long a write to the disk may take, in seconds."""
        return self.stall * self._unit

    def start(self) -> None:
        """Begin to tick."""
        self._next = self._clock.seconds()
        self._later()

    def stop(self) -> None:
        """Tick no more."""
        if self._waiting is not None and self._waiting.active():
            self._waiting.cancel()

    def _later(self) -> None:
        """
        Have the next tick when it is due; those that were missed are left out.

        Due times are an interval apart: a tick that comes late does not put
        off those that follow.
        """
        interval, now = self.interval, self._clock.seconds()
        self._next += interval
        if self._next <= now:
            self._next = now + interval - (now - self._next) % interval
        self._waiting = self._clock.callLater(self._next - now, self._due)

    def _due(self) -> None:
        """
        Let one tick pass.

        One only, however late it comes: after a pause of the process, the
        messages that arrived meanwhile are heard before time runs out.
        """
        self._later()
        self.now += self.stretch
        self._tick()
