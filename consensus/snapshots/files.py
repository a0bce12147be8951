"""
Where a server keeps its snapshots: whole, checked, or not at all.

Blocking code, called on one thread, which is not the storage's: a snapshot is
long, and the log must not wait for it.  What is here does not know who took a
snapshot, or from whom it came; it stores chunks.

A snapshot is written under a temporary name, synced, and then renamed, so that
a file of a snapshot's name is complete.  ``docs/reference/snapshot-files.md``
describes the file, and ``format`` beside it reads it.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING, BinaryIO

from crc32c import crc32c

from consensus.durable import sync_path
from consensus.errors import (
    CompactedError,
    InvariantError,
    ProtocolError,
    StorageError,
)
from consensus.snapshots.format import (
    CHUNK_BYTES,
    DIRECTORY,
    NAME,
    HeldSnapshot,
    SnapshotFile,
    chunk_head,
    damaged,
    disk,
    footer,
    header,
    split,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from consensus.core.values import LogIndex, SnapshotMeta, Term

__all__ = [
    "CHUNK_BYTES",
    "FileSnapshots",
    "MemorySnapshots",
    "SnapshotStore",
    "SnapshotWriter",
    "split",
]

_TEMPORARY = re.compile(NAME.pattern + r"\.\d+\.new", re.ASCII)

#: How much may wait for a sync.  To sync a large file only at its end would
#: hold up the syncs of the log for as long.
_SYNC_BYTES = 8 * 1024 * 1024

_LARGEST_INDEX = (1 << 63) - 1


class SnapshotWriter(ABC):
    """A snapshot that is being written; until :meth:`commit` nobody sees it."""

    @abstractmethod
    def write(self, chunk: bytes) -> None:
        """
        Add *chunk*, the next one.

        Raises:
            ProtocolError: It is longer than a chunk may be, or follows one
                that is shorter, which can only be the last.  It is not added.
            DiskFullError: There is no room; the snapshot is given up.
            StorageError: The disk failed; the snapshot is given up.
        """

    @abstractmethod
    def finish(self) -> SnapshotMeta:
        """
        Make what was written durable, under a name that does not count yet.

        Returns the meta with ``chunks``, ``size`` and ``checksum``: who
        received the snapshot compares them with what was announced.

        Raises:
            ProtocolError: There is no chunk.
            DiskFullError: There is no room; the snapshot is given up.
            StorageError: The disk failed; the snapshot is given up.
        """

    @abstractmethod
    def commit(self) -> None:
        """
        Let the finished snapshot count, durably.

        It is the latest from now on, and the one before it is kept beside it,
        for whoever reads that.  If it is no newer than the latest, it goes.

        Raises:
            DiskFullError: There is no room; the snapshot is given up.
            StorageError: The disk failed.
        """

    @abstractmethod
    def abort(self) -> None:
        """Give the snapshot up, unless it is committed; never raises."""


class SnapshotStore(ABC):
    """The complete snapshots of one server: the latest and the one before."""

    #: The newest complete snapshot.
    latest: SnapshotMeta | None = None

    @abstractmethod
    def begin(self, meta: SnapshotMeta) -> SnapshotWriter:
        """
        Begin to write the snapshot that *meta* describes.

        Its ``chunks``, ``size`` and ``checksum`` are not looked at.  Several
        may be under way at a time, also of the same index.

        Raises:
            ProtocolError: *meta* makes no sense.
            DiskFullError: There is no room.
            StorageError: The disk failed.
        """

    @abstractmethod
    def chunk(self, meta: SnapshotMeta, number: int) -> bytes:
        """
        Return a chunk of a complete snapshot.

        Raises:
            CompactedError: That snapshot is not kept any more, or never was.
            ProtocolError: It has no such chunk.
            StorageError: The chunk is damaged.
        """

    @abstractmethod
    def chunks(self, meta: SnapshotMeta) -> Iterator[bytes]:
        """
        Yield all chunks of a complete snapshot, in order.

        It goes on to the end even if newer snapshots are committed meanwhile.
        What it yielded may be used only after it has ended: at the end the
        checksum of the whole is compared.

        Raises:
            CompactedError: That snapshot is not kept any more, or never was.
            StorageError: A chunk, or the whole, is damaged.
        """

    @abstractmethod
    def hold(self, meta: SnapshotMeta) -> HeldSnapshot:
        """
        Return a complete snapshot that can be read until it is closed.

        Raises:
            CompactedError: It is not kept any more, or never was.
            StorageError: It cannot be opened.
        """

    @abstractmethod
    def close(self) -> None:
        """Give up what is being written, and release everything."""


@dataclass(slots=True)
class _Tally:
    """Counts the chunks of a snapshot and refuses one that cannot follow."""

    chunks: int = 0
    size: int = 0
    checksum: int = 0

    def add(self, chunk: bytes) -> None:
        if len(chunk) > CHUNK_BYTES:
            message = f"a chunk of {len(chunk)} bytes; {CHUNK_BYTES} are the most"
            raise ProtocolError(message)
        if self.size != self.chunks * CHUNK_BYTES or (self.chunks and not chunk):
            message = f"a chunk {self.chunks} after the last one of a snapshot"
            raise ProtocolError(message)
        self.chunks += 1
        self.size += len(chunk)
        self.checksum = crc32c(chunk, self.checksum)

    def complete(self, meta: SnapshotMeta) -> SnapshotMeta:
        """Return *meta* with what was counted."""
        if not self.chunks:
            raise ProtocolError("a snapshot without a chunk")
        return replace(meta, chunks=self.chunks, size=self.size, checksum=self.checksum)


def _check_meta(meta: SnapshotMeta) -> None:
    if not (
        0 < meta.index <= _LARGEST_INDEX
        and 0 <= meta.term <= _LARGEST_INDEX
        and 0 <= meta.membership_index <= meta.index
    ):
        message = (
            f"a snapshot cannot have index {meta.index}, term {meta.term} and the"
            f" membership of {meta.membership_index}"
        )
        raise ProtocolError(message)


def _check_number(meta: SnapshotMeta, number: int) -> None:
    if not 0 <= number < meta.chunks:
        message = f"the snapshot at {meta.index} has {meta.chunks} chunks, no {number}"
        raise ProtocolError(message)


# --- in memory --------------------------------------------------------------


class MemorySnapshots(SnapshotStore):
    """Snapshots of a server that forgets everything when it stops."""

    def __init__(self) -> None:
        self._kept: list[tuple[SnapshotMeta, list[bytes]]] = []

    def begin(self, meta: SnapshotMeta) -> SnapshotWriter:
        """Begin a list of chunks."""
        _check_meta(meta)
        return _MemoryWriter(self, meta)

    def chunk(self, meta: SnapshotMeta, number: int) -> bytes:
        """Return it from its list."""
        chunks = self._find(meta)
        _check_number(meta, number)
        return chunks[number]

    def chunks(self, meta: SnapshotMeta) -> Iterator[bytes]:
        """Yield them from their list."""
        yield from self._find(meta)

    def hold(self, meta: SnapshotMeta) -> HeldSnapshot:
        """Return the list: it goes when nobody has it any more."""
        return HeldSnapshot(self._find(meta).__getitem__, lambda: None)

    def _find(self, meta: SnapshotMeta) -> list[bytes]:
        for kept, chunks in self._kept:
            if kept == meta:
                return chunks
        raise CompactedError(meta.index)

    def keep(self, meta: SnapshotMeta, chunks: list[bytes]) -> None:
        """Let *chunks* be the latest snapshot, if *meta* is newer."""
        if self.latest is None or meta.index > self.latest.index:
            self._kept = [*self._kept[-1:], (meta, chunks)]
            self.latest = meta

    def close(self) -> None:
        """Do nothing: the lists go with this object."""


class _MemoryWriter(SnapshotWriter):
    def __init__(self, store: MemorySnapshots, meta: SnapshotMeta) -> None:
        self._store = store
        self._meta = meta
        self._tally = _Tally()
        self._chunks: list[bytes] | None = []
        self._finished: SnapshotMeta | None = None

    def write(self, chunk: bytes) -> None:
        if self._chunks is None or self._finished is not None:
            raise InvariantError("a chunk for a snapshot that is not being written")
        self._tally.add(chunk)
        self._chunks.append(bytes(chunk))

    def finish(self) -> SnapshotMeta:
        if self._chunks is None:
            raise InvariantError("the snapshot was given up before")
        self._finished = self._tally.complete(self._meta)
        return self._finished

    def commit(self) -> None:
        if self._chunks is None or self._finished is None:
            raise InvariantError("only a finished snapshot can be committed")
        self._store.keep(self._finished, self._chunks)
        self._chunks = None

    def abort(self) -> None:
        self._chunks = None


# --- in files -----------------------------------------------------------------


class FileSnapshots(SnapshotStore):
    """
    Snapshots as files, ``snapshots/<index>-<term>.snapshot``.

    To make one of these opens what is there: leftovers of a crash are
    deleted, and so is what is older than the latest snapshot.  Of that, the
    beginning and the end are checked; its chunks are when they are read.

    Args:
        directory: Of the server, and locked by it.

    Raises:
        StorageError: The latest snapshot is damaged, or of a newer release,
            or the directory cannot be used.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory / DIRECTORY
        self._kept: list[SnapshotFile] = []
        self._writers: set[_FileWriter] = set()
        self._numbers = count(1)
        with disk(self._directory):
            self._open(directory)

    def _open(self, parent: Path) -> None:
        if not self._directory.is_dir():
            self._directory.mkdir(mode=0o700)
        sync_path(parent)
        found: list[tuple[tuple[LogIndex, Term], Path]] = []
        for path in self._directory.iterdir():
            if match := NAME.fullmatch(path.name):
                found.append(((int(match[1]), int(match[2])), path))
            elif _TEMPORARY.fullmatch(path.name):
                path.unlink()
        found.sort()
        if found:
            (index, term), path = found.pop()
            file = SnapshotFile.open(path)
            if (file.meta.index, file.meta.term) != (index, term):
                raise damaged(path, "its name is that of another snapshot")
            # It may have been renamed just before a crash: until its name is
            # durable, the older ones have to stay.
            sync_path(self._directory)
            self._kept = [file]
            self.latest = file.meta
        for _, path in found:
            path.unlink()

    def begin(self, meta: SnapshotMeta) -> SnapshotWriter:
        """Begin a file under a temporary name."""
        _check_meta(meta)
        name = f"{_name_of(meta)}.{next(self._numbers)}.new"
        writer = _FileWriter(self, meta, self._directory / name)
        self._writers.add(writer)
        return writer

    def chunk(self, meta: SnapshotMeta, number: int) -> bytes:
        """Read it from the file."""
        kept = self._find(meta)
        _check_number(meta, number)
        return kept.chunk(number)

    def chunks(self, meta: SnapshotMeta) -> Iterator[bytes]:
        """Read them one after the other."""
        yield from self._find(meta).chunks()

    def hold(self, meta: SnapshotMeta) -> HeldSnapshot:
        """Keep the file open: it can be read though its name be gone."""
        return self._find(meta).hold()

    def _find(self, meta: SnapshotMeta) -> SnapshotFile:
        for kept in self._kept:
            if kept.meta == meta:
                return kept
        raise CompactedError(meta.index)

    def keep(self, writer: _FileWriter, meta: SnapshotMeta) -> None:
        """Give *writer*'s file its name, if *meta* is newer than the latest."""
        if self.latest is not None and meta.index <= self.latest.index:
            writer.abort()
            return
        path = self._directory / _name_of(meta)
        with disk(path):
            writer.path.rename(path)
            self.forget(writer)
            sync_path(self._directory)
            self._kept.append(SnapshotFile(path, meta, writer.start))
            self.latest = meta
            for old in self._kept[:-2]:
                old.path.unlink(missing_ok=True)
            del self._kept[:-2]

    def forget(self, writer: _FileWriter) -> None:
        """Leave *writer* alone when this closes: it is done."""
        self._writers.discard(writer)

    def close(self) -> None:
        """Delete what is not committed."""
        for writer in list(self._writers):
            writer.abort()


