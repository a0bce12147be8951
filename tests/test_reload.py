"""What of a config changes while servers run, and what does not."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import pytest
from twisted.logger import capturedLogs

from consensus import config
from consensus.config import Config
from consensus.errors import (
    InvalidCommandError,
    NotLeaderError,
    OverloadedError,
    StoppedError,
    TimedOutError,
)
from consensus.reload import merge, read_again
from consensus.server import RaftServer
from tests.support.servers import Register, Servers

if TYPE_CHECKING:
    from pathlib import Path

    from consensus.settings.values import Logs


def loaded(**keys: Any) -> Config:
    """Return a config of one server that says *keys*."""
    return config.from_mapping(keys, name="s1", state_machine=Register)


def isolate(servers: Servers, name: str) -> None:
    """Let nothing pass between *name* and the others."""
    for other in servers.names:
        if other != name:
            servers.network.cut(name, other)
            servers.network.cut(other, name)


class MergeTests:
    """What counts of the old and what of the new."""

    def test_nothing(self) -> None:
        """A file that says the same changes nothing."""
        done = merge(loaded(), loaded())
        assert (done.changed, done.kept) == ([], [])

    def test_changes(self) -> None:
        """What may change does, and is named with what it was."""
        fresh = loaded(
            timing={"request_timeout": 3.0},
            limits={"max_pending_requests": 7},
            snapshots={"every_entries": 5},
            log={"level": "debug"},
            digest_every=9,
            forward=True,
        )
        done = merge(loaded(), fresh)
        assert done.kept == []
        assert done.config == replace(fresh, lines=done.config.lines)
        assert done.changed == [
            ("timing.request_timeout", 10.0, 3.0),
            ("limits.max_pending_requests", 100_000, 7),
            ("snapshots.every_entries", 100_000, 5),
            ("log.level", "info", "debug"),
            ("digest_every", 10_000, 9),
            ("forward", False, True),
        ]

    @pytest.mark.parametrize(
        "keys",
        [
            {"cluster": "other"},
            {"members": {"s1": "a", "s2": "b"}},
            {"data_dir": "/elsewhere"},
            {"storage": "sqlite"},
            {"transport": {"engine": "memory", "options": {"network": "other"}}},
            {"reads": {"lease": True}},
            {"join": ["somewhere"]},
            {"tracing": {"endpoint": "http://127.0.0.1:4318/"}},
        ],
    )
    def test_fixed(self, keys: dict[str, Any]) -> None:
        """What cannot change stays, and is named."""
        running = loaded()
        done = merge(running, loaded(**keys, forward=True))
        (name,) = keys
        assert done.kept == [(name, "it changes with a restart only")]
        assert getattr(done.config, name) == getattr(running, name)
        assert done.config.forward

    def test_every_key_is_dealt_with(self) -> None:
        """Whatever a config may say changes, or is said to need a restart."""
        running = loaded()
        may_change = {"timing", "limits", "snapshots", "log"}
        may_change |= {"preferred_leaders", "digest_every", "forward"}
        for each in fields(Config):
            if each.name not in may_change | {"source", "lines"}:
                other: dict[str, Any] = {each.name: object()}
                done = merge(running, replace(running, **other))
                assert [key for key, _ in done.kept] == [each.name]
                assert done.changed == []

    @pytest.mark.parametrize("name", ["heartbeat_interval", "election_timeout"])
    def test_leases(self, name: str) -> None:
        """With leases the pace stays, and what else there is of timing changes."""
        running = loaded(reads={"lease": True})
        timing = {"heartbeat_interval": 0.05, "election_timeout": 0.25}
        timing |= {name: timing[name] * 1.2, "request_timeout": 1.0}
        done = merge(running, loaded(reads={"lease": True}, timing=timing))
        assert done.config.timing == replace(running.timing, request_timeout=1.0)
        ((key, reason),) = done.kept
        assert key == f"timing.{name}"
        assert "leases rest on it" in reason

    @pytest.mark.parametrize(("timeout", "is_kept"), [(0.2, True), (0.3, False)])
    def test_pledges(self, timeout: float, *, is_kept: bool) -> None:
        """One whose leader may trust in it can become more patient only."""
        fresh = loaded(timing={"election_timeout": timeout})
        done = merge(loaded(), fresh, is_pledged=True)
        assert bool(done.kept) is is_kept
        assert merge(loaded(), fresh).kept == []


class ReadAgainTests:
    """The whole of it, with a file."""

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        """Return a good file."""
        path = tmp_path / "config.yaml"
        path.write_text(
            "members: {s1: a1}\nserve: [s1]\nstorage: memory\ntransport: memory\n"
            "state_machine: tests.support.servers.Register\n"
        )
        return path

    def test_wrong(self, file: Path) -> None:
        """A wrong file is named, finding by finding, and changes nothing."""
        running = config.load(file)
        file.write_text(file.read_text() + "timing: {election_timeout: 0}\nx: 1\n")
        adopted: list[Logs] = []
        with capturedLogs() as events:
            done = read_again(running, lambda: config.load(file), [], adopted.append)
        assert done is running
        assert adopted == []
        found = [str(each["finding"]) for each in events if "finding" in each]
        assert [line.split(": ")[0] for line in found] == [f"{file}:6"] * 2 + [
            f"{file}:7"
        ]

    def test_gone(self, file: Path) -> None:
        """So does a file that is not there."""
        running = config.load(file)
        file.unlink()
        assert read_again(running, lambda: config.load(file), [], print) is running

    def test_too_large(self, file: Path) -> None:
        """What only a look at the engines tells is looked at, too."""
        file.write_text(file.read_text().replace("transport: memory", "transport: amp"))
        file.write_text(file.read_text().replace("a1", "tcp:127.0.0.1:9101"))
        running = config.load(file)
        file.write_text(
            file.read_text() + "limits: {max_command_bytes: 9000000}\nforward: true\n"
        )
        assert read_again(running, lambda: config.load(file), [], print) is running

    def test_second(self, file: Path) -> None:
        """What cannot change is said again each time; what changed, only once."""
        running = config.load(file)
        file.write_text(file.read_text() + "cluster: other\nforward: true\n")
        first = read_again(running, lambda: config.load(file), [], lambda _: None)
        assert (first.cluster, first.forward) == ("raft", True)
        with capturedLogs() as events:
            read_again(first, lambda: config.load(file), [], lambda _: None)
        keys = [each["key"] for each in events if "key" in each]
        assert keys == ["cluster"]


class ServerTests:
    """Servers that go on with another config."""

    def reconfigure(self, servers: Servers, **keys: Any) -> None:
        """Let all servers go on with *keys* besides."""
        for name, server in servers.servers.items():
            mapping = {**servers.mapping, **keys}
            fresh = config.from_mapping(mapping, name=name, state_machine=Register)
            done = merge(server.config, fresh)
            assert done.kept == []
            server.reconfigure(done.config)

    def test_patience_grows(self) -> None:
        """With a longer election timeout a silent leader is borne for longer."""
        servers = Servers()
        leader = servers.leader()
        servers.result(leader.write(["set", "a", 1]))
        longer = {"heartbeat_interval": 0.2, "election_timeout": 2.0}
        self.reconfigure(servers, timing=longer)
        term = leader.status().term
        servers.run(3)
        assert servers.leader() is leader
        assert leader.status().term == term
        isolate(servers, leader.name)
        servers.run(1.9)
        others = [each for each in servers.servers.values() if each is not leader]
        assert {each.status().term for each in others} == {term}
        servers.until(lambda: any(each.status().role == "leader" for each in others))
        assert max(each.status().term for each in others) > term

    def test_patience_shrinks(self) -> None:
        """With a shorter one nobody is deposed, and the dead are missed sooner."""
        long = {"heartbeat_interval": 0.5, "election_timeout": 5.0}
        servers = Servers(config={"timing": long})
        leader = servers.leader()
        servers.run(0.3)
        term = leader.status().term
        short = {"heartbeat_interval": 0.02, "election_timeout": 0.1}
        self.reconfigure(servers, timing=short)
        servers.run(1)
        assert servers.leader() is leader
        assert leader.status().term == term
        isolate(servers, leader.name)
        others = [each for each in servers.servers.values() if each is not leader]
        servers.until(
            lambda: any(each.status().role == "leader" for each in others), seconds=2
        )

    def test_calls_under_way_are_hastened(self) -> None:
        """A call that waits has the new timeout if that is sooner."""
        servers = Servers()
        leader = servers.leader()
        isolate(servers, leader.name)
        timing = {"election_timeout": 60.0, "heartbeat_interval": 0.05}
        self.reconfigure(servers, timing=timing)
        writing = leader.write(["set", "a", 1])
        reading = leader.read("a")
        servers.run(0.1)
        self.reconfigure(servers, timing={**timing, "request_timeout": 1.0})
        later = leader.write(["set", "b", 1])
        began = servers.reactor.seconds()
        for waiting in (writing, reading, later):
            servers.failing(waiting, TimedOutError)
        assert 0.9 < servers.reactor.seconds() - began < 1.2

    def test_calls_keep_their_time(self) -> None:
        """Ticks of another length let a call wait neither longer nor shorter."""
        for interval in (0.005, 0.2):
            servers = Servers()
            leader = servers.leader()
            isolate(servers, leader.name)
            timing = {"election_timeout": 60.0, "heartbeat_interval": 0.05}
            self.reconfigure(servers, timing=timing)
            began = servers.reactor.seconds()
            writing = leader.write(["set", "a", 1])
            servers.run(2)
            self.reconfigure(servers, timing={**timing, "heartbeat_interval": interval})
            servers.failing(writing, TimedOutError)
            assert 9.8 < servers.reactor.seconds() - began < 10.3

    def test_limits(self) -> None:
        """Limits count at once; what was taken stays."""
        servers = Servers()
        leader = servers.leader()
        first = leader.write(["set", "a", 1])
        second = leader.write(["set", "a", 2])
        limits = {"max_pending_requests": 1, "max_command_bytes": 64}
        self.reconfigure(servers, limits=limits)
        servers.failing(leader.write(["set", "a", 3]), OverloadedError)
        servers.failing(leader.write(["set", "a", "x" * 64]), InvalidCommandError)
        assert (servers.result(first), servers.result(second)) == (None, 1)
        assert servers.result(leader.write(["set", "a", 4])) == 2

    def test_snapshots(self) -> None:
        """A new policy counts from the next entry on."""
        servers = Servers()
        leader = servers.leader()
        for number in range(20):
            servers.result(leader.write(["set", "a", number]))
        assert leader.status().snapshot_index == 0
        snapshots = {"every_entries": 5, "keep_entries": 1}
        self.reconfigure(servers, snapshots=snapshots)
        servers.result(leader.write(["set", "a", 20]))
        servers.until(lambda: leader.status().snapshot_index > 0)
        servers.until(lambda: leader.status().first_index > 1)

    def test_preferred(self) -> None:
        """A leader hands over to one that is preferred from now on."""
        servers = Servers()
        heir = servers.followers()[0]
        self.reconfigure(servers, preferred_leaders=[heir.name])
        servers.until(lambda: heir.status().role == "leader")

    def test_forward(self) -> None:
        """A follower passes calls on as soon as it shall."""
        servers = Servers()
        follower = servers.followers()[0]
        servers.failing(follower.write(["set", "a", 1]), NotLeaderError)
        self.reconfigure(servers, forward=True)
        assert servers.result(follower.write(["set", "a", 2])) is None

    def test_is_pledged(self) -> None:
        """A follower knows that its leader may trust in a lease, or may not."""
        for lease in (True, False):
            servers = Servers(config={"reads": {"lease": lease}})
            servers.result(servers.leader().write(["set", "a", 1]))
            servers.run(0.2)
            assert [each.is_pledged for each in servers.followers()] == [lease] * 2
            assert not servers.leader().is_pledged

    def test_one_that_starts(self, tmp_path: Path) -> None:
        """A server that is starting has the new config when it has started."""
        servers = Servers(("s1",), data_dir=tmp_path)
        servers.stop("s1")
        own = config.from_mapping(servers.mapping, name="s1", state_machine=Register)
        server: Any = RaftServer(own, "s1", servers.reactor, servers.reactor)
        server.startService()
        read_again(own, lambda: replace(own, forward=True), [server], lambda _: None)
        assert not server.config.forward
        servers.result(server.when_started())
        assert server.config.forward
        servers.result(server.stopService())

    def test_one_that_is_over(self) -> None:
        """A server that has stopped is left alone."""
        servers = Servers(("s1",))
        server = servers.servers["s1"]
        servers.stop("s1")
        servers.failing(server.when_started(), StoppedError)
        running = server.config
        fresh = replace(running, forward=True)
        assert read_again(running, lambda: fresh, [server], lambda _: None).forward
        assert not server.config.forward
