"""
Batch: commands for a machine that wants them together.

The :class:`~consensus.applying.applier.Applier` applies the others one by one.
"""

from __future__ import annotations

from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Protocol

from consensus.applying.outcomes import as_answer, failed
from consensus.core.values import EntryKind
from consensus.errors import StorageError
from consensus.sessions import LOST, Due, answer, key_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from consensus.core.values import Entry, LogIndex
    from consensus.interfaces import StateMachine, Tick
    from consensus.sessions import Result, Sessions

    #: Called with consecutive entries and what the command of each came to.
    Applied = Callable[[Sequence[Entry], Sequence[Any]], None]

# Plain numbers: the loop below runs for every write.
_COMMAND = int(EntryKind.COMMAND)
_SESSION = int(EntryKind.SESSION)
_VERSION = int(EntryKind.VERSION)
_TIME = int(EntryKind.TIME)

#: Kinds that mean nothing to a state.
NOTHING = frozenset({int(EntryKind.NOOP), int(EntryKind.MEMBERSHIP)})


class Appliance(Protocol):
    """What is needed of the applier; see there."""

    last_applied: LogIndex
    machine: StateMachine
    sessions: Sessions
    on_disk: LogIndex

    def check_version(self) -> None:
        """See that commands can be applied here now."""

    def apply_own(self, entry: Entry) -> Any:
        """Apply an entry of the framework's; return what its caller gets."""

    def tick_of(self, entry: Entry) -> Tick | None:
        """Move the time on; return what the machine is to be told of it."""

    def encoded(self, result: Any) -> Result:
        """Return *result* of a command as a session keeps it."""

    def run_batch(self, batch: Sequence[tuple[LogIndex, Any]]) -> Sequence[Any]:
        """Give the machine the commands of *batch*; return their results."""


class Batch:
    """
    Gathers commands for a machine that wants them together.

    Args:
        applier: Whose machine.
        applied: As of :meth:`Applier.apply`.
    """

    def __init__(self, applier: Appliance, applied: Applied) -> None:
        self._applier = applier
        self._applied = applied
        # Entries, each with a function of the machine's results that gives its own.
        self._entries: list[tuple[Entry, Callable[[Sequence[Any]], Any]]] = []
        self._commands: list[tuple[LogIndex, Any]] = []
        self._due: set[tuple[int, int]] = set()

    def apply(self, entries: Sequence[Entry]) -> int:
        """
        Apply *entries*, until another version of the machine takes over.

        Returns:
            How many were applied.
        """
        done = 0
        for entry in entries:
            done += 1
            kind = entry.kind
            if kind in {_COMMAND, _SESSION}:
                self._applier.check_version()
            if kind == _COMMAND:
                self._entries.append((entry, self._add(entry.index, entry.command)))
            elif kind == _SESSION:
                find = self._add_session(entry)  # this may begin another list
                self._entries.append((entry, find))
            elif kind in NOTHING:
                self._entries.append((entry, _nothing))
            elif kind == _TIME:
                tick = self._applier.tick_of(entry)
                if tick is not None:
                    self._commands.append((entry.index, tick))
                self._entries.append((entry, _nothing))
            else:
                self._flush()
                result = self._applier.apply_own(entry)
                self._entries.append((entry, partial(_same, result)))
            if kind == _VERSION:
                break
        self._flush()
        return done

    def _add(self, index: LogIndex, command: bytes) -> Callable[[Sequence[Any]], Any]:
        """Give *command* to the batch; return what gives its result afterwards."""
        if index <= self._applier.on_disk:
            return _nothing
        try:
            decoded = self._applier.machine.decode(command)
        except (MemoryError, StorageError):
            raise
        except Exception as error:  # noqa: BLE001 - it is the result
            return partial(_same, error)
        self._commands.append((index, decoded))
        return itemgetter(len(self._commands) - 1)

    def _add_session(self, entry: Entry) -> Callable[[Sequence[Any]], Any]:
        """Do as :meth:`_add` with what a session's entry asks for."""
        applier = self._applier
        key = key_of(entry.command)
        if key in self._due:
            # The answer is what the first of the two comes to.
            self._flush()
        due = applier.sessions.admit(entry.index, entry.command)
        if not isinstance(due, Due):
            return partial(_same, as_answer(due))
        self._due.add((due.session, due.number))
        if entry.index <= applier.on_disk:
            return partial(self._record, due, partial(_same, LOST))
        return partial(self._record, due, self._add(entry.index, due.command))

    def _record(
        self,
        due: Due,
        find: Callable[[Sequence[Any]], Any],
        results: Sequence[Any],
    ) -> Any:
        """Keep and return what a session's command came to."""
        found = find(results)
        result = found if found is LOST else self._applier.encoded(found)
        self._applier.sessions.record(due, result)
        return as_answer(answer(result))

    def _flush(self) -> None:
        """Apply what has gathered, and tell of each entry."""
        applier, entries = self._applier, self._entries
        results: Sequence[Any] = ()
        if self._commands:
            results = applier.run_batch(self._commands)
        found = [find(results) for _, find in entries]
        self._entries, self._commands = [], []
        self._due.clear()
        if entries:
            applied = [entry for entry, _ in entries]
            applier.last_applied = applied[-1].index
            self._applied(
                applied,
                [
                    failed(result) if isinstance(result, Exception) else result
                    for result in found
                ],
            )


def _nothing(_: Sequence[Any]) -> None:
    """Give the result of what has none."""


def _same(result: Any, _: Sequence[Any]) -> Any:
    return result
