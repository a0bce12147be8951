"""Tests of consensus.client, against inboxes on the memory transport."""

from __future__ import annotations

from dataclasses import asdict
from itertools import pairwise, repeat
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from twisted.internet import reactor as real_reactor
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.trial.unittest import TestCase

from adapters.transport.memory import MemoryNetwork, MemoryOptions, MemoryTransport
from consensus.client import Client
from consensus.clock import monotonic_clock
from consensus.core.values import Identity, Status
from consensus.errors import (
    CommandFailedError,
    InvalidCommandError,
    LeadershipLostError,
    NotLeaderError,
    OutcomeUnknownError,
    OverloadedError,
    ProtocolError,
    RaftError,
    TimedOutError,
    UnreachableError,
)
from consensus.options import pack_result
from tests.support.deferreds import error_of, has_fired, result_of
from tests.support.servers import VirtualReactor

if TYPE_CHECKING:
    from collections.abc import Callable

    from consensus.core.messages import Message

NAMES = ("s1", "s2", "s3")
STATUS = Status("s1", "c", "leader", 3, "s1", {"s1": "at s1"}, 10, 9, 11)

#: What a scripted server does with a call: an answer, an error, or nothing.
Act = bytes | RaftError | None


class ScriptedServer:
    """An inbox that answers calls as the test has written down."""

    def __init__(self, name: str, network: str, reactor: Any) -> None:
        self.name = name
        self.calls: list[tuple[str, bytes, float]] = []
        self.script: list[Act] = []
        self.always: Act = NotLeaderError()
        self.reactor = reactor
        options = MemoryOptions(network=network)
        self.transport = MemoryTransport(options, reactor, reactor)
        self.transport.listen(Identity("c", name, "1"), f"at {name}", self)

    def welcome(self, peer: Identity) -> None:
        """Welcome everybody."""

    def refused(self, peer: str, error: ProtocolError) -> None:
        """Take no notice."""

    def gone(self, peer: str) -> None:
        """Take no notice."""

    def deliver(self, *messages: Message) -> None:
        """Take no messages."""

    def answer(self, method: str, payload: bytes) -> Deferred[bytes]:
        """Do what the script says next, and what is always done after it."""
        self.calls.append((method, payload, self.reactor.seconds()))
        act = self.script.pop(0) if self.script else self.always
        if act is None:
            return Deferred()
        if isinstance(act, RaftError):
            return fail(act)
        return succeed(act)


class World:
    """Three servers and a client, in virtual time."""

    def __init__(self, network: str, dice: Callable[[], float] = lambda: 0.0) -> None:
        self.reactor = VirtualReactor()
        self.network = MemoryNetwork.named(network)
        self.servers = {
            name: ScriptedServer(name, network, self.reactor) for name in NAMES
        }
        transport = MemoryTransport(
            MemoryOptions(network=network), self.reactor, self.reactor
        )
        addresses = {name: f"at {name}" for name in NAMES}
        self.client = Client(
            addresses, transport, self.reactor, timeout=10.0, dice=dice
        )

    def elect(self, leader: str) -> None:
        """Let *leader* answer calls and the others name it."""
        for name, server in self.servers.items():
            if name == leader:
                server.always = b"done"
            else:
                server.always = NotLeaderError(leader, f"at {leader}")

    def settle(self, seconds: float = 0.0) -> None:
        """Let *seconds* pass, and all that is under way."""
        until = self.reactor.seconds() + seconds
        while True:
            calls: Any = self.reactor.getDelayedCalls()
            soonest = min((call.getTime() for call in calls), default=until)
            if soonest > until or not calls:
                break
            self.reactor.advance(max(0.0, soonest - self.reactor.seconds()))
        self.reactor.advance(until - self.reactor.seconds())

    def counts(self) -> list[int]:
        """Return how many calls each server has had."""
        return [len(server.calls) for server in self.servers.values()]


@pytest.fixture
def world(request: pytest.FixtureRequest) -> World:
    """Return three servers of which none leads."""
    return World(request.node.nodeid)


