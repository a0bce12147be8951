"""Real processes: a backup while clients write, and what is restored from it."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from consensus import config
from consensus.applying.applier import Applier
from consensus.backup.file import BackupFile
from consensus.client import Client
from consensus.datadir import DataDirectory
from consensus.sessions import command_call, open_call, session_of
from contrib.kvstore import KVClient
from contrib.kvstore.commands import Set
from contrib.kvstore.machine import KVStore
from tests.support.backups import log_of, read_backup
from tests.support.kv import contents
from tests.support.processes import MemberProcesses

WRITERS = 4

#: A machine that is busy must not change leaders by itself.
TIMING = {"heartbeat_interval": 0.1, "election_timeout": 1.0}


class Load:
    """
    Clients that count keys up, for as long as they are let.

    Args:
        processes: The cluster.
    """

    def __init__(self, processes: MemberProcesses) -> None:
        self.clients = [
            Client.connect(processes.addresses, reactor, timeout=30.0)
            for _ in range(WRITERS)
        ]
        self.acknowledged = dict.fromkeys(range(WRITERS), 0)
        self.is_over = False

    async def count(self, number: int) -> None:
        """Be one of them; each value tells how often it was written."""
        store = KVClient(self.clients[number])
        while not self.is_over:
            done = self.acknowledged[number]
            assert await store.incr(f"key {number}") == done + 1
            await store.put(f"text {number}-{done % 50}", f"{done} " * 50, ttl=600)
            self.acknowledged[number] = done + 1

    def begin(self) -> Deferred[Any]:
        """Begin to write."""
        writers = [Deferred.fromCoroutine(self.count(each)) for each in range(WRITERS)]
        return gatherResults(writers, consumeErrors=True)

    def close(self) -> Deferred[Any]:
        """Close the clients."""
        self.is_over = True
        return gatherResults([each.close() for each in self.clients])


def replayed(processes: MemberProcesses, name: str, up_to: int) -> bytes:
    """Return the snapshot of what the log of a stopped server makes of a machine."""
    chosen = config.load(processes.config, [name])
    storage = chosen.storage.cls(chosen.storage.options)
    directory = chosen.directory(name)
    lock = DataDirectory.open(directory, chosen.cluster, name, chosen.storage)
    with closing(lock):
        storage.open(directory)
        with closing(storage):
            entries = log_of(storage, up_to)
    machine = chosen.state_machine.cls(chosen.state_machine.options)
    with TemporaryDirectory() as place:
        machine.directory = Path(place)
        applier = Applier(machine, name)
        applier.apply(entries, lambda _entries, _results: None)
        assert applier.last_applied == up_to
        taken = b"".join(applier.snapshot())
        applier.close()
    return taken


class BackupUnderLoadTests(TestCase):
    """A backup has the state at its index, and what was acknowledged before."""

    timeout = 200

    def cluster(self, **keys: Any) -> MemberProcesses:
        """Return three members, not started."""
        directory = TemporaryDirectory(prefix="raft-")
        self.addCleanup(directory.cleanup)
        processes = MemberProcesses(Path(directory.name), **keys)
        self.addCleanup(processes.stop_all)
        return processes

    async def raft(self, processes: MemberProcesses, *words: str) -> str:
        """Run a command that has to succeed, while clients go on."""
        done = await deferToThread(processes.raft, "--timeout", "20", *words)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    async def check(self, machine: str) -> None:
        """Back up with writers at work and a leader that is killed; restore."""
        old = self.cluster(state_machine=machine)
        old.start_all()
        load = Load(old)
        self.addCleanup(load.close)
        writing = load.begin()
        paths = [str(old.directory / name) for name in ("quiet", "killed")]
        while min(load.acknowledged.values()) < 20:
            await load.clients[0].pause(0.05)
        before = [dict(load.acknowledged)]
        await self.raft(old, "backup", paths[0])
        leader = (await self.raft(old, "leader")).strip()
        before.append(dict(load.acknowledged))
        taking = self.raft(old, "backup", paths[1], "--json")
        both = Deferred.fromCoroutine(taking)
        await load.clients[0].pause(0.4)
        old.kill(leader)
        said = json.loads(await both)
        load.is_over = True
        await writing
        old.start(leader)
        old.stop_all()
        assert said["index"] == BackupFile(Path(paths[1])).description.index
        for path, acknowledged in zip(paths, before, strict=True):
            await self.compare(old, Path(path), acknowledged)
        await self.restore(old, machine, Path(paths[1]))

    async def compare(
        self, old: MemberProcesses, path: Path, acknowledged: dict[int, int]
    ) -> None:
        """Compare a backup with what the log says, and what clients know."""
        found = BackupFile(path)
        whole = b"".join(found.chunks())
        survivor = found.description.server
        assert whole == await deferToThread(
            replayed, old, survivor, found.description.index
        )
        store = contents([read_backup(path)[1]])
        for number, done in acknowledged.items():
            item = store.get(f"key {number}".encode())
            assert item is not None
            assert int(item.value) >= done

    async def restore(self, old: MemberProcesses, machine: str, path: Path) -> None:
        """Make a new cluster of it; it has the same, and goes on."""
        new = self.cluster(state_machine=machine)
        serve = [word for name in new.addresses for word in ("--serve", name)]
        done = json.loads(await self.raft(new, "restore", str(path), "--json", *serve))
        new.start_all()
        client = Client.connect(new.addresses, reactor, timeout=30.0)
        self.addCleanup(client.close)
        store = KVClient(client)
        before = contents([read_backup(path)[1]])
        for key in [f"key {number}" for number in range(WRITERS)] + ["text 0-3"]:
            item, kept = await store.item(key), before.get(key.encode())
            assert item is not None
            assert kept is not None
            assert (item.value, item.version) == (kept.value, kept.version)
            assert (item.deadline is None) == (kept.deadline is None)
        assert await store.size() == len(before)
        counted = before.get(b"key 0")
        assert counted is not None
        assert await store.incr("key 0") == int(counted.value) + 1
        status = await client.status("s1")
        assert status.first_index >= done["first_index"] > 10**15
        # Who has not heard of it is a stranger.
        await self.meet(client, old, new)

    async def meet(
        self, client: Client, old: MemberProcesses, new: MemberProcesses
    ) -> None:
        """Start a server of the old cluster in the place of one of the new."""
        new.stop("s3")
        (new.directory / "data" / "s3").rename(new.directory / "s3")
        (old.directory / "data" / "s3").rename(new.directory / "data" / "s3")
        new.start("s3")
        said = "another cluster that is also called"
        while said not in new.log("s1") + new.log("s2"):
            await client.pause(0.05)
        assert await KVClient(client).incr("key 1") > 0

    async def test_in_memory(self) -> None:
        """The state is in memory."""
        await self.check("kvstore")

    async def test_on_disk(self) -> None:
        """The state is in a database on disk."""
        await self.check("kvstore-disk")

    async def test_alone_with_sessions(self) -> None:
        """One server begins alone, others join; sessions are what they were."""
        new = self.cluster(timing=TIMING)
        path = Path(__file__).parents[1] / "corpus" / "0.1" / "backup"
        said = await self.raft(new, "restore", str(path), "--serve", "s1", "--alone")
        assert "others join it" in said
        new.start("s1")
        client = Client.connect({"s1": new.addresses["s1"]}, reactor, timeout=30.0)
        self.addCleanup(client.close)
        store = KVClient(client)
        # A command that the session has seen is answered, and not done again.
        again = command_call(5, 1, 1, KVStore().encode(Set(b"size", "small")))
        await client.ask_leader("session_write", again)
        assert await store.get("size") == "large"
        fresh = command_call(5, 2, 2, KVStore().encode(Set(b"size", "small")))
        await client.ask_leader("session_write", fresh)
        assert await store.get("size") == "small"
        opened = await client.ask_leader("session_open", open_call(60_000))
        assert session_of(opened) > 10**15
        new.invite("s4", join=[new.addresses["s1"]])
        new.start("s4")
        while "s4" not in (await client.status("s1")).membership:
            await client.pause(0.1)
        assert (await self.raft(new, "transfer", "s4")) == "s4 leads now\n"
        assert await store.get("colour") == "blue"
        assert await store.get("size") == "small"
