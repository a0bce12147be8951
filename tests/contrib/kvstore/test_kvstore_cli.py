"""Tests of contrib.kvstore.cli: what ``raft kv`` prints and how it ends."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from click.testing import CliRunner
from twisted.internet.defer import ensureDeferred

from consensus.errors import OverloadedError
from consensus.options import ReadOptions
from contrib.kvstore.answers import Item
from contrib.kvstore.cli import kv
from contrib.kvstore.machine import KVStore
from tests.support.deferreds import result_of
from tests.support.machines import MachineServer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from click.testing import Result

    from consensus.client import Client

_T = TypeVar("_T")


class Connection:
    """The way to a server in virtual time."""

    def __init__(self, server: MachineServer) -> None:
        self.server = server

    def run(self, work: Callable[[Client], Awaitable[_T]]) -> _T:
        """Run *work* to its end."""

        async def working() -> _T:
            return await work(self.server.client)

        outcome = ensureDeferred(working())
        self.server.settle()
        result: _T = result_of(outcome)
        return result

    def follow(self, work: Callable[[Client], Awaitable[_T]]) -> _T:
        """Run *work*, which nobody breaks off here."""
        return self.run(work)


class Terminal:
    """Somebody who types commands."""

    def __init__(self, network: str) -> None:
        self.server = MachineServer(KVStore(), network)

    def type(self, *words: str) -> Result:
        """Run ``raft kv`` with *words*."""
        return CliRunner().invoke(kv, list(words), obj=Connection(self.server))


@pytest.fixture
def terminal(request: pytest.FixtureRequest) -> Terminal:
    """Return a terminal with an empty store."""
    return Terminal(request.node.nodeid)


class KVCommandTests:
    """Set, get and delete."""

    def test_set_and_get(self, terminal: Terminal) -> None:
        """Setting says nothing, getting prints the value and a newline."""
        done = terminal.type("set", "foo", "bär")
        assert (done.exit_code, done.output) == (0, "")
        got = terminal.type("get", "foo")
        assert (got.exit_code, got.stdout) == (0, "bär\n")
        assert terminal.server.state.items == {b"foo": Item("bär", 1, 1)}

    def test_a_consistency(self, terminal: Terminal) -> None:
        """It is told to the server, with the greatest age."""
        terminal.type("set", "foo", "bar")
        how = ("--consistency", "stale", "--max-age", "1.5")
        got = terminal.type("get", "foo", *how)
        assert (got.exit_code, got.stdout) == (0, "bar\n")
        assert terminal.server.options == ReadOptions("stale", max_age=1.5)

    @pytest.mark.parametrize(
        "how", [("--consistency", "fresh"), ("--max-age", "-1"), ("--max-age", "old")]
    )
    def test_no_consistency(self, terminal: Terminal, how: tuple[str, str]) -> None:
        """It is refused before anybody is asked."""
        assert terminal.type("get", "foo", *how).exit_code == 2
        assert terminal.server.calls == 0

    def test_a_missing_key(self, terminal: Terminal) -> None:
        """Status 1, nothing on stdout, a sentence on stderr."""
        for command in ("get", "delete"):
            result = terminal.type(command, "foo")
            assert result.exit_code == 1
            assert result.stdout == ""
            assert result.stderr == "raft: there is no key 'foo'\n"

    def test_delete(self, terminal: Terminal) -> None:
        terminal.type("set", "foo", "bar")
        result = terminal.type("delete", "foo")
        assert (result.exit_code, result.output) == (0, "")
        assert not terminal.server.state.items

    def test_a_value_that_looks_like_an_option(self, terminal: Terminal) -> None:
        """Behind two dashes everything is a word."""
        terminal.type("set", "--", "foo", "--bar")
        assert terminal.type("get", "foo").stdout == "--bar\n"

    def test_bytes_that_are_text_are_printed_as_text(self, terminal: Terminal) -> None:
        terminal.server.state.set(b"foo", b"bar")
        assert terminal.type("get", "foo").stdout_bytes == b"bar\n"

    def test_bytes_that_are_no_text_are_printed_as_they_are(
        self, terminal: Terminal
    ) -> None:
        """Without a newline, which would be one byte too many."""
        terminal.server.state.set(b"foo", b"\xff\0")
        assert terminal.type("get", "foo").stdout_bytes == b"\xff\0"

    def test_arguments_that_are_no_text(self, terminal: Terminal) -> None:
        """What a shell passes on reaches the store byte by byte."""
        terminal.type("set", "k\udcff", "v\udcfe")
        assert terminal.server.state.items == {b"k\xff": Item(b"v\xfe", 1, 1)}
        assert terminal.type("get", "k\udcff").stdout_bytes == b"v\xfe"

    def test_errors_are_left_to_raft(self, terminal: Terminal) -> None:
        """The command's group turns them into a message and a status."""
        terminal.server.error = OverloadedError("busy")
        assert terminal.type("set", "foo", "bar").exit_code == 0
        assert terminal.type("set", "", "bar").exception is not None


