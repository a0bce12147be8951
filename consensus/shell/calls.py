"""
The calls of clients, as bytes: what each method takes and answers.

Those of operators are in :mod:`.operator_calls`.  ``docs/reference/protocol.md``
describes all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from twisted.internet.defer import Deferred, fail

from consensus import sessions
from consensus.errors import (
    CommandFailedError,
    InvalidCommandError,
    RaftError,
)
from consensus.options import (
    ManyOptions,
    ReadOptions,
    WriteOptions,
    pack_result,
    pack_results,
    unpack_many,
    unpack_read,
    unpack_result,
    unpack_results,
    unpack_write,
)
from consensus.sessions import Operation
from consensus.shell.operator_calls import OPERATOR_METHODS, OperatorCallee

if TYPE_CHECKING:
    from consensus.core.values import LogIndex
    from consensus.interfaces import StateMachine

_MAX_SHOWN = 64

# In the place of an operation: a session's command, answered with its index.
_INDEXED = b"\x04"

_PLAIN_WRITE = WriteOptions()
_PLAIN_READ = ReadOptions()


class Callee(OperatorCallee, Protocol):
    """What a server can be asked for."""

    def write_encoded(
        self, command: bytes, *, with_index: bool = False
    ) -> Deferred[Any]:
        """See :class:`.RaftServer`."""

    def write_many_encoded(
        self, commands: list[bytes], *, with_index: bool = False
    ) -> Deferred[Any]:
        """See :class:`.RaftServer`."""

    def read_as(self, query: Any, options: ReadOptions, size: int = 0) -> Deferred[Any]:
        """See :class:`.RaftServer`."""

    def forward(
        self,
        options: WriteOptions | ManyOptions | ReadOptions,
        body: bytes | list[bytes],
    ) -> Deferred[bytes] | None:
        """See :class:`.RaftServer`."""

    def write_session(
        self,
        operation: Operation,
        call: bytes,
        *,
        with_index: bool = False,
        is_forwarded: bool = False,
    ) -> Deferred[bytes]:
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
    return _write_as(callee, machine, _PLAIN_WRITE, payload)


def _write_with(
    callee: Callee, machine: StateMachine, payload: bytes
) -> Deferred[bytes]:
    return _write_as(callee, machine, *unpack_write(payload))


def _write_as(
    callee: Callee, machine: StateMachine, options: WriteOptions, command: bytes
) -> Deferred[bytes]:
    check_command(machine, command)
    passed_on = callee.forward(options, command)
    if passed_on is not None:
        return passed_on
    done = callee.write_encoded(command, with_index=options.with_index)
    if options.with_index:
        return done.addCallback(_encoded_with_index, machine)
    return done.addCallback(_encoded, machine)


def _write_many(
    callee: Callee, machine: StateMachine, payload: bytes
) -> Deferred[bytes]:
    options, commands = unpack_many(payload)
    for command in commands:
        check_command(machine, command)
    passed_on = callee.forward(options, commands)
    if passed_on is not None:
        return passed_on
    done = callee.write_many_encoded(commands, with_index=options.with_index)
    if options.with_index:
        return done.addCallback(
            lambda outcome: _encoded_results(outcome[0], machine, outcome[1])
        )
    return done.addCallback(_encoded_results, machine)


def check_command(machine: StateMachine, command: bytes) -> None:
    """
    See that *command* may enter the log: it is one, and the machine wants it.

    Raises:
        InvalidCommandError: It may not; the machine's own words are in it.
    """
    decoded = machine.decode(command)
    try:
        machine.validate(decoded)
    except (InvalidCommandError, MemoryError):
        raise
    except Exception as error:
        message = f"{type(error).__name__}: {error}"
        raise InvalidCommandError(message) from error


def check_session(machine: StateMachine, operation: Operation, call: bytes) -> None:
    """
    See that a session's *call* may enter the log.

    Raises:
        InvalidCommandError: It may not.
    """
    sessions.check(operation, call)
    if operation is Operation.COMMAND:
        check_command(machine, sessions.command_of(call))


def _session_open(callee: Callee, _: StateMachine, payload: bytes) -> Deferred[bytes]:
    return callee.write_session(Operation.OPEN, payload)


def _session_write(callee: Callee, _: StateMachine, payload: bytes) -> Deferred[bytes]:
    return callee.write_session(Operation.COMMAND, payload)


def _session_write_indexed(
    callee: Callee, _: StateMachine, payload: bytes
) -> Deferred[bytes]:
    return callee.write_session(Operation.COMMAND, payload, with_index=True)


def _session_close(callee: Callee, _: StateMachine, payload: bytes) -> Deferred[bytes]:
    return callee.write_session(Operation.CLOSE, payload)


def _session_forwarded(
    callee: Callee, _: StateMachine, payload: bytes
) -> Deferred[bytes]:
    """Do one of those above for another server; it goes no further."""
    with_index = payload[:1] == _INDEXED
    try:
        operation = (
            Operation.COMMAND
            if with_index
            else Operation(int.from_bytes(payload[:1], "big"))
        )
    except ValueError as error:
        raise InvalidCommandError("this is no call of a session") from error
    return callee.write_session(
        operation, payload[1:], with_index=with_index, is_forwarded=True
    )


def forwarded_session(operation: Operation, call: bytes, *, with_index: bool) -> bytes:
    """Return what one server sends to another of a session's *call*."""
    return (_INDEXED if with_index else bytes([operation])) + call


