"""Storages for tests of the shell: they last, they fail, they keep a diary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from adapters.storage.memory import MemoryStorage
from consensus.core.values import HardState
from consensus.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from consensus.core.values import Entry


class LastingStorage(MemoryStorage):
    """A memory storage whose synced content a restart finds again."""

    durable = True
    disks: ClassVar[dict[Path, tuple[HardState, list[Entry]]]] = {}

    def open(self, directory: Path) -> None:
        """Find what was synced in *directory*."""
        super().open(directory)
        self._directory = directory
        hard_state, entries = self.disks.get(directory, (HardState(), []))
        super().save_hard_state(hard_state)
        if entries:
            super().append(entries)

    def sync(self) -> None:
        """Let a restart find all that was written so far."""
        last = self.last_index()
        entries = list(self.entries(1, last, 1 << 40)) if last else []
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


def reset(**_: Any) -> None:
    """Forget all disks and diaries."""
    LastingStorage.disks.clear()
    DiaryStorage.diary.clear()
    DiaryStorage.broken.clear()
