"""
Some entries of a running server's log, for people who look at it.

A page is bounded in entries and in bytes, so that to look at a log never takes
much of the server's memory or of its disk's time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
from twisted.internet.defer import fail, succeed

from consensus.core.values import Entry
from consensus.entries import fitting
from consensus.errors import CompactedError, InvalidCommandError, ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from twisted.internet.defer import Deferred

    from consensus.core.log import Log
    from consensus.core.values import LogIndex
    from consensus.interfaces import Storage

    #: Runs a function on the storage's thread.
    OnDisk = Callable[[Callable[[], Sequence[Entry]]], Deferred[Sequence[Entry]]]

#: A page has no more entries.
MAX_ENTRIES = 1000

#: Nor more bytes of commands, unless it has a single entry.
MAX_BYTES = 512 * 1024

_Index = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class PageRequest(msgspec.Struct, array_like=True, frozen=True):
    """
    What a client asks for.

    Args:
        first: The first entry that is wanted; an earlier one than the log has
            stands for the first that it has.
        limit: How many are wanted at most.
    """

    first: _Index
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_ENTRIES)] = 100


class LogPage(msgspec.Struct, frozen=True):
    """
    Some entries, and where they stand.

    Args:
        server: Whose log it is.
        first_index: The first entry that the log has.
        last_index: The last one.
        commit_index: The last one that the server knows to be committed; what
            is behind it may yet be replaced.
        entries: Index, term, kind and command of each; consecutive.  None if
            the log ends before what was asked for.
    """

    server: str
    first_index: int
    last_index: int
    commit_index: int
    entries: list[tuple[int, int, int, bytes]]

    def as_entries(self) -> list[Entry]:
        """Return the entries as what they are elsewhere."""
        return [Entry(*each) for each in self.entries]


def page(
    server: str, log: Log, storage: Storage, on_disk: OnDisk, asked: PageRequest
) -> Deferred[LogPage]:
    """
    Return what is *asked* for of *log*.

    The Deferred fails with a :class:`~.CompactedError` if the log was compacted
    meanwhile.
    """
    first = max(asked.first, log.base_index + 1)
    last = min(first + asked.limit - 1, log.last_index)
    ends = (log.base_index + 1, log.last_index, log.commit_index)

    def made(entries: Sequence[Entry]) -> LogPage:
        found = [(e.index, e.term, int(e.kind), e.command) for e in entries]
        return LogPage(server, *ends, found)

    return _entries(log, storage, on_disk, first, last).addCallback(made)


def entry(
    log: Log, storage: Storage, on_disk: OnDisk, index: LogIndex
) -> Deferred[Entry | None]:
    """Return the entry at *index* of *log*; ``None`` past its end."""
    if not 0 < index <= log.last_index:
        return succeed(None)
    if index <= log.base_index:
        return fail(CompactedError(log.base_index + 1))
    return _entries(log, storage, on_disk, index, index).addCallback(lambda it: it[0])


def _entries(
    log: Log, storage: Storage, on_disk: OnDisk, first: LogIndex, last: LogIndex
) -> Deferred[Sequence[Entry]]:
    """Return the entries from *first* to *last*, or fewer, but one at least."""
    if first > last:
        return succeed(())
    if first > log.offset:
        start = first - log.offset - 1
        found = log.entries[start : last - log.offset]
        return succeed(fitting(found, MAX_BYTES))
    # What is not in memory any more is on the disk, up to where that begins.
    offset = log.offset
    return on_disk(lambda: storage.entries(first, min(last, offset), MAX_BYTES))


def read_request(payload: bytes) -> PageRequest:
    """
    Return what is asked for.

    Raises:
        InvalidCommandError: *payload* is no such question.
    """
    try:
        return msgspec.msgpack.decode(payload, type=PageRequest)
    # msgspec's own errors are ValueErrors.
    except (ValueError, RecursionError) as error:
        message = f"this asks for no entries of a log: {error}"
        raise InvalidCommandError(message) from error


def read_page(payload: bytes) -> LogPage:
    """
    Return the page that a server has sent.

    Raises:
        ProtocolError: *payload* is none.
    """
    try:
        return msgspec.msgpack.decode(payload, type=LogPage)
    except (ValueError, RecursionError) as error:
        message = f"this is no page of a log: {error}"
        raise ProtocolError(message) from error
