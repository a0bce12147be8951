"""Tests of adapters.transport.amp and amp_outbound, over connections in memory."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from twisted.internet.defer import CancelledError
from twisted.trial.unittest import TestCase

from adapters.transport.amp import AMPTransport
from adapters.transport.amp_connection import AMPOptions
from consensus.core.messages import AppendEntries, InstallSnapshot, RequestVote
from consensus.core.values import Entry, EntryKind, Identity, SnapshotMeta
from consensus.errors import (
    InvalidCommandError,
    OutcomeUnknownError,
    OverloadedError,
    ReplacedError,
    TimedOutError,
    UnreachableError,
)
from consensus.testing.loopback import LoopbackReactor
from consensus.testing.transport import TransportSuite
from consensus.testing.transport_inbox import RecordingInbox
from tests.support.amp import Door, World, address_of, port_of, warnings
from tests.support.deferreds import error_of, has_fired, result_of

if TYPE_CHECKING:
    from consensus.core.values import Address, ServerId
    from consensus.interfaces import Transport


@pytest.fixture
def world() -> World:
    """Return an empty network."""
    return World()


class AMPTransportSuiteTests(TransportSuite, TestCase):
    """The conformance suite, over connections in memory and in virtual time."""

    def setUp(self) -> None:
        self.reactor = LoopbackReactor()

    def make_transport(self) -> Transport:
        return AMPTransport(None, self.reactor, self.reactor)

    def address(self, name: ServerId) -> Address:
        return address_of(name)

    async def settle(self, seconds: float = 0.0) -> None:
        self.reactor.settle(seconds)


class ReconnectTests:
    """A link is made again, soon but not too often."""

    def test_a_server_that_returns_is_found_within_a_second(self, world: World) -> None:
        """However long it was away."""
        one, two = world.pair()
        two.close()
        world.settle(100.0)
        assert not world.passes(one, "s2")
        world.server("s2")
        world.settle(1.05)
        assert world.passes(one, "s2")

    def test_a_good_connection_is_made_again_at_once(self, world: World) -> None:
        """What failed before it was made is forgiven."""
        one = world.server("s1")
        one.connect("s2", address_of("s2"))
        world.settle(10.0)
        world.server("s2")
        world.settle(5.0)
        link = one._links["s2"].connection
        assert link is not None
        link.drop()
        world.settle(0.06)
        assert world.passes(one, "s2")

    def test_a_bad_connection_is_not_made_again_at_once(self, world: World) -> None:
        """One that is lost as soon as it is made takes its time like any other."""
        one = world.server("s1")
        two = world.server("s2")
        one.connect("s2", address_of("s2"))
        made = 0
        for _ in range(500):
            world.settle(0.02)
            for connection in list(two._connections):
                made += 1
                connection.drop()
        assert made < 25

    def test_a_peer_that_has_ended_is_told_of_soon(self, world: World) -> None:
        """Its connections are lost, and nobody listens at its address."""
        _, two = world.pair()
        world.settle(1.0)
        two.close()
        world.settle(0.02)
        assert "s2" in world.inboxes["s1"].ended

    def test_a_lost_connection_alone_is_nobodys_end(self, world: World) -> None:
        """Whoever listens is there."""
        one, two = world.pair()
        for transport in (one, two):
            for connection in list(transport._connections):
                connection.drop()
        world.settle(5.0)
        assert world.inboxes["s1"].ended == world.inboxes["s2"].ended == []

    def test_a_peer_that_cannot_be_called_may_have_called(self, world: World) -> None:
        """A firewall that lets nobody in ends nobody, until the peer hangs up."""
        one = world.server("s1")
        two = world.client()
        identity = Identity("c", "s2", "1")
        result_of(two.listen(identity, "tcp:127.0.0.1:7", RecordingInbox()))
        two.connect("s1", address_of("s1"))
        world.settle(0.1)
        one.connect("s2", address_of("s2"))
        world.settle(3.0)
        assert world.passes(two, "s1")
        assert world.inboxes["s1"].ended == []
        two.close()
        world.settle(0.0)
        assert world.inboxes["s1"].ended == ["s2"]

    def test_connecting_twice_changes_nothing(self, world: World) -> None:
        """The connection to a known address is kept."""
        one, _ = world.pair()
        before = one._links["s2"].connection
        one.connect("s2", address_of("s2"))
        world.settle(0.5)
        assert one._links["s2"].connection is before

    def test_a_dead_host_is_noticed_and_found_again(self, world: World) -> None:
        """A connection over which nothing comes back is dropped and made anew."""
        one, _ = world.pair(peer_timeout=3.0)
        world.reactor.silence(port_of("s2"))
        world.settle(4.5)
        one.send("s2", RequestVote("s1", 9, 0, 0))
        world.reactor.restore(port_of("s2"))
        world.settle(3.1)
        assert world.passes(one, "s2")

    def test_a_silent_link_stays(self, world: World) -> None:
        """Pings keep a connection that has nothing to carry from being closed."""
        one, two = world.pair(idle_timeout=10.0)
        before = one._links["s2"].connection
        world.settle(60.0)
        assert one._links["s2"].connection is before
        assert not two.violations

    def test_an_unreachable_peer_is_reported_once(self, world: World) -> None:
        """A line when it has been away for a while, one when it is back."""
        one = world.server("s1")
        with warnings() as logged:
            one.connect("s2", address_of("s2"))
            world.settle(60.0)
        (line,) = logged
        assert "cannot talk to server s2 at tcp:127.0.0.1:9102" in line
        world.server("s2")
        with warnings() as logged:
            world.settle(2.0)
        assert logged == []
        assert world.passes(one, "s2")

    def test_a_restart_is_not_worth_a_line(self, world: World) -> None:
        """What is over after a second needs nobody's attention."""
        _, two = world.pair()
        with warnings() as logged:
            two.close()
            world.settle(1.0)
            world.server("s2")
            world.settle(2.0)
        assert logged == []

    def test_answers_take_the_peers_own_connection(self, world: World) -> None:
        """When the way to a peer is broken, its own connection serves."""
        one = world.server("s1")
        two = world.server("s2")
        one.connect("s2", address_of("s2"))
        two.connect("s1", address_of("s7"))
        world.settle(0.2)
        assert world.passes(two, "s1")

    def test_a_stopped_link_does_not_come_back(self, world: World) -> None:
        """After disconnect there is no timer and no connection left."""
        one, two = world.pair()
        one.disconnect("s2")
        two.disconnect("s1")
        world.settle(5.0)
        assert not one._connections
        assert world.reactor.getDelayedCalls() == []

    def test_an_address_that_means_nothing_is_reported(self, world: World) -> None:
        """It is retried all the same, and does not raise."""
        one = world.server("s1")
        with warnings() as logged:
            one.connect("s2", "telegraph:s2")
            world.settle(30.0)
        (line,) = logged
        assert "neither a tcp: nor a unix: address" in line


