"""
Storages that break a promise each, for the tests of the suite of storages.

``JournalStorage`` is a small right one that they are made of.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from adapters.storage.memory import MemoryStorage
from consensus.core.values import Entry, HardState
from consensus.errors import Finding, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from consensus.core.values import LogIndex, Term


class Journal(msgspec.Struct):
    """All that a ``JournalStorage`` keeps in its file."""

    term: int = 0
    vote: str | None = None
    entries: list[tuple[int, int, int, bytes]] = []
    base: tuple[int, int] = (0, 0)


class JournalStorage(MemoryStorage):
    """A list that each sync writes to a file, whole."""

    durable = True

    def open(self, directory: Path) -> None:
        super().open(directory)
        self.directory = directory
        journal = self.load()
        self._hard_state = HardState(journal.term, journal.vote)
        if journal.base != (0, 0):
            super().compact(*journal.base)
        if journal.entries:
            super().append([Entry(*fields) for fields in journal.entries])

    def load(self) -> Journal:
        file = self.directory / "journal"
        if not file.exists():
            return Journal()
        return msgspec.msgpack.decode(file.read_bytes(), type=Journal)

    def store(self, journal: Journal) -> None:
        (self.directory / "journal").write_bytes(msgspec.msgpack.encode(journal))

    def sync(self) -> None:
        self.store(
            Journal(
                self._hard_state.term,
                self._hard_state.vote,
                [(e.index, e.term, e.kind, e.command) for e in self._entries],
                (self._extent.base_index, self._extent.base_term),
            )
        )


class BeginsAtZero(JournalStorage):
    """Takes index 0 for an entry."""

    def first_index(self) -> LogIndex:
        return 0


class LosesTheKind(JournalStorage):
    """Takes everything for a command."""

    def append(self, entries: Sequence[Entry]) -> None:
        super().append([Entry(e.index, e.term, 1, e.command) for e in entries])


class ReadsOnlyWhatIsSynced(JournalStorage):
    """Reads the term and the vote from the file."""

    def hard_state(self) -> HardState:
        journal = self.load()
        return HardState(journal.term, journal.vote)


class LeavesOutTheLast(JournalStorage):
    """Takes the end of a range as Python does."""

    def entries(
        self, first: LogIndex, last: LogIndex, max_bytes: int
    ) -> Sequence[Entry]:
        found = super().entries(first, last, max_bytes)
        return found[:-1] if first < last else found


class SortsAsText(JournalStorage):
    """Sorts 10 before 9."""

    def entries(
        self, first: LogIndex, last: LogIndex, max_bytes: int
    ) -> Sequence[Entry]:
        found = super().entries(first, last, max_bytes)
        return sorted(found, key=lambda entry: str(entry.index))


class KeepsTheSuffix(JournalStorage):
    """Replaces only as many entries as it gets."""

    def append(self, entries: Sequence[Entry]) -> None:
        suffix = self._entries[entries[-1].index :] if entries[0].index > 1 else []
        super().append(entries)
        if suffix:
            last = suffix[-1].index
            self._entries += suffix
            self._extent = replace(self._extent, last_index=last)


class KeepsTheFirst(JournalStorage):
    """Never replaces entry 1."""

    def append(self, entries: Sequence[Entry]) -> None:
        if entries[0].index == 1 and self._entries:
            entries = [self._entries[0], *entries[1:]]
        super().append(entries)


class BringsBackTheSuffix(JournalStorage):
    """Counts entries, but leaves the replaced ones lying where they were."""

    old: Sequence[Entry] = ()

    def append(self, entries: Sequence[Entry]) -> None:
        if entries[0].index <= self.last_index():
            self.old = self._entries[entries[-1].index :]
        elif self.old and entries[0].index == self.old[0].index:
            entries = [*self.old[:1], *entries[1:]]
        super().append(entries)


class TakesEmptyForNone(JournalStorage):
    """Returns no command where there is an empty one."""

    def entries(
        self, first: LogIndex, last: LogIndex, max_bytes: int
    ) -> Sequence[Entry]:
        found = super().entries(first, last, max_bytes)
        return [Entry(e.index, e.term, e.kind, e.command or None) for e in found]  # type: ignore[arg-type]


class CutsLargeCommands(JournalStorage):
    """Keeps 65,535 bytes of a command."""

    def append(self, entries: Sequence[Entry]) -> None:
        super().append(
            [Entry(e.index, e.term, e.kind, e.command[:65_535]) for e in entries]
        )


class FillsHoles(JournalStorage):
    """Takes what lies beyond the end for the next entries."""

    def append(self, entries: Sequence[Entry]) -> None:
        if entries[0].index > self.last_index() + 1:
            self._entries += entries
            self._extent = replace(self._extent, last_index=entries[-1].index)
        else:
            super().append(entries)


class LeavesHalfAnAppend(JournalStorage):
    """Notices a hole only when it gets there."""

    def append(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            super().append([entry])


class UndoesTooMuch(JournalStorage):
    """Undoes a refused append, and with it all since the last sync."""

    def append(self, entries: Sequence[Entry]) -> None:
        try:
            super().append(entries)
        except StorageError:
            self.open(self.directory)
            raise


class CountsFromTheEnd(JournalStorage):
    """Has Python's idea of an index below zero."""

    def entries(
        self, first: LogIndex, last: LogIndex, max_bytes: int
    ) -> Sequence[Entry]:
        return super().entries(max(first, 1), last, max_bytes)

    def term(self, index: LogIndex) -> Term:
        return super().term(index) if index >= 0 else self._entries[index].term


