"""Entries as a leader makes them, and what an applier answers to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from twisted.python.failure import Failure

from consensus import sessions
from consensus.core.values import Entry, EntryKind
from consensus.interfaces import StateMachine
from consensus.sessions import Operation

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from consensus.applying.applier import Applier

encoded = msgspec.msgpack.encode


class Journal(StateMachine):
    """A list of what was written; ``["fail", text]`` raises, None is no bytes."""

    def init(self, name: str) -> Any:
        """Begin empty."""
        del name
        return []

    def handle_write(self, command: Any, state: Any) -> tuple[Any, Any]:
        """Add *command* to the list and return how long that is."""
        match command:
            case ["fail", text]:
                raise ValueError(text)
            case ["break"]:
                raise MemoryError
            case ["object"]:
                state.append(command)
                return object(), state
        state.append(command)
        return len(state), state

    def handle_read(self, query: Any, state: Any) -> tuple[Any, Any]:
        """Return the whole list."""
        del query
        return list(state), state


class Disk(Journal):
    """A journal that survives in a list of the class, with the last index."""

    kept: tuple[list[Any], int] = ([], 0)
    batches: tuple[list[int], ...] = ()

    def init(self, name: str) -> Any:
        """Return what is kept."""
        del name
        return list(self.kept[0])

    def apply_batch(
        self, batch: Sequence[tuple[int, Any]], state: Any
    ) -> tuple[Sequence[Any], Any]:
        """Apply *batch*, and keep all of it or nothing."""
        results, state = super().apply_batch(batch, state)
        type(self).kept = (list(state), batch[-1][0])
        type(self).batches += ([index for index, _ in batch],)
        return results, state

    def last_applied(self, state: Any) -> int:
        """Return the index of the last command that is kept."""
        del state
        return self.kept[1]

    def restore(self, chunks: Iterable[bytes], last_applied: int) -> Any:
        """Keep what *chunks* say."""
        state = self.decode(b"".join(chunks))
        type(self).kept = (list(state), last_applied)
        return state


class Log:
    """
    Makes consecutive entries.

    Args:
        first: The index of the first.
    """

    def __init__(self, first: int = 1) -> None:
        self.next = first

    def entry(self, kind: EntryKind, data: bytes = b"") -> Entry:
        """Return the next entry."""
        self.next += 1
        return Entry(self.next - 1, 1, kind, data)

    def command(self, command: Any) -> Entry:
        """Return an entry with *command*."""
        return self.entry(EntryKind.COMMAND, encoded(command))

    def opened(self, *, ttl: int = 60_000, time: int = 0) -> Entry:
        """Return one that opens a session."""
        call = sessions.open_call(ttl)
        return self.session(Operation.OPEN, call, time)

    def closed(self, session: int, *, time: int = 0) -> Entry:
        """Return one that closes *session*."""
        return self.session(Operation.CLOSE, sessions.close_call(session), time)

    def numbered(
        self,
        session: int,
        number: int,
        command: Any,
        *,
        wanted: int = 1,
        time: int = 0,
    ) -> Entry:
        """Return one with *command*, the session's command *number*."""
        call = sessions.command_call(session, number, wanted, encoded(command))
        return self.session(Operation.COMMAND, call, time)

    def session(self, operation: Operation, call: bytes, time: int) -> Entry:
        """Return an entry of a session."""
        data = sessions.entry_of(operation, call, time)
        return self.entry(EntryKind.SESSION, data)


def results(applier: Applier, *entries: Entry) -> list[Any]:
    """Apply *entries* at once; return each result, errors as ``Type: text``."""
    found: list[tuple[int, Any]] = []

    def applied(done: Sequence[Entry], came_to: Sequence[Any]) -> None:
        indexes = [entry.index for entry in done]
        found.extend(zip(indexes, came_to, strict=True))

    applier.apply(entries, applied)
    assert [index for index, _ in found] == [entry.index for entry in entries]
    return [_shown(result) for _, result in found]


def _shown(result: Any) -> Any:
    if isinstance(result, Failure):
        return f"{type(result.value).__name__}: {result.getErrorMessage()}"
    return result
