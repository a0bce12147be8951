"""Where in the segments the entries are: a few bytes for each batch of them."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from consensus.core.values import LogIndex


class Place(NamedTuple):
    """
    Where a batch of entries is.

    Args:
        first: The index of its first entry.
        sequence: Which segment it is in.
        position: Where its record begins there.
        size: How long that is, with its head.
        stop: The index of the first entry that is not in it, or not any more;
            ``None`` for the last batch.
    """

    first: LogIndex
    sequence: int
    position: int
    size: int
    stop: LogIndex | None


class Places:
    """
    The places of all batches, in the order of their entries.

    That is the order in which they were written as well, so segments are done
    with from the oldest on.  Columns, because a million batches of one entry
    each would be a million objects.
    """

    def __init__(self) -> None:
        self._firsts = array("q")
        self._sequences = array("Q")
        self._positions = array("Q")
        self._sizes = array("Q")
        self._columns = (self._firsts, self._sequences, self._positions, self._sizes)

    def add(self, first: LogIndex, sequence: int, position: int, size: int) -> None:
        """Add a batch behind the others; it replaces what they have from *first*."""
        if self._firsts and self._firsts[-1] >= first:
            self._delete(slice(bisect_left(self._firsts, first), None))
        self._firsts.append(first)
        self._sequences.append(sequence)
        self._positions.append(position)
        self._sizes.append(size)

    def drop(self, base_index: LogIndex) -> None:
        """Forget the batches that have nothing above *base_index*."""
        number = bisect_right(self._firsts, base_index + 1) - 1
        if number > 0:
            self._delete(slice(None, number))

    def clear(self) -> None:
        """Forget all batches."""
        self._delete(slice(None, None))

    def find(self, index: LogIndex) -> Place | None:
        """Return the place of the batch with the entry at *index*, if there is one."""
        number = bisect_right(self._firsts, index) - 1
        if number < 0:
            return None
        following = number + 1
        return Place(
            self._firsts[number],
            self._sequences[number],
            self._positions[number],
            self._sizes[number],
            self._firsts[following] if following < len(self._firsts) else None,
        )

    def _delete(self, which: slice) -> None:
        for column in self._columns:
            del column[which]
