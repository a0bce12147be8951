"""
Storage in a Python list: for tests, and for clusters that live in one process.

A server on it forgets its term, its vote and its log when it stops, so it
must not come back under its old name to a cluster that goes on without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from consensus.core.values import Entry, HardState
from consensus.errors import CompactedError, StorageError
from consensus.interfaces import Storage

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from consensus.core.values import LogIndex, Term

_FIRST_INDEX = 1


class MemoryStorage(Storage):
    """A log that is gone at :meth:`close`; nothing is written anywhere."""

    durable = False
    blocking = False

    def __init__(self, options: Any = None) -> None:
        """Keep *options*; begin empty."""
        super().__init__(options)
        self._entries: list[Entry] = []
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
        if not entries:
            raise StorageError("nothing to append")
        first = entries[0].index
        if not _FIRST_INDEX <= first <= self.last_index() + 1:
            message = f"entry {first} does not follow {self.last_index()}"
            raise StorageError(message)
        for expected, entry in enumerate(entries, first):
            if entry.index != expected:
                message = f"entry {entry.index} stands in the place of {expected}"
                raise StorageError(message)
        self._entries[first - _FIRST_INDEX :] = entries

    def entries(
        self, first: LogIndex, last: LogIndex, max_bytes: int
    ) -> Sequence[Entry]:
        """Return the very entries that were appended."""
        self._check_bounds(first, last)
        found: list[Entry] = []
        size = 0
        for entry in self._entries[first - _FIRST_INDEX : last]:
            size += len(entry.command)
            if found and size > max_bytes:
                break
            found.append(entry)
        return found

    def term(self, index: LogIndex) -> Term:
        """Return the term of the entry at *index*."""
        if index == 0:
            return 0
        self._check_bounds(index, index)
        return self._entries[index - _FIRST_INDEX].term

    def first_index(self) -> LogIndex:
        """Return 1: nothing is ever compacted."""
        return _FIRST_INDEX

    def last_index(self) -> LogIndex:
        """Return how many entries there are."""
        return len(self._entries)

    def sync(self) -> None:
        """Return at once: there is nothing to wait for."""

    def close(self) -> None:
        """Forget everything."""
        self._entries = []
        self._hard_state = HardState()

    def _check_bounds(self, first: LogIndex, last: LogIndex) -> None:
        if first < _FIRST_INDEX:
            raise CompactedError(_FIRST_INDEX)
        if last > self.last_index():
            message = f"entry {last} is beyond the last, {self.last_index()}"
            raise StorageError(message)
