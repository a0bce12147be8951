"""
The file of a backup: its bytes, and how they are written, read and checked.

A header that describes it, the chunks of a snapshot, and a footer with a
checksum of everything before.  Numbers are big-endian, checksums CRC-32C:

======= =====================================================================
header  ``RAFTBKUP``, format (4 bytes), length of the next (4), MessagePack,
        checksum of the header up to here (4)
chunk   length (4), checksum (4) of number (8), length and bytes; the bytes
footer  ``BKUP_END``, checksum of the file up to here (4)
======= =====================================================================

``docs/reference/backup-format.md`` says what the MessagePack has.
"""

from __future__ import annotations

import os
from contextlib import suppress
from struct import Struct
from typing import TYPE_CHECKING, Annotated, BinaryIO

import msgspec
from crc32c import crc32c

from consensus.core.membership import Membership
from consensus.durable import sync_path
from consensus.errors import InvalidChangeError, ProtocolError, StorageError
from consensus.snapshots.format import CHUNK_BYTES, chunk_head, disk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import TracebackType
    from typing import Self

#: The version of the format that this release writes.
FORMAT = 1

#: What the name of a file ends with that is being written.
PART = ".part"

_MAGIC = b"RAFTBKUP"
_END_MAGIC = b"BKUP_END"

_START = Struct(">8sII")
_CHUNK = Struct(">II")
_CRC = Struct(">I")
_FOOTER = Struct(">8sI")

#: A header has a membership in it, of at most a hundred members.
_MAX_HEADER_BYTES = 1 << 20

_LARGEST = (1 << 63) - 1
_Number = Annotated[int, msgspec.Meta(ge=0, le=_LARGEST)]
_Positive = Annotated[int, msgspec.Meta(ge=1, le=_LARGEST)]


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a backup is of; a later release may add to it.

    Args:
        cluster: The name of the cluster.
        index: The last entry of its log that the backup covers.
        term: The term of that entry.
        membership: Who belonged to the cluster then, encoded.
        membership_index: Where in the log that stood.
        application: What the config called the state machine.
        application_class: The dotted name of its class.
        server: Who gave the snapshot.
        taken: When, by the clock of who took it, in seconds since 1970.
        release: The release that wrote the file.
        chunks: How many chunks it has.
        size: Their bytes, together.
        checksum: The CRC-32C of those bytes.
    """

    cluster: str
    index: _Positive
    term: _Positive
    membership: bytes
    membership_index: _Number
    application: str
    application_class: str
    server: str
    taken: _Number
    release: str
    chunks: _Positive
    size: _Number
    checksum: Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]

    @property
    def members(self) -> Membership:
        """Return who belonged to the cluster."""
        return Membership.decode(self.membership)


class BackupWriter:
    """
    Writes a backup under a name with ``.part``, until it is complete.

    Args:
        path: Where it shall be.
        description: Of what is written.

    Raises:
        InvalidChangeError: There is something of that name.
        DiskFullError: There is no room.
        StorageError: The disk failed.
    """

    def __init__(self, path: Path, description: Description) -> None:
        self._path = path
        self._part = part_of(path)
        self._description = description
        self._number = self._size = self._whole = 0
        self._crc = 0
        refuse_existing(path)
        with disk(self._part):
            self._file: BinaryIO = self._part.open("wb")
        try:
            with disk(self._part):
                os.fchmod(self._file.fileno(), 0o600)
                self._write(_header(description))
        except BaseException:
            self._give_up()
            raise

    def __enter__(self) -> Self:
        """Return this."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Delete what is not complete."""
        self._give_up()

    def write(self, chunk: bytes) -> None:
        """
        Add *chunk*, the next one.

        Raises:
            DiskFullError: There is no room.
            StorageError: The disk failed.
        """
        with disk(self._part):
            self._write(chunk_head(self._number, chunk))
            self._write(chunk)
        self._number += 1
        self._size += len(chunk)
        self._whole = crc32c(chunk, self._whole)

    @property
    def size(self) -> int:
        """Return how many bytes of chunks are written."""
        return self._size

    def commit(self) -> None:
        """
        Give the file its name, durably.

        Raises:
            ProtocolError: What was written is not what was described.
            DiskFullError: There is no room.
            StorageError: The disk failed.
        """
        said = self._description
        if (self._number, self._size, self._whole) != _extent(said):
            raise ProtocolError("what was received is not what was announced")
        with disk(self._part):
            self._write(_FOOTER.pack(_END_MAGIC, 0)[: -_CRC.size])
            self._file.write(_CRC.pack(self._crc))
            self._file.flush()
            os.fsync(self._file.fileno())
            refuse_existing(self._path)
            self._part.rename(self._path)
            sync_path(self._path.parent)
            self._file.close()

    def _give_up(self) -> None:
        if self._file.closed:
            return
        # What did not fit into the disk does not fit at the close either.
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            self._part.unlink(missing_ok=True)

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._crc = crc32c(data, self._crc)


