"""The storage in a RocksDB database."""

from __future__ import annotations

import os
import shutil
import struct
from contextlib import closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest
import rocksdict
from hypothesis import settings

from adapters.storage.rocksdb import RocksDBOptions, RocksDBStorage
from consensus.core.values import Entry, EntryKind
from consensus.errors import StorageError
from consensus.testing.storage import StorageSuite, run_of
from tests.adapters.storage import engine_suite
from tests.adapters.storage.engine_suite import (
    MIB,
    PLENTY,
    Engine,
    FailureSuite,
    ValuesSuite,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.adapters.storage.engine_suite import Values

opened = partial(engine_suite.opened, RocksDBStorage)
write = partial(engine_suite.write, RocksDBStorage)


class TestRocksDBStorage(StorageSuite):
    """What every storage promises."""

    # An opening of RocksDB takes ten times as long as one of SQLite.
    effort = settings(StorageSuite.effort, max_examples=20)

    def make(self, directory: Path) -> RocksDBStorage:  # noqa: ARG002 - it needs none
        return RocksDBStorage()


@contextmanager
def database_in(directory: Path) -> Iterator[rocksdict.Rdict]:
    """Lend the database in *directory*, behind the storage's back."""
    path = str(directory / "raft.rocksdb")
    database = rocksdict.Rdict(path, rocksdict.Options(raw_mode=True))
    with closing(database):
        yield database


def key(index: int) -> bytes:
    """Return the key of the entry at *index*."""
    return b"e" + struct.pack(">q", index)


class Content:
    """What is in a database."""

    def __init__(self, database: rocksdict.Rdict) -> None:
        self._database = database

    def get(self, name: int | str) -> bytes:
        return bytes(self._database[_name(name)] or b"")

    def put(self, name: int | str, value: bytes) -> None:
        self._database[_name(name)] = value

    def delete(self, name: int | str) -> None:
        del self._database[_name(name)]


def _name(name: int | str) -> bytes:
    if isinstance(name, int):
        return key(name)
    return {"hard_state": b"h", "extent": b"x"}[name]


class RocksDBEngine(Engine):
    """The engine, to the suites."""

    cls = RocksDBStorage
    file = "raft.rocksdb"

    @contextmanager
    def values(self, directory: Path) -> Iterator[Values]:
        """Lend all values."""
        with database_in(directory) as database:
            yield Content(database)


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

    def test_batches_are_keys_in_order(self, tmp_path: Path) -> None:
        """The hard state and the extent stand behind all of them."""
        write(tmp_path, 300)
        with database_in(tmp_path) as database:
            keys = list(database.keys())
        assert keys == [*(key(index) for index in range(1, 301)), b"h", b"x"]

    def test_starts_leave_few_files_behind(self, tmp_path: Path) -> None:
        """RocksDB's own files of text do not gather."""
        for _ in range(6):
            write(tmp_path, 1)
        assert len(list((tmp_path / "raft.rocksdb").glob("LOG*"))) <= 3


class TestFailure(RocksDBEngine, FailureSuite):
    """What happens when a call fails."""

    def test_a_failed_sync_is_the_last(self, tmp_path: Path) -> None:
        """After it every call fails, so that nobody can try again."""
        with opened(tmp_path) as storage:
            storage.append(run_of(1, 1))
            assert storage._driver is not None
            storage._driver.close()
            with pytest.raises(StorageError, match="cannot sync: ") as caught:
                storage.sync()
            assert isinstance(caught.value.__cause__, rocksdict.DbClosedError)
            with pytest.raises(StorageError, match="not open"):
                storage.sync()


class TestDamage(RocksDBEngine, ValuesSuite):
    """What a failing disk, or a meddler, does to the files is noticed."""

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

    def test_a_key_that_is_no_index_is_noticed_by_the_open(
        self, tmp_path: Path
    ) -> None:
        """It is no batch of ours."""
        write(tmp_path, 1)
        with database_in(tmp_path) as database:
            database[b"e"] = b""
            del database[key(1)]
        with pytest.raises(StorageError, match="cannot open"):
            RocksDBStorage().open(tmp_path)

    def test_a_flipped_bit_in_a_table_is_noticed(self, tmp_path: Path) -> None:
        """A read that meets the damaged block fails; others do not."""
        entries = [large(index) for index in range(1, 33)]
        with opened(tmp_path) as storage:
            for entry in entries:
                storage.append([entry])
            storage.sync()
        (table,) = (tmp_path / "raft.rocksdb").glob("*.sst")
        content = bytearray(table.read_bytes())
        content[len(content) // 2] ^= 1
        table.write_bytes(content)
        with opened(tmp_path) as storage:
            assert list(storage.entries(1, 4, PLENTY)) == entries[:4]
            with pytest.raises(
                StorageError, match=r"cannot read entries 1 to 32: Corruption"
            ):
                storage.entries(1, 32, PLENTY)

    def test_a_log_whose_end_cannot_be_read_is_not_empty(self, tmp_path: Path) -> None:
        """Damage of the block with the last entry stops the open for good."""
        with opened(tmp_path) as storage:
            for index in range(1, 9):
                storage.append([large(index)])
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


class TestCheck(RocksDBEngine):
    """What is noticed before a start."""

    def test_a_database_of_another_program_is_found(self, tmp_path: Path) -> None:
        """It is neither opened nor marked as ours."""
        with database_in(tmp_path) as database:
            database[b"e"] = b"theirs"
        assert self.ids(tmp_path) == ["storage.E102"]
        with pytest.raises(StorageError, match="another program"):
            RocksDBStorage().open(tmp_path)
        assert not (tmp_path / "raft.rocksdb" / "FORMAT").exists()

    def test_a_lost_file_is_found(self, tmp_path: Path) -> None:
        """Tables without CURRENT are no new log: a vote may be forgotten."""
        write(tmp_path, 1)
        (tmp_path / "raft.rocksdb" / "CURRENT").unlink()
        assert self.ids(tmp_path) == ["storage.E104"]
        with pytest.raises(StorageError, match="gone"):
            RocksDBStorage().open(tmp_path)

    @pytest.mark.parametrize("left", [[], ["FORMAT.new"]])
    def test_a_directory_half_made_is_a_new_log(
        self, tmp_path: Path, left: list[str]
    ) -> None:
        """A server that was killed while it made the directory begins again."""
        (tmp_path / "raft.rocksdb").mkdir()
        for name in left:
            (tmp_path / "raft.rocksdb" / name).touch()
        assert self.ids(tmp_path) == []
        with opened(tmp_path) as storage:
            assert storage.last_index() == 0

    def test_a_database_half_made_is_a_new_log(self, tmp_path: Path) -> None:
        """Killed a little later, it left files, but no CURRENT and no entry."""
        path = tmp_path / "raft.rocksdb"
        path.mkdir()
        (path / "FORMAT").write_text("3\n")
        for name in ("LOCK", "LOG", "IDENTITY", "MANIFEST-000001"):
            (path / name).touch()
        assert self.ids(tmp_path) == []
        with opened(tmp_path) as storage:
            assert storage.last_index() == 0
