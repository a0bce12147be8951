"""
The calls of operators, as bytes: what each method takes and answers.

They are described in ``docs/reference/protocol.md``; :mod:`.calls` has those of
applications.
"""

from __future__ import annotations

import time
from dataclasses import astuple
from typing import TYPE_CHECKING, Annotated, Protocol, TypeVar

import msgspec
from twisted.internet.defer import Deferred, succeed

from consensus.errors import InvalidCommandError, NotLeaderError
from consensus.registry import name_of
from consensus.shell import log_pages
from consensus.shell.events import EventQuery
from consensus.shell.loans import KEY_BYTES
from consensus.shell.members import Addition, Applicant, Change

if TYPE_CHECKING:
    from consensus.config import Config
    from consensus.core.values import LogIndex, ServerId, SnapshotMeta, Status
    from consensus.interfaces import StateMachine
    from consensus.shell.events import EventPage, Events
    from consensus.shell.inspection import Inspection
    from consensus.shell.loans import Loans
    from consensus.shell.log_pages import LogPage, PageRequest
    from consensus.shell.members import Members
    from consensus.telemetry.peers import LeaderView

_T = TypeVar("_T", Addition, Applicant, Change, EventQuery)

_read_number = msgspec.msgpack.Decoder(
    Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
).decode


class Viewer(Protocol):
    """What a leader is asked of its peers."""

    def leader_view(self) -> LeaderView:
        """See :class:`.Driver`."""


class OperatorCallee(Protocol):
    """What an operator can ask a server for."""

    def status(self) -> Status:
        """See :class:`.RaftServer`."""

    def transfer(self, target: ServerId | None) -> Deferred[ServerId]:
        """See :class:`.RaftServer`."""

    @property
    def members(self) -> Members:
        """See :class:`.RaftServer`."""

    def snapshot(self) -> Deferred[SnapshotMeta]:
        """See :class:`.RaftServer`."""

    def log_page(self, asked: PageRequest) -> Deferred[LogPage]:
        """See :class:`.RaftServer`."""

    @property
    def driver(self) -> Viewer | None:
        """See :class:`.RaftServer`."""

    @property
    def inspection(self) -> Inspection:
        """See :class:`.RaftServer`."""

    @property
    def events(self) -> Events:
        """See :class:`.RaftServer`."""

    config: Config
    loans: Loans


def _status(callee: OperatorCallee, _: StateMachine, payload: bytes) -> Deferred[bytes]:
    del payload
    return succeed(msgspec.msgpack.encode(callee.status()))


def _clock(_: OperatorCallee, __: StateMachine, payload: bytes) -> Deferred[bytes]:
    """Say what time it is here: the wall clock, for who compares clocks."""
    del payload
    return succeed(msgspec.msgpack.encode(time.time()))


def _transfer(
    callee: OperatorCallee, _: StateMachine, payload: bytes
) -> Deferred[bytes]:
    return callee.transfer(_name(payload) or None).addCallback(str.encode)


def _add(callee: OperatorCallee, _: StateMachine, payload: bytes) -> Deferred[bytes]:
    asked = _decoded(Addition, payload)
    done = callee.members.add(asked.server, asked.address, as_learner=asked.as_learner)
    return done.addCallback(_encoded_index)


def _promote(
    callee: OperatorCallee, _: StateMachine, payload: bytes
) -> Deferred[bytes]:
    return callee.members.promote(_name(payload)).addCallback(_encoded_index)


def _remove(callee: OperatorCallee, _: StateMachine, payload: bytes) -> Deferred[bytes]:
    return callee.members.remove(_name(payload)).addCallback(_encoded_index)


def _change(callee: OperatorCallee, _: StateMachine, payload: bytes) -> Deferred[bytes]:
    done = callee.members.change(*_decoded(Change, payload))
    return done.addCallback(_encoded_index)


