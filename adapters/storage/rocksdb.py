"""
Storage in a RocksDB database, ``raft.rocksdb/``: a key for each entry.

``e`` + index
    CRC-32, term, kind, command.
``h``
    CRC-32, term and, after a 1 if there is one, the vote.

The file ``FORMAT`` beside RocksDB's own is the version of all this.

Numbers are big-endian, so that keys sort as indexes do: 8 bytes for an index
or a term, 4 for a CRC-32, 1 for a kind.  :func:`_entry_crc` and
:func:`_pack_hard_state` say what a CRC-32 covers; RocksDB's own checksums
would not notice a whole value under the wrong key.  ``h`` sorts after the
entries: before them, every table would overlap with every other, and RocksDB
would rewrite the whole log again and again.

An append is one atomic batch in RocksDB's write-ahead log, and a sync syncs
that log.  The two are apart because rocksdict holds the interpreter's lock in
``write``, but not in ``flush_wal``, and the sync is what takes long.
"""

from __future__ import annotations

import os
import struct
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import rocksdict

from consensus.core.values import Entry, HardState
from consensus.errors import CompactedError, Finding, StorageError
from consensus.interfaces import Storage

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence

    from consensus.core.values import LogIndex, Term

_DIRECTORY = "raft.rocksdb"
_FORMAT = 1
_FIRST_INDEX = 1
_MIB = 1024 * 1024
_REMEDY = "check the disk, then replace this server: its copy cannot be trusted"

_FORMAT_FILE = "FORMAT"
_FORMAT_DRAFT = "FORMAT.new"
_HARD_STATE_KEY = b"h"
_LAST_POSSIBLE_INDEX = 2**63 - 1

# How much text RocksDB may leave in its own files named LOG.
_INFO_LOGS = 2
_INFO_LOG_BYTES = _MIB

# rocksdict holds the interpreter's lock while RocksDB makes a write wait, so
# these are high enough that it never has to: a log's tables do not overlap,
# and merging them costs next to nothing.
_WRITE_BUFFERS = 6
_TABLES_BEFORE_SLOWDOWN = 64
_TABLES_BEFORE_STOP = 128

_KEY = struct.Struct(">cq")
_HEAD = struct.Struct(">IqB")
_CRC = struct.Struct(">I")
_TERM = struct.Struct(">q")
_pack_key = _KEY.pack
_pack_head = _HEAD.pack
_pack_summed = struct.Struct(">qqB").pack


def _key(index: LogIndex) -> bytes:
    return _pack_key(b"e", index)


def _entry_crc(index: LogIndex, term: Term, kind: int, command: bytes) -> int:
    """Return the CRC-32 of index, term (8 bytes each), kind (1) and command."""
    return crc32(command, crc32(_pack_summed(index, term, kind)))


def _pack_hard_state(hard_state: HardState) -> bytes:
    """Return the value of ``h``, which begins with the CRC-32 of the rest."""
    voted = b"" if hard_state.vote is None else b"\x01" + hard_state.vote.encode()
    body = _TERM.pack(hard_state.term) + voted
    return _CRC.pack(crc32(body)) + body


def _unpack_hard_state(value: bytes) -> HardState:
    """
    Return what :func:`_pack_hard_state` packed.

    Raises:
        ValueError: *value* is not what it was.
    """
    body = value[_CRC.size :]
    if len(body) < _TERM.size or value[: _CRC.size] != _CRC.pack(crc32(body)):
        raise ValueError("the CRC-32 is another")
    (term,) = _TERM.unpack_from(body)
    voted = body[_TERM.size :]
    return HardState(term, voted[1:].decode() if voted else None)


@dataclass(frozen=True, slots=True)
class RocksDBOptions:
    """
    What the YAML file may set under ``storage.options``.

    Args:
        write_buffer_mib: How much of the log's end stays in memory before it
            becomes a table file.  The write-ahead log, which a start reads
            again, grows about as large.
        cache_mib: How much of the tables RocksDB keeps in memory.
    """

    write_buffer_mib: int = 16
    cache_mib: int = 8


