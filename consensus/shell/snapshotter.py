"""
Snapshots of one server, as they are taken, sent, received and restored (§5).

Whatever touches the files happens on a thread of its own, in short steps: the
log's syncs do not wait for it, and chunks for a follower come in between those
of a snapshot that is just being written.
"""

from __future__ import annotations

from functools import partial
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger

from consensus.core.values import SnapshotMeta
from consensus.errors import (
    CompactedError,
    DiskFullError,
    InvalidCommandError,
    ProtocolError,
    RaftError,
    RejectedError,
    StorageError,
)
from consensus.snapshots.files import split
from consensus.telemetry.measurements import Measurements

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Protocol, TypeVar

    from twisted.python.failure import Failure

    from consensus.config import Snapshots
    from consensus.core.raft import Raft
    from consensus.core.ready import FetchChunk, Ready, ReceivedChunk
    from consensus.core.values import Entry, LogIndex
    from consensus.snapshots.files import SnapshotStore, SnapshotWriter
    from consensus.snapshots.format import HeldSnapshot

    _T = TypeVar("_T")

    class Caller(Protocol):
        """Calls functions one after the other, on a thread."""

        def call(self, function: Callable[[], _T]) -> Deferred[_T]:
            """Return the result of *function*."""

    class Source(Protocol):
        """What snapshots are of."""

        def snapshot(self) -> Iterator[bytes]:
            """See :class:`.Applier`."""

        def restore(self, chunks: Iterator[bytes]) -> None:
            """See :class:`.Applier`."""


_log = Logger()

_command = attrgetter("command")

#: Chunks written in one step of the thread: some megabytes.
_STEP = 64


