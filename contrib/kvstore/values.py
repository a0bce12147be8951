"""What the commands and queries of the key-value store are made of."""

from __future__ import annotations

import math
from typing import Annotated, Any

import msgspec

from consensus.errors import InvalidCommandError

#: A longer key is refused.  It cannot be set: a log has to mean the same on
#: every server and in every later release.
MAX_KEY_BYTES = 4096

#: Text or bytes.
Value = bytes | str

#: How many keys, items or commands one command can have at most.
MAX_MANY = 10_000

#: The longest that anything can be told to live, in milliseconds.
MAX_TTL = 1 << 50

# Those that most values are of; one that inherits from them will do as well.
VALUE_TYPES = frozenset({bytes, str})

Key = Annotated[bytes, msgspec.Meta(min_length=1, max_length=MAX_KEY_BYTES)]
Keys = Annotated[list[Key], msgspec.Meta(max_length=MAX_MANY)]
Bound = Annotated[bytes, msgspec.Meta(max_length=MAX_KEY_BYTES)]
Limit = Annotated[int, msgspec.Meta(ge=1, le=MAX_MANY)]
Number = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]

#: How long something lives, in milliseconds.
TTL = Annotated[int, msgspec.Meta(ge=1, le=MAX_TTL)]

#: Which lease.
LeaseId = Annotated[int, msgspec.Meta(ge=1, le=(1 << 63) - 1)]


def check_value(value: Any) -> None:
    """
    Accept text and bytes only.

    Raises:
        TypeError: *value* is neither.
    """
    # msgspec knows no union of text and bytes; it reports this TypeError as
    # its own when it decodes.
    if not isinstance(value, bytes | str):
        message = f"a value is text or bytes, not {type(value).__name__}"
        raise TypeError(message)


# gc=False: of keys and values no cycle can be made, so that the collector need
# not look at thousands of commands under way.
class Message(
    msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True, gc=False
):
    """What is in the log, or comes with a call; subclasses have its options."""


class Keyed(Message, frozen=True):
    """What is about one key."""

    key: Key


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


def milliseconds(seconds: float) -> int:
    """
    Return *seconds* in whole milliseconds, at least 1.

    Raises:
        InvalidCommandError: They are not above 0, or no number.
    """
    if not (math.isfinite(seconds) and seconds > 0):
        message = f"a time is a number of seconds above 0, not {seconds}"
        raise InvalidCommandError(message)
    return max(1, math.ceil(seconds * 1000))
