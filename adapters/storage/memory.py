"""
Storage in a Python list: for tests, and for clusters that live in one process.

A server on it forgets its term, its vote and its log when it stops, so it
must not come back under its old name to a cluster that goes on without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adapters.storage.records import Extent
from consensus.core.values import HardState
from consensus.entries import fitting
from consensus.interfaces import Storage

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from consensus.core.values import Entry, LogIndex, Term


class MemoryStorage(Storage):
    """A log that is gone at :meth:`close`; nothing is written anywhere."""

    durable = False
    blocking = False

    def __init__(self, options: Any = None) -> None:
        """Keep *options*; begin empty."""
        super().__init__(options)
        self._entries: list[Entry] = []
        self._extent = Extent()
        self._hard_state = HardState()

    def open(self, directory: Path) -> None:  # noqa: ARG002 - nothing is in it
        """Begin anew; *directory* is not looked at."""
        self.close()

    def hard_state(self) -> HardState:
        """Return what was saved last."""
        return self._hard_state

    def save_hard_state(self, hard_state: HardState) -> None:
        """Keep *hard_state* until :meth:`close`."""
        self._hard_state = hard_state

    def append(self, entries: Sequence[Entry]) -> None:
        """Keep *entries* until :meth:`close`."""
        self._extent.check_append(entries)
        self._entries[entries[0].index - self._extent.first_index :] = entries
        self._extent = self._extent.appended(entries)

    def entries(
        self, first: LogIndex, last: LogIndex, max_bytes: int
    ) -> Sequence[Entry]:
        """Return the very entries that were appended."""
        self._extent.check_range(first, last)
        begin = self._extent.first_index
        return fitting(self._entries[first - begin : last - begin + 1], max_bytes)

    def term(self, index: LogIndex) -> Term:
        """Return the term of the entry at *index*."""
        if index == self._extent.base_index:
            return self._extent.base_term
        self._extent.check_range(index, index)
        return self._entries[index - self._extent.first_index].term

    def first_index(self) -> LogIndex:
        """Return the index of the first entry in the list."""
        return self._extent.first_index

    def last_index(self) -> LogIndex:
        """Return the index of the last entry in the list."""
        return self._extent.last_index

    def compact(self, index: LogIndex, term: Term) -> None:
        """Drop the beginning of the list."""
        extent = self._extent
        if index < extent.first_index:
            return
        keeps = index <= extent.last_index and self.term(index) == term
        dropped = index - extent.base_index if keeps else len(self._entries)
        del self._entries[:dropped]
        self._extent = extent.compacted(index, term, keeps=keeps)

    def membership_indexes(self) -> Sequence[LogIndex]:
        """Return what the appends have noted."""
        return self._extent.memberships

    def sync(self) -> None:
        """Return at once: there is nothing to wait for."""

    def close(self) -> None:
        """Forget everything."""
        self._entries = []
        self._extent = Extent()
        self._hard_state = HardState()
