"""
Simulated disks: what a server keeps over a crash, and how a disk lets it down.

A disk is slow, fails, fills up; at a crash it loses what was not synced, or
keeps some of it, or only the beginning of the last write.  It keeps snapshots
and the records of the data directory, too.  Nothing touches a real disk.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from consensus.core.values import HardState, Identity
from consensus.entries import fitting
from consensus.errors import CompactedError, DiskFullError, StorageError
from consensus.interfaces import Storage
from consensus.shell.worker import StorageWorker
from consensus.snapshots.files import MemorySnapshots, SnapshotWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from random import Random

    from consensus.core.values import Entry, LogIndex, ServerId, SnapshotMeta, Term


@dataclass(slots=True)
class Image:
    """
    What is on a disk, or what somebody believes that is on it.

    Args:
        hard_state: Term and vote.
        base_index: The last entry that was dropped.
        base_term: Its term.
        entries: Those that follow it.
        votes: For whom a vote was given, in each term.
        is_used: Whether it is noted that there is something to remember.
    """

    hard_state: HardState = field(default_factory=HardState)
    base_index: LogIndex = 0
    base_term: Term = 0
    entries: list[Entry] = field(default_factory=list)
    votes: dict[Term, ServerId] = field(default_factory=dict)
    is_used: bool = False

    @property
    def last_index(self) -> LogIndex:
        """Return the last entry's."""
        return self.base_index + len(self.entries)

    def term(self, index: LogIndex) -> Term:
        """Return the term of a kept entry, or of the last one that is not."""
        if index == self.base_index:
            return self.base_term
        return self.entries[index - self.base_index - 1].term

    def has(self, index: LogIndex, term: Term) -> bool:
        """Say whether the entry is here, or in a snapshot by now."""
        if index <= self.base_index:
            return True
        return index <= self.last_index and self.term(index) == term

    def copy(self) -> Image:
        """Return an image that changes by itself."""
        return Image(
            self.hard_state,
            self.base_index,
            self.base_term,
            list(self.entries),
            dict(self.votes),
            self.is_used,
        )

    def save(self, hard_state: HardState) -> None:
        """Replace term and vote."""
        self.hard_state = hard_state
        if hard_state.vote is not None:
            self.votes[hard_state.term] = hard_state.vote

    def append(self, entries: Sequence[Entry]) -> None:
        """Put *entries* in their place, and nothing behind them."""
        self.entries[entries[0].index - self.base_index - 1 :] = entries

    def compact(self, index: LogIndex, term: Term) -> None:
        """Drop what comes before *index*, or all."""
        keeps = index <= self.last_index and self.term(index) == term
        self.entries = self.entries[index - self.base_index :] if keeps else []
        self.base_index, self.base_term = index, term

    def use(self) -> None:
        """Note that there is something to remember."""
        self.is_used = True


#: One write: what it is called on an image, and with what.
_Write = tuple[str, tuple[Any, ...]]


