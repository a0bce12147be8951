"""The storage thread: order, group commit, and what a failure does."""

from __future__ import annotations

import threading
from queue import Queue
from typing import TYPE_CHECKING, Any

import pytest
from twisted.python.failure import Failure

from adapters.storage.memory import MemoryStorage
from consensus.core.values import Entry, EntryKind, HardState
from consensus.errors import DiskFullError, StorageError
from consensus.shell import worker
from consensus.shell.worker import StorageWorker
from tests.support.servers import VirtualReactor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from twisted.internet.defer import Deferred


class QueueReactor:
    """Runs in the test's thread what other threads hand over."""

    def __init__(self) -> None:
        self._calls: Queue[Callable[[], object]] = Queue()

    def callFromThread(self, function: Callable[..., object], *args: object) -> None:
        """Keep the call for :meth:`turn`."""
        self._calls.put(lambda: function(*args))

    def turn(self) -> None:
        """Wait for a call and run it."""
        self._calls.get(timeout=30)()


class GatedStorage(MemoryStorage):
    """A storage whose syncs wait for the test, and which counts its calls."""

    blocking = True

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        self.calls: list[str] = []
        self.gate = threading.Semaphore(0)
        self.is_syncing = threading.Event()
        self.error: Exception | None = None
        #: How many syncs find the disk full, and undo all.
        self.full = 0

    def save_hard_state(self, hard_state: HardState) -> None:
        """Note it."""
        super().save_hard_state(hard_state)
        self.calls.append(f"save {hard_state.term}")

    def append(self, entries: Sequence[Entry]) -> None:
        """Note the indexes."""
        super().append(entries)
        self.calls.append(f"append {entries[0].index}-{entries[-1].index}")

    def sync(self) -> None:
        """Wait for the gate."""
        self.is_syncing.set()
        assert self.gate.acquire(timeout=30)
        if self.error is not None:
            raise self.error
        if self.full:
            self.full -= 1
            self.close()
            raise DiskFullError("no room")
        self.calls.append("sync")


def entry(index: int, term: int = 1) -> Entry:
    """Return a command's entry."""
    return Entry(index, term, EntryKind.COMMAND, b"x")


class Bench:
    """A worker with a thread, its storage, and what it reported."""

    def __init__(self) -> None:
        self.reactor = QueueReactor()
        self.storage = GatedStorage()
        self.failures: list[Exception] = []
        self.done: list[int] = []
        self.full: list[bool] = []
        self.worker = StorageWorker(
            self.storage,
            self.reactor,
            self.failures.append,
            on_full=self.full.append,
        )

    def persist(
        self, number: int, entries: Sequence[Entry] = (), term: int | None = None
    ) -> None:
        """Ask for a write; *number* goes to ``done`` when it is durable."""
        hard_state = None if term is None else HardState(term)
        self.worker.persist(hard_state, entries, lambda: self.done.append(number))

    def turn_until(self, condition: Callable[[], object]) -> None:
        """Run the reactor until *condition* holds."""
        while not condition():
            self.reactor.turn()


@pytest.fixture
def bench() -> Iterator[Bench]:
    """Return a bench whose thread ends with the test."""
    made = Bench()
    yield made
    made.storage.gate.release(100)
    made.worker.stop()


