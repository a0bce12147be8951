"""Tests of contrib.kvstore.client, lease and watch: all but the plainest calls."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
from twisted.internet.defer import Deferred

from consensus.errors import (
    CommandFailedError,
    InvalidCommandError,
    LeadershipLostError,
    OverloadedError,
    ProtocolError,
    StaleError,
)
from consensus.interfaces import Tick
from consensus.options import ReadOptions
from contrib.kvstore import (
    CompactedError,
    Compare,
    Event,
    Get,
    Incr,
    Item,
    KVClient,
    KVStore,
    PutResult,
    Set,
    TxnResult,
)
from contrib.kvstore.machine import KVStoreOptions
from tests.support.deferreds import error_of, result_of
from tests.support.machines import MachineServer

if TYPE_CHECKING:
    from contrib.kvstore import Lease, Watch


class Calls:
    """
    A client of a server with an empty store.

    Args:
        network: A name that no other test uses.
    """

    def __init__(self, network: str, **options: Any) -> None:
        self.server = MachineServer(KVStore(KVStoreOptions(**options)), network)
        self.store = KVClient(self.server.client)

    def done(self, call: Deferred[Any]) -> Any:
        """Return what *call* gives."""
        self.server.settle()
        return result_of(call)

    def failed(self, call: Deferred[Any]) -> BaseException:
        """Return what *call* fails with."""
        self.server.settle()
        return error_of(call)

    def tick(self, time: int) -> None:
        """Let the log's time be *time*."""
        self.server.machine.handle_write(Tick(time), self.server.state)


@pytest.fixture
def calls(request: pytest.FixtureRequest) -> Calls:
    """Return a client with an empty store."""
    return Calls(request.node.nodeid)


class CallTests:
    """What each call gives."""

    def test_put(self, calls: Calls) -> None:
        """Times are in seconds, and never shorter than they were given."""
        store = calls.store
        put = store.put("k", "v", ttl=1.0001, want_old=True)
        assert calls.done(put) == PutResult(done=True, old=None, revision=1)
        assert calls.done(store.item("k")) == Item("v", 1, 1, 1, 1001)
        assert calls.done(store.ttl("k")) == 1.001
        put = store.put("k", "w", only_if="absent", want_old=True)
        assert calls.done(put) == PutResult(done=False, old="v", revision=1)
        calls.done(store.put("k", "w", only_if="present", keep_ttl=True))
        assert calls.done(store.ttl("k")) == 1.001
        calls.done(store.put("k", "w"))
        assert calls.done(store.ttl("k")) == math.inf
        assert calls.done(store.ttl("none")) is None
        assert calls.done(store.item("none")) is None

    def test_when_keys_end(self, calls: Calls) -> None:
        store = calls.store
        assert calls.done(store.expire("k", 5)) is False
        calls.done(store.set("k", "v"))
        assert calls.done(store.expire("k", 5, only_if="some")) is False
        assert calls.done(store.expire("k", 5)) is True
        assert calls.done(store.persist("k")) is True
        assert calls.done(store.persist("k")) is False
        assert calls.done(store.expire("k", -1)) is True
        assert calls.done(store.get("k")) is None

    def test_counting(self, calls: Calls) -> None:
        store = calls.store
        assert calls.done(store.incr("n")) == 1
        assert calls.done(store.incr("n", -5)) == -4
        assert calls.done(store.incr_float("n", 0.5)) == b"-3.5"
        error = calls.failed(store.incr("n"))
        assert isinstance(error, CommandFailedError)
        assert error.kind == "NotAnIntegerError"

    def test_the_others_of_one_key(self, calls: Calls) -> None:
        store = calls.store
        assert calls.done(store.append("k", "ab")) == 2
        assert calls.done(store.append("k", b"c")) == 3
        assert calls.done(store.take("k")) == b"abc"
        assert calls.done(store.take("k")) is None

    def test_many_keys(self, calls: Calls) -> None:
        store = calls.store
        assert calls.done(store.mset({"a": "1", "b": b"2"})) is True
        assert calls.done(store.mset({b"b": "1", b"c": "2"}, only_if="absent")) is False
        assert calls.done(store.mget(["a", "c", b"b"])) == ["1", None, b"2"]
        assert calls.done(store.exists("a", "a", "c")) == 2
        assert calls.done(store.mdelete(["a", "c"])) == 1
        assert calls.done(store.size()) == 1
        assert calls.done(store.revision()) == 2

    def test_txn(self, calls: Calls) -> None:
        store = calls.store
        txn = store.txn([Compare(b"a", to=None)], [Set(b"a", "1"), Get(b"a")])
        assert calls.done(txn) == TxnResult(
            succeeded=True, results=[None, "1"], revision=1
        )
        txn = store.txn([Compare(b"a", to=None)], [], [Set(b"a", "x"), Incr(b"a")])
        result = calls.done(txn)
        assert not result.succeeded
        assert result.results[1].kind == "NotAnIntegerError"
        error = calls.failed(store.txn([], [Set(b"a", "y"), Incr(b"a")], atomic=True))
        assert isinstance(error, CommandFailedError)
        assert calls.done(store.get("a")) == "x"

    def test_ranges(self, calls: Calls) -> None:
        store = calls.store
        keys = [f"k{number:03}" for number in range(250)]
        calls.done(store.mset(dict.fromkeys(keys, "v")))
        calls.done(store.set("z", "v"))

        async def scanned(**options: Any) -> list[bytes]:
            return [key async for key, _ in store.scan("k", **options)]

        found = calls.done(Deferred.fromCoroutine(scanned(page_size=100)))
        assert found == [key.encode() for key in keys]
        found = calls.done(Deferred.fromCoroutine(scanned(start="k2", end="k201")))
        assert found == [b"k200"]
        page = calls.done(store.page(after="k248", limit=1, keys_only=True))
        assert (page.items, page.more) == ([(b"k249", None, 1)], True)
        assert calls.done(store.count("k", start="k1")) == 150
        assert calls.done(store.delete_range("k", end="k010", limit=7)) == 7
        assert calls.done(store.delete_range("k")) == 243
        assert calls.done(store.size()) == 1

    def test_what_cannot_be_done_is_not_sent(self, calls: Calls) -> None:
        store = calls.store
        wrong: Any = {"a": 1}
        for call in (
            store.put("k", wrong),
            store.put("k", "v", ttl=0),
            store.put("k", "v", ttl=math.nan),
            store.put("k", "v", ttl=1, keep_ttl=True),
            store.put("k", "v", only_if=wrong),
            store.put("k", "v", lease=-1),
            store.incr("k", 1 << 63),
            store.incr("k", wrong),
            store.incr_float("k", math.inf),
            store.expire("k", math.nan),
            store.expire("k", 1e30),
            store.mset({"": "v"}),
            store.mget([wrong]),
            store.page(limit=0),
            store.page(wrong),
            store.page(limit=10_001),
            store.mdelete(["k"] * 10_001),
            store.txn([], [Set(b"", "v")]),
            store.txn([], [store]),  # type: ignore[list-item]
            store.grant(0),
            store.grant(1e30),
        ):
            assert isinstance(error_of(call), InvalidCommandError)
        assert calls.server.calls == 0

    @pytest.mark.parametrize(
        "answer", [b"\xc0", b"\xa1x", b"\xd4\x63\x05", b"\xd4\2\xc1"]
    )
    def test_no_answer_of_ours(self, calls: Calls, answer: bytes) -> None:
        """A server of something else does no harm."""
        calls.done(calls.store.set("k", "v"))
        calls.server.answered = answer
        for call in (calls.store.put("k", "v"), calls.store.page(), calls.store.size()):
            assert isinstance(calls.failed(call), ProtocolError)


