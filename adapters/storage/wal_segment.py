"""
One file of a log: its header, its records, and what a crash leaves of them.

A segment is zero-filled and synced before it is used, so that a write changes
bytes that the file system has long placed, and a sync has nothing else to do.
Numbers are big-endian.  First comes a header of 64 bytes::

    "RAFTWAL" and a newline, format (4 bytes), sequence (8), salt (8),
    salt (8) and end (8) of the segment before, CRC-32C of all this (4), zeros

then records, without gaps, each of a head of 36 bytes and a body::

    CRC-32C (4), length of the body (4), salt (8), synced (8), index (8),
    kind (1), zeros (3)

The CRC-32C is that of the rest of the head and of the body, begun with the low
32 bits of the record's position, so that no other place will do for it.  The
salt is drawn when a segment begins: what the file held before is no record.
*synced* is the position up to which the segment had been synced when the record
was written.  So a bad record is told apart from a torn one.  A crash may tear
anything that was not synced, but nothing at all in front of a record that
was written after a sync.
"""

from __future__ import annotations

import errno
import os
import struct
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

from crc32c import crc32c

from consensus.errors import DiskFullError, StorageError

if sys.platform == "darwin":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from io import FileIO
    from pathlib import Path

    from adapters.storage.wal_records import State

MAGIC = b"RAFTWAL\n"
FORMAT = 1

#: Where the first record of a segment stands.
START = 64

#: How long a salt is.
SALT = 8

_HEADER = struct.Struct(">8sIQ8s8sQ")
_FORMAT_END = 12
_CRC = struct.Struct(">I")
_COUNT = struct.Struct(">I")
_REST = struct.Struct(">I8sQqB3x")
_WHOLE = struct.Struct(">II8sQqB3x")
HEAD = _CRC.size + _REST.size
_SALT_AT = 8
_LOW = 0xFFFFFFFF

#: The longest body that the head of a record can tell.
LONGEST = _LOW

_PIECE = 1 << 20
_ZEROS = bytes(_PIECE)
_FULL = {errno.ENOSPC, errno.EDQUOT}
_NO_FALLOCATE = {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS}


class Kind(IntEnum):
    """What a record says; the numbers are on the disk."""

    #: The hard state and the extent when the segment began; its first record.
    STATE = 1
    #: A batch of entries.
    ENTRIES = 2
    #: A batch of entries with a membership among them.
    MEMBERSHIPS = 3
    #: The hard state.
    HARD_STATE = 4
    #: A compaction.
    COMPACTION = 5
    #: Nothing: when this was written, all before it was synced.
    CLOSED = 6


class Record(NamedTuple):
    """
    A record that was found.

    Args:
        kind: One of :class:`Kind`.
        about: The index of the first entry, or of the last dropped one.
        position: Where its head begins.
        size: How long it is, with its head.
        length: How many entries it has, if it has any.
        body: What it says, except for entries, which are too many.
    """

    kind: int
    about: int
    position: int
    size: int
    length: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Header:
    """
    What a segment says of itself, and of the one before.

    Args:
        sequence: Its number, which is its name, too.
        salt: Stands in each of its records.
        previous_salt: That of the segment before.
        previous_end: Where the records of that one ended, all of them synced.
    """

    sequence: int
    salt: bytes
    previous_salt: bytes = bytes(SALT)
    previous_end: int = 0

    def pack(self) -> bytes:
        """Return the bytes that a segment begins with, up to its records."""
        numbers = (self.sequence, self.salt, self.previous_salt, self.previous_end)
        packed = _HEADER.pack(MAGIC, FORMAT, *numbers)
        return (packed + _CRC.pack(crc32c(packed))).ljust(START, b"\0")

    @classmethod
    def unpack(cls, data: bytes) -> Header | None:
        """Return what :meth:`pack` packed, or ``None`` if *data* is damaged."""
        packed = bytes(data[: _HEADER.size])
        crc = bytes(data[_HEADER.size : _HEADER.size + _CRC.size])
        if len(packed) < _HEADER.size or crc != _CRC.pack(crc32c(packed)):
            return None
        _, version, *numbers = _HEADER.unpack(packed)
        return cls(*numbers) if version == FORMAT else None


def format_of(data: bytes) -> int | None:
    """Return the format of a segment that begins with *data*, if it is one."""
    if len(data) < _FORMAT_END or not data.startswith(MAGIC):
        return None
    return int.from_bytes(data[len(MAGIC) : _FORMAT_END])


# --- records --------------------------------------------------------------------