def part_of(path: Path) -> Path:
    """Return what the backup at *path* is called while it is written."""
    return path.with_name(path.name + PART)


def refuse_existing(path: Path) -> None:
    """
    See that nothing is called *path*.

    Raises:
        InvalidChangeError: Something is.
    """
    if os.path.lexists(path):
        message = f"{path} exists: name another file, or remove it first"
        raise InvalidChangeError(message)


def _extent(description: Description) -> tuple[int, int, int]:
    return description.chunks, description.size, description.checksum


def _header(description: Description) -> bytes:
    content = msgspec.msgpack.encode(description)
    start = _START.pack(_MAGIC, FORMAT, len(content)) + content
    return start + _CRC.pack(crc32c(start))


class BackupFile:
    """
    A backup in a file, of which only the beginning is looked at yet.

    Args:
        path: Of the file.

    Raises:
        StorageError: It cannot be read, is no backup, is damaged, or is of a
            newer release.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with disk(path), path.open("rb") as file:
            header = self._read_header(file)
            self._start = len(header)
            self.bytes = os.fstat(file.fileno()).st_size
        try:
            content = header[_START.size : -_CRC.size]
            self.description = msgspec.msgpack.decode(content, type=Description)
            self.members = self.description.members
        except (ValueError, RecursionError, ProtocolError) as error:
            reason = f"its header cannot be read: {error}"
            raise self._damaged(reason) from error
        self._check_extent()

    def _read_header(self, file: BinaryIO) -> bytes:
        start = file.read(_START.size)
        if len(start) < _START.size:
            raise self._damaged("it is too short")
        magic, format_, length = _START.unpack(start)
        if magic != _MAGIC:
            message = f"{self.path} is no backup: it does not begin as one does"
            raise StorageError(message)
        rest = file.read(min(length, _MAX_HEADER_BYTES) + _CRC.size)
        header = start + rest
        # First, or a flipped bit would pass for a newer release.
        is_whole = len(rest) == length + _CRC.size
        if is_whole and crc32c(header[: -_CRC.size]) == _CRC.unpack(rest[-4:])[0]:
            if format_ == FORMAT:
                return header
            message = (
                f"{self.path} has format {format_}, and this release knows {FORMAT}:"
                " use the release that wrote it, or a newer one"
            )
            raise StorageError(message)
        raise self._damaged("the checksum of its beginning is wrong")

    def _check_extent(self) -> None:
        said = self.description
        chunks = max(1, -(-said.size // CHUNK_BYTES))
        expected = self._start + chunks * _CHUNK.size + said.size + _FOOTER.size
        if said.chunks != chunks or self.bytes != expected:
            reason = f"it has {self.bytes} bytes, and {expected} belong there"
            raise self._damaged(reason)

    def chunks(
        self, on_progress: Callable[[int], None] = lambda _: None
    ) -> Iterator[bytes]:
        """
        Yield all chunks, checked; at the end, the whole is.

        What it yielded may be used only after it has ended.

        Args:
            on_progress: Called with the bytes that were read since last time.

        Raises:
            StorageError: Something is damaged.
        """
        whole = 0
        with disk(self.path), self.path.open("rb") as file:
            crc = crc32c(file.read(self._start))
            for number in range(self.description.chunks):
                head, chunk = self._next_chunk(file, number)
                crc = crc32c(chunk, crc32c(head, crc))
                whole = crc32c(chunk, whole)
                yield chunk
                on_progress(len(chunk))
            end = file.read()
        crc = crc32c(end[: -_CRC.size], crc)
        if end != _FOOTER.pack(_END_MAGIC, crc):
            raise self._damaged("the checksum at its end is wrong")
        if whole != self.description.checksum:
            raise self._damaged("the checksum of its chunks is wrong")

    def _next_chunk(self, file: BinaryIO, number: int) -> tuple[bytes, bytes]:
        head = file.read(_CHUNK.size)
        if len(head) == _CHUNK.size:
            length = _CHUNK.unpack(head)[0]
            chunk = file.read(min(length, CHUNK_BYTES))
            if len(chunk) == length and chunk_head(number, chunk) == head:
                return head, chunk
        reason = f"chunk {number} of {self.description.chunks} is wrong"
        raise self._damaged(reason)

    def _damaged(self, reason: str) -> StorageError:
        message = f"the backup {self.path} is damaged: {reason}; use another one"
        return StorageError(message)