class FindingTheLeaderTests:
    """Whom a client asks."""

    def test_the_leader_is_asked_again(self, world: World) -> None:
        """Who answered once is asked first from then on."""
        world.elect("s1")
        for _ in range(3):
            call = world.client.write(b"x")
            world.settle()
            assert result_of(call) == b"done"
        assert world.counts() == [3, 0, 0]
        assert world.client.leader == "s1"

    def test_a_hint_is_followed_at_once(self, world: World) -> None:
        """A follower's word is taken without any pause."""
        world.elect("s3")
        call = world.client.write(b"x")
        world.settle()
        assert result_of(call) == b"done"
        assert world.counts() == [1, 0, 1]
        assert world.client.leader == "s3"
        assert world.reactor.seconds() == 0.0

    def test_a_hint_without_an_address(self, world: World) -> None:
        """The name is enough when the client knows the address."""
        world.elect("s3")
        world.servers["s1"].always = NotLeaderError("s3")
        call = world.client.write(b"x")
        world.settle()
        assert result_of(call) == b"done"
        assert world.counts() == [1, 0, 1]

    def test_a_hint_to_a_server_that_was_unknown(
        self, world: World, request: pytest.FixtureRequest
    ) -> None:
        """A client made with one address reaches the whole cluster."""
        newcomer = ScriptedServer("s9", request.node.nodeid, world.reactor)
        newcomer.always = b"done"
        world.servers["s1"].always = NotLeaderError("s9", "at s9")
        call = world.client.write(b"x")
        world.settle()
        assert result_of(call) == b"done"
        assert world.client.leader == "s9"

    def test_a_hint_that_leads_nowhere(self, world: World) -> None:
        """A name without an address that anybody knows is no hint."""
        world.servers["s1"].always = NotLeaderError("s9")
        world.servers["s2"].always = b"done"
        call = world.client.write(b"x")
        world.settle(1.0)
        assert result_of(call) == b"done"

    def test_an_election_is_waited_for(self, world: World) -> None:
        """While nobody leads the servers are asked in turn, with pauses."""
        call = world.client.write(b"x")
        world.settle(1.0)
        assert not has_fired(call)
        asked = world.counts()
        assert max(asked) - min(asked) <= 1
        assert 4 < sum(asked) < 12
        assert world.client.leader is None
        world.elect("s2")
        world.settle(0.5)
        assert result_of(call) == b"done"

    def test_a_leader_that_is_gone_is_forgotten(self, world: World) -> None:
        """The others are asked when it cannot be reached."""
        world.elect("s1")
        world.client.write(b"x")
        world.settle()
        world.network.down("s1")
        world.elect("s2")
        call = world.client.write(b"x")
        world.settle(1.0)
        assert result_of(call) == b"done"
        assert world.client.leader == "s2"

    def test_two_that_name_each_other(self, world: World) -> None:
        """Hints that go round in circles do not make a busy loop."""
        world.servers["s1"].always = NotLeaderError("s2", "at s2")
        world.servers["s2"].always = NotLeaderError("s1", "at s1")
        call = world.client.write(b"x")
        world.settle(1.0)
        assert not has_fired(call)
        assert 4 < sum(world.counts()) < 40
        world.elect("s2")
        world.settle(0.5)
        assert result_of(call) == b"done"

    def test_a_leader_that_names_itself(self, world: World) -> None:
        """It has just lost its office, or not begun it: no hint."""
        world.servers["s1"].always = NotLeaderError("s1", "at s1")
        call = world.client.write(b"x")
        world.settle(0.1)
        assert not has_fired(call)
        assert world.counts()[0] < 4

    def test_clients_begin_at_different_servers(
        self, request: pytest.FixtureRequest
    ) -> None:
        """The dice choose the first, so that not all ask the same."""
        for number, roll in enumerate((0.0, 0.4, 0.99)):
            world = World(f"{request.node.nodeid}{number}", repeat(roll).__next__)
            world.client.write(b"x")
            world.settle()
            assert [bool(count) for count in world.counts()] == [
                other == number for other in range(3)
            ]

    def test_no_server_at_all(self, world: World) -> None:
        with pytest.raises(ValueError, match="at least one"):
            Client({}, world.servers["s1"].transport, world.reactor)


