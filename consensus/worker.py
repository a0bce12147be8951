"""
The thread that calls one server's storage.

Whatever has gathered while the last sync was under way is written and synced
together (group commit), and reported back in one call of the reactor.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from consensus.core.values import Entry, HardState
    from consensus.interfaces import Storage

_T = TypeVar("_T")


@dataclass(slots=True)
class _Write:
    """Make these durable, then call *done* in the reactor's thread."""

    hard_state: HardState | None
    entries: Sequence[Entry]
    done: Callable[[], None]


@dataclass(slots=True)
class _Call:
    """Run *function*, then fire *answer* in the reactor's thread."""

    function: Callable[[], Any]
    answer: Deferred[Any]
    result: Any = None


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
    """

    def __init__(
        self,
        storage: Storage,
        reactor: Any,
        failed: Callable[[Exception], None],
    ) -> None:
        self._storage = storage
        self._reactor = reactor
        self._failed = failed
        #: Called on the thread after the next sync, before anybody hears of it.
        self.after_sync: Callable[[], None] | None = None
        self._error: Exception | None = None
        self._queue: SimpleQueue[_Write | _Call | None] = SimpleQueue()
        self._is_scheduled = False
        if storage.blocking:
            threading.Thread(
                target=self._serve, name="raft-storage", daemon=True
            ).start()

    def persist(
        self,
        hard_state: HardState | None,
        entries: Sequence[Entry],
        done: Callable[[], None],
    ) -> None:
        """Call *done* once this, and all that was asked before, is durable."""
        self._request(_Write(hard_state, entries, done))

    def call(self, function: Callable[[], _T]) -> Deferred[_T]:
        """Return the result of *function*, called after all earlier requests."""
        if self._error is not None:
            return fail(self._error)
        answer: Deferred[_T] = Deferred()
        self._request(_Call(function, answer))
        return answer

    def stop(self) -> None:
        """Serve what was requested so far, then nothing more."""
        self._request(None)

    def _request(self, request: _Write | _Call | None) -> None:
        self._queue.put(request)
        if not self._storage.blocking and not self._is_scheduled:
            self._is_scheduled = True
            self._reactor.callFromThread(self._serve_inline)

    def _serve_inline(self) -> None:
        self._is_scheduled = False
        requests = self._gather([])
        if self._error is None:
            self._report(requests, self._perform(requests))

    def _serve(self) -> None:
        """Be the thread."""
        is_running = True
        while is_running:
            requests = self._gather([self._queue.get()])
            if requests[-1] is None:
                is_running = False
            error = self._perform(requests)
            self._reactor.callFromThread(self._report, requests, error)
            is_running = is_running and error is None

    def _gather(
        self, requests: list[_Write | _Call | None]
    ) -> list[_Write | _Call | None]:
        """Add what waits in the queue to *requests*, up to the end of service."""
        try:
            while not requests or requests[-1] is not None:
                requests.append(self._queue.get_nowait())
        except Empty:
            pass
        return requests

    def _perform(self, requests: list[_Write | _Call | None]) -> Exception | None:
        """Serve *requests* with at most one sync; return why it failed."""
        entries: list[Entry] = []
        wrote = False
        try:
            for request in requests:
                if isinstance(request, _Write):
                    wrote = wrote or bool(request.hard_state or request.entries)
                    self._write(request, entries)
                elif request is not None:
                    self._flush(entries)
                    self._run(request)
            self._flush(entries)
            if wrote:
                self._storage.sync()
                if self.after_sync is not None:
                    self.after_sync()
                    self.after_sync = None
        except Exception as error:  # noqa: BLE001 - reported, then the server stops
            return error
        return None

    def _write(self, request: _Write, entries: list[Entry]) -> None:
        """Write *request*, its entries perhaps together with the next one's."""
        if request.hard_state is not None:
            self._flush(entries)
            self._storage.save_hard_state(request.hard_state)
        if request.entries:
            if entries and entries[-1].index + 1 != request.entries[0].index:
                self._flush(entries)
            entries += request.entries

    def _flush(self, entries: list[Entry]) -> None:
        if entries:
            self._storage.append(entries)
            entries.clear()

    def _run(self, request: _Call) -> None:
        try:
            request.result = request.function()
        except Exception:  # noqa: BLE001 - handed to whoever asked
            request.result = Failure()

    def _report(
        self, requests: list[_Write | _Call | None], error: Exception | None
    ) -> None:
        """Tell who asked; in the reactor's thread."""
        if error is not None:
            self._error = error
            for request in [*requests, *self._gather([])]:
                if isinstance(request, _Call):
                    request.answer.errback(error)
            self._failed(error)
            return
        for request in requests:
            if isinstance(request, _Write):
                request.done()
            elif request is not None:
                request.answer.callback(request.result)
