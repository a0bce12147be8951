"""
Compare the storages: how many batches a second each of them syncs.

``python -m tests.bench.storages [--rounds N] [--seconds S] [--directory D]``
writes batches of 1, 64 and 256 entries of 300 bytes, a sync after each, to each
engine in turns, and prints medians of all rounds and ratios to SQLite.  The
last columns are the processor's time an entry, and the start and a whole
read of a log of ``--entries`` entries that came in batches of 64.

Figures of different runs, or of a machine that does other things, do not
compare: the ratios do, roughly.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from contextlib import closing
from operator import truediv
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from adapters.storage.lmdb import LMDBStorage
from adapters.storage.rocksdb import RocksDBStorage
from adapters.storage.sqlite import SQLiteStorage
from adapters.storage.wal import WALStorage
from consensus.core.values import Entry, EntryKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from consensus.interfaces import Storage

ENGINES: dict[str, type[Storage]] = {
    "sqlite": SQLiteStorage,
    "rocksdb": RocksDBStorage,
    "lmdb": LMDBStorage,
    "wal": WALStorage,
}
SIZES = (1, 64, 256)
COMMAND = os.urandom(300)

#: A log that is longer is compacted, as a server does after a snapshot.
LONGEST = 100_000

#: Entries are read by as many bytes at once.
READ = 1 << 20


def batch_from(first: int, count: int) -> list[Entry]:
    """Return *count* entries from *first* on."""
    return [
        Entry(index, 1, EntryKind.COMMAND, COMMAND)
        for index in range(first, first + count)
    ]


class Writer:
    """One engine, with a log that goes on from round to round."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        directory.mkdir()
        self.storage = ENGINES[name]()
        self.storage.open(directory)
        self.rates: dict[int, list[float]] = {size: [] for size in SIZES}
        self.costs: dict[int, list[float]] = {size: [] for size in SIZES}

    def run(self, size: int, seconds: float) -> None:
        """Append and sync batches of *size* for so long."""
        storage = self.storage
        count = 0
        first = storage.last_index() + 1
        begin, cpu = time.perf_counter(), time.process_time()
        end = begin + seconds
        while (now := time.perf_counter()) < end:
            storage.append(batch_from(first, size))
            storage.sync()
            first += size
            count += 1
            if first - storage.first_index() > 2 * LONGEST:
                storage.compact(first - LONGEST, 1)
        cost = time.process_time() - cpu
        self.rates[size].append(count / (now - begin))
        self.costs[size].append(cost / count / size)


def run_rounds(directory: Path, rounds: int, seconds: float) -> list[Writer]:
    """Let the engines take turns."""
    writers = [Writer(name, directory / name) for name in ENGINES]
    for _ in range(rounds):
        for size in SIZES:
            for writer in writers:
                writer.run(size, seconds)
    for writer in writers:
        writer.storage.close()
    return writers


def start(name: str, directory: Path, entries: int) -> tuple[float, float]:
    """Return how long a start takes with so many *entries*, and reading them all."""
    directory.mkdir()
    with closing(ENGINES[name]()) as storage:
        storage.open(directory)
        for first in range(1, entries + 1, 64):
            storage.append(batch_from(first, min(64, entries + 1 - first)))
            if first % 6400 == 1:
                storage.sync()
        storage.sync()
    with closing(ENGINES[name]()) as storage:
        begin = time.perf_counter()
        storage.open(directory)
        opened = time.perf_counter() - begin
        assert storage.last_index() == entries
        first = 1
        while first <= entries:
            first += len(storage.entries(first, entries, READ))
        return opened, time.perf_counter() - begin - opened


def table(writers: Sequence[Writer], starts: dict[str, list[str]]) -> list[str]:
    """Return the lines of a table as Markdown has them."""
    (reference,) = (writer.rates for writer in writers if writer.name == "sqlite")
    heads = [f"batches of {size}/s" for size in SIZES]
    heads += ["CPU an entry at 64", "start", "read all"]
    lines = [row("storage", heads), row("---", ["---"] * len(heads))]
    for writer in writers:
        cells = [cell(writer.rates[size], reference[size]) for size in SIZES]
        cells.append(f"{median(writer.costs[64]) * 1e6:.2f} µs")
        lines.append(row(writer.name, [*cells, *starts[writer.name]]))
    return lines


def row(first: str, cells: Sequence[str]) -> str:
    """Return a line of a table."""
    return f"| {' | '.join([first, *cells])} |"


def cell(rates: Sequence[float], reference: Sequence[float]) -> str:
    """Return the median, least and most of *rates*, and the ratio."""
    ratio = median(map(truediv, rates, reference))
    return f"{median(rates):,.0f} ({min(rates):,.0f}-{max(rates):,.0f}), {ratio:.2f} x"


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--directory", default=None)
    arguments = parser.parse_args()
    directory = Path(tempfile.mkdtemp(dir=arguments.directory))
    try:
        writers = run_rounds(directory, arguments.rounds, arguments.seconds)
        starts = {}
        for name in ENGINES:
            times = start(name, directory / f"start {name}", arguments.entries)
            starts[name] = [f"{seconds:.2f} s" for seconds in times]
        print("\n".join(table(writers, starts)))  # noqa: T201 - its purpose
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
