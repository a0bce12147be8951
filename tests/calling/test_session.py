"""Tests of consensus.calling.session: once each, whatever is lost on the way."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from twisted.internet.defer import CancelledError, Deferred

from adapters.transport.memory import MemoryNetwork, MemoryOptions, MemoryTransport
from consensus.client import Client
from consensus.errors import (
    CommandFailedError,
    InvalidCommandError,
    LeadershipLostError,
    NotLeaderError,
    OutcomeUnknownError,
    OverloadedError,
    ProtocolError,
    RejectedError,
    SessionExpiredError,
    TimedOutError,
    UnreachableError,
)
from consensus.sessions import (
    MAX_WINDOW,
    close_call,
    command_call,
    open_call,
    session_of,
)
from tests.support.deferreds import error_of, has_fired, result_of
from tests.support.entries import Journal
from tests.support.machines import MachineServer
from tests.support.servers import Servers
from tests.support.storages import LastingStorage
from tests.support.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from consensus.calling.session import ClientSession

encoded = msgspec.msgpack.encode


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    LastingStorage.disks.clear()
    yield
    LastingStorage.disks.clear()


@pytest.fixture
def server(request: pytest.FixtureRequest) -> MachineServer:
    """Return a server with an empty journal."""
    return MachineServer(Journal(), request.node.nodeid)


@pytest.fixture
def session(server: MachineServer) -> ClientSession:
    """Return a session of the server's client."""
    return server.client.session(ttl=30)


class AnswerTests:
    """What a caller learns."""

    def test_results(self, server: MachineServer, session: ClientSession) -> None:
        """Writes under way at once each get their own; one session does."""
        calls = [session.write(encoded(each)) for each in "abc"]
        server.settle()
        assert [result_of(each) for each in calls] == [b"\x01", b"\x02", b"\x03"]
        assert server.calls == 4
        assert len(server.applier.sessions) == 1

    def test_failures(self, server: MachineServer, session: ClientSession) -> None:
        """The machine's failure is the caller's; it is not sent again."""
        call = session.write(encoded(["fail", "no"]))
        server.settle()
        assert isinstance(error := error_of(call), CommandFailedError)
        assert (error.kind, error.detail) == ("ValueError", "no")
        assert server.calls == 2

    def test_a_lost_answer(self, server: MachineServer, session: ClientSession) -> None:
        """The write is sent again, and applied once."""
        session.write(encoded("a"))
        server.settle()
        server.loses_answer = True
        call = session.write(encoded("b"))
        server.settle()
        assert result_of(call) == b"\x02"
        assert server.state == ["a", "b"]

    def test_a_lost_name(self, server: MachineServer, session: ClientSession) -> None:
        """A session whose opening was not answered is opened again."""
        server.loses_answer = True
        call = session.write(encoded("a"))
        server.settle()
        assert result_of(call) == b"\x01"
        assert len(server.applier.sessions) == 2

    def test_what_is_no_command(
        self, server: MachineServer, session: ClientSession
    ) -> None:
        """What is refused before the log is the caller's at once."""
        session.write(encoded("a"))
        server.settle()
        server.error = InvalidCommandError("no")
        call = session.write(b"x")
        server.settle()
        assert isinstance(error_of(call), InvalidCommandError)
        assert server.calls == 3

    def test_acknowledged_results_are_forgotten(
        self, server: MachineServer, session: ClientSession
    ) -> None:
        """A client that goes on holds no memory of the server's."""
        for _ in range(50):
            session.write(encoded("a"))
            server.settle()
        assert len(server.applier.sessions._results) == 1

    def test_a_window_full(self, server: MachineServer, session: ClientSession) -> None:
        """More writes than a session can number wait their turn."""
        calls = [session.write(encoded(each)) for each in range(2 * MAX_WINDOW + 10)]
        server.settle()
        assert [msgspec.msgpack.decode(result_of(each)) for each in calls] == list(
            range(1, 2 * MAX_WINDOW + 11)
        )
        assert not session._waiting

    @pytest.mark.parametrize("ttl", [0, 0.9, 86_401])
    def test_ttl_out_of_range(self, server: MachineServer, ttl: float) -> None:
        with pytest.raises(InvalidCommandError, match="a session lives"):
            server.client.session(ttl)


