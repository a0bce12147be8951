"""
The thread that calls one server's storage.

Whatever has gathered while the last sync was under way is written and synced
together (group commit), and reported back in one call of the reactor.

When the disk is full, writes wait, in their order, and are tried again from
time to time; reads go on.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure

from consensus.errors import DiskFullError
from consensus.telemetry.histogram import Histogram

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from consensus.core.values import Entry, HardState, LogIndex, Term
    from consensus.interfaces import Storage

_T = TypeVar("_T")

#: Seconds between two tries to write to a disk that is full.
RETRY_INTERVAL = 1.0


@dataclass(slots=True)
class _Write:
    """Make these durable, then call *done* in the reactor's thread."""

    hard_state: HardState | None
    entries: Sequence[Entry]
    done: Callable[[], None]
    compaction: tuple[LogIndex, Term] | None = None

    @property
    def is_empty(self) -> bool:
        """Say whether there is nothing to write, only others to wait for."""
        return not (self.hard_state or self.entries or self.compaction)


@dataclass(slots=True)
class _Call:
    """Run *function*, then fire *answer* in the reactor's thread."""

    function: Callable[[], Any]
    answer: Deferred[Any]
    is_last: bool = False
    result: Any = None
    was_run: bool = False


@dataclass(slots=True)
class _Outcome:
    """What became of requests: these are served, the rest waits or failed."""

    served: Sequence[_Write | _Call | None]
    error: Exception | None = None
    is_full: bool = False