class IdentityTests:
    """Who is refused, and what the logs of both say."""

    def refused(self, world: World, caller: AMPTransport, to: str, at: str) -> str:
        """Return what two servers log when *caller* is refused at *at*."""
        with warnings() as logged:
            caller.connect(to, address_of(at))
            world.settle(30.0)
        assert len(logged) == len(set(logged)) == 2, logged
        assert not world.passes(caller, at)
        return " / ".join(logged)

    def test_another_cluster(self, world: World) -> None:
        world.server("s2", cluster="another")
        text = self.refused(world, world.server("s1"), "s2", "s2")
        assert text.count("'s1' belongs to the cluster 'c', and 's2' to 'another'") == 2
        assert "correct the address under members" in text

    def test_another_server(self, world: World) -> None:
        """The address of s2 leads to s3."""
        world.server("s3")
        text = self.refused(world, world.server("s1"), "s2", "s3")
        assert text.count("'s1' takes this server for 's2', but it is 's3'") == 2
        assert "correct the addresses under members of 's1'" in text

    def test_a_namesake(self, world: World) -> None:
        """Two servers cannot both be s2."""
        world.server("s2")
        twin = world.client()
        identity = Identity("c", "s2", "2")
        result_of(twin.listen(identity, address_of("s4"), Door(identity)))
        text = self.refused(world, twin, "s2", "s2")
        assert text.count("two servers are called 's2': stop one of them") == 2

    def test_a_lost_disk(self, world: World) -> None:
        """A peer with another data directory is not the one it was."""
        one, two = world.pair()
        with warnings() as logged:
            two.close()
            world.settle(0.5)
            again = world.server("s2", incarnation="2")
            again.connect("s1", address_of("s1"))
            world.settle(10.0)
        assert not world.passes(one, "s2")
        assert not world.passes(again, "s1")
        assert all("has another data directory" in line for line in logged)
        assert len(logged) == 3

    def test_a_lost_disk_is_told_so(self, world: World) -> None:
        """The server that lost it can tell by the error's class."""
        one, two = world.pair()
        two.close()
        world.settle(0.5)
        again = world.server("s2", incarnation="2")
        with warnings() as logged:
            again.connect("s1", address_of("s1"))
            world.settle(10.0)
        refusals = world.inboxes["s2"].acquaintances.refusals
        assert type(refusals["s1"]) is ReplacedError
        assert world.inboxes["s1"].acquaintances.was_replaced("s2") == "2"
        mine = [line for line in logged if line.startswith("cannot talk to server s1")]
        assert len(mine) == 1
        assert one.violations == again.violations == 0

    def test_a_forgotten_peer_may_be_another(self, world: World) -> None:
        """Who left the membership may come back with a new disk."""
        one, two = world.pair()
        one.disconnect("s2")
        world.inboxes["s1"].acquaintances.forget("s2")
        two.close()
        world.settle(0.5)
        world.server("s2", incarnation="2")
        one.connect("s2", address_of("s2"))
        world.settle(0.5)
        assert world.passes(one, "s2")

    def test_two_clusters_of_one_name(self, world: World) -> None:
        """Servers that were founded with other members refuse each other."""
        world.server("s2", cluster_id="of s1 and s2")
        one = world.server("s1", cluster_id="of s1, s2 and s3")
        text = self.refused(world, one, "s2", "s2")
        assert text.count("'s1' belongs to another cluster that is also called") == 2
        assert "founded with other members, or recovered" in text

    def test_a_new_server_belongs_to_whom_it_hears_first(self, world: World) -> None:
        """It has no cluster id yet; with one, it parts from the other cluster."""
        server = world.server("s2")
        senders = [
            world.server("s1", cluster_id="one"),
            world.server("s3", cluster_id="three"),
        ]
        for sender in senders:
            sender.connect("s2", address_of("s2"))
        world.settle(0.2)
        assert [world.passes(sender, "s2") for sender in senders] == [True, True]
        inbox = world.inboxes["s2"]
        inbox.acquaintances.own = Identity("c", "s2", "1", "one")
        with warnings() as logged:
            server.introduce(inbox.acquaintances.own)
            world.settle(5.0)
        assert [world.passes(sender, "s2") for sender in senders] == [True, False]
        assert len(logged) == 2
        assert all("'s3' belongs to another cluster" in line for line in logged)


