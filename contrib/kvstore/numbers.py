"""Numbers as the key-value store has them: text or bytes in decimal."""

from __future__ import annotations

import re
import sys
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import TYPE_CHECKING

from contrib.kvstore.commands import as_bytes
from contrib.kvstore.failures import (
    IncrementOverflowError,
    NotAnIntegerError,
    NotANumberError,
)

if TYPE_CHECKING:
    from contrib.kvstore.commands import Value

_LEAST, _MOST = -(1 << 63), (1 << 63) - 1

_integer = re.compile(rb"0|-?[1-9][0-9]{0,18}").fullmatch
_number = re.compile(
    rb"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?"
).fullmatch

_LONGEST = 400
_LARGEST = Decimal(repr(sys.float_info.max))
_SMALLEST = Decimal("1e-17")

# A context of our own: that of the thread may be anybody's.
_EXACT = Context(prec=1000, rounding=ROUND_HALF_EVEN, traps=[])


def add_integer(value: Value, by: int) -> int:
    """
    Return the whole number *value*, and *by*.

    Raises:
        NotAnIntegerError: *value* is none of 64 bits.
        IncrementOverflowError: The sum is none.
    """
    data = as_bytes(value)
    found = int(data) if _integer(data) else _MOST + 1
    if not _LEAST <= found <= _MOST:
        raise NotAnIntegerError("the value is not an integer or out of range")
    total = found + by
    if not _LEAST <= total <= _MOST:
        raise IncrementOverflowError("increment or decrement would overflow")
    return total


def add_number(value: Value, by: float) -> str:
    """
    Return the number *value*, and *by*, in decimal without an exponent.

    Raises:
        NotANumberError: *value* is none.
        IncrementOverflowError: The sum is none.
    """
    data = as_bytes(value)
    if len(data) > _LONGEST or not _number(data):
        raise NotANumberError("the value is not a valid float")
    # Decimal, so that a tenth and two tenths are three tenths.
    total = _EXACT.add(_EXACT.create_decimal(data.decode()), Decimal(repr(by)))
    if abs(total) > _LARGEST:
        raise IncrementOverflowError("increment would produce NaN or Infinity")
    text = format(_EXACT.quantize(total, _SMALLEST), "f").rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
