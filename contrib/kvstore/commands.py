"""
The commands of the key-value store, as objects and as bytes.

On the wire and in the log a command is one byte, the version of this format,
and a MessagePack array: the command's name, then its fields in order::

    01 93 a3 "set" c4 03 "foo" a3 "bar"

A later release may add fields at the end, or commands.  A server that does
not know them refuses them: to ignore one would make its state another.

A key is bytes; text stands for its UTF-8 bytes.  A value is text or bytes and
comes back as the one that it was; two values are equal if their bytes are.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from consensus.errors import InvalidCommandError

#: The version of the format; the first byte of every command.
VERSION = 1

#: A longer key is refused.  It cannot be set: a log has to mean the same on
#: every server and in every later release.
MAX_KEY_BYTES = 4096

#: Text or bytes.
Value = bytes | str

# Those that most values are of; one that inherits from them will do as well.
_VALUE_TYPES = frozenset({bytes, str})

_SMALL = 4096

_VERSION_BYTE = bytes((VERSION,))
_Key = Annotated[bytes, msgspec.Meta(min_length=1, max_length=MAX_KEY_BYTES)]


def _check_value(value: Any) -> None:
    # msgspec knows no union of text and bytes; it reports this TypeError as
    # its own when it decodes.
    if not isinstance(value, bytes | str):
        message = f"a value is text or bytes, not {type(value).__name__}"
        raise TypeError(message)


# gc=False: of keys and values no cycle can be made, so that the collector need
# not look at thousands of commands under way.
class _Stored(
    msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True, gc=False
):
    """What is in the log, or comes with a call; subclasses have its options."""

    key: _Key


class Set(_Stored, tag="set", frozen=True):
    """
    Give *key* the *value*, whatever it had; the result is ``None``.

    Raises:
        TypeError: *value* is neither text nor bytes.
    """

    value: Any

    def __post_init__(self) -> None:
        """Accept text and bytes only."""
        if type(self.value) not in _VALUE_TYPES:
            _check_value(self.value)


class Delete(_Stored, tag="delete", frozen=True):
    """Remove *key*; the result says whether it was there."""


class Cas(_Stored, tag="cas", frozen=True):
    """
    Give *key* the *value* if it has the *expected* one (compare and set).

    ``None`` as *expected* stands for a key that is not there.  The result
    says whether the value was set.

    Raises:
        TypeError: A value is neither text nor bytes.
    """

    expected: Any
    value: Any

    def __post_init__(self) -> None:
        """Accept text and bytes only, and ``None`` for what is expected."""
        _check_value(self.value)
        if self.expected is not None:
            _check_value(self.expected)


class Get(_Stored, tag="get", frozen=True):
    """The query for the value of *key*; ``None`` if it is not there."""


#: What changes the state.
Command = Set | Delete | Cas

#: What does not.
Query = Get

_encode = msgspec.msgpack.Encoder().encode
_decoder: msgspec.msgpack.Decoder[Command | Query] = msgspec.msgpack.Decoder(
    Command | Query
)
_decode = _decoder.decode


def encode(command: msgspec.Struct) -> bytes:
    """
    Return *command*, or a query, as bytes.

    Raises:
        InvalidCommandError: It is neither; or a key is empty, too long or no
            bytes, or text has half of a character.
    """
    try:
        data = _VERSION_BYTE + _encode(command)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        message = f"cannot encode a {type(command).__name__}: {error}"
        raise InvalidCommandError(message) from error
    # An object of ours may hold anything; what the log holds is checked here.
    if not _is_plain(command):
        decode(data)
    return data


def _is_plain(command: msgspec.Struct) -> bool:
    """Say, without decoding it again, that *command* is as most are, and right."""
    if type(command) is Set:
        if type(command.value) not in _VALUE_TYPES:
            return False
        key = command.key
    elif type(command) is Get:
        key = command.key
    else:
        return False
    return type(key) is bytes and 0 < len(key) <= MAX_KEY_BYTES


def decode(data: bytes) -> Command | Query:
    """
    Return the command or query that :func:`encode` made *data* of.

    Raises:
        InvalidCommandError: *data* is not one.
    """
    if not data or data[0] != VERSION:
        message = (
            f"a command begins with {data[:1]!r}, but this release knows version"
            f" {VERSION} of the key-value store's commands only"
        )
        raise InvalidCommandError(message)
    try:
        # A view saves a copy, and costs as much as one of some kilobytes.
        return _decode(data[1:] if len(data) < _SMALL else memoryview(data)[1:])
    # msgspec's own errors are ValueErrors, and so is that of bad UTF-8.
    except (ValueError, RecursionError) as error:
        message = f"not a command of the key-value store: {error}"
        raise InvalidCommandError(message) from error


def key_of(command: Command | Query) -> bytes:
    """Return the key that *command* is about; it touches no other."""
    return command.key


def as_key(key: str | bytes) -> bytes:
    """
    Return *key* as bytes; text as UTF-8.

    Raises:
        InvalidCommandError: It is something else, empty, or too long.
    """
    raw = as_bytes(key, "a key")
    if not 1 <= len(raw) <= MAX_KEY_BYTES:
        message = f"a key has 1 to {MAX_KEY_BYTES} bytes, not {len(raw)}"
        raise InvalidCommandError(message)
    return raw


def as_bytes(value: Value, what: str = "a value") -> bytes:
    """
    Return the bytes of *value*; those of text are UTF-8.

    Args:
        value: Text or bytes.
        what: What to call it in the error.

    Raises:
        InvalidCommandError: It is something else, or text that is none.
    """
    if isinstance(value, bytes):
        return value
    try:
        return value.encode()
    except (AttributeError, UnicodeEncodeError) as error:
        message = f"{what} is text or bytes, not {value!r:.100}"
        raise InvalidCommandError(message) from error
