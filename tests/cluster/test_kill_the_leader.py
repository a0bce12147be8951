"""
Three processes, 2,000 writes, and a leader that is killed five times.

Nothing acknowledged is lost, and all three state machines end up equal.
"""

from __future__ import annotations

from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from adapters.storage.lmdb import LMDBStorage
from adapters.storage.rocksdb import RocksDBStorage
from adapters.storage.sqlite import SQLiteStorage
from adapters.storage.wal import WALStorage
from consensus.applying.applier import Applier
from consensus.client import Client
from consensus.errors import OutcomeUnknownError, RaftError
from contrib.kvstore import KVClient, KVStore
from tests.support.processes import MemberProcesses

if TYPE_CHECKING:
    from consensus.interfaces import Storage

WRITES = 2000
KILLS = 5
WRITERS = 16

ENGINES: dict[str, type[Storage]] = {
    "sqlite": SQLiteStorage,
    "rocksdb": RocksDBStorage,
    "lmdb": LMDBStorage,
    "wal": WALStorage,
}


class Load:
    """
    Writers that go on until enough of their writes are acknowledged.

    Args:
        processes: The cluster.
        client: Of that cluster.
    """

    def __init__(self, processes: MemberProcesses, client: Client) -> None:
        self.reactor: Any = reactor
        self.processes = processes
        self.client = client
        self.kv = KVClient(client)
        self.acknowledged: set[int] = set()
        self.unknown: set[int] = set()
        self.numbers = count()
        self.kills = 0

    async def write(self) -> None:
        """Be one writer; each write has a key of its own."""
        while len(self.acknowledged) < WRITES:
            number = next(self.numbers)
            try:
                await self.kv.set(f"key {number}", f"value {number}")
            except OutcomeUnknownError:
                self.unknown.add(number)
            else:
                self.acknowledged.add(number)
                self.kill_if_due()

    def kill_if_due(self) -> None:
        """Kill the leader after every sixth of the writes, and restart it."""
        due = len(self.acknowledged) * (KILLS + 1) // WRITES
        leader = self.client.leader
        if self.kills < min(due, KILLS) and leader in self.processes.running:
            self.kills += 1
            self.processes.kill(leader)
            self.processes.start(leader)

    async def check_reads(self) -> None:
        """Read every acknowledged write."""
        for number in sorted(self.acknowledged):
            assert await self.kv.get(f"key {number}") == f"value {number}"

    async def settled_index(self) -> int:
        """Wait until all three have applied the same; return up to where."""
        while True:
            applied = set()
            for name in self.processes.addresses:
                try:
                    status = await self.client.status(name, 2.0)
                    applied.add((status.last_applied, status.last_index))
                except RaftError:
                    applied.add((-1, 0))
            if len(applied) == 1 and (found := applied.pop())[0] == found[1]:
                return found[0]
            await deferLater(self.reactor, 0.05)


def replayed(storage: Storage, directory: Path, last: int) -> Any:
    """Return the state that the log in *directory* makes up to *last*."""
    applier = Applier(KVStore(), "replay")
    storage.open(directory)
    try:
        while applier.last_applied < last:
            entries = storage.entries(applier.last_applied + 1, last, 1 << 20)
            applier.apply(entries, lambda *_: None)
    finally:
        storage.close()
    assert applier.state
    return applier.state


class KillTheLeaderTests(TestCase):
    """The whole thing, as an operator would see it."""

    timeout = 100

    def setUp(self) -> None:
        """Make a directory."""
        directory = TemporaryDirectory(prefix="raft-")
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)

    async def run_with(self, engine: str) -> None:
        """Run it on *engine*."""
        processes = MemberProcesses(self.directory, storage=engine)
        self.addCleanup(processes.stop_all)
        processes.start_all()
        client = Client.connect(processes.addresses, reactor)
        self.addCleanup(client.close)
        load = Load(processes, client)
        writers = [Deferred.fromCoroutine(load.write()) for _ in range(WRITERS)]
        await gatherResults(writers, consumeErrors=True)
        assert load.kills == KILLS
        assert len(load.acknowledged) >= WRITES
        await load.check_reads()
        last = await load.settled_index()
        processes.stop_all()
        states = [
            replayed(ENGINES[engine](), self.directory / "data" / name, last)
            for name in processes.addresses
        ]
        assert states[0] == states[1] == states[2]

    async def test_rolling_restart(self) -> None:
        """A leader that is asked to stop hands over: terms rise by one, no more."""
        # Patient, so that only the stops change who leads, however busy the machine.
        timing = {"heartbeat_interval": 0.1, "election_timeout": 1.0}
        processes = MemberProcesses(self.directory, timing=timing)
        self.addCleanup(processes.stop_all)
        processes.start_all()
        client = Client.connect(processes.addresses, reactor)
        self.addCleanup(client.close)
        kv = KVClient(client)
        await kv.set("key", "before")
        for _ in range(3):
            chief = client.leader
            assert chief is not None
            term = (await client.status(chief)).term
            processes.stop(chief)
            # Reads are repeated, so this one finds the new leader.
            assert await kv.get("key") is not None
            await kv.set("key", f"without {chief}")
            assert client.leader not in {None, chief}
            assert (await client.status(client.leader)).term == term + 1
            assert "hands over" in processes.log(chief)
            processes.start(chief)
            await Load(processes, client).settled_index()
        assert await kv.get("key") == f"without {chief}"

    async def test_sqlite(self) -> None:
        """On SQLite."""
        await self.run_with("sqlite")

    async def test_rocksdb(self) -> None:
        """On RocksDB."""
        await self.run_with("rocksdb")

    async def test_lmdb(self) -> None:
        """On LMDB."""
        await self.run_with("lmdb")

    async def test_wal(self) -> None:
        """On a log of our own."""
        await self.run_with("wal")
