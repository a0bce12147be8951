"""The storage in a RocksDB database."""

from __future__ import annotations

import os
import shutil
import struct
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest
import rocksdict
from hypothesis import settings

from adapters.storage.rocksdb import RocksDBOptions, RocksDBStorage
from consensus.core.values import Entry, EntryKind, HardState
from consensus.errors import StorageError
from consensus.testing.storage import StorageSuite, run_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PLENTY = 1 << 30
MIB = 1 << 20


class TestRocksDBStorage(StorageSuite):
    """What every storage promises."""

    # An opening of RocksDB takes ten times as long as one of SQLite.
    effort = settings(StorageSuite.effort, max_examples=20)

    def make(self, directory: Path) -> RocksDBStorage:  # noqa: ARG002 - it needs none
        return RocksDBStorage()


@contextmanager
def opened(
    directory: Path, options: RocksDBOptions | None = None
) -> Iterator[RocksDBStorage]:
    """Lend the storage in *directory*."""
    storage = RocksDBStorage(options)
    storage.open(directory)
    with closing(storage):
        yield storage


@contextmanager
def database_in(directory: Path) -> Iterator[rocksdict.Rdict]:
    """Lend the database in *directory*, behind the storage's back."""
    path = str(directory / "raft.rocksdb")
    database = rocksdict.Rdict(path, rocksdict.Options(raw_mode=True))
    with closing(database):
        yield database


def write(directory: Path, last: int) -> None:
    """Leave a log of *last* entries and a vote in *directory*."""
    with opened(directory) as storage:
        storage.append(run_of(1, last))
        storage.save_hard_state(HardState(1, "s1"))
        storage.sync()


def key(index: int) -> bytes:
    """Return the key of the entry at *index*."""
    return b"e" + struct.pack(">q", index)


def ids(directory: Path) -> list[str]:
    """Return the ids of what a check finds."""
    found = RocksDBStorage.check(RocksDBOptions(), directory)
    return [finding.id for finding in found]


def large(index: int, term: int = 1) -> Entry:
    """Return an entry of 64 KiB that no compression makes smaller."""
    return Entry(index, term, EntryKind.COMMAND, os.urandom(65_536))


class TestTables:
    """What stands on the disk."""

    def test_a_log_outgrows_the_memory(self, tmp_path: Path) -> None:
        """Entries come back from tables, also those that replaced others."""
        options = RocksDBOptions(write_buffer_mib=1, cache_mib=1)
        old = [large(index) for index in range(1, 81)]
        new = [large(index, term=2) for index in range(30, 61)]
        with opened(tmp_path, options) as storage:
            for entry in old:
                storage.append([entry])
                storage.sync()
            storage.append(new)
            storage.sync()
            assert list(storage.entries(1, 60, PLENTY)) == [*old[:29], *new]
        tables = (tmp_path / "raft.rocksdb").glob("*.sst")
        assert sum(table.stat().st_size for table in tables) > 3 * MIB
        with opened(tmp_path, options) as storage:
            assert storage.last_index() == 60
            assert list(storage.entries(1, 60, PLENTY)) == [*old[:29], *new]

    def test_entries_are_keys_in_order(self, tmp_path: Path) -> None:
        """The hard state and the extent stand behind all of them."""
        write(tmp_path, 300)
        with database_in(tmp_path) as database:
            keys = list(database.keys())
        assert keys == [*(key(index) for index in range(1, 301)), b"h", b"x"]

    def test_the_format_is_a_file(self, tmp_path: Path) -> None:
        """Its version can be read without RocksDB."""
        write(tmp_path, 1)
        assert (tmp_path / "raft.rocksdb" / "FORMAT").read_text() == "2\n"

    def test_starts_leave_few_files_behind(self, tmp_path: Path) -> None:
        """RocksDB's own files of text do not gather."""
        for _ in range(6):
            write(tmp_path, 1)
        assert len(list((tmp_path / "raft.rocksdb").glob("LOG*"))) <= 3