class StorageWorker:
    """
    Calls *storage*, one call at a time, in the order of the requests.

    A storage that is not ``blocking`` is called in the reactor's own thread,
    on the turn after the request; then everything is as deterministic as the
    reactor is.

    Args:
        storage: Not yet open.
        reactor: In whose thread requests are made and answered.
        failed: Called once, when a write failed; no request is served or
            answered any more.
        clock: By which a storage that is not ``blocking`` is tried again; by
            default *reactor*.
        on_full: Called in the reactor's thread with ``True`` when the disk
            is full, and with ``False`` when there is room again.
    """

    def __init__(
        self,
        storage: Storage,
        reactor: Any,
        failed: Callable[[Exception], None],
        clock: Any = None,
        on_full: Callable[[bool], None] | None = None,
    ) -> None:
        self._storage = storage
        self._reactor = reactor
        self._failed = failed
        self._clock = reactor if clock is None else clock
        self._on_full = on_full
        self._is_full = False
        #: What the disk had no room for; the storage has nothing of it.
        self._backlog: list[_Write | _Call | None] = []
        self._retry_at = 0.0
        self._retry: Any = None
        #: Called on the thread after the next sync, before anybody hears of it.
        self.after_sync: Callable[[], None] | None = None
        #: How long syncs took; filled on the thread.
        self.sync_seconds = Histogram()
        self._error: Exception | None = None
        self._queue: SimpleQueue[_Write | _Call | None] = SimpleQueue()
        self._is_scheduled = False
        #: Where a storage that blocks is called.
        self.thread: threading.Thread | None = None
        if storage.blocking:
            self.thread = threading.Thread(
                target=self._serve, name="raft-storage", daemon=True
            )
            self.thread.start()

    def persist(
        self,
        hard_state: HardState | None,
        entries: Sequence[Entry],
        done: Callable[[], None],
    ) -> None:
        """Call *done* once this, and all that was asked before, is durable."""
        self._request(_Write(hard_state, entries, done))

    def compact(self, index: LogIndex, term: Term, done: Callable[[], None]) -> None:
        """Compact the log; call *done* as :meth:`persist` does."""
        self._request(_Write(None, (), done, (index, term)))

    def call(
        self, function: Callable[[], _T], *, is_last: bool = False
    ) -> Deferred[_T]:
        """
        Return the result of *function*, called after all earlier requests.

        Args:
            function: What to call.
            is_last: It closes the storage, so all before has to be synced.

        Only when the disk is full it is called before the writes that wait:
        it finds the storage as the last sync left it.
        """
        if self._error is not None:
            return fail(self._error)
        answer: Deferred[_T] = Deferred()
        self._request(_Call(function, answer, is_last))
        return answer

    @property
    def depth(self) -> int:
        """Return how many requests wait for the thread."""
        return self._queue.qsize() + len(self._backlog)

    def stop(self) -> None:
        """
        Serve what was requested so far, then nothing more.

        What the disk has no room for is given up.
        """
        self._request(None)

    def _request(self, request: _Write | _Call | None) -> None:
        self._queue.put(request)
        if not self._storage.blocking and not self._is_scheduled:
            self._is_scheduled = True
            self._reactor.callFromThread(self._serve_inline)

    def _serve_inline(self) -> None:
        self._is_scheduled = False
        self._serve_now(is_due=False)

    def _try_again_inline(self) -> None:
        self._retry = None
        self._serve_now(is_due=True)

    def _serve_now(self, *, is_due: bool) -> None:
        """Be what the thread is to others, once."""
        requests = self._gather([])
        outcome = None
        if self._error is None:
            outcome = self._perform(requests, is_due=is_due)
        self._finish_now(requests, outcome)

    def _finish_now(
        self, requests: list[_Write | _Call | None], outcome: _Outcome | None
    ) -> None:
        """Tell who asked for *requests*; see to those that have to wait."""
        if outcome is not None:
            self._report(outcome)
        is_over = self._error is not None or None in requests
        if is_over and self._retry is not None:
            self._retry.cancel()
            self._retry = None
        elif self._backlog and self._retry is None and not is_over:
            self._retry = self._clock.callLater(RETRY_INTERVAL, self._try_again_inline)

    def _serve(self) -> None:
        """Be the thread."""
        is_running = True
        while is_running:
            requests = self._gather(self._await())
            is_due = monotonic() >= self._retry_at
            outcome = self._perform(requests, is_due=is_due)
            self._reactor.callFromThread(self._report, outcome)
            is_running = outcome.error is None and None not in requests

    def _await(self) -> list[_Write | _Call | None]:
        """Wait for a request; while the disk is full, not for too long."""
        if not self._backlog:
            return [self._queue.get()]
        try:
            return [self._queue.get(timeout=max(0.0, self._retry_at - monotonic()))]
        except Empty:
            return []

    def _gather(
        self, requests: list[_Write | _Call | None]
    ) -> list[_Write | _Call | None]:
        """Add what waits in the queue to *requests*, up to the end of service."""
        queue = self._queue
        # Nobody else takes anything out of the queue.
        while not queue.empty() and (not requests or requests[-1] is not None):
            requests.append(queue.get_nowait())
        return requests

    def _perform(
        self, requests: list[_Write | _Call | None], *, is_due: bool
    ) -> _Outcome:
        """
        Serve what waits and *requests*.

        Args:
            requests: New ones.
            is_due: Whether to try again what the disk had no room for.
        """
        todo = [*self._backlog, *requests]
        if self._backlog and not is_due:
            return self._put_off(todo)
        try:
            self._do(todo)
        except DiskFullError:
            self._retry_at = monotonic() + RETRY_INTERVAL
            return self._put_off(todo)
        except Exception as error:  # noqa: BLE001 - reported, then the server stops
            return _Outcome(todo, error)
        self._backlog = []
        return _Outcome(todo)

    def _put_off(self, todo: list[_Write | _Call | None]) -> _Outcome:
        """Let the writes among *todo* wait; serve the calls."""
        self._backlog = [each for each in todo if isinstance(each, _Write)]
        calls = [each for each in todo if isinstance(each, _Call)]
        for call in calls:
            if not call.was_run:
                self._run(call)
        return _Outcome(calls, is_full=True)

    def _do(self, requests: list[_Write | _Call | None]) -> None:
        """Serve *requests* with at most one sync."""
        entries: list[Entry] = []
        wrote = False
        for request in requests:
            if isinstance(request, _Write):
                wrote = wrote or not request.is_empty
                self._write(request, entries)
            elif request is not None:
                self._flush(entries)
                if wrote and request.is_last:
                    self._sync()
                    wrote = False
                self._run(request)
        self._flush(entries)
        if wrote:
            self._sync()

    def _sync(self) -> None:
        began = monotonic()
        self._storage.sync()
        self.sync_seconds.observe(monotonic() - began)
        if self.after_sync is not None:
            self.after_sync()
            self.after_sync = None

    def _write(self, request: _Write, entries: list[Entry]) -> None:
        """Write *request*, its entries perhaps together with the next one's."""
        if request.hard_state is not None:
            self._flush(entries)
            self._storage.save_hard_state(request.hard_state)
        if request.entries:
            if entries and entries[-1].index + 1 != request.entries[0].index:
                self._flush(entries)
            entries += request.entries
        if request.compaction is not None:
            self._flush(entries)
            self._storage.compact(*request.compaction)

    def _flush(self, entries: list[Entry]) -> None:
        if entries:
            # A storage may write the entries no sooner than in the sync.
            self._storage.append(tuple(entries))
            entries.clear()

    def _run(self, request: _Call) -> None:
        request.was_run = True
        try:
            request.result = request.function()
        except Exception:  # noqa: BLE001 - handed to whoever asked
            request.result = Failure()

    def _report(self, outcome: _Outcome) -> None:
        """Tell who asked; in the reactor's thread."""
        error = outcome.error
        if error is not None:
            self._error = error
            for request in [*outcome.served, *self._gather([])]:
                if isinstance(request, _Call):
                    request.answer.errback(error)
            self._failed(error)
            return
        if outcome.is_full is not self._is_full:
            self._is_full = outcome.is_full
            if self._on_full is not None:
                self._on_full(outcome.is_full)
        for request in outcome.served:
            if isinstance(request, _Write):
                request.done()
            elif request is not None:
                request.answer.callback(request.result)