class BoundsTests:
    """What others may take of this server's memory and time."""

    def test_messages_beyond_the_bound_are_lost(self, world: World) -> None:
        """A peer that takes nothing costs a bounded number of bytes."""
        one, _ = world.pair(max_unsent_bytes=10_000)
        link = one._links["s2"].connection
        assert link is not None
        link.pauseProducing()
        entry = Entry(1, 1, EntryKind.COMMAND, bytes(1_000))
        for _ in range(100):
            one.send("s2", AppendEntries("s1", 1, 0, 0, 0, 0, (entry,)))
        assert link.unsent < 12_000
        assert one.lost_messages > 80
        link.resumeProducing()
        assert world.passes(one, "s2")

    def test_snapshots_leave_room_for_heartbeats(self, world: World) -> None:
        """A peer that takes nothing loses chunks long before other messages."""
        one, _ = world.pair(max_unsent_bytes=1_000_000)
        link = one._links["s2"].connection
        assert link is not None
        link.pauseProducing()
        meta = SnapshotMeta(9, 7, b"", 1, chunks=100, size=100 * 60_000)
        for number in range(100):
            one.send("s2", InstallSnapshot("s1", 7, meta, number, bytes(60_000)))
        assert 500_000 < link.unsent < 600_000
        lost = one.lost_messages
        assert 85 < lost < 95
        heartbeat = AppendEntries("s1", 7, 9, 7, 9, 1)
        one.send("s2", heartbeat)
        assert one.lost_messages == lost
        link.resumeProducing()
        world.settle()
        received = world.inboxes["s2"].messages
        chunks = [m.number for m in received if isinstance(m, InstallSnapshot)]
        assert chunks == list(range(100 - lost))
        assert received[-1] == heartbeat

    def test_a_message_that_is_too_large_is_lost(self, world: World) -> None:
        """It would cost the connection, so it stays here, and the log says so."""
        one, two = world.pair(max_message_bytes=100_000)
        entry = Entry(1, 1, EntryKind.COMMAND, bytes(100_000))
        with warnings() as logged:
            one.send("s2", AppendEntries("s1", 1, 0, 0, 0, 0, (entry,)))
        assert "max_message_bytes is 100000" in logged[0]
        assert world.passes(one, "s2")
        assert not two.violations

    def test_connections_are_bounded(self, world: World) -> None:
        """One more than allowed is closed at once, and room is made again."""
        world.server("s1", max_connections=2)
        first = world.stranger("s1")
        world.stranger("s1")
        with warnings() as logged:
            clients = [world.client() for _ in range(3)]
            calls = [
                client.ask(address_of("s1"), "mirror", b"ab", timeout=1.0)
                for client in clients
            ]
            world.settle()
        assert all(isinstance(error_of(call), OutcomeUnknownError) for call in calls)
        assert len(logged) == 1
        assert "more than 2 connections" in logged[0]
        transport: Any = first.transport
        transport.loseConnection()
        world.settle()
        call = clients[0].ask(address_of("s1"), "mirror", b"ab", timeout=1.0)
        world.settle()
        assert result_of(call) == b"ba"

    def test_who_says_nothing_is_closed(self, world: World) -> None:
        server = world.server("s1", hello_timeout=5.0)
        world.stranger("s1")
        world.settle(4.9)
        assert len(server._connections) == 1
        world.settle(1.2)
        assert not server._connections

    def test_who_says_too_little_is_closed(self, world: World) -> None:
        """A byte now and then is no sign of life."""
        server = world.server("s1", hello_timeout=5.0)
        transport: Any = world.stranger("s1").transport
        for _ in range(7):
            transport.write(b"\0")
            transport.write(b"\x04")
            world.settle(1.0)
        assert not server._connections

    def test_idle_clients_are_closed(self, world: World) -> None:
        """A server closes what is silent; a client what it does not use."""
        server = world.server("s1", idle_timeout=20.0)
        client = world.client(idle_timeout=10.0)
        call = client.ask(address_of("s1"), "mirror", b"ab", timeout=1.0)
        world.settle(9.0)
        assert result_of(call) == b"ba"
        assert len(server._connections) == 1
        world.settle(3.0)
        assert not server._connections
        assert not client._callers
        assert world.reactor.getDelayedCalls() == []

    def test_calls_of_one_connection_are_bounded(self, world: World) -> None:
        """More calls than allowed are overload, and may be made again."""
        world.server("s1", max_calls=3)
        client = world.client()
        calls = [
            client.ask(address_of("s1"), "wait", b"", timeout=60.0) for _ in range(4)
        ]
        world.settle()
        assert [has_fired(call) for call in calls] == [False, False, False, True]
        assert isinstance(error_of(calls[3]), OverloadedError)
        world.inboxes["s1"].waiting[0].callback(b"")
        world.settle()
        again = client.ask(address_of("s1"), "mirror", b"", timeout=1.0)
        world.settle()
        assert result_of(again) == b""

    def test_calls_that_failed_are_not_under_way(self, world: World) -> None:
        world.server("s1", max_calls=3)
        client = world.client()
        for _ in range(5):
            call = client.ask(address_of("s1"), "fail", b"", timeout=1.0)
            world.settle()
            assert "no reason given" in str(error_of(call))

    def test_bytes_of_calls_under_way_are_bounded(self, world: World) -> None:
        world.server("s1", max_unsent_bytes=10_000)
        client = world.client()
        calls = [
            client.ask(address_of("s1"), "wait", bytes(6_000), timeout=60.0)
            for _ in range(3)
        ]
        world.settle()
        assert [has_fired(call) for call in calls] == [False, False, True]
        assert isinstance(error_of(calls[2]), OverloadedError)

    def test_a_client_that_waits_for_too_much_is_refused(self, world: World) -> None:
        """The bound holds at the caller too, connected or not."""
        world.server("s1")
        client = world.client(max_calls=2)
        for _ in range(2):
            calls = [
                client.ask(address_of("s1"), "wait", b"", timeout=0.5) for _ in range(3)
            ]
            assert isinstance(error_of(calls[2]), OverloadedError)
            world.settle(0.6)

    def test_a_call_that_was_given_up_makes_room(self, world: World) -> None:
        """Even while there is no connection yet."""
        world.server("s1")
        client = world.client(max_calls=1)
        client.ask(address_of("s1"), "mirror", b"a", timeout=1.0).addErrback(
            str
        ).cancel()
        call = client.ask(address_of("s1"), "mirror", b"ab", timeout=1.0)
        world.settle()
        assert result_of(call) == b"ba"

    def test_who_takes_no_answers_is_dropped(self, world: World) -> None:
        """Answers are never lost silently, and never pile up."""
        server = world.server("s1", max_unsent_bytes=10_000)
        client = world.client()
        calls = [
            client.ask(address_of("s1"), "wait", b"", timeout=60.0) for _ in range(3)
        ]
        world.settle()
        (connection,) = server._connections
        connection.pauseProducing()
        for waiting in world.inboxes["s1"].waiting:
            waiting.callback(bytes(20_000))
        world.settle()
        assert isinstance(error_of(calls[2]), OutcomeUnknownError)
        assert not server._connections

    def test_a_call_that_is_too_large_is_refused_here(self, world: World) -> None:
        """The connection and other calls on it do not suffer."""
        world.server("s1")
        client = world.client(max_message_bytes=100_000)
        call = client.ask(address_of("s1"), "mirror", bytes(100_000), timeout=1.0)
        world.settle()
        assert isinstance(error_of(call), InvalidCommandError)

    def test_an_answer_that_is_too_large_is_refused_there(self, world: World) -> None:
        world.server("s1", max_message_bytes=100_000)
        client = world.client()
        call = client.ask(address_of("s1"), "wait", b"", timeout=1.0)
        world.settle()
        world.inboxes["s1"].waiting[0].callback(bytes(100_000))
        world.settle()
        assert "100000 bytes" in str(error_of(call))


