"""Members are restarted one after another, as for an upgrade, while clients write."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from consensus.client import Client
from contrib.kvstore import KVClient
from tests.support.processes import MemberProcesses

WRITERS = 4

#: A machine that is busy must not change leaders by itself.
TIMING = {"heartbeat_interval": 0.1, "election_timeout": 1.0}

#: Cut the log meanwhile.
SNAPSHOTS = {"every_entries": 200, "keep_entries": 50}


class RollingRestartTests(TestCase):
    """The procedure of docs/howto/upgrade-a-cluster.md."""

    timeout = 200

    async def test_nothing_is_lost(self) -> None:
        """Every acknowledged write is there, once, after each member was restarted."""
        directory = TemporaryDirectory(prefix="raft-")
        self.addCleanup(directory.cleanup)
        self.processes = MemberProcesses(
            Path(directory.name), timing=TIMING, snapshots=SNAPSHOTS
        )
        self.addCleanup(self.processes.stop_all)
        self.processes.start_all()
        self.client = Client.connect(self.processes.addresses, reactor, timeout=60.0)
        self.addCleanup(self.client.close)
        self.store = KVClient(self.client)
        self.counts = dict.fromkeys(range(WRITERS), 0)
        self.is_over = False
        writing: list[Deferred[Any]] = [
            Deferred.fromCoroutine(self.count(number)) for number in self.counts
        ]
        await self.write_some()
        leader = (await self.raft("leader")).strip()
        followers = [name for name in self.processes.addresses if name != leader]
        for name in (*followers, leader):
            await self.restart(name, leads=name == leader, heir=followers[0])
        self.is_over = True
        await gatherResults(writing, consumeErrors=True)
        for number, count in self.counts.items():
            assert await self.store.get(f"key {number}") == str(count)
        for name in self.processes.addresses:
            status = await self.client.status(name)
            assert status.snapshot_index > 0

    async def count(self, number: int) -> None:
        """Count a key up: a write that is lost, or done twice, fails the next."""
        last: str | None = None
        while not self.is_over:
            value = str(self.counts[number] + 1)
            assert await self.store.cas(f"key {number}", last, value)
            last, self.counts[number] = value, int(value)

    async def write_some(self) -> None:
        """Wait until each writer has had a number of writes acknowledged."""
        wanted = {number: count + 30 for number, count in self.counts.items()}
        while any(self.counts[number] < count for number, count in wanted.items()):
            await self.client.pause(0.02)

    async def restart(self, name: str, *, leads: bool, heir: str) -> None:
        """Stop *name* as an operator does, start it, and let it catch up."""
        if leads:
            assert await self.raft("transfer", heir) == f"{heir} leads now\n"
        await deferToThread(self.processes.stop, name)
        await self.write_some()
        self.processes.start(name)
        end = max(each.get("commit_index", 0) for each in await self.members())
        while True:
            [own] = [each for each in await self.members() if each["server"] == name]
            if own["reachable"] and own["last_applied"] >= end:
                break
        await self.write_some()

    async def members(self) -> list[dict[str, Any]]:
        """Return what ``raft members`` says of each."""
        found: list[dict[str, Any]] = json.loads(await self.raft("members", "--json"))[
            "members"
        ]
        return found

    async def raft(self, *words: str) -> str:
        """Run a command that has to succeed, while clients go on."""
        done = await deferToThread(self.processes.raft, "--timeout", "20", *words)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout
