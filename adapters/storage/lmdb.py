"""
Storage in an LMDB environment, ``raft.lmdb/``, with two named databases.

``entries``
    Index (8 bytes, big-endian, so that keys sort as indexes do) → the entry.
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
They are deleted bit by bit, with the next syncs, so that no append has to wait
for a million of them.  LMDB uses their pages again.
"""

from __future__ import annotations

import os
import shutil
import struct
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lmdb

from adapters.storage import records
from adapters.storage.records import FORMAT, REMEDY, Extent, sync_file
from consensus.core.values import HardState
from consensus.errors import DiskFullError, Finding, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from adapters.storage.records import Record
    from consensus.core.values import Entry, LogIndex, Term

_DIRECTORY = "raft.lmdb"
_DRAFT = "raft.lmdb.new"
_MIB = 1024 * 1024

#: How many dropped entries a sync deletes; more when it has added more.
_SWEEP = 1000

_FORMAT_FILE = "FORMAT"
_DATA_FILE = "data.mdb"
_ENTRIES = b"entries"
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


class LMDBStorage(records.RecordStorage):
    """A log in an LMDB environment; see the module for its format."""

    Options = LMDBOptions

    def __init__(self, options: Any = None) -> None:
        """Keep *options*; the environment is opened by :meth:`open`."""
        super().__init__(options)
        self._environment: lmdb.Environment | None = None
        self._transaction: lmdb.Transaction | None = None
        self._unsynced: list[Callable[[lmdb.Transaction], None]] = []
        self._path = Path(_DIRECTORY)
        #: How many entries were added since the last sync.
        self._added = 0
        #: Whether entries below the base may be left.
        self._has_dropped = False

    @classmethod
    def check(cls, options: LMDBOptions, directory: Path) -> Iterable[Finding]:
        """Look at the options and at which files are there."""
        if not 1 <= options.map_mib <= _MOST_MAP_MIB:
            yield Finding(
                "storage.E105",
                f"map_mib is {options.map_mib}",
                f"write 1 or more, up to {_MOST_MAP_MIB}",
                "storage.options.map_mib",
            )
        yield from _look_at_files(directory / _DIRECTORY)

    def open(self, directory: Path) -> None:
        """Open the environment, or make it, and sync what is found."""
        self._path = directory / _DIRECTORY
        for finding in _look_at_files(self._path):
            raise StorageError(str(finding))
        with _driver_errors(self._path, "open"):
            if not self._path.exists():
                _make_environment(self._path)
            sync_file(directory)
            self._environment = _open(self._path, self.options.map_mib * _MIB)
        try:
            with self._using("open") as environment:
                self._prepare(environment)
            # What a vote or an election needs first has to be there.
            self.hard_state()
            self.term(self._extent.last_index)
        except BaseException:
            self.close()
            raise

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
        with _driver_errors(self._path, "append"):
            self._extent.check_append(entries)
            items = [(_key(e.index), records.pack_entry(e)) for e in entries]
        old, new = self._extent, self._extent.appended(entries)
        replaced = range(entries[0].index, old.last_index + 1)

        def put(transaction: lmdb.Transaction) -> None:
            for index in replaced:
                transaction.delete(_key(index), db=self._entries)
            # At the end of the database, where LMDB fills each page.
            _, added = transaction.cursor(self._entries).putmulti(items, append=True)
            # LMDB leaves out, and says nothing, what is not behind the last key.
            if added < len(items):
                raise lmdb.KeyExistsError("there are keys behind the last entry")
            if not new.has_same_record(old):
                transaction.put(_EXTENT_KEY, new.pack(), db=self._state)

        self._write("append", put)
        self._extent = new
        self._added += len(entries)

    def entries(
        self, first: LogIndex, last: LogIndex, max_bytes: int
    ) -> Sequence[Entry]:
        """Read values until *max_bytes* are full, checking each."""
        self._extent.check_range(first, last)
        with self._reading(f"read entries {first} to {last}") as transaction:
            found = _stored(transaction.cursor(self._entries), first, last)
            return records.checked(self._path, found, first, last, max_bytes)

    def compact(self, index: LogIndex, term: Term) -> None:
        """Move the base; delete entries above it only if they go as well."""
        if index < self._extent.first_index:
            return
        old, new = self._extent, self._compacted(index, term)
        gone = range(new.last_index + 1, old.last_index + 1)

        def move(transaction: lmdb.Transaction) -> None:
            for each in gone:
                transaction.delete(_key(each), db=self._entries)
            transaction.put(_EXTENT_KEY, new.pack(), db=self._state)

        self._write("compact", move)
        self._extent = new
        self._has_dropped = True

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
        """Delete some entries below the base, more than were added; commit."""
        has_dropped = self._has_dropped
        if has_dropped:
            most = max(_SWEEP, 2 * self._added)
            has_dropped = self._sweep(transaction.cursor(self._entries), most)
        transaction.commit()
        self._has_dropped = has_dropped

    def _sweep(self, cursor: lmdb.Cursor, most: int) -> bool:
        """Delete *most* entries below the base; return whether some may be left."""
        for _ in range(most):
            # Not next(): where a page is damaged, that kills the process.
            if not cursor.first():
                return False
            index: int
            (index,) = _NUMBER.unpack(cursor.key())
            if index > self._extent.base_index:
                return False
            cursor.delete()
        return True

    def close(self) -> None:
        """Close the environment, which undoes what is not committed."""
        self._forget()
        environment, self._environment = self._environment, None
        if environment is not None:
            environment.close()

    @contextmanager
    def _using(self, doing: str) -> Iterator[lmdb.Environment]:
        if self._environment is None:
            message = f"{self._path}: cannot {doing}: it is not open"
            raise StorageError(message)
        with _driver_errors(self._path, doing):
            yield self._environment

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
            self._transaction = environment.begin(write=True)
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
        self._entries = environment.open_db(_ENTRIES, create=False)
        self._state = environment.open_db(_STATE, create=False)
        self._extent = self._synced = self._find_extent(environment)

    def _find_extent(self, environment: lmdb.Environment) -> Extent:
        with environment.begin(self._entries) as transaction:
            value = transaction.get(_EXTENT_KEY, db=self._state)
            extent = Extent.unpack(self._path, None if value is None else bytes(value))
            count: int = transaction.stat(self._entries)["entries"]
            cursor = transaction.cursor()
            if not cursor.first():
                return extent
            oldest: int = _NUMBER.unpack(cursor.key())[0]
            cursor.last()
            last: int = _NUMBER.unpack(cursor.key())[0]
        if count != last - oldest + 1:
            message = (
                f"{self._path}: {count} of the entries {oldest} to {last} are there;"
                f" {REMEDY}"
            )
            raise StorageError(message)
        self._has_dropped = oldest <= extent.base_index
        if last <= extent.base_index:
            return extent
        if oldest > extent.first_index:
            raise StorageError(records.missing_entry(self._path, extent.first_index))
        return replace(extent, last_index=last)


