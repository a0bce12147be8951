"""
Storage in a log of our own: files in ``raft.wal/``, written from end to end.

A *segment* is a file of fixed size, ``00000000000000000001.log`` and so on; see
:mod:`~adapters.storage.wal_segment` for what a file and a record look like.
An append is one record with a whole batch of entries (as
:mod:`consensus.entries` packs them), and so are a hard state and a compaction.
They are kept in memory until :meth:`WALStorage.sync` writes all of them with
one call, into one segment, and syncs it.  What does not fit goes to the next
segment, which begins with a record of all that is no entry, so that it can be
read without those before it; :mod:`~adapters.storage.wal_records` says what the
records say.

Beside the log there are ``.spare`` segments: files that were segments once and
are used again, and one that a thread makes ahead of need, since to fill a
file with zeros takes much longer than to write into it
(:mod:`~adapters.storage.wal_stock`).

A compaction gives whole segments back, once it is synced.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from adapters.storage import engine, records
from adapters.storage.records import Extent, sync_file
from adapters.storage.wal_places import Places
from adapters.storage.wal_records import Compaction, State
from adapters.storage.wal_recovery import (
    Recovered,
    look_at_files,
    segment_path,
    sequences_in,
)
from adapters.storage.wal_segment import (
    HEAD,
    LONGEST,
    SALT,
    Header,
    Kind,
    Segment,
    begin,
    beginning,
    is_record,
    never_full,
    system_errors,
)
from adapters.storage.wal_stock import Stock
from consensus.core.values import HardState
from consensus.entries import fitting, pack_entries, unpack_entries
from consensus.errors import DiskFullError, Finding, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from adapters.storage.wal_places import Place
    from consensus.core.values import Entry, LogIndex, Term

_DIRECTORY = "raft.wal"
_DRAFT = "raft.wal.new"

#: 64 GiB, which a start might have to search for records.
_MOST_MIB = 1 << 16
_MOST_SPARES = 1000
_LARGEST = (1 << 63) - 1

# Plain numbers, which compare faster in the loop over a million records.
_ENTRIES = int(Kind.ENTRIES)
_MEMBERSHIPS = int(Kind.MEMBERSHIPS)
_BATCHES = frozenset({_ENTRIES, _MEMBERSHIPS})


@dataclass(frozen=True, slots=True)
class WALOptions:
    """
    What the YAML file may set under ``storage.options``.

    Args:
        segment_mib: How large a segment is at most.  The first ones of a log
            are smaller: none is larger than all before it together.
        spare_segments: How many segments are kept to be used again.
    """

    segment_mib: int = 64
    spare_segments: int = 2


class WALStorage(records.RecordStorage):
    """A log in segments of our own; see the module for their format."""

    Options = WALOptions

    #: The first segment's size, and what ``segment_mib`` is counted in.
    unit: ClassVar[int] = 1 << 20

    def __init__(self, options: Any = None) -> None:
        """Keep *options*; the segments are opened by :meth:`open`."""
        super().__init__(options)
        self._path = Path(_DIRECTORY)
        self._limit = self.options.segment_mib * self.unit
        self._active: Segment | None = None
        self._stock = Stock(self._path, 0, 0)
        self._hard_state = self._synced_hard_state = HardState()
        #: The salts and ends of the segments that there are, the oldest first.
        self._segments: dict[int, tuple[bytes, int]] = {}
        #: The first segment that is needed.
        self._oldest = 1
        #: Where the entries are that were synced.
        self._places = Places()
        #: Up to which index those are still the log.
        self._settled = 0
        #: The entries behind that, which no segment has yet.
        self._fresh: list[Entry] = []
        #: What the next sync writes: kinds, indexes and bodies.
        self._unsynced: list[tuple[int, LogIndex, bytes]] = []
        self._unsynced_bytes = 0
        #: Whether the segment after this one was asked for.
        self._has_next = False
        #: Whether something that is not whole stands behind the last record.
        self._is_torn = False
        #: The segment and position of the batch that was read last, and it.
        self._batch: tuple[tuple[int, int], list[Entry]] = ((0, 0), [])
        #: The segment that was read last, and its descriptor.
        self._reader: tuple[int, int] | None = None

    @classmethod
    def check(cls, options: WALOptions, directory: Path) -> Iterable[Finding]:
        """Look at the options, at which segments there are, and at the last one."""
        for name, least, most in (
            ("segment_mib", 1, _MOST_MIB),
            ("spare_segments", 0, _MOST_SPARES),
        ):
            value = getattr(options, name)
            if not least <= value <= most:
                hint = f"write {least} or more, up to {most}"
                yield engine.bad_option(name, value, hint)
        yield from look_at_files(directory / _DIRECTORY)

    def open(self, directory: Path) -> None:
        """Read all segments that are needed, and sync what is found."""
        self._path = directory / _DIRECTORY
        engine.refuse(look_at_files(self._path))
        with system_errors(self._path, "open"):
            try:
                if not self._path.exists():
                    _make_directory(self._path, self.unit)
                sync_file(directory)
                self._recover()
            except BaseException:
                self._abandon()
                raise

    def hard_state(self) -> HardState:
        """Return what is kept in memory, and has a record on the disk."""
        self._opened("read the term and vote")
        return self._hard_state

    def save_hard_state(self, hard_state: HardState) -> None:
        """Keep a record for the next sync."""
        doing = "save the term and vote"
        self._opened(doing)
        with system_errors(self._path, doing):
            body = records.pack_hard_state(hard_state)
        self._put(Kind.HARD_STATE, 0, body)
        self._hard_state = hard_state

    def append(self, entries: Sequence[Entry]) -> None:
        """Keep one record of all *entries* for the next sync."""
        self._opened("append")
        self._extent.check_append(entries)
        with system_errors(self._path, "append"):
            body = pack_entries(entries)
        first = entries[0].index
        new = self._extent.appended(entries)
        has_memberships = new.memberships and new.memberships[-1] >= first
        self._put(_MEMBERSHIPS if has_memberships else _ENTRIES, first, body)
        self._extent = new
        if first <= self._settled:
            self._settled = first - 1
        del self._fresh[first - self._settled - 1 :]
        self._fresh += entries

    def entries(
        self, first: LogIndex, last: LogIndex, max_bytes: int
    ) -> Sequence[Entry]:
        """Read batch after batch until *max_bytes* are full, checking each."""
        self._opened(f"read entries {first} to {last}")
        self._extent.check_range(first, last)
        found: list[Entry] = []
        size = 0
        with system_errors(self._path, f"read entries {first} to {last}"):
            while first <= last:
                batch = self._some(first, last)
                all_of_it = sum([len(entry.command) for entry in batch])
                if size + all_of_it > max_bytes:
                    room, least = max_bytes - size, 0 if found else 1
                    return [*found, *fitting(batch, room, least)]
                size += all_of_it
                found += batch
                first += len(batch)
        return found

    def compact(self, index: LogIndex, term: Term) -> None:
        """Keep a record for the next sync; no segment goes before it is there."""
        self._opened("compact")
        if index < self._extent.first_index:
            return
        new = self._compacted(index, term)
        keeps = new.last_index > index
        oldest = 0
        if keeps and index < self._settled:
            oldest = self._place(index + 1).sequence
        with system_errors(self._path, "compact"):
            body = Compaction(term, keeps, oldest).pack()
        self._put(Kind.COMPACTION, index, body)
        self._extent = new
        if not keeps:
            self._settled = index
            self._fresh.clear()

    def sync(self) -> None:
        """
        Write all that was kept for this, and sync it; close for good if that fails.

        Where there is no room for it, it is forgotten, and the log stays open.
        """
        active = self._opened("sync")
        if not self._unsynced:
            return
        try:
            with system_errors(self._path, "sync"):
                active = self._with_room(active)
                # What a write leaves that fails half-way counts for no record.
                self._is_torn = True
                positions = active.write(self._unsynced)
                active.sync(active.end + self._unsynced_bytes)
        except DiskFullError:
            self._forget()
            raise
        except BaseException:
            # A second try might succeed without the pages that are lost.
            self._abandon()
            raise
        self._is_torn = False
        self._settle(active, positions)

    def close(self) -> None:
        """Close the files; what was not synced is gone."""
        active = self._active
        if active is not None and not self._is_torn:
            # Without it nothing is lost.
            with suppress(OSError, StorageError):
                active.mark()
        self._abandon()

    # Between two syncs

    def _opened(self, doing: str) -> Segment:
        if self._active is None:
            message = f"{self._path}: cannot {doing}: it is not open"
            raise StorageError(message)
        return self._active

    def _put(self, kind: int, index: LogIndex, body: bytes) -> None:
        """Keep a record for the next sync."""
        if index > _LARGEST or len(body) > LONGEST:
            message = f"{self._path}: record {index} of {len(body)} bytes is too large"
            raise StorageError(message)
        self._unsynced.append((kind, index, body))
        self._unsynced_bytes += HEAD + len(body)

    def _forget(self) -> None:
        """Go back to what was synced."""
        self._unsynced.clear()
        self._unsynced_bytes = 0
        self._extent = self._synced
        self._hard_state = self._synced_hard_state
        self._settled = self._extent.last_index
        self._fresh = []

    def _settle(self, active: Segment, positions: Sequence[int]) -> None:
        """Keep in mind where everything is that has just been synced."""
        sequence = active.header.sequence
        for (kind, index, body), position in zip(
            self._unsynced, positions, strict=True
        ):
            if kind in _BATCHES:
                self._places.add(index, sequence, position, HEAD + len(body))
            elif kind == Kind.COMPACTION:
                self._drop(index, body, sequence)
        self._segments[sequence] = (active.header.salt, active.end)
        self._synced = self._extent
        self._synced_hard_state = self._hard_state
        self._forget()
        self._retire()
        if not self._has_next and 2 * active.end > active.size:
            self._has_next = True
            self._stock.prepare(self._wanted())

    def _abandon(self) -> None:
        """Close the files as they are."""
        self._forget()
        self._stock.close()
        self._close_reader()
        active, self._active = self._active, None
        if active is not None:
            active.close()

    # Reading

    def _some(self, first: LogIndex, last: LogIndex) -> list[Entry]:
        """Return entries from *first* on, up to *last* or to the end of a batch."""
        if first > self._settled:
            begin = first - self._settled - 1
            return self._fresh[begin : last - self._settled]
        place = self._place(first)
        batch = self._read_batch(place, first)
        if place.stop is not None:
            last = min(last, place.stop - 1)
        last = min(last, self._settled)
        found = batch[first - place.first : last - place.first + 1]
        if not found:
            raise StorageError(records.missing_entry(self._path, first))
        return found

    def _place(self, index: LogIndex) -> Place:
        place = self._places.find(index)
        if place is None:
            raise StorageError(records.missing_entry(self._path, index))
        return place

    def _read_batch(self, place: Place, index: LogIndex) -> list[Entry]:
        """Return all entries of the batch at *place*, which has that at *index*."""
        key = (place.sequence, place.position)
        known, batch = self._batch
        if known == key:
            return batch
        salt, _ = self._segments[place.sequence]
        data = os.pread(self._descriptor(place.sequence), place.size, place.position)
        found: list[Entry] | None = None
        if is_record(data, salt, place.position, place.first):
            with suppress(ValueError):
                found = unpack_entries(data, place.first, HEAD)
        if found is None:
            path = segment_path(self._path, place.sequence)
            raise StorageError(records.damaged_entry(path, index))
        self._batch = (key, found)
        return found

    def _descriptor(self, sequence: int) -> int:
        """Return a descriptor to read segment *sequence* with."""
        active = self._opened("read")
        if sequence == active.header.sequence:
            return active.descriptor
        if self._reader is None or self._reader[0] != sequence:
            self._close_reader()
            descriptor = os.open(segment_path(self._path, sequence), os.O_RDONLY)
            self._reader = (sequence, descriptor)
        return self._reader[1]

    def _close_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            os.close(reader[1])

    # Segments

    def _with_room(self, active: Segment) -> Segment:
        """Return the segment that has room for the next sync, maybe a new one."""
        if not self._is_torn and active.end + self._unsynced_bytes <= active.size:
            return active
        sequence, salt = active.header.sequence + 1, os.urandom(SALT)
        header = Header(sequence, salt, active.header.salt, active.end)
        extent = self._synced
        oldest = sequence
        if extent.last_index > extent.base_index:
            oldest = self._place(extent.first_index).sequence
        state = State(self._synced_hard_state, extent, oldest)
        start = beginning(header, state)
        spare = self._stock.take(len(start) + self._unsynced_bytes, self._wanted())
        begin(spare, start)
        path = spare.rename(segment_path(self._path, sequence))
        _sync_names(self._path)
        self._active = Segment(path, header, len(start))
        active.close()
        self._segments[sequence] = (salt, len(start))
        self._oldest = oldest
        self._has_next = False
        return self._active

    def _wanted(self) -> int:
        """Return how large the next segment should be: as large as the log."""
        log = sum(end for _, end in self._segments.values())
        size = self.unit
        while size < min(log, self._limit):
            size *= 2
        return min(size, int(self._limit))

    def _drop(self, base_index: LogIndex, body: bytes, sequence: int) -> None:
        """Forget where the entries are that a compaction drops."""
        compaction = Compaction.unpack(body)
        if compaction.keeps:
            self._places.drop(base_index)
        else:
            self._places.clear()
        self._oldest = compaction.oldest or sequence

    def _retire(self) -> None:
        """Give back the segments that nobody needs."""
        while (sequence := next(iter(self._segments))) < self._oldest:
            del self._segments[sequence]
            if self._reader is not None and self._reader[0] == sequence:
                self._close_reader()
            # If it fails, the next start finds it again.
            with suppress(OSError):
                self._stock.give(segment_path(self._path, sequence), self._limit)

    def _recover(self) -> None:
        """Take over what the segments say, when all of it is durable."""
        found = Recovered(self._path)
        found.read()
        last = found.header.sequence
        end = found.segments[last][1]
        path = segment_path(self._path, last)
        self._active = Segment(path, found.header, end, is_marked=found.is_marked)
        # What a process wrote that was killed in a sync is not durable yet.
        self._active.sync(end)
        _sync_names(self._path)
        self._segments, self._places = found.segments, found.places
        self._oldest, self._is_torn = found.oldest, found.is_torn
        self._batch = ((0, 0), [])
        self._has_next = False
        self._synced, self._synced_hard_state = found.extent, found.hard_state
        self._forget()
        self._stock = Stock(self._path, self.options.spare_segments, self.unit // 16)
        self._stock.find()
        for sequence in sequences_in(self._path):
            if sequence < self._oldest:
                self._stock.give(segment_path(self._path, sequence), self._limit)


def _make_directory(path: Path, size: int) -> None:
    """Make *path*, durably, with one segment."""
    draft = path.with_name(_DRAFT)
    if draft.exists():
        shutil.rmtree(draft)
    draft.mkdir()
    spare = Stock(draft, 1, size).take(0, size)
    header = Header(1, os.urandom(SALT))
    begin(spare, beginning(header, State(HardState(), Extent(), 1)))
    spare.rename(segment_path(draft, 1))
    sync_file(draft)
    draft.rename(path)


def _sync_names(path: Path) -> None:
    with never_full(path, "sync"):
        sync_file(path)
