"""
The wall clock of a process, which can be moved.

It has to be in place before anything is imported that keeps ``time.time``, as
Twisted does; so this module imports nothing of ours.
"""

from __future__ import annotations

import time

_NANOSECONDS = 1_000_000_000


class WallClock:
    """
    Stands in for ``time.time`` and ``time.time_ns``, some seconds off.

    What asks the system in another way, such as ``datetime.now``, is not
    misled.
    """

    def __init__(self) -> None:
        self._seconds = time.time
        self._nanoseconds = time.time_ns
        #: How many seconds it is fast; below 0, slow.
        self.skew = 0.0

    def install(self) -> None:
        """Let this process have this clock from now on."""
        time.time = self.seconds
        time.time_ns = self.nanoseconds

    def seconds(self) -> float:
        """Return what ``time.time`` is to say."""
        return self._seconds() + self.skew

    def nanoseconds(self) -> int:
        """Return what ``time.time_ns`` is to say."""
        return self._nanoseconds() + round(self.skew * _NANOSECONDS)
