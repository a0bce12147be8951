"""Queries that have no answer yet, on real servers in virtual time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from adapters.transport.memory import MemoryTransport
from consensus.client import Client
from consensus.errors import (
    CommandFailedError,
    InvalidCommandError,
    NotLeaderError,
    NotYetError,
    OverloadedError,
    StoppedError,
)
from consensus.shell.waiting import _EACH_TURN
from tests.support.alarms import Alarms
from tests.support.deferreds import has_fired
from tests.support.servers import Servers

if TYPE_CHECKING:
    from consensus.server import RaftServer

FIRST = ["rung", 0]


def cluster(**config: Any) -> tuple[Servers, RaftServer]:
    """Return three servers with alarms, and the leader."""
    servers = Servers(machine=Alarms, config=config)
    return servers, servers.leader()


class WaitTests:
    """What a caller gets who waits."""

    def test_an_answer_that_is_there_comes_at_once(self) -> None:
        servers, chief = cluster()
        servers.result(chief.write(["in", 0, "a"]))
        servers.run(0.1)
        assert servers.result(chief.read(FIRST, wait=5.0)) == ["a"]

    def test_without_waiting_there_is_none(self) -> None:
        """The error says that it may be asked for again."""
        servers, chief = cluster()
        error = servers.failing(chief.read(FIRST), NotYetError)
        assert "there is no answer to this yet" in str(error)

    def test_it_comes_with_the_command_that_makes_it(self) -> None:
        """Not before, and in the same turn."""
        servers, chief = cluster()
        waiting = chief.read(FIRST, wait=5.0)
        servers.run(0.3)
        assert not waiting.called
        servers.result(chief.write(["in", 50, "a"]))
        assert servers.result(waiting) == ["a"]

    @pytest.mark.parametrize("consistency", ["follower", "stale"])
    def test_any_server_may_be_asked(self, consistency: Any) -> None:
        """Those who follow look again when they have applied more."""
        servers, chief = cluster()
        servers.run(0.1)
        waiting = servers.followers()[0].read(FIRST, consistency=consistency, wait=5.0)
        servers.run(0.2)
        servers.result(chief.write(["in", 0, "a"]))
        assert servers.result(waiting) == ["a"]

    def test_waiting_ends(self) -> None:
        """After as many seconds as the caller has said."""
        servers, chief = cluster()
        began = servers.reactor.seconds()
        servers.failing(chief.read(FIRST, wait=2.0), NotYetError)
        assert 2.0 <= servers.reactor.seconds() - began <= 2.1

    def test_one_that_fails_later_fails(self) -> None:
        """The machine may change its mind."""

        class Fickle(Alarms):
            def handle_read(self, query: Any, state: Any) -> tuple[Any, Any]:
                if state["rung"]:
                    raise ValueError("I would rather not")
                return super().handle_read(query, state)

        servers = Servers(machine=Fickle)
        chief = servers.leader()
        waiting = chief.read(FIRST, wait=5.0)
        servers.result(chief.write(["in", 0, "a"]))
        assert "rather not" in str(servers.failing(waiting, CommandFailedError))

    @pytest.mark.parametrize("wait", [-1, 31.0, float("nan"), True, "long"])
    def test_nonsense_is_refused(self, wait: Any) -> None:
        servers, chief = cluster()
        error = servers.failing(chief.read(FIRST, wait=wait), InvalidCommandError)
        assert "wait is 0 to 30 seconds" in str(error)

    def test_many_wait_and_all_are_answered(self) -> None:
        """More than are looked at in each turn."""
        servers, chief = cluster()
        waiting = [chief.read(FIRST, wait=9.0) for _ in range(3 * _EACH_TURN)]
        servers.run(0.1)
        servers.result(chief.write(["in", 0, "a"]))
        assert [servers.result(each) for each in waiting] == [["a"]] * len(waiting)

    def test_each_waits_for_its_own(self) -> None:
        """One that is answered does not wake those who want more."""
        servers, chief = cluster()
        first, second = (chief.read(["rung", n], wait=9.0) for n in (0, 1))
        servers.result(chief.write(["in", 0, "a"]))
        assert servers.result(first) == ["a"]
        assert not second.called
        servers.result(chief.write(["in", 0, "b"]))
        assert servers.result(second) == ["b"]


class BoundTests:
    """What those who wait take up."""

    def test_they_count(self) -> None:
        """And count no more when they are answered."""
        servers, chief = cluster(limits={"max_pending_requests": 3})
        waiting = [chief.read(FIRST, wait=9.0) for _ in range(3)]
        servers.run(0.1)
        servers.failing(chief.read(FIRST, wait=9.0), OverloadedError)
        servers.result(chief.write(["in", 0, "a"]))
        assert [servers.result(each) for each in waiting] == [["a"]] * 3
        again = [chief.read(["rung", 1], wait=0.5) for _ in range(3)]
        for each in again:
            servers.failing(each, NotYetError)
        assert servers.result(chief.read(FIRST)) == ["a"]


class EndTests:
    """Those who wait, when the server can wait no longer."""

    def test_a_leader_that_is_none_any_more_lets_go(self) -> None:
        """The caller asks the new one; a stale read goes on."""
        servers, chief = cluster()
        waiting = chief.read(FIRST, wait=20.0)
        patient = chief.read(FIRST, consistency="stale", wait=20.0)
        servers.run(0.1)
        servers.network.down(chief.name)
        servers.failing(waiting, NotLeaderError)
        assert not patient.called
        servers.network.heal()
        servers.result(servers.leader().write(["in", 0, "a"]))
        assert servers.result(patient) == ["a"]

    def test_a_server_that_stops_lets_go(self) -> None:
        servers, _ = cluster()
        servers.run(0.1)
        follower = servers.followers()[0]
        waiting = follower.read(FIRST, consistency="stale", wait=20.0)
        servers.stop(follower.name)
        servers.failing(waiting, StoppedError)

    def test_an_answered_caller_may_stop_the_server(self) -> None:
        """Whoever waits beside it is told."""
        servers, chief = cluster()
        servers.run(0.1)
        follower = servers.followers()[0]
        one, other = (
            follower.read(["rung", n], consistency="stale", wait=20.0) for n in (0, 1)
        )
        stopped: list[Any] = []
        one.addCallback(lambda _: stopped.append(follower.stopService()))
        servers.result(chief.write(["in", 0, "a"]))
        servers.failing(other, StoppedError)
        assert stopped


class ForwardTests:
    """Queries that one server passes on to another."""

    def test_the_leader_waits(self) -> None:
        """For longer than a call may take that does not."""
        servers, chief = cluster(
            forward=True, timing={"request_timeout": 1.0, "election_timeout": 0.25}
        )
        servers.run(0.1)
        waiting = servers.followers()[0].read(FIRST, wait=20.0)
        servers.run(5)
        assert not waiting.called
        servers.result(chief.write(["in", 0, "a"]))
        assert servers.result(waiting) == ["a"]


class ClientTests:
    """The same over a transport."""

    def client(self, servers: Servers) -> Client:
        """Return a client of *servers* that gives up after two seconds."""
        options = servers.servers["s1"].config.transport.options
        reactor = servers.reactor
        transport = MemoryTransport(options, reactor, reactor)
        names = {name: name for name in servers.names}
        return Client(names, transport, reactor, timeout=2.0)

    @pytest.mark.parametrize("consistency", ["linearizable", "stale"])
    def test_it_waits_beside_its_timeout(self, consistency: Any) -> None:
        """A server that waits is not taken for one that does not answer."""
        servers, chief = cluster()
        client = self.client(servers)
        query = chief.machine.encode(FIRST)
        waiting = client.read(query, consistency=consistency, wait=20.0)
        servers.run(8)
        assert not has_fired(waiting)
        servers.result(chief.write(["in", 0, "a"]))
        assert chief.machine.decode(servers.result(waiting)) == ["a"]

    def test_no_answer_is_not_asked_for_again(self) -> None:
        """That is the caller's to do."""
        servers, chief = cluster()
        query = chief.machine.encode(FIRST)
        began = servers.reactor.seconds()
        servers.failing(self.client(servers).read(query, wait=1.0), NotYetError)
        assert 1.0 <= servers.reactor.seconds() - began <= 1.2

    def test_a_new_leader_is_asked(self) -> None:
        """When the old one lets go."""
        servers, chief = cluster()
        client = self.client(servers)
        waiting = client.read(chief.machine.encode(FIRST), wait=20.0)
        servers.run(0.5)
        servers.stop(chief.name)
        heir = servers.leader()
        servers.run(1)
        assert not has_fired(waiting)
        servers.result(heir.write(["in", 0, "a"]))
        assert heir.machine.decode(servers.result(waiting)) == ["a"]
