"""What a start makes of the segments that it finds."""

from __future__ import annotations

import re
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from adapters.storage import engine, records
from adapters.storage.records import REMEDY, Extent
from adapters.storage.wal_places import Places
from adapters.storage.wal_records import (
    Compaction,
    State,
    count_in,
    memberships_in,
)
from adapters.storage.wal_segment import (
    FORMAT,
    START,
    Header,
    Kind,
    Scan,
    format_of,
)
from adapters.storage.wal_stock import SPARE, UNFINISHED
from consensus.core.values import HardState
from consensus.errors import Finding, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from adapters.storage.wal_segment import Record
    from consensus.core.values import LogIndex

_NAME = re.compile(r"(\d{20})\.log")

# Plain numbers, which compare faster in the loop over a million records.
_ENTRIES = int(Kind.ENTRIES)
_MEMBERSHIPS = int(Kind.MEMBERSHIPS)


def segment_path(directory: Path, sequence: int) -> Path:
    """Return where segment *sequence* is."""
    return directory / f"{sequence:020}.log"


def sequences_in(directory: Path) -> list[int]:
    """Return which segments there are, in order."""
    names = (_NAME.fullmatch(each.name) for each in directory.iterdir())
    return sorted(int(name[1]) for name in names if name is not None)


@dataclass(slots=True)
class Recovered:
    """
    What the segments say.

    Args:
        path: The directory with them.
        hard_state: The hard state.
        extent: Which entries there are.
        places: Where these are.
        segments: The salts and ends of the segments that are needed.
        oldest: The first of those.
        header: The header of the last.
        is_torn: Whether that one has something behind its end that is not whole.
        is_marked: Whether it says that it was closed.
    """

    path: Path
    hard_state: HardState = field(default_factory=HardState)
    extent: Extent = field(default_factory=Extent)
    places: Places = field(default_factory=Places)
    segments: dict[int, tuple[bytes, int]] = field(default_factory=dict)
    oldest: int = 1
    header: Header = field(default_factory=lambda: Header(0, b""))
    is_torn: bool = False
    is_marked: bool = False

    def read(self) -> None:
        """
        Read all segments that are needed.

        Raises:
            StorageError: One of them is damaged, or gone.
            OSError: One of them cannot be read.
        """
        last = sequences_in(self.path)[-1]
        header = self._header(last)
        with self._scanning(header) as scan:
            found = list(scan)
            self._look_behind(last, scan, _next_index(found))
        self.oldest = self._oldest_needed(last, found)
        self._read_before(header)
        self._replay(last, found)
        self.segments[last] = (header.salt, scan.end)
        self.header = header
        self.is_marked = found[-1].kind == Kind.CLOSED
        extent = self.extent
        first = extent.first_index
        if extent.last_index >= first and self.places.find(first) is None:
            raise StorageError(records.missing_entry(self.path, first))

    @contextmanager
    def _scanning(self, header: Header, limit: int = sys.maxsize) -> Iterator[Scan]:
        """Lend the records of a segment."""
        path = segment_path(self.path, header.sequence)
        with path.open("rb", buffering=0) as file:
            yield Scan(file, header.salt, limit)

    def _header(self, sequence: int) -> Header:
        path = segment_path(self.path, sequence)
        try:
            with path.open("rb") as file:
                header = Header.unpack(file.read(START))
        except FileNotFoundError as error:
            message = f"{path} is gone; {REMEDY}"
            raise StorageError(message) from error
        if header is None or header.sequence != sequence:
            message = f"{path}: the header is damaged; {REMEDY}"
            raise StorageError(message)
        return header

    def _look_behind(self, sequence: int, scan: Scan, index: LogIndex) -> None:
        """
        See whether what is behind the last intact record is but torn.

        Raises:
            StorageError: There is a record that was written after a sync of
                what is not intact.
        """
        for synced in scan.leftovers():
            if synced > scan.end:
                raise StorageError(self._damage(sequence, scan, index))
            self.is_torn = True

    def _damage(self, sequence: int, scan: Scan, index: LogIndex) -> str:
        """Return what to say of the bad record where *scan* ended, before *index*."""
        path = segment_path(self.path, sequence)
        kind = scan.kind_at_end()
        if kind == Kind.HARD_STATE:
            return records.damaged_hard_state(path)
        if kind in {Kind.STATE, Kind.COMPACTION}:
            return records.damaged_extent(path)
        return records.damaged_entry(path, index)

    def _oldest_needed(self, last: int, found: list[Record]) -> int:
        """Return the first segment that is needed, as the last one says."""
        path = segment_path(self.path, last)
        if not found or found[0].kind != Kind.STATE:
            raise StorageError(records.damaged_extent(path))
        oldest = State.unpack(path, found[0].body).oldest
        for record in found:
            if record.kind == Kind.COMPACTION:
                oldest = Compaction.unpack(record.body).oldest or last
        return oldest

    def _read_before(self, last: Header) -> None:
        """Read the segments before the last; each says where the one before ends."""
        headers = [self._header(each) for each in range(self.oldest, last.sequence)]
        for header, following in zip(headers, [*headers, last][1:], strict=True):
            sequence, end = header.sequence, following.previous_end
            path = segment_path(self.path, sequence)
            if header.salt != following.previous_salt:
                message = f"{path} is not the segment that was here; {REMEDY}"
                raise StorageError(message)
            with self._scanning(header, end) as scan:
                self._replay(sequence, scan)
                if scan.end != end:
                    index = self.extent.last_index + 1
                    raise StorageError(self._damage(sequence, scan, index))
            self.segments[sequence] = (header.salt, end)

    def _replay(self, sequence: int, found: Iterable[Record]) -> None:
        """Do what the records *found* in a segment say."""
        add = self.places.add
        extent = self.extent
        last = extent.last_index
        newest = _newest_membership(extent)
        for record in found:
            kind, index, position, size, length, _ = record
            if kind == _ENTRIES and newest < index <= last + 1:
                # The common case, which must not take long.
                add(index, sequence, position, size)
                last = index + length - 1
                continue
            extent = replace(extent, last_index=last)
            self.extent = self._replay_one(sequence, record, extent)
            extent = self.extent
            last = extent.last_index
            newest = _newest_membership(extent)
        self.extent = replace(extent, last_index=last)

    def _replay_one(self, sequence: int, record: Record, extent: Extent) -> Extent:
        """Do what one record says to a log of *extent*; return its extent then."""
        path = segment_path(self.path, sequence)
        body = record.body
        if record.kind in {_ENTRIES, _MEMBERSHIPS}:
            if not extent.base_index < record.about <= extent.last_index + 1:
                raise StorageError(records.missing_entry(path, extent.last_index + 1))
            self.places.add(record.about, sequence, record.position, record.size)
            kept = [each for each in extent.memberships if each < record.about]
            count = record.length
            if record.kind == _MEMBERSHIPS:
                kept += memberships_in(body, record.about)
                count = count_in(body)
            last = record.about + count - 1
            return replace(extent, last_index=last, memberships=tuple(kept))
        if record.kind == Kind.STATE:
            state = State.unpack(path, body)
            if sequence > self.oldest and state.extent != extent:
                raise StorageError(records.damaged_extent(path))
            self.hard_state = state.hard_state
            return state.extent
        if record.kind == Kind.COMPACTION:
            compaction = Compaction.unpack(body)
            if compaction.keeps:
                self.places.drop(record.about)
            else:
                self.places.clear()
            return extent.compacted(
                record.about, compaction.term, keeps=compaction.keeps
            )
        if record.kind == Kind.HARD_STATE:
            self.hard_state = records.unpack_hard_state(path, body)
        elif record.kind != Kind.CLOSED:
            message = f"{path}: nobody writes records of kind {record.kind}; {REMEDY}"
            raise StorageError(message)
        return extent


