"""
The file of a snapshot: its bytes, and how they are read and checked.

A header, the chunks, and a footer of fixed size.  All chunks but the last are
of one size, so that each is found by arithmetic; the footer is written last
and says how many there are, so that both ends tell whether the file is
complete.  Numbers are big-endian, checksums CRC-32C:

======= =====================================================================
header  ``RAFTSNAP``, format (4 bytes), length of the rest (4), MessagePack
chunk   length (4), checksum (4) of number (8), length and bytes; the bytes
footer  ``SNAP_END``, chunks (8), size (8), checksum of all chunks' bytes (4),
        of the header (4), of the footer up to here (4)
======= =====================================================================

The MessagePack is an array: index, term, membership, membership index.
"""

from __future__ import annotations

import errno
import os
import re
import struct
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import msgspec
from crc32c import crc32c

from consensus.core.values import SnapshotMeta
from consensus.errors import DiskFullError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

#: Where a server's snapshots are, and what one is called: index and term.
DIRECTORY = "snapshots"
NAME = re.compile(r"(\d+)-(\d+)\.snapshot", re.ASCII)

#: The size of every chunk but the last, on disk and on the wire: with its
#: surroundings it fits into one value of an AMP box.
CHUNK_BYTES = 60 * 1024

#: The version of the format that this release writes.
FORMAT = 1

_MAGIC = b"RAFTSNAP"
_END_MAGIC = b"SNAP_END"

_HEADER = struct.Struct(">8sII")
_CHUNK = struct.Struct(">II")
_POSITION = struct.Struct(">QI")
_FOOTER = struct.Struct(">8sQQIII")
_CRC = struct.Struct(">I")

_REMEDY = (
    "check the disk, then replace this server: its log no longer has what the"
    " snapshot covers"
)


class _Content(msgspec.Struct, array_like=True, frozen=True):
    """What a header says of its snapshot; a later release may add to it."""

    index: int
    term: int
    membership: bytes
    membership_index: int


def header(meta: SnapshotMeta) -> bytes:
    """Return what a file begins with."""
    content = msgspec.msgpack.encode(
        _Content(meta.index, meta.term, meta.membership, meta.membership_index)
    )
    return _HEADER.pack(_MAGIC, FORMAT, len(content)) + content


def chunk_head(number: int, chunk: bytes) -> bytes:
    """Return what stands before *chunk*."""
    return _CHUNK.pack(len(chunk), _chunk_crc(number, chunk))


def footer(meta: SnapshotMeta, header_crc: int) -> bytes:
    """Return what the file of a complete snapshot ends with."""
    fields = (_END_MAGIC, meta.chunks, meta.size, meta.checksum, header_crc)
    start = _FOOTER.pack(*fields, 0)[: -_CRC.size]
    return start + _CRC.pack(crc32c(start))


def _chunk_crc(number: int, chunk: bytes) -> int:
    return crc32c(chunk, crc32c(_POSITION.pack(number, len(chunk))))


