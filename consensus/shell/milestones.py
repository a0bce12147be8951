"""
When entries were appended, stored, committed and applied at this server.

What is remembered is one record for each batch and step: the first entry, the
last one, and the time of day.  A write alone costs no more than its batch.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from consensus.core.ready import Ready
    from consensus.core.values import Entry, LogIndex

    #: The first entry of a batch, the last, and the time in seconds since 1970.
    Batch = tuple[LogIndex, LogIndex, float]

#: Batches that are remembered of each step.
REMEMBERED = 2048


class Times(NamedTuple):
    """
    When one entry came how far; ``None`` where nobody remembers.

    Args:
        appended: It entered the log, and was handed to storage.
        stored: It was durable.
        committed: This server knew it to be committed.
        applied: The state machine had it.
    """

    appended: float | None
    stored: float | None
    committed: float | None
    applied: float | None


class Milestones:
    """
    Remembers the latest batches.

    Args:
        commit_index: Up to where all was committed at the start.
        wall: Tells the time of day.
        remembered: So many batches of each step are kept.
    """

    def __init__(
        self,
        commit_index: LogIndex = 0,
        wall: Callable[[], float] = time.time,
        remembered: int = REMEMBERED,
    ) -> None:
        self._commit_index = commit_index
        self._wall = wall
        self._appended: deque[Batch] = deque(maxlen=remembered)
        self._stored: deque[Batch] = deque(maxlen=remembered)
        self._committed: deque[Batch] = deque(maxlen=remembered)
        self._applied: deque[Batch] = deque(maxlen=remembered)

    def see(self, ready: Ready, commit_index: LogIndex) -> None:
        """Note what *ready* appends, and up to where the log is committed now."""
        if ready.entries:
            self._note(self._appended, ready.entries)
        if commit_index > self._commit_index:
            first = self._commit_index + 1
            self._committed.append((first, commit_index, self._wall()))
            self._commit_index = commit_index

    def stored(self, entries: Sequence[Entry]) -> None:
        """Note that *entries* are durable."""
        if entries:
            self._note(self._stored, entries)

    def applied(self, entries: Sequence[Entry]) -> None:
        """Note that the state machine has *entries*."""
        self._note(self._applied, entries)

    def _note(self, batches: deque[Batch], entries: Sequence[Entry]) -> None:
        batches.append((entries[0].index, entries[-1].index, self._wall()))

    def of(self, index: LogIndex) -> Times:
        """Return when the entry that is at *index* now came how far."""
        appended, stored = _latest(self._appended, index), _latest(self._stored, index)
        if appended is not None and stored is not None and stored < appended:
            stored = None  # that was another entry, which this one replaced
        return Times(
            appended,
            stored,
            _latest(self._committed, index),
            _latest(self._applied, index),
        )


def _latest(batches: deque[Batch], index: LogIndex) -> float | None:
    """Return the time of the latest of *batches* with the entry at *index*."""
    for first, last, when in reversed(batches):
        if first <= index <= last:
            return when
    return None