def _newest_membership(extent: Extent) -> LogIndex:
    # An entry at or below the base is none of the common case either.
    return max((extent.base_index, *extent.memberships[-1:]))


def _next_index(found: list[Record]) -> LogIndex:
    """Return the index of the entry that should follow those *found*."""
    for record in reversed(found):
        if record.kind == _ENTRIES:
            return record.about + record.length
        if record.kind == _MEMBERSHIPS:
            return record.about + count_in(record.body)
        if record.kind in {Kind.STATE, Kind.COMPACTION}:
            return record.about + 1
    return 1


def look_at_files(path: Path) -> Iterator[Finding]:
    """Yield what forbids to open the log in *path*, changing nothing."""
    try:
        names = {each.name for each in path.iterdir()}
        sequences = sequences_in(path)
        header = b""
        if sequences:
            with segment_path(path, sequences[-1]).open("rb") as file:
                header = file.read(START)
    except FileNotFoundError:
        return
    except OSError as error:
        yield engine.unreadable(f"{path} cannot be read: {error}")
        return
    if sequences:
        yield from _look_at_header(segment_path(path, sequences[-1]), header)
    elif any(not name.endswith((SPARE, UNFINISHED)) for name in names):
        message = f"{path} has no segment of a log: it belongs to another program"
        yield engine.of_another_program(message)
    else:
        yield engine.lost(f"{path} has lost its segments")


def _look_at_header(path: Path, header: bytes) -> Iterator[Finding]:
    version = format_of(header)
    if version is None:
        yield engine.unreadable(f"{path} is not a segment of a log")
    elif version != FORMAT:
        message = f"{path} has format {version}; this release reads {FORMAT}"
        hint = "run the release that wrote it"
        yield Finding("storage.E103", message, hint, "data_dir")
    elif Header.unpack(header) is None:
        yield engine.unreadable(f"{path}: the header is damaged")
