"""What a compaction costs the durable storages, and what it gives back."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import lmdb
import pytest

from adapters.storage.lmdb import LMDBStorage
from adapters.storage.rocksdb import RocksDBOptions, RocksDBStorage
from adapters.storage.sqlite import SQLiteOptions, SQLiteStorage
from adapters.storage.wal import WALStorage
from consensus.core.values import Entry, EntryKind
from consensus.errors import CompactedError
from consensus.testing.storage import run_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from consensus.interfaces import Storage

PLENTY = 1 << 30
MIB = 1 << 20

MAKERS: list[Callable[[], Storage]] = [
    lambda: SQLiteStorage(SQLiteOptions(checkpoint_mib=1)),
    lambda: RocksDBStorage(RocksDBOptions(write_buffer_mib=1)),
    LMDBStorage,
    WALStorage,
]
NAMES = ["sqlite", "rocksdb", "lmdb", "wal"]

by_engine = pytest.mark.parametrize("make", MAKERS, ids=NAMES)


def append(storage: Storage, first: int, count: int, size: int = 1000) -> None:
    """Append and sync *count* entries that no compression makes smaller."""
    for index in range(first, first + count, 100):
        storage.append(
            [
                Entry(each, 1, EntryKind.COMMAND, os.urandom(size))
                for each in range(index, min(index + 100, first + count))
            ]
        )
        storage.sync()


def size_of(directory: Path) -> int:
    """Return how many bytes the files in *directory* have."""
    return sum(each.stat().st_size for each in directory.rglob("*") if each.is_file())


@by_engine
def test_a_log_that_is_compacted_does_not_grow(
    make: Callable[[], Storage], tmp_path: Path
) -> None:
    """Forty times its length passes through it, and it is hardly longer."""
    storage = make()
    storage.open(tmp_path)
    with closing(storage):
        sizes = []
        for first in range(1, 80_001, 2000):
            append(storage, first, 2000)
            storage.compact(first + 1900, 1)
            storage.sync()
            sizes.append(size_of(tmp_path))
        assert list(storage.entries(79_902, 80_000, PLENTY))
    # RocksDB merges its tables when there are four new ones of a mebibyte.
    assert max(sizes[20:]) <= max(sizes[:20]) + 8 * MIB
    assert max(sizes) <= 24 * MIB


def sqlite_count(path: Path) -> int:
    """Return how many batches, dropped or not, are in the file in *path*."""
    with closing(sqlite3.connect(path / "raft.sqlite")) as connection:
        found: int = connection.execute("SELECT count(*) FROM batches").fetchone()[0]
        return found


def lmdb_count(path: Path) -> int:
    """Return how many batches, dropped or not, are in the environment in *path*."""
    where = str(path / "raft.lmdb")
    with closing(lmdb.open(where, max_dbs=2, readonly=True)) as environment:
        batches = environment.open_db(b"batches", create=False)
        with environment.begin(batches) as transaction:
            found: int = transaction.stat(batches)["entries"]
            return found


@pytest.mark.parametrize(
    ("make", "count"),
    [(SQLiteStorage, sqlite_count), (LMDBStorage, lmdb_count)],
    ids=["sqlite", "lmdb"],
)
def test_old_batches_go_bit_by_bit(
    make: Callable[[], Storage], count: Callable[[Path], int], tmp_path: Path
) -> None:
    """A crash in the middle finds the base and nothing below; the rest goes later."""
    first, copy = tmp_path / "first", tmp_path / "copy"
    first.mkdir()
    storage = make()
    storage.open(first)
    with closing(storage):
        for start in range(1, 5000, 5):
            storage.append(run_of(start, start + 4))
        storage.sync()
        # In the middle of a batch, which stays.
        storage.compact(4902, 1)
        storage.sync()
        storage.append(run_of(5001, 5001))
        storage.sync()
        shutil.copytree(first, copy)
    storage = make()
    storage.open(copy)
    with closing(storage):
        assert storage.first_index() == 4903
        assert storage.term(4902) == 1
        with pytest.raises(CompactedError):
            storage.entries(4902, 4902, PLENTY)
        assert list(storage.entries(4903, 5001, PLENTY)) == run_of(4903, 5001)
    assert count(copy) == 1001 - 2 * 50
    storage = make()
    storage.open(copy)
    with closing(storage):
        for index in range(5002, 5030):
            storage.append(run_of(index, index))
            storage.sync()
        assert storage.first_index() == 4903
        assert storage.last_index() == 5029
        assert list(storage.entries(4903, 5029, PLENTY)) == run_of(4903, 5029)
    assert count(copy) == 20 + 29


@by_engine
def test_more_goes_than_comes(make: Callable[[], Storage], tmp_path: Path) -> None:
    """Appends larger than a step of the deletion do not outrun it."""
    storage = make()
    storage.open(tmp_path)
    with closing(storage):
        for first in range(1, 60_001, 5000):
            storage.append(run_of(first, first + 4999))
            storage.compact(first + 4990, 1)
            storage.sync()
        largest = size_of(tmp_path)
    assert largest <= 12 * MIB
