"""A survivor becomes a new cluster (``raft recover``)."""

from __future__ import annotations

from functools import partial
from shutil import move, rmtree
from typing import TYPE_CHECKING, Any

import pytest
from twisted.logger import capturedLogs, formatEvent

from consensus.config import Config, from_mapping
from consensus.errors import ConfigError, InvalidChangeError
from consensus.rescue import Rescue
from tests.shell.test_members import established, state_of, voters
from tests.support import storages
from tests.support.servers import Register, Servers
from tests.support.storages import LastingStorage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from consensus.server import RaftServer


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    storages.reset()
    yield
    storages.reset()


def config_of(servers: Servers, name: str, **keys: Any) -> Config:
    """Return the config that *name* is started with."""
    mapping = {**servers.mapping, **keys}
    return from_mapping(mapping, name=name, state_machine=Register)


def stopped(tmp_path: Path) -> Servers:
    """Return a cluster that has written something, and is stopped."""
    servers = Servers(config={"storage": LastingStorage}, data_dir=tmp_path)
    established(servers)
    servers.run(0.5)
    for name in servers.names:
        servers.stop(name)
    return servers


def put_aside(tmp_path: Path, name: str) -> None:
    """Take the data of *name* away."""
    move(tmp_path / name, tmp_path / f"old-{name}")
    LastingStorage.disks.pop(tmp_path / name)
    LastingStorage.bases.pop(tmp_path / name, None)


def has_state(server: RaftServer, state: Any) -> bool:
    """Say whether *server* has applied all that makes *state*."""
    return bool(state_of(server) == state)


class FoundAnewTests:
    """What becomes of the survivor, and of the others."""

    def test_what_is_there(self, tmp_path: Path) -> None:
        """To look says how far it is, and changes nothing."""
        servers = stopped(tmp_path)
        before = LastingStorage.disks[tmp_path / "s1"]
        with Rescue(config_of(servers, "s1"), "s1") as rescue:
            found = rescue.found
        hard_state, entries = LastingStorage.disks[tmp_path / "s1"]
        assert (hard_state, entries) == before
        assert found.term == hard_state.term
        assert found.last_index == entries[-1].index
        assert found.last_term == entries[-1].term
        assert found.snapshot_index == 0
        assert found.membership_index == 1
        assert found.voters == {name: name for name in servers.names}

    def test_the_survivor_goes_on(self, tmp_path: Path) -> None:
        """It leads by itself and has all that was in its log; twice changes nothing."""
        servers = stopped(tmp_path)
        with Rescue(config_of(servers, "s1"), "s1") as rescue:
            old = rescue.found
            made = rescue.found_anew()
        assert made.cluster_id != old.cluster_id
        hard_state, entries = LastingStorage.disks[tmp_path / "s1"]
        assert (hard_state.term, hard_state.vote) == (old.term + 1, None)
        assert entries[-1].term == hard_state.term
        with Rescue(config_of(servers, "s1"), "s1") as rescue:
            assert rescue.found.is_alone
            with pytest.raises(InvalidChangeError, match="the only voter already"):
                rescue.found_anew()
        assert LastingStorage.disks[tmp_path / "s1"] == (hard_state, entries)
        survivor = servers.start("s1")
        assert servers.leader() is survivor
        assert servers.result(survivor.write(["set", "a", 2])) == 1
        assert voters(survivor) == {"s1"}

    def test_uncommitted_entries_are_kept(self, tmp_path: Path) -> None:
        """What was in its log only is committed now."""
        servers = Servers(config={"storage": LastingStorage}, data_dir=tmp_path)
        chief = established(servers)
        servers.run(0.5)
        for follower in servers.followers():
            servers.stop(follower.name)
        chief.write(["set", "late", 1]).addErrback(lambda _: None)
        servers.run(0.01)
        servers.stop(chief.name)
        with Rescue(config_of(servers, chief.name), chief.name) as rescue:
            rescue.found_anew()
        survivor = servers.start(chief.name)
        servers.leader()
        assert servers.result(survivor.read("late")) == 1

    def test_old_servers_are_refused(self, tmp_path: Path) -> None:
        """Both ends say why; nothing passes, and nobody is disturbed."""
        servers = stopped(tmp_path)
        with Rescue(config_of(servers, "s1"), "s1") as rescue:
            rescue.found_anew()
        survivor = servers.start("s1")
        servers.leader()
        term = survivor.status().term
        with capturedLogs() as logs:
            for name in ("s2", "s3"):
                servers.start(name)
            servers.result(survivor.members.add("s2", "s2"))
            servers.run(3)
        lines = [formatEvent(each) for each in logs]
        assert any(
            "another cluster that is also called 'raft'" in line for line in lines
        )
        assert (survivor.status().term, survivor.status().role) == (term, "leader")
        assert servers.servers["s2"].status().membership.keys() == {"s1", "s2", "s3"}
        assert voters(survivor) == {"s1"}

    def test_wiped_servers_join(self, tmp_path: Path) -> None:
        """They get the log from its first entry on, through the old membership."""
        servers = stopped(tmp_path)
        with Rescue(config_of(servers, "s1"), "s1") as rescue:
            made = rescue.found_anew()
        survivor = servers.start("s1")
        servers.leader()
        for name in ("s2", "s3"):
            put_aside(tmp_path, name)
            servers.join(name)
        servers.until(lambda: voters(survivor) == {"s1", "s2", "s3"})
        for server in servers.servers.values():
            servers.until(partial(has_state, server, {"a": 1}))
            assert server._acquaintances is not None
            assert server._acquaintances.own.cluster_id == made.cluster_id
        servers.stop("s1")
        assert servers.result(servers.leader().write(["set", "a", 2])) == 1


