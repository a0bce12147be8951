"""Tests of contrib.kvstore.state and digests: snapshots, and what tells them apart."""

from __future__ import annotations

import struct
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.errors import StorageError
from consensus.interfaces import Tick
from consensus.snapshots.files import split
from consensus.testing.machine import StateMachineSuite
from contrib.kvstore.commands import (
    Append,
    Cas,
    Changes,
    Compare,
    Count,
    Delete,
    DeleteMany,
    DeleteRange,
    Exists,
    Expire,
    Get,
    GetItem,
    GetMany,
    Grant,
    Incr,
    IncrFloat,
    KeepAlive,
    Lease,
    Leases,
    Put,
    Revision,
    Revoke,
    Scan,
    Set,
    SetMany,
    Size,
    Take,
    Ttl,
    Txn,
)
from contrib.kvstore.digests import DigestedStore
from contrib.kvstore.disk import KVStoreOnDisk, KVStoreOnDiskOptions
from contrib.kvstore.machine import KVStore, KVStoreOptions
from contrib.kvstore.memory import MemoryStore
from contrib.kvstore.state import StoreView, fill
from tests.support.kv import contents, make_kv

if TYPE_CHECKING:
    from consensus.interfaces import StateMachine
    from tests.support.kv import KV

KEYS = st.sampled_from([b"a", b"b", b"c"])
VALUES = st.sampled_from(["x", "5", b"7", b"\xff", ""])
TTLS = st.integers(1, 20)
LEASES = st.integers(1, 4)
CONDITIONS = st.sampled_from(["none", "some", "later", "earlier", None])

OPS = st.one_of(
    st.builds(Set, KEYS, VALUES),
    st.builds(Delete, KEYS),
    st.builds(Cas, KEYS, VALUES | st.none(), VALUES),
    st.builds(Put, KEYS, VALUES, ttl=TTLS, lease=LEASES | st.none()),
    st.builds(
        Put,
        KEYS,
        VALUES,
        only_if=st.sampled_from(["absent", "present", None]),
        keep_ttl=st.booleans(),
        want_old=st.booleans(),
    ),
    st.builds(Incr, KEYS, st.integers(-5, 5)),
    st.builds(IncrFloat, KEYS, st.sampled_from([0.1, -2.5])),
    st.builds(Append, KEYS, VALUES),
    st.builds(Take, KEYS),
    st.builds(Expire, KEYS, TTLS | st.none() | st.just(0), CONDITIONS),
    st.builds(SetMany, st.lists(st.tuples(KEYS, VALUES), max_size=3)),
    st.builds(DeleteMany, st.lists(KEYS, max_size=3)),
    st.builds(DeleteRange, st.sampled_from([b"", b"a", b"b"])),
    st.builds(Grant, TTLS, st.integers(0, 4)),
    st.builds(KeepAlive, LEASES),
    st.builds(Revoke, LEASES),
)
COMPARES = st.one_of(
    st.builds(Compare, KEYS, to=VALUES | st.none()),
    st.builds(Compare, KEYS, st.just("revision"), st.just("<"), st.integers(0, 9)),
)
LOOKUPS = st.one_of(
    st.builds(Get, KEYS),
    st.builds(GetItem, KEYS),
    st.builds(GetMany, st.lists(KEYS, max_size=3)),
    st.builds(Exists, st.lists(KEYS, max_size=3)),
    st.builds(Ttl, KEYS),
    st.builds(Scan, st.sampled_from([b"", b"a", b"b"])),
    st.builds(Count, st.sampled_from([b"", b"a", b"b"])),
    st.just(Size()),
)
COMMANDS = (
    OPS
    | st.builds(
        Txn,
        st.lists(COMPARES, max_size=2),
        st.lists(OPS | LOOKUPS, max_size=4),
        st.lists(OPS, max_size=2),
        st.booleans(),
    )
    | st.builds(Get, KEYS)  # which is no command
)
QUERIES = (
    LOOKUPS
    | st.builds(Changes, st.sampled_from([b"", b"a"]), st.integers(0, 9))
    | st.just(Revision())
    | st.builds(Lease, LEASES)
    | st.just(Leases())
    | st.builds(Delete, KEYS)  # which is no query
)
HISTORIES = st.lists(COMMANDS | st.builds(Tick, st.integers(0, 60)), max_size=30)


class TestKVStoreConforms(StateMachineSuite):
    """The key-value store keeps the promises of a state machine."""

    machine: ClassVar[Any] = partial(KVStore, KVStoreOptions(history=8))
    commands = COMMANDS
    queries = QUERIES

    def state_of(self, machine: StateMachine, state: Any) -> Any:
        """Return what is in a snapshot, in any order."""
        return contents(machine.snapshot(state).chunks())


