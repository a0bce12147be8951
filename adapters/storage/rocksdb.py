"""
Storage in a RocksDB database, ``raft.rocksdb/``: a key for each entry.

``e`` + index (8 bytes, big-endian, so that keys sort as indexes do)
    The entry.
``h``
    The hard state.
``x``
    The extent: what was dropped, and where memberships stand.

The values are the records of :mod:`~adapters.storage.records`; RocksDB's own
checksums would not notice a whole value under the wrong key.  The file
``FORMAT`` beside RocksDB's own is the version of all this.  ``h`` and ``x``
sort after the entries: before them, every table would overlap with every
other, and RocksDB would rewrite the whole log again and again.

What is written between two calls of :meth:`RocksDBStorage.sync` waits in
memory, where reads look first.  The sync writes it as one atomic batch to
RocksDB's write-ahead log, and then syncs that log.  The two are apart because
rocksdict holds the interpreter's lock in ``write``, but not in ``flush_wal``,
and the sync is what takes long.

A compaction is a range deletion, whatever its size.  RocksDB gives the space
back when it next merges the tables that have the range.
"""

from __future__ import annotations

import struct
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rocksdict

from adapters.storage import records
from adapters.storage.records import FORMAT, REMEDY, Extent, sync_file
from consensus.core.values import HardState
from consensus.errors import DiskFullError, Finding, StorageError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence

    from adapters.storage.records import Record
    from consensus.core.values import Entry, LogIndex, Term

_DIRECTORY = "raft.rocksdb"
_MIB = 1024 * 1024

_FORMAT_FILE = "FORMAT"
_FORMAT_DRAFT = "FORMAT.new"
_HARD_STATE_KEY = b"h"
_EXTENT_KEY = b"x"
_LAST_POSSIBLE_INDEX = 2**63 - 1

# rocksdict has one class for all errors; this is the system's word for ENOSPC.
_FULL = "No space left on device"

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
_pack_key = _KEY.pack


def _key(index: LogIndex) -> bytes:
    return _pack_key(b"e", index)


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