class ExpiryTests:
    """Sessions that the servers have forgotten."""

    def test_an_idle_one(self, server: MachineServer, session: ClientSession) -> None:
        """Nobody doubts about anything, so another is opened, unseen."""
        session.write(encoded("a"))
        server.settle()
        server.reactor.advance(31)
        call = session.write(encoded("b"))
        server.settle()
        assert result_of(call) == b"\x02"
        assert server.state == ["a", "b"]
        assert len(server.applier.sessions) == 1

    def test_doubt(self, server: MachineServer, session: ClientSession) -> None:
        """Who sent a write that was not answered learns that it is not known."""
        session.write(encoded("a"))
        server.settle()
        forget(server)
        server.error = LeadershipLostError("who knows")
        doubtful = session.write(encoded("b"))
        server.reactor.advance(0)
        certain = session.write(encoded("c"))
        server.settle()
        assert isinstance(error_of(doubtful), SessionExpiredError)
        assert result_of(certain) == b"\x02"
        assert server.state == ["a", "c"]

    def test_close(self, server: MachineServer, session: ClientSession) -> None:
        """The servers forget it at once; a later write opens another."""
        session.write(encoded("a"))
        server.settle()
        closing = session.close()
        server.settle()
        assert result_of(closing) is None
        assert len(server.applier.sessions) == 0
        assert result_of(session.close()) is None
        call = session.write(encoded("b"))
        server.settle()
        assert result_of(call) == b"\x02"

    def test_a_close_that_fails(
        self, server: MachineServer, session: ClientSession
    ) -> None:
        """It is forgotten in time."""
        session.write(encoded("a"))
        server.settle()
        server.error = InvalidCommandError("no")
        call = session.close()
        server.settle()
        assert result_of(call) is None


class GivingUpTests:
    """When no answer comes in time."""

    def unanswered(self, server: MachineServer, session: ClientSession) -> Any:
        """Open the session, then let the server hold back its answers."""
        session.write(encoded("a"))
        server.settle()
        server.answer = lambda *_: Deferred()  # type: ignore[method-assign]

    def test_no_answer(self, server: MachineServer, session: ClientSession) -> None:
        """The outcome is unknown; several attempts were made."""
        self.unanswered(server, session)
        call = session.write(encoded("b"))
        wait(server, 11)
        assert isinstance(error_of(call), TimedOutError)

    def test_a_refusal_after_doubt(
        self, server: MachineServer, session: ClientSession
    ) -> None:
        """That the last attempt was refused says nothing of the first."""
        session.write(encoded("a"))
        server.settle()
        server.error = OutcomeUnknownError("lost")
        call = session.write(encoded("b"))
        server.settle()
        assert result_of(call) == b"\x02"
        server.error = OutcomeUnknownError("lost")
        call = session.write(encoded("c"))
        server.reactor.advance(0)
        MemoryNetwork.named(network_of(server)).listening.clear()
        wait(server, 11)
        error = error_of(call)
        assert isinstance(error, TimedOutError)
        assert "an attempt had no answer" in str(error)

    def test_nobody_there(self, server: MachineServer, session: ClientSession) -> None:
        """What was never sent was not applied."""
        MemoryNetwork.named(network_of(server)).listening.clear()
        calls = [session.write(encoded(each)) for each in "abc"]
        wait(server, 11)
        for call in calls:
            assert isinstance(error_of(call), RejectedError)

    def test_no_session_in_time(
        self, server: MachineServer, session: ClientSession
    ) -> None:
        """A write that only waited for its session was not applied either."""
        server.answer = lambda *_: Deferred()  # type: ignore[method-assign]
        calls = [session.write(encoded(each)) for each in "abc"]
        wait(server, 5)
        late = session.write(encoded("d"))
        wait(server, 6)
        for call in calls:
            assert isinstance(error_of(call), RejectedError)
        assert not has_fired(late)
        wait(server, 6)
        assert isinstance(error_of(late), RejectedError)

    def test_no_number_in_time(
        self, server: MachineServer, session: ClientSession
    ) -> None:
        """Nor was one that waited for others."""
        self.unanswered(server, session)
        calls = [session.write(encoded("b")) for _ in range(MAX_WINDOW)]
        late = session.write(encoded("c"))
        wait(server, 11)
        assert all(isinstance(error_of(each), TimedOutError) for each in calls)
        assert isinstance(error_of(late), OverloadedError)

    def test_a_closed_client(
        self, server: MachineServer, session: ClientSession
    ) -> None:
        """However many wait, each learns of it."""
        server.answer = lambda *_: Deferred()  # type: ignore[method-assign]
        calls = [session.write(encoded(each)) for each in range(3000)]
        server.settle()
        server.client.close()
        server.settle()
        for call in calls:
            assert isinstance(error_of(call), RejectedError)
        call = session.write(encoded("x"))
        assert isinstance(error_of(call), UnreachableError)

    def test_no_server_of_sessions(
        self, server: MachineServer, session: ClientSession
    ) -> None:
        server.answered = b"what?"
        call = session.write(encoded("a"))
        server.settle()
        assert isinstance(error_of(call), ProtocolError)


