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
    from consensus.core.values import Status
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


def answer(
    callee: Callee, machine: StateMachine, method: str, payload: bytes
) -> Deferred[bytes]:
    """
    Return what *method* of *callee* answers to *payload*.

    The Deferred fails with a :class:`~.RaftError` and nothing else.
    """
    try:
        if method == "write":
            # What is no command has no place in the log.
            machine.decode(payload)
            written = callee.write_encoded(payload)
            return written.addCallback(_encoded, machine)
        if method == "read":
            query = machine.decode(payload)
            return callee.read(query).addCallback(_encoded, machine)
        if method == "status":
            return succeed(msgspec.msgpack.encode(callee.status()))
    except RaftError as error:
        return fail(error)
    message = f"there is no method {method[:_MAX_SHOWN]!r}"
    return fail(InvalidCommandError(message))


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