class RocksDBStorage(records.RecordStorage):
    """A log in a RocksDB database; see the module for its format."""

    Options = RocksDBOptions

    def __init__(self, options: Any = None) -> None:
        """Keep *options*; the database is opened by :meth:`open`."""
        super().__init__(options)
        self._database: rocksdict.Rdict | None = None
        self._path = Path(_DIRECTORY)
        #: What is not synced: the end of the log, and the term and vote.
        self._tail: list[Entry] = []
        self._values: list[bytes] = []
        self._new_hard_state: HardState | None = None

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
            self._forget()
            self._extent = self._synced = self._find_extent()
            # What a vote or an election needs first has to be there.
            self.hard_state()
            self.term(self._extent.last_index)
        except BaseException:
            self.close()
            raise

    def hard_state(self) -> HardState:
        """Return what stands under ``h``."""
        with self._using("read the term and vote") as database:
            if self._new_hard_state is not None:
                return self._new_hard_state
            value = database.get(_HARD_STATE_KEY)
        return records.unpack_hard_state(self._path, value)

    def save_hard_state(self, hard_state: HardState) -> None:
        """Keep it for the sync."""
        with self._using("save the term and vote"):
            records.pack_hard_state(hard_state)
            self._new_hard_state = hard_state

    def append(self, entries: Sequence[Entry]) -> None:
        """Keep them for the sync, in the place of what they replace."""
        with self._using("append"):
            self._extent.check_append(entries)
            values = [records.pack_entry(entry) for entry in entries]
            if self._tail:
                kept = max(entries[0].index - self._tail[0].index, 0)
                del self._tail[kept:], self._values[kept:]
            self._tail += entries
            self._values += values
            self._extent = self._extent.appended(entries)

    def entries(
        self, first: LogIndex, last: LogIndex, max_bytes: int
    ) -> Sequence[Entry]:
        """Read values until *max_bytes* are full, checking each."""
        self._extent.check_range(first, last)
        with self._using(f"read entries {first} to {last}") as database:
            begin = self._tail[0].index if self._tail else last + 1
            found: list[Entry] = []
            if first < begin:
                stored = min(last, begin - 1)
                with closing(_items(database, first, stored)) as items:
                    found = records.checked(self._path, items, first, stored, max_bytes)
                if found[-1].index < stored:
                    return found
            size = sum(len(entry.command) for entry in found)
            for entry in self._tail[max(first - begin, 0) : max(last - begin + 1, 0)]:
                size += len(entry.command)
                if found and size > max_bytes:
                    break
                found.append(entry)
            return found

    def compact(self, index: LogIndex, term: Term) -> None:
        """Have the sync delete a range; only the base moves now."""
        if index < self._extent.first_index:
            return
        extent = self._compacted(index, term)
        with self._using("compact"):
            extent.pack()
            if extent.last_index == index:
                gone = len(self._tail)
            else:
                gone = sum(entry.index <= index for entry in self._tail)
            del self._tail[:gone], self._values[:gone]
            self._extent = extent

    def sync(self) -> None:
        """
        Write what waits, sync the write-ahead log; close for good on failure.

        On a full disk the database stays open, without what was waiting.  It
        takes writes again by itself, some seconds after there is room: it
        looks every five.  What was written of the batch is no whole record,
        and its next start would leave it out.
        """
        with self._using("sync") as database:
            if not self._is_waiting():
                return
            try:
                database.write(self._batch())
            except Exception as error:
                if _is_full(error):
                    self._forget()
                else:
                    self.close()
                raise
            try:
                database.flush_wal(sync=True)
            except Exception as error:
                # A second try might succeed without the pages that are lost,
                # whatever the reason; so this is never a mere full disk.
                self.close()
                message = f"{self._path}: cannot sync: {error}"
                raise StorageError(message) from error
            self._synced = self._extent
            self._forget()

    def close(self) -> None:
        """Close the database; RocksDB moves what it has in memory to a table."""
        database, self._database = self._database, None
        if database is not None:
            # What was synced is on the disk, whatever comes of this.
            with suppress(Exception):
                database.close()

    def _is_waiting(self) -> bool:
        return (
            bool(self._tail)
            or self._new_hard_state is not None
            or self._extent != self._synced
        )

    def _forget(self) -> None:
        """Have nothing wait for a sync."""
        self._tail, self._values = [], []
        self._new_hard_state = None
        self._extent = self._synced

    def _batch(self) -> rocksdict.WriteBatch:
        """Return what waits, as one batch: first what goes, then what comes."""
        batch = rocksdict.WriteBatch(raw_mode=True)
        old, new = self._synced, self._extent
        if new.base_index > old.base_index:
            batch.delete_range(_key(old.first_index), _key(new.first_index))
        if new.last_index < old.last_index:
            batch.delete_range(_key(new.last_index + 1), _key(old.last_index + 1))
        for entry, value in zip(self._tail, self._values, strict=True):
            batch.put(_key(entry.index), value)
        if self._new_hard_state is not None:
            batch.put(_HARD_STATE_KEY, records.pack_hard_state(self._new_hard_state))
        if not new.has_same_record(old):
            batch.put(_EXTENT_KEY, new.pack())
        return batch

    @contextmanager
    def _using(self, doing: str) -> Iterator[rocksdict.Rdict]:
        if self._database is None:
            message = f"{self._path}: cannot {doing}: it is not open"
            raise StorageError(message)
        with _driver_errors(self._path, doing):
            yield self._database

    def _find_extent(self) -> Extent:
        with self._using("open") as database:
            value = database.get(_EXTENT_KEY)
            key = _last_key(database)
            if value is None and key is None and _HARD_STATE_KEY not in database:
                # New, or killed before this was done.
                batch = rocksdict.WriteBatch(raw_mode=True)
                batch.put(_HARD_STATE_KEY, records.pack_hard_state(HardState()))
                batch.put(_EXTENT_KEY, Extent().pack())
                database.write(batch)
                database.flush_wal(sync=True)
                return Extent()
            extent = Extent.unpack(self._path, value)
            if key is None:
                return extent
            index: int
            _, index = _KEY.unpack(key)
            if _key(extent.first_index) not in database:
                missing = records.missing_entry(self._path, extent.first_index)
                raise StorageError(missing)
            return replace(extent, last_index=index)


@contextmanager
def _driver_errors(path: Path, doing: str) -> Iterator[None]:
    """Turn what RocksDB, the system and a number too large raise into ours."""
    try:
        yield
    except StorageError:
        raise
    except Exception as error:  # rocksdict has no narrower class
        message = f"{path}: cannot {doing}: {error}"
        if _is_full(error):
            raise DiskFullError(message) from error
        raise StorageError(message) from error


def _is_full(error: Exception) -> bool:
    return _FULL in str(error)


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
) -> Generator[Record]:
    items = islice(database.items(from_key=_key(first)), last - first + 1)
    try:
        for expected, (key, value) in enumerate(items, first):
            if key != _key(expected):
                return
            yield records.split_entry(expected, value)
    finally:
        del items


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


def _make_directory(path: Path) -> None:
    """Make *path* and its ``FORMAT``, durably, so that both are there or none."""
    path.mkdir(exist_ok=True)
    if not (path / _FORMAT_FILE).exists():
        draft = path / _FORMAT_DRAFT
        draft.write_text(f"{FORMAT}\n")
        sync_file(draft)
        draft.replace(path / _FORMAT_FILE)
    sync_file(path)
    sync_file(path.parent)


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
        yield Finding("storage.E101", message, REMEDY, "data_dir")
        return
    if _FORMAT_FILE not in names:
        if names - {_FORMAT_DRAFT}:
            yield Finding(
                "storage.E102",
                f"{path} has no {_FORMAT_FILE}: it belongs to another program",
                "give the server a data directory of its own",
                "data_dir",
            )
    elif findings := list(records.look_at_format(path, version)):
        yield from findings
    elif "CURRENT" not in names and any(
        name.endswith((".log", ".sst")) for name in names
    ):
        yield Finding(
            "storage.E104",
            f"{path}/CURRENT is gone, but tables or logs are still there",
            REMEDY,
            "data_dir",
        )