class CancellingTests:
    """Writes that their callers do not wait for any more."""

    def test_while_the_session_is_opened(
        self, server: MachineServer, session: ClientSession
    ) -> None:
        """The next of those who wait opens it instead."""
        calls = [session.write(encoded(each)) for each in "abc"]
        calls[0].cancel()
        assert isinstance(error_of(calls[0]), CancelledError)
        calls[1].cancel()
        assert isinstance(error_of(calls[1]), CancelledError)
        server.settle()
        assert result_of(calls[2]) == b"\x01"
        assert server.state == ["c"]

    def test_while_it_is_under_way(
        self, server: MachineServer, session: ClientSession
    ) -> None:
        """It may be applied all the same; its number is not waited for."""
        session.write(encoded("a"))
        server.settle()
        answer = server.answer
        server.answer = lambda *_: Deferred()  # type: ignore[method-assign]
        calls = [session.write(encoded("b")) for _ in range(MAX_WINDOW)]
        late = session.write(encoded("c"))
        wait(server, 0.1)
        for call in calls:
            call.cancel()
            assert isinstance(error_of(call), CancelledError)
        server.answer = answer  # type: ignore[method-assign]
        wait(server, 5)
        assert result_of(late) == b"\x02"
        assert server.state == ["a", "c"]


class TimeoutTests:
    """A write may have a timeout of its own."""

    def test_a_short_one(self, server: MachineServer, session: ClientSession) -> None:
        session.write(encoded("a"))
        server.settle()
        server.answer = lambda *_: Deferred()  # type: ignore[method-assign]
        call = session.write(encoded("b"), timeout=0.5)
        wait(server, 0.6)
        assert isinstance(error_of(call), TimedOutError)

    @pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan")])
    def test_nonsense(
        self, server: MachineServer, session: ClientSession, timeout: float
    ) -> None:
        call = session.write(encoded("b"), timeout=timeout)
        assert isinstance(error_of(call), InvalidCommandError)
        assert server.calls == 0


class IndexTests:
    """Writes that are answered with their log index."""

    def test_what_is_no_index(
        self, server: MachineServer, session: ClientSession
    ) -> None:
        """An answer that has none is a server's mistake."""
        session.write(encoded("a"))
        server.settle()
        server.answered = b"what?"
        call = session.write(encoded("b"), with_index=True)
        server.settle()
        assert isinstance(error_of(call), ProtocolError)


def network_of(server: MachineServer) -> str:
    """Return the name of the server's network."""
    transport: Any = server.client._transport
    network: str = transport.options.network
    return network


def wait(server: MachineServer, seconds: float) -> None:
    """Let time pass."""
    for _ in range(round(seconds * 100)):
        server.reactor.advance(0.01)


def forget(server: MachineServer) -> None:
    """Let the server end its sessions."""
    for name in list(server.applier.sessions._sessions):
        server._apply("session_close", close_call(name))


def connected(servers: Servers) -> tuple[Client, MemoryTransport]:
    """Return a client of *servers*, and its transport."""
    options = MemoryOptions(**servers.mapping["transport"]["options"])
    transport = MemoryTransport(options, servers.reactor, servers.reactor)
    addresses = {name: name for name in servers.names}
    dice = random.Random(3)  # noqa: S311 - reproducible, not secret
    client = Client(addresses, transport, servers.reactor, dice=dice.random)
    return client, transport