class SimulatedDisk:
    """
    The disk of one server; it outlives its processes.

    Args:
        path: A name; nothing is there.
        identity: Whose disk it is.
        random: For delays, and for what a crash leaves.
        lands: Whether a sync is certain as soon as it returns; a
            :class:`SimulatedWorker` says so later.
        tears: Whether a crash may leave the beginning of a write.
    """

    def __init__(
        self,
        path: Path,
        identity: Identity,
        random: Random,
        *,
        lands: bool = False,
        tears: bool = True,
    ) -> None:
        self.path = path
        self.identity = identity
        self.lands = lands
        self.tears = tears
        #: What survives a crash for certain.
        self.durable = Image()
        #: What the process reads.
        self.live = Image()
        #: Whether every write fails, and what it says then.
        self.is_broken = False
        self.failure = f"the disk of {identity.server} has failed"
        #: Whether there is no room.
        self.is_full = False
        #: How long a sync takes, from and to, in seconds.
        self.delay = (0.0, 0.0)
        #: Called with each append and the term of the entry before it.
        self.appended: Callable[[Sequence[Entry], Term], None] = _ignore
        #: Called with each hard state, and the one that it replaces.
        self.saved: Callable[[HardState, HardState], None] = _ignore
        self.snapshots = SimulatedSnapshots(self)
        #: Those that its server had before, and lost with all that was on them.
        self.former: tuple[SimulatedDisk, ...] = ()
        self.peers: dict[ServerId, str] = {}
        self._random = random
        # Written since the last sync, and synced but perhaps not yet there.
        self._pending: list[_Write] = []
        self._landing: list[_Write] = []

    def latency(self) -> float:
        """Return how long the next sync takes."""
        shortest, longest = self.delay
        return self._random.uniform(shortest, longest) if longest else 0.0

    def require_writable(self) -> None:
        """
        See that something can be written.

        Raises:
            StorageError: The disk is broken.
            DiskFullError: It is full.
        """
        if self.is_broken:
            raise StorageError(self.failure)
        if self.is_full:
            raise DiskFullError("no space left on device")

    def _require_room(self) -> None:
        """Forget what was written since the last sync, if there is no room."""
        try:
            self.require_writable()
        except DiskFullError:
            self._pending.clear()
            self.live = self.durable.copy()
            for name, args in self._landing:
                getattr(self.live, name)(*args)
            raise

    def write(self, name: str, *args: Any) -> None:
        """Do something to the live image; to the durable one after a sync."""
        self._require_room()
        getattr(self.live, name)(*args)
        self._pending.append((name, args))

    def sync(self) -> None:
        """Send all that was written on its way."""
        self._require_room()
        self._landing += self._pending
        self._pending.clear()
        if self.lands:
            self.land()

    def note_use(self) -> None:
        """Note, in the wake of a sync, that there is something to remember."""
        self.live.use()
        self._landing.append(("use", ()))

    def land(self) -> None:
        """Let what was synced be certain: the server is about to hear of it."""
        for name, args in self._landing:
            getattr(self.durable, name)(*args)
        self._landing.clear()

    def reopen(self) -> None:
        """Begin with what was synced."""
        self.land()
        self._pending.clear()
        self.live = self.durable.copy()

    def crash(self) -> None:
        """Leave what was certain, and some of the rest, up to anywhere."""
        writes = self._landing + self._pending
        kept = self._random.randint(0, len(writes)) if writes else 0
        for name, args in writes[:kept]:
            getattr(self.durable, name)(*args)
        if self.tears and kept < len(writes) and writes[kept][0] == "append":
            entries = writes[kept][1][0]
            torn = entries[: self._random.randint(0, len(entries) - 1)]
            if torn:
                self.durable.append(torn)
        self._pending.clear()
        self._landing.clear()
        self.live = self.durable.copy()
        self.snapshots.crash()


def _ignore(what: object, before: object) -> None:
    """Take no notice."""


class SimulatedStorage(Storage):
    """A log and a hard state on a :class:`SimulatedDisk`."""

    blocking = False

    def __init__(self, options: SimulatedDisk) -> None:
        super().__init__(options)
        self.disk = options

    def open(self, directory: Path) -> None:  # noqa: ARG002 - the disk has its own
        """Find what the disk has; it is certain now."""
        self.disk.reopen()

    def hard_state(self) -> HardState:
        """Return what was saved last."""
        return self.disk.live.hard_state

    def save_hard_state(self, hard_state: HardState) -> None:
        """Replace term and vote."""
        self.disk.saved(hard_state, self.disk.live.hard_state)
        self.disk.write("save", hard_state)

    def append(self, entries: Sequence[Entry]) -> None:
        """Put *entries* behind those that stay."""
        first, live = entries[0].index, self.disk.live
        follows = all(each.index == index for index, each in enumerate(entries, first))
        if not (follows and live.base_index < first <= live.last_index + 1):
            message = (
                f"{[each.index for each in entries]} cannot follow"
                f" {live.base_index}-{live.last_index}"
            )
            raise StorageError(message)
        entries = tuple(entries)
        self.disk.appended(entries, live.term(first - 1))
        self.disk.write("append", entries)

    def entries(
        self, first: LogIndex, last: LogIndex, max_bytes: int
    ) -> Sequence[Entry]:
        """Return the very entries that were appended."""
        live = self.disk.live
        if first <= live.base_index:
            raise CompactedError(live.base_index + 1)
        if last > live.last_index:
            message = f"there is no entry {last}; the last is {live.last_index}"
            raise StorageError(message)
        base = live.base_index + 1
        return fitting(live.entries[first - base : last - base + 1], max_bytes)

    def term(self, index: LogIndex) -> Term:
        """Return the term of the entry at *index*."""
        live = self.disk.live
        if index < live.base_index:
            raise CompactedError(live.base_index + 1)
        if index > live.last_index:
            message = f"there is no entry {index}; the last is {live.last_index}"
            raise StorageError(message)
        return live.term(index)

    def first_index(self) -> LogIndex:
        """Return the index of the first entry that is kept."""
        return self.disk.live.base_index + 1

    def last_index(self) -> LogIndex:
        """Return the index of the last entry."""
        return self.disk.live.last_index

    def compact(self, index: LogIndex, term: Term) -> None:
        """Drop the beginning."""
        if index > self.disk.live.base_index:
            self.disk.write("compact", index, term)

    def sync(self) -> None:
        """Send what was written on its way."""
        self.disk.sync()

    def close(self) -> None:
        """Do nothing: the disk stays what it is."""


