"""What a client makes of the bytes that the key-value store answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import msgspec

from consensus.errors import ProtocolError
from contrib.kvstore import answers

if TYPE_CHECKING:
    from collections.abc import Callable

    from contrib.kvstore.commands import Value

_T = TypeVar("_T")

as_nothing: Callable[[bytes], None] = msgspec.msgpack.Decoder(None).decode
as_flag: Callable[[bytes], bool] = msgspec.msgpack.Decoder(bool).decode
as_number: Callable[[bytes], int] = msgspec.msgpack.Decoder(int).decode
as_bytes: Callable[[bytes], bytes] = msgspec.msgpack.Decoder(bytes).decode


def as_value(data: bytes) -> Value | None:
    """Return the value in *data*, or ``None``."""
    value = msgspec.msgpack.decode(data)
    if isinstance(value, bytes | str | None):
        return value
    message = f"a value is text or bytes, not {type(value).__name__}"
    raise msgspec.ValidationError(message)


def as_values(data: bytes) -> list[Value | None]:
    """Return the values in *data*."""
    found = msgspec.msgpack.decode(data)
    if isinstance(found, list) and all(
        isinstance(each, bytes | str | None) for each in found
    ):
        return found
    raise msgspec.ValidationError("these are no values")


def as_one(kind: type[_T]) -> Callable[[bytes], _T]:
    """Return what makes one of *kind* of bytes."""
    decode = as_one_or_none(kind)

    def decode_one(data: bytes) -> _T:
        found = decode(data)
        if found is None:
            message = f"expected a {kind.__name__}, not nothing"
            raise msgspec.ValidationError(message)
        return found

    return decode_one


def as_one_or_none(kind: type[_T]) -> Callable[[bytes], _T | None]:
    """Return what makes one of *kind*, or ``None``, of bytes."""

    def decode(data: bytes) -> _T | None:
        found = answers.decode(data)
        if found is None or isinstance(found, kind):
            return found
        message = f"expected a {kind.__name__}, not {found!r:.50}"
        raise msgspec.ValidationError(message)

    return decode


def decoded(data: bytes, decode: Callable[[bytes], _T]) -> _T:
    """
    Return what *decode* makes of *data*.

    Raises:
        ProtocolError: Nothing.
    """
    try:
        return decode(data)
    # msgspec's own errors are ValueErrors, and so is that of bad UTF-8.
    except (ValueError, RecursionError) as error:
        message = f"this is no answer of a key-value store: {error}"
        raise ProtocolError(message) from error
