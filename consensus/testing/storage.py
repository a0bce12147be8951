"""
The conformance suite of storages: what their docstrings promise, as tests.

An adapter author inherits it where pytest looks for tests; it needs
``twisted-raft[test]``::

    class TestMyStorage(StorageSuite):
        def make(self, directory):
            return MyStorage()

A storage that says it is not ``durable`` has :class:`VolatileStorageSuite` instead.

What no test in one process can show is left to the author: that a sync
reaches the disk, and that damage of the disk is noticed.
"""

from __future__ import annotations

import shutil
from abc import abstractmethod
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, ClassVar

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from consensus.core.values import Entry, EntryKind, HardState
from consensus.errors import CompactedError, StorageError
from consensus.testing.storage_compaction import (
    CompactionSuite,
    DurableCompactionSuite,
    run_of,
)
from consensus.testing.storage_model import Comparison, Kept, errors_of, kept

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from consensus.interfaces import Storage

__all__ = ["StorageSuite", "VolatileStorageSuite", "run_of"]

_MOST_COPIES = 1000
_PLENTY = 1 << 30
_MIB = 1 << 20


class VolatileStorageSuite(CompactionSuite):
    """What a storage promises while it is open, also if it is not ``durable``."""

    #: How hard :meth:`test_it_does_what_a_list_does` tries.
    effort: ClassVar[settings] = settings(
        max_examples=40, stateful_step_count=25, deadline=None
    )

    @abstractmethod
    def make(self, directory: Path) -> Storage:
        """
        Return a storage that is about to be opened in *directory*.

        A storage that keeps things elsewhere has to keep those of different
        directories apart.
        """

    def crash(self, directory: Path, copy: Path) -> None:
        """
        Make *copy* what a crash would leave of *directory* at this moment.

        The storage in *directory* is open, and stays so; threads of its own
        may be at work, so this copies until no file changed meanwhile.
        """
        for _ in range(_MOST_COPIES):
            before = _stamps(directory)
            with suppress(shutil.Error):
                shutil.copytree(directory, copy)
                if before is not None and before == _stamps(directory):
                    return
            shutil.rmtree(copy)
        pytest.fail(f"{directory} does not come to rest")

    @contextmanager
    def opened(self, directory: Path) -> Iterator[Storage]:
        """Check *directory*, as a server does, and lend the storage in it."""
        directory.mkdir(exist_ok=True)
        storage = self.make(directory)
        assert not errors_of(storage, directory)
        storage.open(directory)
        try:
            yield storage
        finally:
            storage.close()

    # The log while it is open

    def test_a_new_log_is_empty(self, tmp_path: Path) -> None:
        """A new log begins at 1, ends at 0 and has a default hard state."""
        with self.opened(tmp_path) as storage:
            assert storage.first_index() == 1
            assert storage.last_index() == 0
            assert storage.term(0) == 0
            assert storage.hard_state() == HardState()

    def test_entries_come_back_as_they_were(self, tmp_path: Path) -> None:
        """Index, term, kind and command of an entry are read as written."""
        written = [
            Entry(1, 1, EntryKind.MEMBERSHIP, b'{"s1": ""}'),
            Entry(2, 1, EntryKind.NOOP, b""),
            Entry(3, 7, EntryKind.COMMAND, bytes(range(256))),
        ]
        with self.opened(tmp_path) as storage:
            storage.append(written)
            storage.sync()
            assert list(storage.entries(1, 3, _PLENTY)) == written
            assert [storage.term(index) for index in (1, 2, 3)] == [1, 1, 7]
            assert storage.first_index() == 1
            assert storage.last_index() == 3

    def test_reads_see_what_is_not_synced(self, tmp_path: Path) -> None:
        """An entry and a vote can be read before any sync."""
        with self.opened(tmp_path) as storage:
            storage.append(run_of(1, 2))
            storage.save_hard_state(HardState(3, "s1"))
            assert kept(storage) == Kept(HardState(3, "s1"), tuple(run_of(1, 2)))

    def test_a_range_includes_both_ends(self, tmp_path: Path) -> None:
        """A read from 2 to 4 returns 2, 3 and 4; one from 3 to 3 returns 3."""
        with self.opened(tmp_path) as storage:
            storage.append(run_of(1, 5))
            assert list(storage.entries(2, 4, _PLENTY)) == run_of(2, 4)
            assert list(storage.entries(3, 3, _PLENTY)) == run_of(3, 3)

    def test_indexes_sort_as_numbers(self, tmp_path: Path) -> None:
        """Entry 10 comes after 9 and 256 after 255, however keys are spelt."""
        with self.opened(tmp_path) as storage:
            storage.append(run_of(1, 200))
            storage.append(run_of(201, 300))
            assert list(storage.entries(1, 300, _PLENTY)) == run_of(1, 300)
            assert storage.last_index() == 300

    def test_a_conflict_replaces_the_suffix(self, tmp_path: Path) -> None:
        """An append over stored entries removes all from its first index on."""
        with self.opened(tmp_path) as storage:
            storage.append(run_of(1, 5))
            storage.append(run_of(3, 4, term=2))
            assert storage.last_index() == 4
            assert storage.term(3) == 2
            assert kept(storage).entries == (*run_of(1, 2), *run_of(3, 4, term=2))
            with pytest.raises(StorageError):
                storage.entries(5, 5, _PLENTY)

    def test_a_conflict_may_begin_at_the_first_entry(self, tmp_path: Path) -> None:
        """All entries can be replaced at once, and by fewer."""
        with self.opened(tmp_path) as storage:
            storage.append(run_of(1, 4))
            storage.append(run_of(1, 1, term=2))
            assert kept(storage).entries == tuple(run_of(1, 1, term=2))

    def test_a_replaced_suffix_does_not_come_back(self, tmp_path: Path) -> None:
        """The log grows again over what was replaced with the new entries only."""
        with self.opened(tmp_path) as storage:
            storage.append(run_of(1, 5))
            storage.append(run_of(2, 2, term=2))
            storage.append(run_of(3, 4, term=3))
            expected = (*run_of(1, 1), *run_of(2, 2, term=2), *run_of(3, 4, term=3))
            assert kept(storage).entries == expected

    def test_an_empty_command_is_a_command(self, tmp_path: Path) -> None:
        """A command of no bytes comes back as bytes."""
        with self.opened(tmp_path) as storage:
            storage.append([Entry(1, 1, EntryKind.COMMAND, b"")])
            assert storage.entries(1, 1, _PLENTY)[0].command == b""

    def test_a_list_is_its_callers_again(self, tmp_path: Path) -> None:
        """What becomes of the list that was appended is nothing to the log."""
        with self.opened(tmp_path) as storage:
            written: list[Entry] = []
            for first in (1, 3, 2):
                written += run_of(first, first + 2, term=first)
                storage.append(written)
                written.clear()
            expected = (*run_of(1, 1), *run_of(2, 4, term=2))
            assert kept(storage).entries == expected
            storage.sync()
            assert kept(storage).entries == expected

    def test_a_large_command_is_kept(self, tmp_path: Path) -> None:
        """Commands of 1 MiB come back whole, among small ones."""
        written = [
            Entry(1, 1, EntryKind.COMMAND, b"small"),
            Entry(2, 1, EntryKind.COMMAND, bytes(range(256)) * (_MIB // 256)),
            Entry(3, 1, EntryKind.COMMAND, b"\x00" * _MIB),
        ]
        with self.opened(tmp_path) as storage:
            storage.append(written)
            storage.sync()
            assert list(storage.entries(1, 3, _PLENTY)) == written

    def test_a_read_may_begin_anywhere(self, tmp_path: Path) -> None:
        """Appends of any length come back from the middle of one on, or to it."""
        with self.opened(tmp_path) as storage:
            for first, last in ((1, 1), (2, 3), (4, 300), (301, 9500), (9501, 9502)):
                storage.append(run_of(first, last))
                storage.sync()
            written = run_of(1, 9502)
            for first in (1, 2, 3, 4, 5, 299, 300, 301, 302, 5000, 9499, 9501, 9502):
                last = min(first + 700, 9502)
                assert (
                    list(storage.entries(first, last, _PLENTY))
                    == (written[first - 1 : last])
                )
                assert storage.entries(first, 9502, 0) == written[first - 1 : first]
            assert kept(storage).entries == tuple(written)

    # What is refused

    def test_an_append_beyond_the_end_is_refused(self, tmp_path: Path) -> None:
        """A first index above the last one plus one changes nothing."""
        with self.opened(tmp_path) as storage:
            with pytest.raises(StorageError):
                storage.append(run_of(2, 2))
            assert kept(storage).entries == ()
            storage.append(run_of(1, 2))
            with pytest.raises(StorageError):
                storage.append(run_of(4, 5))
            assert kept(storage).entries == tuple(run_of(1, 2))

    def test_an_append_with_a_hole_is_refused(self, tmp_path: Path) -> None:
        """Entries that are not consecutive change nothing, not even a conflict."""
        with self.opened(tmp_path) as storage:
            storage.append(run_of(1, 3))
            for broken in (
                [*run_of(2, 3, term=2), *run_of(5, 5, term=2)],
                [*run_of(4, 4), *run_of(4, 4)],
                [*run_of(4, 5), *run_of(3, 3)],
            ):
                with pytest.raises(StorageError):
                    storage.append(broken)
                assert kept(storage).entries == tuple(run_of(1, 3))
                assert storage.last_index() == 3

    def test_a_read_below_the_log_is_refused(self, tmp_path: Path) -> None:
        """Entry 0 is no entry: the error names the first one that is."""
        with self.opened(tmp_path) as storage:
            storage.append(run_of(1, 2))
            with pytest.raises(CompactedError) as caught:
                storage.entries(0, 2, _PLENTY)
            assert caught.value.first_index == 1
            with pytest.raises(CompactedError):
                storage.term(-1)

    def test_a_read_beyond_the_log_is_refused(self, tmp_path: Path) -> None:
        """No entry comes back of a range that ends above the last index."""
        with self.opened(tmp_path) as storage:
            with pytest.raises(StorageError):
                storage.entries(1, 1, _PLENTY)
            storage.append(run_of(1, 2))
            with pytest.raises(StorageError):
                storage.entries(1, 3, _PLENTY)
            with pytest.raises(StorageError):
                storage.term(3)

    # How much a read returns

    def test_a_read_stops_at_max_bytes(self, tmp_path: Path) -> None:
        """Commands of 4 bytes: 8 bytes hold two of them, and 11 do as well."""
        written = [Entry(index, 1, EntryKind.COMMAND, b"four") for index in (1, 2, 3)]
        with self.opened(tmp_path) as storage:
            storage.append(written)
            assert list(storage.entries(1, 3, 7)) == written[:1]
            assert list(storage.entries(1, 3, 8)) == written[:2]
            assert list(storage.entries(1, 3, 11)) == written[:2]
            assert list(storage.entries(1, 3, 12)) == written

    def test_a_read_returns_at_least_one_entry(self, tmp_path: Path) -> None:
        """The first entry comes back even when it alone exceeds *max_bytes*."""
        with self.opened(tmp_path) as storage:
            storage.append(run_of(1, 3))
            assert list(storage.entries(2, 3, 1)) == run_of(2, 2)
            assert list(storage.entries(2, 3, 0)) == run_of(2, 2)

    # Term and vote

    def test_a_hard_state_replaces_the_one_before(self, tmp_path: Path) -> None:
        """Of two saved hard states the second counts, also with no vote."""
        with self.opened(tmp_path) as storage:
            storage.save_hard_state(HardState(1, "s1"))
            assert storage.hard_state() == HardState(1, "s1")
            storage.save_hard_state(HardState(2, None))
            assert storage.hard_state() == HardState(2, None)

    def test_a_vote_is_any_text(self, tmp_path: Path) -> None:
        """A vote may be any name, and an empty one differs from none."""
        with self.opened(tmp_path) as storage:
            for vote in ("", "s1", "Łódź", "伺服器", "🦆" * 100, "a'b\"c\\d;--"):
                storage.save_hard_state(HardState(5, vote))
                assert storage.hard_state() == HardState(5, vote)

    # Where it runs

    def test_it_works_on_another_thread(self, tmp_path: Path) -> None:
        """The thread that opens a storage may differ from its maker's."""
        storage = self.make(tmp_path)

        def work() -> Kept:
            storage.open(tmp_path)
            storage.append(run_of(1, 2))
            storage.sync()
            found = kept(storage)
            storage.close()
            return found

        with ThreadPoolExecutor(max_workers=1) as pool:
            assert pool.submit(work).result().entries == tuple(run_of(1, 2))

    def test_directories_are_kept_apart(self, tmp_path: Path) -> None:
        """Two storages of one process do not see each other's entries."""
        with (
            self.opened(tmp_path / "one") as one,
            self.opened(tmp_path / "two") as two,
        ):
            one.append(run_of(1, 2))
            one.sync()
            two.append(run_of(1, 1, term=9))
            two.sync()
            assert kept(one).entries == tuple(run_of(1, 2))
            assert kept(two).entries == tuple(run_of(1, 1, term=9))

    def test_a_check_changes_nothing(self, tmp_path: Path) -> None:
        """A check finds no fault with a good directory, and makes no file."""
        directory = tmp_path / "not there yet"
        storage = self.make(directory)
        assert not errors_of(storage, directory)
        assert not directory.exists()
        directory.mkdir()
        storage.open(directory)
        storage.append(run_of(1, 3))
        storage.sync()
        storage.close()
        before = _files(directory)
        assert not errors_of(storage, directory)
        assert _files(directory) == before

    # Everything at once

    def test_it_does_what_a_list_does(self, tmp_path: Path) -> None:
        """Under random calls, closes and crashes it is like a list in memory."""
        run_state_machine_as_test(
            lambda: Comparison(self.make, self.crash, tmp_path),  # type: ignore[arg-type]
            settings=self.effort,
        )


class StorageSuite(VolatileStorageSuite, DurableCompactionSuite):
    """Every promise of :class:`~consensus.interfaces.Storage`, a test for each."""

    def after_crash(self, directory: Path, copy: Path) -> Kept:
        """Return what a storage finds that opens after a crash at this moment."""
        self.crash(directory, copy)
        with self.opened(copy) as storage:
            return kept(storage)

    def test_it_says_that_it_is_durable(self, tmp_path: Path) -> None:
        """One that does not, and keeps nothing, has VolatileStorageSuite."""
        assert self.make(tmp_path).durable

    def test_a_refusal_spares_what_is_not_synced(self, tmp_path: Path) -> None:
        """Writes before and after a refused append become durable all the same."""
        with self.opened(tmp_path) as storage:
            storage.append(run_of(1, 2))
            with pytest.raises(StorageError):
                storage.append([*run_of(3, 3), *run_of(5, 5)])
            storage.append(run_of(3, 4))
            storage.sync()
        with self.opened(tmp_path) as storage:
            assert kept(storage).entries == tuple(run_of(1, 4))

    def test_what_was_synced_is_there_after_a_close(self, tmp_path: Path) -> None:
        """Entries, term and vote outlive close and open; the log goes on."""
        with self.opened(tmp_path) as storage:
            storage.append(run_of(1, 3))
            storage.append(run_of(2, 4, term=2))
            storage.save_hard_state(HardState(2, "s3"))
            storage.sync()
            expected = kept(storage)
        with self.opened(tmp_path) as storage:
            assert kept(storage) == expected
            assert storage.first_index() == 1
            storage.append(run_of(5, 6, term=3))
            storage.sync()
        with self.opened(tmp_path) as storage:
            assert kept(storage).entries == (*expected.entries, *run_of(5, 6, term=3))

    def test_what_was_synced_is_there_after_a_crash(self, tmp_path: Path) -> None:
        """A sync leaves nothing for the close to do."""
        with self.opened(tmp_path / "first") as storage:
            for index in (1, 2, 3):
                storage.append(run_of(index, index, term=index))
                storage.save_hard_state(HardState(index, f"s{index}"))
                storage.sync()
                copy = tmp_path / f"copy {index}"
                assert self.after_crash(tmp_path / "first", copy) == kept(storage)

    def test_a_crash_leaves_a_prefix(self, tmp_path: Path) -> None:
        """Of the writes after a sync, a crash keeps the first few or all."""
        writes: list[Callable[[Storage], None]] = [
            lambda storage: storage.append(run_of(1, 3)),
            lambda storage: storage.save_hard_state(HardState(2, "s2")),
            lambda storage: storage.append(run_of(4, 5, term=2)),
            lambda storage: storage.save_hard_state(HardState(3, None)),
            lambda storage: storage.append(run_of(4, 4, term=3)),
        ]
        with self.opened(tmp_path / "first") as storage:
            allowed = [kept(storage)]
            for number, write in enumerate(writes):
                write(storage)
                allowed.append(kept(storage))
                copy = tmp_path / f"copy {number}"
                assert self.after_crash(tmp_path / "first", copy) in allowed

    def test_a_conflict_may_begin_inside_an_append(self, tmp_path: Path) -> None:
        """What stays of an append that was synced is there over any crash."""
        changes = [(10, 12, 2), (6, 7, 3), (7, 7, 4), (1, 2, 5)]
        for synced in range(len(changes) + 1):
            first = tmp_path / f"first {synced}"
            with self.opened(first) as storage:
                storage.append(run_of(1, 5))
                storage.append(run_of(6, 12))
                storage.sync()
                allowed = [kept(storage)]
                for number, (begin, end, term) in enumerate(changes, 1):
                    storage.append(run_of(begin, end, term))
                    allowed.append(kept(storage))
                    if number == synced:
                        storage.sync()
                        allowed = allowed[-1:]
                copy = tmp_path / f"copy {synced}"
                assert self.after_crash(first, copy) in allowed
                storage.sync()
                expected = kept(storage)
            with self.opened(first) as storage:
                assert kept(storage) == expected

    def test_a_large_append_is_one_step(self, tmp_path: Path) -> None:
        """A crash keeps all of it or nothing, also of what it replaces."""
        large = [
            Entry(index, 2, EntryKind.COMMAND, b"%06d" % index * 50)
            for index in range(3, 9000)
        ]
        with self.opened(tmp_path / "first") as storage:
            storage.append(run_of(1, 6))
            storage.sync()
            allowed = [kept(storage)]
            storage.append(large)
            allowed.append(kept(storage))
            assert allowed[1].entries == (*run_of(1, 2), *large)
            copy = tmp_path / "before the sync"
            assert self.after_crash(tmp_path / "first", copy) in allowed
            storage.sync()
            copy = tmp_path / "after the sync"
            assert self.after_crash(tmp_path / "first", copy) == allowed[1]


def _files(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def _stamps(directory: Path) -> dict[Path, tuple[int, int, int]] | None:
    """Return what tells a file that changed, or ``None`` if one just went."""
    try:
        found = {path: path.stat() for path in directory.rglob("*")}
    except FileNotFoundError:
        return None
    return {
        path: (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        for path, stat in found.items()
    }
