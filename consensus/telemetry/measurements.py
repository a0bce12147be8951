"""
What a server counts on its way: plain integers, a few for each batch.

A write costs some ten microseconds in all, so nothing here is done for each
of them; and there is no lock, as everything but what the storage's thread
measures happens in the reactor's.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING

import msgspec

from consensus.core.ready import RoleChanged
from consensus.errors import RaftError
from consensus.telemetry.histogram import LONG_SECONDS, SIZES, Histogram

if TYPE_CHECKING:
    from collections.abc import Callable

    from consensus.core.ready import Event

#: So many batches, and
_MAX_LATENCIES = 300

#: so many seconds of writes are remembered.
_MAX_SECONDS = 300


class Second(msgspec.Struct):
    """
    The writes that were answered within one second.

    Args:
        at: Seconds before now.
        writes: How many.
        mean: How long they took, on average, in seconds.
        worst: How long the slowest batch took.
    """

    at: float
    writes: int
    mean: float
    worst: float


class Measurements:
    """
    What one server counts, from the making of its object on.

    Args:
        seconds: Returns the time, by the clock of the server.
    """

    def __init__(self, seconds: Callable[[], float]) -> None:
        self.seconds = seconds
        #: How often another leader was found.
        self.leader_changes = 0
        self._leader: str | None = None
        #: Commands that entered this server's log as a leader.
        self.proposals = 0
        #: Calls that failed, by the code of their error.
        self.failures: Counter[str] = Counter()
        #: Reads that were taken, by consistency.
        self.reads: Counter[str] = Counter()
        #: From when the first of a batch came until all were answered.
        self.write_seconds = Histogram()
        #: From when a batch was proposed until it was committed.
        self.commit_seconds = Histogram()
        #: For what was committed together.
        self.apply_seconds = Histogram()
        #: Commands that were proposed together.
        self.batch_sizes = Histogram(SIZES)
        #: For snapshots that were taken.
        self.snapshot_seconds = Histogram(LONG_SECONDS)
        self.snapshot_bytes = 0
        #: Snapshots of a leader that replaced this server's state.
        self.restores = 0
        #: How long the latest batches of writes took.
        self.latencies: deque[float] = deque(maxlen=_MAX_LATENCIES)
        # Per second: when it began, writes, their seconds, the worst.
        self._recent: deque[list[float]] = deque(maxlen=_MAX_SECONDS)

    def heard(self, event: Event) -> None:
        """Note what the core reports."""
        if isinstance(event, RoleChanged) and event.leader not in {None, self._leader}:
            self._leader = event.leader
            self.leader_changes += 1

    def failed(self, error: Exception, count: int = 1) -> None:
        """Note that *count* calls failed with *error*."""
        code = error.code if isinstance(error, RaftError) else "bug"
        self.failures[code] += count

    def proposed(self, count: int) -> float:
        """Note that *count* commands entered the log together; return when."""
        self.proposals += count
        self.batch_sizes.observe(count)
        return self.seconds()

    def wrote(self, began: float, count: int) -> None:
        """Note that *count* writes are answered, the first of which came at *began*."""
        now = self.seconds()
        took = now - began
        self.write_seconds.observe(took, count)
        self.latencies.append(took)
        recent = self._recent
        if not recent or now - recent[-1][0] >= 1.0:
            recent.append([now, 0, 0.0, 0.0])
        second = recent[-1]
        second[1] += count
        second[2] += took * count
        second[3] = max(second[3], took)

    def recent(self) -> list[Second]:
        """Return the last few minutes' writes, second by second."""
        now = self.seconds()
        return [
            Second(now - began, int(count), total / count, worst)
            for began, count, total, worst in self._recent
            if now - began <= _MAX_SECONDS
        ]
