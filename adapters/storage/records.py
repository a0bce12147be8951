"""
What storages on disk have in common: records, checksums, and complaints.

An adapter decides where a record goes and when it is durable.  What the record
says, how its CRC-32C covers that, which appends follow a log and what a
compaction leaves of it, is the same for all of them.  An adapter of yours may
use this module, too.

Numbers are big-endian: 8 bytes for an index or a term, 4 for a CRC-32C, 1 for
a kind.  There are three kinds of records:

an entry
    CRC-32C, term, kind, command.  The index, which is the record's key, counts
    in the CRC-32C, so that an entry in another's place is noticed.
the hard state
    CRC-32C, term and, after a 1 if there is one, the vote.
the extent
    CRC-32C, index and term of the last dropped entry, and the index of each
    membership in the log.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from crc32c import crc32c

from consensus.core.values import Entry, EntryKind, HardState
from consensus.errors import CompactedError, Finding, StorageError
from consensus.interfaces import Storage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from consensus.core.values import LogIndex, ServerId, Term

#: The format that all our engines write.
FORMAT = 2

#: What an operator can do about damage.
REMEDY = "check the disk, then replace this server: its copy cannot be trusted"

#: An entry as it was read: index, CRC-32C, term, kind, command.
Record = tuple["LogIndex", int, "Term", int, bytes]

_NO_CRC = -1
_PRE_RELEASE = 1

_HEAD = struct.Struct(">IqB")
_CRC = struct.Struct(">I")
_TERM = struct.Struct(">q")
_BASE = struct.Struct(">qq")
_pack_head = _HEAD.pack
_pack_summed = struct.Struct(">qqB").pack


# --- entries --------------------------------------------------------------------


def entry_crc(index: LogIndex, term: Term, kind: int, command: bytes) -> int:
    """Return the CRC-32C of index, term (8 bytes each), kind (1) and command."""
    # Large commands, too, are summed up with the interpreter's lock held:
    # to get it back from a busy reactor takes longer than the sum.
    return crc32c(command, crc32c(_pack_summed(index, term, kind), 0, 0), 0)


def pack_entry(entry: Entry) -> bytes:
    """
    Return *entry* as a record.

    Raises:
        struct.error: A number is too large.
    """
    term, kind, command = entry.term, entry.kind, entry.command
    crc = entry_crc(entry.index, term, kind, command)
    return _pack_head(crc, term, kind) + command


def split_entry(index: LogIndex, value: bytes) -> Record:
    """Take apart the record of the entry at *index*; check nothing yet."""
    if len(value) < _HEAD.size:
        return index, _NO_CRC, 0, 0, value
    crc, term, kind = _HEAD.unpack_from(value)
    return index, crc, term, kind, value[_HEAD.size :]


def checked(
    place: object,
    records: Iterable[Record],
    first: LogIndex,
    last: LogIndex,
    max_bytes: int,
) -> list[Entry]:
    """
    Return the entries from *first* on, up to *last* or until *max_bytes* are full.

    Args:
        place: The file, for complaints.
        records: Consecutive, from *first* on.  No more are taken than needed.
        first: Included.
        last: Included.
        max_bytes: Of the commands; one entry comes back at least.

    Raises:
        StorageError: One of them is damaged, or missing.
    """
    found: list[Entry] = []
    expected = first
    size = 0
    for index, crc, term, kind, command in records:
        if index != expected:
            break
        try:
            size += len(command)
            is_intact = crc == entry_crc(index, term, kind, command)
        except (TypeError, struct.error):
            is_intact = False
        if not is_intact:
            raise StorageError(damaged_entry(place, index))
        if found and size > max_bytes:
            return found
        found.append(Entry(index, term, kind, command))
        if index == last:
            return found
        expected += 1
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
        for expected, entry in enumerate(entries, first):
            if entry.index != expected:
                message = f"entry {entry.index} stands in the place of {expected}"
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
        added = [e.index for e in entries if e.kind == EntryKind.MEMBERSHIP]
        if added:
            memberships = (*memberships, *added)
        return replace(self, last_index=entries[-1].index, memberships=memberships)

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

    def _compacted(self, index: LogIndex, term: Term) -> Extent:
        """Return what a compaction up to *index*, not yet dropped, leaves."""
        keeps = index <= self._extent.last_index and self.term(index) == term
        return self._extent.compacted(index, term, keeps=keeps)


# --- complaints -------------------------------------------------------------------


def damaged_entry(place: object, index: LogIndex) -> str:
    """Return what to say of an entry with another CRC-32C."""
    return f"{place}: entry {index} is damaged; {REMEDY}"


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
    if str(found) == str(_PRE_RELEASE):
        hint = "a pre-release wrote it: begin with an empty directory"
    message = f"{path} has format {found or '?'}; this release reads {FORMAT}"
    yield Finding("storage.E103", message, hint, "data_dir")


def sync_file(path: Path) -> None:
    """Make the content of *path*, a file or a directory, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
