"""
Entries as bytes: the same on every disk and on the wire; and how many have room.

A batch of entries is packed with a handful of calls, however many they are:
neighbours mostly share term and kind, so those stand once for a *run* of
entries, then come all the lengths, then all the commands::

    entries (4 bytes), runs (4)
    for each run: term (8), kind (1), entries of it (4)
    for each entry: the length of its command (4)
    the commands

Numbers are big-endian.  The index of the first entry is not among them: it
stands where a message or a record says what it is about, with the checksum.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from itertools import accumulate, groupby, repeat
from typing import TYPE_CHECKING

from consensus.core.values import Entry, EntryKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from consensus.core.values import LogIndex, Term

_COUNTS = struct.Struct(">II")
_RUN = struct.Struct(">QBI")
_LENGTH = 4
_NONE = _COUNTS.pack(0, 0)

# A storage may keep numbers with a sign, so half of the range is refused.
_LARGEST = 2**63 - 1
_LAST_KIND = max(EntryKind)


def fitting(entries: Sequence[Entry], room: int, least: int = 1) -> Sequence[Entry]:
    """
    Return the first of *entries*, as many as have room.

    Args:
        entries: In their order.
        room: For their commands, in bytes.
        least: So many come back even if they have none.
    """
    ends = list(accumulate(len(entry.command) for entry in entries))
    return entries[: max(least, bisect_right(ends, room))]


def pack_entries(entries: Sequence[Entry]) -> bytes:
    """
    Return *entries* as bytes, without their indexes.

    What :func:`unpack_entries` would refuse is not packed.

    Raises:
        ValueError: An entry has an unknown kind or an impossible term.
        struct.error: A number is too large.
    """
    if not entries:
        return _NONE
    # A comprehension for each field is twice as fast as groupby on the entries.
    commands = [entry.command for entry in entries]
    terms = [entry.term for entry in entries]
    kinds = [entry.kind for entry in entries]
    count, term, kind, last = len(commands), terms[0], kinds[0], kinds[-1]
    same, has_one_term = kinds.count(kind), terms.count(term) == count
    if has_one_term and same == count:
        runs = [_pack_run(0, term, kind, count)]
    elif has_one_term and last != kind and kinds[same:].count(last) == count - same:
        # What time it is, and then commands, as for machines that are told it.
        runs = [
            _pack_run(0, term, kind, same),
            _pack_run(0, term, last, count - same),
        ]
    else:
        runs = []
        lowest = 0
        for (term, kind), run in groupby(zip(terms, kinds, strict=True)):
            runs.append(_pack_run(lowest, term, kind, sum(1 for _ in run)))
            lowest = term
    lengths = struct.pack(f">{count}I", *map(len, commands))
    head = _COUNTS.pack(count, len(runs))
    return b"".join((head, *runs, lengths, *commands))


def _pack_run(lowest: Term, term: Term, kind: int, size: int) -> bytes:
    _check_run(lowest, term, kind)
    return _RUN.pack(term, kind, size)


def _check_run(lowest: Term, term: Term, kind: int) -> None:
    if not lowest <= term <= _LARGEST or not 0 <= kind <= _LAST_KIND:
        raise ValueError("an entry has an unknown kind or an impossible term")


def unpack_entries(
    data: bytes, first: LogIndex, start: int = 0, end: int | None = None
) -> list[Entry]:
    """
    Return the entries, from index *first* on, that :func:`pack_entries` packed.

    It takes no memory that *data* does not back.

    Args:
        data: What they are part of.
        first: The index of the first of them.
        start: Where in *data* they begin.
        end: Where in *data* they end; where that does, if ``None``.

    Raises:
        ValueError: *data* is not of that form, or terms fall along it.
    """
    try:
        return _unpack(data, first, start, len(data) if end is None else end)
    except struct.error as error:
        raise ValueError("entries are cut short") from error


def _unpack(data: bytes, first: LogIndex, start: int, end: int) -> list[Entry]:
    count, runs = _COUNTS.unpack_from(data, start)
    start += _COUNTS.size
    stop = start + runs * _RUN.size
    lengths_end = stop + count * _LENGTH
    if runs > count or lengths_end > end:
        raise ValueError("there are fewer entries than announced")
    lengths = struct.unpack_from(f">{count}I", data, stop)
    if lengths_end + sum(lengths) != end:
        raise ValueError("the length is not that of the entries")
    ends = list(accumulate(lengths, initial=lengths_end))
    commands = map(data.__getitem__, map(slice, ends, ends[1:]))
    entries: list[Entry] = []
    after = first + count
    before = (0, -1)
    for term, kind, size in _RUN.iter_unpack(memoryview(data)[start:stop]):
        _check_run(before[0], term, kind)
        if not size or before == (term, kind):
            raise ValueError("runs are shorter than they could be")
        before = (term, kind)
        # In a loop of the interpreter's, for it is done for every write; it ends
        # with the commands, however long the run says that it is.
        indexes = range(first, first + size)
        entries += map(Entry, indexes, repeat(term), repeat(kind), commands)
        first += size
    if first != after:
        raise ValueError("the runs are not as long as the entries are many")
    return entries
