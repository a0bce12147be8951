"""
A simulated network: delay, loss, repetition, reordering, and cuts of all kinds.

Messages are handed over as they are.  Who talks to whom is decided at both
ends, as a real transport has to (see :class:`~consensus.interfaces.Inbox`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from twisted.python.failure import Failure

from consensus.errors import ProtocolError, RaftError
from consensus.in_process import Call, InProcessTransport, as_raised_elsewhere

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from consensus.core.messages import Message
    from consensus.core.values import Address, ServerId
    from consensus.testing.sim_time import VirtualTime

#: Messages that may be under way to one server; more are lost.
_MOST_WAITING = 10_000


@dataclass(frozen=True, slots=True)
class Conditions:
    """
    How good a network is.

    Args:
        delay: How long a message takes, from and to, in seconds.
        loss: Which part of the messages is lost.
        repeats: Which part arrives twice.
        stragglers: Which part takes far longer than all others.
        straggle: How long these take at most, in seconds.
        reorders: Whether messages may overtake each other; stragglers and
            repeated ones always may be overtaken.
    """

    delay: tuple[float, float] = (0.0005, 0.005)
    loss: float = 0.0
    repeats: float = 0.0
    stragglers: float = 0.0
    straggle: float = 2.0
    reorders: bool = False

    def worse(self, other: Conditions) -> Conditions:
        """Return what is as bad as both."""
        return Conditions(
            max(self.delay, other.delay),
            max(self.loss, other.loss),
            max(self.repeats, other.repeats),
            max(self.stragglers, other.stragglers),
            max(self.straggle, other.straggle),
            self.reorders or other.reorders,
        )


class SimulatedNetwork:
    """
    The wires between all that belongs to a simulation.

    Args:
        time: What it lives in.
        random: For everything that happens by chance.
        conditions: How good it is, when it is not in trouble.
    """

    def __init__(
        self, time: VirtualTime, random: Random, conditions: Conditions
    ) -> None:
        self.time = time
        self.random = random
        self.conditions = self._usual = conditions
        #: Who listens, by address.
        self.listening: dict[Address, SimulatedTransport] = {}
        #: Told of every message that arrives, or that is lost.
        self.seen: Callable[[str, ServerId, ServerId, Message], None] = _ignore
        self._storms: list[Conditions] = []
        self._cuts: Counter[tuple[ServerId, ServerId]] = Counter()
        # When the last message of each link arrives.
        self._last: dict[tuple[ServerId, ServerId], float] = {}
        self._waiting: Counter[ServerId] = Counter()

    # --- what goes wrong -------------------------------------------------------

    def cut(self, sender: ServerId, receiver: ServerId) -> None:
        """Lose what *sender* sends to *receiver*; not what comes back."""
        self._cuts[sender, receiver] += 1

    def join(self, sender: ServerId, receiver: ServerId) -> None:
        """Undo one :meth:`cut`."""
        self._cuts[sender, receiver] -= 1

    def storm(self, conditions: Conditions) -> None:
        """Be as bad as *conditions*, too."""
        self._storms.append(conditions)
        self._weigh()

    def calm(self, conditions: Conditions) -> None:
        """Undo one :meth:`storm`."""
        self._storms.remove(conditions)
        self._weigh()

    def _weigh(self) -> None:
        self.conditions = self._usual
        for storm in self._storms:
            self.conditions = self.conditions.worse(storm)

    def carries(self, sender: ServerId, receiver: ServerId) -> bool:
        """Say whether what *sender* sends reaches *receiver*."""
        return self._cuts[sender, receiver] <= 0

    # --- what is carried ---------------------------------------------------------

    def arrivals(self, sender: ServerId, receiver: ServerId) -> list[float]:
        """Return when what is sent now arrives: once, twice, or never."""
        random, now = self.random.random, self.conditions
        if self._cuts[sender, receiver] > 0 or (now.loss and random() < now.loss):
            return []
        shortest, longest = now.delay
        arrival = self.time.now + shortest + (longest - shortest) * random()
        if now.stragglers and random() < now.stragglers:
            return [arrival + now.straggle * random()]
        if not now.reorders:
            arrival = max(arrival, self._last.get((sender, receiver), 0.0))
            self._last[sender, receiver] = arrival
        if now.repeats and random() < now.repeats:
            return [arrival, arrival + now.straggle * random()]
        return [arrival]

    def post(
        self,
        sender: SimulatedTransport,
        peer: ServerId,
        address: Address,
        message: Message,
    ) -> None:
        """Carry *message* to whoever listens at *address* when it arrives."""
        arrivals = self.arrivals(sender.name, peer)
        if not arrivals or self._waiting[address] >= _MOST_WAITING:
            sender.lost_messages += 1
            self.seen("lost", sender.name, peer, message)
            return
        for arrival in arrivals:
            self._waiting[address] += 1
            self.time.at(arrival, self._arrive, sender, peer, address, message)

    def _arrive(
        self,
        sender: SimulatedTransport,
        peer: ServerId,
        address: Address,
        message: Message,
    ) -> None:
        self._waiting[address] -= 1
        target = self.listening.get(address)
        if target is None or self._cuts[sender.name, peer] > 0:
            self.seen("lost", sender.name, peer, message)
            return
        target.reactor.perform(target.receive, sender, message)


def _ignore(what: str, sender: ServerId, receiver: ServerId, message: Message) -> None:
    """Take no notice."""


class SimulatedTransport(InProcessTransport):
    """One end of a :class:`SimulatedNetwork`."""

    network: SimulatedNetwork

    def __init__(self, options: SimulatedNetwork, reactor: Any, clock: Any) -> None:
        super().__init__(options, reactor, clock)
        self.network = options

    @property
    def name(self) -> ServerId:
        """Return the server's name; a client's is that of its host."""
        return self.reactor.name if self.identity is None else self.identity.server

    # --- servers -----------------------------------------------------------------

    def later(self, work: Callable[[], None]) -> None:
        """Do *work* in the next turn of its host."""
        self.reactor.callFromThread(work)

    def meet(self, peer: ServerId) -> None:
        """Look at *peer*, and let it look at this server, if it is there."""
        found = self.network.listening.get(self._peers.get(peer, ""))
        if found is not None and not self._is_closed and self._is_joined(peer):
            self._welcomes(found, peer)
            found.reactor.perform(found.be_met, self)

    def be_met(self, other: SimulatedTransport) -> None:
        """Look at *other*; only a transport of the same network calls this."""
        if not self._is_closed:
            self._welcomes(other, other.name)

    def _is_joined(self, peer: ServerId) -> bool:
        carries = self.network.carries
        return carries(self.name, peer) and carries(peer, self.name)

    def send(self, peer: ServerId, message: Message) -> None:
        """Send *message* to *peer* or lose it; see the base."""
        address = self._peers.get(peer)
        target = None if address is None else self.network.listening.get(address)
        if target is None:
            address = self._callers.get(peer)
            target = None if address is None else self.network.listening.get(address)
        if address is None or target is None or self._is_closed:
            self.lost_messages += 1
        elif self._welcomes(target, peer):
            self.network.post(self, peer, address, message)
        else:
            self.lost_messages += 1

    def receive(self, sender: SimulatedTransport, message: Message) -> None:
        """Deliver *message*; only a transport of the same network calls this."""
        name = message.sender
        if self._inbox is None or self._is_closed or name != sender.name:
            return
        if not self._welcomes(sender, name):
            return
        # Whoever refuses this server does not talk to it either.
        if not sender.welcomes_too(self):
            return
        self.network.seen("got", name, self.name, message)
        self._callers[name] = sender.address
        self._inbox.deliver(message)

    @property
    def address(self) -> Address:
        """Return where it listens."""
        return self._address

    def welcomes_too(self, other: SimulatedTransport) -> bool:
        """Say whether *other* is known here as who it is; or is not known yet."""
        met = self._met.get(other.name)
        return self._is_closed or met is None or met[1] == other.identity

    def _welcomes(self, found: SimulatedTransport, peer: ServerId) -> bool:
        """Say whether *found* is *peer*, and welcome; tell it if not."""
        other, inbox = found.identity, self._inbox
        if other is None or inbox is None:
            return False
        met = self._met.get(peer)
        if met is not None and met[0] is found and met[1] is other:
            return True
        try:
            self.look_at(other, peer, inbox)
        except ProtocolError as error:
            if self.network.carries(self.name, peer):
                found.reactor.callFromThread(found.hear, self.name, error)
            return False
        self._met[peer] = (found, other)
        return True

    # --- calls ---------------------------------------------------------------------

    def call_to(self, address: Address, timeout: float) -> _Call:
        """Return a call to the server at *address*."""
        return _Call(self, address, timeout)

    def die(self) -> None:
        """Leave the network with the process; nobody here hears of it."""
        for call in list(self._calls):
            if call.client is self:
                call.forget()
        self.close()


class _Call(Call["SimulatedTransport"]):
    """A call whose question and answer take their time, or get lost."""

    def start(self, method: str, payload: bytes) -> None:
        """Reach the server, or fail; or wait, if nothing gets through."""
        if self.result.called:
            return
        client, network = self.client, self.client.network
        server = network.listening.get(self.address)
        if server is None:
            self.miss()
            return
        names = client.name, server.name
        if not (network.carries(*names) and network.carries(*reversed(names))):
            return
        self.reach(server)
        for arrival in network.arrivals(*names)[:1]:
            network.time.at(
                arrival, self._arrive, server, method, payload, host=server.reactor
            )

    def _arrive(self, server: SimulatedTransport, method: str, payload: bytes) -> None:
        network = self.client.network
        if not network.carries(self.client.name, server.name):
            return
        answer = server.answer(method, payload)
        if answer is not None:
            answer.addBoth(self._answered)

    def _answered(self, answer: bytes | Failure) -> None:
        if isinstance(answer, Failure):
            answer = Failure(_sent_error(answer))
        client, server, network = self.client, self.server, self.client.network
        if server is None or self.result.called:
            return
        for arrival in network.arrivals(server.name, client.name)[:1]:
            network.time.at(arrival, self.finish, answer, host=client.reactor)

    def lose(self, end: SimulatedTransport) -> None:
        """Fail because *end* is closed; the other one hears of it later."""
        if end is self.client or self.server is None:
            self.break_off()
        else:
            self.client.reactor.callFromThread(self.break_off)


def _sent_error(failure: Failure) -> RaftError:
    error = failure.value
    if isinstance(error, RaftError):
        return as_raised_elsewhere(error)
    # A server must not do this; whoever simulates it has to hear of it.
    message = f"a call failed with what is no error of ours: {error!r}"
    raise AssertionError(message) from error
