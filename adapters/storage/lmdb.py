"""
Storage in an LMDB environment, ``raft.lmdb/``, with two named databases.

``batches``
    Index of the first entry (8 bytes, big-endian, so that keys sort as indexes
    do) → a batch of entries, with its number before them.  Neighbours have
    consecutive numbers (8 bytes), which shows if one is missing in between.
``state``
    ``hard_state`` → the hard state; ``extent`` → what was dropped, and where
    memberships stand.

The values are the records of :mod:`~adapters.storage.records`; LMDB itself
checks nothing.  The file ``FORMAT`` beside LMDB's own is the version of all
this.  The directory is made under another name, so that it is there whole or
not at all.

Whatever is written between two calls of :meth:`LMDBStorage.sync` is one
transaction.  Its commit is the sync: LMDB syncs the pages, then writes through
to the disk which of them count.  Until then the writes are kept in memory as
well, because a map that is full can only grow between transactions, and the
one that filled it has to be done again.

A compaction moves the base and is done; entries below the base count no more.
Batches with nothing else are deleted bit by bit, with the next syncs, so that
no append has to wait for a million of them.  LMDB uses their pages again.
"""

from __future__ import annotations

import os
import shutil
import struct
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import lmdb

from adapters.storage import engine, records
from adapters.storage.engine import FORMAT_FILE, EngineStorage
from adapters.storage.records import REMEDY, Extent, sync_file
from consensus.core.values import HardState
from consensus.errors import DiskFullError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from consensus.core.values import Entry, LogIndex, Term
    from consensus.errors import Finding

_DIRECTORY = "raft.lmdb"
_DRAFT = "raft.lmdb.new"
_MIB = 1024 * 1024

#: How many dropped batches a sync deletes; more when it has added more.
_SWEEP = 50

_DATA_FILE = "data.mdb"
_BATCHES = b"batches"
_STATE = b"state"
_HARD_STATE_KEY = b"hard_state"
_EXTENT_KEY = b"extent"

# 64 TiB: a process on a common 64-bit machine can address twice as much.
_MOST_MAP_MIB = 2**26

# LMDB's first page: a header of its own, then this number in native order.
_MAGIC = struct.Struct("=16xI")
_MAGIC_NUMBER = 0xBEEFC0DE

_NUMBER = struct.Struct(">q")
_key = _NUMBER.pack


@dataclass(frozen=True, slots=True)
class LMDBOptions:
    """
    What the YAML file may set under ``storage.options``.

    Args:
        map_mib: How large the map is at first.  It takes addresses, neither
            memory nor disk, and doubles whenever the log has filled it.
    """

    map_mib: int = 1024