def split(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """
    Yield the bytes of *pieces* as chunks of :data:`CHUNK_BYTES`.

    Only the last may be shorter, and it is empty only if there is nothing at
    all: every snapshot has a chunk.
    """
    waiting = bytearray()
    is_empty = True
    for piece in pieces:
        view = memoryview(piece)
        start = CHUNK_BYTES - len(waiting)
        if len(view) < start:
            waiting += view
            continue
        yield b"".join((waiting, view[:start]))
        is_empty = False
        while len(view) - start >= CHUNK_BYTES:
            yield bytes(view[start : start + CHUNK_BYTES])
            start += CHUNK_BYTES
        waiting = bytearray(view[start:])
    if waiting or is_empty:
        yield bytes(waiting)


@dataclass(frozen=True, slots=True)
class HeldSnapshot:
    """
    A complete snapshot that stays readable until it is closed.

    Args:
        chunk: Returns the chunk of a number, checked.
        close: Ends that.
    """

    chunk: Callable[[int], bytes]
    close: Callable[[], None]


@dataclass(frozen=True, slots=True)
class SnapshotFile:
    """
    A complete snapshot in a file.

    Args:
        path: Of the file.
        meta: What it holds.
        start: Where its first chunk begins.
    """

    path: Path
    meta: SnapshotMeta
    start: int

    @classmethod
    def open(cls, path: Path) -> SnapshotFile:
        """
        Return the snapshot in *path*; of its bytes, only both ends are checked.

        Raises:
            StorageError: They are damaged, or of a newer release.
        """
        with disk(path), path.open("rb") as file:
            beginning = file.read(_HEADER.size)
            length = _content_length(path, beginning)
            size = os.fstat(file.fileno()).st_size
            if size < len(beginning) + length + _FOOTER.size:
                raise damaged(path, "it is too short")
            beginning += file.read(length)
            file.seek(size - _FOOTER.size)
            end = file.read(_FOOTER.size)
        return cls(path, _parse(path, size, beginning, end), len(beginning))

    def chunk(self, number: int) -> bytes:
        """
        Return the chunk of that *number*, checked.

        Raises:
            StorageError: It is damaged.
        """
        with disk(self.path), self.path.open("rb") as file:
            file.seek(self.start + number * (_CHUNK.size + CHUNK_BYTES))
            return self._next_chunk(file, number)

    def hold(self) -> HeldSnapshot:
        """
        Open the file; what is returned reads it, even without its name.

        Raises:
            StorageError: It cannot be opened.
        """
        with disk(self.path):
            file = self.path.open("rb")

        def chunk(number: int) -> bytes:
            with disk(self.path):
                file.seek(self.start + number * (_CHUNK.size + CHUNK_BYTES))
                return self._next_chunk(file, number)

        return HeldSnapshot(chunk, file.close)

    def chunks(self) -> Iterator[bytes]:
        """
        Yield all chunks, checked; at the end, the whole is.

        Raises:
            StorageError: Something is damaged.
        """
        checksum = 0
        with disk(self.path), self.path.open("rb") as file:
            file.seek(self.start)
            for number in range(self.meta.chunks):
                chunk = self._next_chunk(file, number)
                checksum = crc32c(chunk, checksum)
                yield chunk
        if checksum != self.meta.checksum:
            raise damaged(self.path, "the checksum of the whole is wrong")

    def _next_chunk(self, file: BinaryIO, number: int) -> bytes:
        head = file.read(_CHUNK.size)
        if len(head) == _CHUNK.size:
            length, crc = _CHUNK.unpack(head)
            if length <= CHUNK_BYTES:
                chunk = file.read(length)
                if len(chunk) == length and _chunk_crc(number, chunk) == crc:
                    return chunk
        reason = f"chunk {number} of {self.meta.chunks} is wrong"
        raise damaged(self.path, reason)


def complete_files(
    directory: Path,
) -> tuple[list[SnapshotFile], list[StorageError]]:
    """
    Return the complete snapshots of a server, the oldest first; change nothing.

    Args:
        directory: The server's.

    Returns:
        Those whose both ends are whole, and what is wrong with the others.

    Raises:
        StorageError: They cannot be listed.
    """
    parent = directory / DIRECTORY
    found: list[SnapshotFile] = []
    errors: list[StorageError] = []
    with disk(parent):
        paths = list(parent.iterdir()) if parent.is_dir() else []
    for path in sorted(paths):
        if match := NAME.fullmatch(path.name):
            try:
                file = SnapshotFile.open(path)
                if (file.meta.index, file.meta.term) != (int(match[1]), int(match[2])):
                    raise damaged(path, "its name is that of another snapshot")
            except StorageError as error:
                errors.append(error)
            else:
                found.append(file)
    return sorted(found, key=lambda each: each.meta.index), errors


def _content_length(path: Path, beginning: bytes) -> int:
    """Return how much follows the fixed part of a header."""
    if len(beginning) < _HEADER.size:
        raise damaged(path, "it is too short")
    magic: bytes
    format_: int
    length: int
    magic, format_, length = _HEADER.unpack(beginning)
    if magic != _MAGIC:
        raise damaged(path, "it does not begin as a snapshot does")
    if format_ > FORMAT:
        message = (
            f"{path} has format {format_}, and this release knows up to {FORMAT}:"
            " start a release that is at least as new as the one that wrote it"
        )
        raise StorageError(message)
    return length


def _parse(path: Path, size: int, beginning: bytes, end: bytes) -> SnapshotMeta:
    """Return what both ends say of the file of *size* bytes."""
    magic, chunks, total, checksum, header_crc, crc = _FOOTER.unpack(end)
    if magic != _END_MAGIC or crc32c(end[: -_CRC.size]) != crc:
        raise damaged(path, "its end is not that of a snapshot")
    if crc32c(beginning) != header_crc:
        raise damaged(path, "the checksum of its beginning is wrong")
    expected = len(beginning) + chunks * _CHUNK.size + total + len(end)
    if size != expected or chunks != max(1, -(-total // CHUNK_BYTES)):
        raise damaged(path, f"{size} bytes are not what its end says")
    try:
        content = msgspec.msgpack.decode(beginning[_HEADER.size :], type=_Content)
    except msgspec.MsgspecError as error:
        raise damaged(path, str(error)) from error
    return SnapshotMeta(
        index=content.index,
        term=content.term,
        membership=content.membership,
        membership_index=content.membership_index,
        chunks=chunks,
        size=total,
        checksum=checksum,
    )


def damaged(path: Path, reason: str) -> StorageError:
    """Return the error that says so, and what to do."""
    return StorageError(f"the snapshot {path} is damaged: {reason}; {_REMEDY}")


@contextmanager
def disk(path: Path) -> Iterator[None]:
    """
    Turn what the operating system says of *path* into our errors.

    Raises:
        DiskFullError: There is no room.
        StorageError: It failed otherwise.
    """
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            message = f"no room for {path}: {error.strerror}"
            raise DiskFullError(message) from error
        message = f"cannot use {path}: {error.strerror or error}"
        raise StorageError(message) from error
