"""A server's log, for a reader: what its state machine makes of each command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from consensus import sessions
from consensus.core.values import EntryKind
from consensus.http.values import LogEntry, LogPart
from consensus.shell.log_pages import PageRequest

if TYPE_CHECKING:
    from consensus.core.values import Entry
    from consensus.http.servants import Servant
    from consensus.state_machine import StateMachine

# Of one command's text.
_MOST_TEXT = 2000


async def log_part(servant: Servant, first: int | None, limit: int) -> LogPart:
    """Return up to *limit* entries, from *first* or up to the end of the log."""
    log = servant.driver.raft.state.log
    begin = max(1, log.last_index - limit + 1) if first is None else first
    page = await servant.server.log_page(PageRequest(begin, limit))
    machine = servant.server.machine
    return LogPart(
        page.first_index,
        page.last_index,
        page.commit_index,
        log.last_applied,
        [_view(each, machine) for each in page.as_entries()],
    )


def _view(entry: Entry, machine: StateMachine) -> LogEntry:
    kind = EntryKind(entry.kind)
    text = _text(kind, entry.command, machine)
    if len(text) > _MOST_TEXT:
        text = f"{text[:_MOST_TEXT]}…"
    size = len(entry.command)
    return LogEntry(entry.index, entry.term, kind.name.lower(), size, text)


def _text(kind: EntryKind, command: bytes, machine: StateMachine) -> str:
    """Return what an application's command says; nothing for entries of ours."""
    if kind is EntryKind.COMMAND:
        return _decoded(command, machine)
    if kind is EntryKind.SESSION and sessions.key_of(command) is not None:
        return _decoded(command[sessions.OVERHEAD :], machine)
    return ""


def _decoded(command: bytes, machine: StateMachine) -> str:
    try:
        return repr(machine.decode(command))
    except Exception as error:  # noqa: BLE001 - the machine's; the others are shown
        return f"({len(command)} bytes that it cannot read: {type(error).__name__})"
