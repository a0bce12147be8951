"""Watch: what happens to keys, event by event."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

from twisted.internet.defer import Deferred

from consensus.errors import (
    AuthenticationError,
    CommandFailedError,
    InvalidCommandError,
    NotYetError,
    OutcomeUnknownError,
    PermissionDeniedError,
    RejectedError,
)
from contrib.kvstore import commands
from contrib.kvstore.answers import Events
from contrib.kvstore.client_answers import as_one, decoded
from contrib.kvstore.commands import Changes
from contrib.kvstore.failures import CompactedError

if TYPE_CHECKING:
    from consensus.client import Client
    from contrib.kvstore.answers import Event

_T = TypeVar("_T")

_as_events = as_one(Events)

# A server that is cut off, or belongs to the cluster no more, knows of nothing
# new: so long it is believed, in seconds.
_WAIT = 5.0

# After a call that failed.
_PAUSE = 0.1


class _ClosedError(Exception):
    """The watch is closed."""


class Watch:
    """
    Yields each change of some keys, once and in order, until it is closed.

    It asks any server for what comes next, and goes on at another one where
    it was when that one fails, or another server leads: nothing is missed.
    It holds no more than one page of events, so who takes them slowly falls
    behind, and at last behind what the servers keep::

        async for event in store.watch("config/"):
            print(event.key, event.value)

    An iteration, one at a time, ends with:
        CompactedError: What comes next is not kept any more; the error has
            the first revision that is.  Scan the keys, and watch from there.
        CommandFailedError: The servers keep no history.
        RaftError: It was not to be found out where to begin.

    Args:
        cluster: The cluster's client.
        prefix: How the keys begin.
        begin: Gives the first revision.
    """

    def __init__(self, cluster: Client, prefix: bytes, begin: Deferred[int]) -> None:
        self._cluster = cluster
        self._prefix = prefix
        # One that fails is heard of when the events are asked for.
        self._begin: Deferred[int] = Deferred()
        begin.addBoth(self._begin.callback)
        self._next: int | None = None
        self._skip = 0
        self._events: deque[Event] = deque()
        self._waiter: Deferred[Any] | None = None
        self._is_closed = False

    @property
    def next_revision(self) -> int | None:
        """
        Return where another watch would go on, such as after a restart.

        It may yield other events of that revision again, if several have it;
        ``None`` if it is not known yet.
        """
        return self._events[0].revision if self._events else self._next

    def close(self) -> None:
        """Yield nothing more; whoever waits for an event is told so."""
        self._is_closed = True
        self._events.clear()
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.errback(_ClosedError())

    def __aiter__(self) -> Watch:
        return self

    async def __anext__(self) -> Event:
        try:
            while not self._events:
                await self._ask()
        except _ClosedError:
            raise StopAsyncIteration from None
        return self._events.popleft()

    async def _ask(self) -> None:
        """Ask for what comes next, once."""
        if self._next is None:
            self._next = await self._unless_closed(self._begin)
        query = commands.encode(Changes(self._prefix, self._next, skip=self._skip))
        try:
            reading = self._cluster.read(
                query, consistency="stale", max_age=_WAIT, wait=_WAIT
            )
            answer = await self._unless_closed(reading)
        except NotYetError:
            return
        except (InvalidCommandError, AuthenticationError, PermissionDeniedError):
            raise
        except CommandFailedError as error:
            raise _compacted(error) or error from None
        except (RejectedError, OutcomeUnknownError):
            await self._unless_closed(self._cluster.pause(_PAUSE))
            return
        events = decoded(answer, _as_events)
        self._events.extend(events.events)
        self._next, self._skip = events.next_revision, events.skip

    async def _unless_closed(self, waiting: Deferred[_T]) -> _T:
        """Return what *waiting* gives, unless the watch is closed meanwhile."""
        if self._is_closed:
            waiting.addErrback(lambda _: None)
            raise _ClosedError
        waiter: Deferred[_T] = Deferred()
        self._waiter = waiter
        waiting.addBoth(_pass_on, waiter)
        try:
            return await waiter
        finally:
            self._waiter = None


def _pass_on(outcome: Any, waiter: Deferred[Any]) -> None:
    """Give *outcome* to *waiter*, if it still waits."""
    if not waiter.called:
        waiter.callback(outcome)


def _compacted(error: CommandFailedError) -> CompactedError | None:
    """Return what *error* says, if that is of the history."""
    first = error.detail.rpartition(" ")[2]
    if error.kind != CompactedError.__name__ or not first.isdecimal():
        return None
    return CompactedError(int(first))
