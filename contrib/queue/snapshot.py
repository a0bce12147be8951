"""The queues' state as rows, for a snapshot."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from consensus.applications.state_rows import RowsFormat, RowsReader
from contrib.queue.records import Head, Record
from contrib.queue.state import State

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The version of the records; the first byte of every snapshot.
VERSION = 1


def _rows_of(state: State) -> Iterator[Record]:
    """Return the records of *state*, which never change, in the order of its tables."""
    return chain(
        (state.head(),),
        state.settings.values(),
        state.keys.values(),
        state.tickets.values(),
        state.messages.values(),
    )


def _state_of(rows: Iterator[Record]) -> State:
    head = next(rows, None)
    if not isinstance(head, Head):
        raise ValueError("it has no head")  # noqa: TRY004 - of bytes, not of Python
    state = State(head)
    for row in rows:
        state.load(row)
    return state


#: What a snapshot is made of.
ROWS = RowsFormat(RowsReader(Record, VERSION, "the queues"), _rows_of, _state_of)