class LMDBStorage(EngineStorage[lmdb.Environment]):
    """A log in an LMDB environment; see the module for its format."""

    Options = LMDBOptions
    name = _DIRECTORY
    driver_errors = (lmdb.Error, OverflowError)

    def __init__(self, options: Any = None) -> None:
        """Keep *options*; the environment is opened by :meth:`open`."""
        super().__init__(options)
        self._transaction: lmdb.Transaction | None = None
        self._unsynced: list[Callable[[lmdb.Transaction], None]] = []
        #: How many batches were added since the last sync.
        self._added = 0
        #: Whether batches with nothing above the base may be left.
        self._has_dropped = False

    @classmethod
    def check(cls, options: LMDBOptions, directory: Path) -> Iterable[Finding]:
        """Look at the options and at which files are there."""
        if not 1 <= options.map_mib <= _MOST_MAP_MIB:
            hint = f"write 1 or more, up to {_MOST_MAP_MIB}"
            yield engine.bad_option("map_mib", options.map_mib, hint)
        yield from _look_at_files(directory / _DIRECTORY)

    def open(self, directory: Path) -> None:
        """Open the environment, or make it, and sync what is found."""
        self._path = directory / _DIRECTORY
        engine.refuse(_look_at_files(self._path))
        with self._reporting("open"):
            if not self._path.exists():
                _make_environment(self._path)
            sync_file(directory)
            environment = _open(self._path, self.options.map_mib * _MIB)
        self._begin(environment)

    @staticmethod
    def is_full(error: BaseException) -> bool:
        """Look at the class."""
        return isinstance(error, lmdb.DiskError)

    def hard_state(self) -> HardState:
        """Return what stands under ``hard_state``."""
        with self._reading("read the term and vote") as transaction:
            value = transaction.get(_HARD_STATE_KEY, db=self._state)
        value = None if value is None else bytes(value)
        return records.unpack_hard_state(self._path, value)

    def save_hard_state(self, hard_state: HardState) -> None:
        """Replace what stands under ``hard_state``."""

        def put(transaction: lmdb.Transaction) -> None:
            value = records.pack_hard_state(hard_state)
            transaction.put(_HARD_STATE_KEY, value, db=self._state)

        self._write("save the term and vote", put)

    def append(self, entries: Sequence[Entry]) -> None:
        """Put *entries* after deleting what they replace."""
        with self._reporting("append"):
            self._extent.check_append(entries)
            batches = records.pack_batches(entries)
        old, new = self._extent, self._extent.appended(entries)
        first = entries[0].index

        # It may be done once more, when the caller's list is another.
        def put(transaction: lmdb.Transaction) -> None:
            cursor = transaction.cursor(self._batches)
            if first <= old.last_index:
                self._cut(cursor, first)
            _put(cursor, batches)
            if not new.has_same_record(old):
                transaction.put(_EXTENT_KEY, new.pack(), db=self._state)

        self._write("append", put)
        self._extent = new
        self._added += len(batches)

    def entries(
        self, first: LogIndex, last: LogIndex, max_bytes: int
    ) -> Sequence[Entry]:
        """Read values until *max_bytes* are full, checking each."""
        self._extent.check_range(first, last)
        with self._reading(f"read entries {first} to {last}") as transaction:
            found = self._stored(transaction.cursor(self._batches), first)
            return records.gather(self._path, found, first, last, max_bytes)

    def compact(self, index: LogIndex, term: Term) -> None:
        """Move the base; delete what is above it only if that goes as well."""
        if index < self._extent.first_index:
            return
        old, new = self._extent, self._compacted(index, term)

        def move(transaction: lmdb.Transaction) -> None:
            if new.last_index < old.last_index:
                self._cut(transaction.cursor(self._batches), new.first_index)
            transaction.put(_EXTENT_KEY, new.pack(), db=self._state)

        self._write("compact", move)
        self._extent = new
        self._has_dropped = True

    def _cut(self, cursor: lmdb.Cursor, first: LogIndex) -> None:
        """Delete all entries from *first* on; a batch keeps those before it."""
        while cursor.last():
            (start,) = _NUMBER.unpack(cursor.key())
            if start < first:
                entries = self._opened(start, cursor.value())
                kept = entries[: first - start]
                if len(kept) == len(entries):
                    return
            cursor.delete()
            if start < first:
                _put(cursor, records.pack_batches(kept))
                return

    def _stored(self, cursor: lmdb.Cursor, first: LogIndex) -> Iterator[list[Entry]]:
        """Yield the batches from the one on that *first* is in."""
        start = _find(cursor, first)
        while cursor.set_key(_key(start)):
            entries = self._opened(start, cursor.value())
            yield entries
            start = entries[-1].index + 1

    def _opened(self, first: LogIndex, value: bytes | memoryview) -> list[Entry]:
        return records.open_batch(self._path, first, bytes(value), _NUMBER.size)

    def sync(self) -> None:
        """
        Commit; close the environment for good if that fails.

        On a full disk it stays open, without what was to be committed: none
        of the pages counts that LMDB has written, and it will write all of
        them once more.
        """
        with self._using("sync") as environment:
            if not self._unsynced:
                return
            try:
                self._do(environment, self._commit)
            except (lmdb.DiskError, DiskFullError):
                raise
            except BaseException:
                # A second try might succeed without the pages that are lost.
                self.close()
                raise
            self._transaction = None
            self._unsynced.clear()
            self._synced = self._extent
            self._added = 0

    def _commit(self, transaction: lmdb.Transaction) -> None:
        """Delete some batches below the base, more than were added; commit."""
        has_dropped = self._has_dropped
        if has_dropped:
            most = max(_SWEEP, 2 * self._added)
            has_dropped = self._sweep(transaction.cursor(self._batches), most)
        transaction.commit()
        self._has_dropped = has_dropped

    def _sweep(self, cursor: lmdb.Cursor, most: int) -> bool:
        """Delete *most* batches below the base; return whether some may be left."""
        floor = _find(cursor, self._extent.first_index)
        for _ in range(most):
            # Not next(): where a page is damaged, that kills the process.
            if not cursor.first() or _NUMBER.unpack(cursor.key())[0] >= floor:
                return False
            cursor.delete()
        return True

    def close(self) -> None:
        """Close the environment, which undoes what is not committed."""
        self._forget()
        environment, self._driver = self._driver, None
        if environment is not None:
            environment.close()

    @contextmanager
    def _reading(self, doing: str) -> Iterator[lmdb.Transaction]:
        """Lend the transaction that sees what was written, synced or not."""
        with self._using(doing) as environment:
            if self._unsynced:
                # After a write that failed, it has to be made once more.
                self._do(environment, lambda _: None)
                yield self._begun(environment)
            else:
                with environment.begin() as transaction:
                    yield transaction

    def _write(self, doing: str, step: Callable[[lmdb.Transaction], None]) -> None:
        """Do *step* after what is not synced, all of it or nothing."""
        with self._using(doing) as environment:
            self._do(environment, step)
            self._unsynced.append(step)

    def _do(
        self, environment: lmdb.Environment, step: Callable[[lmdb.Transaction], None]
    ) -> None:
        """
        Do *step* in the open transaction; let the map grow until it fits.

        If it fails, the next transaction repeats what there was before it;
        only a full disk undoes everything since the last sync.
        """
        while True:
            try:
                step(self._begun(environment))
            except lmdb.MapFullError:
                self._abort()
                self._enlarge(environment)
            except lmdb.DiskError:
                self._forget()
                raise
            except BaseException:
                self._abort()
                raise
            else:
                return

    def _begun(self, environment: lmdb.Environment) -> lmdb.Transaction:
        """Return the open transaction; a new one repeats what is not synced."""
        if self._transaction is None:
            # Values are views, so that to look at one copies nothing.
            self._transaction = environment.begin(write=True, buffers=True)
            for step in self._unsynced:
                step(self._transaction)
        return self._transaction

    def _abort(self) -> None:
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            # A commit that failed has ended it already.
            with suppress(lmdb.Error):
                transaction.abort()

    def _forget(self) -> None:
        """Undo everything since the last sync."""
        self._abort()
        self._unsynced.clear()
        self._extent = self._synced
        self._added = 0

    def _enlarge(self, environment: lmdb.Environment) -> None:
        size = environment.info()["map_size"]
        if size >= _MOST_MAP_MIB * _MIB:
            self._forget()
            message = f"{self._path}: the map of {size} bytes cannot grow"
            raise DiskFullError(message)
        try:
            environment.set_mapsize(2 * size)
        except BaseException:
            # LMDB may have given up the old map, so nothing can be read.
            self.close()
            raise

    def _prepare(self, environment: lmdb.Environment) -> None:
        _lengthen(self._path / _DATA_FILE, environment)
        # Killed in the middle of a commit, the last process left pages that
        # are found whole, but that a power cut could still take away.
        environment.sync(True)  # noqa: FBT003 - no keyword in py-lmdb 2
        # A program that looked into the log and was killed keeps its pages.
        environment.reader_check()
        self._batches = environment.open_db(_BATCHES, create=False)
        self._state = environment.open_db(_STATE, create=False)
        self._extent = self._synced = self._find_extent(environment)

    def _find_extent(self, environment: lmdb.Environment) -> Extent:
        with environment.begin(self._batches) as transaction:
            value = transaction.get(_EXTENT_KEY, db=self._state)
            extent = Extent.unpack(self._path, value)
            count: int = transaction.stat(self._batches)["entries"]
            cursor = transaction.cursor()
            if not cursor.first():
                return extent
            oldest, number, _ = self._found(cursor)
            cursor.last()
            _, last_number, last = self._found(cursor)
        if count != last_number - number + 1:
            message = (
                f"{self._path}: {count} of the batches with entries {oldest} to {last}"
                f" are there, not {last_number - number + 1}; {REMEDY}"
            )
            raise StorageError(message)
        self._has_dropped = oldest <= extent.base_index
        return replace(extent, last_index=max(last, extent.base_index))

    def _found(self, cursor: lmdb.Cursor) -> tuple[LogIndex, int, LogIndex]:
        """Return where the batch at *cursor* begins, its number and where it ends."""
        first: int
        (first,) = _NUMBER.unpack(cursor.key())
        end = self._opened(first, cursor.value())[-1].index
        return first, _number(cursor), end