class RefusedTests:
    """Where there is nothing to recover."""

    def test_no_directory(self, tmp_path: Path) -> None:
        """A server that never was is refused, and no directory is made."""
        servers = stopped(tmp_path)
        rmtree(tmp_path / "s1")
        with pytest.raises(InvalidChangeError, match="is no data directory"):
            Rescue(config_of(servers, "s1"), "s1")
        assert not (tmp_path / "s1").exists()

    def test_no_cluster(self, tmp_path: Path) -> None:
        """A server that belonged to no cluster is refused."""
        servers = Servers(
            ("s1",),
            config={"storage": LastingStorage},
            data_dir=tmp_path,
            founded=False,
        )
        servers.stop("s1")
        with pytest.raises(InvalidChangeError, match="never belonged to a cluster"):
            Rescue(config_of(servers, "s1"), "s1")

    def test_a_founder_that_heard_nobody(self, tmp_path: Path) -> None:
        """It is as good as one that lost its disk."""
        servers = stopped(tmp_path)
        put_aside(tmp_path, "s1")
        servers.start("s1")
        servers.stop("s1")
        with pytest.raises(InvalidChangeError, match="take another survivor"):
            Rescue(config_of(servers, "s1"), "s1")

    def test_in_memory(self, tmp_path: Path) -> None:
        """A storage that keeps nothing has nothing."""
        servers = stopped(tmp_path)
        with pytest.raises(InvalidChangeError, match="keeps nothing to recover"):
            Rescue(config_of(servers, "s1", storage="memory"), "s1")

    def test_while_it_runs(self, tmp_path: Path) -> None:
        """The directory is locked; and the lock is given back afterwards."""
        servers = stopped(tmp_path)
        servers.start("s1")
        with pytest.raises(ConfigError, match="runs the server of"):
            Rescue(config_of(servers, "s1"), "s1")
        servers.stop("s1")
        for _ in range(2):
            with Rescue(config_of(servers, "s1"), "s1"):
                pass

    def test_another_cluster(self, tmp_path: Path) -> None:
        """A directory of another cluster is refused as at a start."""
        servers = stopped(tmp_path)
        with pytest.raises(ConfigError, match="belongs to the cluster 'raft'"):
            Rescue(config_of(servers, "s1", cluster="other"), "s1")