class WriteTests:
    """A write is sent again only if it certainly entered no log."""

    def test_overload_is_waited_out(self, world: World) -> None:
        """The same server is asked, less and less often."""
        world.elect("s1")
        world.servers["s1"].script = [OverloadedError("busy")] * 6
        call = world.client.write(b"x")
        world.settle(5.0)
        assert result_of(call) == b"done"
        times = [time for _, _, time in world.servers["s1"].calls]
        pauses = [later - earlier for earlier, later in pairwise(times)]
        assert pauses == sorted(pauses)
        assert pauses[0] == pytest.approx(0.01)
        assert pauses[-1] == pytest.approx(0.25)
        assert world.counts() == [7, 0, 0]

    def test_pauses_are_spread(self, request: pytest.FixtureRequest) -> None:
        """With other dice, other pauses."""
        world = World(request.node.nodeid, lambda: 0.5)
        world.elect("s2")
        world.servers["s2"].script = [OverloadedError("busy")]
        world.client.write(b"x")
        world.settle(1.0)
        assert [time for _, _, time in world.servers["s2"].calls] == [
            0.0,
            pytest.approx(0.015),
        ]

    @pytest.mark.parametrize(
        "error",
        [
            OutcomeUnknownError("who knows"),
            LeadershipLostError("who knows"),
            ProtocolError("what?"),
            CommandFailedError("KeyError", "'x'"),
            InvalidCommandError("no such command"),
        ],
    )
    def test_what_is_raised_at_once(self, world: World, error: RaftError) -> None:
        """Nothing is sent twice, and the error arrives as it was."""
        world.servers["s1"].always = error
        call = world.client.write(b"x")
        world.settle()
        raised = error_of(call)
        assert type(raised) is type(error)
        assert str(raised) == str(error)
        assert sum(world.counts()) == 1

    def test_silence_is_an_unknown_outcome(self, world: World) -> None:
        """A write that was sent and not answered is not sent again."""
        world.servers["s1"].always = None
        call = world.client.write(b"x")
        world.settle(9.9)
        assert not has_fired(call)
        world.settle(0.2)
        assert isinstance(error_of(call), TimedOutError)
        assert sum(world.counts()) == 1

    def test_silence_after_a_rejection(self, world: World) -> None:
        """The timeout is one for all attempts together."""
        world.servers["s1"].script = [OverloadedError("busy")] * 8
        world.servers["s1"].always = None
        call = world.client.write(b"x")
        world.settle(10.0)
        assert isinstance(error_of(call), TimedOutError)

    @pytest.mark.parametrize("error", [OverloadedError("busy"), NotLeaderError(None)])
    def test_rejected_until_the_end(self, world: World, error: RaftError) -> None:
        """The last rejection is raised: the command was not applied."""
        for server in world.servers.values():
            server.always = error
        call = world.client.write(b"x")
        world.settle(9.0)
        assert not has_fired(call)
        world.settle(1.0)
        raised = error_of(call)
        assert type(raised) is type(error)
        assert sum(world.counts()) < 50

    def test_unreachable_until_the_end(self, world: World) -> None:
        for name in NAMES:
            world.network.down(name)
        call = world.client.write(b"x")
        world.settle(10.0)
        assert isinstance(error_of(call), UnreachableError)
        assert world.counts() == [0, 0, 0]

    def test_payloads_are_passed_on(self, world: World) -> None:
        world.elect("s1")
        world.client.write(b"command")
        world.client.read(b"query")
        world.settle()
        assert [
            (method, payload) for method, payload, _ in world.servers["s1"].calls
        ] == [
            ("write", b"command"),
            ("read", b"query"),
        ]


class ReadTests:
    """A read changes nothing, so it may be made as often as it takes."""

    @pytest.mark.parametrize(
        "error", [OutcomeUnknownError("who knows"), LeadershipLostError("who knows")]
    )
    def test_an_unknown_outcome_is_repeated(
        self, world: World, error: RaftError
    ) -> None:
        world.servers["s1"].script = [error]
        world.elect("s2")
        call = world.client.read(b"x")
        world.settle(1.0)
        assert result_of(call) == b"done"

    def test_a_server_that_hangs_is_left(self, world: World) -> None:
        """Another is asked long before the timeout."""
        world.servers["s1"].always = None
        world.servers["s2"].always = b"done"
        call = world.client.read(b"x")
        world.settle(3.0)
        assert result_of(call) == b"done"
        assert world.client.leader == "s2"

    def test_silence_to_the_end(self, world: World) -> None:
        for server in world.servers.values():
            server.always = None
        call = world.client.read(b"x")
        world.settle(10.0)
        assert isinstance(error_of(call), TimedOutError)

    @pytest.mark.parametrize(
        "error", [CommandFailedError("KeyError"), InvalidCommandError("no query")]
    )
    def test_what_is_raised_at_once(self, world: World, error: RaftError) -> None:
        world.servers["s1"].always = error
        call = world.client.read(b"x")
        world.settle()
        assert type(error_of(call)) is type(error)