class AskTests:
    """Calls, from the caller's side."""

    def test_a_connection_is_shared(self, world: World) -> None:
        """Calls that wait for the connection go out in the order they came."""
        server = world.server("s1")
        client = world.client()
        for number in range(10):
            client.ask(address_of("s1"), "mirror", b"%d" % number, timeout=1.0)
        world.settle()
        assert len(server._connections) == 1
        assert [payload for _, payload in world.inboxes["s1"].calls] == [
            b"%d" % number for number in range(10)
        ]

    def test_a_server_that_came_back_is_called_again(self, world: World) -> None:
        """A lost connection is replaced by the next call."""
        server = world.server("s1")
        client = world.client()
        for _ in range(2):
            call = client.ask(address_of("s1"), "mirror", b"ab", timeout=1.0)
            world.settle()
            assert result_of(call) == b"ba"
            server.close()
            world.settle()
            call = client.ask(address_of("s1"), "mirror", b"ab", timeout=1.0)
            world.settle()
            assert isinstance(error_of(call), UnreachableError)
            server = world.server("s1")
            world.settle(0.02)

    @pytest.mark.parametrize("is_there", [False, True])
    def test_a_storm_of_calls(self, world: World, *, is_there: bool) -> None:
        """A server that cannot be reached is tried less and less often."""
        if is_there:
            world.server("s1", max_connections=1)
            world.stranger("s1")  # so that all others are dropped
        client = world.client()
        dials: list[float] = []
        dial = client.dial

        async def counting(address: str) -> Any:
            dials.append(world.reactor.seconds())
            return await dial(address)

        client.dial = counting  # type: ignore[method-assign]
        for _ in range(300):
            call = client.ask(address_of("s1"), "mirror", b"ab", timeout=1.0)
            world.settle(0.01)
            assert isinstance(error_of(call), UnreachableError | OutcomeUnknownError)
        assert 8 <= len(dials) <= 20
        pauses = [later - earlier for earlier, later in pairwise(dials)]
        assert 0.25 <= pauses[-1] <= 0.52

    def test_no_connection_in_time(self, world: World) -> None:
        """Nothing was sent, so the call may be made again."""
        world.server("s1")
        world.reactor.silence(port_of("s1"))
        client = world.client(connect_timeout=2.0)
        brief = client.ask(address_of("s1"), "mirror", b"ab", timeout=0.5)
        patient = client.ask(address_of("s1"), "mirror", b"ab", timeout=60.0)
        world.settle(0.6)
        assert isinstance(error_of(brief), UnreachableError)
        assert not has_fired(patient)
        world.settle(1.5)
        assert isinstance(error_of(patient), UnreachableError)
        world.reactor.restore(port_of("s1"))
        again = client.ask(address_of("s1"), "mirror", b"ab", timeout=1.0)
        world.settle()
        assert result_of(again) == b"ba"

    def test_the_timeout_covers_the_connection_too(self, world: World) -> None:
        world.server("s1")
        world.reactor.silence(port_of("s1"))
        client = world.client()
        call = client.ask(address_of("s1"), "wait", b"", timeout=1.5)
        world.settle(1.0)
        world.reactor.restore(port_of("s1"))
        world.settle(0.4)
        assert not has_fired(call)
        world.settle(0.2)
        assert isinstance(error_of(call), TimedOutError)

    def test_cancel_before_the_connection(self, world: World) -> None:
        """What was cancelled is never sent."""
        world.server("s1")
        client = world.client()
        call = client.ask(address_of("s1"), "mirror", b"ab", timeout=1.0)
        other = client.ask(address_of("s1"), "mirror", b"cd", timeout=1.0)
        call.cancel()
        assert isinstance(error_of(call), CancelledError)
        world.settle()
        assert result_of(other) == b"dc"
        assert world.inboxes["s1"].calls == [("mirror", b"cd")]

    def test_a_server_that_stops_answering(self, world: World) -> None:
        """Its silence is noticed by pings, long before a patient call ends."""
        world.server("s1")
        client = world.client(peer_timeout=5.0)
        call = client.ask(address_of("s1"), "wait", b"", timeout=600.0)
        world.settle()
        world.reactor.silence(port_of("s1"))
        world.settle(10.0)
        assert not has_fired(call)
        world.reactor.restore(port_of("s1"))
        world.settle()
        assert isinstance(error_of(call), OutcomeUnknownError)

    def test_an_unexpected_error_is_an_unknown_outcome(self, world: World) -> None:
        """It is a bug there, and logged there."""
        world.server("s1")
        client = world.client()
        call = client.ask(address_of("s1"), "wait", b"", timeout=1.0)
        world.settle()
        with warnings() as logged:
            world.inboxes["s1"].waiting[0].errback(ZeroDivisionError("a bug"))
            world.settle()
        assert isinstance(error_of(call), OutcomeUnknownError)
        assert "a bug" in logged[0]

    def test_an_address_that_means_nothing(self, world: World) -> None:
        """Twice: the first failure leaves nothing behind."""
        client = world.client()
        for _ in range(2):
            call = client.ask("telegraph:s1", "mirror", b"", timeout=1.0)
            assert isinstance(error_of(call), UnreachableError)

    def test_close_ends_calls_that_wait(self, world: World) -> None:
        """Those that were not sent were not sent."""
        world.server("s1")
        world.reactor.silence(port_of("s1"))
        client = world.client()
        call = client.ask(address_of("s1"), "mirror", b"", timeout=1.0)
        world.settle()
        done = client.close()
        assert isinstance(error_of(call), UnreachableError)
        world.settle()
        assert result_of(done) is None
        assert world.reactor.getDelayedCalls() == []


