"""
Servers and clients of one process, joined without any bytes.

Messages are handed over as they are, in a later turn of the reactor and in
order.  A :class:`MemoryNetwork` can cut connections, for tests.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from twisted.logger import Logger
from twisted.python.failure import Failure

from consensus.errors import (
    OutcomeUnknownError,
    ProtocolError,
    RaftError,
)
from consensus.in_process import Call, InProcessTransport, as_raised_elsewhere
from consensus.interfaces import Traffic

if TYPE_CHECKING:
    from collections.abc import Callable

    from consensus.core.messages import Message
    from consensus.core.values import Address, ServerId

_log = Logger()


@dataclass(frozen=True, slots=True)
class MemoryOptions:
    """
    What the YAML file may set under ``options:`` of the transport.

    Args:
        network: Which servers of this process reach each other: those that
            name the same network.
        max_waiting: How many messages may wait for one server; more are lost,
            as memory is bounded.
    """

    network: str = "default"
    max_waiting: int = 10_000


class MemoryNetwork:
    """
    The wires between the transports of one process.

    A client that does not listen has the name ``""``.
    """

    _networks: ClassVar[dict[str, MemoryNetwork]] = {}

    def __init__(self) -> None:
        #: Who listens, by address.
        self.listening: dict[Address, MemoryTransport] = {}
        #: Counts the times that connections were cut or joined.
        self.age = 0
        self._cut: set[tuple[ServerId, ServerId]] = set()
        self._down: set[ServerId] = set()

    @classmethod
    def named(cls, name: str) -> MemoryNetwork:
        """Return the network *name* of this process, always the same."""
        return cls._networks.setdefault(name, cls())

    def cut(self, sender: ServerId, receiver: ServerId) -> None:
        """Lose what *sender* sends to *receiver*; not what comes back."""
        self._cut.add((sender, receiver))
        self.age += 1

    def down(self, name: ServerId) -> None:
        """Lose all that *name* sends and all that is sent to it."""
        self._down.add(name)
        self.age += 1

    def up(self, name: ServerId) -> None:
        """Undo :meth:`down`."""
        self._down.discard(name)
        self.age += 1

    def heal(self) -> None:
        """Undo every :meth:`cut` and every :meth:`down`."""
        self._cut.clear()
        self._down.clear()
        self.age += 1

    def carries(self, sender: ServerId, receiver: ServerId) -> bool:
        """Say whether what *sender* sends reaches *receiver*."""
        is_down = sender in self._down or receiver in self._down
        return not is_down and (sender, receiver) not in self._cut


class MemoryTransport(InProcessTransport):
    """
    Joins the servers and clients of one process.

    Any text is an address, and an empty one stands for the server's own name.
    Who sends and who receives look at each other when they meet, and again
    whenever connections were cut or joined.
    """

    Options: ClassVar[type[Any]] = MemoryOptions

    options: MemoryOptions
    network: MemoryNetwork

    def __init__(self, options: Any, reactor: Any, clock: Any) -> None:
        super().__init__(options, reactor, clock)
        self.network = MemoryNetwork.named(self.options.network)
        # What was said last of whom this server refuses, and of who refuses it.
        self._refusing: dict[ServerId, str] = {}
        self._refused_by: dict[ServerId, str] = {}
        self._queue: deque[Callable[[], None]] = deque()
        self._is_due = False

    @property
    def name(self) -> ServerId:
        """Return the server's name; empty for a client."""
        return "" if self.identity is None else self.identity.server

    def meet(self, peer: ServerId) -> None:
        """Look at *peer*, and let it look at this server, if it is there."""
        carries = self.network.carries
        if carries(self.name, peer) and carries(peer, self.name):
            found = self._route(peer)
            if found is not None:
                found._welcomes(self, self.name)  # noqa: SLF001 - its own class

    def traffic(self) -> Traffic:
        """Return how many messages were lost; see the base."""
        return Traffic(lost_messages=self.lost_messages)

    def send(self, peer: ServerId, message: Message) -> None:
        """Queue *message* for *peer* or lose it; see the base."""
        if self._is_closed or not self.network.carries(self.name, peer):
            self.lost_messages += 1
            return
        target = self._route(peer)
        if (
            target is None or len(target._queue) >= self.options.max_waiting  # noqa: SLF001 - its own class
        ):
            self.lost_messages += 1
            return
        target.later(lambda: target.receive(self, message))

    def _route(self, peer: ServerId) -> MemoryTransport | None:
        """Return the transport of *peer*: where it is, or where it came from."""
        address = self._peers.get(peer)
        found = None if address is None else self.network.listening.get(address)
        if found is None:
            return self._callers.get(peer)
        return found if self._welcomes(found, peer) else None

    def _welcomes(self, found: MemoryTransport, peer: ServerId) -> bool:
        """Say whether *found* is *peer*, and welcome; warn once if not."""
        other, inbox = found.identity, self._inbox
        if other is None or inbox is None:
            return False
        meeting = found, other, self.network.age
        if self._met.get(peer) == meeting:
            return True
        try:
            self.look_at(other, peer, inbox)
        except ProtocolError as error:
            self._warn_once(self._refusing, peer, "refuses", str(error))
            if self.network.carries(self.name, peer):
                found.later(partial(found.hear, self.name, error))
            return False
        self._met[peer] = meeting
        self._refusing.pop(peer, None)
        return True

    def hear(self, peer: ServerId, error: ProtocolError) -> None:
        """Learn that *peer* does not talk to this server; of this network only."""
        if self._inbox is not None and not self._is_closed:
            self._warn_once(self._refused_by, peer, "is refused by", str(error))
        super().hear(peer, error)

    def _warn_once(
        self, said: dict[ServerId, str], peer: ServerId, verb: str, sentence: str
    ) -> None:
        """Log *sentence* unless it is what was *said* last about *peer*."""
        if said.get(peer) != sentence:
            said[peer] = sentence
            _log.warn(
                "{name} {verb} server {peer}: {sentence}",
                name=self.name,
                verb=verb,
                peer=peer,
                sentence=sentence,
            )

    def receive(self, sender: MemoryTransport, message: Message) -> None:
        """Deliver *message*; only a transport of the same network calls this."""
        if self._inbox is None or self._is_closed:
            return
        if message.sender != sender.name:
            _log.error(
                "{name} sent a message in the name of {other}, which is lost",
                name=sender.name,
                other=message.sender,
            )
            return
        if not self._welcomes(sender, sender.name):
            return
        self._refused_by.pop(sender.name, None)
        self._callers[sender.name] = sender
        self._inbox.deliver(message)

    def call_to(self, address: Address, timeout: float) -> _Call:
        """Return a call to the server at *address*."""
        return _Call(self, address, timeout)

    def later(self, work: Callable[[], None]) -> None:
        """Do *work* in a later turn, after all that was given before."""
        self._queue.append(work)
        if not self._is_due:
            self._is_due = True
            # Unlike callLater(0), it does not go by the wall clock.
            self.reactor.callFromThread(self._work)

    def _work(self) -> None:
        """Do what has gathered; what comes meanwhile is for the next turn."""
        self._is_due = False
        for _ in range(len(self._queue)):
            self._queue.popleft()()
        if self._queue and not self._is_due:
            self._is_due = True
            self.reactor.callFromThread(self._work)


class _Call(Call["MemoryTransport"]):
    """A call whose question and answer wait in the queues of the two ends."""

    def start(self, method: str, payload: bytes) -> None:
        """Reach the server, or fail."""
        if self.result.called:
            return
        client = self.client
        server = client.network.listening.get(self.address)
        if server is None or not client.network.carries(client.name, server.name):
            self.miss()
            return
        self.reach(server)
        server.later(lambda: self._arrive(server, method, payload))

    def _arrive(self, server: MemoryTransport, method: str, payload: bytes) -> None:
        answer = server.answer(method, payload)
        if answer is not None:
            answer.addBoth(self._answered)

    def _answered(self, answer: bytes | Failure) -> None:
        if isinstance(answer, Failure):
            answer = Failure(_sent_error(answer))
        server, client = self.server, self.client
        if server is not None and client.network.carries(server.name, client.name):
            client.later(lambda: self.finish(answer))


def _sent_error(failure: Failure) -> RaftError:
    error = failure.value
    if isinstance(error, RaftError):
        return as_raised_elsewhere(error)
    _log.failure("a call failed for a reason that is a bug", failure)
    return OutcomeUnknownError("the server failed; its log says why")