class MoreCommandTests:
    """Conditions, counting, lists and watching."""

    def test_if_absent(self, terminal: Terminal) -> None:
        """Status 1 if it is there."""
        assert terminal.type("set", "foo", "bar", "--if-absent").exit_code == 0
        again = terminal.type("set", "foo", "baz", "--if-absent")
        assert (again.exit_code, again.stdout) == (1, "")
        assert again.stderr == "raft: there is a key 'foo'\n"
        assert terminal.type("get", "foo").stdout == "bar\n"

    def test_ttl(self, terminal: Terminal) -> None:
        terminal.type("set", "foo", "bar", "--ttl", "1.5")
        assert terminal.server.state.items[b"foo"].deadline == 1500
        assert terminal.type("set", "foo", "bar", "--ttl", "0").exit_code == 2

    def test_incr(self, terminal: Terminal) -> None:
        assert terminal.type("incr", "n").stdout == "1\n"
        assert terminal.type("incr", "n", "--", "-43").stdout == "-42\n"
        terminal.type("set", "n", "x")
        failed = terminal.type("incr", "n")
        assert "NotAnIntegerError" in str(failed.exception)

    def test_ls(self, terminal: Terminal) -> None:
        """In their order, and all of them, whatever a page has."""
        terminal.server.state.set(b"b\xff", b"\xfe")
        terminal.server.state.set(b"b", "bär")
        terminal.server.state.set(b"a", "")
        assert terminal.type("ls").stdout == "a\nb\nb\\xff\n"
        assert terminal.type("ls", "b").stdout == "b\nb\\xff\n"
        assert terminal.type("ls", "--limit", "1").stdout == "a\n"
        listed = terminal.type("ls", "b", "--values").stdout
        assert listed == "b\tbär\nb\\xff\t\\xfe\n"
        for number in range(2500):
            terminal.server.state.set(b"k%04d" % number, "")
        assert len(terminal.type("ls", "k").stdout.splitlines()) == 2500
        some = terminal.type("ls", "k", "--limit", "1200").stdout.splitlines()
        assert some == [f"k{number:04}" for number in range(1200)]

    def test_watch(self, terminal: Terminal) -> None:
        for words in (("set", "a", "1"), ("set", "b", "2"), ("delete", "a")):
            terminal.type(*words)
        heard = terminal.type("watch", "a", "--from-revision", "1", "--count", "2")
        assert heard.stdout == "1\tset\ta\t1\n3\tdelete\ta\n"
        printed = terminal.type(
            "watch", "--from-revision", "2", "--count", "2", "--json"
        )
        assert [json.loads(line) for line in printed.stdout.splitlines()] == [
            {"revision": 2, "kind": "set", "key": "b", "value": "2"},
            {"revision": 3, "kind": "delete", "key": "a", "value": None},
        ]

    def test_a_watch_of_what_is_not_kept(self, terminal: Terminal) -> None:
        terminal.server.state.begin_history(5)
        terminal.server.state.revision = 6
        heard = terminal.type("watch", "--from-revision", "2")
        assert heard.exit_code == 1
        assert heard.stderr == "raft: the history begins at revision 5\n"


class JSONTests:
    """What another program reads."""

    def printed(self, terminal: Terminal, *words: str) -> tuple[int, Any]:
        """Return the exit status and the object that is printed."""
        result = terminal.type(*words, "--json")
        return result.exit_code, json.loads(result.stdout)

    def test_set_get_delete(self, terminal: Terminal) -> None:
        pair = {"key": "foo", "value": "bar"}
        assert self.printed(terminal, "set", "foo", "bar") == (0, pair)
        assert self.printed(terminal, "get", "foo") == (0, pair)
        deleted = {"key": "foo", "deleted": True}
        assert self.printed(terminal, "delete", "foo") == (0, deleted)

    def test_the_others(self, terminal: Terminal) -> None:
        pair = {"key": "foo", "value": "7"}
        done = self.printed(terminal, "set", "foo", "7", "--if-absent")
        assert done == (0, {**pair, "set": True})
        done = self.printed(terminal, "set", "foo", "7", "--if-absent")
        assert done == (1, {**pair, "set": False})
        assert self.printed(terminal, "ls") == (0, pair)
        assert self.printed(terminal, "incr", "foo") == (0, {"key": "foo", "value": 8})

    def test_a_missing_key(self, terminal: Terminal) -> None:
        """The object says so, as does the status."""
        missing = {"key": "foo", "value": None}
        assert self.printed(terminal, "get", "foo") == (1, missing)
        deleted = {"key": "foo", "deleted": False}
        assert self.printed(terminal, "delete", "foo") == (1, deleted)

    def test_bytes_that_are_no_text(self, terminal: Terminal) -> None:
        """JSON has no bytes: they go as Base64, under another name."""
        terminal.server.state.set(b"\xff", b"\xfe")
        assert self.printed(terminal, "get", "\udcff") == (
            0,
            {"key_base64": "/w==", "value_base64": "/g=="},
        )

    def test_bytes_that_are_text(self, terminal: Terminal) -> None:
        terminal.server.state.set(b"foo", b"bar")
        pair = {"key": "foo", "value": "bar"}
        assert self.printed(terminal, "get", "foo") == (0, pair)