class ListenTests:
    """Beginning and ending to listen."""

    def test_an_address_that_means_nothing(self, world: World) -> None:
        server = world.client()
        listening = server.listen(
            Identity("c", "s1", "1"), "telegraph:s1", RecordingInbox()
        )
        assert isinstance(error_of(listening), UnreachableError)

    def test_a_free_port(self, world: World) -> None:
        """Port 0 stands for any free one, and the transport knows which."""
        server = world.client()
        assert server.port == 0
        inbox = RecordingInbox()
        result_of(server.listen(Identity("c", "s1", "1"), "tcp:127.0.0.1:0", inbox))
        client = world.client()
        call = client.ask(f"tcp:127.0.0.1:{server.port}", "mirror", b"ab", timeout=1.0)
        world.settle()
        assert result_of(call) == b"ba"

    def test_peers_may_be_connected_before_listening(self, world: World) -> None:
        """The links begin when there is an identity to introduce."""
        world.server("s2")
        one = world.client()
        one.connect("s2", address_of("s2"))
        world.settle(1.0)
        result_of(
            one.listen(Identity("c", "s1", "1"), address_of("s1"), RecordingInbox())
        )
        world.settle(0.1)
        assert world.passes(one, "s2")

    def test_close_leaves_nothing_behind(self, world: World) -> None:
        """No timer, no connection, no port."""
        one, two = world.pair()
        first, second = one.close(), one.close()
        two.close()
        world.settle()
        assert result_of(first) is result_of(second) is None
        assert world.reactor.getDelayedCalls() == []
        assert not one._connections
        assert result_of(one.close()) is None

    def test_close_waits_for_what_was_written(self, world: World) -> None:
        """An answer given just before close still arrives."""
        server = world.server("s1")
        client = world.client()
        call = client.ask(address_of("s1"), "wait", b"", timeout=1.0)
        world.settle()
        world.inboxes["s1"].waiting[0].callback(b"farewell")
        server.close()
        world.settle()
        assert result_of(call) == b"farewell"


