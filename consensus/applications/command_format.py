"""
An application's commands as bytes: a version, and a MessagePack array.

The array is that of a msgspec Struct that is tagged and ``array_like``: the
command's name, then its fields in order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

from consensus.errors import InvalidCommandError

if TYPE_CHECKING:
    from typing import Any

_Command = TypeVar("_Command")


class CommandFormat(Generic[_Command]):
    """
    Encodes and decodes the commands, and the queries, of one application.

    Args:
        kinds: The union of their Structs, each with a tag.
        version: Of the format; the first byte of every command.
        what: What they are commands of, for people.
    """

    def __init__(self, kinds: Any, version: int, what: str) -> None:
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(kinds).decode
        self._mark = bytes((version,))
        self.what = what

    def encode(self, command: _Command) -> bytes:
        """
        Return *command*, or a query, as bytes.

        Raises:
            InvalidCommandError: It is neither, or a field is out of its range.
        """
        try:
            data = self._mark + self._encode(command)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            message = f"cannot encode a {type(command).__name__}: {error}"
            raise InvalidCommandError(message) from error
        # An object may hold anything; what the log holds is checked here.
        self.decode(data)
        return data

    def decode(self, data: bytes) -> _Command:
        """
        Return the command or query that :meth:`encode` made *data* of.

        Raises:
            InvalidCommandError: *data* is not one.
        """
        if data[:1] != self._mark:
            message = (
                f"a command begins with {data[:1]!r}, but this release knows version"
                f" {self._mark[0]} of the commands of {self.what} only"
            )
            raise InvalidCommandError(message)
        try:
            command: _Command = self._decode(memoryview(data)[1:])
        # msgspec's own errors are ValueErrors, and so is that of bad UTF-8.
        except (ValueError, RecursionError) as error:
            message = f"not a command of {self.what}: {error}"
            raise InvalidCommandError(message) from error
        return command