class SimulatedMemory(SimulatedStorage):
    """One whose server begins anew each time."""

    durable = False


class SimulatedWorker(StorageWorker):
    """
    A thread for a storage, whose calls take as long as the disk says.

    What is asked for meanwhile waits for the next sync.

    Args:
        disk: Whose.
        of_log: Whether it is the log that it writes.
        *args: For the base.
    """

    def __init__(self, disk: SimulatedDisk, of_log: bool, *args: Any) -> None:  # noqa: FBT001 - of two workers
        super().__init__(*args)
        self._disk = disk
        self._of_log = of_log
        self._is_busy = False

    def _serve_now(self, *, is_due: bool) -> None:
        if self._is_busy:
            return
        requests = self._gather([])
        if self._error is not None:
            self._finish_now(requests, None)
            return
        outcome = self._perform(requests, is_due=is_due)
        delay = self._disk.latency()
        if delay:
            self._is_busy = True
            self._reactor.callLater(delay, self._end, requests, outcome)
        else:
            self._end(requests, outcome)

    def _end(self, requests: list[Any], outcome: Any) -> None:
        self._is_busy = False
        if self._of_log and outcome.error is None:
            self._disk.land()
        self._finish_now(requests, outcome)
        if not self._queue.empty():
            self._serve_now(is_due=False)


class SimulatedDirectory:
    """
    The data directory on a :class:`SimulatedDisk`.

    Args:
        disk: Which.
        machine: Where a state machine has its own files; real ones.
    """

    def __init__(self, disk: SimulatedDisk, machine: Path | None = None) -> None:
        self._disk = disk
        self._machine = machine
        self.path = disk.path
        self.identity = disk.identity

    @property
    def is_used(self) -> bool:
        """Say whether the storage in here has had something to remember."""
        return self._disk.live.is_used

    def mark_used(self) -> None:
        """Note that it has; with the sync that it follows."""
        self._disk.note_use()

    def acquaintances(self) -> dict[ServerId, str]:
        """Return whom the server has met."""
        return dict(self._disk.peers)

    def remember(self, peer: ServerId, incarnation: str) -> None:
        """Note who *peer* is; it is certain at once."""
        self._disk.require_writable()
        self._disk.peers[peer] = incarnation

    def forget(self, peer: ServerId) -> None:
        """Undo :meth:`remember`."""
        if peer in self._disk.peers:
            self._disk.require_writable()
            del self._disk.peers[peer]

    def forget_all(self) -> None:
        """Forget every other server."""
        self._disk.require_writable()
        self._disk.peers.clear()

    def for_machine(self) -> Path | None:
        """Return where a state machine has its own files."""
        return self._machine

    def close(self) -> None:
        """Do nothing: nothing was locked."""


class SimulatedSnapshots(MemorySnapshots):
    """Snapshots on a :class:`SimulatedDisk`."""

    def __init__(self, disk: SimulatedDisk) -> None:
        super().__init__()
        self._disk = disk

    def begin(self, meta: SnapshotMeta) -> SnapshotWriter:
        """Begin one, if there is room."""
        self._disk.require_writable()
        return _Writer(self._disk, super().begin(meta))

    def crash(self) -> None:
        """Keep the latest; the one before it is deleted at a start."""
        del self._kept[:-1]


class _Writer(SnapshotWriter):
    """Gives up where the disk does."""

    def __init__(self, disk: SimulatedDisk, writer: SnapshotWriter) -> None:
        self._disk = disk
        self._writer = writer

    def write(self, chunk: bytes) -> None:
        self._try()
        self._writer.write(chunk)

    def finish(self) -> SnapshotMeta:
        self._try()
        return self._writer.finish()

    def commit(self) -> None:
        self._try()
        self._writer.commit()

    def abort(self) -> None:
        self._writer.abort()

    def _try(self) -> None:
        try:
            self._disk.require_writable()
        except StorageError:
            self._writer.abort()
            raise
