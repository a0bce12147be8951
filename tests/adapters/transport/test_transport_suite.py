"""The conformance suite of transports catches those that break a promise."""

# Their names say what they do.
# ruff: noqa: D101

from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed

from adapters.transport.memory import MemoryOptions, MemoryTransport
from consensus.core.messages import AppendEntries, RequestVote
from consensus.errors import OutcomeUnknownError, TimedOutError, UnreachableError
from consensus.testing.transport import TransportSuite
from tests.support.servers import VirtualReactor

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.python.failure import Failure

    from consensus.core.messages import Message
    from consensus.core.values import Address, Identity, ServerId
    from consensus.errors import ProtocolError
    from consensus.interfaces import Inbox, Transport

_MOST = 1 << 16
_networks = count()


class ChangesMessages(MemoryTransport):
    def receive(self, sender: MemoryTransport, message: Message) -> None:
        if isinstance(message, RequestVote):
            message = replace(message, transfer=not message.transfer)
        super().receive(sender, message)


class TurnsMessagesRound(MemoryTransport):
    def later(self, work: Callable[[], None]) -> None:
        super().later(work)
        self._queue.rotate(1)


class LosesWhatIsLarge(MemoryTransport):
    def send(self, peer: ServerId, message: Message) -> None:
        entries = message.entries if isinstance(message, AppendEntries) else ()
        if all(len(entry.command) <= _MOST for entry in entries):
            super().send(peer, message)


class DeliversAtOnce(MemoryTransport):
    def later(self, work: Callable[[], None]) -> None:
        work()


class AnswersOnlyAcquaintances(MemoryTransport):
    def _route(self, peer: ServerId) -> MemoryTransport | None:
        return super()._route(peer) if peer in self._peers else None


class RaisesAtStrangers(MemoryTransport):
    def send(self, peer: ServerId, message: Message) -> None:
        if self._route(peer) is None:
            raise UnreachableError(peer)
        super().send(peer, message)


class FindsOnce(MemoryTransport):
    def connect(self, peer: ServerId, address: Address) -> None:
        if address in self.network.listening:
            super().connect(peer, address)


class StaysWhereItWas(MemoryTransport):
    def connect(self, peer: ServerId, address: Address) -> None:
        super().connect(peer, self._peers.get(peer, address))


class NeverForgets(MemoryTransport):
    def disconnect(self, peer: ServerId) -> None:
        pass


class LooksAtNobody(MemoryTransport):
    def _welcomes(self, found: MemoryTransport, peer: ServerId) -> bool:
        return found.identity is not None and found.identity.server == peer


class TellsNobody(MemoryTransport):
    def hear(self, peer: ServerId, error: ProtocolError) -> None:
        pass


class GivesUp(MemoryTransport):
    def hear(self, peer: ServerId, error: ProtocolError) -> None:
        super().hear(peer, error)
        self.disconnect(peer)


class StaysWhoItWas(MemoryTransport):
    def introduce(self, identity: Identity) -> None:
        pass


class TrustsAddresses(MemoryTransport):
    def _welcomes(self, found: MemoryTransport, peer: ServerId) -> bool:
        return super()._welcomes(found, found.name or peer)


class SharesAddresses(MemoryTransport):
    def listen(
        self, identity: Identity, address: Address, inbox: Inbox
    ) -> Deferred[None]:
        self.network.listening.pop(address, None)
        return super().listen(identity, address, inbox)


class CutsPayloads(MemoryTransport):
    def ask(
        self, address: Address, method: str, payload: bytes, timeout: float
    ) -> Deferred[bytes]:
        return super().ask(address, method, payload[:_MOST], timeout)


class FlattensErrors(MemoryTransport):
    def ask(
        self, address: Address, method: str, payload: bytes, timeout: float
    ) -> Deferred[bytes]:
        def flatten(failure: Failure) -> Any:
            raise OutcomeUnknownError(failure.getErrorMessage())

        return super().ask(address, method, payload, timeout).addErrback(flatten)


class NeverTimesOut(MemoryTransport):
    def ask(
        self, address: Address, method: str, payload: bytes, timeout: float
    ) -> Deferred[bytes]:
        return super().ask(address, method, payload, timeout * 1e6)


class ThinksItUnsent(MemoryTransport):
    def ask(
        self, address: Address, method: str, payload: bytes, timeout: float
    ) -> Deferred[bytes]:
        def unsent(failure: Failure) -> Any:
            failure.trap(TimedOutError)
            raise UnreachableError(failure.getErrorMessage())

        return super().ask(address, method, payload, timeout).addErrback(unsent)


