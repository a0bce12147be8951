"""
One call of a client: what it asks for, and how often it is made.

What was rejected entered no log, and is asked again elsewhere or later; what may
have been done is asked again only if that does no harm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.task import deferLater

from consensus.errors import (
    AuthenticationError,
    InvalidChangeError,
    InvalidCommandError,
    MembershipPendingError,
    NotYetError,
    OutcomeUnknownError,
    PermissionDeniedError,
    RaftError,
    RejectedError,
    SessionExpiredError,
    TimedOutError,
    UnreachableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.python.failure import Failure

    from consensus.calling.discovery import Discovery
    from consensus.calling.session import Attempts
    from consensus.calling.targets import Target, Targets
    from consensus.interfaces import Transport

# Retries begin soon, as an election takes some hundred milliseconds, and
# become rare, as a cluster that is down may stay so.
_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 0.5

# Servers may name each other in turn while they elect; after so many hints in
# a row it is better to wait.
_MAX_HINTS = 3

# A read that hangs at one server is tried at another.
_READ_ATTEMPTS = 4

# Who fails so may be gone for good.
_DOUBTFUL = (UnreachableError, TimedOutError)


@dataclass(slots=True)
class Call:
    """
    A call, and what became of it so far.

    Args:
        method: See ``docs/reference/protocol.md``.
        payload: What it takes.
        attempts: Learns what became of each.
        is_repeatable: To do it twice does no harm.
        is_for_leader: Ask whoever is taken for the leader first.
        wait: Seconds that a server may take because there is no answer yet.
        pauses: How often it has waited.
        hints: How many servers in a row have named another one.
    """

    method: str
    payload: bytes
    attempts: Attempts
    is_repeatable: bool
    is_for_leader: bool
    wait: float = 0.0
    pauses: int = 0
    hints: int = 0


def may_repeat(error: RaftError, *, is_repeatable: bool) -> bool:
    """Say whether a call that failed with *error* may be made again."""
    if isinstance(
        error, InvalidCommandError | InvalidChangeError | MembershipPendingError
    ):
        return False  # it would be refused again, for the next moments at least
    if isinstance(
        error,
        SessionExpiredError | NotYetError | AuthenticationError | PermissionDeniedError,
    ):
        return False  # likewise
    if isinstance(error, RejectedError):
        return True
    return is_repeatable and isinstance(error, OutcomeUnknownError)


class Caller:
    """
    Makes calls until they are answered, or there is no sense in it.

    Args:
        targets: Whom it asks.
        transport: What the calls go through.
        clock: What timeouts go by.
        timeout: Seconds that a call usually has.
        dice: Returns a number from 0 to 1, so that clients do not all retry in
            the same moment.
        discovery: Keeps *targets* up to date, if anything does.
    """

    def __init__(
        self,
        targets: Targets,
        transport: Transport,
        clock: Any,
        *,
        timeout: float,
        dice: Callable[[], float],
        discovery: Discovery | None,
    ) -> None:
        self._targets = targets
        self._transport = transport
        self._clock = clock
        self._timeout = timeout
        self._dice = dice
        self._discovery = discovery
        #: Whether no call is made any more.
        self.is_closed = False

    def make(self, call: Call) -> Deferred[bytes]:
        """
        Ask server after server until one answers or time is up.

        Mostly the first one answers, so what others would need is made later.
        """
        if self.is_closed:
            return fail(UnreachableError("the client is closed"))
        target = self._targets.choose(is_for_leader=call.is_for_leader)
        answer = self._ask(target, call)
        answer.addErrback(self._ask_others, target, call)
        return answer

    def _ask(self, target: Target, call: Call) -> Deferred[bytes]:
        """Make *call* to *target*, once."""
        if self._discovery is not None:
            self._discovery.look_if_due()
        patience = call.attempts.deadline - self._clock.seconds()
        if call.is_repeatable:
            patience = min(patience, self._timeout / _READ_ATTEMPTS + call.wait)
        asked = self._transport.ask(target.address, call.method, call.payload, patience)
        if call.is_for_leader:
            asked.addCallback(self._answered, target)
        return asked

    def _ask_others(self, failure: Failure, target: Target, call: Call) -> Any:
        """Go on after *target* was asked in vain, if that is of use."""
        error = failure.value
        if not isinstance(error, RaftError):
            return failure
        pause = self._pause_after(error, target, call)
        if pause is None:
            return failure
        return Deferred.fromCoroutine(self._repeat(call, pause))

    async def _repeat(self, call: Call, pause: float) -> bytes:
        """Ask again and again, for the first time after *pause*."""
        while True:
            if pause:
                await deferLater(self._clock, pause)
            if self.is_closed:
                raise UnreachableError("the client is closed")
            target = self._targets.choose(is_for_leader=call.is_for_leader)
            try:
                return await self._ask(target, call)
            except RaftError as error:
                after = self._pause_after(error, target, call)
                if after is None:
                    raise
                pause = after

    def _pause_after(
        self, error: RaftError, target: Target, call: Call
    ) -> float | None:
        """Return how long to wait after *error*; ``None`` to give up with it."""
        call.attempts.failed(error)
        if self._discovery is not None and isinstance(error, _DOUBTFUL):
            self._discovery.doubt()
        if not may_repeat(error, is_repeatable=call.is_repeatable):
            return None
        pause = 0.0
        if self._targets.follow(target, error) and call.hints < _MAX_HINTS:
            call.hints += 1
        else:
            call.hints, pause = 0, self._pause(call.pauses)
            call.pauses += 1
        if self._clock.seconds() + pause >= call.attempts.deadline:
            return None
        return pause

    def _answered(self, answer: bytes, target: Target) -> bytes:
        """Ask *target* again next time: it leads, or knows who does."""
        self._targets.answered(target)
        return answer

    def _pause(self, before: int) -> float:
        """Return how long to wait after as many pauses *before*."""
        longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(before, 10))
        return longest * (0.5 + 0.5 * self._dice())
