"""
Raft storage in a text file, ``log.jsonl``: one line for each write.

A line is a CRC-32C, a space, and a JSON object: ``{"term": …, "vote": …}``,
``{"base": index, "base_term": term}`` of the last dropped entry, or
``{"first": index, "entries": [[term, kind, command in base64], …]}``.  A line
of entries replaces what stood at its first index and above, so a conflict
needs no rewriting.  Only a compaction writes a new file.
"""

from __future__ import annotations

import base64
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar

from crc32c import crc32c

from consensus.core.values import Entry, HardState
from consensus.errors import CompactedError, Finding, StorageError
from consensus.interfaces import Storage

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


@dataclass(frozen=True, slots=True)
class Options:
    """
    What the YAML file may set under ``options:``.

    Args:
        file_name: The file's name in the server's directory.
    """

    file_name: str = "log.jsonl"


class JSONLinesStorage(Storage):
    """The whole log in memory, and in a text file that ``grep`` can read."""

    Options: ClassVar[type[Any]] = Options

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        self._file: BinaryIO | None = None
        self._path = Path()
        self._hard_state = HardState()
        self._base = self._base_term = 0
        self._entries: list[Entry] = []

    @classmethod
    def check(cls, options: Any, directory: Path) -> Iterable[Finding]:
        """Refuse a file name that is a path."""
        if Path(options.file_name).name != options.file_name:
            yield Finding(
                "jsonlines.E001",
                f"{options.file_name!r} is not the name of a file",
                "write a name without slashes",
                "storage.options.file_name",
            )

    def open(self, directory: Path) -> None:
        """Replay the file; cut off a last line that a crash left unfinished."""
        self._path = path = directory / self.options.file_name
        try:
            self._file = path.open("a+b")
            self._file.seek(0)
            lines = self._file.read().splitlines(keepends=True)
            good = 0
            for number, line in enumerate(lines, 1):
                if not self._replay(line):
                    if number < len(lines):
                        message = f"{path}, line {number} is damaged; restore a copy"
                        raise StorageError(message)
                    break
                good += len(line)
            self._file.truncate(good)
            self._file.seek(0, os.SEEK_END)
            os.fsync(self._file.fileno())
            _sync_directory(directory)
        except OSError as error:
            message = f"cannot open {path}: {error}"
            raise StorageError(message) from error

    def _replay(self, line: bytes) -> bool:
        """Do again what *line* says; return whether it is whole."""
        checksum, _, text = line.rstrip(b"\n").partition(b" ")
        if not line.endswith(b"\n") or checksum != b"%08x" % crc32c(text):
            return False
        record = json.loads(text)
        if "entries" in record:
            first = record["first"]
            del self._entries[first - self._base - 1 :]
            self._entries += [
                Entry(index, term, kind, base64.b64decode(command))
                for index, (term, kind, command) in enumerate(record["entries"], first)
            ]
        elif "base" in record:
            self._base, self._base_term = record["base"], record["base_term"]
        else:
            self._hard_state = HardState(record["term"], record["vote"])
        return True

    def _write(self, record: dict[str, Any]) -> None:
        try:
            self._opened.write(_line(record))
        except OSError as error:
            message = f"cannot write: {error}"
            raise StorageError(message) from error

    @property
    def _opened(self) -> BinaryIO:
        if self._file is None:
            raise StorageError("the storage is not open")
        return self._file

    def hard_state(self) -> HardState:
        """Return what was saved last."""
        return self._hard_state

    def save_hard_state(self, hard_state: HardState) -> None:
        """Add a line; the last one counts."""
        self._write(_hard_state_record(hard_state))
        self._hard_state = hard_state

    def append(self, entries: Sequence[Entry]) -> None:
        """Add a line; a torn one is no line, so it is atomic."""
        if not entries:
            raise StorageError("nothing to append")
        first = entries[0].index
        indexes = [entry.index for entry in entries]
        if not self._base < first <= self.last_index() + 1 or indexes != list(
            range(first, first + len(entries))
        ):
            message = f"{indexes[0]} to {indexes[-1]} do not follow {self.last_index()}"
            raise StorageError(message)
        self._write(_entries_record(entries))
        del self._entries[first - self._base - 1 :]
        self._entries += entries

    def entries(self, first: int, last: int, max_bytes: int) -> Sequence[Entry]:
        """Return them from memory."""
        self._check_index(first)
        self._check_index(last)
        chosen: list[Entry] = []
        size = 0
        for entry in self._entries[first - self._base - 1 : last - self._base]:
            size += len(entry.command)
            if chosen and size > max_bytes:
                break
            chosen.append(entry)
        return chosen

    def term(self, index: int) -> int:
        """Return it from memory."""
        if index == self._base:
            return self._base_term
        self._check_index(index)
        return self._entries[index - self._base - 1].term

    def _check_index(self, index: int) -> None:
        if index <= self._base:
            raise CompactedError(self.first_index())
        if index > self.last_index():
            message = f"there is no entry {index}; the last is {self.last_index()}"
            raise StorageError(message)

    def first_index(self) -> int:
        """Return what follows the last dropped entry."""
        return self._base + 1

    def last_index(self) -> int:
        """Return the number of entries, with those that were dropped."""
        return self._base + len(self._entries)

    def compact(self, index: int, term: int) -> None:
        """Put a new file, without the dropped entries, in the place of the old."""
        if index <= self._base:
            return
        keeps = index <= self.last_index() and self.term(index) == term
        kept = self._entries[index - self._base :] if keeps else []
        self._rewrite(
            _hard_state_record(self._hard_state),
            {"base": index, "base_term": term},
            *([_entries_record(kept)] if kept else []),
        )
        self._base, self._base_term, self._entries = index, term, kept

    def _rewrite(self, *records: dict[str, Any]) -> None:
        new = self._path.with_name(f"{self._path.name}.new")
        try:
            with new.open("wb") as file:
                file.writelines(map(_line, records))
                file.flush()
                os.fsync(file.fileno())
            self._opened.close()
            # From here on, one whole file or the other is there.
            new.replace(self._path)
            _sync_directory(self._path.parent)
            self._file = self._path.open("ab")
        except OSError as error:
            message = f"cannot compact: {error}"
            raise StorageError(message) from error

    def sync(self) -> None:
        """Hand all lines to the disk."""
        try:
            self._opened.flush()
            os.fdatasync(self._opened.fileno())
        except OSError as error:
            message = f"cannot sync: {error}"
            raise StorageError(message) from error

    def close(self) -> None:
        """Close the file and forget the rest."""
        if self._file is not None:
            self._file.close()
        self._file, self._hard_state, self._entries = None, HardState(), []
        self._base = self._base_term = 0



def _line(record: dict[str, Any]) -> bytes:
    text = json.dumps(record).encode()
    return b"%08x %s\n" % (crc32c(text), text)


def _hard_state_record(hard_state: HardState) -> dict[str, Any]:
    return {"term": hard_state.term, "vote": hard_state.vote}


def _entries_record(entries: Sequence[Entry]) -> dict[str, Any]:
    commands = [
        (entry.term, int(entry.kind), base64.b64encode(entry.command).decode())
        for entry in entries
    ]
    return {"first": entries[0].index, "entries": commands}


def _sync_directory(directory: Path) -> None:
    """Make the file's name as durable as its content."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
