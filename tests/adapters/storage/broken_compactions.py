"""Storages that break a promise each about compaction or memberships."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tests.adapters.storage.broken_storages import Journal, JournalStorage

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from consensus.core.values import Entry, LogIndex, Term


class CompactsNothing(JournalStorage):
    """Has better things to do."""

    def compact(self, index: LogIndex, term: Term) -> None:
        pass


class ForgetsTheTerm(JournalStorage):
    """Does not know the term of the last dropped entry."""

    def compact(self, index: LogIndex, term: Term) -> None:  # noqa: ARG002 - that is what is broken
        own = self.term(index) if index <= self.last_index() else 0
        super().compact(index, own)
        self._extent = replace(self._extent, base_term=0)


class ReturnsWhatIsDropped(JournalStorage):
    """Starts a range at the first entry, wherever it should."""

    def entries(
        self, first: LogIndex, last: LogIndex, max_bytes: int
    ) -> Sequence[Entry]:
        return super().entries(max(first, self.first_index()), last, max_bytes)


class KeepsOne(JournalStorage):
    """Never drops the last entry."""

    def compact(self, index: LogIndex, term: Term) -> None:
        if index < self.last_index() or self.last_index() == 0:
            super().compact(index, term)


class StopsAtTheLast(JournalStorage):
    """Compacts no further than there are entries."""

    def compact(self, index: LogIndex, term: Term) -> None:
        super().compact(min(index, self.last_index()), term)


class NeedsAnEntry(JournalStorage):
    """Takes a new log for one that cannot be compacted."""

    def compact(self, index: LogIndex, term: Term) -> None:
        if self.last_index():
            super().compact(index, term)


class TrustsTheSuffix(JournalStorage):
    """Keeps what follows, whatever the term."""

    def compact(self, index: LogIndex, term: Term) -> None:
        is_there = self.first_index() <= index <= self.last_index()
        super().compact(index, self.term(index) if is_there else term)
        if is_there:
            self._extent = replace(self._extent, base_term=term)


class MovesBack(JournalStorage):
    """Takes the newest compaction for the right one."""

    def compact(self, index: LogIndex, term: Term) -> None:
        super().compact(index, term)
        if index:
            self._extent = replace(self._extent, base_term=term)


class SkipsWhatIsDropped(JournalStorage):
    """Appends what it can of what it gets."""

    def append(self, entries: Sequence[Entry]) -> None:
        super().append([each for each in entries if each.index >= self.first_index()])


class CountsFromOne(JournalStorage):
    """Forgets in an append that its list begins later."""

    def append(self, entries: Sequence[Entry]) -> None:
        super().append(entries)
        end = self._extent.last_index
        if entries[0].index < end and self.first_index() > 1:
            self._entries = self._entries[: end - self.first_index()]
            self._extent = replace(self._extent, last_index=end - 1)


class CompactsInMemory(JournalStorage):
    """Writes its entries at a sync, and never where they begin."""

    def store(self, journal: Journal) -> None:
        if journal.entries:
            first = journal.entries[0][0]
            filler = [(index, 1, 1, b"") for index in range(1, first)]
            journal.entries = filler + journal.entries
        journal.base = (0, 0)
        super().store(journal)


class EmptiesInMemory(JournalStorage):
    """Does not write a log without entries."""

    def store(self, journal: Journal) -> None:
        if journal.entries or journal.base == (0, 0):
            super().store(journal)


class BringsBackALargeLog(JournalStorage):
    """Deletes a thousand entries and leaves the others lying."""

    def compact(self, index: LogIndex, term: Term) -> None:
        super().compact(min(index, self.first_index() + 999), term)


class CompactsAtOnce(JournalStorage):
    """Writes a compaction at once, before the appends that it came after."""

    def compact(self, index: LogIndex, term: Term) -> None:
        super().compact(index, term)
        journal = self.load()
        journal.base = (index, term)
        journal.entries = [each for each in journal.entries if each[0] > index]
        self.store(journal)


class KeepsMemberships(JournalStorage):
    """Notes memberships and never forgets one."""

    noted: tuple[LogIndex, ...] = ()

    def append(self, entries: Sequence[Entry]) -> None:
        super().append(entries)
        self.noted = tuple(sorted({*self.noted, *self._extent.memberships}))

    def membership_indexes(self) -> Sequence[LogIndex]:
        return self.noted


class ForgetsMemberships(JournalStorage):
    """Knows only of memberships that it saw since it was opened."""

    def open(self, directory: Path) -> None:
        super().open(directory)
        self._extent = replace(self._extent, memberships=())


class CompactsWholeAppends(JournalStorage):
    """Writes nothing of an append of which a part is dropped."""

    ends: tuple[LogIndex, ...] = ()

    def append(self, entries: Sequence[Entry]) -> None:
        super().append(entries)
        self.ends = (*self.ends, entries[-1].index)

    def store(self, journal: Journal) -> None:
        base, term = journal.base
        last = base + len(journal.entries)
        end = min((each for each in self.ends if base <= each <= last), default=base)
        if base:
            journal.entries = journal.entries[end - base :]
            journal.base = (end, term)
        super().store(journal)


class BringsALargeLogBack(JournalStorage):
    """Finds again, after a close, what was dropped more than a thousand ago."""

    def store(self, journal: Journal) -> None:
        super().store(journal if journal.base[0] < 5000 else Journal())
