"""A server's log, for a reader: what each of its entries says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from consensus.describe import describe
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
        [view(each, machine) for each in page.as_entries()],
    )


def view(entry: Entry, machine: StateMachine) -> LogEntry:
    """Return *entry* as the API shows it."""
    told = describe(entry, machine, _MOST_TEXT)
    return LogEntry(told.index, told.term, told.kind, told.size, told.text)