def _open(path: Path, map_bytes: int) -> lmdb.Environment:
    return lmdb.open(
        str(path),
        map_size=map_bytes,
        max_dbs=2,  # entries and state
        # Together they make a commit durable when it returns: the pages are
        # synced before the meta page, and that one is written through.
        sync=True,
        metasync=True,
        # Whoever looks into the log meanwhile finds the pages left alone.
        lock=True,
        # A log is read from one end to the other.
        readahead=True,
        # So a full disk is an error of the commit, and no signal that kills.
        writemap=False,
    )


def _make_environment(path: Path) -> None:
    """Make *path*, durably, with two empty databases and its ``FORMAT``."""
    draft = path.with_name(_DRAFT)
    if draft.exists():
        shutil.rmtree(draft)
    draft.mkdir()
    with (
        closing(_open(draft, _MIB)) as environment,
        environment.begin(write=True) as transaction,
    ):
        environment.open_db(_BATCHES, txn=transaction)
        state = environment.open_db(_STATE, txn=transaction)
        transaction.put(_EXTENT_KEY, Extent().pack(), db=state)
        hard_state = records.pack_hard_state(HardState())
        transaction.put(_HARD_STATE_KEY, hard_state, db=state)
    engine.write_format(draft / FORMAT_FILE)
    sync_file(draft)
    draft.rename(path)


