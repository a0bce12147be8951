"""
Three processes whose leaders are killed, and writes that twice would show.

A compare-and-set that is applied a second time fails: so every one of a chain
has to succeed, although the answers to some of them die with their server.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import TestCase

from consensus.client import Client
from contrib.kvstore import KVClient
from tests.support.processes import MemberProcesses

WRITERS = 8
STEPS = 150
KILLS = 4


class Chains:
    """
    Writers, each of which counts a key of its own up by compare-and-set.

    Args:
        processes: The cluster.
        client: Of that cluster.
    """

    def __init__(self, processes: MemberProcesses, client: Client) -> None:
        self.processes = processes
        self.client = client
        self.store = KVClient(client)
        self.done = 0
        self.kills = 0

    async def count(self, key: str) -> None:
        """Be one writer."""
        last = None
        for number in range(STEPS):
            assert await self.store.cas(key, last, str(number)), (key, number)
            last = str(number)
            self.done += 1
            self.kill_if_due()

    def kill_if_due(self) -> None:
        """Kill the leader now and then, with writes under way, and restart it."""
        due = self.done * (KILLS + 1) // (WRITERS * STEPS)
        leader = self.client.leader
        if self.kills < min(due, KILLS) and leader in self.processes.running:
            self.kills += 1
            self.processes.kill(leader)
            self.processes.start(leader)


class ExactlyOnceTests(TestCase):
    """What the key-value store's client promises, as its user sees it."""

    timeout = 100

    async def test_chains_of_cas(self) -> None:
        """Every step of every chain succeeds, through leaders that are killed."""
        directory = TemporaryDirectory(prefix="raft-")
        self.addCleanup(directory.cleanup)
        processes = MemberProcesses(Path(directory.name))
        self.addCleanup(processes.stop_all)
        processes.start_all()
        client = Client.connect(processes.addresses, reactor, timeout=30.0)
        self.addCleanup(client.close)
        chains = Chains(processes, client)
        writers: list[Deferred[Any]] = [
            Deferred.fromCoroutine(chains.count(f"key {number}"))
            for number in range(WRITERS)
        ]
        await gatherResults(writers, consumeErrors=True)
        assert chains.kills == KILLS
        for number in range(WRITERS):
            assert await chains.store.get(f"key {number}") == str(STEPS - 1)
