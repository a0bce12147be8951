"""
The log: what is in memory of it, what is durable, committed and applied.

Only a window of the newest entries is in memory; older ones are in storage
alone and are asked for with a :class:`~consensus.core.ready.Fetch`.  The term
of *every* entry is known all the same: terms never decrease along a log, so a
list of the indexes at which a new one begins says it all.

What a snapshot covers is dropped from the front (§5.1); of the last entry that
is gone, the *base*, index and term stay known.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from itertools import accumulate
from operator import attrgetter
from typing import TYPE_CHECKING

from consensus.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from consensus.core.values import Entry, LogIndex, Term

#: How many entries go into one message, or are applied, or are read from
#: storage at once; however small they are, nothing else waits for long.
MAX_BATCH = 1024

#: What an entry costs in memory besides its command, in bytes; measured.
_OVERHEAD = 190

# Whatever is done for each entry is done in these loops of the interpreter's.
_command = attrgetter("command")
_term = attrgetter("term")


class Log:
    """
    One server's log.

    Args:
        last_index: The last entry in storage.
        term_starts: ``(index, term)`` of the first entry of each term in it.
        cache_bytes: How much of the durable and applied part stays in memory,
            for followers that are a little behind.
        base_index: The last entry that storage has dropped; 0 if none.
        base_term: Its term.
        applied: What a snapshot covers: it is committed, and never handed out.
    """

    __slots__ = (
        "_before",
        "_ends",
        "_handed_out",
        "_persisting",
        "_starts",
        "_terms",
        "base_index",
        "base_term",
        "cache_bytes",
        "commit_index",
        "entries",
        "last_applied",
        "last_index",
        "offset",
        "stable_index",
    )

    def __init__(
        self,
        last_index: LogIndex = 0,
        term_starts: Sequence[tuple[LogIndex, Term]] = (),
        cache_bytes: int = 16 * 1024 * 1024,
        *,
        base_index: LogIndex = 0,
        base_term: Term = 0,
        applied: LogIndex = 0,
    ) -> None:
        #: The last entry that the log no longer has, and its term.
        self.base_index = base_index
        self.base_term = base_term
        #: The entries above ``offset``; this list may be read, not changed.
        self.entries: list[Entry] = []
        #: The last index that is in storage alone.
        self.offset = last_index
        self.last_index = last_index
        #: The last index that is known to be durable here.
        self.stable_index = last_index
        self.commit_index = applied
        #: The last index that was handed out to be applied.
        self.last_applied = applied
        self._starts = [start for start, _ in term_starts]
        self._terms = [term for _, term in term_starts]
        self.cache_bytes = cache_bytes
        # How many bytes of commands there are up to each entry in memory, and
        # before the first of them; counted from anywhere.
        self._ends: list[int] = []
        self._before = 0
        self._handed_out = last_index
        # (number of the Ready, last index of it that still stands)
        self._persisting: deque[tuple[int, LogIndex]] = deque()

    @property
    def last_term(self) -> Term:
        """Return the term of the last entry; 0 for an empty log."""
        return self._terms[-1] if self._terms else self.base_term

    def term(self, index: LogIndex) -> Term:
        """Return the term of the entry at *index*; 0 where it is not known."""
        if not self.base_index < index <= self.last_index:
            return self.base_term if index == self.base_index else 0
        if index >= self._starts[-1]:
            return self._terms[-1]
        return self._terms[bisect_right(self._starts, index) - 1]

    def agreement_hint(self, index: LogIndex, term: Term) -> LogIndex:
        """
        Return the last index up to *index* with a term of at most *term*.

        Above it the logs cannot agree when the other one has *term* at
        *index*: that skips whole terms in one step (§3.5, last paragraphs).
        What is not in the log any more is committed, and agrees.
        """
        index = min(index, self.last_index)
        while index > self.base_index and self.term(index) > term:
            index = self._starts[bisect_right(self._starts, index) - 1] - 1
        return index

    def append(self, entries: Sequence[Entry]) -> None:
        """Add *entries*, which continue the log, to its end."""
        new_terms = _new_terms(self.last_term if self._terms else 0, entries)
        for start, term in new_terms:
            self._starts.append(start)
            self._terms.append(term)
        so_far = self._ends[-1] if self._ends else self._before
        ends = accumulate(map(len, map(_command, entries)), initial=so_far)
        next(ends)
        self._ends += ends
        self.entries += entries
        self.last_index += len(entries)

    def merge(self, prev_index: LogIndex, entries: Sequence[Entry]) -> LogIndex:
        """
        Take a leader's *entries*, which follow the agreed *prev_index*.

        What the log has already stays; what conflicts goes, with all that
        follows it (§3.5).

        Returns:
            The first index that was replaced or added; one past the last
            index of *entries* if all were there.

        Raises:
            ProtocolError: Terms decrease along *entries*, or a committed
                entry would go; nothing was changed.
        """
        known = 0
        for entry in entries:
            index = entry.index
            if index > self.last_index or self.term(index) != entry.term:
                break
            known += 1
        fresh = entries[known:]
        first = prev_index + known + 1
        if not fresh:
            return first
        if first <= self.commit_index:
            message = f"a leader would replace the committed entry {first}"
            raise ProtocolError(message)
        _new_terms(self.term(first - 1), fresh)  # or it raises
        self._truncate(first)
        self.append(fresh)
        return first

    def compact(self, index: LogIndex) -> None:
        """
        Drop the entries up to *index*, which is durable and applied (§5.1).

        Nothing happens if they are gone already.
        """
        if index <= self.base_index:
            return
        self.base_term = self.term(index)
        self.base_index = index
        if index >= self.last_index:
            self._starts.clear()
            self._terms.clear()
        else:
            position = bisect_right(self._starts, index + 1) - 1
            del self._starts[:position]
            del self._terms[:position]
            self._starts[0] = max(self._starts[0], index + 1)
        self._drop(index - self.offset)
        self.offset = max(self.offset, index)

    def reset(self, index: LogIndex, term: Term) -> None:
        """
        Begin anew after *index*: a snapshot of another log covers it (figure 5.3).

        It is durable, so that all up to *index* counts as such, and committed;
        what was applied stays what it was until the snapshot is restored.
        """
        self.base_index, self.base_term = index, term
        self._starts.clear()
        self._terms.clear()
        self.entries.clear()
        self._ends.clear()
        self._persisting.clear()
        self.offset = self.last_index = self.stable_index = index
        self.commit_index = self._handed_out = index

    def _truncate(self, first: LogIndex) -> None:
        """Forget the entries from *first* on, and any credit for them."""
        if first > self.last_index:
            return
        last = first - 1
        while self._starts and self._starts[-1] > last:
            self._starts.pop()
            self._terms.pop()
        kept = max(0, last - self.offset)
        del self.entries[kept:]
        del self._ends[kept:]
        self.offset = min(self.offset, last)
        self.last_index = last
        self.stable_index = min(self.stable_index, last)
        self._handed_out = min(self._handed_out, last)
        # A write under way may still report the entries that were replaced.
        self._persisting = deque(
            (number, min(index, last)) for number, index in self._persisting
        )

    def slice(
        self, first: LogIndex, last: LogIndex, max_bytes: int
    ) -> tuple[Entry, ...]:
        """
        Return entries from *first* on, which is in memory.

        They end at *last*, after :data:`MAX_BATCH`, or where *max_bytes*
        would be exceeded, but at least one is there.
        """
        start = first - self.offset - 1
        before = self._ends[start - 1] if start else self._before
        stop = min(last - self.offset, start + MAX_BATCH)
        stop = bisect_right(self._ends, before + max_bytes, start, stop)
        return tuple(self.entries[start : max(stop, start + 1)])

    def take_unpersisted(self, number: int) -> list[Entry]:
        """Return the entries that storage was not given yet, for Ready *number*."""
        if self._handed_out == self.last_index:
            return []
        fresh = self.entries[self._handed_out - self.offset :]
        self._handed_out = self.last_index
        self._persisting.append((number, self.last_index))
        return fresh

    def persisted(self, number: int) -> None:
        """Note that all that Ready *number* and those before wrote is durable."""
        while self._persisting and self._persisting[0][0] <= number:
            _, index = self._persisting.popleft()
            self.stable_index = max(self.stable_index, index)
        self.shrink()

    def shrink(self) -> None:
        """Drop from memory what is durable, applied and beyond the cache."""
        if self._size(0) <= self.cache_bytes:
            return
        droppable = min(self.stable_index, self.last_applied) - self.offset
        # A quarter more than needed, so that not every call moves the list.
        goal = self.cache_bytes * 3 // 4
        fitting = range(max(0, droppable))
        count = bisect_left(fitting, -goal, key=lambda kept: -self._size(kept))
        self._drop(count)
        self.offset += count

    def _size(self, first: int) -> int:
        """Return the bytes of the entries in memory, but for the *first* so many."""
        if first >= len(self._ends):
            return 0
        before = self._ends[first - 1] if first else self._before
        return self._ends[-1] - before + (len(self._ends) - first) * _OVERHEAD

    def _drop(self, count: int) -> None:
        """Forget the first *count* of the entries in memory, if so many there are."""
        if count > 0 and self._ends:
            self._before = self._ends[min(count, len(self._ends)) - 1]
            del self._ends[:count]
            del self.entries[:count]


def _new_terms(
    last_term: Term, entries: Sequence[Entry]
) -> list[tuple[LogIndex, Term]]:
    """Return where in *entries*, which follow one of *last_term*, terms begin."""
    starts: list[tuple[LogIndex, Term]] = []
    terms = list(map(_term, entries))
    if terms.count(last_term) == len(terms):
        return starts
    for entry in entries:
        if entry.term != last_term:
            if entry.term < last_term:
                message = f"entry {entry.index} is of an older term than the one before"
                raise ProtocolError(message)
            last_term = entry.term
            starts.append((entry.index, last_term))
    return starts
