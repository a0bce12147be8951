"""Files of the durable storages, torn and damaged in every place."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from adapters.storage.lmdb import LMDBStorage
from adapters.storage.rocksdb import RocksDBStorage
from adapters.storage.sqlite import SQLiteStorage
from adapters.storage.wal import WALStorage
from consensus.core.values import Entry, EntryKind, HardState
from consensus.testing.storage_model import Kept, kept
from tests.adapters.storage import flip_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from consensus.interfaces import Storage

ROUNDS = 30
PAGE = 4096


def write_rounds(storage: Storage) -> Iterable[Kept]:
    """Write and sync a round; yield what there is then, and before the first."""
    yield kept(storage)
    for number in range(1, ROUNDS + 1):
        entry = Entry(number, number, EntryKind.COMMAND, b"%03d" % number * 200)
        storage.save_hard_state(HardState(number, f"s{number % 3}"))
        storage.append([entry])
        if number % 10 == 0:
            storage.compact(number - 5, number - 5)
        storage.sync()
        yield kept(storage)


def found_in(make: type[Storage], directory: Path) -> Kept:
    """Return what a storage finds that opens in *directory*."""
    storage = make()
    storage.open(directory)
    with closing(storage):
        return kept(storage)


def crashed(make: type[Storage], tmp_path: Path) -> tuple[Path, list[Kept]]:
    """Return a directory as a crash after the last round leaves it, and all states."""
    first, copy = tmp_path / "first", tmp_path / "copy"
    first.mkdir()
    storage = make()
    storage.open(first)
    with closing(storage):
        states = list(write_rounds(storage))
        shutil.copytree(first, copy)
    return copy, states


@pytest.mark.parametrize(
    ("make", "pattern"),
    [
        (SQLiteStorage, "raft.sqlite-wal"),
        (RocksDBStorage, "raft.rocksdb/*.log"),
    ],
)
def test_a_torn_log_ends_at_a_sync(
    make: type[Storage], pattern: str, tmp_path: Path
) -> None:
    """Wherever the write-ahead log ends, whole rounds are found, from the first."""
    copy, states = crashed(make, tmp_path)
    (log,) = copy.glob(pattern)
    whole = log.read_bytes()
    draw = random.Random(5)  # noqa: S311 - reproducible, not secret
    ends = sorted(draw.sample(range(len(whole)), 40))
    lengths = []
    for end in [*ends, len(whole) - 1, len(whole)]:
        torn = tmp_path / f"torn at {end}"
        shutil.copytree(copy, torn)
        (torn / log.relative_to(copy)).write_bytes(whole[:end])
        found = found_in(make, torn)
        assert found in states
        lengths.append(states.index(found))
        shutil.rmtree(torn)
    assert lengths == sorted(lengths)
    assert lengths[-1] == ROUNDS
    assert lengths[-2] == ROUNDS - 1


@pytest.mark.parametrize(
    ("make", "pattern"),
    [
        (SQLiteStorage, "raft.sqlite-wal"),
        (RocksDBStorage, "raft.rocksdb/*.log"),
    ],
)
def test_a_torn_append_of_several_batches_is_none(
    make: type[Storage], pattern: str, tmp_path: Path
) -> None:
    """Wherever the write-ahead log ends in the middle of it."""
    first, torn = tmp_path / "first", tmp_path / "torn"
    first.mkdir()
    draw = random.Random(7)  # noqa: S311 - reproducible, not secret
    large = [
        Entry(index, 2, EntryKind.COMMAND, draw.randbytes(300))
        for index in range(2, 5000)
    ]
    storage = make()
    storage.open(first)
    with closing(storage):
        storage.append([Entry(index, 1, EntryKind.COMMAND, b"") for index in (1, 2)])
        storage.sync()
        before = kept(storage)
        (log,) = first.glob(pattern)
        start = log.stat().st_size
        storage.append(large)
        storage.sync()
        after = kept(storage)
        whole = log.read_bytes()
        assert len(whole) - start > 1_400_000
        for end in [start, *draw.sample(range(start, len(whole)), 8), len(whole)]:
            shutil.copytree(first, torn)
            (torn / log.relative_to(first)).write_bytes(whole[:end])
            assert found_in(make, torn) == (after if end == len(whole) else before)
            shutil.rmtree(torn)


def test_a_torn_commit_of_lmdb_is_none(tmp_path: Path) -> None:
    """Until its meta page is written, no other page of it counts."""
    first = tmp_path / "first"
    first.mkdir()
    storage = LMDBStorage()
    storage.open(first)
    data = first / "raft.lmdb" / "data.mdb"
    before = data.read_bytes()
    with closing(storage):
        states = []
        for state in write_rounds(storage):
            states.append(state)
            after = data.read_bytes()
            if len(states) in {2, 12, ROUNDS + 1}:
                check_torn_commit(tmp_path / str(len(states)), before, after, states)
            before = after


def check_torn_commit(
    directory: Path, before: bytes, after: bytes, states: list[Kept]
) -> None:
    """Write the pages of a commit one by one; the meta pages (0, 1) come last."""
    image = bytearray(before.ljust(len(after), b"\x00"))
    starts = [*range(2 * PAGE, len(after), PAGE), 0, PAGE]
    changed = [
        start
        for start in starts
        if image[start : start + PAGE] != after[start : start + PAGE]
    ]
    assert len(changed) > 2
    for start in changed:
        half = start + PAGE // 2
        for end in (half, start + PAGE) if start >= 2 * PAGE else (start + PAGE,):
            image[start:end] = after[start:end]
            shutil.copytree(directory.parent / "first", directory)
            (directory / "raft.lmdb" / "data.mdb").write_bytes(image)
            expected = states[-1] if start < 2 * PAGE else states[-2]
            assert found_in(LMDBStorage, directory) == expected
            shutil.rmtree(directory)


@pytest.mark.parametrize(
    ("make", "pattern"),
    [
        (SQLiteStorage, "raft.sqlite"),
        (RocksDBStorage, "raft.rocksdb/*.sst"),
        (LMDBStorage, "raft.lmdb/data.mdb"),
        (WALStorage, "raft.wal/*.log"),
    ],
)
def test_no_flipped_byte_goes_unnoticed(
    make: type[Storage], pattern: str, tmp_path: Path
) -> None:
    """All is read as it was written, or an error names the file."""
    source, scratch = tmp_path / "source", tmp_path / "scratch"
    source.mkdir()
    scratch.mkdir()
    storage = make()
    storage.open(source)
    with closing(storage):
        assert len(list(write_rounds(storage))) == ROUNDS + 1
    file = max(source.glob(pattern), key=lambda each: each.stat().st_size)
    draw = random.Random(11)  # noqa: S311 - reproducible, not secret
    positions = [str(each) for each in draw.sample(range(file.stat().st_size), 120)]
    verdicts = []
    while positions:
        seen, was_killed = flip(make, source, file, scratch, positions)
        verdicts += seen
        # LMDB may end the process, where damage hit its own structure.
        assert not was_killed or make is LMDBStorage
        positions = positions[len(seen) + was_killed :]
    assert "noticed" in verdicts
    assert set(verdicts) <= {"same", "noticed"}


def flip(
    make: type[Storage], source: Path, file: Path, scratch: Path, positions: list[str]
) -> tuple[list[str], bool]:
    """Return the verdicts on *positions*, and whether one killed the program."""
    shutil.rmtree(scratch)
    scratch.mkdir()
    name = f"{make.__module__}:{make.__qualname__}"
    done = subprocess.run(
        [
            *(sys.executable, flip_bytes.__file__, name, str(source)),
            *(str(file.relative_to(source)), str(scratch), *positions),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode <= 0, done.stderr
    verdicts = [line.partition(" ")[2] for line in done.stdout.splitlines()]
    return verdicts, done.returncode < 0
