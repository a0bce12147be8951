"""
The calls of clients, as bytes: what each method takes and answers.

They are described in ``docs/reference/protocol.md``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import msgspec
from twisted.internet.defer import Deferred, fail, succeed

from consensus.errors import CommandFailedError, InvalidCommandError, RaftError

if TYPE_CHECKING:
    from consensus.core.values import ServerId, Status
    from consensus.interfaces import StateMachine

_MAX_SHOWN = 64


class Callee(Protocol):
    """What a server can be asked for."""

    def write_encoded(self, command: bytes) -> Deferred[Any]:
        """See :class:`.RaftServer`."""

    def read(self, query: Any) -> Deferred[Any]:
        """See :class:`.RaftServer`."""

    def status(self) -> Status:
        """See :class:`.RaftServer`."""

    def transfer(self, target: ServerId | None) -> Deferred[ServerId]:
        """See :class:`.RaftServer`."""


def answer(
    callee: Callee, machine: StateMachine, method: str, payload: bytes
) -> Deferred[bytes]:
    """
    Return what *method* of *callee* answers to *payload*.

    The Deferred fails with a :class:`~.RaftError` and nothing else.
    """
    call = _METHODS.get(method)
    if call is None:
        message = f"there is no method {method[:_MAX_SHOWN]!r}"
        return fail(InvalidCommandError(message))
    try:
        return call(callee, machine, payload)
    except RaftError as error:
        return fail(error)


def _write(callee: Callee, machine: StateMachine, payload: bytes) -> Deferred[bytes]:
    # What is no command has no place in the log.
    machine.decode(payload)
    return callee.write_encoded(payload).addCallback(_encoded, machine)


def _read(callee: Callee, machine: StateMachine, payload: bytes) -> Deferred[bytes]:
    return callee.read(machine.decode(payload)).addCallback(_encoded, machine)


def _status(callee: Callee, _: StateMachine, payload: bytes) -> Deferred[bytes]:
    del payload
    return succeed(msgspec.msgpack.encode(callee.status()))


def _transfer(callee: Callee, _: StateMachine, payload: bytes) -> Deferred[bytes]:
    try:
        target = payload.decode()
    except UnicodeDecodeError as error:
        raise InvalidCommandError("the name of a server is UTF-8") from error
    return callee.transfer(target or None).addCallback(str.encode)


_METHODS = {
    "write": _write,
    "read": _read,
    "status": _status,
    "transfer": _transfer,
}


def _encoded(result: Any, machine: StateMachine) -> bytes:
    """
    Return *result* as bytes.

    Raises:
        CommandFailedError: It cannot be encoded.  Not a rejection: a write
            has been applied by now.
    """
    try:
        return machine.encode(result)
    except RaftError as error:
        detail = f"it was done, but its result cannot be sent: {error}"
        raise CommandFailedError("UnencodableResult", detail) from error
