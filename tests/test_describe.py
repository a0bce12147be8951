"""Entries and states as text, whatever they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from consensus.applying.agreements import (
    claim_entry,
    mark_entry,
    time_entry,
    upgrade_entry,
)
from consensus.core.values import Entry, EntryKind
from consensus.describe import cut, describe
from consensus.history.rows import ALL, differences, rows_of
from consensus.sessions import Operation, command_call, entry_of
from tests.support.servers import Register


class Shouting(Register):
    """Decodes to what cannot be shown."""

    def decode(self, data: bytes) -> Any:
        """Return such a thing."""
        del data
        return Unshowable()


class Unshowable:
    """Has no ``repr``."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


def text(kind: int, command: bytes, machine: Any = None) -> tuple[str, bool]:
    """Return what an entry says, and whether it could be decoded."""
    shown = describe(Entry(5, 2, kind, command), machine)
    return shown.text, shown.decoded


class DescribeTests:
    """One entry."""

    @pytest.mark.parametrize(
        ("kind", "command", "expected"),
        [
            (EntryKind.NOOP, b"", "term 2 begins"),
            (EntryKind.VERSION, upgrade_entry(3), "version 3 from here on"),
            (EntryKind.TIME, time_entry(77), "it is 77 ms"),
            (EntryKind.DIGEST, mark_entry(), "every server notes its digest"),
            (
                EntryKind.DIGEST,
                claim_entry(4, b"\xab"),
                "the leader's digest at 4 was ab",
            ),
        ],
    )
    def test_kinds(self, kind: EntryKind, command: bytes, expected: str) -> None:
        """The framework's own entries say what they are for."""
        assert text(kind, command) == (expected, True)

    @pytest.mark.parametrize("kind", [*range(1, 7), 99])
    def test_garbage(self, kind: int) -> None:
        """What cannot be decoded is shown as bytes."""
        assert text(kind, b"\xc1\xff" * 50, Register())[1] is False

    def test_unshowable(self) -> None:
        """An application that raises is none of ours to fail by."""
        assert text(EntryKind.COMMAND, b"\x01", Shouting()) == ("b'\\x01'", False)

    def test_session(self) -> None:
        """The command of a session is the application's; its time is known."""
        call = command_call(3, 9, 1, msgspec.msgpack.encode(["set", "a", 1]))
        command = entry_of(Operation.COMMAND, call, 1234)
        shown = describe(Entry(5, 2, EntryKind.SESSION, command), Register())
        assert shown.text == "session 3, command 9: ['set', 'a', 1]"
        assert (shown.name, shown.time) == ("set", 1234)

    def test_cut(self) -> None:
        """No text moves the cursor of a terminal, or fills it."""
        assert cut("a\x1b[2J\nb\ud800") == "a\\x1b[2J\\nb\\ud800"
        assert cut("x" * 300, 10) == "x" * 9 + "…"


@dataclass
class Account:
    """A part of a state."""

    owner: str
    tags: set[str]


class RowsTests:
    """A whole state."""

    def test_any_state(self) -> None:
        """Containers are looked into; the rest is one row each."""
        state = {"a": Account("ann", {"x"}), "l": [1, (2, 3)], "e": {}}
        assert rows_of(Register(), state) == {
            "['a'].owner": "'ann'",
            "['a'].tags['x']": "True",
            "['e']": "{}",
            "['l'][0]": "1",
            "['l'][1][0]": "2",
            "['l'][1][1]": "3",
        }

    def test_one_value(self) -> None:
        """A state that is no container is a row by itself; none is nothing."""
        assert rows_of(Register(), 5) == {ALL: "5"}
        assert rows_of(Register(), {}) == {}

    def test_circle(self) -> None:
        """A state that contains itself ends somewhere."""
        state: dict[str, Any] = {"n": 1}
        state["me"] = state
        assert rows_of(Register(), state)["['n']"] == "1"

    def test_differences(self) -> None:
        """Rows are added, removed and changed."""
        found = list(differences({"a": "1", "b": "2"}, {"b": "3", "c": "4"}))
        assert [each.change for each in found] == ["removed", "changed", "added"]
        assert [line for each in found for line in each.lines()] == [
            "- a: 1",
            "- b: 2",
            "+ b: 3",
            "+ c: 4",
        ]
