"""Tests of contrib.kvstore.machine."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.errors import InvalidCommandError
from contrib.kvstore.commands import Cas, Delete, Get, Set, encode
from contrib.kvstore.machine import KVStore

keys = st.sampled_from([b"a", b"b", b"c"])
values = st.sampled_from(["x", b"x", "y", b""])
commands = st.one_of(
    st.builds(Set, keys, values),
    st.builds(Delete, keys),
    st.builds(Cas, keys, st.none() | values, values),
)


class Store:
    """A machine with its state."""

    def __init__(self) -> None:
        self.machine = KVStore()
        self.state = self.machine.init("s1")

    def write(self, command: Any) -> Any:
        """Apply *command* as a server would and return its result."""
        command = self.machine.decode(self.machine.encode(command))
        result, self.state = self.machine.handle_write(command, self.state)
        return result

    def get(self, key: bytes) -> Any:
        """Return the value of *key*."""
        before = self.state.items.copy()
        query = self.machine.decode(self.machine.encode(Get(key)))
        result, _ = self.machine.handle_read(query, self.state)
        assert self.state.items == before
        return result


class KVStoreTests:
    """What each command does, and its result."""

    def test_set_and_get(self) -> None:
        store = Store()
        assert store.get(b"k") is None
        assert store.write(Set(b"k", "v")) is None
        assert store.get(b"k") == "v"
        assert store.write(Set(b"k", b"w")) is None
        assert store.get(b"k") == b"w"

    def test_an_empty_value_is_a_value(self) -> None:
        store = Store()
        store.write(Set(b"k", b""))
        assert store.get(b"k") == b""
        assert store.write(Cas(b"k", None, "v")) is False
        assert store.write(Delete(b"k")) is True

    def test_delete(self) -> None:
        """The result says whether there was anything."""
        store = Store()
        assert store.write(Delete(b"k")) is False
        store.write(Set(b"k", "v"))
        assert store.write(Delete(b"k")) is True
        assert store.get(b"k") is None

    def test_cas_of_a_missing_key(self) -> None:
        """None is expected of a key that is not there, and of no other."""
        store = Store()
        assert store.write(Cas(b"k", "v", "w")) is False
        assert store.get(b"k") is None
        assert store.write(Cas(b"k", None, "v")) is True
        assert store.get(b"k") == "v"
        assert store.write(Cas(b"k", None, "w")) is False

    def test_cas_of_a_present_key(self) -> None:
        store = Store()
        store.write(Set(b"k", "v"))
        assert store.write(Cas(b"k", "x", "w")) is False
        assert store.get(b"k") == "v"
        assert store.write(Cas(b"k", "v", "w")) is True
        assert store.get(b"k") == "w"

    def test_cas_compares_bytes(self) -> None:
        """Text equals its UTF-8 bytes, as keys do."""
        store = Store()
        store.write(Set(b"k", "é"))
        assert store.write(Cas(b"k", "é".encode(), "v")) is True

    @given(st.lists(commands))
    def test_it_is_a_dictionary(self, history: list[Set | Delete | Cas]) -> None:
        """Any history leaves what a plain model of it says."""
        store = Store()
        model: dict[bytes, Any] = {}
        for command in history:
            result = store.write(command)
            old = model.get(command.key)
            if isinstance(command, Set):
                model[command.key] = command.value
                assert result is None
            elif isinstance(command, Delete):
                model.pop(command.key, None)
                assert result is (old is not None)
            else:
                wanted = command.expected
                is_equal = [
                    item.encode() if isinstance(item, str) else item
                    for item in (old, wanted)
                ]
                assert result is (is_equal[0] == is_equal[1])
                if result:
                    model[command.key] = command.value
        assert {key: item.value for key, item in store.state.items.items()} == model

    @given(st.lists(commands))
    def test_two_replicas_agree(self, history: list[Set | Delete | Cas]) -> None:
        """The same commands give the same state and the same results."""
        one, two = Store(), Store()
        assert [one.write(command) for command in history] == [
            two.write(command) for command in history
        ]
        assert list(one.state.items.items()) == list(two.state.items.items())
        assert one.state == two.state

    def test_a_query_is_not_written(self) -> None:
        store = Store()
        with pytest.raises(InvalidCommandError, match="Get changes nothing"):
            store.write(Get(b"k"))

    def test_a_command_is_not_read(self) -> None:
        store = Store()
        with pytest.raises(InvalidCommandError, match="Set changes the state"):
            store.machine.handle_read(Set(b"k", "v"), store.state)
        assert store.state == KVStore().init("s1")

    def test_every_server_begins_alike(self) -> None:
        machine = KVStore()
        assert machine.init("s1") == machine.init("s2")
        assert len(machine.init("s1")) == 0
        assert machine.init("s1") is not machine.init("s1")


class EncodingTests:
    """Commands have a format of their own, results are MessagePack."""

    def test_commands(self) -> None:
        assert KVStore().encode(Set(b"k", "v")) == encode(Set(b"k", "v"))

    @pytest.mark.parametrize("result", [None, True, False, "text", b"bytes"])
    def test_results(self, result: object) -> None:
        assert msgspec.msgpack.decode(KVStore().encode(result)) == result

    def test_what_is_neither(self) -> None:
        with pytest.raises(InvalidCommandError, match="is no command"):
            KVStore().encode(object())

    def test_bytes_that_are_no_command(self) -> None:
        """A server refuses them before they reach its log."""
        with pytest.raises(InvalidCommandError):
            KVStore().decode(b"\1\x93\xa3set\xc4\0\xa3bar")