class StatusTests:
    """One server is asked, once."""

    def test_a_status(self, world: World) -> None:
        """Any server answers, whoever leads."""
        world.servers["s2"].always = msgspec.msgpack.encode(STATUS)
        call = world.client.status("s2")
        world.settle()
        assert result_of(call) == STATUS
        assert world.counts() == [0, 1, 0]
        assert world.servers["s2"].calls[0][:2] == ("status", b"")

    def test_the_timeout_of_a_status(self, world: World) -> None:
        world.servers["s2"].always = None
        call = world.client.status("s2", 0.5)
        world.settle(0.6)
        assert isinstance(error_of(call), TimedOutError)

    def test_a_server_that_is_down(self, world: World) -> None:
        world.network.down("s2")
        call = world.client.status("s2")
        world.settle()
        assert isinstance(error_of(call), UnreachableError)

    def test_a_server_that_is_unknown(self, world: World) -> None:
        assert isinstance(error_of(world.client.status("s9")), UnreachableError)

    @pytest.mark.parametrize(
        "payload",
        [
            b"",
            b"\xc1",
            b"\xa1\xff",
            b"\x81\xa6server\xa1\xff",
            msgspec.msgpack.encode({"server": "s1"}),
            msgspec.msgpack.encode({**asdict(STATUS), "term": "3"}),
            msgspec.msgpack.encode({**asdict(STATUS), "membership": ["s1"]}),
            b"\x91" * 5_000,
        ],
    )
    def test_what_is_no_status(self, world: World, payload: bytes) -> None:
        """A server that talks rubbish is told apart from one that is down."""
        world.servers["s2"].always = payload
        call = world.client.status("s2")
        world.settle()
        assert isinstance(error_of(call), ProtocolError)


class ClosingTests:
    """What is under way when a client is closed."""

    def test_what_waits_for_a_retry(self, world: World) -> None:
        """It was never sent, or was rejected."""
        call = world.client.write(b"x")
        world.settle(0.1)
        assert result_of(world.client.close()) is None
        world.settle(1.0)
        assert isinstance(error_of(call), UnreachableError)

    def test_what_was_sent(self, world: World) -> None:
        world.servers["s1"].always = None
        call = world.client.write(b"x")
        world.settle()
        world.client.close()
        assert isinstance(error_of(call), OutcomeUnknownError)

    def test_calls_of_a_closed_client(self, world: World) -> None:
        world.client.close()
        assert result_of(world.client.close()) is None
        assert isinstance(error_of(world.client.write(b"x")), UnreachableError)
        assert isinstance(error_of(world.client.read(b"x")), UnreachableError)

    def test_a_call_can_be_cancelled(self, world: World) -> None:
        """While it is asked, and while it waits to ask again."""
        world.servers["s1"].always = None
        asking = world.client.write(b"x")
        world.settle()
        asking.cancel()
        assert isinstance(error_of(asking), CancelledError)
        world.servers["s1"].always = NotLeaderError()
        waiting = world.client.write(b"x")
        world.settle(0.1)
        waiting.cancel()
        assert isinstance(error_of(waiting), CancelledError)
        world.settle(5.0)
        assert world.reactor.getDelayedCalls() == []


class ConnectTests(TestCase):
    """A client made of nothing but endpoints, in real time."""

    async def test_endpoints_are_enough(self) -> None:
        """The transport comes from the registry, the clock from the reactor."""
        network = self.id()
        server = ScriptedServer("s1", network, real_reactor)
        server.always = pack_result(b"done", 7)
        clock = monotonic_clock(real_reactor)
        users = clock._users
        client = Client.connect(
            ["at s1"],
            real_reactor,
            session=False,
            engine="memory",
            options=MemoryOptions(network=network),
        )
        assert await client.write(b"x") == b"done"
        assert client.leader == "at s1"
        assert clock._users == users + 1
        await client.close()
        await client.close()
        assert clock._users == users
