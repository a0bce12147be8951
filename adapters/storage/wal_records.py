"""
What the records of a log of our own say.

*A batch of entries* is what :mod:`consensus.entries` packs; the index of the
record is that of the first.  *A hard state* is the record of
:mod:`~adapters.storage.records`.  *A compaction* has the index of the last
dropped entry, and then its term (8 bytes), a 1 if entries stay above it
(1), and the oldest segment with one of those (8; 0 for the segment of the record
itself).  *A state* has the lengths of the records of a hard state and of an
extent (4 each), the index of the last entry (8), the oldest segment with an
entry (8), and then those two.

Numbers are big-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from adapters.storage import records
from adapters.storage.records import Extent
from consensus.core.values import EntryKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from consensus.core.values import HardState, LogIndex, Term

# How a batch begins, and what it says of the terms and kinds in it.
_COUNTS = struct.Struct(">II")
_RUN = struct.Struct(">QBI")

_COMPACTION = struct.Struct(">q?Q")
_STATE = struct.Struct(">IIqQ")


def count_in(body: bytes) -> int:
    """Return how many entries a batch has."""
    count: int = _COUNTS.unpack_from(body)[0]
    return count


def memberships_in(body: bytes, first: LogIndex) -> Iterator[LogIndex]:
    """Yield the indexes of the memberships in a batch that begins at *first*."""
    for _, kind, count in _runs(body):
        if kind == EntryKind.MEMBERSHIP:
            yield from range(first, first + count)
        first += count


def _runs(body: bytes) -> Iterator[tuple[Term, int, int]]:
    """Return terms, kinds and numbers of the entries in a batch."""
    _, runs = _COUNTS.unpack_from(body)
    end = _COUNTS.size + runs * _RUN.size
    return _RUN.iter_unpack(memoryview(body)[_COUNTS.size : end])


class Compaction(NamedTuple):
    """
    The body of a compaction.

    Args:
        term: Of the last dropped entry.
        keeps: Whether there are entries above it.
        oldest: The segment with the first one of those; 0 if it is not older
            than the compaction itself.
    """

    term: Term
    keeps: bool
    oldest: int

    def pack(self) -> bytes:
        """
        Return it as bytes.

        Raises:
            struct.error: A number is too large.
        """
        return _COMPACTION.pack(*self)

    @classmethod
    def unpack(cls, body: bytes) -> Compaction:
        """
        Return what :meth:`pack` packed.

        Raises:
            struct.error: That was something else.
        """
        return cls(*_COMPACTION.unpack(body))


@dataclass(frozen=True, slots=True)
class State:
    """
    What a segment begins with, so that it needs none before it.

    Args:
        hard_state: The hard state.
        extent: Which entries there are.
        oldest: The segment with the first of those, or the one that begins.
    """

    hard_state: HardState
    extent: Extent
    oldest: int

    def pack(self) -> bytes:
        """Return it as bytes."""
        hard_state = records.pack_hard_state(self.hard_state)
        extent = self.extent.pack()
        sizes = len(hard_state), len(extent)
        numbers = _STATE.pack(*sizes, self.extent.last_index, self.oldest)
        return numbers + hard_state + extent

    @classmethod
    def unpack(cls, place: object, body: bytes) -> State:
        """
        Return what :meth:`pack` packed.

        Raises:
            struct.error: That was something else.
            StorageError: So it was, in *place*.
        """
        first, second, last_index, oldest = _STATE.unpack_from(body)
        middle = _STATE.size + first
        hard_state = records.unpack_hard_state(place, body[_STATE.size : middle])
        extent = Extent.unpack(place, body[middle : middle + second])
        return cls(hard_state, replace(extent, last_index=last_index), oldest)
