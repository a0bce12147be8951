"""The commands that look at a cluster and after it, against real processes."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.processes import PATIENCE, SCRIPTS, MemberProcesses

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: A machine that is busy must not change leaders by itself.
TIMING = {"heartbeat_interval": 0.1, "election_timeout": 1.0}


@pytest.fixture(scope="module")
def cluster() -> Iterator[MemberProcesses]:
    """Return three members that run, for all tests here."""
    with TemporaryDirectory(prefix="raft-") as directory:
        made = MemberProcesses(Path(directory), timing=TIMING)
        with made:
            until(lambda: made.raft("leader").returncode == 0)
            yield made


def until(is_so: Callable[[], Any]) -> None:
    """Look again and again until it is so."""
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def raft(cluster: MemberProcesses, *words: str) -> str:
    """Run a command that has to succeed; return what it prints."""
    done = cluster.raft("--timeout", "20", *words)
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout


class Following:
    """
    A command that goes on until Ctrl-C.

    Args:
        process: What runs it.
        output: Where it prints.
    """

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self.process = process
        self.output = output

    @property
    def text(self) -> str:
        """Return what it has printed by now."""
        return self.output.read_text()

    def objects(self) -> list[dict[str, Any]]:
        """Return the objects of the whole lines by now."""
        whole, _, _ = self.text.rpartition("\n")
        return [json.loads(line) for line in whole.splitlines()]

    def interrupt(self) -> int:
        """Press Ctrl-C; return the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(PATIENCE)


def is_printed(command: Following, words: str) -> bool:
    """Return whether *command* has printed *words*."""
    return words in command.text


@contextmanager
def following(cluster: MemberProcesses, *words: str) -> Iterator[Following]:
    """Run a command beside the test."""
    output = cluster.directory / f"{words[0]}.out"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [SCRIPTS / "raft", f"--config={cluster.config}", *words],
            cwd=cluster.directory,
            env={**cluster.environment, "PYTHONUNBUFFERED": "1"},
            stdout=file,
        )
    try:
        yield Following(process, output)
    finally:
        process.kill()
        process.wait()


def test_leader_and_transfer(cluster: MemberProcesses) -> None:
    """Programs read who leads, and to whom leadership went."""
    before = json.loads(raft(cluster, "leader", "--json"))
    assert before["address"] == cluster.addresses[before["leader"]]
    heir = min(cluster.addresses.keys() - {before["leader"]})
    assert json.loads(raft(cluster, "transfer", heir, "--json")) == {"leader": heir}
    after = json.loads(raft(cluster, "leader", "--json"))
    assert (after["leader"], after["term"] > before["term"]) == (heir, True)


def test_members_as_json(cluster: MemberProcesses) -> None:
    """Programs read what became of a member."""
    added = json.loads(
        raft(cluster, "add", "s4", "tcp:127.0.0.1:1", "--learner", "--json")
    )
    assert (added["server"], added["standing"]) == ("s4", "learner")
    removed = json.loads(raft(cluster, "remove", "s4", "--json"))
    assert (removed["server"], removed["standing"]) == ("s4", "none")
    assert removed["membership_index"] > added["membership_index"]
    refused = cluster.raft("promote", "s4", "--json")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("raft: ")


def test_explain_and_compact(cluster: MemberProcesses) -> None:
    """An entry is explained as long as a log has it, and its times even longer."""
    leader = json.loads(raft(cluster, "leader", "--json"))
    raft(cluster, "kv", "set", "colour", "deep-blue")

    members = json.loads(raft(cluster, "members", "--json"))
    last = members["commit_index"]
    found = json.loads(raft(cluster, "explain", str(last), "--json"))
    assert "deep-blue" in found["text"]
    assert (found["leader"], found["term"]) == (leader["leader"], leader["term"])
    until(
        lambda: all(
            each[step]["time"]
            for each in json.loads(raft(cluster, "explain", str(last), "--json"))[
                "servers"
            ]
            for step in ("appended", "stored", "committed", "applied")
        )
    )
    text = raft(cluster, "explain", str(last))
    assert f"proposed by {leader['leader']} in term {leader['term']}" in text
    assert "deep-blue" in text
    beyond = cluster.raft("explain", str(last + 1000))
    assert (beyond.returncode, beyond.stderr.count("\n")) == (1, 1)

    raft(cluster, "snapshot")
    cut = json.loads(raft(cluster, "compact", "--keep", "1", "--json"))
    assert {each["server"] for each in cut} == set(cluster.addresses)
    assert {each["first_index"] for each in cut} == {last}
    assert str(last + 1) in raft(cluster, "compact", "s1")
    raft(cluster, "compact")
    found = json.loads(raft(cluster, "explain", str(last), "--json"))
    assert found["is_compacted"]
    assert all(each["applied"]["time"] for each in found["servers"])
    assert "snapshots cover it" in raft(cluster, "explain", str(last))
    stranger = cluster.raft("compact", "s9")
    assert (stranger.returncode, stranger.stderr.count("\n")) == (1, 1)


