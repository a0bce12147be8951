"""Tests of adapters.transport.memory: the suite, and the network's switches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from twisted.trial.unittest import TestCase

from adapters.transport.memory import MemoryNetwork, MemoryOptions, MemoryTransport
from consensus.core.messages import RequestVote
from consensus.core.values import Identity
from consensus.errors import (
    OutcomeUnknownError,
    ProtocolError,
    TimedOutError,
    UnreachableError,
)
from consensus.testing.transport import TransportSuite
from consensus.testing.transport_inbox import RecordingInbox
from tests.support.amp import warnings
from tests.support.deferreds import error_of, result_of
from tests.support.servers import VirtualReactor

if TYPE_CHECKING:
    from consensus.core.values import Address, ServerId
    from consensus.interfaces import Transport


class MemoryTransportSuiteTests(TransportSuite, TestCase):
    """The conformance suite, in virtual time."""

    def setUp(self) -> None:
        self.clock = VirtualReactor()
        self.options = MemoryOptions(network=self.id())

    def make_transport(self) -> Transport:
        return MemoryTransport(self.options, self.clock, self.clock)

    def address(self, name: ServerId) -> Address:
        return f"memory of {name}"

    async def settle(self, seconds: float = 0.0) -> None:
        self.clock.advance(seconds)
        while any(call.getTime() <= self.clock.seconds() for call in self.clock.calls):
            self.clock.advance(0)


class MemoryNetworkTests:
    """What only this transport has: a network with switches."""

    @pytest.fixture(autouse=True)
    def two_servers(self, request: pytest.FixtureRequest) -> None:
        """Start s1 and s2 on a network of this test's own."""
        self.clock = VirtualReactor()
        network = request.node.nodeid
        self.options = MemoryOptions(network=network, max_waiting=5)
        self.network = MemoryNetwork.named(network)
        self.inboxes: dict[str, RecordingInbox] = {}
        self.servers = {name: self.serve(name) for name in ("s1", "s2")}
        for name, server in self.servers.items():
            for peer in self.servers:
                if peer != name:
                    server.connect(peer, "")
        self.clock.advance(0)

    def serve(self, name: str) -> MemoryTransport:
        server = MemoryTransport(self.options, self.clock, self.clock)
        self.inboxes[name] = RecordingInbox()
        listening = server.listen(Identity("c", name, "1"), "", self.inboxes[name])
        assert result_of(listening) is None
        return server

    def send(self, sender: str, receiver: str, term: int = 1) -> bool:
        """Send a vote and say whether it arrived."""
        inbox = self.inboxes[receiver]
        inbox.messages.clear()
        self.servers[sender].send(receiver, RequestVote(sender, term, 0, 0))
        self.clock.advance(0)
        return bool(inbox.messages)

    def test_an_empty_address_is_the_servers_name(self) -> None:
        """Servers that say nothing of addresses find each other by name."""
        assert self.network.listening["s1"] is self.servers["s1"]
        assert self.send("s1", "s2")

    def test_networks_are_apart(self) -> None:
        """The same address in another network is another place."""
        other = MemoryTransport(
            MemoryOptions(network="another"), self.clock, self.clock
        )
        call = other.ask("s1", "mirror", b"", timeout=1.0)
        self.clock.advance(0)
        assert isinstance(error_of(call), UnreachableError)

    def test_a_cut_is_one_way(self) -> None:
        """What is cut from s1 to s2 still passes from s2 to s1."""
        self.network.cut("s1", "s2")
        assert not self.send("s1", "s2")
        assert self.send("s2", "s1")

    def test_heal_joins_what_was_cut(self) -> None:
        self.network.cut("s1", "s2")
        self.network.down("s1")
        self.network.heal()
        assert self.send("s1", "s2")

    def test_a_server_that_is_down_is_cut_off_both_ways(self) -> None:
        self.network.down("s2")
        assert not self.send("s1", "s2")
        assert not self.send("s2", "s1")
        self.network.up("s2")
        assert self.send("s1", "s2")

    def test_a_server_that_is_down_cannot_be_called(self) -> None:
        """Nothing is sent, so the call may be made again."""
        self.network.down("s2")
        call = self.servers["s1"].ask("s2", "mirror", b"", timeout=1.0)
        self.clock.advance(0)
        assert isinstance(error_of(call), UnreachableError)

    def test_a_lost_answer_is_a_timeout(self) -> None:
        """The call arrived, but the way back is cut."""
        self.network.cut("s2", "s1")
        call = self.servers["s1"].ask("s2", "mirror", b"", timeout=1.0)
        self.clock.advance(0)
        self.clock.advance(0)
        assert self.inboxes["s2"].calls == [("mirror", b"")]
        self.clock.advance(1.0)
        assert isinstance(error_of(call), TimedOutError)

    def test_a_timeout_before_the_call_was_made(self) -> None:
        """A call that has not left yet has an outcome: none."""
        call = self.servers["s1"].ask("s2", "mirror", b"", timeout=0.0)
        self.clock.advance(0)
        assert isinstance(error_of(call), UnreachableError)

    def test_waiting_messages_are_bounded(self) -> None:
        """More than max_waiting messages are lost, and counted."""
        for term in range(1, 9):
            self.servers["s1"].send("s2", RequestVote("s1", term, 0, 0))
        self.clock.advance(0)
        assert [m.term for m in self.inboxes["s2"].messages] == [1, 2, 3, 4, 5]
        assert self.servers["s1"].lost_messages == 3

    def test_what_is_sent_while_delivering_waits_for_a_turn(self) -> None:
        """A reply to a message never arrives in the turn of the message."""
        turns = []

        class Replying(RecordingInbox):
            def __init__(self, test: MemoryNetworkTests) -> None:
                super().__init__()
                self.test = test

            def deliver(self, *messages: Any) -> None:
                (message,) = messages
                turns.append(message.term)
                if message.term < 3:
                    self.test.servers["s1"].send(
                        "s2", RequestVote("s1", message.term + 1, 0, 0)
                    )

        self.servers["s2"].close()
        server = MemoryTransport(self.options, self.clock, self.clock)
        server.listen(Identity("c", "s2", "1"), "", Replying(self))
        self.servers["s1"].send("s2", RequestVote("s1", 1, 0, 0))
        seen = []
        for call in range(3):
            self.clock.calls[0].func()
            del self.clock.calls[0]
            seen.append((call, len(turns)))
        assert seen == [(0, 1), (1, 2), (2, 3)]

    def test_peers_meet_before_they_talk(self) -> None:
        """As connections are made at once, whoever has something to say first."""
        for name, peer in (("s1", "s2"), ("s2", "s1")):
            assert self.inboxes[name].met == [Identity("c", peer, "1")]
        assert self.send("s1", "s2")
        assert len(self.inboxes["s1"].met) == 1

    def test_peers_that_are_apart_do_not_meet(self) -> None:
        """Nor when one direction alone is cut; they do once it is joined."""
        self.network.cut("s2", "s3")
        self.servers["s3"] = self.serve("s3")
        self.servers["s3"].connect("s2", "")
        self.clock.advance(0)
        assert self.inboxes["s3"].met == []
        self.network.heal()
        assert self.send("s3", "s2")
        assert self.inboxes["s3"].met == [Identity("c", "s2", "1")]
        assert self.inboxes["s2"].met[-1] == Identity("c", "s3", "1")

    def test_who_was_cut_off_is_looked_at_again(self) -> None:
        """It may have lost its disk meanwhile."""
        self.network.down("s2")
        self.network.up("s2")
        self.inboxes["s1"].unwelcome["s2"] = ProtocolError("go away")
        assert not self.send("s1", "s2")

    def test_a_refusal_is_logged_once_at_each_end(self) -> None:
        """However often they try."""
        self.network.down("s2")
        self.network.up("s2")
        self.inboxes["s1"].unwelcome["s2"] = ProtocolError("go away")
        with warnings() as logged:
            for _ in range(3):
                assert not self.send("s1", "s2")
                assert not self.send("s2", "s1")
                self.clock.advance(0)
        assert logged == [
            "s1 refuses server s2: go away",
            "s2 is refused by server s1: go away",
        ]

    def test_a_message_in_anothers_name_is_lost(self) -> None:
        """A server speaks for itself only."""
        self.servers["s1"].send("s2", RequestVote("s3", 1, 0, 0))
        self.clock.advance(0)
        assert self.inboxes["s2"].messages == []

    def test_an_answer_that_fails_unexpectedly_is_an_unknown_outcome(self) -> None:
        """Errors of other classes are bugs: logged there, unknown here."""
        call = self.servers["s1"].ask("s2", "wait", b"", timeout=1.0)
        self.clock.advance(0)
        self.clock.advance(0)
        with warnings() as logged:
            self.inboxes["s2"].waiting[0].errback(ZeroDivisionError("a bug"))
        self.clock.advance(0)
        assert isinstance(error_of(call), OutcomeUnknownError)
        assert "a bug" in logged[0]

    def test_closing_the_caller_ends_its_calls(self) -> None:
        """What was asked before it got away was not sent."""
        call = self.servers["s1"].ask("s2", "mirror", b"", timeout=1.0)
        self.servers["s1"].close()
        assert isinstance(error_of(call), UnreachableError)
        self.clock.advance(0)
        assert self.inboxes["s2"].calls == []