class ThreadTests:
    """A storage that blocks has a thread of its own."""

    def test_what_gathers_during_a_sync_shares_the_next(self, bench: Bench) -> None:
        """Group commit: five writes during one sync are one append and one sync."""
        bench.persist(0, [entry(1)])
        assert bench.storage.is_syncing.wait(30)
        for number in range(1, 6):
            bench.persist(number, [entry(number + 1)])
        bench.storage.gate.release(2)
        bench.turn_until(lambda: len(bench.done) == 6)
        assert bench.done == [0, 1, 2, 3, 4, 5]
        assert bench.storage.calls == ["append 1-1", "sync", "append 2-6", "sync"]

    def test_order_is_kept_across_hard_states_and_conflicts(self, bench: Bench) -> None:
        """A vote between entries, and a replaced suffix, stay in their places."""
        bench.persist(0, [entry(1)])
        assert bench.storage.is_syncing.wait(30)
        bench.persist(1, [entry(2), entry(3)])
        bench.persist(2, [entry(4)], term=2)
        bench.persist(3, [entry(3, 2)])
        bench.storage.gate.release(2)
        bench.turn_until(lambda: len(bench.done) == 4)
        assert bench.storage.calls[2:] == [
            "append 2-3",
            "save 2",
            "append 4-4",
            "append 3-3",
            "sync",
        ]
        assert bench.storage.last_index() == 3

    def test_nothing_is_done_before_the_sync(self, bench: Bench) -> None:
        """A write is reported after its sync, not before."""
        bench.persist(0, [entry(1)])
        assert bench.storage.is_syncing.wait(30)
        assert not bench.done
        bench.storage.gate.release()
        bench.turn_until(lambda: bench.done)

    def test_nothing_to_write_needs_no_sync(self, bench: Bench) -> None:
        """A request that only waits for the earlier ones costs no sync."""
        bench.persist(0)
        bench.turn_until(lambda: bench.done)
        assert not bench.storage.calls

    def test_the_last_call_finds_everything_synced(self, bench: Bench) -> None:
        """It closes the storage, which forgets what is not durable."""
        bench.persist(0, [entry(1)])
        assert bench.storage.is_syncing.wait(30)
        bench.persist(1, [entry(2)])
        closed: list[Any] = []
        note = lambda: bench.storage.calls.append("close")  # noqa: E731 - one word
        bench.worker.call(note, is_last=True).addBoth(closed.append)
        bench.storage.gate.release(2)
        bench.turn_until(lambda: closed)
        assert bench.storage.calls[2:] == ["append 2-2", "sync", "close"]
        assert bench.done == [0, 1]

    def test_calls_see_the_writes_before_them(self, bench: Bench) -> None:
        """A call runs after the earlier requests; its error is its caller's."""
        bench.storage.gate.release(10)
        bench.persist(0, [entry(1)])
        results: list[Any] = []
        bench.worker.call(bench.storage.last_index).addBoth(results.append)
        bench.worker.call(lambda: bench.storage.term(9)).addBoth(results.append)
        bench.turn_until(lambda: len(results) == 2)
        assert results[0] == 1
        assert isinstance(results[1], Failure)
        assert results[1].type is StorageError
        assert not bench.failures

    def test_a_failed_sync_is_the_end(self, bench: Bench) -> None:
        """Nothing is acknowledged, then or later, and every call is answered."""
        bench.storage.error = StorageError("gone")
        bench.persist(0, [entry(1)])
        assert bench.storage.is_syncing.wait(30)
        bench.persist(1, [entry(2)])
        results: list[Any] = []
        bench.worker.call(bench.storage.last_index).addBoth(results.append)
        bench.storage.gate.release(10)
        bench.turn_until(lambda: bench.failures)
        bench.worker.call(bench.storage.last_index).addBoth(results.append)
        assert [result.type for result in results] == [StorageError, StorageError]
        assert not bench.done
        assert "sync" not in bench.storage.calls

    def test_the_first_sync_may_have_a_sequel(self, bench: Bench) -> None:
        """It runs once, after the sync and before anybody hears of that."""
        sequels: list[list[int]] = []
        bench.worker.after_sync = lambda: sequels.append(list(bench.done))
        bench.storage.gate.release(10)
        bench.persist(0, [entry(1)])
        bench.turn_until(lambda: bench.done)
        bench.persist(1, [entry(2)])
        bench.turn_until(lambda: len(bench.done) == 2)
        assert sequels == [[]]

    def test_a_full_disk_is_tried_again(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The thread repeats the whole batch until there is room for it."""
        monkeypatch.setattr(worker, "RETRY_INTERVAL", 0.001)
        bench.storage.full = 5
        bench.storage.gate.release(100)
        bench.persist(0, [entry(1)], term=3)
        bench.turn_until(lambda: bench.done)
        assert bench.full == [True, False]
        assert bench.storage.calls == [*["save 3", "append 1-1"] * 6, "sync"]
        assert bench.storage.last_index() == 1

    def test_a_full_disk_does_not_hold_up_calls_or_the_stop(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Long before the next try, reads are served and the thread ends."""
        monkeypatch.setattr(worker, "RETRY_INTERVAL", 1000.0)
        bench.storage.full = 1
        bench.storage.gate.release(100)
        bench.persist(0, [entry(1)])
        bench.turn_until(lambda: bench.full)
        results: list[int] = []
        bench.worker.call(bench.storage.last_index).addCallback(results.append)
        bench.turn_until(lambda: results)
        assert results == [0]
        bench.worker.stop()
        assert bench.worker.thread is not None
        bench.worker.thread.join(30)
        assert not bench.worker.thread.is_alive()
        assert bench.done == []

    def test_stop_serves_what_came_before(self, bench: Bench) -> None:
        """What was requested before the end of service is still served."""
        bench.storage.gate.release(10)
        bench.persist(0, [entry(1)])
        bench.worker.stop()
        bench.turn_until(lambda: bench.done)


class InlineTests:
    """A storage that does not block is called in the reactor's thread."""

    def test_requests_of_a_turn_are_served_together_on_the_next(
        self, tmp_path: Path
    ) -> None:
        """Nothing happens before the next turn; then everything does."""
        reactor, storage = VirtualReactor(), MemoryStorage()
        storage.open(tmp_path)
        failures: list[Exception] = []
        worker = StorageWorker(storage, reactor, failures.append)
        done: list[int] = []
        worker.persist(None, [entry(1)], lambda: done.append(1))
        worker.persist(HardState(2), [entry(2)], lambda: done.append(2))
        last: Deferred[int] = worker.call(storage.last_index)
        assert storage.last_index() == 0
        reactor.advance(0)
        assert done == [1, 2]
        results: list[int] = []
        last.addCallback(results.append)
        assert results == [2]

    def test_a_failure_is_the_end(self, tmp_path: Path) -> None:
        """As with a thread: later requests are not served."""
        reactor, storage = VirtualReactor(), MemoryStorage()
        storage.open(tmp_path)
        failures: list[Exception] = []
        worker = StorageWorker(storage, reactor, failures.append)
        done: list[int] = []
        worker.persist(None, [entry(5)], lambda: done.append(1))
        reactor.advance(0)
        worker.persist(None, [entry(1)], lambda: done.append(2))
        reactor.advance(0)
        assert len(failures) == 1
        assert not done
        assert storage.last_index() == 0
