"""
The key-value store while servers crash, are cut off and change their leader.

What clients see of a key is what one store would have answered, revisions
included; transfers keep their sum; who watches hears of every change, once and
in order; nothing ends before its time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from twisted.internet.defer import Deferred

from consensus.errors import RaftError
from consensus.testing.history import Read, Write
from contrib.kvstore import (
    Append,
    Cas,
    Compare,
    Delete,
    Event,
    Get,
    GetItem,
    Incr,
    KVClient,
    KVStore,
    Put,
    Set,
    SetMany,
    Take,
    Txn,
)
from contrib.kvstore.commands import key_of

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from random import Random

    from consensus.testing.plugin import MakeCluster
    from consensus.testing.simulator import SimulatedCluster

KEYS = (b"a", b"b", b"c")

#: Snapshots are taken often, so that servers are restored from them.
CONFIG = {"snapshots": {"every_entries": 40, "keep_entries": 5}}


def one_key(dice: Random) -> Write | Read:
    """Return a call about one key, that is answered without a revision."""
    key, number = dice.choice(KEYS), str(dice.randrange(4))
    call = dice.randrange(9)
    if call < 4:
        return Read(Get(key))
    commands = (
        Set(key, number),
        Cas(key, dice.choice([None, "1", "2"]), number),
        Incr(key),
        dice.choice([Take(key), Delete(key)]),
        Append(key, number),
    )
    return Write(commands[call - 4])


def with_revisions(dice: Random) -> Write | Read:
    """Return a call whose answer has the revision."""
    key, number = dice.choice(KEYS), str(dice.randrange(100))
    calls = (
        Read(GetItem(key)),
        Write(Put(key, number, only_if="absent")),
        Write(Put(key, number, only_if="present", want_old=True)),
        Write(Txn([Compare(key, "exists", to=True)], [Delete(key), Incr(b"a")])),
    )
    return dice.choice(calls)


def seen(store: Any) -> Any:
    """Return what later answers depend on: of keys without an end, all this."""
    return store.revision, tuple(sorted(store.items.items(), key=lambda pair: pair[0]))


def values(store: Any) -> Any:
    """Return what later answers without a revision depend on."""
    return tuple(sorted((key, item.value) for key, item in store.items.items()))


class Group:
    """
    Clients on hosts of their own, until they are told to stop.

    Args:
        cluster: Whom they call.
    """

    def __init__(self, cluster: SimulatedCluster) -> None:
        self.cluster = cluster
        self.is_over = False
        self.busy: list[Deferred[None]] = []
        self.stores: list[KVClient] = []

    def begin(
        self, count: int, work: Callable[[KVClient, Random], Coroutine[Any, Any, Any]]
    ) -> None:
        """Let so many clients do *work* again and again."""
        for _ in range(count):
            name = f"k{len(self.stores) + 1}"
            store = KVClient(self.cluster.make_client(name, timeout=3.0))
            self.stores.append(store)
            going = self._go(store, self.cluster.dice(name), work)
            self.busy.append(Deferred.fromCoroutine(going))

    async def _go(
        self,
        store: KVClient,
        dice: Random,
        work: Callable[[KVClient, Random], Coroutine[Any, Any, Any]],
    ) -> None:
        while not self.is_over:
            try:
                await work(store, dice)
            except RaftError as error:
                self.cluster.trace.note("{!r}", error)
            await store.cluster.pause(dice.random() * 0.2)

    def end(self) -> None:
        """Heal the cluster, and wait for all of them."""
        self.cluster.check()
        # Something is to happen in any case.
        self.cluster.run(5.0)
        self.is_over = True
        for each in self.busy:
            self.cluster.result(each, 30.0)
        self.cluster.check()


def state_of(cluster: SimulatedCluster) -> Any:
    """Return the state of the leader."""
    applier = cluster.leader().applier
    assert applier is not None
    return applier.state


@pytest.mark.raft_seeds(4)
class LinearizableTests:
    """What clients see is what one store would have answered."""

    @pytest.mark.parametrize("sessions", [True, False])
    def test_single_keys(self, raft_cluster: MakeCluster, sessions: bool) -> None:  # noqa: FBT001 - a parameter of the test
        """Each key by itself."""
        cluster = raft_cluster(KVStore, config=CONFIG)
        clients = cluster.clients(4, one_key, sessions=sessions)
        cluster.disturb(10.0)
        cluster.run(10.0)
        cluster.check()
        cluster.run(5.0)
        clients.stop()
        assert len(clients.history.operations) > 50
        verdict = clients.judge(partition=key_of, fingerprint=values)
        assert verdict.is_linearizable, verdict.text()

    def test_revisions(self, raft_cluster: MakeCluster) -> None:
        """All keys together, with the revisions of changes."""
        cluster = raft_cluster(KVStore, config=CONFIG)
        clients = cluster.clients(3, with_revisions, sessions=True)
        cluster.disturb(8.0)
        cluster.run(8.0)
        cluster.check()
        cluster.run(5.0)
        clients.stop()
        assert len(clients.history.operations) > 40
        verdict = clients.judge(partition=key_of, fingerprint=seen)
        assert verdict.is_linearizable, verdict.text()


@pytest.mark.raft_seeds(4)
class TransactionTests:
    """Several keys at once."""

    def test_transfers_keep_the_sum(self, raft_cluster: MakeCluster) -> None:
        """Whoever looks sees all of a transfer or nothing."""
        cluster = raft_cluster(KVStore, config=CONFIG)
        cluster.write(SetMany([(key, "100") for key in KEYS]))
        sums: list[int] = []
        done: list[bool] = []

        async def transfer(store: KVClient, dice: Random) -> None:
            source, target = dice.sample(KEYS, 2)
            have = [int(value or 0) for value in await store.mget([source, target])]
            amount = dice.randrange(1, 30)
            result = await store.txn(
                [Compare(source, to=str(have[0])), Compare(target, to=str(have[1]))],
                [
                    Set(source, str(have[0] - amount)),
                    Set(target, str(have[1] + amount)),
                ],
            )
            done.append(result.succeeded)

        async def hand_over(store: KVClient, dice: Random) -> None:
            source, target = dice.sample(KEYS, 2)
            await store.txn([], [Incr(source, -5), Incr(target, 5)], atomic=True)

        async def look(store: KVClient, dice: Random) -> None:
            page = await store.page(limit=dice.randrange(3, 9))
            sums.append(sum(int(value) for _, value, _ in page.items))

        group = Group(cluster)
        for work in (transfer, hand_over, look):
            group.begin(2, work)
        cluster.disturb(10.0)
        cluster.run(10.0)
        group.end()
        assert set(sums) == {300}
        assert len(sums) > 20
        assert {True, False} <= set(done)


@pytest.mark.raft_seeds(4)
class WatchTests:
    """Those who hear of changes."""

    def test_every_change_once_and_in_order(self, raft_cluster: MakeCluster) -> None:
        """Whoever crashes, and whoever leads; also who begins in between."""
        cluster = raft_cluster(KVStore, config=CONFIG)
        heard: list[list[Event]] = [[], [], []]

        async def write(store: KVClient, dice: Random) -> None:
            key = b"k%d" % dice.randrange(5)
            call = dice.randrange(4)
            if call == 0:
                await store.mset({key: "x", b"k": "y", b"other": "z"})
            elif call == 1:
                await store.delete(key)
            elif call == 2:
                await store.put(key, "v", ttl=dice.random())
            else:
                await store.incr(b"n%d" % dice.randrange(2))

        async def watch(number: int, revision: int | None) -> None:
            store = KVClient(cluster.make_client(f"w{number}", timeout=30.0))
            while True:
                watched = store.watch(b"k", revision)
                async for event in watched:
                    heard[number].append(event)
                    if len(heard[number]) % 7 == 0 and (
                        watched.next_revision != event.revision
                    ):
                        # As a program that is started again.
                        revision = watched.next_revision
                        break

        watchers = [
            Deferred.fromCoroutine(watch(number, revision))
            for number, revision in enumerate([1, 1, None])
        ]
        group = Group(cluster)
        group.begin(3, write)
        cluster.disturb(10.0)
        cluster.run(10.0)
        group.end()
        cluster.run(15.0)
        assert not any(each.called for each in watchers)
        log = [each for each in state_of(cluster).log if each.key.startswith(b"k")]
        assert len(log) > 40
        assert {each.kind for each in log} == {"set", "delete", "expire"}
        assert heard[0] == log
        assert heard[1] == log
        assert heard[2] == log[len(log) - len(heard[2]) :]
        assert heard[2]

    def test_from_now_on(self, raft_cluster: MakeCluster) -> None:
        """Not what was acknowledged before the call, but all that comes after."""
        cluster = raft_cluster(KVStore)
        store = KVClient(cluster.client)
        cluster.result(store.set("k", "before"))
        watched = store.watch()
        heard: list[Event] = []

        async def listen() -> None:
            async for event in watched:
                heard.append(event)  # noqa: PERF401 - they are looked at meanwhile

        listening = Deferred.fromCoroutine(listen())
        cluster.run(0.5)
        cluster.result(store.set("k", "after"))
        cluster.run(1.0)
        assert heard == [Event(2, "set", b"k", "after")]
        watched.close()
        assert cluster.result(listening) is None


@pytest.mark.raft_seeds(4)
class TimeTests:
    """When keys end."""

    def test_nothing_ends_too_early(self, raft_cluster: MakeCluster) -> None:
        """And all that has an end ends, a while after the faults do."""
        cluster = raft_cluster(KVStore, config=CONFIG, drift=0.0)
        numbers = iter(range(10_000))
        checked = []

        async def live(store: KVClient, dice: Random) -> None:
            key, ttl = b"%d" % next(numbers), dice.uniform(0.3, 4.0)
            begun = cluster.now
            await store.put(key, "v", ttl=ttl)
            while True:
                value = await store.get(key)
                if value is None:
                    break
                await store.cluster.pause(dice.random() * 0.5)
            assert cluster.now >= begun + ttl
            checked.append(key)

        group = Group(cluster)
        group.begin(4, live)
        cluster.disturb(10.0)
        cluster.run(10.0)
        group.end()
        cluster.run(5.0)
        assert len(checked) > 5
        assert len(state_of(cluster)) == 0

    def test_a_lost_lease_is_known_before_it_ends(
        self, raft_cluster: MakeCluster
    ) -> None:
        """A client that is cut off knows no later than the servers."""
        cluster = raft_cluster(KVStore, drift=0.0)
        store = KVClient(cluster.make_client("holder", timeout=1.0))
        lease = cluster.result(store.grant(2.0))
        cluster.result(store.put("here", "1", lease=lease))
        lost: list[float] = []
        lease.when_lost().addCallback(lambda _: lost.append(cluster.now))
        for _ in range(3):
            cluster.crash(cluster.leader().name)
            cluster.run(3.0)
            assert cluster.read(Get(b"here")) == "1"
            assert not lease.is_lost
            for name in cluster.names:
                if name not in cluster.servers:
                    cluster.restart(name)
        cluster.partition("holder", cluster.names)
        while state_of(cluster).get(b"here"):
            cluster.run(0.001)
        assert lease.is_lost
        assert lost[0] <= cluster.now
        assert cluster.read(Get(b"here")) is None
        cluster.heal()
        cluster.check()
