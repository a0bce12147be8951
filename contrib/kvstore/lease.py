"""Lease: keys that are there as long as their client is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from twisted.internet.defer import Deferred, succeed

from consensus.errors import CommandFailedError, RaftError
from contrib.kvstore.client_answers import as_number
from contrib.kvstore.commands import Grant, KeepAlive, Revoke

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from contrib.kvstore.commands import Command

    _T = TypeVar("_T")

    class Write(Protocol):
        """Writes a command."""

        def __call__(
            self, make: Callable[[], Command], decode: Callable[[bytes], _T]
        ) -> Deferred[_T]:
            """Write what *make* returns, and return what *decode* makes of it."""

    #: Waits for so many seconds.
    Pause = Callable[[float], Deferred[None]]

# How often it is kept alive while it lives once, and how soon it is tried again.
_TIMES = 3
_TRIES = 10


class Lease:
    """
    A lease that keeps itself alive, until it is revoked, closed or lost.

    It is lost when the servers say that it has ended, or when they have not
    answered for as long as it lives.  By this client's clock it is lost no
    later than it ends at the servers: what was done before that, was done
    while it lived.

    Args:
        lease: Its id.
        ttl: The milliseconds that it lives.
        write: Writes a command.
        pause: Waits.
        end: Called back when it ends, unless it is kept alive.
    """

    def __init__(
        self, lease: int, ttl: int, write: Write, pause: Pause, end: Deferred[None]
    ) -> None:
        #: Which lease it is, for the servers.
        self.id = lease
        #: How many seconds it lives.
        self.ttl = ttl / 1000
        #: Is it lost?
        self.is_lost = False
        self._is_over = False
        self._write = write
        self._pause = pause
        self._losers: list[Deferred[None]] = []
        self._pausing: Deferred[None] | None = None
        self._end = end
        self._ends_with(end)
        if not self._is_over:
            Deferred.fromCoroutine(self._keep_alive())

    def when_lost(self) -> Deferred[None]:
        """Wait until it is lost: never, if it is revoked or closed before."""
        if self.is_lost:
            return succeed(None)
        loser: Deferred[None] = Deferred()
        self._losers.append(loser)
        return loser

    def revoke(self) -> Deferred[int]:
        """End it, and the keys that have it; return how many."""
        self.close()
        return self._write(lambda: Revoke(self.id), as_number)

    def close(self) -> None:
        """Keep it alive no longer: it ends by itself."""
        self._is_over = True
        self._end.cancel()
        if self._pausing is not None:
            self._pausing.cancel()

    def _ends_with(self, end: Deferred[None]) -> None:
        """Let it be lost when *end* is called back, and not before."""
        self._end = end
        end.addCallbacks(self._lose, lambda _: None)

    def _lose(self, _: Any) -> None:
        if self._is_over:
            return
        self.is_lost = True
        self.close()
        losers, self._losers = self._losers, []
        for loser in losers:
            loser.callback(None)

    async def _keep_alive(self) -> None:
        wait = self.ttl / _TIMES
        while await self._wait(wait):
            # Before it is sent: at the servers, it begins anew after that.
            end = self._pause(self.ttl)
            try:
                await self._write(lambda: KeepAlive(self.id), as_number)
            except CommandFailedError:
                end.addErrback(lambda _: None).cancel()
                self._lose(None)
            except RaftError:
                end.addErrback(lambda _: None).cancel()
                wait = self.ttl / _TRIES
            else:
                self._go_on_until(end)
                wait = self.ttl / _TIMES

    async def _wait(self, seconds: float) -> bool:
        """Wait; say whether to go on."""
        if not self._is_over:
            self._pausing = self._pause(seconds).addErrback(lambda _: None)
            await self._pausing
            self._pausing = None
        return not self._is_over

    def _go_on_until(self, end: Deferred[None]) -> None:
        """Let it live until *end*."""
        former = self._end
        if self._is_over:
            end.addErrback(lambda _: None).cancel()
        else:
            self._ends_with(end)
            former.cancel()


def begin_lease(write: Write, pause: Pause, ttl: int) -> Deferred[Lease]:
    """Return a new lease that lives for *ttl* milliseconds."""
    end = pause(ttl / 1000)

    def granted(lease: int) -> Lease:
        return Lease(lease, ttl, write, pause, end)

    def failed(failure: Any) -> Any:
        end.addErrback(lambda _: None).cancel()
        return failure

    return write(lambda: Grant(ttl), as_number).addCallbacks(granted, failed)
