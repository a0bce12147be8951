"""The state of elections and services as the rows of a snapshot, and back."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import msgspec

from consensus.applications.state_rows import RowsFormat, RowsReader
from contrib.election.state import Election, Lease, Registration, Service, State

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The version of the rows; the first byte of every snapshot.
VERSION = 1


class _Row(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """What one row says; subclasses have its options."""


class _Counters(_Row, tag="counters", frozen=True):
    time: int
    last_lease: int
    last_term: int
    revision: int
    forgotten: int


class _LeaseRow(_Row, tag="lease", frozen=True):
    number: int
    owner: str
    ttl: int
    deadline: int


class _CandidateRow(_Row, tag="candidate", frozen=True):
    """A candidate, after those before it; the term of the first of them."""

    election: str
    lease: int
    candidate: str
    term: int


class _ServiceRow(_Row, tag="service", frozen=True):
    """A service; those without instances are in the order they lost them."""

    name: str
    revision: int
    is_empty: bool


class _InstanceRow(_Row, tag="instance", frozen=True):
    service: str
    instance: str
    lease: int
    origin: int
    version: int
    revision: int
    address: str
    metadata: dict[str, str]


_AnyRow = _Counters | _LeaseRow | _CandidateRow | _ServiceRow | _InstanceRow


def _rows_of(state: State) -> Iterator[_AnyRow]:
    return chain(_counters(state), _elections(state), _all(state))


def _counters(state: State) -> Iterator[_AnyRow]:
    leases = state.leases
    yield _Counters(
        leases.time, leases.last, state.last_term, state.revision, state.forgotten
    )
    for each in leases.by_number.values():
        yield _LeaseRow(each.number, each.owner, each.ttl, each.deadline)


def _elections(state: State) -> Iterator[_AnyRow]:
    for name, election in state.elections.items():
        for lease, candidate in election.queue.items():
            yield _CandidateRow(name, lease, candidate, election.term)


def _all(state: State) -> Iterator[_AnyRow]:
    """Yield the services; what their instances say is changed by nobody."""
    for name in state.empty:
        yield _ServiceRow(name, state.services[name].revision, is_empty=True)
    for name, service in state.services.items():
        if not service.instances:
            continue
        yield _ServiceRow(name, service.revision, is_empty=False)
        for instance, each in service.instances.items():
            yield _InstanceRow(
                name,
                instance,
                each.lease,
                each.origin,
                each.version,
                each.revision,
                each.address,
                each.metadata,
            )


def _state_of(rows: Iterator[_AnyRow]) -> State:
    state = State()
    for row in rows:
        match row:
            case _Counters():
                state.leases.time, state.leases.last = row.time, row.last_lease
                state.last_term = row.last_term
                state.revision, state.forgotten = row.revision, row.forgotten
            case _LeaseRow():
                state.leases.add(Lease(row.number, row.owner, row.ttl, row.deadline))
            case _CandidateRow():
                _add_candidate(state, row)
            case _ServiceRow():
                state.services[row.name] = Service(row.revision)
                if row.is_empty:
                    state.empty[row.name] = None
            case _InstanceRow():
                _add_instance(state, row)
    return state


def _lease(state: State, number: int) -> Lease:
    lease = state.leases.get(number)
    if lease is None:
        raise _lost()
    return lease


def _lost() -> ValueError:
    return ValueError("something of a lease, or of a service, that is not there")


def _add_candidate(state: State, row: _CandidateRow) -> None:
    _lease(state, row.lease).elections.add(row.election)
    election = state.elections.setdefault(row.election, Election(row.term, row.lease))
    election.queue[row.lease] = row.candidate
    state.items += 1


def _add_instance(state: State, row: _InstanceRow) -> None:
    _lease(state, row.lease).instances.add((row.service, row.instance))
    service = state.services.get(row.service)
    if service is None:
        raise _lost()
    service.instances[row.instance] = Registration(
        row.lease, row.origin, row.version, row.revision, row.address, row.metadata
    )
    state.items += 1


#: What a snapshot is made of.
ROWS = RowsFormat(RowsReader(_AnyRow, VERSION, "elections"), _rows_of, _state_of)