class CheckTests:
    """What is wrong before a start."""

    def findings(self, members: dict[str, str], *serve: str) -> list[tuple[str, str]]:
        """Return ids and paths of what is found."""
        found = AMPTransport.check(AMPOptions(), members, serve)
        return [(finding.id, finding.path) for finding in found]

    def test_good_addresses(self) -> None:
        members = {"s1": "tcp:127.0.0.1:9101", "s2": "tcp:db.example:9102"}
        assert self.findings(members) == []

    def test_bad_addresses(self) -> None:
        """Every one of them is reported, whether it is served here or not."""
        members = {"s1": "9101", "s2": "tcp:127.0.0.1:0", "s3": "ssl:h:1"}
        assert self.findings(members, "s1") == [
            ("transport.E101", "members.s1"),
            ("transport.E101", "members.s2"),
            ("transport.E101", "members.s3"),
        ]

    def test_bad_options(self) -> None:
        options = AMPOptions(connect_timeout=0.0, max_calls=-1)
        found = list(AMPTransport.check(options, {}, ()))
        assert [(finding.id, finding.path) for finding in found] == [
            ("transport.E103", "transport.options.connect_timeout"),
            ("transport.E103", "transport.options.max_calls"),
        ]
        assert found[0].hint == "the default is 2.0"

    def test_no_options_are_the_defaults(self) -> None:
        assert list(AMPTransport.check(None, {}, ())) == []
