"""A state machine behind a transport, without Raft in between."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.failure import Failure

from adapters.transport.memory import MemoryOptions, MemoryTransport
from consensus.applying.applier import Applier
from consensus.client import Client
from consensus.core.values import Entry, EntryKind, Identity
from consensus.errors import (
    CommandFailedError,
    NotYetError,
    OutcomeUnknownError,
    RaftError,
)
from consensus.interfaces import LATER
from consensus.options import ReadOptions, unpack_read
from consensus.sessions import Operation, check, entry_of
from tests.support.servers import VirtualReactor

if TYPE_CHECKING:
    from collections.abc import Callable

    from consensus.core.messages import Message
    from consensus.errors import ProtocolError
    from consensus.interfaces import StateMachine

OPERATIONS = {
    "session_open": Operation.OPEN,
    "session_write": Operation.COMMAND,
    "session_close": Operation.CLOSE,
}


class MachineServer:
    """
    One server that applies every write at once, and a client of it.

    Args:
        machine: What it applies them to.
        network: A name that no other test uses.
    """

    def __init__(self, machine: StateMachine, network: str) -> None:
        self.machine = machine
        self.applier = Applier(machine, "s1")
        #: Whether the next answer is lost, after the call was done.
        self.loses_answer = False
        self._index = 0
        # Queries that had no answer yet.
        self._waiting: list[Callable[[], None]] = []
        #: What the next call fails with, if with anything.
        self.error: RaftError | None = None
        #: What the next call is answered, if not by the machine.
        self.answered: bytes | None = None
        self.calls = 0
        #: How the last read with options was to be done.
        self.options = ReadOptions()
        self.reactor = VirtualReactor()
        options = MemoryOptions(network=network)
        transport = MemoryTransport(options, self.reactor, self.reactor)
        transport.listen(Identity("c", "s1", "1"), "", self)
        self.client = Client(
            {"s1": "s1"},
            MemoryTransport(options, self.reactor, self.reactor),
            self.reactor,
        )

    def welcome(self, peer: Identity) -> None:
        """Welcome everybody."""

    def refused(self, peer: str, error: ProtocolError) -> None:
        """Take no notice."""

    def gone(self, peer: str) -> None:
        """Take no notice."""

    @property
    def state(self) -> Any:
        """Return what the writes have made."""
        return self.applier.state

    def deliver(self, *messages: Message) -> None:
        """Take no messages."""

    def answer(self, method: str, payload: bytes) -> Deferred[bytes]:
        """Answer a call as a server would."""
        self.calls += 1
        return maybeDeferred(self._answer, method, payload)

    def _answer(self, method: str, payload: bytes) -> Any:
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        if self.answered is not None:
            return self.answered
        if method == "read_with":
            method, (self.options, payload) = "read", unpack_read(payload)
        if method == "read":
            return self._read(payload)
        result = self._apply(method, payload)
        if self.loses_answer:
            self.loses_answer = False
            raise OutcomeUnknownError("the connection was lost before the answer")
        if isinstance(result, Failure):
            result.raiseException()
        return result if method != "write" else self.machine.encode(result)

    def _wait(self, payload: bytes) -> Deferred[bytes]:
        """Keep a query that has no answer yet; a write lets it be asked again."""
        waiter: Deferred[Any] = Deferred()
        error = NotYetError("there is no answer yet")
        seconds = self.options.wait or 0.0
        over: Any = self.reactor.callLater(seconds, waiter.errback, error)

        def again() -> None:
            if not waiter.called:
                over.cancel()
                answered: Deferred[Any] = maybeDeferred(self._read, payload)
                answered.chainDeferred(waiter)

        self._waiting.append(again)
        return waiter

    def _read(self, payload: bytes) -> Any:
        query, state = self.machine.decode(payload), self.applier.state
        try:
            result, _ = self.machine.handle_read(query, state)
        except Exception as error:
            raise CommandFailedError(type(error).__name__, str(error)) from error
        if result is LATER:
            return self._wait(payload)
        return self.machine.encode(result)

    def _apply(self, method: str, payload: bytes) -> Any:
        self._index += 1
        if method == "write":
            self.machine.decode(payload)
            entry = Entry(self._index, 1, EntryKind.COMMAND, payload)
        else:
            operation = OPERATIONS[method]
            check(operation, payload)
            time = int(self.reactor.seconds() * 1000)
            data = entry_of(operation, payload, time)
            entry = Entry(self._index, 1, EntryKind.SESSION, data)
        results: list[Any] = []
        self.applier.apply([entry], lambda _, came_to: results.extend(came_to))
        waiting, self._waiting = self._waiting, []
        for again in waiting:
            again()
        return results[0]

    def settle(self) -> None:
        """Let everything happen that is under way."""
        for _ in range(100):
            self.reactor.advance(0.01)