class ServersTests:
    """Sessions through real servers, in virtual time."""

    @pytest.mark.parametrize("seed", range(4))
    def test_leaders_that_come_and_go(self, seed: int) -> None:
        """Increments through cuts of the network are each counted once."""
        dice = random.Random(seed)  # noqa: S311 - reproducible, not secret
        servers = Servers(machine=Tally)
        servers.leader()
        client, _ = connected(servers)
        session = client.session()
        network = MemoryNetwork.named(
            servers.mapping["transport"]["options"]["network"]
        )
        calls = []
        for _ in range(60):
            calls += [session.write(encoded(1)) for _ in range(dice.randrange(4))]
            servers.run(dice.choice([0.001, 0.005, 0.02]))
            if dice.random() < 0.2:
                cut = dice.choice(servers.names)
                network.down(cut)
                servers.run(dice.choice([0.05, 0.8]))
                network.up(cut)
        results = [msgspec.msgpack.decode(servers.result(each)) for each in calls]
        assert sorted(results) == list(range(1, len(calls) + 1))
        servers.run(1)
        states = [
            server._driver.applier.state
            for server in servers.servers.values()
            if server._driver is not None
        ]
        assert states == [len(calls)] * 3

    @pytest.mark.parametrize("with_snapshot", [False, True])
    def test_all_servers_restart(self, tmp_path: Path, *, with_snapshot: bool) -> None:
        """From log or snapshot, they know what was applied before they stopped."""
        servers = Servers(
            machine=Tally,
            data_dir=tmp_path,
            config={"storage": {"engine": LastingStorage}},
        )
        chief = servers.leader()
        opened = servers.result(chief.inbox().answer("session_open", open_call(60_000)))
        payload = command_call(session_of(opened), 1, 1, encoded(5))
        call = chief.inbox().answer("session_write", payload)
        assert msgspec.msgpack.decode(servers.result(call)) == 5
        servers.run(0.5)
        if with_snapshot:
            for server in servers.servers.values():
                servers.result(server.snapshot())
        for name in servers.names:
            servers.stop(name)
        for name in servers.names:
            servers.start(name)
        call = servers.leader().inbox().answer("session_write", payload)
        assert msgspec.msgpack.decode(servers.result(call)) == 5
        servers.run(0.5)
        assert servers.result(servers.leader().read(None)) == 5

    def test_a_server_passes_them_on(self) -> None:
        """With ``forward`` a client that reaches one server only writes."""
        servers = Servers(machine=Tally, config={"forward": True})
        follower = next(iter(servers.followers()))
        client, transport = connected(servers)
        lonely = Client({follower.name: follower.name}, transport, servers.reactor)
        session = lonely.session()
        for number in (1, 2):
            answer = servers.result(session.write(encoded(1)))
            assert msgspec.msgpack.decode(answer) == number
        servers.result(session.close())
        assert lonely.leader == follower.name
        servers.result(client.close())

    def test_a_server_does_not_pass_on_what_was_passed_on(self) -> None:
        """Two that take each other for the leader send nothing round in circles."""
        servers = Servers(machine=Tally, config={"forward": True})
        follower = next(iter(servers.followers()))
        call = follower.inbox().answer("session_forwarded", b"\1\0\0\x80\0")
        with pytest.raises(NotLeaderError):
            servers.result(call)
        for payload in (b"", b"\x09", b"\x01"):
            call = follower.inbox().answer("session_forwarded", payload)
            with pytest.raises(InvalidCommandError):
                servers.result(call)

    def test_the_size_limit(self) -> None:
        """It holds for the command with what the session adds."""
        servers = Servers(machine=Tally, config={"limits": {"max_command_bytes": 100}})
        servers.leader()
        client, _ = connected(servers)
        session = client.session()
        servers.result(session.write(encoded(1)))
        with pytest.raises(InvalidCommandError, match="it has 116 bytes; at most 100"):
            servers.result(session.write(encoded("x" * 80)))
