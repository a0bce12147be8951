"""The state of the locks as the rows of a snapshot, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from consensus.applications.state_rows import RowsFormat, RowsReader
from contrib.locks.commands import Mode  # noqa: TC001 - msgspec reads it
from contrib.locks.state import Lease, Lock, State, Ticket

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The version of the rows; the first byte of every snapshot.
VERSION = 1


class _Row(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """What one row says; subclasses have its options."""


class _Counters(_Row, tag="counters", frozen=True):
    time: int
    last_lease: int
    last_token: int


class _LeaseRow(_Row, tag="lease", frozen=True):
    number: int
    owner: str
    ttl: int
    deadline: int
    used: int
    scattered: tuple[int, ...]


class _LockRow(_Row, tag="lock", frozen=True):
    """A lock; its tickets follow, each after those before it."""

    name: str
    permits: int


class _TicketRow(_Row, tag="ticket", frozen=True):
    """A ticket of the lock above."""

    lease: int
    number: int
    mode: Mode
    token: int


_AnyRow = _Counters | _LeaseRow | _LockRow | _TicketRow


def _rows_of(state: State) -> Iterator[_AnyRow]:
    yield _Counters(state.leases.time, state.leases.last, state.last_token)
    for lease in state.leases.by_number.values():
        yield _LeaseRow(
            lease.number,
            lease.owner,
            lease.ttl,
            lease.deadline,
            lease.used,
            tuple(sorted(lease.scattered)),
        )
    for name, lock in state.locks.items():
        yield _LockRow(name, lock.permits)
        for tickets in (lock.holders, lock.queue):
            for each in tickets.values():
                yield _TicketRow(each.lease, each.number, each.mode, each.token)


def _state_of(rows: Iterator[_AnyRow]) -> State:
    state = State()
    name, lock = "", Lock(0)
    for row in rows:
        match row:
            case _Counters():
                state.leases.time, state.leases.last = row.time, row.last_lease
                state.last_token = row.last_token
            case _LeaseRow():
                state.leases.add(_lease(row))
            case _LockRow():
                name, lock = row.name, Lock(row.permits)
                state.locks[name] = lock
            case _TicketRow():
                lease = state.leases.get(row.lease)
                if lease is None or not name:
                    raise ValueError("a ticket without a lease, or a lock")
                ticket = Ticket(row.lease, row.number, name, row.mode, row.token)
                state.add_ticket(ticket, lease, lock)
    return state


def _lease(row: _LeaseRow) -> Lease:
    return Lease(
        row.number, row.owner, row.ttl, row.deadline, row.used, set(row.scattered)
    )


#: What a snapshot is made of.
ROWS = RowsFormat(RowsReader(_AnyRow, VERSION, "the locks"), _rows_of, _state_of)
