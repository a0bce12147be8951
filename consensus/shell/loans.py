"""
Snapshots of this server that are lent to who copies them: backups.

A copy is asked for in many small calls, each for a chunk, and may be gone on
with over another connection.  What is lent stays readable, even when newer
snapshots have taken its place, until it is given back or nobody has asked for
a while.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, ensureDeferred, fail

from consensus.errors import (
    CompactedError,
    InvalidCommandError,
    OverloadedError,
    RejectedError,
)
from consensus.options import ReadOptions
from consensus.shell.waiting import BARRIER

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from consensus.core.values import LogIndex, SnapshotMeta
    from consensus.snapshots.format import HeldSnapshot

    class Taker(Protocol):
        """What takes this server's snapshots; see :class:`.Snapshotter`."""

        @property
        def last_applied(self) -> LogIndex:
            """Return the last entry that the state machine has seen."""

        def take(self) -> Deferred[SnapshotMeta]:
            """Write down what is applied now."""

        def hold(self, meta: SnapshotMeta) -> Deferred[HeldSnapshot]:
            """Keep a snapshot readable."""

        def read_held(self, held: HeldSnapshot, number: int) -> Deferred[bytes]:
            """Return a chunk of it."""

    class Lender(Protocol):
        """What a running server offers; see :class:`.Driver`."""

        @property
        def snapshotter(self) -> Taker:
            """Return what takes its snapshots."""

        def read(self, query: Any, options: ReadOptions) -> Deferred[Any]:
            """Wait until *query* can be answered."""


#: Seconds for which a snapshot is kept readable after the last call about it.
LEASE = 60.0

#: Loans at a time; each holds a file open, and with it room on the disk.
MOST = 4

#: The bytes of the name that a copier gives its loan.
KEY_BYTES = 16

# Newer snapshots may take the place of the one just taken, again and again.
_ATTEMPTS = 3

# Any member may serve it, with every write acknowledged before.
_EVERYTHING = ReadOptions("follower")


class _Loan:
    """One snapshot that is lent, or about to be."""

    def __init__(self) -> None:
        self.meta: SnapshotMeta | None = None
        self.held: HeldSnapshot | None = None
        self.error: Exception | None = None
        self.lease: Any = None

    def end(self) -> None:
        """Give all back."""
        if self.lease is not None and self.lease.active():
            self.lease.cancel()
        if self.held is not None:
            self.held.close()
            self.held = None


class Loans:
    """
    Lends snapshots, a few at a time.

    Args:
        running: Returns the driver of this server; raises when there is none.
        clock: What leases go by.
    """

    def __init__(self, running: Callable[[], Lender], clock: Any) -> None:
        self._running = running
        self._clock = clock
        self._loans: dict[bytes, _Loan] = {}

    def __len__(self) -> int:
        return len(self._loans)

    def begin(self, key: bytes) -> SnapshotMeta | None:
        """
        Lend a snapshot that has every write acknowledged before the first call.

        The first call with *key* has it taken, and those after it say what
        became of that.

        Returns:
            The snapshot; ``None`` while it is being taken.

        Raises:
            InvalidCommandError: *key* has the wrong length.
            OverloadedError: Too many are lent.
            RaftError: It could not be taken; *key* is forgotten.
        """
        lender = self._running()
        if len(key) != KEY_BYTES:
            message = f"a backup is called by {KEY_BYTES} bytes, not {len(key)}"
            raise InvalidCommandError(message)
        loan = self._loans.get(key)
        if loan is None:
            if len(self._loans) >= MOST:
                message = f"{MOST} backups are under way here already"
                raise OverloadedError(message)
            loan = self._loans[key] = _Loan()
            self._renew(key, loan)
            ensureDeferred(self._take(lender, loan))
            return loan.meta
        if loan.error is not None:
            self.end(key)
            raise loan.error
        self._renew(key, loan)
        return loan.meta

    def chunk(self, key: bytes, number: int) -> Deferred[bytes]:
        """
        Return a chunk of what is lent, and lend it for longer.

        The Deferred fails with:
            RejectedError: Nothing is lent to *key* (any more), or not yet.
            InvalidCommandError: There is no such chunk.
            StorageError: The chunk is damaged.
        """
        lender = self._running()
        loan = self._loans.get(key)
        if loan is None or loan.held is None or loan.meta is None:
            return fail(RejectedError("no such backup is under way here; begin again"))
        if not 0 <= number < loan.meta.chunks:
            message = f"there are {loan.meta.chunks} chunks, and none {number}"
            return fail(InvalidCommandError(message))
        self._renew(key, loan)
        return lender.snapshotter.read_held(loan.held, number)

    def end(self, key: bytes) -> None:
        """Take back what was lent to *key*, if anything was."""
        loan = self._loans.pop(key, None)
        if loan is not None:
            loan.end()

    def close(self) -> None:
        """Take everything back."""
        for key in list(self._loans):
            self.end(key)

    def _renew(self, key: bytes, loan: _Loan) -> None:
        if loan.lease is not None and loan.lease.active():
            loan.lease.cancel()
        loan.lease = self._clock.callLater(LEASE, self.end, key)

    async def _take(self, lender: Lender, loan: _Loan) -> None:
        try:
            held, meta = await self._held(lender)
        except Exception as error:  # noqa: BLE001 - told to who asks next
            loan.error = error
            return
        if loan not in self._loans.values():
            held.close()  # given back, or expired, meanwhile
            return
        loan.held, loan.meta = held, meta

    @staticmethod
    async def _held(lender: Lender) -> tuple[HeldSnapshot, SnapshotMeta]:
        """Take a snapshot of all that was acknowledged by now, and hold it."""
        await lender.read(BARRIER, _EVERYTHING)
        taker = lender.snapshotter
        wanted = taker.last_applied
        for _ in range(_ATTEMPTS):
            meta = await taker.take()
            if meta.index < wanted:
                continue  # it was under way before
            try:
                return await taker.hold(meta), meta
            except CompactedError:
                continue
        raise RejectedError("snapshots follow each other too fast; try again")
