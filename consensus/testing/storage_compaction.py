"""
The part of the conformance suite of storages that is about compaction.

Inherited with :class:`~consensus.testing.storage.StorageSuite`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import pytest

from consensus.core.values import Entry, EntryKind, HardState
from consensus.errors import CompactedError, StorageError
from consensus.testing.storage_model import Kept, kept

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from consensus.core.values import LogIndex, Term
    from consensus.interfaces import Storage

_PLENTY = 1 << 30


def run_of(first: LogIndex, last: LogIndex, term: Term = 1) -> list[Entry]:
    """Return the entries from *first* to *last*, each with a command of its own."""
    return [
        Entry(index, term, EntryKind.COMMAND, b"command %d of %d" % (index, term))
        for index in range(first, last + 1)
    ]


def _membership(index: LogIndex, term: Term = 1) -> Entry:
    return Entry(index, term, EntryKind.MEMBERSHIP, b'{"s1": ""}')


class CompactionSuite(ABC):
    """What ``compact`` and ``membership_indexes`` promise."""

    @abstractmethod
    def opened(self, directory: Path) -> AbstractContextManager[Storage]:
        """Lend a storage that is open in *directory*."""

    def test_a_compaction_drops_the_front(self, tmp_path: Path) -> None:
        """The log begins behind it; the term of the last dropped entry is known."""
        with self.opened(tmp_path) as storage:
            storage.append([*run_of(1, 2), *run_of(3, 5, term=2)])
            storage.compact(3, 2)
            assert storage.first_index() == 4
            assert storage.last_index() == 5
            assert storage.term(3) == 2
            assert list(storage.entries(4, 5, _PLENTY)) == run_of(4, 5, term=2)

    def test_what_is_dropped_is_refused(self, tmp_path: Path) -> None:
        """Reads below the log raise CompactedError, which names the first entry."""
        with self.opened(tmp_path) as storage:
            storage.append(run_of(1, 6))
            storage.compact(4, 1)
            for read in (
                lambda: storage.entries(4, 6, _PLENTY),
                lambda: storage.entries(1, 2, _PLENTY),
                lambda: storage.term(3),
                lambda: storage.term(0),
            ):
                with pytest.raises(CompactedError) as caught:
                    read()
                assert caught.value.first_index == 5

    def test_all_of_a_log_can_be_dropped(self, tmp_path: Path) -> None:
        """Then it ends before it begins, and goes on from there."""
        with self.opened(tmp_path) as storage:
            storage.append(run_of(1, 3))
            storage.compact(3, 1)
            assert storage.first_index() == 4
            assert storage.last_index() == 3
            assert storage.term(3) == 1
            with pytest.raises(StorageError):
                storage.entries(4, 4, _PLENTY)
            storage.append(run_of(4, 5, term=2))
            assert kept(storage).entries == tuple(run_of(4, 5, term=2))

    def test_a_compaction_may_lie_past_the_end(self, tmp_path: Path) -> None:
        """All entries go, and the log goes on behind the snapshot."""
        with self.opened(tmp_path) as storage:
            storage.append(run_of(1, 3))
            storage.compact(9, 4)
            assert kept(storage) == Kept(HardState(), (), (9, 4))
            with pytest.raises(StorageError):
                storage.append(run_of(4, 4, term=4))
            storage.append(run_of(10, 11, term=4))
            assert kept(storage).entries == tuple(run_of(10, 11, term=4))

    def test_a_new_log_can_begin_behind_a_snapshot(self, tmp_path: Path) -> None:
        """A server that never had an entry takes a snapshot, too."""
        with self.opened(tmp_path) as storage:
            storage.compact(7, 3)
            assert storage.first_index() == 8
            assert storage.last_index() == 7
            assert storage.term(7) == 3

    def test_another_term_drops_the_whole_log(self, tmp_path: Path) -> None:
        """Entries above an entry of another term are not this leader's (figure 5.3)."""
        with self.opened(tmp_path) as storage:
            storage.append(run_of(1, 6))
            storage.compact(4, 2)
            assert kept(storage) == Kept(HardState(), (), (4, 2))
            storage.append(run_of(5, 5, term=2))
            assert kept(storage).entries == tuple(run_of(5, 5, term=2))

    def test_a_compaction_behind_the_first_index_is_nothing(
        self, tmp_path: Path
    ) -> None:
        """Neither the log nor the term of the last dropped entry changes."""
        with self.opened(tmp_path) as storage:
            storage.append(run_of(1, 5))
            storage.compact(0, 0)
            assert storage.first_index() == 1
            storage.compact(3, 1)
            expected = kept(storage)
            for index, term in ((3, 1), (3, 9), (2, 1), (1, 9), (0, 0)):
                storage.compact(index, term)
                assert kept(storage) == expected

    def test_what_is_dropped_is_not_appended_again(self, tmp_path: Path) -> None:
        """An append that begins below the log is refused and changes nothing."""
        with self.opened(tmp_path) as storage:
            storage.append(run_of(1, 5))
            storage.compact(3, 1)
            expected = kept(storage)
            with pytest.raises(StorageError):
                storage.append(run_of(3, 7, term=2))
            assert kept(storage) == expected

    def test_a_conflict_may_begin_behind_a_compaction(self, tmp_path: Path) -> None:
        """All that is left can be replaced, by fewer as well."""
        with self.opened(tmp_path) as storage:
            storage.append(run_of(1, 8))
            storage.compact(4, 1)
            storage.append(run_of(5, 6, term=2))
            assert kept(storage).entries == tuple(run_of(5, 6, term=2))
            assert storage.last_index() == 6

    def test_a_large_log_is_dropped(self, tmp_path: Path) -> None:
        """However it is deleted, what is dropped never comes back."""
        with self.opened(tmp_path) as storage:
            for first in range(1, 10_001, 1000):
                storage.append(run_of(first, first + 999))
                storage.sync()
            storage.compact(9_990, 1)
            storage.sync()
            for index in range(10_001, 10_021):
                storage.append(run_of(index, index))
                storage.sync()
            assert kept(storage).entries == tuple(run_of(9_991, 10_020))

    def test_memberships_are_found(self, tmp_path: Path) -> None:
        """Their indexes come in order, synced or not, dropped and replaced ones not."""
        with self.opened(tmp_path) as storage:
            assert list(storage.membership_indexes()) == []
            storage.append([_membership(1), *run_of(2, 4), _membership(5)])
            storage.append([*run_of(6, 6), _membership(7), _membership(8)])
            assert list(storage.membership_indexes()) == [1, 5, 7, 8]
            storage.append(run_of(8, 9, term=2))
            assert list(storage.membership_indexes()) == [1, 5, 7]
            storage.sync()
            storage.compact(5, 1)
            assert list(storage.membership_indexes()) == [7]
            storage.append([_membership(10, 3)])
            storage.compact(9, 7)
            assert list(storage.membership_indexes()) == []


