"""
What transports share that join the servers of one process.

There is one in memory, and a simulated one.  How messages, questions and
answers travel, and what gets lost, is each one's own.
"""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure

from consensus.errors import (
    OutcomeUnknownError,
    ProtocolError,
    RaftError,
    TimedOutError,
    UnreachableError,
    error_from_code,
)
from consensus.interfaces import Transport

if TYPE_CHECKING:
    from collections.abc import Callable

    from consensus.core.values import Address, Identity, ServerId
    from consensus.interfaces import Inbox


class End(Protocol):
    """A transport, as a call sees it that begins or ends there."""

    clock: Any

    def begin(self, call: Any) -> None:
        """Remember that *call* is under way here."""

    def end(self, call: Any) -> None:
        """Forget *call*."""


_End = TypeVar("_End", bound=End)


class Call(Generic[_End]):
    """
    One client's call, from the question to the answer.

    Args:
        client: Who asks.
        address: Where the server listens.
        timeout: After how many seconds the client gives up.
    """

    def __init__(self, client: _End, address: Address, timeout: float) -> None:
        #: What the client waits for.
        self.result: Deferred[bytes] = Deferred(lambda _: self.forget())
        self.client = client
        #: Who may have got the question; ``None`` if certainly nobody has.
        self.server: _End | None = None
        self.address = address
        self._timer: Any = client.clock.callLater(timeout, self._time_out)
        client.begin(self)

    def reach(self, server: _End) -> None:
        """Note that the question is on its way to *server*."""
        self.server = server
        server.begin(self)

    def miss(self) -> None:
        """Fail because nobody listens at the address."""
        message = f"cannot connect to {self.address!r}: no server answers there"
        self.finish(Failure(UnreachableError(message)))

    def break_off(self) -> None:
        """Fail because one of the two ends is closed."""
        if self.server is None:
            self.finish(Failure(UnreachableError("the transport is closed")))
        else:
            message = "the connection was lost before the answer"
            self.finish(Failure(OutcomeUnknownError(message)))

    def lose(self, end: _End) -> None:  # noqa: ARG002 - for those to whom it matters which
        """Fail because *end*, one of the two, is closed."""
        self.break_off()

    def _time_out(self) -> None:
        if self.server is None:
            message = f"no connection to {self.address!r} in time"
            self.finish(Failure(UnreachableError(message)))
        else:
            self.finish(Failure(TimedOutError("no answer came in time")))

    def forget(self) -> None:
        """Let nobody hear of it any more."""
        if self._timer.active():
            self._timer.cancel()
        self.client.end(self)
        if self.server is not None:
            self.server.end(self)

    def finish(self, outcome: bytes | Failure) -> None:
        """Give the client *outcome*, if it still waits."""
        if self.result.called:
            return
        self.forget()
        if isinstance(outcome, Failure):
            self.result.errback(outcome)
        else:
            self.result.callback(outcome)


class Network(Protocol):
    """What joins the servers."""

    #: Who listens, by address.
    listening: dict[Address, Any]


class InProcessTransport(Transport):
    """
    One end of a :class:`Network` of this process.

    An empty address stands for the server's own name.
    """

    network: Network

    def __init__(self, options: Any, reactor: Any, clock: Any) -> None:
        super().__init__(options, reactor, clock)
        #: Counts messages that were given to :meth:`send` and went nowhere.
        self.lost_messages = 0
        self.identity: Identity | None = None
        self._inbox: Inbox | None = None
        self._address: Address = ""
        self._peers: dict[ServerId, Address] = {}
        # Those who sent something, as over a connection that they made.
        self._callers: dict[ServerId, Any] = {}
        # Who has been welcome, and as whom.
        self._met: dict[ServerId, tuple[Any, ...]] = {}
        self._is_closed = False
        # A dictionary for its order.
        self._calls: dict[Call[Any], None] = {}

    # What a subclass implements.

    @abstractmethod
    def later(self, work: Callable[[], None]) -> None:
        """Do *work* in a later turn."""

    @abstractmethod
    def meet(self, peer: ServerId) -> None:
        """Look at *peer*, and let it look at this server, if it is there."""

    @abstractmethod
    def call_to(self, address: Address, timeout: float) -> Any:
        """Return a call to the server at *address*, with a method ``start``."""

    # What it has.

    def listen(
        self, identity: Identity, address: Address, inbox: Inbox
    ) -> Deferred[None]:
        """Take *address* of the network; see the base."""
        address = address or identity.server
        if address in self.network.listening:
            message = (
                f"cannot listen on {address!r}: another server of this process does"
            )
            return fail(UnreachableError(message))
        self.identity = identity
        self._inbox = inbox
        self._address = address
        self.network.listening[address] = self
        return succeed(None)

    def introduce(self, identity: Identity) -> None:
        """Be *identity* from now on; see the base."""
        super().introduce(identity)
        self._met.clear()

    def connect(self, peer: ServerId, address: Address) -> None:
        """Remember where *peer* is; see the base."""
        self._peers[peer] = address or peer
        self.later(partial(self.meet, peer))

    def disconnect(self, peer: ServerId) -> None:
        """Forget *peer*; see the base."""
        self._peers.pop(peer, None)
        self._callers.pop(peer, None)
        self._met.pop(peer, None)

    def look_at(self, other: Identity, peer: ServerId, inbox: Inbox) -> None:
        """
        See that *other*, who is there, is *peer*, and welcome.

        Raises:
            ProtocolError: It is not; it is to be met anew.
        """
        try:
            if other.server != peer:
                message = (
                    f"the server there is {other.server!r}, not {peer!r}: correct the"
                    f" address of {peer!r} under members, or start the right server"
                )
                raise ProtocolError(message)  # noqa: TRY301 - refused like the others
            inbox.welcome(other)
        except ProtocolError:
            self._met.pop(peer, None)
            raise

    def hear(self, peer: ServerId, error: ProtocolError) -> None:
        """Learn that *peer* does not talk to this server; of this network only."""
        if self._inbox is not None and not self._is_closed:
            self._inbox.refused(peer, error)

    def ask(
        self, address: Address, method: str, payload: bytes, timeout: float
    ) -> Deferred[bytes]:
        """Call *method* of the server at *address*; see the base."""
        if self._is_closed:
            return fail(UnreachableError("the transport is closed"))
        call = self.call_to(address, timeout)
        self.later(partial(call.start, method, payload))
        result: Deferred[bytes] = call.result
        return result

    def answer(self, method: str, payload: bytes) -> Deferred[bytes] | None:
        """Let the server answer; ``None`` if there is none any more."""
        if self._inbox is None or self._is_closed:
            return None
        return self._inbox.answer(method, payload)

    def begin(self, call: Call[Any]) -> None:
        """Remember that *call* is under way here, in case of :meth:`close`."""
        self._calls[call] = None

    def end(self, call: Call[Any]) -> None:
        """Forget *call*."""
        self._calls.pop(call, None)

    def close(self) -> Deferred[None]:
        """Leave the network; see the base."""
        if not self._is_closed:
            self._is_closed = True
            if self.network.listening.get(self._address) is self:
                del self.network.listening[self._address]
            for call in list(self._calls):
                call.lose(self)
            self._peers.clear()
            self._callers.clear()
            self._met.clear()
        return succeed(None)


def as_raised_elsewhere(error: RaftError) -> RaftError:
    """Return a copy of the server's *error*, as another process would get it."""
    fields = {name: getattr(error, name) for name in error.fields}
    return error_from_code(error.code, str(error), fields)
