"""Storages for tests of the shell: they last, they fail, they keep a diary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from adapters.storage.memory import MemoryStorage
from consensus.core.values import HardState
from consensus.errors import DiskFullError, StorageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from consensus.core.values import Entry, LogIndex, Term


class LastingStorage(MemoryStorage):
    """A memory storage whose synced content a restart finds again."""

    durable = True
    disks: ClassVar[dict[Path, tuple[HardState, list[Entry]]]] = {}
    #: Index and term of the last dropped entry, where there is one.
    bases: ClassVar[dict[Path, tuple[LogIndex, Term]]] = {}

    def open(self, directory: Path) -> None:
        """Find what was synced in *directory*."""
        super().open(directory)
        self._directory = directory
        self._is_open = True
        hard_state, entries = self.disks.get(directory, (HardState(), []))
        super().save_hard_state(hard_state)
        super().compact(*self.bases.get(directory, (0, 0)))
        if entries:
            super().append(entries)

    def close(self) -> None:
        """Forget what was not synced; later calls are of no effect."""
        super().close()
        self._is_open = False

    def sync(self) -> None:
        """Let a restart find all that was written so far."""
        if not self._is_open:
            raise StorageError("it is not open")
        first, last = self.first_index(), self.last_index()
        entries = list(self.entries(first, last, 1 << 40)) if first <= last else []
        self.bases[self._directory] = (first - 1, self.term(first - 1))
        self.disks[self._directory] = (self.hard_state(), entries)


class DiaryStorage(LastingStorage):
    """Writes down what it is asked for; fails when it is told to."""

    #: ``(server, what)`` of every server, oldest first.
    diary: ClassVar[list[tuple[str, str]]] = []
    #: The servers whose next sync fails.
    broken: ClassVar[set[str]] = set()

    def _note(self, what: str) -> None:
        self.diary.append((self._directory.name, what))

    def save_hard_state(self, hard_state: HardState) -> None:
        """Note the term and the vote."""
        super().save_hard_state(hard_state)
        self._note(f"save {hard_state.term} {hard_state.vote}")

    def append(self, entries: Sequence[Entry]) -> None:
        """Note the indexes."""
        super().append(entries)
        self._note(f"append {entries[0].index}-{entries[-1].index}")

    def sync(self) -> None:
        """Note it, or fail."""
        if self._directory.name in self.broken:
            raise StorageError("the disk is on fire")
        super().sync()
        self._note("sync")

    def open(self, directory: Path) -> None:
        """Open without a note."""
        self._directory = directory
        super().open(directory)


class FullStorage(LastingStorage):
    """A storage whose disk is full for as long as the test likes."""

    #: The servers whose disks are full.
    full: ClassVar[set[str]] = set()

    def append(self, entries: Sequence[Entry]) -> None:
        """Append, or lose all since the last sync."""
        self._need_room()
        super().append(entries)

    def save_hard_state(self, hard_state: HardState) -> None:
        """Save, or lose all since the last sync."""
        self._need_room()
        super().save_hard_state(hard_state)

    def compact(self, index: LogIndex, term: Term) -> None:
        """Compact, or lose all since the last sync."""
        self._need_room()
        super().compact(index, term)

    def sync(self) -> None:
        """Sync, or lose all since the last one."""
        self._need_room()
        super().sync()

    def open(self, directory: Path) -> None:
        """Open, full or not."""
        self._is_opening = True
        super().open(directory)
        self._is_opening = False

    def _need_room(self) -> None:
        if not self._is_opening and self._directory.name in self.full:
            self.open(self._directory)
            raise DiskFullError("no space left on device")


def reset(**_: Any) -> None:
    """Forget all disks and diaries."""
    LastingStorage.disks.clear()
    LastingStorage.bases.clear()
    DiaryStorage.diary.clear()
    DiaryStorage.broken.clear()
    FullStorage.full.clear()
