"""
Storage in a RocksDB database, ``raft.rocksdb/``: a key for each batch of entries.

``e`` + index of the first entry (8 bytes, big-endian, so that keys sort as
indexes do)
    A batch of entries.
``h``
    The hard state.
``x``
    The extent: what was dropped, and where memberships stand.

The values are the records of :mod:`~adapters.storage.records`; RocksDB's own
checksums would not notice a whole value under the wrong key.  The file
``FORMAT`` beside RocksDB's own is the version of all this.  ``h`` and ``x``
sort after the batches: before them, every table would overlap with every
other, and RocksDB would rewrite the whole log again and again.

What is written between two calls of :meth:`RocksDBStorage.sync` waits in
memory, where reads look first.  The sync writes it as one atomic batch to
RocksDB's write-ahead log, and then syncs that log.  The two are apart because
rocksdict holds the interpreter's lock in ``write``, but not in ``flush_wal``,
and the sync is what takes long.

A compaction is a range deletion, whatever its size; the batch that the log then
begins in stays whole.  RocksDB gives the space back when it next merges the
tables that have the range.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import rocksdict

from adapters.storage import engine, records
from adapters.storage.engine import FORMAT_FILE, EngineStorage
from adapters.storage.records import Extent, sync_file
from consensus.core.values import HardState
from consensus.durable import NEW
from consensus.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence
    from pathlib import Path

    from consensus.core.values import Entry, LogIndex, Term
    from consensus.errors import Finding

_DIRECTORY = "raft.rocksdb"
_MIB = 1024 * 1024

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


class _Batch(NamedTuple):
    """Some entries, one at least, and their packed form."""

    entries: Sequence[Entry]
    packed: bytes

    @property
    def first(self) -> LogIndex:
        return self.entries[0].index

    @property
    def last(self) -> LogIndex:
        return self.entries[-1].index


class RocksDBStorage(EngineStorage[rocksdict.Rdict]):
    """A log in a RocksDB database; see the module for its format."""

    Options = RocksDBOptions
    name = _DIRECTORY
    driver_errors = (Exception,)  # rocksdict has no narrower class

    def __init__(self, options: Any = None) -> None:
        """Keep *options*; the database is opened by :meth:`open`."""
        super().__init__(options)
        #: What is not synced: the end of the log, and the term and vote.
        self._tail: list[_Batch] = []
        self._new_hard_state: HardState | None = None
        #: Where the first batch in the database begins.
        self._oldest: LogIndex = 1
        #: The next sync deletes the batches that begin below the one, and those
        #: from the other on, which is at most where the tail begins.
        self._front: LogIndex = 1
        self._end: LogIndex = 1

    @classmethod
    def check(cls, options: RocksDBOptions, directory: Path) -> Iterable[Finding]:
        """Look at the options and at which files are there."""
        yield from engine.look_at_options(options)
        yield from _look_at_files(directory / _DIRECTORY)

    def open(self, directory: Path) -> None:
        """Open the database, or make it; RocksDB syncs what it recovers."""
        self._path = directory / _DIRECTORY
        engine.refuse(_look_at_files(self._path))
        with self._reporting("open"):
            _make_directory(self._path)
            database = rocksdict.Rdict(str(self._path), _database_options(self.options))
        self._begin(database)

    @staticmethod
    def is_full(error: BaseException) -> bool:
        """Look at what RocksDB cites."""
        return _FULL in str(error)

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
        with self._using("append") as database:
            self._extent.check_append(entries)
            batches = [_Batch(*each) for each in records.pack_batches(entries)]
            if entries[0].index <= self._extent.last_index:
                self._cut(database, entries[0].index)
            self._tail += batches
            self._extent = self._extent.appended(entries)

    def _cut(self, database: rocksdict.Rdict, first: LogIndex) -> None:
        """
        Drop all entries from *first* on; a batch keeps those before it.

        What a batch of the database keeps is the tail's, to be written again.
        """
        if first < self._end:
            start, kept = _start_before(database, first), []
            if start < first:
                with closing(self._stored(database, first)) as stored:
                    kept = _kept(next(stored), first)
            self._end, self._tail = start, kept
            return
        while self._tail and self._tail[-1].last >= first:
            entries = self._tail.pop().entries
            self._tail += _kept(entries, first)

    def entries(
        self, first: LogIndex, last: LogIndex, max_bytes: int
    ) -> Sequence[Entry]:
        """Read values until *max_bytes* are full, checking each."""
        self._extent.check_range(first, last)
        with self._using(f"read entries {first} to {last}") as database:
            found = self._batches(database, first)
            with closing(found):
                return records.gather(self._path, found, first, last, max_bytes)

    def _batches(
        self, database: rocksdict.Rdict, first: LogIndex
    ) -> Generator[Sequence[Entry]]:
        """Yield the batches from the one on that *first* is in."""
        if first < self._end:
            with closing(self._stored(database, first)) as stored:
                yield from stored
        start = bisect_right(self._tail, first, key=attrgetter("first"))
        for batch in self._tail[max(start - 1, 0) :]:
            yield batch.entries

    def _stored(
        self, database: rocksdict.Rdict, first: LogIndex
    ) -> Generator[Sequence[Entry]]:
        """Yield those in the database, from the one on that *first* is in."""
        with closing(_items(database, first)) as items:
            for start, value in items:
                if start >= self._end:
                    return
                yield records.open_batch(self._path, start, value)

    def compact(self, index: LogIndex, term: Term) -> None:
        """Have the sync delete a range; only the base moves now."""
        if index < self._extent.first_index:
            return
        extent = self._compacted(index, term)
        with self._using("compact") as database:
            extent.pack()
            front, end, tail = self._front, self._end, self._tail
            if extent.last_index == index:
                end, tail = self._oldest, []
            else:
                tail = [batch for batch in tail if batch.last > index]
                front = end
                if not tail or tail[0].first > extent.first_index:
                    front = _start_before(database, extent.first_index)
            self._front, self._end, self._tail = front, end, tail
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
                if self.is_full(error):
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
            if self._front < self._end:
                self._oldest = self._front
            else:
                self._oldest = self._tail[0].first if self._tail else self._next
            self._forget()

    def close(self) -> None:
        """Close the database; RocksDB moves what it has in memory to a table."""
        database, self._driver = self._driver, None
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
        self._tail = []
        self._new_hard_state = None
        self._extent = self._synced
        self._front = self._oldest
        self._end = self._next

    @property
    def _next(self) -> LogIndex:
        """Return the index of the next entry."""
        return self._extent.last_index + 1

    def _batch(self) -> rocksdict.WriteBatch:
        """Return what waits, as one batch: first what goes, then what comes."""
        batch = rocksdict.WriteBatch(raw_mode=True)
        old, new = self._synced, self._extent
        if self._oldest < self._front:
            batch.delete_range(_key(self._oldest), _key(self._front))
        if self._end <= old.last_index:
            batch.delete_range(_key(self._end), _key(old.last_index + 1))
        for each in self._tail:
            record = records.seal_batch(each.first, each.packed)
            batch.put(_key(each.first), record)
        if self._new_hard_state is not None:
            batch.put(_HARD_STATE_KEY, records.pack_hard_state(self._new_hard_state))
        if not new.has_same_record(old):
            batch.put(_EXTENT_KEY, new.pack())
        return batch

    def _prepare(self, database: rocksdict.Rdict) -> None:
        """Set what is known of the log, as the last sync left it."""
        value = database.get(_EXTENT_KEY)
        last_key = _key_before(database, _LAST_POSSIBLE_INDEX)
        if value is None and last_key is None and _HARD_STATE_KEY not in database:
            # New, or killed before this was done.
            batch = rocksdict.WriteBatch(raw_mode=True)
            batch.put(_HARD_STATE_KEY, records.pack_hard_state(HardState()))
            batch.put(_EXTENT_KEY, Extent().pack())
            database.write(batch)
            database.flush_wal(sync=True)
            value = Extent().pack()
        extent = Extent.unpack(self._path, value)
        self._oldest = extent.first_index
        if last_key is not None:
            start = _index(last_key)
            value = database.get(last_key)
            last = records.open_batch(self._path, start, value or b"")
            end = max(last[-1].index, extent.base_index)
            extent = replace(extent, last_index=end)
            self._oldest = _start_before(database, extent.first_index)
        self._synced = extent
        self._forget()


def _kept(entries: Sequence[Entry], first: LogIndex) -> list[_Batch]:
    """Return what is before *first* of the batch that has *entries*."""
    kept = entries[: max(first - entries[0].index, 0)]
    return [_Batch(*each) for each in records.pack_batches(kept)] if kept else []


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
    database: rocksdict.Rdict, first: LogIndex
) -> Generator[tuple[LogIndex, bytes]]:
    """Yield index and value of the last key up to *first*, and of those after it."""
    place = database.iter()
    try:
        place.seek_for_prev(_key(first))
        while place.valid() and (key := place.key()) < _HARD_STATE_KEY:
            yield _index(key), place.value()
            place.next()
        # A block that cannot be read looks like the end, but for this.
        place.status()
    finally:
        del place


def _key_before(database: rocksdict.Rdict, index: LogIndex) -> bytes | None:
    """Return the last key of a batch that begins at *index* or before."""
    place = database.iter()
    try:
        place.seek_for_prev(_key(index))
        place.status()
        key: bytes | None = place.key()
        return key
    finally:
        del place


def _start_before(database: rocksdict.Rdict, index: LogIndex) -> LogIndex:
    """Return where the batch begins that *index* is in; *index* if in none."""
    key = _key_before(database, index)
    return index if key is None else _index(key)


def _index(key: bytes) -> LogIndex:
    index: LogIndex
    _, index = _KEY.unpack(key)
    return index


def _make_directory(path: Path) -> None:
    """Make *path* and its ``FORMAT``, durably, so that both are there or none."""
    path.mkdir(exist_ok=True)
    if not (path / FORMAT_FILE).exists():
        engine.write_format(path / FORMAT_FILE)
    sync_file(path)
    sync_file(path.parent)


def _look_at_files(path: Path) -> Iterator[Finding]:
    """
    Yield what forbids to open *path*, changing nothing.

    RocksDB itself is not asked, because it cannot open without writing.
    """
    if findings := list(engine.look_at_directory(path, {FORMAT_FILE + NEW})):
        yield from findings
    elif path.exists():
        names = {file.name for file in path.iterdir()}
        tables = [name for name in names if name.endswith((".log", ".sst"))]
        if tables and "CURRENT" not in names:
            message = f"{path}/CURRENT is gone, but tables or logs are still there"
            yield engine.lost(message)
