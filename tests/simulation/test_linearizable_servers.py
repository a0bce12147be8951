"""
Real servers in virtual time, under cuts and stops: what clients saw is judged.

The whole way is taken: calls are recorded, saved, loaded and judged.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from adapters.transport.memory import MemoryNetwork, MemoryOptions, MemoryTransport
from consensus.client import Client
from consensus.errors import NotLeaderError, RaftError
from consensus.testing.history import History, Read, Write
from consensus.testing.linearizability import assert_linearizable, judge
from contrib.kvstore.client import KVClient
from contrib.kvstore.commands import Cas, Get, Set, key_of
from contrib.kvstore.machine import KVStore
from tests.support import histories
from tests.support.histories import Cells, add, cas, get, set_
from tests.support.servers import Servers
from tests.support.storages import LastingStorage

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from consensus.interfaces import StateMachine
    from consensus.server import RaftServer

KEYS = ("x", "y")
ROUNDS = 10
CONFIG = {
    "storage": {"engine": LastingStorage},
    "timing": {"request_timeout": 1.0},
}


class Run:
    """
    A cluster, clients that call it, and what goes wrong.

    Args:
        seed: For the dice.
        data_dir: Where the servers keep their data.
        machine: What they run.
    """

    def __init__(self, seed: int, data_dir: Path, machine: type[StateMachine]) -> None:
        self.dice = random.Random(seed)  # noqa: S311 - reproducible, not secret
        self.cluster = Servers(config=CONFIG, data_dir=data_dir, machine=machine)
        name = self.cluster.mapping["transport"]["options"]["network"]
        self.network = MemoryNetwork.named(name)
        self.reactor: Any = self.cluster.reactor
        self.history = History(machine, self.reactor.seconds)
        self.is_over = False
        self.clients: list[Deferred[None]] = []
        self.terms: set[int] = set()

    def begin(self, client: Callable[[str], Coroutine[Any, Any, None]]) -> None:
        """Let five clients call until the run is over."""
        for number in range(5):
            self.clients.append(Deferred.fromCoroutine(client(f"c{number}")))

    def go(self) -> None:
        """Disturb the cluster again and again, then heal it; let clients end."""
        # At least one leader is lost with calls under way.
        self.cluster.run(0.3)
        self.network.down(self.cluster.leader().name)
        self.cluster.run(1.0)
        self.network.heal()
        for _ in range(ROUNDS):
            self.cluster.run(self.dice.uniform(0.1, 0.5))
            self.disturb()
            self.note_terms()
        self.network.heal()
        for name in self.cluster.names:
            if name not in self.cluster.servers:
                self.cluster.start(name)
        self.cluster.leader()
        self.cluster.run(1.0)
        self.is_over = True
        self.note_terms()
        for client in self.clients:
            self.cluster.result(client)

    def note_terms(self) -> None:
        """Remember which terms there were."""
        self.terms |= {each.status().term for each in self.cluster.servers.values()}

    def disturb(self) -> None:
        """Cut, heal, stop or start something."""
        dice, network, cluster = self.dice, self.network, self.cluster
        names = list(cluster.names)
        match dice.randrange(6):
            case 0:
                network.heal()
            case 1:
                network.cut(*dice.sample(names, 2))
            case 2:
                network.down(dice.choice(names))
            case 3:
                network.heal()
                network.down(cluster.leader().name)
            case _:
                gone = [name for name in names if name not in cluster.servers]
                for name in gone:
                    cluster.start(name)
                if not gone:
                    cluster.stop(dice.choice(names))

    # --- clients of the servers ------------------------------------------------

    async def call_servers(self, name: str) -> None:
        """Call one server after the other, in all the ways that there are."""
        target = ""
        while not self.is_over:
            await deferLater(self.reactor, self.dice.uniform(0.0, 0.03))
            running = list(self.cluster.servers.values())
            if not running:
                continue
            known = self.cluster.servers.get(target)
            server = known or self.dice.choice(running)
            try:
                await self.call(name, server)
            except NotLeaderError as error:
                target = error.leader or ""
            except RaftError:
                target = ""

    def call(self, name: str, server: RaftServer) -> Deferred[Any]:
        """Make a call, and record it."""
        dice, watch = self.dice, self.history.watch
        key, value = dice.choice(KEYS), len(self.history)
        kind = dice.randrange(8)
        if kind < 4:
            write = dice.choice(
                [
                    set_(value, key),
                    set_(value, key),
                    add(1, key),
                    cas(value - dice.randrange(8), value, key),
                ]
            )
            return watch(name, write, server.write(write.command))
        query = ["get", key]
        if kind < 6:
            return watch(name, get(key), server.read(query))
        servers = list(self.cluster.servers.values())
        other = dice.choice(servers)
        if kind < 7:
            reading = other.read(query, consistency="follower")
            return watch(name, get(key), reading)
        max_age = dice.choice([None, 0.3])
        reading = other.read(query, consistency="stale", max_age=max_age)
        return watch(name, get(key, stale=True, max_age=max_age), reading)

    # --- clients of the key-value store ------------------------------------------

    async def call_cluster(self, name: str) -> None:
        """Use the key-value store's client."""
        options = MemoryOptions(
            network=self.cluster.mapping["transport"]["options"]["network"]
        )
        transport = MemoryTransport(options, self.reactor, self.reactor)
        addresses = {each: each for each in self.cluster.names}
        kv = KVClient(
            Client(
                addresses,
                transport,
                self.reactor,
                timeout=1.0,
                dice=self.dice.random,
            )
        )
        while not self.is_over:
            await deferLater(self.reactor, self.dice.uniform(0.0, 0.03))
            try:
                await self.call_store(name, kv)
            except RaftError:
                continue
        await kv.close()

    def call_store(self, name: str, kv: KVClient) -> Deferred[Any]:
        """Make a call, and record it."""
        watch, value = self.history.watch, str(len(self.history))
        key = self.dice.choice(KEYS)
        raw = key.encode()
        match self.dice.randrange(4):
            case 0:
                return watch(name, Write(Set(raw, value)), kv.set(key, value))
            case 1:
                old = self.dice.choice([None, str(len(self.history) - 5)])
                write = Write(Cas(raw, old, value))
                return watch(name, write, kv.cas(key, old, value))
        return watch(name, Read(Get(raw)), kv.get(key))


