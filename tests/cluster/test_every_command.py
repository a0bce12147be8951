"""Every command of ``raft``, once, against real processes; none may be left out."""

from __future__ import annotations

import json
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import click

from consensus.cli import raft as raft_command
from tests.support.development import Development
from tests.support.processes import PATIENCE, SCRIPTS, MemberProcesses

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: A machine that is busy must not change leaders by itself.
TIMING = {"heartbeat_interval": 0.1, "election_timeout": 1.0}

#: What is in the store when it is backed up, as `kv ls` shows it.
BACKED_UP = {"k1": "v1", "n": "7"}


def commands_of(
    command: click.Command = raft_command, *path: str
) -> Iterator[tuple[str, ...]]:
    """Yield the words of each command in the tree below *command*."""
    if not isinstance(command, click.Group):
        yield path
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None
        yield from commands_of(found, *path, name)


class Operator:
    """
    Who types; what was typed is remembered.

    Args:
        cluster: The cluster that it is about.
    """

    def __init__(self, cluster: MemberProcesses) -> None:
        self.cluster = cluster
        self.typed: set[tuple[str, ...]] = set()

    def note(self, words: tuple[str, ...]) -> None:
        """Remember that the command in *words* is run."""
        command: click.Command = raft_command
        path: list[str] = []
        for word in words:
            if not isinstance(command, click.Group):
                break
            found = command.get_command(click.Context(command), word)
            if found is not None:
                path.append(word)
                command = found
        assert not isinstance(command, click.Group), words
        self.typed.add(tuple(path))

    def run(
        self, line: str, *more: str, status: int = 0, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run the words of *line* and *more*; they have to end with *status*."""
        words = (*line.split(), *more)
        self.note(words)
        done = subprocess.run(
            [
                *(SCRIPTS / "raft", f"--config={self.cluster.config}"),
                *("--timeout=20", *words),
            ],
            cwd=self.cluster.directory,
            env=self.cluster.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == status, (words, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr, (words, done.stderr)
        return done

    def __call__(self, line: str, *more: str, stdin: str = "") -> str:
        """Return what the command prints."""
        return self.run(line, *more, stdin=stdin).stdout

    def json(self, line: str, *more: str, stdin: str = "") -> Any:
        """Return what the command prints with ``--json``."""
        return json.loads(self(f"{line} --json", *more, stdin=stdin))

    def lines(self, line: str, *more: str) -> list[Any]:
        """Return the objects that it prints, one a line."""
        return [json.loads(each) for each in self(f"{line} --json", *more).splitlines()]

    def first_look(self) -> dict[str, Any]:
        """Return the first object of ``watch-status``, and press Ctrl-C."""
        words = ("watch-status", "--every", "0.1", "--json")
        self.note(words)
        with subprocess.Popen(
            [SCRIPTS / "raft", f"--config={self.cluster.config}", *words],
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            found: dict[str, Any] = json.loads(process.stdout.readline())
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=PATIENCE)
            assert process.returncode == 0
        return found


def without_servers(operator: Operator) -> None:
    """Try what needs no server."""
    assert "complete" in operator("completion bash")

    assert "made certs/s1.pem" in operator("certs init --dir certs s1")
    assert "made certs/desk.pem" in operator("certs issue --dir certs --client desk")
    shown = operator.json("certs show --dir certs")
    assert {each["subject"]: each["use"] for each in shown} == {
        "raft authority": "authority",
        "s1": "member",
        "desk": "client",
    }

    users = "users --file users.yaml"
    operator(f"{users} add ann --role write --prefix shop/", stdin="a long password\n")
    operator(f"{users} add bot --role read --no-password")
    before = (operator.cluster.directory / "users.yaml").read_bytes()
    operator(f"{users} passwd ann", stdin="another password\n")
    assert (operator.cluster.directory / "users.yaml").read_bytes() != before
    assert len(operator(f"{users} token bot").strip()) > 20
    ann, bot = operator.json(f"{users} list")
    assert (ann["password"], ann["tokens"]) == (True, 0)
    assert ann["roles"] == [{"role": "write", "prefix": "shop/"}]
    assert (bot["password"], bot["tokens"]) == (False, 1)
    operator(f"{users} remove bot")
    assert [each["user"] for each in operator.json(f"{users} list")] == ["ann"]


def keys(operator: Operator) -> None:
    """Write, and read what was written."""
    assert operator.json("kv set k1 v1") == {"key": "k1", "value": "v1"}
    operator("kv set k2 v2")
    assert operator.json("kv get k2")["value"] == "v2"
    operator("kv delete k2")
    operator.run("kv get k2", status=1)
    assert operator.json("kv incr n 7")["value"] == 7
    changes = operator.lines("kv watch --from-revision 1 --count 4")
    assert [(each["kind"], each["key"]) for each in changes] == [
        *(("set", "k1"), ("set", "k2")),
        *(("delete", "k2"), ("set", "n")),
    ]
    assert pairs(operator) == BACKED_UP


def pairs(operator: Operator) -> dict[str, str]:
    """Return what is in the store."""
    found = operator.lines("kv ls --values")
    return {each["key"]: each["value"] for each in found}


def looks(operator: Operator) -> None:
    """Look at the cluster in every way."""
    names = set(operator.cluster.addresses)
    leader = operator("leader").strip()
    status = operator.json("status")
    assert {each["server"] for each in status} == names
    assert [each["server"] for each in status if each["role"] == "leader"] == [leader]
    members = operator.json("members")
    assert (members["cluster"], members["leader"]) == ("test", leader)
    assert {each["standing"] for each in members["members"]} == {"voter"}
    look = operator.first_look()
    assert {each["server"] for each in look["members"]} == names
    kinds = {each["kind"] for each in operator.lines("events --no-wait --since all")}
    assert kinds >= {"started", "role", "membership"}
    explained = operator.json("explain", str(members["commit_index"]))
    assert explained["text"] == "Incr(key=b'n', by=7)"
    assert explained["leader"] == leader
    measured = operator.json("doctor --serve s1")
    assert {each["server"]: each["role"] for each in measured["network"]}.keys() == (
        names
    )
    assert measured["disks"][0]["syncs"]["count"] > 0


def changes(operator: Operator) -> None:
    """Take a server in, and remove it; let somebody else lead; cut a log."""
    cluster = operator.cluster
    address = cluster.invite("s4", storage="sqlite", timing=TIMING)
    cluster.start("s4")
    added = operator.json("add --learner s4", address)
    assert (added["server"], added["standing"]) == ("s4", "learner")
    assert operator.json("promote --wait s4")["standing"] == "voter"
    assert operator.json("remove s4")["standing"] == "none"
    assert len(operator.json("members")["members"]) == len(cluster.addresses)
    cluster.stop("s4")

    for _ in range(2):  # the second time, s1 leads already
        assert operator.json("transfer s1") == {"leader": "s1"}
    assert operator.json("leader")["leader"] == "s1"
    (taken,) = operator.json("snapshot s1")
    (cut,) = operator.json("compact s1")
    assert cut == {"server": "s1", "first_index": taken["index"] + 1}
    (load,) = operator.json("bench --seconds 0.2 --outstanding 4")
    assert load["writes"] == sum(each["count"] for each in load["histogram"]) > 0


def logs(operator: Operator, backed_up: int) -> None:
    """Look into the log of a server that has been stopped."""
    mine = "--serve s3"
    entries = operator.lines(f"log show {mine}")
    assert [each["index"] for each in entries] == list(range(1, len(entries) + 1))
    (found,) = operator.lines(f"log grep {mine} by=7")
    assert found["index"] <= backed_up
    stats = operator.json(f"log stats {mine}")
    assert stats["commands"]["incr"]["entries"] == 1
    assert sum(each["entries"] for each in stats["kinds"].values()) == len(entries)
    verified = operator.json(f"log verify {mine}")
    assert (verified["last_index"], verified["problems"]) == (len(entries), [])
    then = operator.json(f"log state {mine} --at={backed_up}")
    assert then["state"] == {key: repr(value) for key, value in BACKED_UP.items()}
    one = str(found["index"])
    before = str(found["index"] - 1)
    done = operator.run(f"log diff {mine} --json", before, one, status=1)
    assert json.loads(done.stdout)["name"] == "n"
    (changed,) = operator.lines(f"log bisect {mine} n")
    assert (changed["index"], changed["after"]) == (found["index"], "'7'")
    same = operator.json("check-upgrade kvstore kvstore data/s3")
    assert same == {"entries": len(entries), "divergence": None}
    assert operator.json("check --serve s3") == []
    assert operator.json("recover --serve s3")["last_index"] == len(entries)
    (moved,) = operator.json("storage migrate --to rocksdb --serve s3")
    assert (moved["target"], moved["last_index"]) == ("rocksdb", len(entries))


def restored(operator: Operator, directory: Path, backup: str) -> None:
    """Make a cluster of the backup; it has the state at its index."""
    directory.mkdir()
    operator.cluster = MemberProcesses(directory, storage="sqlite", timing=TIMING)
    line = "restore --serve s1 --serve s2 --serve s3"
    assert operator.json(line, backup)["index"] > 0
    refused = operator.run(line, backup, status=1)
    assert "not empty" in refused.stderr
    with operator.cluster:
        assert pairs(operator) == BACKED_UP


def develops(operator: Operator, directory: Path) -> None:
    """Run a cluster in a terminal, and press Ctrl-C."""
    directory.mkdir()
    words = ("counter", "-n", "1", "--no-reload")
    operator.note(("dev", *words))
    with Development(directory, *words) as dev:
        config = dev.ready()
        assert dev.raft("leader").stdout == "s1\n"
        assert dev.interrupt() == 0
    assert not config.exists()
    assert not list(directory.iterdir())


def test_every_command(tmp_path: Path) -> None:
    """Each does what it says to three processes; and each has been tried."""
    first = tmp_path / "first"
    first.mkdir()
    operator = Operator(MemberProcesses(first, storage="sqlite", timing=TIMING))
    with ThreadPoolExecutor() as beside, operator.cluster as cluster:
        others = [
            beside.submit(without_servers, operator),
            beside.submit(develops, operator, tmp_path / "third"),
        ]
        keys(operator)
        looks(operator)
        made = operator.json("backup the-backup")
        shown = operator.json("backup --show the-backup")
        checked = operator.json("backup --check the-backup")
        assert made["index"] == shown["index"] == checked["index"]
        assert made["bytes"] == checked["bytes"]
        changes(operator)
        cluster.stop("s3")
        logs(operator, made["index"])
        for each in others:
            each.result()
    restored(operator, tmp_path / "second", str(first / "the-backup"))
    assert set(commands_of()) - operator.typed == set()