def pack_head(  # noqa: PLR0917 - a value for each field
    salt: bytes, position: int, synced: int, kind: int, index: int, body: bytes
) -> bytes:
    """Return the head of a record that shall stand at *position*."""
    rest = _REST.pack(len(body), salt, synced, index, kind)
    # The interpreter's lock is held: see records.entry_crc.
    crc = crc32c(body, crc32c(rest, position & _LOW, 0), 0)
    return _CRC.pack(crc) + rest


def is_record(data: bytes, salt: bytes, position: int, index: int) -> bool:
    """Say whether *data* is the whole, intact record with *index* at *position*."""
    if len(data) < HEAD:
        return False
    length, found, _, about, _ = _REST.unpack_from(data, _CRC.size)
    if found != salt or about != index or length != len(data) - HEAD:
        return False
    (crc,) = _CRC.unpack_from(data)
    return bool(crc == crc32c(memoryview(data)[_CRC.size :], position & _LOW, 0))


class Scan:
    """
    The records of one segment, as far as they are intact.

    Iterate once; then ``end`` is where they end.

    Args:
        file: The segment, not buffered.
        salt: Its salt.
        limit: Where to stop; the end of the file if that comes first.
    """

    def __init__(self, file: FileIO, salt: bytes, limit: int) -> None:
        self._file = file
        self._salt = salt
        self._limit = min(limit, os.fstat(file.fileno()).st_size)
        self._window = bytearray()
        self.end = START

    def __iter__(self) -> Iterator[Record]:
        """Yield each record, from the first on."""
        # Here go a million records: locals, and no call that can be spared.
        salt, head, limit, entries = self._salt, HEAD, self._limit, int(Kind.ENTRIES)
        unpack, unpack_count, checksum = _WHOLE.unpack_from, _COUNT.unpack_from, crc32c
        position, begin, stop, window = self.end, 0, 0, self._window
        while (body := position + head) <= limit:
            if body > stop:
                begin, stop, window = self._move(position, head)
            crc, length, found, _, about, kind = unpack(window, position - begin)
            end = body + length
            if found != salt or end > limit:
                return
            if end > stop:
                begin, stop, window = self._move(position, head + length)
            with memoryview(window)[position + 4 - begin : end - begin] as summed:
                if crc != checksum(summed, position & _LOW, 0):
                    return
            self.end = end
            size = end - position
            if kind == entries and length >= _COUNT.size:
                (count,) = unpack_count(window, body - begin)
                yield Record(kind, about, position, size, count, b"")
            else:
                said = bytes(window[body - begin : end - begin])
                yield Record(kind, about, position, size, 0, said)
            position = end

    def _move(self, position: int, size: int) -> tuple[int, int, bytearray]:
        """Read at least *size* bytes from *position* on; return what is read then."""
        wanted = min(max(size, _PIECE), self._limit - position)
        if len(self._window) < wanted:
            self._window = bytearray(wanted)
        self._file.seek(position)
        with memoryview(self._window) as view:
            done = 0
            while done < wanted:
                count = self._file.readinto(view[done:wanted])
                if not count:
                    raise OSError(errno.EIO, "the file became shorter")
                done += count
        return position, position + wanted, self._window

    def leftovers(self) -> Iterator[int]:
        """
        Yield what says of itself to be a record behind ``end``.

        Each is yielded as the position up to which the segment was synced
        when it was written; 0 if it is torn.  Where there are none, the
        segment can be written on.
        """
        # A salt may stand across the border of two pieces.
        overlap = SALT - 1
        for start in range(self.end, self._limit, _PIECE):
            size = min(_PIECE + overlap, self._limit - start)
            piece = os.pread(self._file.fileno(), size, start)
            at = piece.find(self._salt)
            while at >= 0:
                yield self._synced_at(start + at - _SALT_AT)
                at = piece.find(self._salt, at + 1)

    def _synced_at(self, position: int) -> int:
        """Return up to where all was synced before a record at *position*, or 0."""
        head = os.pread(self._file.fileno(), HEAD, position)
        if position < START or len(head) < HEAD:
            return 0
        _, length, salt, synced, about, _ = _WHOLE.unpack(head)
        if position + HEAD + length > self._limit:
            return 0
        data = os.pread(self._file.fileno(), HEAD + length, position)
        return int(synced) if is_record(data, salt, position, about) else 0

    def kind_at_end(self) -> int:
        """Return the kind of the bad record at ``end``, as far as one can tell."""
        kind = os.pread(self._file.fileno(), 1, self.end + HEAD - 4)
        return kind[0] if kind else 0


