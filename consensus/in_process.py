"""
What transports share that join the servers of one process: a client's call.

There is one in memory, and a simulated one.  How a question and its answer
travel, and what gets lost, is each one's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from consensus.errors import (
    OutcomeUnknownError,
    RaftError,
    TimedOutError,
    UnreachableError,
    error_from_code,
)

if TYPE_CHECKING:
    from consensus.core.values import Address


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


def as_raised_elsewhere(error: RaftError) -> RaftError:
    """Return a copy of the server's *error*, as another process would get it."""
    fields = {name: getattr(error, name) for name in error.fields}
    return error_from_code(error.code, str(error), fields)