class TestFailure:
    """What happens when a call fails."""

    def test_a_failed_sync_is_the_last(self, tmp_path: Path) -> None:
        """After it every call fails, so that nobody can try again."""
        with opened(tmp_path) as storage:
            storage.append(run_of(1, 1))
            assert storage._database is not None
            storage._database.close()
            with pytest.raises(StorageError, match="cannot sync: ") as caught:
                storage.sync()
            assert isinstance(caught.value.__cause__, rocksdict.DbClosedError)
            with pytest.raises(StorageError, match="not open"):
                storage.sync()

    def test_a_number_too_large_is_refused(self, tmp_path: Path) -> None:
        """A term beyond 63 bits becomes our error and changes nothing."""
        with opened(tmp_path) as storage:
            storage.append(run_of(1, 1))
            with pytest.raises(StorageError):
                storage.append([*run_of(2, 2), Entry(3, 1 << 63, 1, b"")])
            with pytest.raises(StorageError):
                storage.save_hard_state(HardState(1 << 63, None))
            assert storage.last_index() == 1
            assert storage.hard_state() == HardState()

    def test_nothing_works_on_a_closed_storage(self, tmp_path: Path) -> None:
        """Every call that needs the database says that it is not open."""
        with opened(tmp_path) as storage:
            storage.append(run_of(1, 1))
            storage.sync()
        for call in (
            storage.sync,
            storage.hard_state,
            lambda: storage.save_hard_state(HardState(1, None)),
            lambda: storage.append(run_of(2, 2)),
            lambda: storage.entries(1, 1, PLENTY),
            lambda: storage.term(1),
        ):
            with pytest.raises(StorageError, match="not open"):
                call()

    def test_a_second_opening_is_refused(self, tmp_path: Path) -> None:
        """RocksDB's own lock speaks with our error, and the first goes on."""
        with opened(tmp_path) as storage:
            with pytest.raises(StorageError, match=r"cannot open: .*[Ll]ock"):
                RocksDBStorage().open(tmp_path)
            storage.append(run_of(1, 1))
            storage.sync()

    @pytest.mark.parametrize("first", [0, -1])
    def test_there_is_no_entry_below_1(self, tmp_path: Path, first: int) -> None:
        """An append that begins before the log is refused."""
        with opened(tmp_path) as storage, pytest.raises(StorageError):
            storage.append([Entry(first, 1, EntryKind.COMMAND, b"")])

    def test_an_append_of_nothing_is_refused(self, tmp_path: Path) -> None:
        """Somebody who appends no entries has lost count."""
        with opened(tmp_path) as storage, pytest.raises(StorageError, match="nothing"):
            storage.append([])


