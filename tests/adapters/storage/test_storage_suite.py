"""
The suite of storages can fail: each of its tests catches a broken storage.

``JournalStorage`` is a small right one; each class after it breaks one promise.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import Phase, settings

from adapters.storage.memory import MemoryStorage
from consensus.core.values import Entry, HardState
from consensus.errors import Finding, RaftError, StorageError
from consensus.testing.storage import StorageSuite

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


#: Each test of the suite, and a storage that it has to catch.
BROKEN: list[tuple[str, type[JournalStorage]]] = [
    ("test_a_new_log_is_empty", BeginsAtZero),
    ("test_entries_come_back_as_they_were", LosesTheKind),
    ("test_reads_see_what_is_not_synced", ReadsOnlyWhatIsSynced),
    ("test_a_range_includes_both_ends", LeavesOutTheLast),
    ("test_indexes_sort_as_numbers", SortsAsText),
    ("test_a_conflict_replaces_the_suffix", KeepsTheSuffix),
    ("test_a_conflict_may_begin_at_the_first_entry", KeepsTheFirst),
    ("test_a_replaced_suffix_does_not_come_back", BringsBackTheSuffix),
    ("test_an_empty_command_is_a_command", TakesEmptyForNone),
    ("test_a_large_command_is_kept", CutsLargeCommands),
    ("test_an_append_beyond_the_end_is_refused", FillsHoles),
    ("test_an_append_with_a_hole_is_refused", LeavesHalfAnAppend),
    ("test_a_refusal_spares_what_is_not_synced", UndoesTooMuch),
    ("test_a_read_below_the_log_is_refused", CountsFromTheEnd),
    ("test_a_read_beyond_the_log_is_refused", StopsAtTheEnd),
    ("test_a_read_stops_at_max_bytes", IgnoresMaxBytes),
    ("test_a_read_returns_at_least_one_entry", ObeysMaxBytes),
    ("test_a_hard_state_replaces_the_one_before", KeepsTheFirstVote),
    ("test_a_vote_is_any_text", TakesNoNameForNoVote),
    ("test_what_was_synced_is_there_after_a_close", ForgetsTheVote),
    ("test_what_was_synced_is_there_after_a_crash", SyncsAtTheClose),
    ("test_a_crash_leaves_a_prefix", SavesTheVoteFirst),
    ("test_it_works_on_another_thread", LovesItsThread),
    ("test_directories_are_kept_apart", SharesItsEntries),
    ("test_a_check_changes_nothing", LeavesTraces),
    ("test_a_compaction_drops_the_front", ForgetsTheTerm),
    ("test_a_compaction_drops_the_front", CompactsNothing),
    ("test_what_is_dropped_is_refused", ReturnsWhatIsDropped),
    ("test_all_of_a_log_can_be_dropped", KeepsOne),
    ("test_a_compaction_may_lie_past_the_end", StopsAtTheLast),
    ("test_a_new_log_can_begin_behind_a_snapshot", NeedsAnEntry),
    ("test_another_term_drops_the_whole_log", TrustsTheSuffix),
    ("test_a_compaction_behind_the_first_index_is_nothing", MovesBack),
    ("test_what_is_dropped_is_not_appended_again", SkipsWhatIsDropped),
    ("test_a_conflict_may_begin_behind_a_compaction", CountsFromOne),
    ("test_a_compaction_outlives_a_close", CompactsInMemory),
    ("test_an_emptied_log_outlives_a_close", EmptiesInMemory),
    ("test_a_large_log_is_dropped", BringsBackALargeLog),
    ("test_a_crash_leaves_a_prefix_of_compactions_too", CompactsAtOnce),
    ("test_memberships_are_found", KeepsMemberships),
    ("test_memberships_are_found_again", ForgetsMemberships),
]

#: Those that random calls do not find, or not always: they need a size, a
#: thread, a file, or three calls that fit together.
NOT_FOUND_AT_RANDOM = (
    BringsBackTheSuffix,
    LosesTheKind,
    CutsLargeCommands,
    CountsFromTheEnd,
    StopsAtTheEnd,
    LovesItsThread,
    LeavesTraces,
    SharesItsEntries,
    ReturnsWhatIsDropped,
    BringsBackALargeLog,
)


def suite_of(storage: type[JournalStorage]) -> StorageSuite:
    """Return the suite for *storage*, which draws the same calls every time."""

    class Suite(StorageSuite):
        effort = settings(
            StorageSuite.effort,
            derandomize=True,
            database=None,
            max_examples=200,
            phases=[Phase.generate],
        )

        def make(self, directory: Path) -> JournalStorage:  # noqa: ARG002 - it needs none
            return storage()

    return Suite()


class TestRightStorage(StorageSuite):
    """What the broken ones are made of passes every test."""

    def make(self, directory: Path) -> JournalStorage:  # noqa: ARG002 - it needs none
        return JournalStorage()


class TestSuite:
    """The suite finds what is broken."""

    @pytest.mark.parametrize(("test", "storage"), BROKEN)
    def test_it_catches(
        self, test: str, storage: type[JournalStorage], tmp_path: Path
    ) -> None:
        """The test fails on the storage that breaks its promise."""
        with pytest.raises((AssertionError, pytest.fail.Exception, StorageError)):
            getattr(suite_of(storage), test)(tmp_path)

    @pytest.mark.parametrize(
        "storage", [s for _, s in BROKEN if s not in NOT_FOUND_AT_RANDOM]
    )
    def test_random_calls_catch(
        self, storage: type[JournalStorage], tmp_path: Path
    ) -> None:
        """The comparison with a list finds it without having been told."""
        with pytest.raises((AssertionError, pytest.fail.Exception, RaftError)):
            suite_of(storage).test_it_does_what_a_list_does(tmp_path)

    def test_no_test_is_left_out(self) -> None:
        """Every test of the suite has a storage that it catches."""
        tests = {name for name in dir(StorageSuite) if name.startswith("test_")}
        assert tests == {test for test, _ in BROKEN} | {"test_it_does_what_a_list_does"}
