"""What a state machine runs beside its server, and what that asks of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed

from consensus.errors import (
    CommandFailedError,
    InvalidCommandError,
    NotLeaderError,
    OutcomeUnknownError,
    StoppedError,
    UnreachableError,
)
from tests.support.servers import Register, Servers

if TYPE_CHECKING:
    from consensus.interfaces import HomeServer


class Beside(Service):
    """Notes what happens to it."""

    def __init__(self, home: HomeServer) -> None:
        self.home = home
        self.began: Deferred[None] = succeed(None)
        self.stopped = 0

    def startService(self) -> Any:
        """Begin, once it may."""
        super().startService()  # type: ignore[no-untyped-call]
        return self.began

    def stopService(self) -> None:
        """End."""
        super().stopService()  # type: ignore[no-untyped-call]
        self.stopped += 1


class Accompanied(Register):
    """A register with something beside each server."""

    made: ClassVar[dict[str, Beside]] = {}

    def companion(self, home: HomeServer) -> Service:
        """Make it."""
        self.made[home.name] = Beside(home)
        return self.made[home.name]


class Slow(Accompanied):
    """One that takes its time to start."""

    def companion(self, home: HomeServer) -> Service:
        """Make it."""
        made = super().companion(home)
        self.made[home.name].began = Deferred()
        return made


class Unlucky(Accompanied):
    """One that cannot start."""

    def companion(self, home: HomeServer) -> Service:
        """Make it."""
        made = super().companion(home)
        self.made[home.name].began = Deferred()
        self.made[home.name].began.errback(UnreachableError("the port is taken"))
        return made


def _cluster(**config: Any) -> tuple[Servers, HomeServer, HomeServer]:
    """Return a cluster, and what stands beside the leader and a follower."""
    servers = Servers(config=config, machine=Accompanied)
    chief = servers.leader()
    servers.result(chief.write(["set", "a", 1]))
    servers.run(0.1)
    made = Accompanied.made
    follower = servers.followers()[0].name
    return servers, made[chief.name].home, made[follower].home


class LifeTests:
    """A companion lives as long as its server does."""

    def test_it_starts_and_stops_with_its_server(self) -> None:
        """Once each."""
        servers, home, _ = _cluster()
        companion = Accompanied.made[home.name]
        assert companion.running
        assert home.status().server == home.name
        assert home.max_command_bytes == 2**20
        servers.stop(home.name)
        assert not companion.running
        assert companion.stopped == 1

    def test_a_server_has_started_when_its_companion_has(self) -> None:
        """Whoever waits for the one waits for the other."""
        with pytest.raises(AssertionError, match="it never fired"):
            Servers(("s1",), machine=Slow)
        Slow.made["s1"].began.callback(None)

    def test_what_cannot_start_fails_the_server(self) -> None:
        """Whoever waits is told why."""
        with pytest.raises(UnreachableError, match="the port is taken"):
            Servers(("s1",), machine=Unlucky)
        assert Unlucky.made["s1"].stopped == 1

    def test_a_server_that_fails_takes_it_along(self) -> None:
        """Nobody could be answered."""
        servers, home, _ = _cluster()
        servers.servers[home.name]._fail(StoppedError("the disk is gone"))
        servers.run(0.1)
        assert not Accompanied.made[home.name].running


class CallTests:
    """Any server takes all calls of its companion."""

    @pytest.mark.parametrize("forward", [False, True])
    def test_a_follower_passes_them_on(self, *, forward: bool) -> None:
        """Whatever the config says of other clients."""
        servers, _, home = _cluster(forward=forward)
        assert servers.result(home.write(["set", "a", 2])) == 1
        many = home.write_many([["set", "a", 3], ["fail", "no"], ["set", "a", 4]])
        first, failed, last = servers.result(many)
        assert (first, str(failed), last) == (2, "ValueError: no", 3)
        assert servers.result(home.read("a")) == 4
        assert servers.result(home.read("a", consistency="lease")) == 4
        assert home.leader() != home.name

    def test_the_leader_does_them_itself(self) -> None:
        """As its own calls."""
        servers, home, _ = _cluster()
        assert servers.result(home.write(["set", "a", 2])) == 1
        assert servers.result(home.write_many([["set", "a", 3]])) == [2]
        assert servers.result(home.write_many([])) == []
        assert servers.result(home.read("a")) == 3

    @pytest.mark.parametrize("consistency", ["follower", "stale"])
    def test_some_reads_are_served_here(self, consistency: str) -> None:
        """They need no leader, or ask it only how far to be."""
        servers, _, home = _cluster()
        assert servers.result(home.read("a", consistency=consistency)) == 1

    def test_errors_come_back(self) -> None:
        """Those of the machine and those of the call."""
        servers, _, home = _cluster()
        servers.failing(home.write(["fail", "oops"]), CommandFailedError)
        servers.failing(home.write(object()), InvalidCommandError)
        servers.failing(home.read("a", max_age=1.0), InvalidCommandError)


class ElectionTests:
    """While nobody leads."""

    def test_a_call_waits_for_the_next_leader(self) -> None:
        """What entered no log is tried again."""
        servers, chief, home = _cluster()
        servers.network.down(chief.name)
        assert home.leader() == chief.name
        waiting = [home.write(["set", "a", 2]), home.read("a")]
        assert servers.result(waiting[0]) == 1
        assert servers.result(waiting[1]) in {1, 2}

    def test_patience_ends(self) -> None:
        """Then it says that nothing was done."""
        servers, chief, home = _cluster()
        for server in [*servers.servers.values()]:
            if server.name != home.name:
                servers.stop(server.name)
        servers.run(1)
        began = servers.reactor.seconds()
        error = servers.failing(home.write(["set", "a", 2]), NotLeaderError)
        assert error.leader is None
        assert 2 < servers.reactor.seconds() - began < 3
        assert chief.name != home.name

    def test_what_may_have_been_done_is_not_tried_again(self) -> None:
        """The answer is lost, and the caller is told so."""
        servers, chief, home = _cluster()
        servers.network.cut(chief.name, home.name)
        servers.failing(home.write(["set", "a", 2]), OutcomeUnknownError)
        servers.network.heal()
        servers.run(2)
        assert servers.result(home.write(["set", "a", 3])) == 2
