"""
Applier: what the committed entries make of a server's state.

It owns the state machine's state and the framework's own: sessions, the
version that commands are applied by, and digests.  All of it is a function of
the entries, the same on every server, and goes into snapshots together.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from twisted.logger import Logger

from consensus.applying.agreements import Digests, claim_of, time_of, upgrade_of
from consensus.applying.batch import NOTHING, Batch
from consensus.applying.outcomes import as_answer, described, failed
from consensus.core.values import EntryKind
from consensus.errors import (
    OverloadedError,
    RejectedError,
    StorageError,
)
from consensus.interfaces import StateMachine, Tick
from consensus.sessions import LOST, Due, Sessions, answer
from consensus.snapshots.header import Header, encode_header, read_header

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from consensus.applying.batch import Applied
    from consensus.core.values import Entry, LogIndex, ServerId
    from consensus.interfaces import Snapshot
    from consensus.sessions import Result


_log = Logger()

# Plain numbers: the loop below runs for every write.
_COMMAND = int(EntryKind.COMMAND)
_SESSION = int(EntryKind.SESSION)
_VERSION = int(EntryKind.VERSION)


class Applier:
    """
    Applies entries, and takes and restores snapshots of what they make.

    Args:
        machine: Of the newest version that this server has.
        name: The server's.
    """

    def __init__(self, machine: StateMachine, name: ServerId) -> None:
        self._newest = machine
        self._name = name
        #: By which version commands are applied now.
        self.version = 1
        #: The last entry that was applied.
        self.last_applied: LogIndex = 0
        #: The state machine of that version.
        self.machine = machine
        self.state: Any = None
        self.sessions = Sessions()
        self.digests = Digests()
        # Why there is no state yet, where that version is not known here.
        self._missing: StorageError | None = None
        #: A machine on disk has applied the entries up to here already.
        self.on_disk: LogIndex = 0
        try:
            self._begin(self._for_version(1))
        except StorageError as error:
            self._missing = error

    def _for_version(self, version: int) -> StateMachine:
        """
        Return the machine for *version*.

        Raises:
            StorageError: This release does not have it.
        """
        if self._newest.version == version:
            return self._newest
        older = self._newest.for_version(version)
        older.directory = self._newest.directory
        return older

    def _begin(self, machine: StateMachine) -> None:
        """Make the state before the first command."""
        self.machine = machine
        self.state = machine.init(self._name)
        self._missing = None
        self.on_disk = machine.last_applied(self.state)

    def check_version(self) -> None:
        """
        See that commands can be applied here now.

        Raises:
            StorageError: This release does not have the version that the log
                is at.
        """
        if self._missing is not None:
            raise self._missing

    def require_version(self) -> None:
        """
        Refuse a command while this release could not apply it.

        Raises:
            OverloadedError: The cluster is about to agree on the machine's
                version.
        """
        if self._missing is not None:
            message = (
                f"no version of the state machine is agreed on yet: {self._missing}"
            )
            raise OverloadedError(message)

    # --- entries ---------------------------------------------------------------

    def apply(self, entries: Sequence[Entry], applied: Applied) -> None:
        """
        Apply *entries*, which follow the last one.

        An exception of the machine is a result; but if memory or the disk
        fails it, not every server meets the same, and this one has to stop.

        Args:
            entries: Consecutive.
            applied: Called with those that were applied, in order, and with
                what each command came to: a result or a Failure.

        Raises:
            StorageError: An entry asks for what this release does not have, or
                the disk failed a machine.
        """
        while entries:
            # An override only: the default does what the loop here does.
            if type(self.machine).apply_batch is StateMachine.apply_batch:
                done = self._apply_singly(entries, applied)
            else:
                done = Batch(self, applied).apply(entries)
            entries = entries[done:]

    def _apply_singly(self, entries: Sequence[Entry], applied: Applied) -> int:
        """
        Apply *entries*, until another version of the machine takes over.

        Returns:
            How many were applied.
        """
        known = self.on_disk + 1 - entries[0].index
        if known > 0:
            entries = entries[:known]
        results: list[Any] = []
        try:
            self._apply_each(entries, results.append)
        finally:
            if results:
                done = entries[: len(results)]
                self.last_applied = done[-1].index
                applied(done, results)
        return len(results)

    def _apply_each(
        self, entries: Sequence[Entry], came_to: Callable[[Any], None]
    ) -> None:
        """
        Do so; tell *came_to* of each result when its entry is applied.

        A machine on disk has all of them, or none.
        """
        is_due = self._missing is None and entries[0].index > self.on_disk
        plain = _COMMAND if is_due else -1
        decode, handle_write = self.machine.decode, self.machine.handle_write
        state = self.state
        for entry in entries:
            kind = entry.kind
            if kind == plain:
                try:
                    result, state = handle_write(decode(entry.command), state)
                except (MemoryError, StorageError):
                    self.state = state
                    raise
                except Exception as error:  # noqa: BLE001 - it is the result
                    result = failed(error)
            else:
                self.state = state
                result = self.apply_own(entry)
                state = self.state
            came_to(result)
            if kind == _VERSION:
                break
        self.state = state

    def apply_own(self, entry: Entry) -> Any:
        """
        Apply an entry of the framework's; return what its caller gets.

        A command is one that a machine on disk has applied.
        """
        if entry.kind in NOTHING:
            return None
        if entry.kind == _SESSION:
            return self._apply_session(entry)
        if entry.kind == _COMMAND:
            self.check_version()
            return None
        if entry.kind == _VERSION:
            self._upgrade(entry.index, upgrade_of(entry.index, entry.command))
            return None
        if entry.kind == EntryKind.DIGEST:
            self._compare(entry.index, claim_of(entry.index, entry.command))
            return None
        if entry.kind == EntryKind.TIME:
            self._tell(self.tick_of(entry), entry.index)
            return None
        message = (
            f"entry {entry.index} is of kind {entry.kind}, unknown to this release"
        )
        raise StorageError(message)

    def _apply_session(self, entry: Entry) -> Any:
        self.check_version()
        due = self.sessions.admit(entry.index, entry.command)
        if not isinstance(due, Due):
            return as_answer(due)
        result = self._apply_due(due, entry.index)
        self.sessions.record(due, result)
        return as_answer(answer(result))

    def tick_of(self, entry: Entry) -> Tick | None:
        """
        Move the log's time on to that of *entry*.

        Returns:
            What the machine is to be told; ``None`` if it is not, or knows.
        """
        self.sessions.pass_time(time_of(entry.index, entry.command))
        is_told = self._missing is None and self.machine.timed
        if is_told and entry.index > self.on_disk:
            return Tick(self.sessions.time)
        return None

    def _tell(self, tick: Tick | None, index: LogIndex) -> None:
        """Tell the machine the time; it has nobody to fail to."""
        if tick is None:
            return
        try:
            _, self.state = self.machine.handle_write(tick, self.state)
        except (MemoryError, StorageError):
            raise
        except Exception as error:  # noqa: BLE001 - every server meets the same
            _log.error(
                "{server}: {machine} raised when it was told the time, at entry"
                " {index}: {error}",
                server=self._name,
                machine=type(self.machine).__name__,
                index=index,
                error=": ".join(described(error)),
            )

    def _upgrade(self, index: LogIndex, version: int) -> None:
        """
        Apply commands by *version* from now on.

        Raises:
            StorageError: This release does not have it.
        """
        if version <= self.version:
            return  # of a leader that did not know it yet
        machine = self._for_version(version)
        if self._missing is not None:
            self._begin(machine)
        elif index > self.on_disk:
            self.state = machine.upgrade(self.state, self.version)
        _log.info(
            "{server} applies commands by version {version} of {machine} from entry"
            " {index} on",
            server=self._name,
            version=version,
            machine=type(machine).__name__,
            index=index,
        )
        self.machine, self.version = machine, version

    def _compare(self, index: LogIndex, claim: tuple[LogIndex, bytes] | None) -> None:
        """
        Note this server's digest, or compare it with what the leader claims.

        Raises:
            DivergedError: They differ.
        """
        if claim is not None:
            self.digests.compare(self._name, *claim)
        elif index > self.on_disk:
            self.digests.mark(index, self.digest())
        else:
            self.digests.mark(index, None)

    @property
    def has_digests(self) -> bool:
        """Say whether the machine can have a digest."""
        return type(self.machine).digest is not StateMachine.digest

    def digest(self) -> bytes | None:
        """Return the digest of the state as it is, if there is one."""
        return None if self._missing else self.machine.digest(self.state)

    def next_time(self) -> int | None:
        """Return when the machine wants to be told the time; ``None`` if never."""
        if self._missing is not None or not self.machine.timed:
            return None
        return self.machine.next_time(self.state)

    @property
    def newest_version(self) -> int:
        """Return the newest version of the machine that this release has."""
        return self._newest.version

    def knows_version(self, version: int) -> bool:
        """Say whether this release has *version* of the machine."""
        try:
            self._for_version(version)
        except StorageError:
            return False
        return True

    def _apply_due(self, due: Due, index: LogIndex) -> Result:
        """Apply a session's command, unless a machine on disk has."""
        if index <= self.on_disk:
            return LOST
        machine = self.machine
        try:
            result, self.state = machine.handle_write(
                machine.decode(due.command), self.state
            )
        except (MemoryError, StorageError):
            raise
        except Exception as error:  # noqa: BLE001 - it is the result
            return described(error)
        return self.encoded(result)

    def encoded(self, result: Any) -> Result:
        """Return *result* of a command as a session keeps it."""
        if isinstance(result, Exception):
            return described(result)
        try:
            return self.machine.encode(result)
        except (MemoryError, StorageError):
            raise
        except Exception as error:  # noqa: BLE001 - it is the result
            detail = (
                f"it was done, but its result cannot be sent: {described(error)[1]}"
            )
            return "UnencodableResult", detail

    def run_batch(self, batch: Sequence[tuple[LogIndex, Any]]) -> Sequence[Any]:
        """
        Give the machine the commands of *batch* that it has not on its disk.

        Raises:
            StorageError: It does not answer each.
        """
        results, self.state = self.machine.apply_batch(batch, self.state)
        if len(results) != len(batch):
            message = (
                f"apply_batch of {type(self.machine).__name__} gave {len(results)}"
                f" results for {len(batch)} commands"
            )
            raise StorageError(message)
        return results

    def close(self) -> None:
        """Release what the state holds; nothing is applied any more."""
        if self._missing is None:
            self.machine.close(self.state)

    # --- snapshots -------------------------------------------------------------

    def snapshot(self) -> Iterator[bytes]:
        """
        Return what is applied now, as bytes in pieces of any size (§5.1).

        The view is taken here and now; the iterator may be used up on another
        thread, while more is applied.

        Raises:
            InvalidCommandError: The machine's state cannot be encoded.
            RejectedError: A machine on disk is ahead of what this server has
                looked at since it started: its view would have effects that
                are to be applied again behind the snapshot's index.
            StorageError: This release cannot apply what the log asks for.
        """
        self.check_version()
        if self.last_applied < self.on_disk:
            message = f"the log is not looked through up to {self.on_disk} yet"
            raise RejectedError(message)
        header = Header(
            self.last_applied,
            self.version,
            self.sessions.time,
            self.sessions.encode(),
            **asdict(self.digests),
        )
        return _chunks(encode_header(header), self.machine.snapshot(self.state))

    def restore(self, chunks: Iterable[bytes]) -> None:
        """
        Replace all that was applied by what :meth:`snapshot` made *chunks* of.

        A machine on disk that is there already, or further, is left alone.

        Raises:
            StorageError: They are not such a snapshot, or one that this
                release cannot read; nothing has changed but, perhaps, what a
                machine keeps on disk.
        """
        header, rest = read_header(chunks)
        index = header.last_applied
        sessions = Sessions(header.time, header.sessions)
        machine, state, on_disk = self.machine, self.state, self.on_disk
        if self._missing is not None or header.version != self.version:
            machine = self._for_version(header.version)
        if self._missing is not None:
            state = machine.init(self._name)
            on_disk = machine.last_applied(state)
        if not 0 < index <= on_disk:
            former, keeper = state, machine if self._missing else self.machine
            state = _restored(machine, rest, index)
            if state is not former:
                keeper.close(former)
            on_disk = machine.last_applied(state)
        self.machine, self.state, self.on_disk = machine, state, on_disk
        self.version, self.sessions = header.version, sessions
        self.digests = Digests(
            header.marked, header.digest, header.is_claimed, header.equal
        )
        self.last_applied, self._missing = index, None


def _restored(machine: StateMachine, chunks: Iterable[bytes], index: LogIndex) -> Any:
    try:
        return machine.restore(chunks, index)
    except (MemoryError, StorageError):
        raise
    except Exception as error:
        message = "the snapshot at {} cannot be restored: {}: {}".format(
            index, *described(error)
        )
        raise StorageError(message) from error


def _chunks(first: bytes, view: Snapshot) -> Iterator[bytes]:
    yield first
    yield from view.chunks()