class _FileWriter(SnapshotWriter):
    def __init__(self, store: FileSnapshots, meta: SnapshotMeta, path: Path) -> None:
        self.path = path
        self._store = store
        self._meta = meta
        self._tally = _Tally()
        self._unsynced = 0
        self._is_over = False
        self._finished: SnapshotMeta | None = None
        beginning = header(meta)
        self.start = len(beginning)
        self._header_crc = crc32c(beginning)
        self._file: BinaryIO | None = None
        with self._giving_up():
            self._file = _create(path)
            self._file.write(beginning)

    def write(self, chunk: bytes) -> None:
        if self._file is None:
            raise InvariantError("a chunk for a snapshot that is not being written")
        number = self._tally.chunks
        self._tally.add(chunk)
        with self._giving_up():
            self._file.write(chunk_head(number, chunk))
            self._file.write(chunk)
            self._unsynced += len(chunk)
            if self._unsynced >= _SYNC_BYTES:
                self._sync(self._file)

    def finish(self) -> SnapshotMeta:
        if self._finished is not None:
            return self._finished
        if self._file is None:
            raise InvariantError("the snapshot was given up before")
        finished = self._tally.complete(self._meta)
        with self._giving_up():
            self._file.write(footer(finished, self._header_crc))
            self._sync(self._file)
            self._file.close()
        self._file = None
        self._finished = finished
        return finished

    def commit(self) -> None:
        if self._finished is None or self._is_over:
            raise InvariantError("only a finished snapshot can be committed")
        with self._giving_up():
            self._store.keep(self, self._finished)
        self._is_over = True

    def abort(self) -> None:
        if self._is_over:
            return
        self._is_over = True
        self._store.forget(self)
        if self._file is not None:
            # What did not fit into the disk does not fit at the close either.
            with suppress(OSError):
                self._file.close()
            self._file = None
        # If it stays, the next start deletes it.
        with suppress(OSError):
            self.path.unlink(missing_ok=True)

    def _sync(self, file: BinaryIO) -> None:
        file.flush()
        os.fdatasync(file.fileno())
        self._unsynced = 0

    @contextmanager
    def _giving_up(self) -> Iterator[None]:
        """Abort if the disk does not do what it is asked."""
        try:
            with disk(self.path):
                yield
        except StorageError:
            self.abort()
            raise


def _name_of(meta: SnapshotMeta) -> str:
    # With leading zeros a listing is in order; they mean nothing.
    return f"{meta.index:020}-{meta.term}.snapshot"


def _create(path: Path) -> BinaryIO:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o600), "wb")
