"""§6.3: linearizable semantics need sessions, as clients send commands again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from consensus.applying.applier import Applier
from consensus.errors import OutcomeUnknownError, SessionExpiredError, StoppedError
from consensus.sessions import MAX_SESSIONS, command_call, open_call, session_of
from consensus.testing.simulator import SimulatedCluster
from tests.support.entries import Journal, Log, encoded, results
from tests.support.servers import Servers

if TYPE_CHECKING:
    from consensus.core.raft import Raft
    from consensus.server import RaftServer
    from consensus.testing.sim_server import SimulatedServer


def call(servers: Servers, server: RaftServer, method: str, payload: bytes) -> bytes:
    """Return what *server* answers to a client."""
    answer: bytes = servers.result(server.inbox().answer(method, payload))
    return answer


def opened(servers: Servers, server: RaftServer, ttl: int = 60_000) -> int:
    """Return a new session."""
    return session_of(call(servers, server, "session_open", open_call(ttl)))


def raft_of(server: SimulatedServer) -> Raft:
    """Return the Raft of *server*, which runs."""
    assert server.raft is not None
    return server.raft


def states(servers: Servers) -> list[Any]:
    """Return the state of every server, when all have the same log."""
    servers.run(0.5)
    found = []
    for server in servers.servers.values():
        assert server._driver is not None
        found.append(server._driver.applier.state)
    return found


class ExactlyOnceTests:
    """§6.3: "the Raft servers … filter out duplicate requests"."""

    def test_a_leader_that_crashes_before_it_answers(self) -> None:
        """The retry finds the result at the next leader; nothing happens twice."""
        servers = Servers(machine=Journal)
        chief = servers.leader()
        payload = command_call(opened(servers, chief), 1, 1, encoded("a"))
        lost = chief.inbox().answer("session_write", payload)
        servers.run(0.02)  # applied everywhere, but the answer gets lost
        lost.addErrback(lambda failure: failure.trap(StoppedError))
        servers.stop(chief.name)
        after = call(servers, servers.leader(), "session_write", payload)
        assert msgspec.msgpack.decode(after) == 1
        assert states(servers) == [["a"], ["a"]]

    def test_without_a_session_it_may_happen_twice(self) -> None:
        """The schedule that sessions are for."""
        servers = Servers(machine=Journal)
        chief = servers.leader()
        servers.result(chief.write("a"))
        servers.stop(chief.name)
        servers.result(servers.leader().write("a"))
        assert states(servers) == [["a", "a"], ["a", "a"]]

    def test_two_in_the_log(self) -> None:
        """Both attempts may be in the log before either is applied."""
        servers = Servers(machine=Journal)
        chief = servers.leader()
        payload = command_call(opened(servers, chief), 1, 1, encoded("a"))
        both = [chief.inbox().answer("session_write", payload) for _ in range(2)]
        assert [servers.result(each) for each in both] == [b"\x01", b"\x01"]
        assert states(servers) == [["a"]] * 3

    @pytest.mark.parametrize("seed", range(3))
    def test_a_new_leader_that_has_not_applied_the_first(self, seed: int) -> None:
        """It appends the retry behind the first attempt; that one counts for both."""
        cluster = SimulatedCluster(Journal, seed=seed)
        chief = cluster.leader()
        opening = chief.inbox().answer("session_open", open_call(60_000))
        name = session_of(cluster.result(opening))
        payload = command_call(name, 1, 1, encoded("a"))
        heirs = [server.name for server in cluster.followers()]
        lost = chief.inbox().answer("session_write", payload)
        lost.addErrback(lambda failure: failure.trap(StoppedError))
        first = raft_of(chief).state.log.last_index + 1
        while any(cluster.disks[heir].live.last_index < first for heir in heirs):
            cluster.run(0.0001)
        cluster.crash(chief.name)
        while cluster.leader_now() is None:
            cluster.run(0.0001)
        heir = cluster.leader()
        assert raft_of(heir).state.log.last_applied < first
        retry = heir.inbox().answer("session_write", payload)
        assert msgspec.msgpack.decode(cluster.result(retry)) == 1
        commands = [
            entry
            for entry, _ in cluster.invariants.committed
            if payload in entry.command
        ]
        assert len(commands) == 2
        cluster.check()
        assert [cluster.servers[each].state for each in cluster.names] == [["a"]] * 3

    def test_the_session_is_named_by_the_log(self) -> None:
        """§6.3: the index of the entry that registers a client is its name."""
        servers = Servers(machine=Journal)
        chief = servers.leader()
        names = [opened(servers, chief) for _ in range(2)]
        last = chief.status().last_index
        assert names == [last - 1, last]


class ConcurrencyTests:
    """§6.3: "This approach also generalizes to allow concurrent requests"."""

    def test_several_under_way(self) -> None:
        """Each has a number and a result of its own, in whatever order they come."""
        servers = Servers(machine=Journal)
        chief = servers.leader()
        name = opened(servers, chief)
        payloads = [command_call(name, n, 1, encoded(n)) for n in (3, 1, 2, 1)]
        waiting = [chief.inbox().answer("session_write", each) for each in payloads]
        assert [servers.result(each) for each in waiting] == [
            b"\x01",
            b"\x02",
            b"\x03",
            b"\x02",
        ]

    def test_responses_below_the_lowest_wanted_are_discarded(self) -> None:
        """The client says with each request from which number on it lacks answers."""
        log, applier = Log(), Applier(Journal(), "s1")
        results(applier, log.opened())
        results(applier, *(log.numbered(1, n, n) for n in range(1, 11)))
        assert len(applier.sessions._results) == 10
        results(applier, log.numbered(1, 11, 11, wanted=9))
        assert sorted(applier.sessions._results) == [(1, 9), (1, 10), (1, 11)]
        servers = Servers(machine=Journal)
        chief = servers.leader()
        name = opened(servers, chief)
        call(servers, chief, "session_write", command_call(name, 2, 2, encoded("b")))
        with pytest.raises(OutcomeUnknownError):
            call(
                servers, chief, "session_write", command_call(name, 1, 1, encoded("a"))
            )


class ExpiryTests:
    """§6.3: "all servers must agree on when to expire a client's session"."""

    def test_the_least_recently_used(self) -> None:
        """With an upper bound, it is the same one everywhere."""
        log = Log()
        entries = [log.opened() for _ in range(MAX_SESSIONS)]
        entries += [log.numbered(1, 1, "kept"), log.opened(), log.numbered(2, 1, "x")]
        one, other = Applier(Journal(), "s1"), Applier(Journal(), "s2")
        results(one, *entries)
        for entry in entries:
            results(other, entry)
        assert one.state == other.state == ["kept"]
        assert b"".join(one.snapshot()) == b"".join(other.snapshot())

    def test_the_leaders_time(self) -> None:
        """§6.3: the leader's time is in each entry, and servers agree by it."""
        servers = Servers(machine=Journal)
        chief = servers.leader()
        idle = opened(servers, chief, 2_000)
        servers.run(3)
        busy = opened(servers, chief, 2_000)
        with pytest.raises(SessionExpiredError):
            call(
                servers, chief, "session_write", command_call(idle, 1, 1, encoded("a"))
            )
        call(servers, chief, "session_write", command_call(busy, 1, 1, encoded("b")))
        assert states(servers) == [["b"]] * 3

    def test_a_new_leader(self) -> None:
        """Its own clock may say anything: what ends is what the log's time ends."""
        servers = Servers(machine=Journal)
        chief = servers.leader()
        servers.run(30)  # clocks go on; the log's time does not before there is one
        name = opened(servers, chief, 5_000)
        for number in range(1, 6):
            servers.result(servers.leader().transfer())
            chief = servers.leader()
            servers.run(1)
            payload = command_call(name, number, number, encoded(number))
            call(servers, chief, "session_write", payload)
        assert states(servers) == [[1, 2, 3, 4, 5]] * 3
        servers.run(6)
        payload = command_call(name, 6, 6, encoded(6))
        with pytest.raises(SessionExpiredError):
            call(servers, servers.leader(), "session_write", payload)

    def test_a_command_of_an_expired_session_is_not_applied(self) -> None:
        """§6.3: to treat it as new could apply it twice, so it is an error."""
        log, applier = Log(), Applier(Journal(), "s1")
        results(applier, log.opened(ttl=1000), log.numbered(1, 1, "a"))
        for _ in range(2):
            (found,) = results(applier, log.numbered(1, 1, "a", time=5000))
            assert found.startswith("SessionExpiredError")
        assert applier.state == ["a"]
