"""Tests of contrib.kvstore.state: snapshots and digests."""

from __future__ import annotations

import struct
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.errors import StorageError
from consensus.snapshots import split
from contrib.kvstore.commands import Cas, Delete, Set
from contrib.kvstore.machine import KVStore, KVStoreOptions
from contrib.kvstore.state import DigestedState, State, StateSnapshot, fill

keys = st.binary(min_size=1, max_size=3)
values = st.text("aé€😀", max_size=3) | st.binary(max_size=3)
states = st.dictionaries(keys, values)
commands = st.one_of(
    st.builds(Set, keys, values),
    st.builds(Delete, keys),
    st.builds(Cas, keys, st.none() | values, values),
)


def machine_with_digest() -> KVStore:
    """Return a store that keeps a digest."""
    return KVStore(KVStoreOptions(digest=True))


def digest_of(items: State) -> bytes:
    """Return the digest of a state that has *items*."""
    state = DigestedState()
    for key, value in items.items():
        state[key] = value
    return state.digest


def restored(data: bytes, piece: int = 1 << 20) -> Any:
    """Return the state in *data*, given in pieces of so many bytes."""
    pieces = [data[start : start + piece] for start in range(0, len(data), piece)]
    return KVStore().restore(pieces, 7)


def block(items: Any) -> bytes:
    """Return *items* as a block."""
    data = msgspec.msgpack.encode(items)
    return struct.pack(">I", len(data)) + data


class SnapshotTests:
    """A state becomes bytes, and they become it again."""

    @given(states, st.integers(1, 40))
    def test_round_trip(self, state: State, piece: int) -> None:
        """Text stays text, the order stays, however the bytes are cut."""
        data = b"".join(KVStore().snapshot(state).chunks())
        again = restored(data, piece)
        assert list(again.items()) == list(state.items())
        assert type(again) is dict

    def test_many_blocks(self) -> None:
        """A large state comes in pieces of bounded size."""
        state: State = {b"%d" % number: b"v" * 50_000 for number in range(50)}
        pieces = list(StateSnapshot(state).chunks())
        assert len(pieces) == 27
        assert max(map(len, pieces)) < 130_000
        assert KVStore().restore(split(pieces), 7) == state

    def test_a_view_stays_as_it_is(self) -> None:
        """What is written after it was taken is not in it."""
        machine = KVStore()
        state = machine.init("s1")
        _, state = machine.handle_write(Set(b"a", "old"), state)
        chunks = machine.snapshot(state).chunks()
        start = next(chunks)
        for command in (Set(b"a", "new"), Set(b"b", "new"), Delete(b"a")):
            _, state = machine.handle_write(command, state)
        assert restored(start + b"".join(chunks)) == {b"a": "old"}

    def test_the_bytes(self) -> None:
        """They are the format of version 1."""
        data = b"".join(StateSnapshot({b"k": "v"}).chunks())
        assert data == (
            b"\1" + bytes.fromhex("00000006 81 c4016b a176 00000000 0000000000000001")
        )

    def test_a_later_version(self) -> None:
        with pytest.raises(StorageError, match="version 2, and this release knows 1"):
            restored(b"\2")

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"", "ends too early"),
            (b"\1\0\0", "ends too early"),
            (b"\1\0\0\0\x05\x81", "ends too early"),
            (b"\1\xff\xff\xff\xff", "ends too early"),
            (b"\1\0\0\0\0\0", "ends too early"),
            (b"\1\0\0\0\1\xc1", "not a snapshot"),
            (b"\1" + block([1]), "Expected `object`"),
            (b"\1" + block({"k": "v"}), "Expected `bytes`"),
            (b"\1" + block({b"k": 1}), "a value that is a int"),
            (b"\1" + block({b"k": None}), "a value that is a NoneType"),
            (b"\1\0\0\0\5\x81\xc4\1k\xa1", "truncated"),
            (b"\1\0\0\0\6\x81\xc4\1k\xa1\xff", "utf-8|Invalid"),
            (b"\1" + bytes(4) + b"\0\0\0\0\0\0\0\1", "0 keys where 1"),
            (b"\1" + block({b"k": "v"}) * 2 + bytes(11) + b"\2", "1 keys where 2"),
            (b"\1" + bytes(13), "goes on after its end"),
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
        try:
            state = restored(b"\1" + data)
        except StorageError:
            return
        assert isinstance(state, dict)

    def test_it_is_read_to_the_end(self) -> None:
        """What is wrong with the file as a whole is said there."""

        def chunks() -> Any:
            yield from StateSnapshot({b"k": "v"}).chunks()
            message = "the checksum of the whole is wrong"
            raise StorageError(message)

        with pytest.raises(StorageError, match="checksum"):
            fill({}, chunks())


class DigestTests:
    """States with the same digest are the same."""

    def test_it_is_an_option(self) -> None:
        assert KVStore().digest(KVStore().init("s1")) is None

    @given(st.lists(commands))
    def test_it_is_that_of_the_state(self, history: list[Set | Delete | Cas]) -> None:
        """Whatever led there, and in whatever order."""
        machine = machine_with_digest()
        plain = KVStore()
        state, plain_state = machine.init("s1"), plain.init("s1")
        for command in history:
            result, state = machine.handle_write(command, state)
            expected, plain_state = plain.handle_write(command, plain_state)
            assert result == expected
        assert state == plain_state
        ordered = {key: plain_state[key] for key in sorted(plain_state)}
        assert machine.digest(state) == digest_of(ordered)

    @given(states, states)
    def test_other_states_have_another(self, one: State, two: State) -> None:
        assert (digest_of(one) == digest_of(two)) is (one == two)

    @pytest.mark.parametrize(
        ("one", "two"),
        [
            ({b"k": "v"}, {b"k": b"v"}),
            ({b"ab": b"c"}, {b"a": b"bc"}),
            ({b"a": "x", b"b": "y"}, {b"a": "y", b"b": "x"}),
            ({b"k": b""}, {}),
        ],
    )
    def test_what_looks_alike(self, one: State, two: State) -> None:
        """Text and bytes, lengths, and who has which value all count."""
        assert digest_of(one) != digest_of(two)

    @given(states)
    def test_it_survives_a_snapshot(self, items: State) -> None:
        """A restored state has the digest of the one that it was."""
        machine = machine_with_digest()
        state = machine.init("s1")
        for key, value in items.items():
            _, state = machine.handle_write(Set(key, value), state)
        again = machine.restore(machine.snapshot(state).chunks(), 7)
        assert again == state
        assert machine.digest(again) == machine.digest(state)
        for key in items:
            _, again = machine.handle_write(Delete(key), again)
        assert machine.digest(again) == bytes(8)

    def test_a_stable_value(self) -> None:
        """Servers of different releases can compare theirs."""
        assert digest_of({b"colour": "blue"}).hex() == "cf65bf1b0890f4b6"