class HearsAfterItsEnd(MemoryTransport):
    def close(self) -> Deferred[None]:
        super().close()
        self._is_closed = False
        self.network.listening[self._address] = self
        return succeed(None)


class RaisesAtItsEnd(MemoryTransport):
    def send(self, peer: ServerId, message: Message) -> None:
        if self._is_closed:
            raise UnreachableError(peer)
        super().send(peer, message)


class ClosesOnce(MemoryTransport):
    def close(self) -> Deferred[None]:
        if self._is_closed:
            return fail(UnreachableError("it is closed"))
        return super().close()


class KeepsItsAddress(MemoryTransport):
    def close(self) -> Deferred[None]:
        super().close()
        self.network.listening[self._address] = self
        return succeed(None)


#: Tests of the suite, and a transport that each has to catch.
BROKEN: list[tuple[str, type[MemoryTransport]]] = [
    ("test_messages_arrive_as_they_were_sent", ChangesMessages),
    ("test_many_messages_keep_their_order", TurnsMessagesRound),
    ("test_a_large_message_arrives", LosesWhatIsLarge),
    ("test_send_does_not_deliver_before_it_returns", DeliversAtOnce),
    ("test_a_peer_that_was_never_connected_is_answered", AnswersOnlyAcquaintances),
    ("test_a_message_to_a_stranger_is_lost", RaisesAtStrangers),
    ("test_a_peer_that_starts_later_is_found", FindsOnce),
    ("test_a_moved_peer_is_found_at_its_new_address", StaysWhereItWas),
    ("test_a_forgotten_peer_gets_nothing", NeverForgets),
    ("test_both_ends_look_at_each_other", LooksAtNobody),
    ("test_nothing_passes_a_server_that_refuses_the_other", LooksAtNobody),
    ("test_who_is_refused_is_told_why", TellsNobody),
    ("test_who_becomes_welcome_is_let_in", GivesUp),
    ("test_a_new_identity_is_said_from_then_on", StaysWhoItWas),
    ("test_with_a_new_identity_all_are_looked_at_again", StaysWhoItWas),
    ("test_a_peer_that_is_not_who_it_should_be_is_refused", TrustsAddresses),
    ("test_an_address_is_one_servers", SharesAddresses),
    ("test_payloads_of_all_sizes_pass", CutsPayloads),
    ("test_errors_are_raised_at_the_caller", FlattensErrors),
    ("test_calling_nobody_is_unreachable", FlattensErrors),
    ("test_a_call_without_an_answer_times_out", NeverTimesOut),
    ("test_a_call_without_an_answer_times_out", ThinksItUnsent),
    ("test_nothing_arrives_after_close", HearsAfterItsEnd),
    ("test_a_closed_transport_sends_nothing", RaisesAtItsEnd),
    ("test_close_twice", ClosesOnce),
    ("test_an_address_is_free_after_close", KeepsItsAddress),
]


class Suite(TransportSuite):
    """
    The suite, for one kind of the memory transport.

    Args:
        transport: Which.
    """

    def __init__(self, transport: type[MemoryTransport]) -> None:
        self.transport = transport
        self.clock = VirtualReactor()
        self.options = MemoryOptions(network=f"broken {next(_networks)}")

    def make_transport(self) -> Transport:
        return self.transport(self.options, self.clock, self.clock)

    def address(self, name: ServerId) -> Address:
        return f"memory of {name}"

    async def settle(self, seconds: float = 0.0) -> None:
        self.clock.advance(seconds)
        while any(call.getTime() <= self.clock.seconds() for call in self.clock.calls):
            self.clock.advance(0)

    def addCleanup(self, *_: object) -> None:
        """Let it lie: nothing outlives the test."""

    def run(self, test: str) -> None:
        """Run one of the tests; raise what it raises."""
        outcome: list[Any] = []
        Deferred.fromCoroutine(getattr(self, test)()).addBoth(outcome.append)
        if outcome[0] is not None:
            outcome[0].raiseException()


class SuiteTests:
    """The suite finds what is broken, and only that."""

    @pytest.mark.parametrize(("test", "transport"), BROKEN)
    def test_it_catches(self, test: str, transport: type[MemoryTransport]) -> None:
        """The test fails on the broken transport, and passes on the right one."""
        Suite(MemoryTransport).run(test)
        with pytest.raises((AssertionError, UnreachableError, OutcomeUnknownError)):
            Suite(transport).run(test)
