"""A state machine behind a transport, without Raft in between."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, maybeDeferred

from adapters.transport.memory import MemoryOptions, MemoryTransport
from consensus.client import Client
from consensus.core.values import Identity
from consensus.errors import CommandFailedError, RaftError
from tests.support.servers import VirtualReactor

if TYPE_CHECKING:
    from consensus.core.messages import Message
    from consensus.interfaces import StateMachine


class MachineServer:
    """
    One server that applies every write at once, and a client of it.

    Args:
        machine: What it applies them to.
        network: A name that no other test uses.
    """

    def __init__(self, machine: StateMachine, network: str) -> None:
        self.machine = machine
        self.state: Any = machine.init("s1")
        #: What the next call fails with, if with anything.
        self.error: RaftError | None = None
        #: What the next call is answered, if not by the machine.
        self.answered: bytes | None = None
        self.calls = 0
        self.reactor = VirtualReactor()
        options = MemoryOptions(network=network)
        transport = MemoryTransport(options, self.reactor, self.reactor)
        transport.listen(Identity("c", "s1", "1"), "", self)
        self.client = Client(
            {"s1": "s1"},
            MemoryTransport(options, self.reactor, self.reactor),
            self.reactor,
        )

    def deliver(self, message: Message) -> None:
        """Take no messages."""

    def answer(self, method: str, payload: bytes) -> Deferred[bytes]:
        """Answer a call as a server would."""
        self.calls += 1
        return maybeDeferred(self._answer, method, payload)

    def _answer(self, method: str, payload: bytes) -> bytes:
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        if self.answered is not None:
            return self.answered
        command = self.machine.decode(payload)
        handle = {
            "write": self.machine.handle_write,
            "read": self.machine.handle_read,
        }[method]
        try:
            result, self.state = handle(command, self.state)
        except Exception as error:
            raise CommandFailedError(type(error).__name__, str(error)) from error
        return self.machine.encode(result)

    def settle(self) -> None:
        """Let everything happen that is under way."""
        for _ in range(100):
            self.reactor.advance(0.01)
