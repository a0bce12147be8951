"""
A program for ``test_storage_full``: fill a real, small disk; then make room.

``python fill_disk.py ENGINE DISK COPY``, where ENGINE is a name such as
``adapters.storage.sqlite:SQLiteStorage``, DISK a small file system of its own
and COPY a directory on another one.  It ends with an AssertionError, or says
what it saw.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from consensus.core.values import Entry, EntryKind, HardState
from consensus.errors import DiskFullError

if TYPE_CHECKING:
    from consensus.interfaces import Storage

PLENTY = 1 << 40
KIB = 1024

#: RocksDB looks every five seconds whether there is room again.
PATIENCE = 60.0


class Filler:
    """One storage, what it has to keep, and what it was asked for in vain."""

    def __init__(self, engine: str) -> None:
        module, _, name = engine.partition(":")
        self.make: type[Storage] = getattr(import_module(module), name)
        self.storage = self.make()
        self.entries: list[Entry] = []
        self.hard_state = HardState()

    def write(self, size: int) -> None:
        """Append an entry of *size* bytes, save a term, and sync both."""
        term = self.hard_state.term + 1
        index = len(self.entries) + 1
        entry = Entry(index, term, EntryKind.COMMAND, os.urandom(size))
        self.storage.save_hard_state(HardState(term, "s1"))
        self.storage.append([entry])
        self.storage.sync()
        self.entries.append(entry)
        self.hard_state = HardState(term, "s1")

    def fill(self, size: int) -> int:
        """Write until there is no room; return how often there was."""
        for count in range(100_000):
            try:
                self.write(size)
            except DiskFullError:
                return count
        raise AssertionError("the disk has no end")

    def check(self, storage: Storage) -> None:
        """See that *storage* has what was synced, and nothing else."""
        assert storage.last_index() == len(self.entries)
        assert list(storage.entries(1, len(self.entries), PLENTY)) == self.entries
        assert storage.hard_state() == self.hard_state

    def write_when_there_is_room(self) -> None:
        """Write the same again and again until it works."""
        end = time.monotonic() + PATIENCE
        while True:
            try:
                self.write(64 * KIB)
            except DiskFullError:
                self.check(self.storage)
                assert time.monotonic() < end, "it does not recover"
                time.sleep(0.1)
            else:
                return


def main(engine: str, disk: str, copy: str) -> None:
    """Fill, look, crash, make room, go on."""
    filler = Filler(engine)
    directory, ballast = Path(disk, "data"), Path(disk, "ballast")
    ballast.write_bytes(bytes(44 * KIB * KIB))
    directory.mkdir()
    filler.storage.open(directory)
    rounds = [filler.fill(size) for size in (64 * KIB, 64 * KIB, KIB, 10)]
    assert rounds[0] > 0
    filler.check(filler.storage)
    shutil.copytree(directory, copy)
    ballast.unlink()
    filler.write_when_there_is_room()
    for _ in range(20):
        filler.write(KIB)
    filler.check(filler.storage)
    filler.storage.close()
    filler.storage.open(directory)
    filler.check(filler.storage)
    filler.storage.close()
    check_crash(filler, Path(copy), 21)
    print(*rounds)  # noqa: T201 - for the test


def check_crash(filler: Filler, copy: Path, later: int) -> None:
    """See that a crash at the time when it was full left what was synced."""
    del filler.entries[-later:]
    filler.hard_state = HardState(filler.hard_state.term - later, "s1")
    storage = filler.make()
    storage.open(copy)
    filler.check(storage)
    storage.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
