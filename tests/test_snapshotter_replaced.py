"""A snapshot that is replaced between its check and its restoring."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred, succeed

from consensus.config import Snapshots
from consensus.core.log import Log
from consensus.core.membership import Membership
from consensus.core.raft import Raft
from consensus.core.values import HardState, SnapshotMeta
from consensus.snapshots import MemorySnapshots
from consensus.snapshotter import Snapshotter

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