# --- files ------------------------------------------------------------------------


def is_full(error: OSError) -> bool:
    """Say whether *error* means that there is no room."""
    return error.errno in _FULL


@contextmanager
def system_errors(path: Path, doing: str) -> Iterator[None]:
    """Turn what the system, and what cannot be packed, raise into our errors."""
    try:
        yield
    except (OSError, OverflowError, ValueError, struct.error) as error:
        message = f"{path}: cannot {doing}: {error}"
        if isinstance(error, OSError) and is_full(error):
            raise DiskFullError(message) from error
        raise StorageError(message) from error


@contextmanager
def never_full(path: Path, doing: str) -> Iterator[None]:
    """
    Turn what the system raises into a StorageError, and no DiskFullError.

    That is for syncs: what was to be synced may be gone when one fails.
    """
    try:
        yield
    except OSError as error:
        message = f"{path}: cannot {doing}: {error}"
        raise StorageError(message) from error


def sync_data(descriptor: int) -> None:
    """Return when what was written to *descriptor* is on the disk."""
    if sys.platform == "darwin":
        # fsync() leaves it in the cache of the disk there.
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fdatasync(descriptor)


def write_all(descriptor: int, data: bytes, position: int) -> None:
    """Write *data* at *position*, however often the system stops half-way."""
    written = os.pwrite(descriptor, data, position)
    while written < len(data):
        data = data[written:]
        position += written
        written = os.pwrite(descriptor, data, position)


def fill(descriptor: int, size: int) -> Iterator[int]:
    """
    Fill a new file with *size* zeros and sync them, in pieces.

    Yields:
        How many there are, after each piece; so the caller can stop.
    """
    if sys.platform != "darwin":
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError as error:
            # There are file systems that cannot.
            if error.errno not in _NO_FALLOCATE:
                raise
    for position in range(0, size, _PIECE):
        piece = min(_PIECE, size - position)
        write_all(descriptor, _ZEROS[:piece], position)
        sync_data(descriptor)
        yield position + piece


def beginning(header: Header, state: State) -> bytes:
    """Return what a segment begins with: its header, and a record of *state*."""
    body = state.pack()
    index = state.extent.last_index
    head = pack_head(header.salt, START, START, Kind.STATE, index, body)
    return header.pack() + head + body


def begin(path: Path, start: bytes) -> None:
    """
    Write *start* into a spare segment, and sync it.

    Raises:
        OSError: There was no room for it, or worse; the file is gone.
    """
    descriptor = os.open(path, os.O_RDWR)
    try:
        write_all(descriptor, start, 0)
        sync_data(descriptor)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


class Segment:
    """
    The segment that is written to.

    Args:
        path: A file that begins with *header* and a record of the state.
        header: What it begins with.
        end: Where its records end, all of them synced.
        is_marked: Whether the last of them says so.
    """

    def __init__(
        self, path: Path, header: Header, end: int, *, is_marked: bool = False
    ) -> None:
        self.path = path
        self.header = header
        self.end = end
        self._is_marked = is_marked
        self.descriptor = os.open(path, os.O_RDWR)
        self.size = os.fstat(self.descriptor).st_size

    def write(self, records: Sequence[tuple[int, int, bytes]]) -> list[int]:
        """
        Write kinds, indexes and bodies as records; return their positions.

        They are not synced, and do not count before :meth:`sync`.
        """
        salt, synced = self.header.salt, self.end
        position = synced
        positions = []
        parts: list[bytes] = []
        for kind, index, body in records:
            positions.append(position)
            parts += (pack_head(salt, position, synced, kind, index, body), body)
            position += HEAD + len(body)
        write_all(self.descriptor, b"".join(parts), synced)
        return positions

    def sync(self, end: int) -> None:
        """
        Return when all is durable that was written, up to *end*.

        Raises:
            StorageError: It may not be, also where there was no room: some of
                it may be gone, and a second try would not say so.
        """
        with never_full(self.path, "sync"):
            sync_data(self.descriptor)
        self._is_marked = self._is_marked and end == self.end
        self.end = end

    def mark(self) -> None:
        """
        Write down that all of it was synced, so that damage will be noticed.

        Without a record behind them, the last ones would be taken for torn.
        """
        end = self.end + HEAD
        if not self._is_marked and end <= self.size:
            self.write([(Kind.CLOSED, 0, b"")])
            self.sync(end)

    def close(self) -> None:
        """Close the file."""
        os.close(self.descriptor)