class RocksDBStorage(Storage):
    """A log in a RocksDB database; see the module for its format."""

    Options = RocksDBOptions

    def __init__(self, options: Any = None) -> None:
        """Keep *options*; the database is opened by :meth:`open`."""
        super().__init__(options)
        self._database: rocksdict.Rdict | None = None
        self._path = Path(_DIRECTORY)
        self._last = 0

    @classmethod
    def check(cls, options: RocksDBOptions, directory: Path) -> Iterable[Finding]:
        """Look at the options and at which files are there."""
        for field in fields(options):
            if getattr(options, field.name) < 1:
                yield Finding(
                    "storage.E105",
                    f"{field.name} is {getattr(options, field.name)}",
                    "write 1 or more",
                    f"storage.options.{field.name}",
                )
        yield from _look_at_files(directory / _DIRECTORY)

    def open(self, directory: Path) -> None:
        """Open the database, or make it; RocksDB syncs what it recovers."""
        self._path = directory / _DIRECTORY
        for finding in _look_at_files(self._path):
            raise StorageError(str(finding))
        with _driver_errors(self._path, "open"):
            _make_directory(self._path)
            self._database = rocksdict.Rdict(
                str(self._path), _database_options(self.options)
            )
        try:
            self._last = self._find_last()
            # What a vote or an election needs first has to be there.
            self.hard_state()
            self.term(self._last)
        except BaseException:
            self.close()
            raise

    def hard_state(self) -> HardState:
        """Return what stands under ``h``."""
        with self._using("read the term and vote") as database:
            value = database.get(_HARD_STATE_KEY)
        if value is None:
            return HardState()
        try:
            return _unpack_hard_state(value)
        except ValueError as error:
            message = f"{self._path}: the term and vote are damaged; {_REMEDY}"
            raise StorageError(message) from error

    def save_hard_state(self, hard_state: HardState) -> None:
        """Replace what stands under ``h``."""
        with self._using("save the term and vote") as database:
            database.put(_HARD_STATE_KEY, _pack_hard_state(hard_state))

    def append(self, entries: Sequence[Entry]) -> None:
        """Put *entries* and delete what is left of the suffix, in one batch."""
        with self._using("append") as database:
            batch = _batch(entries, self._last)
            last = entries[-1].index
            if last < self._last:
                batch.delete_range(_key(last + 1), _key(self._last + 1))
            database.write(batch)
        self._last = last

    def entries(
        self, first: LogIndex, last: LogIndex, max_bytes: int
    ) -> Sequence[Entry]:
        """Read values until *max_bytes* are full, checking each."""
        if first < _FIRST_INDEX:
            raise CompactedError(_FIRST_INDEX)
        if last > self._last:
            message = f"entry {last} is beyond the last, {self._last}"
            raise StorageError(message)
        with (
            self._using(f"read entries {first} to {last}") as database,
            closing(_items(database, first, last)) as items,
        ):
            return self._intact(items, first, last, max_bytes)

    def term(self, index: LogIndex) -> Term:
        """Read the entry at *index*, so that it is checked as well."""
        if index == 0:
            return 0
        return self.entries(index, index, 0)[0].term

    def first_index(self) -> LogIndex:
        """Return 1: nothing is ever compacted."""
        return _FIRST_INDEX

    def last_index(self) -> LogIndex:
        """Return the highest index, which is kept in memory."""
        return self._last

    def sync(self) -> None:
        """Sync the write-ahead log; close the database for good if that fails."""
        with self._using("sync") as database:
            try:
                database.flush_wal(sync=True)
            except Exception:
                # A second try might succeed without the pages that are lost.
                self.close()
                raise

    def close(self) -> None:
        """Close the database; RocksDB moves what it has in memory to a table."""
        database, self._database = self._database, None
        if database is not None:
            # What was synced is on the disk, whatever comes of this.
            with suppress(Exception):
                database.close()

    @contextmanager
    def _using(self, doing: str) -> Iterator[rocksdict.Rdict]:
        if self._database is None:
            message = f"{self._path}: cannot {doing}: it is not open"
            raise StorageError(message)
        with _driver_errors(self._path, doing):
            yield self._database

    def _find_last(self) -> LogIndex:
        with self._using("open") as database:
            key = _last_key(database)
            if key is None:
                return 0
            index: int
            _, index = _KEY.unpack(key)
            if database.get(_key(_FIRST_INDEX)) is None:
                raise StorageError(self._damage(_FIRST_INDEX, "missing"))
            return index

    def _intact(
        self,
        items: Iterable[tuple[Any, Any]],
        first: LogIndex,
        last: LogIndex,
        max_bytes: int,
    ) -> list[Entry]:
        found: list[Entry] = []
        expected = first
        size = 0
        for key, value in items:
            if key != _key(expected):
                break
            command = value[_HEAD.size :]
            size += len(command)
            try:
                crc, term, kind = _HEAD.unpack_from(value)
                intact = crc == _entry_crc(expected, term, kind, command)
            except struct.error:
                intact = False
            if not intact:
                raise StorageError(self._damage(expected, "damaged"))
            if found and size > max_bytes:
                return found
            found.append(Entry(expected, term, kind, command))
            expected += 1
        if expected <= last:
            raise StorageError(self._damage(expected, "missing"))
        return found

    def _damage(self, index: LogIndex, what: str) -> str:
        return f"{self._path}: entry {index} is {what}; {_REMEDY}"


