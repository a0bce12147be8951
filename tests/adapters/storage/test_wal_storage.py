"""The storage in a log of our own."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from adapters.storage.wal import WALOptions, WALStorage
from adapters.storage.wal_places import Places
from consensus.core.values import Entry, EntryKind, HardState
from consensus.errors import DiskFullError, StorageError
from consensus.testing.storage import StorageSuite, run_of
from consensus.testing.storage_model import kept
from tests.adapters.storage.engine_suite import PLENTY, FailureSuite

if TYPE_CHECKING:
    from collections.abc import Iterator


class TinyStorage(WALStorage):
    """Segments of a kilobyte, so that nearly each sync needs another one."""

    unit = 1024


class TestWALStorage(StorageSuite):
    """What every storage promises."""

    def make(self, directory: Path) -> WALStorage:  # noqa: ARG002 - it needs none
        return WALStorage()


class TestTinySegments(StorageSuite):
    """The same, with segments that come and go all the time."""

    def make(self, directory: Path) -> WALStorage:  # noqa: ARG002 - it needs none
        return TinyStorage(WALOptions(segment_mib=1))


class TestNoSpareSegments(StorageSuite):
    """The same, with a new file for each of them."""

    def make(self, directory: Path) -> WALStorage:  # noqa: ARG002 - it needs none
        return TinyStorage(WALOptions(segment_mib=2, spare_segments=0))


@contextmanager
def opened(
    directory: Path,
    options: WALOptions | None = None,
    cls: type[WALStorage] = WALStorage,
) -> Iterator[WALStorage]:
    """Lend the storage in *directory*."""
    storage = cls(options)
    storage.open(directory)
    with closing(storage):
        yield storage


def write(directory: Path, last: int) -> None:
    """Leave a log of *last* entries and a vote in *directory*."""
    with opened(directory) as storage:
        storage.append(run_of(1, last))
        storage.save_hard_state(HardState(1, "s1"))
        storage.sync()


def segments(directory: Path) -> list[Path]:
    """Return the segments in *directory*, in order."""
    return sorted((directory / "raft.wal").glob("*.log"))


def spares(directory: Path) -> list[Path]:
    """Return the spare segments in *directory*."""
    return sorted((directory / "raft.wal").glob("*.spare"))


def ids(directory: Path, options: WALOptions | None = None) -> list[str]:
    """Return the ids of what a check finds."""
    found = WALStorage.check(options or WALOptions(), directory)
    return [finding.id for finding in found]


def large(index: int, size: int = 100_000) -> Entry:
    """Return an entry of *size* bytes that differ each time."""
    return Entry(index, 1, EntryKind.COMMAND, os.urandom(size))


class TestSegments:
    """How the files come and go."""

    def test_they_grow_with_the_log(self, tmp_path: Path) -> None:
        """None is larger than all before it together, nor than the option says."""
        with opened(tmp_path, WALOptions(segment_mib=4)) as storage:
            for index in range(1, 201):
                storage.append([large(index)])
                storage.sync()
        sizes = [each.stat().st_size >> 20 for each in segments(tmp_path)]
        assert sizes[:5] == [1, 1, 2, 4, 4]
        assert max(sizes) == 4

    def test_they_are_used_again(self, tmp_path: Path) -> None:
        """A compaction gives whole files back, from which new segments are made."""
        inodes: set[int] = set()
        with opened(tmp_path) as storage:
            for index in range(1, 301):
                storage.append([large(index)])
                storage.compact(index - 10, 1)
                storage.sync()
                inodes.update(each.stat().st_ino for each in segments(tmp_path))
                assert len(spares(tmp_path)) <= 3
                assert len(segments(tmp_path)) <= 4
            names = segments(tmp_path)
        assert int(names[-1].stem) > 10
        assert len(inodes) <= 6

    def test_as_many_are_spared_as_the_option_says(self, tmp_path: Path) -> None:
        """The others are removed, also those that are there at a start."""
        options = WALOptions(spare_segments=1)
        with opened(tmp_path, WALOptions(segment_mib=1)) as storage:
            for index in range(1, 101):
                storage.append([large(index)])
                storage.sync()
            storage.compact(95, 1)
            storage.sync()
        assert len(spares(tmp_path)) >= 2
        with opened(tmp_path, options):
            assert len(spares(tmp_path)) == 1

    def test_the_next_one_is_made_before_it_is_needed(self, tmp_path: Path) -> None:
        """When half of a segment is full, a thread begins to make another."""
        with opened(tmp_path) as storage:
            for index in range(1, 10):
                storage.append([large(index)])
                storage.sync()
            assert storage._stock._maker is not None
            made = storage._stock._maker.wait()
            assert spares(tmp_path) == [made]
            storage.append([large(10, 200_000)])
            storage.sync()
            assert len(segments(tmp_path)) == 2
            assert spares(tmp_path) == []

    def test_a_close_leaves_nothing_half_done(self, tmp_path: Path) -> None:
        """A segment that is being made is there or not; the thread is gone."""
        with opened(tmp_path) as storage:
            storage.append([large(1, 900_000)])
            storage.sync()
        names = {each.suffix for each in (tmp_path / "raft.wal").iterdir()}
        assert names <= {".log", ".spare"}

    def test_what_was_half_done_is_removed(self, tmp_path: Path) -> None:
        """A server that was killed while it made a segment leaves it behind."""
        write(tmp_path, 3)
        half = tmp_path / "raft.wal" / "fresh-1.new"
        half.write_bytes(b"half")
        with opened(tmp_path):
            assert not half.exists()

    def test_a_sync_of_nothing_writes_nothing(self, tmp_path: Path) -> None:
        """Nor does a close after a close: the log does not grow by starts."""
        write(tmp_path, 3)
        (segment,) = segments(tmp_path)
        before = segment.read_bytes()
        for _ in range(3):
            with opened(tmp_path) as storage:
                storage.sync()
        assert segment.read_bytes() == before

    def test_old_entries_are_read_from_their_segments(self, tmp_path: Path) -> None:
        """In any order, over the borders of batches and segments."""
        entries = [large(index, 50) for index in range(1, 301)]
        with opened(tmp_path, WALOptions(segment_mib=4), TinyStorage) as storage:
            for first in range(0, 300, 7):
                storage.append(entries[first : first + 7])
                storage.sync()
            assert len(segments(tmp_path)) > 5
            for first in (1, 150, 7, 8, 299, 40):
                for last in (first, min(first + 30, 300), 300):
                    found = storage.entries(first, last, PLENTY)
                    assert list(found) == entries[first - 1 : last]

    def test_a_place_takes_few_bytes(self) -> None:
        """A million batches of one entry each take 32 MB, and no objects."""
        places = Places()
        for index in range(1, 10_001):
            places.add(index, 1, index * 400, 400)
        used = sum(len(each) * each.itemsize for each in places._columns)
        assert used == 32 * 10_000


def test_the_page_about_the_format_reads_a_segment(tmp_path: Path) -> None:
    """Its program finds each record of a log."""
    write(tmp_path, 3)
    root = Path(__file__).parents[3]
    page = (root / "docs" / "reference" / "wal-format.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", program, *segments(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    kinds = [line.split()[2] for line in done.stdout.splitlines()]
    assert kinds == ["1", "2", "4", "6"]
    assert all(f"| {kind}: " in page for kind in kinds)


class TestFailure(FailureSuite):
    """What happens when a call fails."""

    cls = WALStorage
    file = "raft.wal"

    def test_a_failed_sync_is_the_last(self, tmp_path: Path) -> None:
        """After it every call fails, so that nobody can try again."""
        with opened(tmp_path) as storage:
            storage.append(run_of(1, 1))
            storage.sync()
            assert storage._active is not None
            # It takes every write, and no sync.
            with open("/dev/null", "r+b", buffering=0) as null:  # noqa: PTH123 - no path is needed
                os.dup2(null.fileno(), storage._active.descriptor)
            storage.append(run_of(2, 2))
            with pytest.raises(StorageError, match="cannot sync: ") as caught:
                storage.sync()
            assert not isinstance(caught.value, DiskFullError)
            with pytest.raises(StorageError, match="not open"):
                storage.sync()
        with opened(tmp_path) as storage:
            assert list(storage.entries(1, 1, PLENTY)) == run_of(1, 1)

    def test_a_failed_write_is_the_last(self, tmp_path: Path) -> None:
        """A file that cannot be written to is no full disk."""
        with opened(tmp_path) as storage:
            storage.append(run_of(1, 1))
            storage.sync()
            assert storage._active is not None
            with segments(tmp_path)[0].open("rb") as reader:
                os.dup2(reader.fileno(), storage._active.descriptor)
            storage.append(run_of(2, 2))
            with pytest.raises(StorageError, match="cannot sync: ") as caught:
                storage.sync()
            assert not isinstance(caught.value, DiskFullError)
            with pytest.raises(StorageError, match="not open"):
                storage.hard_state()

    def test_where_there_is_no_room_the_log_stays_open(self, tmp_path: Path) -> None:
        """It is as it was synced, and the next try goes to another segment."""
        with opened(tmp_path) as storage:
            storage.append(run_of(1, 5))
            storage.save_hard_state(HardState(1, "s1"))
            storage.sync()
            expected = kept(storage)
            assert storage._active is not None
            descriptor = storage._active.descriptor
            # There is never room in it.
            with open("/dev/full", "r+b", buffering=0) as full:  # noqa: PTH123 - likewise
                kept_back = os.dup(descriptor)
                os.dup2(full.fileno(), descriptor)
            self.write_more(storage)
            with pytest.raises(DiskFullError):
                storage.sync()
            os.dup2(kept_back, descriptor)
            os.close(kept_back)
            assert kept(storage) == expected
            self.write_more(storage)
            expected = kept(storage)
            storage.sync()
            assert kept(storage) == expected
        assert len(segments(tmp_path)) == 2
        with opened(tmp_path) as storage:
            assert kept(storage) == expected

    def write_more(self, storage: WALStorage) -> None:
        """Replace entries, vote and compact."""
        storage.append(run_of(3, 8, term=2))
        storage.save_hard_state(HardState(2, None))
        storage.compact(1, 1)

    def test_an_index_too_large_is_refused(self, tmp_path: Path) -> None:
        """One beyond 63 bits, or such a term, becomes our error in a compaction."""
        with opened(tmp_path) as storage:
            storage.append(run_of(1, 1))
            with pytest.raises(StorageError):
                storage.compact(1 << 63, 1)
            with pytest.raises(StorageError):
                storage.compact(1, 1 << 63)
            assert storage.first_index() == 1
            assert storage.last_index() == 1
            storage.sync()

    def test_a_failed_open_leaves_nothing_open(self, tmp_path: Path) -> None:
        """Its descriptors are closed, and a second try says the same."""
        write(tmp_path, 3)
        (segment,) = segments(tmp_path)
        content = bytearray(segment.read_bytes())
        content[70] ^= 1
        segment.write_bytes(content)
        descriptors = Path("/proc/self/fd")
        before = len(list(descriptors.iterdir()))
        for _ in range(2):
            with pytest.raises(StorageError, match="where the log begins is damaged"):
                WALStorage().open(tmp_path)
        assert len(list(descriptors.iterdir())) == before


class TestDamage:
    """What a failing disk does while the log is open is noticed."""

    def test_a_changed_entry_is_not_returned(self, tmp_path: Path) -> None:
        """The error names the segment, the entry and the way out."""
        with opened(tmp_path) as storage:
            storage.append(run_of(1, 3))
            storage.append(run_of(4, 6))
            storage.append(run_of(7, 9))
            storage.sync()
            (segment,) = segments(tmp_path)
            content = bytearray(segment.read_bytes())
            content[content.index(b"command 5 of 1")] ^= 1
            segment.write_bytes(content)
            for call in (
                lambda: storage.entries(1, 9, PLENTY),
                lambda: storage.entries(4, 4, PLENTY),
                lambda: storage.term(4),
            ):
                with pytest.raises(
                    StorageError,
                    match=r"^\S+raft.wal/\S+01.log: entry 4 is damaged; .*replace",
                ):
                    call()
            assert list(storage.entries(7, 9, PLENTY)) == run_of(7, 9)
            assert list(storage.entries(1, 3, PLENTY)) == run_of(1, 3)

    def test_a_segment_that_goes_is_noticed_by_a_read(self, tmp_path: Path) -> None:
        """An old segment is opened when somebody asks for what is in it."""
        with opened(tmp_path, None, TinyStorage) as storage:
            for index in range(1, 50):
                storage.append([large(index, 100)])
                storage.sync()
            segments(tmp_path)[1].unlink()
            with pytest.raises(StorageError, match="cannot read entries 1 to 49"):
                storage.entries(1, 49, PLENTY)


class TestCheck:
    """What is noticed before a start."""

    def refused(self, directory: Path, why: str) -> None:
        """See that check and open refuse what is unreadable in *directory*."""
        assert ids(directory) == ["storage.E101"]
        with pytest.raises(StorageError, match=why):
            WALStorage().open(directory)

    def test_a_file_in_its_place_is_found(self, tmp_path: Path) -> None:
        """What is no directory is refused by check and open."""
        (tmp_path / "raft.wal").write_text("a file")
        self.refused(tmp_path, "cannot be read")

    def test_a_directory_of_another_program_is_found(self, tmp_path: Path) -> None:
        """It is neither opened nor filled."""
        (tmp_path / "raft.wal").mkdir()
        (tmp_path / "raft.wal" / "notes.txt").write_text("mine")
        assert ids(tmp_path) == ["storage.E102"]
        with pytest.raises(StorageError, match="another program"):
            WALStorage().open(tmp_path)
        assert len(list((tmp_path / "raft.wal").iterdir())) == 1

    @pytest.mark.parametrize("version", [0, 2, 1 << 31])
    def test_another_format_is_found(self, tmp_path: Path, version: int) -> None:
        """What a later release wrote is left to it."""
        write(tmp_path, 1)
        (segment,) = segments(tmp_path)
        content = bytearray(segment.read_bytes())
        struct.pack_into(">I", content, 8, version)
        segment.write_bytes(content)
        assert ids(tmp_path) == ["storage.E103"]
        with pytest.raises(StorageError, match=r"has format \d+; this release reads 1"):
            WALStorage().open(tmp_path)

    def test_lost_files_are_found(self, tmp_path: Path) -> None:
        """A directory without segments is no new log: a vote may be forgotten."""
        write(tmp_path, 1)
        for segment in segments(tmp_path):
            segment.unlink()
        assert ids(tmp_path) == ["storage.E104"]
        with pytest.raises(StorageError, match="lost its segments"):
            WALStorage().open(tmp_path)

    @pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 8192, bytes(8192)])
    def test_a_file_that_is_no_segment_is_found(
        self, tmp_path: Path, content: bytes
    ) -> None:
        """Nor is an empty one new."""
        write(tmp_path, 1)
        segments(tmp_path)[0].write_bytes(content)
        self.refused(tmp_path, "is not a segment of a log")

    def test_a_damaged_header_is_found(self, tmp_path: Path) -> None:
        """It has a checksum of its own."""
        write(tmp_path, 1)
        (segment,) = segments(tmp_path)
        content = bytearray(segment.read_bytes())
        content[20] ^= 1
        segment.write_bytes(content)
        self.refused(tmp_path, "the header is damaged")

    def test_a_segment_under_another_name_is_refused(self, tmp_path: Path) -> None:
        """It knows its number."""
        write(tmp_path, 1)
        (segment,) = segments(tmp_path)
        segment.rename(segment.with_name(f"{2:020}.log"))
        with pytest.raises(StorageError, match="the header is damaged"):
            WALStorage().open(tmp_path)

    @pytest.mark.parametrize(
        ("options", "name"),
        [
            (WALOptions(segment_mib=0), "segment_mib"),
            (WALOptions(segment_mib=65_537), "segment_mib"),
            (WALOptions(spare_segments=-1), "spare_segments"),
            (WALOptions(spare_segments=1001), "spare_segments"),
        ],
    )
    def test_an_option_out_of_range_is_found(
        self, tmp_path: Path, options: WALOptions, name: str
    ) -> None:
        """The finding says which option it is."""
        (finding,) = WALStorage.check(options, tmp_path)
        assert finding.id == "storage.E105"
        assert finding.path == f"storage.options.{name}"

    def test_a_directory_half_made_is_a_new_log(self, tmp_path: Path) -> None:
        """A server that was killed while it made the directory begins again."""
        draft = tmp_path / "raft.wal.new"
        draft.mkdir()
        (draft / "fresh-1.new").write_bytes(b"half")
        assert ids(tmp_path) == []
        with opened(tmp_path) as storage:
            assert storage.last_index() == 0
        assert not draft.exists()

    def test_smaller_segments_bear_a_larger_log(self, tmp_path: Path) -> None:
        """Who makes the option smaller later finds the log all the same."""
        entries = [large(index) for index in range(1, 65)]
        with opened(tmp_path) as storage:
            storage.append(entries)
            storage.sync()
        with opened(tmp_path, WALOptions(segment_mib=1, spare_segments=0)) as storage:
            assert list(storage.entries(1, 64, PLENTY)) == entries
            storage.append([large(65)])
            storage.compact(64, 1)
            storage.sync()
            assert storage.first_index() == 65
