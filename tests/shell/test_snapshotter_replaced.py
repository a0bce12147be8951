"""Snapshots that get in each other's way: replaced, or received, by a newer one."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import pytest
from twisted.internet.defer import Deferred, succeed

from consensus.config import Snapshots
from consensus.core.log import Log
from consensus.core.membership import Membership
from consensus.core.messages import InstallSnapshot
from consensus.core.raft import Raft
from consensus.core.values import HardState, SnapshotMeta
from consensus.errors import RejectedError
from consensus.shell.snapshotter import Snapshotter
from consensus.snapshots.files import MemorySnapshots

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeVar

    _T = TypeVar("_T")

MEMBERSHIP = Membership.founding("c", {"s1": "s1", "s2": "s2"})


def written(store: MemorySnapshots, index: int) -> SnapshotMeta:
    """Write a snapshot of *index*, and let it count."""
    writer = store.begin(SnapshotMeta(index, 2, MEMBERSHIP.encode(), 1))
    writer.write(b"state")
    meta = writer.finish()
    writer.commit()
    return meta


class BusyCaller:
    """A thread on which two newer snapshots are stored before it reports."""

    def __init__(self, store: MemorySnapshots) -> None:
        self._store = store
        self.newest: SnapshotMeta | None = None

    def call(self, function: Callable[[], _T]) -> Deferred[_T]:
        result = function()
        if self.newest is None:
            written(self._store, 20)
            self.newest = written(self._store, 30)
        return succeed(result)


class Source:
    """What is restored."""

    def __init__(self) -> None:
        self.restored: list[bytes] = []

    def snapshot(self) -> Iterator[bytes]:
        yield b"state"

    def restore(self, chunks: Iterator[bytes]) -> None:
        self.restored.append(b"".join(chunks))


def test_the_newest_is_restored() -> None:
    """The server does not stop, and restores the one that is there."""
    store = MemorySnapshots()
    oldest = written(store, 10)
    raft = Raft(
        "s1",
        lambda _: 0,
        hard_state=HardState(2),
        log=Log(10, base_index=10, base_term=2, applied=10),
        memberships=[(1, MEMBERSHIP)],
        snapshot=oldest,
    )
    caller, source = BusyCaller(store), Source()
    errors: list[Exception] = []
    snapshotter = Snapshotter(
        raft, source, store, caller, Snapshots(), lambda: None, errors.append
    )

    def perform() -> None:
        ready = raft.ready()
        assert ready is not None
        snapshotter.perform(ready)

    perform()
    assert not errors
    assert not source.restored
    assert caller.newest is not None
    raft.snapshot_stored(caller.newest, is_whole=True)
    perform()
    assert source.restored == [b"state"]
    assert raft.state.restoring is None


class Thread:
    """A thread whose steps the test takes, one after the other."""

    def __init__(self) -> None:
        self._steps: deque[tuple[Callable[[], Any], Deferred[Any]]] = deque()

    def call(self, function: Callable[[], _T]) -> Deferred[_T]:
        done: Deferred[_T] = Deferred()
        self._steps.append((function, done))
        return done

    def step(self) -> None:
        function, done = self._steps.popleft()
        done.callback(function())

    def work(self) -> None:
        while self._steps:
            self.step()


@pytest.mark.parametrize("head_start", range(5))
def test_one_that_arrives_while_an_older_one_is_taken(head_start: int) -> None:
    """Wherever the older one is by then, the newer one counts and is restored."""
    sent = written(MemorySnapshots(), 100)
    raft = Raft(
        "s1",
        lambda _: 0,
        hard_state=HardState(2),
        log=Log(10, [(1, 2)], applied=10),
        memberships=[(1, MEMBERSHIP)],
    )
    store, thread, source = MemorySnapshots(), Thread(), Source()
    errors: list[Exception] = []
    snapshotter = Snapshotter(
        raft, source, store, thread, Snapshots(), lambda: None, errors.append
    )
    outcomes: list[Any] = []

    def perform() -> None:
        while (ready := raft.ready()) is not None:
            raft.advance(ready)
            snapshotter.perform(ready)

    snapshotter.take().addBoth(outcomes.append)
    for _ in range(head_start):
        thread.step()
    raft.step(InstallSnapshot("s2", 2, sent, 0, b"state"))
    perform()
    thread.work()
    assert raft.state.restoring == sent
    snapshotter.take().addErrback(lambda failure: outcomes.append(failure.value))
    assert isinstance(outcomes.pop(), RejectedError)
    perform()
    thread.work()
    assert source.restored == [b"state"]
    assert store.latest == raft.state.snapshot == sent
    assert (raft.state.log.base_index, raft.state.log.last_applied) == (100, 100)
    snapshotter.take().addBoth(outcomes.append)
    assert [each.index for each in outcomes] == [10, 100]
    assert not errors
