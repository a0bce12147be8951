"""Redis' patterns for keys: ``*``, ``?``, ``[a-z]``, ``[^a]`` and a backslash."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: What follows a pattern's plain beginning may not be longer: it is looked for
#: at each place of each key of a page, which takes half a second then.
MAX_PATTERN = 256


class Glob:
    """
    A pattern.

    Between two stars each byte of a pattern stands for one byte, so what comes
    first is good enough: no pattern takes longer than its length times that of
    the key.

    Args:
        pattern: As Redis has it.
    """

    def __init__(self, pattern: bytes) -> None:
        pieces = list(_pieces(pattern))
        self._is_whole = len(pieces) == 1
        first, *rest = pieces
        self._first = _compiled(first + b"\\Z" if self._is_whole else first).match
        last = rest.pop() if rest else b""
        self._middle = [_compiled(piece).search for piece in rest if piece]
        self._last = _compiled(last + b"\\Z").search
        self._last_size = _size(last)

    def matches(self, key: bytes) -> bool:
        """Say whether *key* is of this pattern."""
        found = self._first(key)
        if found is None:
            return False
        if self._is_whole:
            return True
        position = found.end()
        for search in self._middle:
            found = search(key, position)
            if found is None:
                return False
            position = found.end()
        begin = len(key) - self._last_size
        return begin >= position and self._last(key, begin) is not None


def _compiled(piece: bytes) -> re.Pattern[bytes]:
    return re.compile(piece, re.DOTALL)


def _size(piece: bytes) -> int:
    """Return how many bytes *piece*, a part of a regular expression, matches."""
    return len(_ATOM.findall(piece))


# What :func:`_pieces` puts together, one for each byte of a key.
_ATOM = re.compile(
    rb"\[(?:\^)?(?:\\x[0-9a-f]{2}-?)*\]|\\x[0-9a-f]{2}|\.|\(\?!\)", re.DOTALL
)


def _pieces(pattern: bytes) -> Iterator[bytes]:
    """Yield what stands between the stars of *pattern*, as regular expressions."""
    piece: list[bytes] = []
    position = 0
    while position < len(pattern):
        byte = pattern[position : position + 1]
        position += 1
        if byte == b"*":
            yield b"".join(piece)
            piece = []
        elif byte == b"?":
            piece.append(b".")
        elif byte == b"[":
            atom, position = _class(pattern, position)
            piece.append(atom)
        else:
            if byte == b"\\" and position < len(pattern):
                byte = pattern[position : position + 1]
                position += 1
            piece.append(_escaped(byte[0]))
    yield b"".join(piece)


def _class(pattern: bytes, position: int) -> tuple[bytes, int]:
    """Return the class that begins at *position*, and where it ends."""
    end = len(pattern)
    is_negated = pattern[position : position + 1] == b"^"
    position += is_negated
    parts: list[bytes] = []
    while position < end and pattern[position] != ord("]"):
        if pattern[position] == ord("\\") and position + 1 < end:
            position += 1
            parts.append(_escaped(pattern[position]))
        elif pattern[position + 1 : position + 2] == b"-" and position + 2 < end:
            low, high = sorted((pattern[position], pattern[position + 2]))
            parts.append(_escaped(low) + b"-" + _escaped(high))
            position += 2
        else:
            parts.append(_escaped(pattern[position]))
        position += 1
    if not parts:
        # Nothing is in an empty class, and everything outside of it.
        return (b"." if is_negated else b"(?!)"), position + 1
    return b"[%b%b]" % (b"^" if is_negated else b"", b"".join(parts)), position + 1


def _escaped(byte: int) -> bytes:
    return b"\\x%02x" % byte


def literal(pattern: bytes) -> bytes:
    """Return the bytes of *pattern* before the first special one: keys begin so."""
    return re.split(rb"[*?\[\\]", pattern, maxsplit=1)[0]


@lru_cache(maxsize=64)
def matcher(pattern: bytes) -> Callable[[bytes], bool]:
    """Return what tells keys of *pattern* from others."""
    return Glob(pattern).matches