class Listener:
    """
    Listens to a watch.

    Args:
        watch: Which.
    """

    def __init__(self, watch: Watch) -> None:
        self.heard: list[Event] = []
        self.watch = watch
        self.over = Deferred.fromCoroutine(self._listen())

    async def _listen(self) -> None:
        async for event in self.watch:
            self.heard.append(event)

    @property
    def keys(self) -> list[bytes]:
        """Return the keys of what was heard."""
        return [each.key for each in self.heard]


class WatchTests:
    """Hearing of changes."""

    def test_what_comes(self, calls: Calls) -> None:
        """From the call on, and only what was asked for."""
        calls.done(calls.store.set("a0", "v"))
        listener = Listener(calls.store.watch("a"))
        for key in ("b", "a1", "b", "a2"):
            calls.done(calls.store.set(key, "v"))
        calls.done(calls.store.delete("a1"))
        calls.server.settle()
        assert listener.heard == [
            Event(3, "set", b"a1", "v"),
            Event(5, "set", b"a2", "v"),
            Event(6, "delete", b"a1"),
        ]
        assert listener.watch.next_revision == 7
        listener.watch.close()
        assert result_of(listener.over) is None

    def test_from_a_revision(self, calls: Calls) -> None:
        for number in range(5):
            calls.done(calls.store.set(str(number), "v"))
        listener = Listener(calls.store.watch(from_revision=3))
        calls.server.settle()
        assert listener.keys == [b"2", b"3", b"4"]
        assert calls.server.options == ReadOptions("stale", max_age=5.0, wait=5.0)

    def test_it_goes_on_after_failures(self, calls: Calls) -> None:
        """Whatever a server says, as long as it may change."""
        listener = Listener(calls.store.watch(from_revision=1))
        for number, error in enumerate(
            (OverloadedError(""), LeadershipLostError(""), StaleError(""))
        ):
            calls.server.settle()
            calls.server.error = error
            calls.server.settle()
            calls.done(calls.store.set(str(number), "v"))
        calls.server.settle()
        assert listener.keys == [b"0", b"1", b"2"]

    def test_what_is_not_kept_any_more(self, request: pytest.FixtureRequest) -> None:
        calls = Calls(request.node.nodeid, history=8)
        for number in range(30):
            calls.done(calls.store.set("k", str(number)))
        listener = Listener(calls.store.watch(from_revision=2))
        calls.server.settle()
        error = error_of(listener.over)
        assert isinstance(error, CompactedError)
        assert error.first_revision == calls.server.state.first_kept > 20

    def test_no_history(self, request: pytest.FixtureRequest) -> None:
        calls = Calls(request.node.nodeid, history=0)
        listener = Listener(calls.store.watch())
        calls.server.settle()
        error = error_of(listener.over)
        assert isinstance(error, CommandFailedError)
        assert error.kind == "NoHistoryError"

    def test_it_cannot_begin(self, calls: Calls) -> None:
        """That is heard of by who listens; nobody has to."""
        calls.server.error = ProtocolError("no")
        calls.store.watch()
        calls.server.settle()
        calls.server.error = ProtocolError("no")
        listener = Listener(calls.store.watch())
        calls.server.settle()
        assert isinstance(error_of(listener.over), ProtocolError)

    def test_closed_before_it_begins(self, calls: Calls) -> None:
        watch = calls.store.watch()
        watch.close()
        watch.close()
        listener = Listener(watch)
        assert result_of(listener.over) is None
        calls.server.settle()
        assert listener.heard == []

    def test_closed_with_the_client(self, calls: Calls) -> None:
        listener = Listener(calls.store.watch())
        calls.server.settle()
        calls.done(calls.store.close())
        assert result_of(listener.over) is None

    def test_closed_by_who_listens(self, calls: Calls) -> None:
        """What was not yielded yet is not yielded any more."""
        calls.done(calls.store.mset({"a": "1", "b": "2"}))
        watch = calls.store.watch(from_revision=1)

        async def first() -> list[bytes]:
            heard = []
            async for event in watch:
                heard.append(event.key)
                assert watch.next_revision == 1
                watch.close()
            return heard

        assert calls.done(Deferred.fromCoroutine(first())) == [b"a"]