class TestDamage:
    """What a failing disk, or a meddler, does to the files is noticed."""

    @pytest.mark.parametrize("position", [0, 4, 11, 12, 13, -1])
    def test_a_changed_entry_is_not_returned(
        self, tmp_path: Path, position: int
    ) -> None:
        """The error names the database, the entry and the way out."""
        write(tmp_path, 3)
        with database_in(tmp_path) as database:
            value = bytearray(database[key(2)] or b"")
            value[position] ^= 1
            database[key(2)] = bytes(value)
        with opened(tmp_path) as storage:
            for call in (
                lambda: storage.entries(1, 3, PLENTY),
                lambda: storage.entries(2, 2, 0),
                lambda: storage.term(2),
            ):
                with pytest.raises(
                    StorageError,
                    match=r"^\S+raft.rocksdb: entry 2 is damaged; .*replace",
                ):
                    call()
            assert list(storage.entries(3, 3, PLENTY)) == run_of(3, 3)

    def test_a_short_value_is_noticed(self, tmp_path: Path) -> None:
        """A value too short for its numbers is damaged, too."""
        write(tmp_path, 3)
        with database_in(tmp_path) as database:
            database[key(2)] = b"short"
        with (
            opened(tmp_path) as storage,
            pytest.raises(StorageError, match="entry 2 is damaged"),
        ):
            storage.entries(1, 3, PLENTY)

    def test_an_entry_in_a_wrong_place_is_noticed(self, tmp_path: Path) -> None:
        """The CRC covers the index."""
        write(tmp_path, 3)
        with database_in(tmp_path) as database:
            database[key(2)] = database[key(3)]
        with (
            opened(tmp_path) as storage,
            pytest.raises(StorageError, match="entry 2 is damaged"),
        ):
            storage.entries(1, 3, PLENTY)

    def test_a_missing_entry_is_noticed_by_a_read(self, tmp_path: Path) -> None:
        """A hole ends a read with an error that names it."""
        write(tmp_path, 4)
        with database_in(tmp_path) as database:
            del database[key(3)]
        with opened(tmp_path) as storage:
            with pytest.raises(StorageError, match="entry 3 is missing"):
                storage.entries(1, 4, PLENTY)
            with pytest.raises(StorageError, match="entry 3 is missing"):
                storage.term(3)

    def test_an_error_that_is_kept_keeps_nothing_open(self, tmp_path: Path) -> None:
        """A server that looks at its last error can be started again."""
        write(tmp_path, 3)
        with database_in(tmp_path) as database:
            database[key(2)] = b"short"
        with opened(tmp_path) as storage, pytest.raises(StorageError) as caught:
            storage.entries(1, 3, PLENTY)
        with opened(tmp_path) as storage:
            assert storage.last_index() == 3
        assert caught.value.__traceback__ is not None

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            (key(1), None, "entry 1 is missing"),
            (key(3), b"short", "entry 3 is damaged"),
            (b"h", b"", "term and vote are damaged"),
            (b"h", bytes(13), "term and vote are damaged"),
            (b"h", None, "term and vote are damaged"),
            (b"x", None, "where the log begins is damaged"),
            (b"x", bytes(20), "where the log begins is damaged"),
            (b"e", b"", "cannot open"),
        ],
    )
    def test_a_damaged_end_is_noticed_by_the_open(
        self, tmp_path: Path, name: bytes, value: bytes | None, message: str
    ) -> None:
        """What a first vote depends on is checked; the database is closed."""
        write(tmp_path, 3)
        with database_in(tmp_path) as database:
            if value is None:
                del database[name]
            else:
                database[name] = value
            if name == b"e":
                for index in (1, 2, 3):
                    del database[key(index)]
        storage = RocksDBStorage()
        with pytest.raises(StorageError, match=message):
            storage.open(tmp_path)
        with database_in(tmp_path):
            pass

    def test_a_flipped_bit_in_a_table_is_noticed(self, tmp_path: Path) -> None:
        """A read that meets the damaged block fails; others do not."""
        entries = [large(index) for index in range(1, 33)]
        with opened(tmp_path) as storage:
            storage.append(entries)
            storage.sync()
        (table,) = (tmp_path / "raft.rocksdb").glob("*.sst")
        content = bytearray(table.read_bytes())
        content[len(content) // 2] ^= 1
        table.write_bytes(content)
        with opened(tmp_path) as storage:
            assert list(storage.entries(1, 4, PLENTY)) == entries[:4]
            with pytest.raises(StorageError, match=r"entry 1\d is missing"):
                storage.entries(1, 32, PLENTY)

    def test_a_log_whose_end_cannot_be_read_is_not_empty(self, tmp_path: Path) -> None:
        """Damage of the block with the last entry stops the open for good."""
        with opened(tmp_path) as storage:
            storage.append([large(index) for index in range(1, 9)])
            storage.sync()
        (table,) = (tmp_path / "raft.rocksdb").glob("*.sst")
        content = bytearray(table.read_bytes())
        content[-40_000] ^= 1
        table.write_bytes(content)
        with pytest.raises(StorageError, match="cannot open: Corruption") as caught:
            RocksDBStorage().open(tmp_path)
        with database_in(tmp_path):
            assert caught.value.__traceback__ is not None

    @pytest.mark.parametrize("tear", [slice(-50, None), slice(-90_000, -89_900)])
    def test_a_torn_log_leaves_a_prefix(self, tmp_path: Path, tear: slice) -> None:
        """What follows a tear in the write-ahead log is gone, not only the tear."""
        first, second = tmp_path / "first", tmp_path / "second"
        first.mkdir()
        entries = [
            Entry(index, 1, EntryKind.COMMAND, bytes([index]) * 2000)
            for index in range(1, 101)
        ]
        with opened(first) as storage:
            for entry in entries:
                storage.append([entry])
                storage.sync()
            shutil.copytree(first, second)
        (log,) = (second / "raft.rocksdb").glob("*.log")
        content = bytearray(log.read_bytes())
        content[tear] = bytes(len(content[tear]))
        log.write_bytes(content)
        with opened(second) as storage:
            last = storage.last_index()
            assert 0 < last < 100
            assert list(storage.entries(1, last, PLENTY)) == entries[:last]

    def test_a_damaged_database_is_refused(self, tmp_path: Path) -> None:
        """What RocksDB says about it is the cause of our error."""
        write(tmp_path, 3)
        (manifest,) = (tmp_path / "raft.rocksdb").glob("MANIFEST-*")
        manifest.write_bytes(b"\xff" * 500)
        with pytest.raises(
            StorageError, match=r"raft.rocksdb: cannot open: "
        ) as caught:
            RocksDBStorage().open(tmp_path)
        assert caught.value.__cause__ is not None


class TestCheck:
    """What is noticed before a start."""

    def test_a_file_in_its_place_is_found(self, tmp_path: Path) -> None:
        """What is no directory is refused by check and open."""
        (tmp_path / "raft.rocksdb").write_text("a file")
        assert ids(tmp_path) == ["storage.E101"]
        with pytest.raises(StorageError, match="cannot be read"):
            RocksDBStorage().open(tmp_path)

    def test_a_database_of_another_program_is_found(self, tmp_path: Path) -> None:
        """It is neither opened nor marked as ours."""
        with database_in(tmp_path) as database:
            database[b"e"] = b"theirs"
        assert ids(tmp_path) == ["storage.E102"]
        with pytest.raises(StorageError, match="another program"):
            RocksDBStorage().open(tmp_path)
        assert not (tmp_path / "raft.rocksdb" / "FORMAT").exists()

    @pytest.mark.parametrize("version", ["3\n", "", "one"])
    def test_another_format_is_found(self, tmp_path: Path, version: str) -> None:
        """What a later release wrote is left to it."""
        write(tmp_path, 1)
        (tmp_path / "raft.rocksdb" / "FORMAT").write_text(version)
        assert ids(tmp_path) == ["storage.E103"]
        with pytest.raises(StorageError, match=r"has format .*; this release reads 2"):
            RocksDBStorage().open(tmp_path)

    def test_the_format_of_a_pre_release_is_refused(self, tmp_path: Path) -> None:
        """One sentence says what to do."""
        write(tmp_path, 1)
        (tmp_path / "raft.rocksdb" / "FORMAT").write_text("1\n")
        assert ids(tmp_path) == ["storage.E103"]
        with pytest.raises(StorageError, match="a pre-release wrote it: begin with"):
            RocksDBStorage().open(tmp_path)

    def test_a_format_that_is_no_text_is_found(self, tmp_path: Path) -> None:
        """Bytes that are no text are refused, not guessed at."""
        write(tmp_path, 1)
        (tmp_path / "raft.rocksdb" / "FORMAT").write_bytes(b"\xff\xfe")
        assert ids(tmp_path) == ["storage.E101"]

    def test_a_lost_file_is_found(self, tmp_path: Path) -> None:
        """Tables without CURRENT are no new log: a vote may be forgotten."""
        write(tmp_path, 1)
        (tmp_path / "raft.rocksdb" / "CURRENT").unlink()
        assert ids(tmp_path) == ["storage.E104"]
        with pytest.raises(StorageError, match="gone"):
            RocksDBStorage().open(tmp_path)

    @pytest.mark.parametrize("name", ["write_buffer_mib", "cache_mib"])
    def test_an_option_out_of_range_is_found(self, tmp_path: Path, name: str) -> None:
        """The finding says which option it is."""
        (finding,) = RocksDBStorage.check(RocksDBOptions(**{name: 0}), tmp_path)
        assert finding.id == "storage.E105"
        assert finding.path == f"storage.options.{name}"

    @pytest.mark.parametrize("left", [[], ["FORMAT.new"]])
    def test_a_directory_half_made_is_a_new_log(
        self, tmp_path: Path, left: list[str]
    ) -> None:
        """A server that was killed while it made the directory begins again."""
        (tmp_path / "raft.rocksdb").mkdir()
        for name in left:
            (tmp_path / "raft.rocksdb" / name).touch()
        assert ids(tmp_path) == []
        with opened(tmp_path) as storage:
            assert storage.last_index() == 0

    def test_a_database_half_made_is_a_new_log(self, tmp_path: Path) -> None:
        """Killed a little later, it left files, but no CURRENT and no entry."""
        path = tmp_path / "raft.rocksdb"
        path.mkdir()
        (path / "FORMAT").write_text("2\n")
        for name in ("LOCK", "LOG", "IDENTITY", "MANIFEST-000001"):
            (path / name).touch()
        assert ids(tmp_path) == []
        with opened(tmp_path) as storage:
            assert storage.last_index() == 0
