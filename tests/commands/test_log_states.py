"""``raft log`` travels in time, and ``raft check-upgrade`` compares two versions."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from consensus import registry
from consensus.history.source import engine_of, open_storage
from contrib.kvstore import commands as kv
from contrib.kvstore.disk import KVStoreOnDisk
from contrib.kvstore.machine import KVStore
from tests.commands.test_log import log, objects, raft
from tests.support.recorded import ENGINES, Recording, sums
from tests.support.servers import Register

if TYPE_CHECKING:
    from pathlib import Path

registry.register("state_machine", "log-register", Register)


def is_large(state: Any) -> bool:
    """Say whether ``a`` has reached 100; for ``--when``."""
    return bool(state.get("a", 0) >= 100)


def never(state: Any) -> bool:
    """Raise."""
    raise LookupError(state)


#: A declared machine in two versions.
OLD = """
from consensus.declare import read, write

class Accounts:
    balances: dict[str, int]

    def __init__(self):
        self.balances = {}

    @write
    def deposit(self, name: str, amount: int) -> int:
        self.balances[name] = self.balances.get(name, 0) + amount
        return self.balances[name]
"""
RESULT = OLD.replace("return self.balances[name]", "return self.balances[name] * 2")
STATE = OLD.replace(
    "        return",
    "        if amount == 7:\n            self.balances['x'] = 1\n        return",
)


class StateTests:
    """The state after any entry."""

    @pytest.mark.parametrize("engine", ENGINES)
    def test_at(self, engine: str, tmp_path: Path) -> None:
        """It is the server's own, after each entry, beyond a snapshot as before."""
        recording = Recording(tmp_path, engine)
        seen = {}
        for number in range(5):
            index = recording.write(["set", "a", number])
            seen[index] = dict(recording.state())
        recording.snapshot()
        for number in range(5, 8):
            index = recording.write(["set", f"b{number}", number])
            seen[index] = dict(recording.state())
        path = recording.stop()
        before = sums(path)
        for index, state in seen.items():
            found = json.loads(log("state", path, "--at", index, "--json"))
            rows = {f"['{key}']": repr(value) for key, value in state.items()}
            assert found == {"index": index, "state": rows}
        assert log("state", path, "--at", 0) == ""
        assert sums(path) == before

    def test_reach(self, tmp_path: Path) -> None:
        """What no log reaches any more, or not yet, is refused, and why."""
        recording = Recording(tmp_path, snapshots={"keep_entries": 1})
        for number in range(30):
            recording.write(["set", "a", number])
        index = recording.snapshot()
        last = recording.write(["set", "a", "end"])
        path = recording.stop()
        assert log("state", path) == "['a']: 'end'\n"
        assert log("state", path, "--at", index) == "['a']: 29\n"
        said = log("state", path, "--at", index - 5, status=1)
        assert "no longer reaches back" in said
        assert f"the earliest is that after entry {index}" in said
        assert "there is no entry" in log("state", path, "--at", last + 1, status=1)
        assert log("bisect", path, "['a']").splitlines()[1:] == ["- 29", "+ 'end'"]

    def test_query(self, tmp_path: Path) -> None:
        """The state is asked what a server would be."""
        recording = Recording(tmp_path)
        first = recording.write(["set", "a", 1])
        recording.write(["set", "a", 2])
        path = recording.stop()
        assert log("state", path, "--query", '"a"') == "2\n"
        assert log("state", path, "--at", first, "--query", '"a"') == "1\n"
        answer = json.loads(log("state", path, "--query", '"a"', "--json"))
        assert answer["answer"] == "2"
        log("state", path, "--query", "{", status=2)
        assert "no such luck" in log("state", path, "--query", '"fail"', status=1)

    @pytest.mark.parametrize("machine", [KVStore, KVStoreOnDisk])
    def test_kvstore(self, machine: type[KVStore], tmp_path: Path) -> None:
        """Keys and values are shown, in memory as on disk; a session's too."""
        name = {KVStore: "kvstore", KVStoreOnDisk: "kvstore-disk"}[machine]
        recording = Recording(tmp_path, machine=machine)
        first = recording.write(kv.Put(b"colour", "blue"), kv.Put(b"\xff", b"\x00"))
        recording.snapshot()
        recording.session(kv.Put(b"colour", "red"), kv.Incr(b"n"))
        recording.write(kv.Put(b"short", "x", ttl=50_000))
        path = recording.stop()
        before = sums(path)
        where = ("--directory", path, "--machine", name)
        shown = raft("log", "state", *where)
        assert shown.startswith("b'\\xff': b'\\x00'\ncolour: 'red'\nn: ")
        assert "short: 'x', ends at " in shown
        old = raft("log", "state", *where, "--at", first)
        assert "colour: 'blue'" in old
        last = raft("log", "show", *where, "--last", 1, "--json")
        end = json.loads(last)["index"]
        changed = raft("log", "diff", first, end, *where, "--json", status=1)
        assert {each["name"]: each["change"] for each in objects(changed)} == {
            "colour": "changed",
            "n": "added",
            "short": "added",
        }
        assert raft("log", "diff", end, end, *where) == ""
        found = raft("log", "bisect", "n", *where, "--json")
        assert json.loads(found)["text"].startswith("session ")
        assert sums(path) == before