class Snapshotter:
    """
    Does what the core's readies say of snapshots, and takes new ones in time.

    Args:
        raft: Whose.
        source: What its entries are applied to.
        store: Where snapshots are.
        caller: Who calls *store*.
        policy: When one is taken.
        schedule: Called when the core has something new to say.
        on_error: Called when the server cannot go on.
        note: Called with what happened, by the names of :class:`.Happening`.
        measured: Where it is counted.
    """

    def __init__(  # noqa: PLR0917 - each is used, and made once, by the driver
        self,
        raft: Raft,
        source: Source,
        store: SnapshotStore,
        caller: Caller,
        policy: Snapshots,
        schedule: Callable[[], None],
        on_error: Callable[[Exception], None],
        note: Callable[..., None] = lambda _, **__: None,
        measured: Measurements | None = None,
    ) -> None:
        self._measured = Measurements(lambda: 0.0) if measured is None else measured
        self._began = 0.0
        self._raft = raft
        self._name = raft.state.server
        self._source = source
        self._store = store
        self._caller = caller
        self.policy = policy
        self._schedule = schedule
        self._on_error = on_error
        self._note = note
        self._is_over = False
        self._bytes = 0
        # Where the last attempt was, successful or not.
        self._attempted = 0 if store.latest is None else store.latest.index
        self._taking: Deferred[SnapshotMeta] | None = None
        self._writer: SnapshotWriter | None = None

    def stop(self) -> None:
        """Do nothing more; what is being written is left to the store's end."""
        self._is_over = True

    def perform(self, ready: Ready) -> None:
        """Do what *ready* says of snapshots."""
        for fetch in ready.chunk_fetches:
            self._run(partial(self._read, fetch), partial(self._send, fetch))
        for chunk in ready.received:
            self._run(partial(self._keep, chunk), partial(self._kept, chunk.meta))
        if ready.restore is not None:
            self._run(
                partial(self._check, ready.restore),
                partial(self._restore, ready.restore),
            )

    def _run(self, step: Callable[[], _T], then: Callable[[_T], None]) -> None:
        """Call *step* on the thread, and *then* with its result."""

        def done(result: _T) -> None:
            if not self._is_over:
                then(result)
                self._schedule()

        self._caller.call(step).addCallback(done).addErrback(self._failed)

    def _failed(self, failure: Failure) -> None:
        if not self._is_over and isinstance(failure.value, Exception):
            self._on_error(failure.value)

    # --- sending ---------------------------------------------------------------

    def _read(self, fetch: FetchChunk) -> bytes | None:
        try:
            return self._store.chunk(fetch.meta, fetch.number)
        except CompactedError:
            return None

    def _send(self, fetch: FetchChunk, data: bytes | None) -> None:
        self._raft.chunk_fetched(fetch, data)

    # --- receiving -------------------------------------------------------------

    def _keep(self, chunk: ReceivedChunk) -> bool | None:
        """
        Store a chunk; say after the last one whether the whole is right.

        What cannot be stored, for want of room or because it is not what was
        announced, is received again.
        """
        try:
            return self._write(chunk)
        except (DiskFullError, ProtocolError) as error:
            _log.warn(
                "{server} could not store a snapshot that it was sent: {error}",
                server=self._name,
                error=error,
            )
            if self._writer is not None:
                self._writer.abort()
                self._writer = None
            return False

    def _write(self, chunk: ReceivedChunk) -> bool | None:
        meta = chunk.meta
        if chunk.number == 0:
            if self._writer is not None:
                self._writer.abort()
            self._writer = self._store.begin(meta)
        if self._writer is None:
            return None  # given up already, and said so
        self._writer.write(chunk.data)
        if chunk.number + 1 < meta.chunks:
            return None
        writer, self._writer = self._writer, None
        is_whole = writer.finish() == meta
        if is_whole:
            writer.commit()
        else:
            writer.abort()
        return is_whole

    def _kept(self, meta: SnapshotMeta, is_whole: bool | None) -> None:  # noqa: FBT001 - a result
        if is_whole is not None:
            self._raft.snapshot_stored(meta, is_whole=is_whole)

    # --- restoring -------------------------------------------------------------

    def _check(self, meta: SnapshotMeta) -> bool:
        """
        Read the whole once, so that a state machine never sees a damaged one.

        Returns:
            Whether it is still there: a newer one may have replaced it.
        """
        try:
            for _ in self._store.chunks(meta):
                pass
        except CompactedError:
            return False
        return True

    def _restore(self, meta: SnapshotMeta, is_there: bool) -> None:  # noqa: FBT001 - a result
        if not is_there or self._raft.state.restoring != meta:
            return
        # In the reactor's thread, like all that a machine does.
        try:
            self._source.restore(self._store.chunks(meta))
        except CompactedError:
            # It has been replaced since; the core is about to hear by which.
            return
        self._raft.restored(meta)
        self._bytes, self._attempted = 0, meta.index
        self._note("restored", index=meta.index)
        self._measured.restores += 1
        _log.info(
            "{server} restored its state from the snapshot of entry {index}",
            server=self._name,
            index=meta.index,
        )

    # --- taking ----------------------------------------------------------------

    def applied(self, entries: Sequence[Entry]) -> None:
        """Count what was applied, and take a snapshot when it is time."""
        self._bytes += sum(map(len, map(_command, entries)))
        since = entries[-1].index - self._attempted
        is_due = (
            since >= self.policy.every_entries or self._bytes >= self.policy.every_bytes
        )
        if is_due and self._taking is None:
            self.take().addErrback(self._complain)

    def _complain(self, failure: Failure) -> None:
        """
        Say why there is no snapshot; the server goes on with a longer log.

        Unless its disk has failed.
        """
        if failure.check(StorageError) and not failure.check(DiskFullError):
            self._failed(failure)
            return
        _log.warn(
            "{server} could not take a snapshot: {error}",
            server=self._name,
            error=failure.value,
        )

    def take(self) -> Deferred[SnapshotMeta]:
        """
        Write down what is applied now, and let the log be cut (§5.1).

        The Deferred fires when the snapshot is durable; with the latest, if
        nothing was applied since.  It fails with:
            InvalidCommandError: The machine's state cannot be encoded.
            DiskFullError: There is no room.
            RejectedError: Nothing is applied yet.
        """
        if self._taking is not None:
            waiter: Deferred[SnapshotMeta] = Deferred()
            self._taking.addBoth(_pass_on, waiter)
            return waiter
        state = self._raft.state
        index = state.log.last_applied
        if index == 0 or state.restoring is not None:
            return fail(RejectedError("nothing is applied yet"))
        latest = self._store.latest
        if latest is not None and latest.index >= index:
            return _fired(latest)
        self._bytes, self._attempted = 0, index
        self._began = self._measured.seconds()
        membership_index, membership = state.membership_at(index)
        meta = SnapshotMeta(
            index, state.log.term(index), membership.encode(), membership_index
        )
        try:
            pieces = self._source.snapshot()
        except Exception as error:  # noqa: BLE001 - the machine's
            return fail(_cannot(error))
        taking = self._taking = Deferred.fromCoroutine(self._take(meta, split(pieces)))
        taking.addBoth(self._taken)
        taken: Deferred[SnapshotMeta] = Deferred()
        taking.addBoth(_pass_on, taken)
        return taken

    async def _take(self, meta: SnapshotMeta, chunks: Iterator[bytes]) -> SnapshotMeta:
        call = self._caller.call
        writer = await call(partial(self._store.begin, meta))
        try:
            while await call(partial(self._write_some, writer, chunks)):
                self._require_time()
            whole = await call(writer.finish)
            await call(writer.commit)
        except Exception:
            await call(writer.abort)
            raise
        return whole

    # --- lending ---------------------------------------------------------------

    @property
    def last_applied(self) -> LogIndex:
        """Return the last entry that is applied, and so in a snapshot taken now."""
        return self._raft.state.log.last_applied

    def hold(self, meta: SnapshotMeta) -> Deferred[HeldSnapshot]:
        """Return a snapshot that stays readable; see :meth:`.SnapshotStore.hold`."""
        return self._caller.call(partial(self._store.hold, meta))

    def read_held(self, held: HeldSnapshot, number: int) -> Deferred[bytes]:
        """
        Return a chunk of what is held.

        The Deferred fails with:
            RejectedError: It was closed meanwhile.
            StorageError: The chunk is damaged.
        """

        def read() -> bytes:
            try:
                return held.chunk(number)
            except ValueError as error:  # as closed files say
                raise RejectedError("the backup is over; begin again") from error

        return self._caller.call(read)

    def _require_time(self) -> None:
        if self._is_over:
            raise RejectedError("the server stops")

    @staticmethod
    def _write_some(writer: SnapshotWriter, chunks: Iterator[bytes]) -> bool:
        """Write a few chunks; say whether there may be more."""
        count = 0
        for chunk in islice(chunks, _STEP):
            writer.write(chunk)
            count += 1
        return count == _STEP

    def _taken(self, result: Any) -> Any:
        self._taking = None
        if isinstance(result, SnapshotMeta) and not self._is_over:
            self._raft.snapshot_taken(result)
            self._schedule()
            self._note("snapshot", index=result.index, bytes=result.size)
            took = self._measured.seconds() - self._began
            self._measured.snapshot_seconds.observe(took)
            self._measured.snapshot_bytes += result.size
            _log.info(
                "{server} took a snapshot of entry {index}: {size} bytes",
                server=self._name,
                index=result.index,
                size=result.size,
            )
        return result


def _fired(meta: SnapshotMeta) -> Deferred[SnapshotMeta]:
    done: Deferred[SnapshotMeta] = Deferred()
    done.callback(meta)
    return done


def _pass_on(result: Any, waiter: Deferred[Any]) -> Any:
    """Give *waiter* the same; a failure is its to deal with from now on."""
    waiter.callback(result)
    return result if isinstance(result, SnapshotMeta) else None


def _cannot(error: Exception) -> Exception:
    """Return what the caller gets when the machine refused."""
    if isinstance(error, RaftError):
        return error
    return InvalidCommandError(f"{type(error).__name__}: {error}")
