"""
The conformance suite of transports.

The author of a transport writes one class::

    class TelegraphTests(TransportSuite, twisted.trial.unittest.TestCase):
        def make_transport(self): ...
        def address(self, name): ...
        async def settle(self, seconds=0.0): ...

and has a test for each guarantee of :class:`~consensus.interfaces.Transport`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from consensus.core.messages import (
    AppendEntries,
    InstallSnapshot,
    RequestVote,
    RequestVoteResponse,
)
from consensus.core.values import Entry, EntryKind, Identity, SnapshotMeta
from consensus.errors import (
    OutcomeUnknownError,
    ProtocolError,
    ReplacedError,
    TimedOutError,
    UnreachableError,
)
from consensus.testing.transport_inbox import ERRORS, MESSAGES, RecordingInbox

if TYPE_CHECKING:
    from collections.abc import Callable

    from consensus.core.values import Address, ServerId
    from consensus.interfaces import Transport


class TransportSuite(ABC):
    """
    What every transport has to do; to be mixed with trial's ``TestCase``.

    Three methods are the author's: :meth:`make_transport`, :meth:`address`
    and :meth:`settle`.  Time is the author's too: no test looks at a clock.
    """

    #: How often a test lets things settle before it gives up on them.
    patience = 100

    @abstractmethod
    def make_transport(self) -> Transport:
        """Return a new transport that reaches the others that this returned."""

    @abstractmethod
    def address(self, name: ServerId) -> Address:
        """Return where the server *name* is to listen; always the same."""

    @abstractmethod
    async def settle(self, seconds: float = 0.0) -> None:
        """Let *seconds* of the transports' time pass, and what is under way."""

    # The tests' own means.

    def identity(
        self, name: ServerId, incarnation: str = "first", cluster_id: str = ""
    ) -> Identity:
        """Return who the server *name* is."""
        return Identity("c", name, incarnation, cluster_id)

    async def served(
        self, name: ServerId, inbox: RecordingInbox, incarnation: str = "first"
    ) -> Transport:
        """Return a transport that listens as *name*."""
        transport = self.make_transport()
        identity = self.identity(name, incarnation)
        listening = transport.listen(identity, self.address(name), inbox)
        await self.outcome(listening)
        return transport

    async def pair(self) -> tuple[Transport, Transport, RecordingInbox, RecordingInbox]:
        """Return two servers, s1 and s2, that know each other."""
        first, second = RecordingInbox(), RecordingInbox()
        one = await self.served("s1", first)
        two = await self.served("s2", second)
        one.connect("s2", self.address("s2"))
        two.connect("s1", self.address("s1"))
        await self.reach(one, "s2", second)
        second.messages.clear()
        return one, two, first, second

    async def reach(
        self, sender: Transport, peer: ServerId, inbox: RecordingInbox
    ) -> None:
        """Send votes from s1 to *peer* until one arrives in *inbox*."""

        def has_arrived() -> bool:
            sender.send(peer, MESSAGES[0])
            return bool(inbox.messages)

        assert await self.until(has_arrived), f"nothing reached {peer}"
        await self.settle()

    async def found_later(self, sender: Transport) -> RecordingInbox:
        """Let s2 start when *sender* has missed it; return what it was sent."""
        sender.send("s2", MESSAGES[0])
        await self.settle(0.5)
        inbox = RecordingInbox()
        await self.served("s2", inbox)
        await self.reach(sender, "s2", inbox)
        return inbox

    async def until(self, condition: Callable[[], bool]) -> bool:
        """Let time pass until *condition* holds; say whether it came to that."""
        for _ in range(self.patience):
            if condition():
                return True
            await self.settle(0.05)
        return condition()

    async def outcome(self, result: Deferred[Any]) -> Any:
        """Return what *result* fires with, or raise what it fails with."""
        fired: list[Any] = []
        result.addBoth(fired.append)
        assert await self.until(lambda: bool(fired)), "the Deferred never fired"
        if isinstance(fired[0], Failure):
            fired[0].raiseException()
        return fired[0]

    async def failure(self, result: Deferred[Any]) -> Exception:
        """Return what *result* fails with."""
        try:
            value = await self.outcome(result)
        except Exception as error:  # noqa: BLE001 - which it is, the test will see
            return error
        message = f"it did not fail but gave {value!r}"
        raise AssertionError(message)

    # Messages.

    async def test_messages_arrive_as_they_were_sent(self) -> None:
        """Every class of message arrives equal to what was sent, in order."""
        one, _, _, inbox = await self.pair()
        for message in MESSAGES:
            one.send("s2", message)
        await self.until(lambda: len(inbox.messages) == len(MESSAGES))
        assert tuple(inbox.messages) == MESSAGES

    async def test_many_messages_keep_their_order(self) -> None:
        """What one server sends to one peer arrives in the order of sending."""
        one, _, _, inbox = await self.pair()
        sent = [RequestVote("s1", term, 0, 0) for term in range(1, 501)]
        for message in sent:
            one.send("s2", message)
        await self.until(lambda: len(inbox.messages) == len(sent))
        assert inbox.messages == sent

    async def test_a_large_message_arrives(self) -> None:
        """An entry of a mebibyte, the largest command by default, passes."""
        one, _, _, inbox = await self.pair()
        entry = Entry(1, 7, EntryKind.COMMAND, bytes(range(256)) * 4096)
        message = AppendEntries("s1", 7, 0, 0, 0, 1, (entry,))
        one.send("s2", message)
        await self.until(lambda: bool(inbox.messages))
        assert inbox.messages == [message]

    async def test_send_does_not_deliver_before_it_returns(self) -> None:
        """A message arrives in a later turn, never inside of the call."""
        one, _, _, inbox = await self.pair()
        one.send("s2", MESSAGES[0])
        assert inbox.messages == []

    async def test_messages_travel_both_ways(self) -> None:
        """Each of two servers reaches the other."""
        _, two, inbox, _ = await self.pair()
        answer = RequestVoteResponse("s2", 7, granted=True)

        def has_arrived() -> bool:
            two.send("s1", answer)
            return bool(inbox.messages)

        assert await self.until(has_arrived)
        assert inbox.messages[0] == answer

    async def test_a_peer_that_was_never_connected_is_answered(self) -> None:
        """A new server, which knows no address yet, answers who writes to it."""
        first, second = RecordingInbox(), RecordingInbox()
        one = await self.served("s1", first)
        two = await self.served("s2", second)
        one.connect("s2", self.address("s2"))
        await self.reach(one, "s2", second)
        answer = RequestVoteResponse("s2", 7, granted=True)
        two.send("s1", answer)
        await self.until(lambda: bool(first.messages))
        assert first.messages == [answer]

    async def test_a_message_to_a_stranger_is_lost(self) -> None:
        """Sending to somebody who was never heard of does nothing."""
        one, _, _, inbox = await self.pair()
        one.send("s9", MESSAGES[0])
        await self.settle(0.1)
        assert inbox.messages == []

    async def test_a_peer_that_starts_later_is_found(self) -> None:
        """The connection is made without being asked for again."""
        one = await self.served("s1", RecordingInbox())
        one.connect("s2", self.address("s2"))
        await self.found_later(one)

    async def test_a_peer_that_comes_back_is_found(self) -> None:
        """A connection that is lost is made again without being asked for."""
        one, two, _, _ = await self.pair()
        await self.outcome(two.close())
        await self.found_later(one)

    async def test_a_moved_peer_is_found_at_its_new_address(self) -> None:
        """A second connect with another address moves the peer."""
        one = await self.served("s1", RecordingInbox())
        one.connect("s2", self.address("s3"))
        await self.settle(0.1)
        inbox = RecordingInbox()
        await self.served("s2", inbox)
        one.connect("s2", self.address("s2"))
        await self.reach(one, "s2", inbox)

    async def test_a_forgotten_peer_gets_nothing(self) -> None:
        """After disconnect messages to the peer are dropped."""
        one, two, first, inbox = await self.pair()
        two.send("s1", RequestVote("s2", 7, 0, 0))
        assert await self.until(lambda: bool(first.messages))
        one.disconnect("s2")
        one.send("s2", MESSAGES[0])
        await self.settle(0.5)
        assert inbox.messages == []

    async def test_large_messages_do_not_hold_up_small_ones(self) -> None:
        """Sixteen chunks of a snapshot and the heartbeat after them arrive."""
        one, _, _, inbox = await self.pair()
        size = 60 * 1024
        meta = SnapshotMeta(9, 7, b"", 1, chunks=16, size=16 * size)
        for number in range(16):
            one.send("s2", InstallSnapshot("s1", 7, meta, number, bytes(size)))
        heartbeat = AppendEntries("s1", 7, 9, 7, 9, 1)
        one.send("s2", heartbeat)
        assert await self.until(lambda: heartbeat in inbox.messages)
        chunks = [m for m in inbox.messages if isinstance(m, InstallSnapshot)]
        assert [chunk.number for chunk in chunks] == list(range(16))

    # Who may talk to whom.

    async def test_both_ends_look_at_each_other(self) -> None:
        """Each inbox is asked whether the other server is welcome."""
        _, _, first, second = await self.pair()
        assert self.identity("s2") in first.met
        assert self.identity("s1") in second.met

    async def test_a_peer_that_comes_back_is_looked_at_again(self) -> None:
        """It may be another one."""
        one, two, first, _ = await self.pair()
        await self.outcome(two.close())
        one.send("s2", MESSAGES[0])
        await self.settle(0.5)
        first.met.clear()
        inbox = RecordingInbox()
        await self.served("s2", inbox, incarnation="second")
        await self.reach(one, "s2", inbox)
        assert first.met
        assert {peer.incarnation for peer in first.met} == {"second"}

    async def test_nothing_passes_a_server_that_refuses_the_other(self) -> None:
        """Neither way, whichever of the two connects."""
        for refusing in ("s1", "s2"):
            inboxes = {"s1": RecordingInbox(), "s2": RecordingInbox()}
            inboxes[refusing].unwelcome = dict.fromkeys(inboxes, ProtocolError("go"))
            one, two = [await self.served(*each) for each in inboxes.items()]
            one.connect("s2", self.address("s2"))
            two.connect("s1", self.address("s1"))
            await self.exchange(one, two)
            assert all(not inbox.messages for inbox in inboxes.values())
            await self.outcome(one.close())
            await self.outcome(two.close())

    async def test_who_is_refused_is_told_why(self) -> None:
        """The sentence and the class of the error arrive."""
        first, second = RecordingInbox(), RecordingInbox()
        first.unwelcome["s2"] = ReplacedError("'s2' has lost its disk")
        await self.served("s1", first)
        two = await self.served("s2", second)
        two.connect("s1", self.address("s1"))

        def is_told() -> bool:
            two.send("s1", RequestVote("s2", 7, 0, 0))
            return bool(second.refusals)

        assert await self.until(is_told)
        peer, error = second.refusals[0]
        assert peer == "s1"
        assert type(error) is ReplacedError
        assert str(error) == "'s2' has lost its disk"

    async def test_who_becomes_welcome_is_let_in(self) -> None:
        """A refused peer goes on trying."""
        first, second = RecordingInbox(), RecordingInbox()
        second.unwelcome["s1"] = ProtocolError("not yet")
        one = await self.served("s1", first)
        await self.served("s2", second)
        one.connect("s2", self.address("s2"))
        for _ in range(5):
            one.send("s2", MESSAGES[0])
            await self.settle(0.5)
        assert second.messages == []
        second.unwelcome.clear()
        await self.reach(one, "s2", second)

    async def test_a_new_identity_is_said_from_then_on(self) -> None:
        """Who meets the server later gets to know its cluster's id."""
        one, two, _, _ = await self.pair()
        one.introduce(self.identity("s1", cluster_id="founded"))
        await self.outcome(two.close())
        inbox = await self.found_later(one)
        assert {peer.cluster_id for peer in inbox.met} == {"founded"}

    async def test_with_a_new_identity_all_are_looked_at_again(self) -> None:
        """Who is not welcome any more is parted from."""
        one, two, first, second = await self.pair()
        await self.exchange(one, two)
        assert first.messages
        first.unwelcome["s2"] = ProtocolError("of another cluster")
        one.introduce(self.identity("s1", cluster_id="founded"))
        await self.settle(0.1)
        first.messages.clear()
        second.messages.clear()
        await self.exchange(one, two)
        assert first.messages == second.messages == []

    async def exchange(self, one: Transport, two: Transport) -> None:
        """Let s1 and s2 send each other some messages."""
        for _ in range(5):
            one.send("s2", MESSAGES[0])
            two.send("s1", RequestVote("s2", 7, 0, 0))
            await self.settle(0.1)

    async def test_a_peer_that_is_not_who_it_should_be_is_refused(self) -> None:
        """A server found at another's address gets none of its messages."""
        inbox = RecordingInbox()
        one = await self.served("s1", RecordingInbox())
        await self.served("s3", inbox)
        one.connect("s2", self.address("s3"))
        for _ in range(5):
            one.send("s2", MESSAGES[0])
            await self.settle(0.1)
        assert inbox.messages == []

    async def test_an_address_is_one_servers(self) -> None:
        """Listening where somebody listens already fails."""
        await self.served("s1", RecordingInbox())
        other = self.make_transport()
        listening = other.listen(
            Identity("c", "s2", "second"), self.address("s1"), RecordingInbox()
        )
        assert isinstance(await self.failure(listening), UnreachableError)

    # Calls.

    async def test_a_call_is_answered(self) -> None:
        """Method and payload arrive, and the answer comes back; no listen."""
        inbox = RecordingInbox()
        await self.served("s1", inbox)
        client = self.make_transport()
        answer = await self.outcome(
            client.ask(self.address("s1"), "mirror", b"\0abc", timeout=5.0)
        )
        assert inbox.calls == [("mirror", b"\0abc")]
        assert answer == b"cba\0"

    async def test_payloads_of_all_sizes_pass(self) -> None:
        """Nothing, the limits of 16-bit lengths, and a mebibyte pass."""
        await self.served("s1", RecordingInbox())
        client = self.make_transport()
        for size in (0, 1, 65_534, 65_535, 65_536, 131_070, 131_071, 1_048_576):
            payload = (b"0123456789abcdef" * (size // 16 + 1))[:size]
            answer = await self.outcome(
                client.ask(self.address("s1"), "mirror", payload, timeout=5.0)
            )
            assert answer == payload[::-1], size

    async def test_errors_are_raised_at_the_caller(self) -> None:
        """An error arrives as its class, with its message and its fields."""
        inbox = RecordingInbox()
        await self.served("s1", inbox)
        client = self.make_transport()
        for inbox.error in ERRORS:
            error = await self.failure(
                client.ask(self.address("s1"), "fail", b"", timeout=5.0)
            )
            assert type(error) is type(inbox.error)
            assert str(error) == str(inbox.error)
            for name in inbox.error.fields:
                assert getattr(error, name) == getattr(inbox.error, name)

    async def test_a_slow_call_does_not_hold_up_others(self) -> None:
        """Answers come in the order in which they are given."""
        inbox = RecordingInbox()
        await self.served("s1", inbox)
        client = self.make_transport()
        slow = client.ask(self.address("s1"), "wait", b"", timeout=60.0)
        quick = client.ask(self.address("s1"), "mirror", b"ab", timeout=60.0)
        assert await self.outcome(quick) == b"ba"
        inbox.waiting[0].callback(b"at last")
        assert await self.outcome(slow) == b"at last"

    async def test_calling_nobody_is_unreachable(self) -> None:
        """Where nobody listens nothing is sent, and the error says so."""
        client = self.make_transport()
        call = client.ask(self.address("s1"), "mirror", b"", timeout=5.0)
        assert isinstance(await self.failure(call), UnreachableError)

    async def test_a_call_without_an_answer_times_out(self) -> None:
        """What was sent may have been done: the outcome is unknown."""
        inbox = RecordingInbox()
        await self.served("s1", inbox)
        client = self.make_transport()
        call = client.ask(self.address("s1"), "wait", b"", timeout=0.5)
        assert isinstance(await self.failure(call), TimedOutError)
        inbox.waiting[0].callback(b"too late")
        await self.settle(0.1)

    async def test_a_server_that_closes_leaves_the_outcome_unknown(self) -> None:
        """So does a connection that is lost while a call is under way."""
        inbox = RecordingInbox()
        server = await self.served("s1", inbox)
        client = self.make_transport()
        call = client.ask(self.address("s1"), "wait", b"", timeout=60.0)
        assert await self.until(lambda: bool(inbox.waiting))
        await self.outcome(server.close())
        error = await self.failure(call)
        assert isinstance(error, OutcomeUnknownError)
        assert not isinstance(error, TimedOutError)
        inbox.waiting[0].callback(b"to nobody")
        await self.settle(0.1)

    async def test_a_call_can_be_cancelled(self) -> None:
        """A cancelled call fails at once, and its answer is dropped."""
        inbox = RecordingInbox()
        await self.served("s1", inbox)
        client = self.make_transport()
        call = client.ask(self.address("s1"), "wait", b"", timeout=60.0)
        assert await self.until(lambda: bool(inbox.waiting))
        call.cancel()
        assert isinstance(await self.failure(call), CancelledError)
        inbox.waiting[0].callback(b"to nobody")
        await self.settle(0.1)

    # Closing.

    async def test_nothing_arrives_after_close(self) -> None:
        """A closed transport takes no messages and no calls."""
        one, two, _, inbox = await self.pair()
        await self.outcome(two.close())
        one.send("s2", MESSAGES[0])
        await self.settle(0.5)
        assert inbox.messages == []
        client = self.make_transport()
        call = client.ask(self.address("s2"), "mirror", b"", timeout=5.0)
        assert isinstance(await self.failure(call), UnreachableError)

    async def test_a_closed_transport_sends_nothing(self) -> None:
        """Messages are lost and calls fail, but nothing raises."""
        one, _, _, inbox = await self.pair()
        await self.outcome(one.close())
        one.send("s2", MESSAGES[0])
        call = one.ask(self.address("s2"), "mirror", b"", timeout=5.0)
        assert isinstance(await self.failure(call), UnreachableError)
        assert inbox.messages == []

    async def test_close_twice(self) -> None:
        """A second close does no harm, nor one of a transport never used."""
        one, _, _, _ = await self.pair()
        await self.outcome(one.close())
        await self.outcome(one.close())
        await self.outcome(self.make_transport().close())

    async def test_an_address_is_free_after_close(self) -> None:
        """A server can listen where another one did before."""
        server = await self.served("s1", RecordingInbox())
        await self.outcome(server.close())
        inbox = RecordingInbox()
        await self.served("s1", inbox)
        client = self.make_transport()
        call = client.ask(self.address("s1"), "mirror", b"ab", timeout=5.0)
        assert await self.outcome(call) == b"ba"
