"""The durable storages, killed: what they said was synced is there."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from adapters.storage.lmdb import LMDBStorage
from adapters.storage.rocksdb import RocksDBStorage
from adapters.storage.sqlite import SQLiteStorage
from adapters.storage.wal import WALStorage
from consensus.core.values import Entry, HardState
from tests.adapters.storage import append_forever
from tests.support.tracing import needs_strace

if TYPE_CHECKING:
    from pathlib import Path

    from consensus.interfaces import Storage

PLENTY = 1 << 30
ENGINES = [SQLiteStorage, RocksDBStorage, LMDBStorage, WALStorage]


def command(engine: type[Storage], *arguments: str) -> list[str]:
    """Return how ``append_forever.py`` is started for *engine*."""
    name = f"{engine.__module__}:{engine.__qualname__}"
    return [sys.executable, append_forever.__file__, name, *arguments]


def kill_after(rounds: int, engine: type[Storage], directory: Path) -> int:
    """Kill a program that has said *rounds* are synced; return what it said last."""
    with subprocess.Popen(
        command(engine, str(directory)), stdout=subprocess.PIPE
    ) as program:
        assert program.stdout is not None
        said = [program.stdout.readline() for _ in range(rounds + 1)]
        program.kill()
        said += program.stdout.readlines()
    return int([line for line in said if line.endswith(b"\n")][-1])


def log_after(rounds: int) -> list[Entry]:
    """Return the entries that as many rounds leave."""
    log: list[Entry] = []
    for term in range(1, rounds + 1):
        added = append_forever.entries_of(term, len(log))
        log[added[0].index - 1 :] = added
    return log


@pytest.mark.parametrize(
    ("engine", "rounds"),
    [
        *((engine, rounds) for engine in ENGINES for rounds in (1, 20, 200)),
        # Killed before, in and after checkpoints; where exactly, chance decides.
        *((append_forever.BusySQLite, rounds) for rounds in range(120, 480, 30)),
    ],
)
def test_a_killed_process_loses_nothing_that_it_synced(
    engine: type[Storage], rounds: int, tmp_path: Path
) -> None:
    """All acknowledged rounds are there, and of the next what came first."""
    acknowledged = kill_after(rounds, engine, tmp_path)
    assert acknowledged >= rounds
    storage = engine()
    assert list(storage.check(storage.options, tmp_path)) == []
    storage.open(tmp_path)
    hard_state = storage.hard_state()
    found = list(storage.entries(1, storage.last_index(), PLENTY))
    storage.close()
    assert hard_state == HardState(hard_state.term, f"s{hard_state.term}")
    assert hard_state.term >= acknowledged
    possible = [log_after(hard_state.term)]
    if hard_state.term > acknowledged:
        possible.append(log_after(hard_state.term - 1))
    assert found in possible


def trace(log: Path, program: list[str]) -> list[str]:
    """Run *program*; return its syncs and its output as strace prints them."""
    calls = "trace=fsync,fdatasync,write,openat,pwrite64"
    run = ["strace", "-f", "-y", "-e", calls, "-o", str(log), *program]
    done = subprocess.run(run, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return log.read_text(errors="replace").splitlines()


def said_after_sync(lines: list[str], file: str) -> list[int]:
    """Return what a traced program said while *file* had been synced for it."""
    said = []
    is_synced = False
    for line in lines:
        if re.search(rf"(fsync|fdatasync)\(\d+<.*{file}>", line):
            is_synced = True
        elif number := re.search(r'write\(1<[^>]*>, "(\d+)\\n"', line):
            if is_synced:
                said.append(int(number[1]))
            is_synced = False
    return said


@needs_strace
@pytest.mark.parametrize(
    ("engine", "file"),
    [
        (SQLiteStorage, r"\.sqlite-wal"),
        (RocksDBStorage, r"\d\.log"),
        (LMDBStorage, r"data\.mdb"),
        (WALStorage, r"raft\.wal/\d+\.log"),
    ],
)
def test_the_disk_is_asked_before_each_acknowledgement(
    engine: type[Storage], file: str, tmp_path: Path
) -> None:
    """A sync of the file that is written stands before each round's number."""
    directory = tmp_path / "storage"
    directory.mkdir()
    lines = trace(tmp_path / "log", command(engine, str(directory), "20"))
    assert said_after_sync(lines, file)[-20:] == list(range(1, 21))


@needs_strace
@pytest.mark.parametrize(
    ("engine", "file"),
    [
        (SQLiteStorage, r"\.sqlite-wal"),
        (RocksDBStorage, r"\d\.sst"),
        (LMDBStorage, r"data\.mdb"),
        (WALStorage, r"raft\.wal/\d+\.log"),
    ],
)
def test_what_an_open_finds_is_on_the_disk(
    engine: type[Storage], file: str, tmp_path: Path
) -> None:
    """What a killed process may have left unsynced, the next one syncs at once."""
    directory = tmp_path / "storage"
    directory.mkdir()
    kill_after(5, engine, directory)
    lines = trace(tmp_path / "log", command(engine, str(directory), "0"))
    assert said_after_sync(lines, file) == [0]


def said_after_writing_through(lines: list[str], file: str) -> list[int]:
    """Return what was said after a sync of *file* and then a write past caches."""
    said = []
    through: set[str] = set()
    steps = 0
    for line in lines:
        if opened := re.search(rf'openat\(.*{file}", .*O_DSYNC.*= (\d+)<', line):
            through.add(opened[1])
        elif re.search(rf"fdatasync\(\d+<.*{file}>\) += 0", line):
            steps = 1
        elif written := re.search(rf"pwrite64\((\d+)<.*{file}>", line):
            steps = 2 if steps == 1 and written[1] in through else 0
        elif number := re.search(r'write\(1<[^>]*>, "(\d+)\\n"', line):
            if steps == 2:
                said.append(int(number[1]))
            steps = 0
    return said


@needs_strace
def test_lmdb_syncs_its_pages_and_then_says_that_they_count(tmp_path: Path) -> None:
    """The meta page is written through to the disk, after what it points to."""
    directory = tmp_path / "storage"
    directory.mkdir()
    program = command(LMDBStorage, str(directory), "20")
    lines = trace(tmp_path / "log", program)
    assert said_after_writing_through(lines, r"raft\.lmdb/data\.mdb") == [*range(1, 21)]