def _lengthen(file: Path, environment: lmdb.Environment) -> None:
    """
    Put zeros where *file* ends too early.

    LMDB leaves out pages at the end that nobody uses.  Others may be missing
    if the disk lost them, and to read those would kill the process; zeros
    instead are noticed.
    """
    size = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    if file.stat().st_size < size:
        os.truncate(file, size)


def _find(cursor: lmdb.Cursor, index: LogIndex) -> LogIndex:
    """Return where the batch begins that *index* is in; *index* if in none."""
    # LMDB's own way to the nearest key kills the process where a page is
    # damaged, as next() does.
    for start in range(index, max(index - records.MOST_ENTRIES, 0), -1):
        if cursor.set_key(_key(start)):
            return start
    return index


def _put(cursor: lmdb.Cursor, batches: Iterable[tuple[Sequence[Entry], bytes]]) -> None:
    """Put *batches* behind the last key, where LMDB fills each page."""
    start = _number(cursor) + 1 if cursor.last() else 1
    items = []
    for number, (entries, packed) in enumerate(batches, start):
        first = entries[0].index
        record = records.seal_batch(first, _NUMBER.pack(number) + packed)
        items.append((_key(first), record))
    _, added = cursor.putmulti(items, append=True)
    # LMDB leaves out, and says nothing, what is not behind the last key.
    if added < len(items):
        raise lmdb.KeyExistsError("there are keys behind the last entry")


def _number(cursor: lmdb.Cursor) -> int:
    """Return the number of the batch that *cursor* is at."""
    number: int
    (number,) = _NUMBER.unpack_from(cursor.value(), records.CRC_SIZE)
    return number


def _look_at_files(path: Path) -> Iterator[Finding]:
    """
    Yield what forbids to open *path*, changing nothing.

    LMDB is not asked: it would make files, and take an empty one for new.
    """
    if findings := list(engine.look_at_directory(path)):
        yield from findings
        return
    try:
        with (path / _DATA_FILE).open("rb") as file:
            header = file.read(_MAGIC.size)
    except FileNotFoundError:
        if path.exists():
            message = f"{path}/{_DATA_FILE} is gone, but {FORMAT_FILE} is still there"
            yield engine.lost(message)
    except OSError as error:
        yield engine.unreadable(f"{path} cannot be read: {error}")
    else:
        if len(header) < _MAGIC.size or _MAGIC.unpack(header) != (_MAGIC_NUMBER,):
            yield engine.unreadable(f"{path}/{_DATA_FILE} is not an LMDB database")
