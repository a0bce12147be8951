"""
What storages on disk have in common: records, checksums, and complaints.

An adapter decides where a record goes and when it is durable.  What the record
says, how its CRC-32C covers that, which appends follow a log and what a
compaction leaves of it, is the same for all of them.  An adapter of yours may
use this module, too.

There are three kinds of records; numbers are big-endian:

a batch
    CRC-32C, then entries as :mod:`consensus.entries` packs them.  An append is
    a batch, or some if it is very large.  The index of its first entry, which
    is the record's key, counts in the CRC-32C (8 bytes, before the rest), so
    that a batch in another's place is noticed.
the hard state
    CRC-32C, term (8 bytes) and, after a 1 if there is one, the vote.
the extent
    CRC-32C, index and term of the last dropped entry, and the index of each
    membership in the log (8 bytes each).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crc32c import crc32c

from consensus.core.values import EntryKind, HardState
from consensus.durable import sync_path
from consensus.entries import fitting, pack_entries, unpack_entries
from consensus.errors import CompactedError, Finding, StorageError
from consensus.interfaces import Storage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from consensus.core.values import Entry, LogIndex, ServerId, Term

#: The format that all our engines write.
FORMAT = 3

#: Makes a file or a directory durable.
sync_file = sync_path

#: What an operator can do about damage.
REMEDY = "check the disk, then replace this server: its copy cannot be trusted"

#: No batch has more entries, so that to read one of them is never much work.
MOST_ENTRIES = 4096

#: No batch has more bytes of commands, unless it has a single entry.
MOST_BYTES = 1 << 20

_MEMBERSHIP = int(EntryKind.MEMBERSHIP)
_PRE_RELEASES = ("1", "2")

_CRC = struct.Struct(">I")
_TERM = struct.Struct(">q")
_BASE = struct.Struct(">qq")
#: How many bytes of a record are its CRC-32C; they come first.
CRC_SIZE = _CRC.size

_pack_index = struct.Struct(">q").pack


# --- batches --------------------------------------------------------------------


def pack_batches(entries: Sequence[Entry]) -> list[tuple[Sequence[Entry], bytes]]:
    """
    Return the batches that *entries* make, each with its packed form.

    They are copies: the caller may do with its list what it likes.

    Raises:
        ValueError: An entry has an unknown kind or an impossible term.
        struct.error: A number is too large.
    """
    size = sum([len(entry.command) for entry in entries])
    if size <= MOST_BYTES and len(entries) <= MOST_ENTRIES:
        return [(entries[:], pack_entries(entries))]
    return [(batch, pack_entries(batch)) for batch in _split(entries)]


def _split(entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    start = size = 0
    for position, entry in enumerate(entries):
        size += len(entry.command)
        if position > start and (size > MOST_BYTES or position - start == MOST_ENTRIES):
            yield entries[start:position]
            start, size = position, len(entry.command)
    yield entries[start:]


def batch_crc(first: LogIndex, body: bytes | memoryview) -> int:
    """Return the CRC-32C of *first* (8 bytes) and *body*."""
    # Large batches, too, are summed up with the interpreter's lock held:
    # to get it back from a busy reactor takes longer than the sum.
    return crc32c(body, crc32c(_pack_index(first), 0, 0), 0)


def seal_batch(first: LogIndex, body: bytes) -> bytes:
    """Return the record of the batch that begins at *first*: CRC-32C and *body*."""
    return _CRC.pack(batch_crc(first, body)) + body


def open_batch(
    place: object, first: LogIndex, record: bytes, start: int = 0
) -> list[Entry]:
    """
    Return the entries of what :func:`seal_batch` returned.

    Args:
        place: The file, for complaints.
        first: Under which index it was found.
        record: It.
        start: Where in the body the packed entries begin.

    Raises:
        StorageError: It is damaged, or another's.
    """
    body = memoryview(record)[_CRC.size :]
    if record[: _CRC.size] != _CRC.pack(batch_crc(first, body)):
        raise StorageError(damaged_batch(place, first))
    return unpack_batch(place, first, record, _CRC.size + start)


def unpack_batch(
    place: object, first: LogIndex, packed: bytes, start: int = 0
) -> list[Entry]:
    """
    Return the entries that :func:`pack_batches` packed; one at least.

    Raises:
        StorageError: *packed*, from *start* on, is of another form.
    """
    try:
        entries = unpack_entries(packed, first, start)
    except ValueError as error:
        raise StorageError(damaged_batch(place, first)) from error
    if not entries:
        raise StorageError(damaged_batch(place, first))
    return entries


def gather(
    place: object,
    batches: Iterable[Sequence[Entry]],
    first: LogIndex,
    last: LogIndex,
    max_bytes: int,
) -> list[Entry]:
    """
    Return the entries from *first* on, up to *last* or until *max_bytes* are full.

    Args:
        place: The file, for complaints.
        batches: From the one on that *first* is in.  No more are taken than
            needed.
        first: Included.
        last: Included.
        max_bytes: Of the commands; one entry comes back at least.

    Raises:
        StorageError: One of them is missing, or there twice.
    """
    found: list[Entry] = []
    expected, room = first, max_bytes
    for batch in batches:
        start = batch[0].index
        skipped = expected - start
        if not 0 <= skipped < len(batch):
            break
        if found and skipped:
            raise StorageError(damaged_batch(place, start))
        chosen = batch[skipped : last - start + 1]
        room -= sum([len(entry.command) for entry in chosen])
        if room < 0:
            return list(fitting([*found, *chosen], max_bytes))
        found += chosen
        expected += len(chosen)
        if expected > last:
            return found
    raise StorageError(missing_entry(place, expected))


# --- the hard state ---------------------------------------------------------------


def hard_state_crc(term: Term, vote: ServerId | None) -> int:
    """Return the CRC-32C of term (8 bytes) and, after a 1 if any, the vote."""
    return crc32c(_hard_state_body(term, vote))


def pack_hard_state(hard_state: HardState) -> bytes:
    """
    Return *hard_state* as a record.

    Raises:
        struct.error: The term is too large.
    """
    body = _hard_state_body(hard_state.term, hard_state.vote)
    return _CRC.pack(crc32c(body)) + body


def unpack_hard_state(place: object, record: bytes | None) -> HardState:
    """
    Return what :func:`pack_hard_state` packed.

    A new storage writes the default, so that one without a record has lost
    it, and with it a vote.

    Raises:
        StorageError: *record*, which stands in *place*, is damaged or missing.
    """
    body = _body(record or b"")
    if body is None or len(body) < _TERM.size:
        raise StorageError(damaged_hard_state(place))
    (term,) = _TERM.unpack_from(body)
    voted = body[_TERM.size :]
    return HardState(term, voted[1:].decode() if voted else None)


def _hard_state_body(term: Term, vote: ServerId | None) -> bytes:
    voted = b"" if vote is None else b"\x01" + vote.encode()
    return _TERM.pack(term) + voted


def _body(record: bytes) -> bytes | None:
    """Return *record* without its CRC-32C, or ``None`` if that is wrong."""
    body = record[_CRC.size :]
    return body if record[: _CRC.size] == _CRC.pack(crc32c(body)) else None


# --- the extent -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Extent:
    """
    Which entries a log has, known without a look at them.

    Immutable, so that a storage can keep the one of its last sync and go back
    to it.

    Args:
        base_index: The last dropped entry; 0 if there is none.
        base_term: Its term.
        last_index: The last entry; it is not part of the record, since the
            entries themselves say it.
        memberships: Which of the entries are memberships.
    """

    base_index: LogIndex = 0
    base_term: Term = 0
    last_index: LogIndex = 0
    memberships: tuple[LogIndex, ...] = ()

    @property
    def first_index(self) -> LogIndex:
        """Return the first index that the log has, or will have."""
        return self.base_index + 1

    def pack(self) -> bytes:
        """
        Return the record of this extent.

        Raises:
            struct.error: A number is too large.
        """
        body = _extent_body(self.base_index, self.base_term, self.memberships)
        return _CRC.pack(crc32c(body)) + body

    @classmethod
    def unpack(cls, place: object, record: bytes | None) -> Extent:
        """
        Return what :meth:`pack` packed, of a log without entries.

        Raises:
            StorageError: *record*, which stands in *place*, is damaged, or
                missing.
        """
        body = _body(record or b"")
        if body is None or len(body) < _BASE.size or len(body) % _TERM.size:
            raise StorageError(damaged_extent(place))
        base_index, base_term = _BASE.unpack_from(body)
        rest = body[_BASE.size :]
        memberships = tuple(index for (index,) in _TERM.iter_unpack(rest))
        return cls(base_index, base_term, base_index, memberships)

    def check_append(self, entries: Sequence[Entry]) -> None:
        """
        See that *entries* are consecutive and follow this log.

        Raises:
            StorageError: They do not.
        """
        if not entries:
            raise StorageError("nothing to append")
        first = entries[0].index
        if not self.base_index < first <= self.last_index + 1:
            message = f"entry {first} does not follow {self.last_index}"
            if first <= self.base_index:
                message = f"entry {first} has been dropped, up to {self.base_index}"
            raise StorageError(message)
        indexes = [entry.index for entry in entries]
        if indexes == list(range(first, first + len(indexes))):
            return
        for expected, index in enumerate(indexes, first):
            if index != expected:
                message = f"entry {index} stands in the place of {expected}"
                raise StorageError(message)

    def check_range(self, first: LogIndex, last: LogIndex) -> None:
        """
        See that this log has the entries from *first* to *last*.

        Raises:
            CompactedError: *first* is below the log.
            StorageError: *last* is beyond it.
        """
        if first <= self.base_index:
            raise CompactedError(self.first_index)
        if last > self.last_index:
            message = f"entry {last} is beyond the last, {self.last_index}"
            raise StorageError(message)

    def appended(self, entries: Sequence[Entry]) -> Extent:
        """Return the extent after *entries*, which were checked, are appended."""
        first = entries[0].index
        memberships = self.memberships
        if memberships and memberships[-1] >= first:
            memberships = tuple(index for index in memberships if index < first)
        if _MEMBERSHIP in [entry.kind for entry in entries]:
            added = [e.index for e in entries if e.kind == _MEMBERSHIP]
            memberships = (*memberships, *added)
        last = entries[-1].index
        return Extent(self.base_index, self.base_term, last, memberships)

    def compacted(self, index: LogIndex, term: Term, *, keeps: bool) -> Extent:
        """
        Return the extent when all up to *index*, of *term*, is dropped.

        Args:
            index: At least :attr:`first_index`.
            term: Of the entry there.
            keeps: Whether the entries above *index* stay.
        """
        if not keeps:
            return Extent(index, term, index)
        memberships = tuple(each for each in self.memberships if each > index)
        return Extent(index, term, self.last_index, memberships)

    def has_same_record(self, other: Extent) -> bool:
        """Say whether *other* has the same record as this one."""
        return (
            self.base_index == other.base_index
            and self.base_term == other.base_term
            and self.memberships == other.memberships
        )


def extent_crc(
    base_index: LogIndex, base_term: Term, memberships: Sequence[LogIndex]
) -> int:
    """Return the CRC-32C of all these numbers, 8 bytes each."""
    return crc32c(_extent_body(base_index, base_term, memberships))


def _extent_body(
    base_index: LogIndex, base_term: Term, memberships: Sequence[LogIndex]
) -> bytes:
    indexes = struct.pack(f">{len(memberships)}q", *memberships)
    return _BASE.pack(base_index, base_term) + indexes


class RecordStorage(Storage):
    """
    A storage that knows the extent of its log without a look at the disk.

    Whoever inherits it keeps ``_extent`` true, as reads see it, and
    ``_synced`` as the last sync left it.
    """

    def __init__(self, options: Any = None) -> None:
        """Keep *options*; begin with an empty log."""
        super().__init__(options)
        self._extent = Extent()
        self._synced = Extent()

    def term(self, index: LogIndex) -> Term:
        """Read the entry at *index*, so that it is checked as well."""
        if index == self._extent.base_index:
            return self._extent.base_term
        return self.entries(index, index, 0)[0].term

    def first_index(self) -> LogIndex:
        """Return what follows the last dropped entry."""
        return self._extent.first_index

    def last_index(self) -> LogIndex:
        """Return the highest index, which is kept in memory."""
        return self._extent.last_index

    def membership_indexes(self) -> Sequence[LogIndex]:
        """Return what is kept in memory, and has a record on the disk."""
        return self._extent.memberships

    def _check_ends(self) -> None:
        """
        See that what a vote or an election needs first is there.

        Raises:
            StorageError: It is damaged or missing.
        """
        self.hard_state()
        if self._extent.first_index <= self._extent.last_index:
            self.term(self._extent.first_index)
        self.term(self._extent.last_index)

    def _compacted(self, index: LogIndex, term: Term) -> Extent:
        """Return what a compaction up to *index*, not yet dropped, leaves."""
        keeps = index <= self._extent.last_index and self.term(index) == term
        return self._extent.compacted(index, term, keeps=keeps)


# --- complaints -------------------------------------------------------------------


def damaged_entry(place: object, index: LogIndex) -> str:
    """Return what to say of an entry with another CRC-32C."""
    return f"{place}: entry {index} is damaged; {REMEDY}"


def damaged_batch(place: object, first: LogIndex) -> str:
    """Return what to say of a batch with another CRC-32C."""
    return f"{place}: the batch of entries from {first} on is damaged; {REMEDY}"


def missing_entry(place: object, index: LogIndex) -> str:
    """Return what to say of an entry that is not where it should be."""
    return f"{place}: entry {index} is missing; {REMEDY}"


def damaged_hard_state(place: object) -> str:
    """Return what to say of a hard state with another CRC-32C."""
    return f"{place}: the term and vote are damaged; {REMEDY}"


def damaged_extent(place: object) -> str:
    """Return what to say of an extent that is gone, or has another CRC-32C."""
    return f"{place}: the record of where the log begins is damaged; {REMEDY}"


def look_at_format(path: Path, found: int | str) -> Iterator[Finding]:
    """Yield why what is in *path*, of format *found*, is not for this release."""
    if str(found) == str(FORMAT):
        return
    hint = "run the release that wrote it"
    if str(found) in _PRE_RELEASES:
        hint = "a pre-release wrote it: begin with an empty directory"
    message = f"{path} has format {found or '?'}; this release reads {FORMAT}"
    yield Finding("storage.E103", message, hint, "data_dir")
