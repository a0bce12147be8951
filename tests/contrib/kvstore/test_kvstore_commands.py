"""Tests of contrib.kvstore.commands."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.errors import InvalidCommandError
from contrib.kvstore.commands import (
    MAX_KEY_BYTES,
    Cas,
    Command,
    Delete,
    Get,
    Query,
    Set,
    as_bytes,
    as_key,
    decode,
    encode,
)

keys = st.binary(min_size=1, max_size=50)
values = st.one_of(st.text(st.characters(codec="utf-8")), st.binary())
commands = st.one_of(
    st.builds(Set, keys, values),
    st.builds(Delete, keys),
    st.builds(Cas, keys, st.none() | values, values),
    st.builds(Get, keys),
)


class RoundTripTests:
    """What is encoded comes back."""

    @given(commands)
    def test_every_command_comes_back(self, command: Command | Query) -> None:
        again = decode(encode(command))
        assert type(again) is type(command)
        assert again == command

    def test_text_and_bytes_are_told_apart(self) -> None:
        for value in ("bar", b"bar"):
            again = decode(encode(Set(b"foo", value)))
            assert isinstance(again, Set)
            assert type(again.value) is type(value)

    @pytest.mark.parametrize(
        ("command", "data"),
        [
            (Set(b"foo", "bar"), b"\1\x93\xa3set\xc4\3foo\xa3bar"),
            (Set(b"foo", b"bar"), b"\1\x93\xa3set\xc4\3foo\xc4\3bar"),
            (Delete(b"foo"), b"\1\x92\xa6delete\xc4\3foo"),
            (Cas(b"foo", None, "bar"), b"\1\x94\xa3cas\xc4\3foo\xc0\xa3bar"),
            (Get(b"foo"), b"\1\x92\xa3get\xc4\3foo"),
        ],
    )
    def test_the_bytes_of_version_one(
        self, command: Command | Query, data: bytes
    ) -> None:
        """These bytes are in logs: they mean this for ever."""
        assert encode(command) == data
        assert decode(data) == command


class HostileBytesTests:
    """Whatever comes, the answer is a command or an InvalidCommandError."""

    @given(st.binary(max_size=200))
    def test_arbitrary_bytes(self, data: bytes) -> None:
        for bytes_ in (data, b"\1" + data):
            try:
                decode(bytes_)
            except InvalidCommandError:
                continue

    @given(commands, st.data())
    def test_changed_bytes(self, command: Command | Query, data: st.DataObject) -> None:
        """What still decodes is a command that could have been encoded."""
        changed = bytearray(encode(command))
        position = data.draw(st.integers(0, len(changed) - 1))
        changed[position] ^= data.draw(st.integers(1, 255))
        try:
            decoded = decode(bytes(changed))
        except InvalidCommandError:
            return
        assert decode(encode(decoded)) == decoded

    @pytest.mark.parametrize(
        "array",
        [
            [],
            ["fly", b"k"],
            ["set"],
            ["set", b"k"],
            ["set", b"", "v"],
            ["set", bytes(MAX_KEY_BYTES + 1), "v"],
            ["set", "k", "v"],
            ["set", b"k", 5],
            ["set", b"k", None],
            ["set", b"k", ["v"]],
            ["set", b"k", "v", 60],
            ["cas", b"k", 5, "v"],
            ["cas", b"k", "v", None],
            ["delete", b"k", 1],
            {"set": [b"k", "v"]},
            "set",
            7,
        ],
    )
    def test_what_is_no_command(self, array: Any) -> None:
        """More fields than this release knows are refused, not ignored."""
        with pytest.raises(InvalidCommandError, match="not a command of the key-value"):
            decode(b"\1" + msgspec.msgpack.encode(array))

    @pytest.mark.parametrize("data", [b"", b"\0", b"\2" + encode(Delete(b"k"))[1:]])
    def test_another_version(self, data: bytes) -> None:
        with pytest.raises(InvalidCommandError, match="version 1"):
            decode(data)

    @pytest.mark.parametrize(
        "data", [b"\x92\xa6\xe4elete\xc4\1k", b"\x93\xa3set\xc4\1k\xa1\xff"]
    )
    def test_text_that_is_not_utf8(self, data: bytes) -> None:
        with pytest.raises(InvalidCommandError, match="utf-8"):
            decode(b"\1" + data)

    def test_bytes_after_a_command(self) -> None:
        with pytest.raises(InvalidCommandError):
            decode(encode(Delete(b"k")) + b"\0")

    def test_depth(self) -> None:
        """Deeply nested input exhausts nothing."""
        with pytest.raises(InvalidCommandError):
            decode(b"\1\x93\xa3set\xc4\1k" + b"\x91" * 100_000)


class LimitTests:
    """What is refused before it is sent."""

    def test_keys(self) -> None:
        assert as_key("é") == "é".encode()
        assert as_key(b"\xff") == b"\xff"
        assert decode(encode(Get(bytes(MAX_KEY_BYTES)))) == Get(bytes(MAX_KEY_BYTES))
        for key in ("", b"", "é" * (MAX_KEY_BYTES // 2 + 1)):
            with pytest.raises(InvalidCommandError, match="1 to 4096 bytes"):
                as_key(key)

    def test_what_is_no_key(self) -> None:
        wrong: Any = 5
        with pytest.raises(InvalidCommandError, match="a key is text or bytes, not 5"):
            as_key(wrong)
        with pytest.raises(InvalidCommandError):
            as_key("\ud800")

    def test_what_is_no_value(self) -> None:
        with pytest.raises(TypeError, match="a value is text or bytes, not int"):
            Set(b"k", 5)
        with pytest.raises(TypeError, match="not NoneType"):
            Cas(b"k", None, None)
        with pytest.raises(InvalidCommandError):
            as_bytes("\ud800")

    @pytest.mark.parametrize("key", ["text", b"", bytes(MAX_KEY_BYTES + 1), None])
    def test_a_command_with_a_bad_key(self, key: Any) -> None:
        """A program that makes commands itself meets the same limits."""
        with pytest.raises(InvalidCommandError):
            encode(Set(key, "v"))

    def test_a_command_with_half_a_character(self) -> None:
        with pytest.raises(InvalidCommandError):
            encode(Set(b"k", "\ud800"))

    def test_an_object_that_is_no_command(self) -> None:
        """Neither something else nor a command that has more to it gets in."""

        class Other(msgspec.Struct, tag="other", array_like=True):
            key: bytes

        class More(Set, frozen=True):
            ttl: int = 0

        for value in (Other(b"k"), More(b"k", b"v", 7)):
            with pytest.raises(InvalidCommandError):
                encode(value)

    def test_a_value_that_was_put_there_by_force(self) -> None:
        """An object of ours may hold anything; the log does not."""
        command = Set(b"k", "v")
        msgspec.structs.force_setattr(command, "value", 7)
        with pytest.raises(InvalidCommandError):
            encode(command)