@contextmanager
def _driver_errors(path: Path, doing: str) -> Iterator[None]:
    """Turn what LMDB, the system and a number too large raise into ours."""
    try:
        yield
    except (lmdb.Error, OSError, OverflowError, struct.error) as error:
        message = f"{path}: cannot {doing}: {error}"
        if isinstance(error, lmdb.DiskError):
            raise DiskFullError(message) from error
        raise StorageError(message) from error


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
        environment.open_db(_ENTRIES, txn=transaction)
        state = environment.open_db(_STATE, txn=transaction)
        transaction.put(_EXTENT_KEY, Extent().pack(), db=state)
        hard_state = records.pack_hard_state(HardState())
        transaction.put(_HARD_STATE_KEY, hard_state, db=state)
    (draft / _FORMAT_FILE).write_text(f"{FORMAT}\n")
    sync_file(draft / _FORMAT_FILE)
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


def _stored(cursor: lmdb.Cursor, first: LogIndex, last: LogIndex) -> Iterator[Record]:
    for index in range(first, last + 1):
        # Not next(): where a page is damaged, that kills the process.
        if not cursor.set_key(_key(index)):
            return
        yield records.split_entry(index, bytes(cursor.value()))


def _look_at_files(path: Path) -> Iterator[Finding]:
    """
    Yield what forbids to open *path*, changing nothing.

    LMDB is not asked: it would make files, and take an empty one for new.
    """
    try:
        names = {file.name for file in path.iterdir()}
        version = _content(path / _FORMAT_FILE, names).strip().decode()
        header = _content(path / _DATA_FILE, names)
    except FileNotFoundError:
        return
    except (OSError, UnicodeError) as error:
        yield _refusal("storage.E101", f"{path} cannot be read: {error}", REMEDY)
        return
    if _FORMAT_FILE not in names:
        yield _refusal(
            "storage.E102",
            f"{path} has no {_FORMAT_FILE}: it belongs to another program",
            "give the server a data directory of its own",
        )
    elif findings := list(records.look_at_format(path, version)):
        yield from findings
    elif _DATA_FILE not in names:
        message = f"{path}/{_DATA_FILE} is gone, but {_FORMAT_FILE} is still there"
        yield _refusal("storage.E104", message, REMEDY)
    elif len(header) < _MAGIC.size or _MAGIC.unpack(header) != (_MAGIC_NUMBER,):
        message = f"{path}/{_DATA_FILE} is not an LMDB database"
        yield _refusal("storage.E101", message, REMEDY)


def _content(file: Path, names: Collection[str]) -> bytes:
    """Return how *file* begins, or nothing if it is not among *names*."""
    if file.name not in names:
        return b""
    with file.open("rb") as opened:
        return opened.read(_MAGIC.size)


def _refusal(identifier: str, message: str, hint: str) -> Finding:
    return Finding(identifier, message, hint, "data_dir")
