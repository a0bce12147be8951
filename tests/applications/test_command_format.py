"""Tests of consensus.applications.command_format."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import pytest

from consensus.applications.command_format import CommandFormat
from consensus.errors import InvalidCommandError


class Add(msgspec.Struct, array_like=True, forbid_unknown_fields=True, tag="add"):
    """A command."""

    key: str
    count: Annotated[int, msgspec.Meta(ge=1)]


class Get(msgspec.Struct, array_like=True, forbid_unknown_fields=True, tag="get"):
    """A query."""

    key: str


numbers: CommandFormat[Add | Get] = CommandFormat(Add | Get, 3, "numbers")


class CommandFormatTests:
    """Commands become bytes, and come back."""

    @pytest.mark.parametrize("command", [Add("a", 1), Get("ä")])
    def test_they_come_back(self, command: Add | Get) -> None:
        assert numbers.decode(numbers.encode(command)) == command

    def test_the_bytes(self) -> None:
        assert numbers.encode(Add("a", 7)) == b"\3\x93\xa3add\xa1a\7"

    @pytest.mark.parametrize(
        "wrong", [Add("a", 0), Add("\ud800", 1), Add("a", 1 << 70), object(), "x"]
    )
    def test_what_cannot_be_encoded(self, wrong: Any) -> None:
        """What would be refused later is refused now."""
        with pytest.raises(InvalidCommandError):
            numbers.encode(wrong)

    def test_another_version(self) -> None:
        with pytest.raises(
            InvalidCommandError, match=r"b'\\x02'.* version 3 .*numbers"
        ):
            numbers.decode(b"\2\x92\xa3get\xa1a")

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"\3",
            b"\3\xc1",
            b"\3\x92\xa3put\xa1a",
            b"\3\x93\xa3get\xa1a\1",
            b"\3\x92\xa3get\xa1\xff",
            b"\3\x93\xa3add\xa1a\0",
            b"\3\x92\xa3get\xa1a\0",
            b"\3" + b"\x91" * 5000,
        ],
    )
    def test_what_is_no_command(self, data: bytes) -> None:
        with pytest.raises(InvalidCommandError):
            numbers.decode(data)