def _join(callee: OperatorCallee, _: StateMachine, payload: bytes) -> Deferred[bytes]:
    applicant = _decoded(Applicant, payload)
    done = Deferred.fromCoroutine(callee.members.admit(applicant))
    return done.addCallback(lambda _: b"")


def _snapshot(
    callee: OperatorCallee, _: StateMachine, payload: bytes
) -> Deferred[bytes]:
    del payload
    return callee.snapshot().addCallback(
        lambda meta: msgspec.msgpack.encode((meta.index, meta.size))
    )


def _events(callee: OperatorCallee, _: StateMachine, payload: bytes) -> Deferred[bytes]:
    done: Deferred[EventPage] = callee.events.wait(_decoded(EventQuery, payload))
    return done.addCallback(msgspec.msgpack.encode)


def _log(callee: OperatorCallee, _: StateMachine, payload: bytes) -> Deferred[bytes]:
    page = callee.log_page(log_pages.read_request(payload))
    return page.addCallback(msgspec.msgpack.encode)


def _leader_view(
    callee: OperatorCallee, _: StateMachine, payload: bytes
) -> Deferred[bytes]:
    del payload
    if callee.driver is None:
        raise NotLeaderError
    return succeed(msgspec.msgpack.encode(callee.driver.leader_view()))


def _backup_begin(
    callee: OperatorCallee, _: StateMachine, payload: bytes
) -> Deferred[bytes]:
    """Say what the snapshot is that a backup is made of; empty if not yet."""
    meta = callee.loans.begin(payload)
    if meta is None:
        return succeed(b"")
    engine = callee.config.state_machine
    names = (callee.config.cluster, engine.name, name_of(engine.cls))
    return succeed(msgspec.msgpack.encode((astuple(meta), *names)))


def _backup_chunk(
    callee: OperatorCallee, _: StateMachine, payload: bytes
) -> Deferred[bytes]:
    key, number = payload[:KEY_BYTES], payload[KEY_BYTES:]
    return callee.loans.chunk(key, int.from_bytes(number, "big"))


def _backup_end(
    callee: OperatorCallee, _: StateMachine, payload: bytes
) -> Deferred[bytes]:
    callee.loans.end(payload)
    return succeed(b"")


def _compact(
    callee: OperatorCallee, _: StateMachine, payload: bytes
) -> Deferred[bytes]:
    keep = _number(payload)
    return callee.inspection.compact(keep).addCallback(_encoded_index)


def _explain(
    callee: OperatorCallee, _: StateMachine, payload: bytes
) -> Deferred[bytes]:
    found = callee.inspection.explain(_number(payload))
    return succeed(msgspec.msgpack.encode(found))


def _name(payload: bytes) -> str:
    try:
        return payload.decode()
    except UnicodeDecodeError as error:
        raise InvalidCommandError("the name of a server is UTF-8") from error


def _number(payload: bytes) -> int:
    try:
        number: int = _read_number(payload)
    except (ValueError, RecursionError) as error:
        message = f"this is no number of entries, nor of one: {error}"
        raise InvalidCommandError(message) from error
    return number


def _decoded(kind: type[_T], payload: bytes) -> _T:
    try:
        return msgspec.msgpack.decode(payload, type=kind)
    # msgspec's own errors are ValueErrors, and so is that of bad UTF-8.
    except (ValueError, RecursionError) as error:
        message = f"this is no {kind.__name__}: {error}"
        raise InvalidCommandError(message) from error


def _encoded_index(index: LogIndex) -> bytes:
    return msgspec.msgpack.encode(index)


#: What answers each method.
OPERATOR_METHODS = {
    "status": _status,
    "clock": _clock,
    "transfer": _transfer,
    "add": _add,
    "promote": _promote,
    "remove": _remove,
    "change_membership": _change,
    "join": _join,
    "snapshot": _snapshot,
    "events": _events,
    "log": _log,
    "leader_view": _leader_view,
    "backup_begin": _backup_begin,
    "backup_chunk": _backup_chunk,
    "backup_end": _backup_end,
    "compact": _compact,
    "explain": _explain,
}