class TestDigestedKVStoreConforms(TestKVStoreConforms):
    """And so does one that keeps a digest."""

    machine: ClassVar[Any] = partial(KVStore, KVStoreOptions(digest=True, history=8))


class TestKVStoreOnDiskConforms(TestKVStoreConforms):
    """And so does the one on disk, with the same results."""

    machine: ClassVar[Any] = partial(KVStoreOnDisk, KVStoreOnDiskOptions(history=8))
    effort = settings(TestKVStoreConforms.effort, max_examples=15)


def written(commands: list[Any], **options: Any) -> KV:
    """Return a store that has seen *commands*."""
    kv = make_kv("digest", None, **options)
    kv.write_all(*commands)
    return kv


def restored(data: bytes, piece: int = 1 << 20) -> Any:
    """Return the state in *data*, given in pieces of so many bytes."""
    pieces = [data[start : start + piece] for start in range(0, len(data), piece)]
    return KVStore().restore(pieces, 7)


def block(items: Any) -> bytes:
    """Return *items* as a block."""
    data = msgspec.msgpack.encode(items)
    return struct.pack(">I", len(data)) + data


#: A snapshot's beginning, and its end after so many rows.
BEGIN = b"\2" + block([5, 6, 7, 1])


def end(rows: int) -> bytes:
    """Return the end of a snapshot with so many *rows*."""
    return struct.pack(">IQ", 0, rows)


ITEM = [b"k", "v", 5, 5, 1, None, None]
EVENT = [5, "set", b"k", "v"]


class SnapshotTests:
    """A state becomes bytes, and they become it again."""

    @given(HISTORIES, st.integers(1, 40))
    def test_round_trip(self, history: list[Any], piece: int) -> None:
        """Whatever happened, however the bytes are cut; the order stays."""
        kv = written(history)
        again = kv.machine.restore(split(kv.snapshot()), 7)
        assert again == kv.state
        assert list(again.items) == list(kv.state.items)
        assert kv.machine.digest(again) == kv.machine.digest(kv.state)
        assert kv.machine.next_time(again) == kv.next_time
        assert restored(b"".join(kv.snapshot()), piece).items == kv.state.items

    def test_many_blocks(self) -> None:
        """A large state comes in pieces of bounded size."""
        store = MemoryStore(100)
        for number in range(50):
            store.set(b"%d" % number, b"v" * 50_000)
        pieces = list(StoreView(store).chunks())
        assert len(pieces) == 52
        assert max(map(len, pieces)) < 130_000
        assert KVStore().restore(split(pieces), 7).items == store.items

    def test_a_view_stays_as_it_is(self) -> None:
        """What is written after it was taken is not in it."""
        kv = written([Set(b"a", "old"), Grant(5)])
        before = kv.contents()
        chunks = kv.machine.snapshot(kv.state).chunks()
        start = next(chunks)
        kv.write_all(Set(b"a", "new"), Set(b"b", "new"), Delete(b"a"), Tick(9))
        assert contents([start, *chunks]) == before

    def test_the_bytes(self) -> None:
        """They are the format of version 2."""
        kv = written([Tick(3), Grant(4), Put(b"k", "v", lease=1), Expire(b"k", 2)])
        assert b"".join(kv.snapshot()) == (
            b"\2"
            + block([1, 3, 1, 1])
            + block([0, [[b"k", "v", 1, 1, 1, 5, 1]]])
            + block([1, [[1, 4, 7]]])
            + block([2, [[1, "set", b"k", "v"]]])
            + end(3)
        )

    @pytest.mark.parametrize("version", [1, 3])
    def test_another_version(self, version: int) -> None:
        """Version 1 has no revisions, and servers would not agree on any."""
        with pytest.raises(StorageError, match="and this release knows 2"):
            restored(bytes((version,)))

    def test_a_shorter_history(self) -> None:
        """Who keeps fewer events begins later."""
        kv = written([Set(b"k", str(number)) for number in range(100)])
        shorter = KVStore(KVStoreOptions(history=8)).restore(kv.snapshot(), 7)
        assert len(shorter.log) <= 9
        assert shorter.first_kept == shorter.log[0].revision
        none = KVStore(KVStoreOptions(history=0)).restore(kv.snapshot(), 7)
        assert none.log == []
        assert none.revision == 100

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"", "ends too early"),
            (b"\2\0\0", "ends too early"),
            (BEGIN + b"\0\0\0\x05\x81", "ends too early"),
            (BEGIN + b"\xff\xff\xff\xff", "ends too early"),
            (BEGIN + b"\0\0\0\0\0", "ends too early"),
            (BEGIN + b"\0\0\0\1\xc1", "not a snapshot"),
            (b"\2" + block([1, 2, 3]) + end(0), "length"),
            (b"\2" + block([-1, 2, 3, 4]) + end(0), "Expected `int` >= 0"),
            (BEGIN + block([1]), "length"),
            (BEGIN + block([7, []]) + end(0), "rows of kind 7"),
            (BEGIN + block([0, [["k", *ITEM[1:]]]]), "Expected `bytes`"),
            (BEGIN + block([0, [[b"k", 1, *ITEM[2:]]]]), "a value is text or bytes"),
            (BEGIN + block([0, [ITEM[:-1]]]), "length"),
            (BEGIN + block([1, [[1, 2]]]), "length"),
            (BEGIN + block([2, [[5, "fly", b"k", "v"]]]), "Invalid enum value"),
            (BEGIN + block([2, [[5, "set", b"k", 5]]]), "a value is text or bytes"),
            (BEGIN + end(1), "0 rows where 1"),
            (BEGIN + block([0, [ITEM]]) + block([2, [EVENT]]) + end(3), "2 rows where"),
            (BEGIN + end(0) + b"\0", "goes on after its end"),
        ],
    )
    def test_what_is_none(self, data: bytes, reason: str) -> None:
        """A sentence says what is wrong."""
        for piece in (1, 1 << 20):
            with pytest.raises(StorageError, match=reason):
                restored(data, piece)

    @given(st.binary())
    def test_any_bytes(self, data: bytes) -> None:
        """They are a snapshot, or a StorageError."""
        for start in (b"\2", BEGIN):
            try:
                state = restored(start + data)
            except StorageError:
                continue
            assert isinstance(state, MemoryStore)

    def test_it_is_read_to_the_end(self) -> None:
        """What is wrong with the file as a whole is said there."""

        def chunks() -> Any:
            yield from StoreView(MemoryStore()).chunks()
            message = "the checksum of the whole is wrong"
            raise StorageError(message)

        with pytest.raises(StorageError, match="checksum"):
            fill(MemoryStore(), chunks())


