"""The keys and values that every system is given."""

from __future__ import annotations

import os

#: How many keys there are, unless a scenario says so.
KEYS = 10_000

# Random bytes are dear: values come round again after so many, or so few as
# take up this much memory.
_VALUES = 1000
_VALUE_BYTES = 16 << 20


def key(number: int) -> bytes:
    """Return a key of 16 bytes."""
    return b"key-%012d" % number


def values(size: int) -> list[bytes]:
    """Return values of random bytes, *size* of them each."""
    return [os.urandom(size) for _ in range(max(2, min(_VALUES, _VALUE_BYTES // size)))]