def check(history: History, machine: type[StateMachine], path: Path) -> None:
    """See that enough happened; judge what was saved."""
    outcomes = [operation.outcome for operation in history.operations]
    assert outcomes.count("returned") > 100
    history.save(path)
    partition = histories.key_of if machine is Cells else key_of
    loaded = History.load(machine, path)
    assert len(loaded) == len(history)
    assert_linearizable(
        loaded, machine, partition=partition, report=path.with_suffix(".html")
    )


class RealServerTests:
    """What clients see is what one machine would have answered."""

    @pytest.mark.parametrize("seed", range(3))
    def test_servers(self, seed: int, tmp_path: Path) -> None:
        """Whoever is called, and however it is read."""
        run = Run(seed, tmp_path / "data", Cells)
        run.begin(run.call_servers)
        run.go()
        assert len(run.terms) > 1
        outcomes = {operation.outcome for operation in run.history.operations}
        assert outcomes == {"returned", "failed", "unknown"}
        check(run.history, Cells, tmp_path / "history.jsonl")

    @pytest.mark.parametrize("seed", range(2))
    def test_key_value_store(self, seed: int, tmp_path: Path) -> None:
        """Through a client that follows the leader and repeats calls."""
        run = Run(seed, tmp_path / "data", KVStore)
        run.begin(run.call_cluster)
        run.go()
        assert len(run.terms) > 1
        check(run.history, KVStore, tmp_path / "history.jsonl")

    def test_a_stale_read_is_found(self, tmp_path: Path) -> None:
        """A server that is cut off answers what it has: not what was promised."""
        run = Run(0, tmp_path / "data", Cells)
        cluster, watch = run.cluster, run.history.watch
        leader = cluster.leader()
        behind = cluster.followers()[0]

        def read(call: Read) -> None:
            reading = behind.read(call.query, consistency="stale")
            cluster.result(watch("c", call, reading))

        for value in (1, 2):
            call = set_(value)
            cluster.result(watch("c", call, leader.write(call.command)))
            cluster.run(0.2)
            run.network.down(behind.name)
        read(get(stale=True))
        assert judge(run.history, Cells).is_linearizable
        read(get())
        verdict = judge(run.history, Cells)
        assert verdict.contradiction is not None
        assert verdict.contradiction.breaks is run.history.operations[-1]
        assert verdict.contradiction.instead == ("2",)

    def test_read_your_writes(self, tmp_path: Path) -> None:
        """A read at the index of a write sees it, on any server."""
        run = Run(0, tmp_path / "data", Cells)
        cluster, history = run.cluster, run.history
        leader = cluster.leader()
        for value in range(20):
            write = set_(value)
            wrote = history.invoke("c", write)
            result, index = cluster.result(leader.write(write.command, with_index=True))
            wrote.returned(result)
            server = run.dice.choice(cluster.followers())
            read = get(stale=True, after=wrote)
            reading = server.read(read.query, consistency="stale", at_index=index)
            cluster.result(history.watch("c", read, reading))
        assert_linearizable(history, Cells)