def test_events(cluster: MemberProcesses) -> None:
    """They come as they happen, also from a member that goes and comes back."""
    text = raft(cluster, "events", "--no-wait", "--since", "all")
    assert "is leader in term" in text
    assert "cut its log" in text
    with following(cluster, "events", "--since", "all", "--json") as events:

        def has(server: str, kind: str) -> bool:
            found = ((e["server"], e["kind"]) for e in events.objects())
            return (server, kind) in found

        until(lambda: all(has(name, "started") for name in cluster.addresses))
        leader = raft(cluster, "leader").strip()
        gone = min(cluster.addresses.keys() - {leader})
        cluster.kill(gone)
        until(lambda: has(gone, "unreachable"))
        cluster.start(gone)
        until(lambda: has(gone, "restarted"))
        kinds = [e["kind"] for e in events.objects() if e["server"] == gone]
        assert kinds[kinds.index("unreachable") + 1 :][:2] == ["reachable", "restarted"]
        numbers = [
            e["seq"]
            for e in events.objects()
            if e["server"] == leader and e["seq"] is not None
        ]
        assert numbers == list(range(1, len(numbers) + 1))
        gone_before = sum(e["kind"] == "unreachable" for e in events.objects())
        assert events.interrupt() == 0
        # That connections are lost then is no news.
        gone_after = sum(e["kind"] == "unreachable" for e in events.objects())
        assert gone_after == gone_before


def test_watch_status(cluster: MemberProcesses) -> None:
    """In a pipe, each change is a line; or each look an object."""
    with following(cluster, "watch-status", "--every", "0.1") as watched:
        until(lambda: watched.text.count("\n") >= 3)
        leader = raft(cluster, "leader").strip()
        heir = raft(cluster, "transfer").split()[0]
        until(lambda: f"{heir} leader, term" in watched.text)
        assert f"{leader} follower" in watched.text
        assert watched.interrupt() == 0
    with following(cluster, "watch-status", "--json") as watched:
        until(lambda: len(watched.objects()) >= 2)
        assert watched.interrupt() == 0
        last = watched.objects()[-1]
        assert last["leader"] == heir
        assert {each["server"] for each in last["members"]} == set(cluster.addresses)


def test_watched_keys(cluster: MemberProcesses) -> None:
    """Ctrl-C is how that ends, unless so many changes were wanted."""
    raft(cluster, "kv", "set", "watched", "once")
    line = ("kv", "watch", "watched", "--from-revision", "1")
    for more, status in (((), 0), (("--count", "99"), 1)):
        with following(cluster, *line, *more) as watched:
            until(partial(is_printed, watched, "once"))
            assert watched.interrupt() == status


def test_no_such_member(cluster: MemberProcesses) -> None:
    """A name that is nobody's has status 1, whatever is asked of it."""
    for words in ("log show --server s9", "backup b --server s9", "snapshot s9"):
        done = cluster.raft(*words.split())
        assert (done.returncode, done.stdout) == (1, ""), words
        assert done.stderr.startswith("raft: "), words
        assert "no member" in done.stderr, words


def test_watch_status_on_a_terminal(cluster: MemberProcesses) -> None:
    """There it is a table that is drawn again and again, and Ctrl-C ends it."""
    ours, theirs = pty.openpty()
    try:
        with subprocess.Popen(
            [SCRIPTS / "raft", f"--config={cluster.config}", "watch-status"],
            env={**cluster.environment, "TERM": "xterm", "COLUMNS": "150"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        ) as process:
            drawn = b""
            while drawn.count(b"last applied") < 2 or b"leader" not in drawn:
                drawn += os.read(ours, 4096)
            process.send_signal(signal.SIGINT)
            while process.poll() is None:
                if select.select([ours], [], [], 0.1)[0]:
                    drawn += os.read(ours, 4096)
            assert process.returncode == 0, drawn
    finally:
        os.close(ours)
        os.close(theirs)
    assert all(name.encode() in drawn for name in cluster.addresses)


def test_bench(cluster: MemberProcesses) -> None:
    """It measures writes, says that it writes, and leaves no keys."""
    done = cluster.raft("bench", "--seconds", "0.2", "--outstanding", "1,8", "--json")
    assert done.returncode == 0, done.stderr
    assert "writing to test" in done.stderr
    found = json.loads(done.stdout)
    assert [each["outstanding"] for each in found] == [1, 8]
    for each in found:
        assert each["writes"] == sum(b["count"] for b in each["histogram"]) > 0
        assert each["p50"] <= each["p90"] <= each["p99"] <= each["slowest"]
    assert raft(cluster, "kv", "ls", "raft-bench/") == ""
    assert "outstanding:" in raft(
        cluster, "bench", "--seconds", "0.1", "--outstanding", "2"
    )


def test_nobody_answers(cluster: MemberProcesses) -> None:
    """Where no server runs, each says so in one line, with status 2."""
    config = cluster.directory / "nobody.yaml"
    document = cluster.config.read_text()
    for name, address in cluster.addresses.items():
        document = document.replace(address, f"tcp:127.0.0.1:{name[1:]}")
    config.write_text(document)
    for words in (
        *(("leader", "--json"), ("transfer", "--json"), ("compact",)),
        *(("events",), ("events", "--no-wait"), ("explain", "1")),
        *(("bench", "--seconds", "0.1"), ("remove", "s1", "--json")),
    ):
        done = subprocess.run(
            [SCRIPTS / "raft", "-c", config, "--timeout", "0.5", *words],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert (done.returncode, done.stdout) == (2, ""), (words, done)
        assert done.stderr.splitlines()[-1].startswith("raft: "), words