class DurableCompactionSuite(ABC):
    """What of it is there after a close, or a crash."""

    @abstractmethod
    def opened(self, directory: Path) -> AbstractContextManager[Storage]:
        """Lend a storage that is open in *directory*."""

    @abstractmethod
    def after_crash(self, directory: Path, copy: Path) -> Kept:
        """Return what a storage finds that opens after a crash at this moment."""

    def test_a_compaction_outlives_a_close(self, tmp_path: Path) -> None:
        """So do a second one, and what was appended behind both."""
        with self.opened(tmp_path) as storage:
            storage.append(run_of(1, 9))
            storage.compact(4, 1)
            storage.sync()
            expected = kept(storage)
        with self.opened(tmp_path) as storage:
            assert kept(storage) == expected
            storage.compact(7, 1)
            storage.append(run_of(10, 12, term=3))
            storage.sync()
            expected = kept(storage)
        with self.opened(tmp_path) as storage:
            assert kept(storage) == expected
            assert storage.first_index() == 8

    def test_an_emptied_log_outlives_a_close(self, tmp_path: Path) -> None:
        """A log past whose end was compacted is empty, with its base, again."""
        for number, (index, term) in enumerate([(6, 1), (20, 5), (3, 9)]):
            directory = tmp_path / str(number)
            with self.opened(directory) as storage:
                storage.append(run_of(1, 6))
                storage.sync()
                storage.compact(index, term)
                storage.sync()
            with self.opened(directory) as storage:
                assert kept(storage) == Kept(HardState(), (), (index, term))
                storage.append(run_of(index + 1, index + 2, term=term))
                storage.sync()
            with self.opened(directory) as storage:
                assert kept(storage).entries == tuple(
                    run_of(index + 1, index + 2, term=term)
                )

    def test_a_large_log_stays_dropped(self, tmp_path: Path) -> None:
        """What was to be deleted later, or not in time, does not come back."""
        with self.opened(tmp_path) as storage:
            for first in range(1, 10_001, 1000):
                storage.append(run_of(first, first + 999))
            storage.sync()
            storage.compact(9_990, 1)
            storage.sync()
            storage.append(run_of(10_001, 10_002))
            storage.sync()
        with self.opened(tmp_path) as storage:
            assert kept(storage).entries == tuple(run_of(9_991, 10_002))
            assert storage.term(9_990) == 1

    def test_a_crash_leaves_a_prefix_of_compactions_too(self, tmp_path: Path) -> None:
        """Compactions keep their order with appends and votes, over any crash."""
        writes: list[Callable[[Storage], None]] = [
            lambda storage: storage.append(run_of(1, 5)),
            lambda storage: storage.compact(2, 1),
            lambda storage: storage.save_hard_state(HardState(2, "s2")),
            lambda storage: storage.append(run_of(4, 7, term=2)),
            lambda storage: storage.compact(5, 2),
            lambda storage: storage.compact(6, 9),
            lambda storage: storage.append(run_of(7, 7, term=9)),
        ]
        for synced in range(len(writes) + 1):
            directory = tmp_path / f"synced after {synced}"
            with self.opened(directory) as storage:
                allowed = [kept(storage)]
                for number, write in enumerate(writes, 1):
                    write(storage)
                    allowed.append(kept(storage))
                    if number == synced:
                        storage.sync()
                        allowed = allowed[-1:]
                copy = tmp_path / f"crashed after {synced}"
                assert self.after_crash(directory, copy) in allowed

    def test_a_compaction_may_end_inside_an_append(self, tmp_path: Path) -> None:
        """The rest of it stays, can be replaced, and can be dropped, over crashes."""
        changes: list[Callable[[Storage], None]] = [
            lambda storage: storage.compact(6, 1),
            lambda storage: storage.append(run_of(7, 8, term=2)),
            lambda storage: storage.append(run_of(8, 9, term=3)),
            lambda storage: storage.compact(7, 2),
            lambda storage: storage.compact(8, 9),
            lambda storage: storage.append(run_of(9, 12, term=9)),
            lambda storage: storage.compact(10, 9),
        ]
        for is_synced in (False, True):
            directory = tmp_path / f"synced {is_synced}"
            with self.opened(directory) as storage:
                storage.append(run_of(1, 4))
                storage.append(run_of(5, 10))
                storage.sync()
                allowed = [kept(storage)]
                for number, change in enumerate(changes):
                    change(storage)
                    allowed.append(kept(storage))
                    if is_synced:
                        storage.sync()
                        allowed = allowed[-1:]
                    copy = tmp_path / f"copy {number} {is_synced}"
                    assert self.after_crash(directory, copy) in allowed
                storage.sync()
                expected = kept(storage)
                assert expected == Kept(
                    HardState(), tuple(run_of(11, 12, term=9)), (10, 9)
                )
            with self.opened(directory) as storage:
                assert kept(storage) == expected

    def test_memberships_are_found_again(self, tmp_path: Path) -> None:
        """After a close they are where they were."""
        with self.opened(tmp_path) as storage:
            storage.append([_membership(1), *run_of(2, 4), _membership(5)])
            storage.append([*run_of(6, 6), _membership(7)])
            storage.append(run_of(7, 7, term=2))
            storage.compact(2, 1)
            storage.sync()
        with self.opened(tmp_path) as storage:
            assert list(storage.membership_indexes()) == [5]