class StopsAtTheEnd(JournalStorage):
    """Returns what there is of a range that ends beyond the log."""

    def entries(
        self, first: LogIndex, last: LogIndex, max_bytes: int
    ) -> Sequence[Entry]:
        return super().entries(first, min(last, self.last_index()), max_bytes)


class IgnoresMaxBytes(JournalStorage):
    """Returns all of a range."""

    def entries(
        self,
        first: LogIndex,
        last: LogIndex,
        max_bytes: int,  # noqa: ARG002 - that is what is broken
    ) -> Sequence[Entry]:
        return super().entries(first, last, 1 << 40)


class ObeysMaxBytes(JournalStorage):
    """Returns nothing when the first entry is too large."""

    def entries(
        self, first: LogIndex, last: LogIndex, max_bytes: int
    ) -> Sequence[Entry]:
        found = super().entries(first, last, max_bytes)
        return found if len(found[0].command) <= max_bytes else []


class KeepsTheFirstVote(JournalStorage):
    """Never changes a vote."""

    def save_hard_state(self, hard_state: HardState) -> None:
        vote = self._hard_state.vote or hard_state.vote
        super().save_hard_state(HardState(hard_state.term, vote))


class TakesNoNameForNoVote(JournalStorage):
    """Has no vote for a server with an empty name."""

    def save_hard_state(self, hard_state: HardState) -> None:
        super().save_hard_state(HardState(hard_state.term, hard_state.vote or None))


class ForgetsTheVote(JournalStorage):
    """Writes the term only."""

    def store(self, journal: Journal) -> None:
        journal.vote = None
        super().store(journal)


class SyncsAtTheClose(JournalStorage):
    """Writes its file when there is no hurry any more."""

    def sync(self) -> None:
        pass

    def close(self) -> None:
        if hasattr(self, "directory"):
            super().sync()
        super().close()


class SavesTheVoteFirst(JournalStorage):
    """Writes a hard state at once, before the appends that it came after."""

    def save_hard_state(self, hard_state: HardState) -> None:
        super().save_hard_state(hard_state)
        journal = self.load()
        journal.term, journal.vote = hard_state.term, hard_state.vote
        self.store(journal)


class LovesItsThread(JournalStorage):
    """Works where it was made, and nowhere else."""

    def __init__(self) -> None:
        super().__init__()
        self.thread = threading.get_ident()

    def append(self, entries: Sequence[Entry]) -> None:
        if threading.get_ident() != self.thread:
            raise StorageError("another thread")
        super().append(entries)


class SharesItsEntries(JournalStorage):
    """Has one log for all servers of the process."""

    shared: list[Entry] = []  # noqa: RUF012 - that is what is broken

    def open(self, directory: Path) -> None:
        super().open(directory)
        self.shared.clear()

    def append(self, entries: Sequence[Entry]) -> None:
        self._entries = self.shared
        super().append(entries)


class LeavesTraces(JournalStorage):
    """Makes a file when it is only to look."""

    @classmethod
    def check(cls, options: object, directory: Path) -> Iterable[Finding]:  # noqa: ARG003 - a check takes both
        if directory.exists():
            (directory / "checked").touch()
        return ()


class BeginsWithAnAppend(JournalStorage):
    """Reads from where an append began, not from the middle of it."""

    def open(self, directory: Path) -> None:
        super().open(directory)
        self.starts: list[LogIndex] = []

    def append(self, entries: Sequence[Entry]) -> None:
        super().append(entries)
        self.starts.append(entries[0].index)

    def entries(
        self, first: LogIndex, last: LogIndex, max_bytes: int
    ) -> Sequence[Entry]:
        super().entries(first, last, max_bytes)
        starts = [start for start in self.starts if self.first_index() <= start]
        begin = max((start for start in starts if start <= first), default=first)
        return super().entries(begin, last, max_bytes)


class DropsWholeAppends(JournalStorage):
    """Writes, of an append that is replaced in part, nothing that stays."""

    def open(self, directory: Path) -> None:
        self.starts: set[int] = set()
        self.lost: set[int] = set()
        super().open(directory)

    def append(self, entries: Sequence[Entry]) -> None:
        super().append(entries)
        first = entries[0].index - self.first_index()
        self.starts = {each for each in self.starts if each < first}
        self.lost = set(range(max(self.starts, default=0), first)) - self.starts
        self.starts.add(first)

    def store(self, journal: Journal) -> None:
        journal.entries = [
            (*each[:3], b"") if at in self.lost else each
            for at, each in enumerate(journal.entries)
        ]
        super().store(journal)


class WritesInParts(JournalStorage):
    """Writes a large append bit by bit."""

    def append(self, entries: Sequence[Entry]) -> None:
        super().append(entries[:4096])
        if len(entries) > 4096:
            self.sync()
            super().append(entries[4096:])


class KeepsItForItself(JournalStorage):
    """Is durable, and does not say so."""

    durable = False


class KeepsTheList(JournalStorage):
    """Looks at a sync into the list that it was given."""

    def open(self, directory: Path) -> None:
        super().open(directory)
        self.given: Sequence[Entry] = ()

    def append(self, entries: Sequence[Entry]) -> None:
        super().append(entries)
        self.given = entries

    def sync(self) -> None:
        end = self._extent.last_index - self._extent.base_index
        if self.given:
            super().sync()
        elif end:
            del self._entries[end - 1 :]
