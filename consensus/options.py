"""
What a caller may ask of a write or a read beyond the command or query itself.

In a call over a network they come before it: see ``docs/reference/protocol.md``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import msgspec

from consensus.errors import CommandFailedError, InvalidCommandError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: How a read may be served:
#:
#: ``linearizable``: by the leader, after a round of heartbeats (§6.4).
#: ``lease``: by the leader, without a round while it has a lease (§6.4.1).
#: ``follower``: by any server, which asks the leader how far it has to be.
#: ``stale``: by any server, from what it has.
Consistency = Literal["linearizable", "lease", "follower", "stale"]

#: How many commands one call over a network may have: the server looks at all
#: of them at once.
MAX_COMMANDS = 10_000

#: How many seconds a server may keep a query that has no answer yet.
MAX_WAIT = 30.0

_MAX_INDEX = 2**63 - 1

# msgspec's own errors are ValueErrors, and so is that of bad UTF-8.
_BAD = (ValueError, RecursionError)


_CONSISTENCIES = get_args(Consistency)


class ManyOptions(
    msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, frozen=True
):
    """
    How several writes are to be done.

    Args:
        forwarded: Another server passed them on; they go no further.
        with_index: Answer with the log index, too: of several, the last.
    """

    forwarded: bool = False
    with_index: bool = False

    #: The method that takes them.
    method: ClassVar[str] = "write_many"

    @property
    def needs_leader(self) -> bool:
        """Say whether only the leader can do it."""
        return True


class WriteOptions(ManyOptions, frozen=True, kw_only=True):
    """How a write is to be done."""

    #: The method that takes them.
    method: ClassVar[str] = "write_with"


class ReadOptions(
    msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, frozen=True
):
    """
    How a read is to be done.

    Args:
        consistency: See :data:`Consistency`.
        max_age: Of a stale read: how many seconds ago the state may have been
            the newest; ``None`` for any number.
        at_index: Wait until the server has applied the log up to here.
        forwarded: Another server passed it on; it goes no further.
        wait: How many seconds the server keeps it while the state machine has
            no answer yet.
    """

    consistency: Consistency = "linearizable"
    max_age: float | None = None
    at_index: int | None = None
    forwarded: bool = False
    wait: float | None = None

    #: The method that takes them.
    method: ClassVar[str] = "read_with"

    @property
    def needs_leader(self) -> bool:
        """Say whether only the leader can do it."""
        return self.consistency in {"linearizable", "lease"}

    def check(self) -> None:
        """
        See that they make sense.

        Raises:
            InvalidCommandError: They do not.
        """
        if self.consistency not in _CONSISTENCIES:
            known = ", ".join(_CONSISTENCIES)
            message = f"{self.consistency!r} is no consistency; there are {known}"
            raise InvalidCommandError(message)
        if self.max_age is not None:
            if self.consistency != "stale":
                message = "max_age is for stale reads; others have no age"
                raise InvalidCommandError(message)
            if not _is_number(self.max_age) or not 0 <= self.max_age < math.inf:
                message = f"max_age is a number of seconds, not {self.max_age!r}"
                raise InvalidCommandError(message)
        if self.wait is not None and not (
            _is_number(self.wait) and 0 <= self.wait <= MAX_WAIT
        ):
            message = f"wait is 0 to {MAX_WAIT:g} seconds, not {self.wait!r}"
            raise InvalidCommandError(message)
        if self.at_index is not None and not (
            type(self.at_index) is int and 0 <= self.at_index <= _MAX_INDEX
        ):
            message = f"at_index is an index of the log, not {self.at_index!r}"
            raise InvalidCommandError(message)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_encode = msgspec.msgpack.Encoder().encode
_decode_write = msgspec.msgpack.Decoder(tuple[WriteOptions, bytes]).decode
_decode_read = msgspec.msgpack.Decoder(tuple[ReadOptions, bytes]).decode
_decode_many = msgspec.msgpack.Decoder(tuple[ManyOptions, list[bytes]]).decode
_decode_result = msgspec.msgpack.Decoder(tuple[bytes, int]).decode
_Results = list[bytes | tuple[str, str]]
_decode_results = msgspec.msgpack.Decoder(_Results).decode
_decode_indexed = msgspec.msgpack.Decoder(tuple[_Results, int]).decode


def pack(
    options: WriteOptions | ManyOptions | ReadOptions, body: bytes | Sequence[bytes]
) -> bytes:
    """Return the payload of ``write_with``, ``write_many`` or ``read_with``."""
    return _encode((options, body))


def unpack_write(payload: bytes) -> tuple[WriteOptions, bytes]:
    """
    Return the options and the command that :func:`pack` made *payload* of.

    An option that this release does not know is refused: to leave it out
    could break what it promises.

    Raises:
        InvalidCommandError: *payload* is none.
    """
    try:
        return _decode_write(payload)
    except _BAD as error:
        raise _no_options(error) from error


def unpack_many(payload: bytes) -> tuple[ManyOptions, list[bytes]]:
    """
    Return the options and the commands; see :func:`unpack_write`.

    Raises:
        InvalidCommandError: *payload* is none, or has too many commands.
    """
    try:
        options, commands = _decode_many(payload)
    except _BAD as error:
        raise _no_options(error) from error
    if len(commands) > MAX_COMMANDS:
        message = f"one call has at most {MAX_COMMANDS} commands, not {len(commands)}"
        raise InvalidCommandError(message)
    return options, commands


def unpack_read(payload: bytes) -> tuple[ReadOptions, bytes]:
    """
    Return the options and the query; see :func:`unpack_write`.

    Raises:
        InvalidCommandError: *payload* is none, or the options make no sense.
    """
    try:
        options, query = _decode_read(payload)
    except _BAD as error:
        raise _no_options(error) from error
    options.check()
    return options, query


def _no_options(error: Exception) -> InvalidCommandError:
    return InvalidCommandError(f"these are no options and what they are for: {error}")


def pack_result(result: bytes, index: int) -> bytes:
    """Return the answer to a write ``with_index``."""
    return _encode((result, index))


def unpack_result(payload: bytes) -> tuple[bytes, int]:
    """
    Return the result and the log index that :func:`pack_result` got.

    Raises:
        ValueError: *payload* is none.
    """
    return _decode_result(payload)


def pack_results(
    results: Iterable[bytes | CommandFailedError], index: int | None = None
) -> bytes:
    """Return the answer to ``write_many``, with the *index* if there is one."""
    packed = [
        (each.kind, each.detail) if isinstance(each, CommandFailedError) else each
        for each in results
    ]
    return _encode(packed if index is None else (packed, index))


def unpack_results(payload: bytes) -> list[bytes | CommandFailedError]:
    """
    Return the results and errors that :func:`pack_results` got.

    Raises:
        ValueError: *payload* is none.
    """
    return _with_errors(_decode_results(payload))


def unpack_indexed(payload: bytes) -> tuple[list[bytes | CommandFailedError], int]:
    """
    Return the results, the errors and the index that :func:`pack_results` got.

    Raises:
        ValueError: *payload* is none.
    """
    results, index = _decode_indexed(payload)
    return _with_errors(results), index


def _with_errors(results: _Results) -> list[bytes | CommandFailedError]:
    return [
        each if isinstance(each, bytes) else CommandFailedError(*each)
        for each in results
    ]
