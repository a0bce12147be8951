"""Processes that join, leave, lose their disks and are killed meanwhile."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.support.processes import PATIENCE, MemberProcesses

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: A machine that is busy must not change leaders by itself.
TIMING = {"heartbeat_interval": 0.1, "election_timeout": 1.0}

#: Cut the log soon, so that who joins needs a snapshot.
SNAPSHOTS = {"every_entries": 50, "keep_entries": 5}


@pytest.fixture
def processes() -> Iterator[MemberProcesses]:
    """Return three members that run."""
    with TemporaryDirectory(prefix="raft-") as directory:
        made = MemberProcesses(Path(directory), timing=TIMING, snapshots=SNAPSHOTS)
        with made:
            yield made


class Cluster:
    """
    What an operator sees of the processes.

    Args:
        processes: The cluster.
    """

    def __init__(self, processes: MemberProcesses) -> None:
        self.processes = processes
        self.written: dict[str, str] = {}

    def raft(self, *words: str) -> str:
        """Run a command that has to succeed; return what it prints."""
        done = self.processes.raft("--timeout", "20", *words)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    def refused(self, *words: str) -> str:
        """Run a command that has to end with status 1 and one line."""
        done = self.processes.raft("--timeout", "20", *words)
        assert done.returncode == 1, (words, done.stdout, done.stderr)
        assert done.stderr.count("\n") == 1, done.stderr
        return done.stderr

    def members(self) -> dict[str, dict[str, Any]]:
        """Return what ``raft members`` says, by server; nothing if nobody answers."""
        done = self.processes.raft("members", "--json")
        if done.returncode:
            return {}
        found = json.loads(done.stdout)
        return {each["server"]: each for each in found["members"]}

    def standings(self) -> dict[str, str]:
        """Return who votes, and who does not."""
        return {name: each["standing"] for name, each in self.members().items()}

    def until(self, is_so: Callable[[], bool]) -> None:
        """Look again and again until it is so."""
        deadline = time.monotonic() + PATIENCE
        while not is_so():
            assert time.monotonic() < deadline, self.standings()

    def until_voters(self, *names: str) -> None:
        """Wait until these are the voters, and have all that is committed."""
        wanted = dict.fromkeys(names, "voter")

        def is_so() -> bool:
            found = self.members()
            ends = [each.get("last_index", 0) for each in found.values()]
            commits = [each.get("commit_index", -1) for each in found.values()]
            standings = {name: each["standing"] for name, each in found.items()}
            return standings == wanted and min(ends) >= max(commits) > 0

        self.until(is_so)

    def leader(self) -> str:
        """Wait until somebody leads."""
        while (done := self.processes.raft("leader")).returncode:
            pass
        return done.stdout.strip()

    def write(self, count: int) -> None:
        """Write *count* keys, each with a value of its own."""
        for _ in range(count):
            key = f"key-{len(self.written)}"
            self.raft("kv", "set", key, f"value of {key}")
            self.written[key] = f"value of {key}"

    def check_reads(self) -> None:
        """Read every acknowledged write."""
        for key, value in self.written.items():
            assert self.raft("kv", "get", key).strip() == value


def test_join_with_no_command(processes: MemberProcesses) -> None:
    """A new server with `join` finds the cluster, catches up, and votes."""
    cluster = Cluster(processes)
    cluster.write(3)
    address = processes.invite("s4")
    processes.start("s4")
    cluster.until_voters("s1", "s2", "s3", "s4")
    assert cluster.members()["s4"]["address"] == address
    assert "s4" in cluster.raft("status")
    # It counts: with it, three of four are a majority although one is killed.
    processes.kill(cluster.leader())
    cluster.write(2)
    cluster.check_reads()


def test_commands(processes: MemberProcesses) -> None:
    """Add, promote, transfer, snapshot and remove, typed as commands."""
    cluster = Cluster(processes)
    cluster.write(2)
    address = processes.invite("s4")
    processes.start("s4")
    cluster.until_voters("s1", "s2", "s3", "s4")
    assert cluster.raft("remove", "s4") == "s4 is no member any more\n"
    assert set(cluster.members()) == {"s1", "s2", "s3"}
    assert cluster.raft("add", "s4", address, "--learner") == "s4 is a learner now\n"
    assert cluster.standings()["s4"] == "learner"
    assert cluster.raft("promote", "s4", "--wait") == "s4 votes now\n"
    assert cluster.raft("transfer", "s4") == "s4 leads now\n"
    assert cluster.leader() == "s4"
    taken = json.loads(cluster.raft("snapshot", "--json"))
    assert [each["server"] for each in taken] == ["s1", "s2", "s3", "s4"]
    assert all(each["index"] > 0 for each in taken)
    # The leader, which is not in the file, removes itself.
    assert cluster.raft("remove", "s4") == "s4 is no member any more\n"
    assert cluster.leader() in {"s1", "s2", "s3"}
    cluster.write(1)
    cluster.check_reads()


def test_refusals(processes: MemberProcesses) -> None:
    """What cannot be is one sentence and status 1."""
    cluster = Cluster(processes)
    leader = cluster.leader()
    cluster.write(1)
    spare = processes.invite("s9")
    taken = processes.addresses["s2"]
    assert "s7 is no member" in cluster.refused("remove", "s7")
    assert "s7 is no member" in cluster.refused("promote", "s7")
    assert "s7 is no member" in cluster.refused("snapshot", "s7")
    assert "s7" in cluster.refused("transfer", "s7")
    assert "votes already" in cluster.refused("promote", leader)
    assert "is a member already" in cluster.refused("add", "s1", spare)
    assert "the same address" in cluster.refused("add", "s9", taken)
    assert "neither a tcp: nor a unix:" in cluster.refused("add", "s9", "nonsense")
    assert "is no name" in cluster.refused("add", "s 9", spare)
    # s9 does not run, so it never catches up; nothing else may begin.
    cluster.raft("add", "s9", spare)
    assert cluster.standings()["s9"] == "joining"
    other = processes.invite("s10")
    assert "must catch up" in cluster.refused("add", "s10", other)
    cluster.raft("remove", "s9")
    cluster.until_voters("s1", "s2", "s3")


def test_wiped_disk(processes: MemberProcesses) -> None:
    """A founder whose directory is gone comes back as a voter, by itself."""
    cluster = Cluster(processes)
    cluster.write(3)
    victim = cluster.leader()
    processes.kill(victim)
    shutil.rmtree(processes.directory / "data" / victim)
    cluster.write(2)
    processes.start(victim)
    cluster.until_voters("s1", "s2", "s3")
    assert "comes back without the data" in "".join(
        processes.log(name) for name in processes.addresses
    )
    cluster.raft("transfer", victim)
    cluster.check_reads()


def test_killed_during_changes(processes: MemberProcesses) -> None:
    """Whoever leads is killed while a server joins; the next one goes on."""
    cluster = Cluster(processes)
    cluster.write(60)
    cluster.raft("snapshot")
    processes.invite("s4")
    processes.start("s4")
    for _ in range(3):
        leader = cluster.leader()
        processes.kill(leader)
        cluster.write(1)
        processes.start(leader)
    cluster.until_voters("s1", "s2", "s3", "s4")
    assert "restored its state from the snapshot" in processes.log("s4")
    for name in ("s1", "s2"):
        cluster.until_voters("s1", "s2", "s3", "s4")
        processes.stop(name)
        shutil.rmtree(processes.directory / "data" / name)
        processes.start(name)
    cluster.until_voters("s1", "s2", "s3", "s4")
    cluster.check_reads()


@pytest.mark.parametrize("engine", ["sqlite", "rocksdb", "lmdb", "wal"])
def test_recover(engine: str) -> None:
    """A survivor goes on alone, and wiped servers join the new cluster."""
    with TemporaryDirectory(prefix="raft-") as directory:
        processes = MemberProcesses(Path(directory), timing=TIMING, storage=engine)
        cluster = Cluster(processes)
        with processes:
            cluster.write(3)
            cluster.until_voters("s1", "s2", "s3")
        said = cluster.raft("recover", "--serve", "s1")
        assert "Voters by entry 1: s1, s2, s3." in said
        again = cluster.raft("recover", "--serve", "s1", "--unsafe", "--yes")
        assert "s1 is the only voter of a new cluster now" in again
        assert "Voters by entry 1" in again
        twice = cluster.raft("recover", "--serve", "s1", "--unsafe", "--yes")
        assert "Start s1" not in twice
        processes.start("s1")
        cluster.until_voters("s1")
        cluster.write(1)
        # One of the old cluster stays out, whatever its file says.
        processes.start("s3")
        shutil.rmtree(processes.directory / "data" / "s2")
        address = processes.addresses.pop("s2")
        document = {**processes.document, "members": {"s2": address}}
        document["join"] = [processes.addresses["s1"]]
        processes.config_of("s2").write_text(yaml.safe_dump(document))
        processes.start("s2")
        cluster.until_voters("s1", "s2")
        cluster.until(lambda: "another cluster" in processes.log("s3"))
        cluster.check_reads()
        processes.stop_all()