class DigestTests:
    """States with the same digest are the same."""

    def test_it_is_an_option(self) -> None:
        assert KVStore().digest(KVStore().init("s1")) is None

    @given(HISTORIES)
    def test_it_is_that_of_the_state(self, history: list[Any]) -> None:
        """Whatever led there; and it changes nothing else."""
        kv, plain = written(history, history=8), make_kv("memory", None, history=8)
        plain.write_all(*history)
        assert kv.contents() == plain.contents()
        counted = DigestedStore(8)
        for key, item in sorted(kv.state.items.items()):
            counted.put(key, item)
        for lease, granted in kv.state.granted.items():
            counted.put_lease(lease, granted)
        for event in kv.state.log:
            counted.append(event)
        assert (counted.sum - kv.state.sum) % (1 << 64) == 0

    @pytest.mark.parametrize(
        ("one", "two"),
        [
            ([Set(b"k", "v")], [Set(b"k", b"v")]),
            ([Set(b"ab", b"c")], [Set(b"a", b"bc")]),
            ([Set(b"k", b"")], []),
            ([Set(b"k", b"v")], [Set(b"k", b"v"), Expire(b"k", 5)]),
            ([Put(b"k", b"v", ttl=4)], [Put(b"k", b"v", ttl=5)]),
            ([Grant(5)], [Grant(6)]),
            ([Grant(5)], [Grant(5), Grant(5), Revoke(2)]),
            ([Grant(5), Put(b"k", "v")], [Grant(5), Put(b"k", "v", lease=1)]),
            ([Grant(5)], [Grant(5), Tick(1), KeepAlive(1)]),
            ([Tick(1)], [Tick(2)]),
            ([], [Set(b"k", "v"), Delete(b"k")]),
            ([Set(b"k", "v")], [Txn([], [Set(b"k", "v"), Set(b"k", "v")])]),
        ],
    )
    def test_what_looks_alike(self, one: list[Any], two: list[Any]) -> None:
        """Text and bytes, lengths, ends, leases, the time and the past all count."""
        states = [written(history) for history in (one, two)]
        digests = {kv.machine.digest(kv.state) for kv in states}
        assert len(digests) == 2
        assert None not in digests

    def test_a_stable_value(self) -> None:
        """Servers of different releases can compare theirs."""
        digest = written([Set(b"colour", "blue")]).state.digest
        assert digest.hex() == "2d17d289246638bf"
