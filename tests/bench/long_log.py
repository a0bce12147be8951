"""
How long a server with a long log and a snapshot near its end takes to serve.

    python -m tests.bench.long_log ENGINE [ENTRIES]

Prints, for one server of the key-value store, the seconds from the start to
the first acknowledged write.  The log is not cut: as after a crash between the
snapshot and the compaction, which is the worst case.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import ensureDeferred

from consensus import registry
from consensus.applier import Applier
from consensus.clock import default_reactor
from consensus.config import Config, from_mapping
from consensus.core.membership import Membership
from consensus.core.values import Entry, EntryKind, HardState, SnapshotMeta
from consensus.datadir import DataDirectory
from consensus.server import RaftServer
from consensus.snapshots import FileSnapshots, split
from contrib.kvstore.commands import Set, encode
from contrib.kvstore.machine import KVStore

if TYPE_CHECKING:
    from collections.abc import Iterator

_BATCH = 10_000
_BEHIND = 1_000
_VALUE = b"v" * 256


def _entries(count: int, membership: Membership) -> Iterator[Entry]:
    yield Entry(1, 1, EntryKind.MEMBERSHIP, membership.encode())
    for index in range(2, count + 1):
        command = encode(Set(b"key %d" % (index % 100_000), _VALUE))
        yield Entry(index, 2, EntryKind.COMMAND, command)


def _fill(config: Config, count: int) -> None:
    """Write a data directory with a log of *count* entries and a snapshot."""
    path = config.directory("s1")
    directory = DataDirectory.open(path, config.cluster, "s1", config.storage)
    membership = Membership.founding(config.cluster, {"s1": "s1"})
    storage = config.storage.cls(config.storage.options)
    storage.open(path)
    storage.save_hard_state(HardState(2, "s1"))
    applier = Applier(KVStore(), "s1")
    batch: list[Entry] = []
    for entry in _entries(count, membership):
        batch.append(entry)
        if entry.index <= count - _BEHIND:
            applier.apply([entry], lambda _, __: None)
        if len(batch) == _BATCH:
            storage.append(batch)
            storage.sync()
            batch.clear()
    if batch:
        storage.append(batch)
    storage.sync()
    storage.close()
    store = FileSnapshots(path)
    writer = store.begin(SnapshotMeta(count - _BEHIND, 2, membership.encode(), 1))
    for chunk in split(applier.snapshot()):
        writer.write(chunk)
    writer.finish()
    writer.commit()
    store.close()
    directory.mark_used()
    directory.close()


async def _measure(config: Config) -> float:
    began = time.perf_counter()
    server = RaftServer(config, "s1")
    server.startService()
    await server.when_started()
    await server.when_leader_known(60)
    await server.write(Set(b"key", b"value"))
    took = time.perf_counter() - began
    await server.stopService()
    return took


def main() -> None:
    """Measure one engine."""
    engine = sys.argv[1]
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000
    registry.resolve("storage", engine)
    with tempfile.TemporaryDirectory() as place:
        keys: dict[str, Any] = {
            "members": {"s1": "s1"},
            "storage": engine,
            "data_dir": str(Path(place)),
        }
        config = from_mapping(keys, name="s1", state_machine=KVStore)
        _fill(config, count)

        reactor = default_reactor()

        def finish(result: Any) -> None:
            reactor.stop()
            print(f"{engine}: {count} entries, serves after {result:.2f} s")  # noqa: T201 - its purpose

        def begin() -> None:
            ensureDeferred(_measure(config)).addBoth(finish)

        reactor.callWhenRunning(begin)
        reactor.run()


if __name__ == "__main__":
    main()