def packed(outcome: tuple[bytes, LogIndex]) -> bytes:
    """Return the encoded result of a write and its log index as one answer."""
    return pack_result(*outcome)


def _read(callee: Callee, machine: StateMachine, payload: bytes) -> Deferred[bytes]:
    return _read_as(callee, machine, _PLAIN_READ, payload)


def _read_with(
    callee: Callee, machine: StateMachine, payload: bytes
) -> Deferred[bytes]:
    return _read_as(callee, machine, *unpack_read(payload))


def _read_as(
    callee: Callee, machine: StateMachine, options: ReadOptions, query: bytes
) -> Deferred[bytes]:
    decoded = machine.decode(query)
    passed_on = callee.forward(options, query)
    if passed_on is not None:
        return passed_on
    done = callee.read_as(decoded, options, len(query))
    return done.addCallback(_encoded, machine)


_METHODS = {
    "write": _write,
    "write_with": _write_with,
    "write_many": _write_many,
    "read": _read,
    "read_with": _read_with,
    "session_open": _session_open,
    "session_write": _session_write,
    "session_write_indexed": _session_write_indexed,
    "session_close": _session_close,
    "session_forwarded": _session_forwarded,
    **OPERATOR_METHODS,
}


def _encoded_with_index(outcome: tuple[Any, int], machine: StateMachine) -> bytes:
    result, index = outcome
    return pack_result(_encoded(result, machine), index)


def _encoded_results(
    results: list[Any], machine: StateMachine, index: LogIndex | None = None
) -> bytes:
    """Return *results* as bytes; one that cannot be encoded becomes an error."""
    encoded: list[bytes | CommandFailedError] = []
    for result in results:
        if isinstance(result, CommandFailedError):
            encoded.append(result)
            continue
        try:
            encoded.append(_encoded(result, machine))
        except CommandFailedError as error:
            encoded.append(error)
    return pack_results(encoded, index)


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


# The other way round, for what another server has answered.


def decoded(payload: bytes, machine: StateMachine) -> Any:
    """
    Return the result that is encoded as *payload*.

    Raises:
        CommandFailedError: It cannot be read; the command may have been
            applied.
    """
    try:
        return machine.decode_result(payload)
    except RaftError as error:
        raise _undecodable(error) from error


def decoded_with_index(payload: bytes, machine: StateMachine) -> tuple[Any, LogIndex]:
    """Return the result and the log index; see :func:`decoded`."""
    try:
        result, index = unpack_result(payload)
    except ValueError as error:
        raise _undecodable(error) from error
    return decoded(result, machine), index


def decoded_results(payload: bytes, machine: StateMachine) -> list[Any]:
    """Return the results of several writes, with the errors of some of them."""
    try:
        results = unpack_results(payload)
    except ValueError as error:
        raise _undecodable(error) from error
    return [_decoded_or_error(each, machine) for each in results]


def _decoded_or_error(result: bytes | CommandFailedError, machine: StateMachine) -> Any:
    if isinstance(result, CommandFailedError):
        return result
    try:
        return decoded(result, machine)
    except CommandFailedError as error:
        return error


def _undecodable(error: Exception) -> CommandFailedError:
    """Return what a caller gets when the leader's answer cannot be read here."""
    detail = f"it was done, but its result cannot be read: {error}"
    return CommandFailedError("UndecodableResult", detail)