@contextmanager
def _driver_errors(path: Path, doing: str) -> Iterator[None]:
    """Turn what RocksDB, the system and a number too large raise into ours."""
    try:
        yield
    except StorageError:
        raise
    except Exception as error:  # rocksdict has no narrower class
        message = f"{path}: cannot {doing}: {error}"
        raise StorageError(message) from error


def _database_options(options: RocksDBOptions) -> rocksdict.Options:
    chosen = rocksdict.Options(raw_mode=True)
    chosen.set_write_buffer_size(options.write_buffer_mib * _MIB)
    chosen.set_max_write_buffer_number(_WRITE_BUFFERS)
    chosen.set_level_zero_slowdown_writes_trigger(_TABLES_BEFORE_SLOWDOWN)
    chosen.set_level_zero_stop_writes_trigger(_TABLES_BEFORE_STOP)
    chosen.set_compression_type(rocksdict.DBCompressionType.lz4())
    tables = rocksdict.BlockBasedOptions()
    tables.set_block_cache(rocksdict.Cache(options.cache_mib * _MIB))
    chosen.set_block_based_table_factory(tables)
    # A power cut may tear what was not synced, in any place.  This mode keeps
    # what is before the tear; others refuse to open, or leave a hole.
    chosen.set_wal_recovery_mode(rocksdict.DBRecoveryMode.point_in_time())
    chosen.set_keep_log_file_num(_INFO_LOGS)
    chosen.set_max_log_file_size(_INFO_LOG_BYTES)
    chosen.set_stats_dump_period_sec(0)
    chosen.set_stats_persist_period_sec(0)
    return chosen


# An iterator keeps the database open, past its close, for as long as anything
# refers to it: the traceback of an error that somebody holds on to will do.
# Therefore no frame of the two functions below keeps one.


def _items(
    database: rocksdict.Rdict, first: LogIndex, last: LogIndex
) -> Generator[tuple[Any, Any]]:
    yield from islice(database.items(from_key=_key(first)), last - first + 1)


def _last_key(database: rocksdict.Rdict) -> bytes | None:
    place = database.iter()
    try:
        place.seek_for_prev(_key(_LAST_POSSIBLE_INDEX))
        # A block that cannot be read looks like the end, but for this.
        place.status()
        key: bytes | None = place.key()
        return key
    finally:
        del place


def _batch(entries: Sequence[Entry], last: LogIndex) -> rocksdict.WriteBatch:
    """Return *entries* as a batch, or refuse them as no continuation of *last*."""
    if not entries:
        raise StorageError("nothing to append")
    expected = entries[0].index
    if not _FIRST_INDEX <= expected <= last + 1:
        message = f"entry {expected} does not follow {last}"
        raise StorageError(message)
    batch = rocksdict.WriteBatch(raw_mode=True)
    for entry in entries:
        index, term, kind, command = entry.index, entry.term, entry.kind, entry.command
        if index != expected:
            message = f"entry {index} stands in the place of {expected}"
            raise StorageError(message)
        crc = _entry_crc(index, term, kind, command)
        batch.put(_key(index), _pack_head(crc, term, kind) + command)
        expected += 1
    return batch


def _make_directory(path: Path) -> None:
    """Make *path* and its ``FORMAT``, durably, so that both are there or none."""
    path.mkdir(exist_ok=True)
    if not (path / _FORMAT_FILE).exists():
        draft = path / _FORMAT_DRAFT
        draft.write_text(f"{_FORMAT}\n")
        _sync(draft)
        draft.replace(path / _FORMAT_FILE)
    _sync(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _look_at_files(path: Path) -> Iterator[Finding]:
    """
    Yield what forbids to open *path*, changing nothing.

    RocksDB itself is not asked, because it cannot open without writing.
    """
    try:
        names = {file.name for file in path.iterdir()}
        version = ""
        if _FORMAT_FILE in names:
            version = (path / _FORMAT_FILE).read_text().strip()
    except FileNotFoundError:
        return
    except (OSError, UnicodeError) as error:
        message = f"{path} cannot be read: {error}"
        yield Finding("storage.E101", message, _REMEDY, "data_dir")
        return
    if _FORMAT_FILE not in names:
        if names - {_FORMAT_DRAFT}:
            yield Finding(
                "storage.E102",
                f"{path} has no {_FORMAT_FILE}: it belongs to another program",
                "give the server a data directory of its own",
                "data_dir",
            )
    elif version != str(_FORMAT):
        yield Finding(
            "storage.E103",
            f"{path} has format {version or '?'}; this release reads {_FORMAT}",
            "run the release that wrote it",
            "data_dir",
        )
    elif "CURRENT" not in names and any(
        name.endswith((".log", ".sst")) for name in names
    ):
        yield Finding(
            "storage.E104",
            f"{path}/CURRENT is gone, but tables or logs are still there",
            _REMEDY,
            "data_dir",
        )
