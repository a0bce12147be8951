"""
A client's lease: something that the servers end unless their client renews it.

The servers go by the log's time, a client by its own clock.  What the two have
in common is that the servers cannot have begun to count before the client
asked.  So a client is sure of its lease for a little less than the ttl, from
when it sent the last request that was granted; the servers end it later, never
earlier.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from consensus.errors import RaftError

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.python.failure import Failure

_log = Logger()

#: By which part of the ttl the clocks of a server and of a client may drift
#: apart meanwhile, as in ``reads.clock_drift`` of the config.
CLOCK_DRIFT = 0.1

#: The log counts whole milliseconds: the last one may have been about to end.
_GRAIN = 0.002

#: An attempt to renew has this part of the ttl; so has the rest after one that
#: was granted, so that two more find time before the lease ends.
_ATTEMPT = 0.25
_REST = 1 / 3

#: After a failed attempt, this part of the ttl passes; seconds at most.
_PAUSE = 0.05
_LONGEST_PAUSE = 0.5


class ClientLease:
    """
    Keeps something alive at the servers, and knows for how long it surely is.

    Args:
        clock: What time goes by: one that no change of the wall clock disturbs.
        ttl: For how many seconds the servers keep it without being asked.
        renew: Asks the servers to keep it, for so many seconds at most.  It
            may be done twice without harm.  Its Deferred says whether there
            was anything left to keep; it fails when nobody knows.
        drift: By which part of *ttl* clocks may drift apart meanwhile.
        margin: It counts as lost so many seconds earlier, which are for whoever
            has to end something before the servers end the lease.
    """

    def __init__(
        self,
        clock: Any,
        ttl: float,
        renew: Callable[[float], Deferred[bool]],
        *,
        drift: float = CLOCK_DRIFT,
        margin: float = 0.0,
    ) -> None:
        self.ttl = ttl
        self._clock = clock
        self._renew = renew
        self._sure_for = ttl * (1.0 - drift) - _GRAIN - margin
        #: Until when, by the clock, it is sure if nobody renews it.
        self.sure_until: float = clock.seconds()
        self._is_over = False
        self._is_lost = False
        self._timer: Any = None
        self._alarm: Any = None
        self._attempt: Deferred[Any] | None = None
        # Those who want to hear of the loss.
        self._waiting: list[Deferred[None]] = []

    def begin(self, began: float) -> None:
        """
        Keep it alive from now on.

        Args:
            began: When, by the clock, the request was sent that the servers
                have granted it to.
        """
        self._granted(began)
        if self.is_sure:
            self._schedule(self._rest(began))
        else:
            self.lose()

    @property
    def is_sure(self) -> bool:
        """
        Say whether the servers cannot have ended it yet; once no, always no.

        It is looked at now, so it is right in a process that stood still, whose
        timers are late.
        """
        return not self._is_over and self._clock.seconds() < self.sure_until

    @property
    def remaining(self) -> float:
        """Return for how many seconds it is sure, if nobody renews it."""
        if self._is_over:
            return 0.0
        left: float = self.sure_until - self._clock.seconds()
        return max(0.0, left)

    @property
    def lost(self) -> Deferred[None]:
        """
        Return a Deferred that fires when the lease is no longer sure.

        Each caller gets one of its own, and may cancel it.  It never fires
        when the lease was given back by :meth:`end`.
        """
        waiter: Deferred[None] = Deferred(self.forget)
        if self._is_lost:
            waiter.callback(None)
        else:
            self._waiting.append(waiter)
        return waiter

    def end(self) -> None:
        """Be sure of nothing any more, and renew it no more."""
        if not self._is_over:
            self._is_over = True
            self._stop()
            self._waiting.clear()

    def lose(self) -> None:
        """Learn that the servers do not keep it any more."""
        if self._is_over:
            return
        self._is_over = self._is_lost = True
        self._stop()
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.callback(None)

    def forget(self, waiter: Deferred[None]) -> None:
        """Let *waiter*, which :attr:`lost` gave, never fire."""
        if waiter in self._waiting:
            self._waiting.remove(waiter)

    def _stop(self) -> None:
        for each in (self._timer, self._alarm):
            if each is not None and each.active():
                each.cancel()
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            attempt.cancel()

    # --- renewing ----------------------------------------------------------

    def _granted(self, began: float) -> None:
        """Be sure for another ttl from *began*."""
        self.sure_until = max(self.sure_until, began + self._sure_for)
        if self._alarm is not None and self._alarm.active():
            self._alarm.cancel()
        rest = max(0.0, self.sure_until - self._clock.seconds())
        self._alarm = self._clock.callLater(rest, self.lose)

    def _rest(self, began: float) -> float:
        left: float = began + self.ttl * _REST - self._clock.seconds()
        return max(0.0, left)

    def _schedule(self, seconds: float) -> None:
        self._timer = self._clock.callLater(seconds, self._try)

    def _try(self) -> None:
        began = self._clock.seconds()
        attempt = self._renew(self.ttl * _ATTEMPT)
        self._attempt = attempt
        attempt.addCallbacks(self._answered, self._failed, callbackArgs=(began,))
        attempt.addErrback(self._broke)

    def _answered(self, is_kept: bool, began: float) -> None:  # noqa: FBT001 - what a Deferred gives
        self._attempt = None
        if self._is_over:
            return
        if is_kept and self.is_sure:
            self._granted(began)
            self._schedule(self._rest(began))
        else:
            # It may have been kept in time; but others have been told that it
            # is not sure any more.
            self.lose()

    def _failed(self, failure: Failure) -> None:
        """Try again soon: until the alarm rings, it may yet be renewed."""
        self._attempt = None
        if self._is_over:
            failure.trap(RaftError, CancelledError)
            return
        failure.trap(RaftError)
        _log.debug("a lease was not renewed: {error}", error=failure.value)
        self._schedule(min(_LONGEST_PAUSE, self.ttl * _PAUSE))

    def _broke(self, failure: Failure) -> None:
        """Give the lease up with an error that is none of the cluster's."""
        _log.failure("a lease cannot be renewed", failure=failure)
        self.lose()