class DiffTests:
    """Two directories."""

    def test_the_same(self, tmp_path: Path) -> None:
        """Logs may end elsewhere, and be in other engines."""
        recording = Recording(tmp_path / "one")
        recording.write(["set", "a", 1])
        one, other = recording.stop(), tmp_path / "other"
        shutil.copytree(one, other)
        with open_storage(engine_of(one), one) as storage:
            last = storage.last_index()
        assert f"the same up to {last}" in raft("log", "diff", one, other)
        with open_storage(engine_of(other), other) as storage:
            entry = storage.entries(last, last, 1)[0]
            entry.command = b"\x93\xa3set\xa1a\x09"
            storage.append([entry])
            storage.sync()
        said = raft("log", "diff", one, other, "--machine", "log-register", status=1)
        assert f"entry {last} of term 2, command: ['set', 'a', 1]" in said
        assert "['set', 'a', 9]" in said

    def test_nonsense(self, tmp_path: Path) -> None:
        """It is two indexes, or two directories."""
        raft("log", "diff", 1, tmp_path, status=2)


class BisectTests:
    """Which entry changed it."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        """Return a log in which ``a`` grows, and ``b`` comes and changes."""
        recording = Recording(tmp_path / "data")
        for number in range(50, 150):
            recording.write(["set", "a", number])
            if number in {70, 90}:
                recording.write(["set", "b", number])
        return recording.stop()

    def test_predicate(self, path: Path) -> None:
        """A predicate that changes once is found where it does."""
        when = "tests.commands.test_log_states:is_large"
        found = json.loads(log("bisect", path, "--when", when, "--json"))
        assert found["text"] == "['set', 'a', 100]"
        assert (found["before"], found["after"]) == ("False", "True")

    def test_query(self, path: Path) -> None:
        """An answer that changes more often changes at the entry that is found."""
        found = json.loads(log("bisect", path, "--query", '"b"', "--json"))
        assert found["text"] == f"['set', 'b', {found['after']}]"
        assert found["before"] == "None"

    def test_all(self, path: Path) -> None:
        """Every change is found, with what changed it."""
        found = objects(log("bisect", path, "['b']", "--all", "--json"))
        assert [each["text"] for each in found] == [
            "['set', 'b', 70]",
            "['set', 'b', 90]",
        ]
        assert found[1]["before"] == "70"
        begin = found[0]["index"]
        later = objects(log("bisect", path, "['b']", "--from", begin, "--json"))
        assert [each["text"] for each in later] == ["['set', 'b', 90]"]

    def test_nothing(self, path: Path) -> None:
        """The same at both ends: status 1."""
        assert "the same after 0 and after" in log("bisect", path, "['c']", status=1)

    @pytest.mark.parametrize(
        ("arguments", "status"),
        [
            ([], 2),
            (["a", "--query", "1"], 2),
            (["--when", "no.such:thing"], 2),
            (["a", "--from", "9", "--to", "3"], 2),
            (["--when", "tests.commands.test_log_states:never"], 1),
        ],
    )
    def test_nonsense(self, path: Path, arguments: list[str], status: int) -> None:
        """One question, and ends in their order."""
        log("bisect", path, *arguments, status=status)


class UpgradeTests:
    """Two versions of a machine, with the same log."""

    @pytest.fixture
    def recorded(self, tmp_path: Path) -> Path:
        """Return the log of the old version; it and others are beside it."""
        for name, source in (("old", OLD), ("result", RESULT), ("state", STATE)):
            (tmp_path / name).mkdir()
            (tmp_path / name / "upgraded_bank.py").write_text(source)
        space: dict[str, Any] = {"__name__": "upgraded_bank"}
        exec(OLD, space)  # noqa: S102 - our own text, above
        machine = registry.resolve("state_machine", space["Accounts"])
        recording = Recording(tmp_path / "data", machine=machine)
        for amount in range(1, 10):
            recording.write(space["Accounts"].deposit.command("ann", amount))
        return recording.stop()

    def compare(self, path: Path, new: str, *options: object, status: int = 0) -> str:
        """Return what the comparison of the old version with *new* prints."""
        names = [
            f"{path.parent.parent / each}:upgraded_bank.Accounts"
            for each in ("old", new)
        ]
        return raft("check-upgrade", *names, path, *options, status=status)

    def test_the_same(self, recorded: Path) -> None:
        """The same version comes to the same."""
        before = sums(recorded)
        assert self.compare(recorded, "old").startswith("the same: ")
        assert sums(recorded) == before

    def test_result(self, recorded: Path) -> None:
        """The first entry that comes to something else is found."""
        said = self.compare(recorded, "result", status=1)
        assert said.splitlines()[1:] == ["- 1", "+ 2"]

    def test_state(self, recorded: Path) -> None:
        """The first entry with another state is found, and what is another."""
        said = self.compare(recorded, "state", "--json", status=1)
        found = json.loads(said)["divergence"]
        assert found["what"] == "state"
        shown = json.loads(
            raft("log", "show", "--directory", recorded, "--json").splitlines()[
                found["index"] - 1
            ]
        )
        assert shown["kind"] == "command"
        assert [each["after"] for each in found["rows"]] == ["1"]
        assert self.compare(recorded, "state", "--every", 2, status=1).startswith(
            f"entry {found['index']}: another state"
        )

    def test_error(self, recorded: Path) -> None:
        """A version that cannot be had ends it, and is no difference."""
        said = self.compare(recorded, "nowhere", "--json", status=1)
        assert said.startswith("raft: 'upgraded_bank' cannot be imported")
        raft("check-upgrade", "kvstore", "kvstore", recorded.parent, status=1)