class LeaseTests:
    """Leases that keep themselves alive."""

    def granted(self, calls: Calls, ttl: float = 3.0) -> Lease:
        """Return a new lease."""
        call = calls.store.grant(ttl)
        calls.server.reactor.advance(0.01)
        calls.server.reactor.advance(0.01)
        lease: Lease = result_of(call)
        return lease

    def test_it_stays(self, calls: Calls) -> None:
        """As long as its client lives; and with it what has it."""
        lease = self.granted(calls)
        calls.done(calls.store.put("k", "v", lease=lease))
        for second in range(1, 30):
            calls.server.settle()
            calls.tick(second * 1000)
        assert not lease.is_lost
        assert lease.ttl == 3.0
        assert calls.done(calls.store.item("k")).lease == lease.id

    def test_revoke(self, calls: Calls) -> None:
        """Keys that have it go at once, and it is not lost."""
        lease = self.granted(calls)
        lost = lease.when_lost()
        calls.done(calls.store.put("k", "v", lease=lease.id))
        assert calls.done(lease.revoke()) == 1
        assert calls.done(calls.store.get("k")) is None
        for _ in range(5):
            calls.server.settle()
        assert not lease.is_lost
        assert not lost.called

    @pytest.mark.parametrize("closes_client", [True, False])
    def test_close(self, calls: Calls, closes_client: bool) -> None:  # noqa: FBT001 - a parameter of the test
        """Nothing is sent any more, and it ends by itself."""
        lease = self.granted(calls)
        if closes_client:
            calls.done(calls.store.close())
        lease.close()
        before = calls.server.calls
        for _ in range(5):
            calls.server.settle()
        assert calls.server.calls == before
        assert calls.server.reactor.getDelayedCalls() == []

    def test_the_servers_say_that_it_has_ended(self, calls: Calls) -> None:
        lease = self.granted(calls)
        lost: list[float] = []
        lease.when_lost().addCallback(lambda _: lost.append(0.0))
        calls.tick(3000)
        assert not lost
        calls.server.settle()
        assert lost
        assert lease.is_lost
        assert result_of(lease.when_lost()) is None

    def test_the_servers_are_silent(self, calls: Calls) -> None:
        """By this client's clock it is over before it can be for the servers."""
        lease = self.granted(calls, ttl=2.0)
        lost: list[float] = []
        lease.when_lost().addCallback(lambda _: lost.append(0.0))
        for _ in range(19):
            calls.server.error = OverloadedError("busy")
            calls.server.reactor.advance(0.1)
        assert not lost
        for _ in range(2):
            calls.server.error = OverloadedError("busy")
            calls.server.reactor.advance(0.1)
        assert lease.is_lost
        assert lost

    def test_one_failure_is_put_up_with(self, calls: Calls) -> None:
        calls.store = KVClient(calls.server.client, session=False)
        lease = self.granted(calls)
        for _ in range(20):
            calls.server.error = LeadershipLostError("who knows")
            calls.server.settle()
        assert not lease.is_lost

    def test_none_is_granted(self, calls: Calls) -> None:
        calls.done(calls.store.set("k", "v"))
        calls.server.error = ProtocolError("no")
        assert isinstance(calls.failed(calls.store.grant(1.0)), ProtocolError)
        assert calls.server.reactor.getDelayedCalls() == []
