"""
Storage in one SQLite file, ``raft.sqlite``: a row for each batch of entries.

The file is an ordinary database in WAL mode that ``sqlite-utils`` and
Datasette can open, also while the server runs.  Its tables:

``batches``
    ``first`` (the primary key) and ``last`` index, ``term`` of the last entry,
    ``crc``, and ``entries`` as :mod:`consensus.entries` packs them.  An append
    is one row, or some if it is very large.
``hard_state``
    One row of ``id`` (always 1), ``term``, ``vote``, ``crc``.
``extent``
    One row of ``id`` (always 1), ``base_index`` and ``base_term`` of the last
    dropped entry, ``memberships`` (a JSON list of indexes), ``crc``; and
    ``last_index``, the last entry when the row was written, which is not done
    for each append: there may be more, but not less.
``meta``
    ``key`` and ``value``; the row ``format`` is the version of all this, for
    people.  The server reads the same number from the file's header, where
    it is SQLite's ``user_version``; the ``application_id`` there is "RAFT".

The view ``log`` says of each batch how many entries and bytes it has.

A ``crc`` is the CRC-32C of :mod:`~adapters.storage.records`.  SQLite itself
checks only what is in its WAL, not what it has moved on to the database file.

Whatever is written between two calls of :meth:`SQLiteStorage.sync` is one
transaction.  Its commit is the sync: with ``synchronous=FULL`` SQLite returns
from it when the WAL is on the disk.

A compaction moves the base and is done; entries below the base count no more.
Rows with nothing else are deleted bit by bit, with the next syncs, so that no
append has to wait for a million of them.  SQLite uses their pages again.
"""

from __future__ import annotations

import json
import sqlite3
import struct
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import sqlite_utils

from adapters.storage import engine, records
from adapters.storage.engine import EngineStorage
from adapters.storage.records import FORMAT, Extent
from adapters.storage.sqlite_checkpoint import Checkpointer
from adapters.storage.sqlite_file import (
    APPLICATION_ID,
    FILE,
    look_at_file,
    look_at_format,
    look_for_lost_file,
    sync_wal,
)
from consensus.core.values import HardState
from consensus.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from consensus.core.values import Entry, LogIndex, Term
    from consensus.errors import Finding

_MIB = 1024 * 1024
_FULL = 2

#: How many dropped rows a sync deletes; more when it has inserted more.
_SWEEP = 50

#: What SQLite says when the disk is full, be it for the file or for the map
#: of the WAL beside it.
_FULL_CODES = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE}

#: How long a program that writes to the file, against all advice, is waited for.
_LOCK_TIMEOUT_SECONDS = 5.0

_SCHEMA: dict[str, dict[str, type]] = {
    "batches": {"first": int, "last": int, "term": int, "crc": int, "entries": bytes},
    "hard_state": {"id": int, "term": int, "vote": str, "crc": int},
    "extent": {
        "id": int,
        "base_index": int,
        "base_term": int,
        "last_index": int,
        "memberships": str,
        "crc": int,
    },
    "meta": {"key": str, "value": int},
}

_VIEW = (
    "CREATE VIEW log AS SELECT first, last, last - first + 1 AS count, term,"
    " length(entries) AS bytes FROM batches"
)
_INSERT = "INSERT INTO batches (first, last, term, crc, entries) VALUES (?, ?, ?, ?, ?)"
# From the batch on that the first entry is in.
_SELECT = (
    "SELECT first, last, term, crc, entries FROM batches WHERE first <= ?2 AND"
    " first >= ifnull((SELECT max(first) FROM batches WHERE first <= ?1), ?1)"
    " ORDER BY first"
)
_SELECT_BEFORE = (
    "SELECT first, last, term, crc, entries FROM batches WHERE first < ?"
    " ORDER BY first DESC LIMIT 1"
)
_DELETE = "DELETE FROM batches WHERE first >= ?"
# Up to the batch that the first entry of the log is in, but not too many.
_DELETE_DROPPED = (
    "DELETE FROM batches WHERE first < min("
    " ifnull((SELECT max(first) FROM batches WHERE first <= ?1), ?1),"
    " ifnull((SELECT first FROM batches ORDER BY first LIMIT 1 OFFSET ?2), ?1))"
)
_LOAD = "SELECT term, vote, crc FROM hard_state"
_SAVE = "INSERT OR REPLACE INTO hard_state (id, term, vote, crc) VALUES (1, ?, ?, ?)"
_LOAD_EXTENT = "SELECT base_index, base_term, last_index, memberships, crc FROM extent"
_SAVE_EXTENT = (
    "INSERT OR REPLACE INTO extent"
    " (id, base_index, base_term, last_index, memberships, crc)"
    " VALUES (1, ?, ?, ?, ?, ?)"
)

_OLDEST = "SELECT min(first) FROM batches"
_LAST = "SELECT last FROM batches ORDER BY first DESC LIMIT 1"


@dataclass(frozen=True, slots=True)
class SQLiteOptions:
    """
    What the YAML file may set under ``storage.options``.

    Args:
        checkpoint_mib: How much the WAL gathers before it is moved to the
            database file, by a thread beside.  It goes on growing meanwhile;
            at four times as much a sync waits until that is done.
        cache_mib: How much of the database SQLite keeps in memory.
    """

    checkpoint_mib: int = 16
    cache_mib: int = 8


class SQLiteStorage(EngineStorage[sqlite3.Connection]):
    """A log in a SQLite database; see the module for its format."""

    Options = SQLiteOptions
    name = FILE
    driver_errors = (sqlite3.Error,)

    def __init__(self, options: Any = None) -> None:
        """Keep *options*; the file is opened by :meth:`open`, on its thread."""
        super().__init__(options)
        #: How many rows were inserted since the last sync.
        self._inserted = 0
        self._checkpointer: Checkpointer | None = None
        #: Whether rows with nothing above the base may be left.
        self._has_dropped = False

    @classmethod
    def check(cls, options: SQLiteOptions, directory: Path) -> Iterable[Finding]:
        """Look at the options and, without a lock, at the file."""
        yield from engine.look_at_options(options)
        yield from look_at_file(directory / FILE)

    def open(self, directory: Path) -> None:
        """Open the database, or make it; this thread is the connection's."""
        self._path = directory / FILE
        engine.refuse(look_for_lost_file(self._path))
        with self._reporting("open"):
            sync_wal(self._path)
            connection = sqlite3.connect(
                self._path, timeout=_LOCK_TIMEOUT_SECONDS, isolation_level=None
            )
        self._begin(connection)

    @staticmethod
    def is_full(error: BaseException) -> bool:
        """Look at SQLite's own code."""
        return getattr(error, "sqlite_errorcode", None) in _FULL_CODES

    def hard_state(self) -> HardState:
        """Return the only row of ``hard_state``, which is there from the start."""
        with self._using("read the term and vote") as connection:
            row = connection.execute(_LOAD).fetchone()
        try:
            term, vote, crc = row
            intact = crc == records.hard_state_crc(term, vote)
        except (AttributeError, TypeError, struct.error):
            intact = False
        if not intact:
            raise StorageError(records.damaged_hard_state(self._path))
        return HardState(term, vote)

    def save_hard_state(self, hard_state: HardState) -> None:
        """Replace the only row of ``hard_state``."""
        with self._writing("save the term and vote") as connection:
            _save_hard_state(connection, hard_state)

    def append(self, entries: Sequence[Entry]) -> None:
        """Insert *entries* after deleting what they replace."""
        extent = self._extent
        with self._writing("append") as connection:
            extent.check_append(entries)
            rows = _rows(entries)
            if entries[0].index <= extent.last_index:
                self._cut(connection, entries[0].index)
            connection.executemany(_INSERT, rows)
        if self._checkpointer is not None:
            for row in rows:
                self._checkpointer.wrote(len(row[-1]))
        self._extent = extent.appended(entries)
        self._inserted += len(rows)

    def entries(
        self, first: LogIndex, last: LogIndex, max_bytes: int
    ) -> Sequence[Entry]:
        """Read rows until *max_bytes* are full, checking each."""
        self._extent.check_range(first, last)
        with (
            self._using(f"read entries {first} to {last}") as connection,
            closing(connection.execute(_SELECT, (first, last))) as rows,
        ):
            batches = map(self._unpacked, rows)
            return records.gather(self._path, batches, first, last, max_bytes)

    def compact(self, index: LogIndex, term: Term) -> None:
        """Move the base; delete what is above it only if that goes as well."""
        if index < self._extent.first_index:
            return
        extent = self._compacted(index, term)
        with self._writing("compact") as connection:
            if extent.last_index < self._extent.last_index:
                self._cut(connection, extent.first_index)
            # Only to see that its numbers fit; the sync writes it.
            _save_extent(connection, extent)
        self._extent = extent
        self._has_dropped = True

    def sync(self) -> None:
        """
        Commit; close the file for good if that fails.

        On a full disk the file stays open, without what was to be committed:
        SQLite would write all of it once more, so nothing can be half there.
        """
        with self._using("sync") as connection:
            if not connection.in_transaction:
                return
            try:
                if self._has_new_extent():
                    _save_extent(connection, self._extent)
                self._sweep(connection)
                connection.execute("COMMIT")
            except BaseException as error:
                if not self._gave_up(connection, error):
                    # A second try might succeed without the pages that are lost.
                    self.close()
                raise
            self._synced = self._extent
            self._inserted = 0
            self._checkpoint(connection)

    def _checkpoint(self, connection: sqlite3.Connection) -> None:
        """
        Have the WAL moved, if it is large; close the file for good if that fails.

        Where the disk is full, the WAL only goes on growing.
        """
        try:
            if self._checkpointer is not None:
                self._checkpointer.committed(connection)
        except (sqlite3.Error, OSError) as error:
            if not self.is_full(error):
                # A second try might succeed without the pages that are lost.
                self.close()
                raise

    def close(self) -> None:
        """Close the file, which undoes what is not committed."""
        connection, self._driver = self._driver, None
        checkpointer, self._checkpointer = self._checkpointer, None
        if checkpointer is not None:
            with suppress(sqlite3.Error, OSError):
                checkpointer.wait()
        if connection is not None:
            connection.close()
        if checkpointer is not None:
            checkpointer.close()

    def _has_new_extent(self) -> bool:
        """Say whether the row of ``extent`` has to be written again."""
        extent, synced = self._extent, self._synced
        return (
            not extent.has_same_record(synced) or extent.last_index < synced.last_index
        )

    def _sweep(self, connection: sqlite3.Connection) -> None:
        """Delete some of the rows below the base: more than were inserted."""
        if self._has_dropped:
            most = max(_SWEEP, 2 * self._inserted)
            limits = (self._extent.first_index, most)
            self._has_dropped = connection.execute(_DELETE_DROPPED, limits).rowcount > 0

    def _cut(self, connection: sqlite3.Connection, first: LogIndex) -> None:
        """Delete all entries from *first* on; a batch keeps those before it."""
        connection.execute(_DELETE, (first,))
        row = connection.execute(_SELECT_BEFORE, (first,)).fetchone()
        if row is not None:
            entries = self._unpacked(row)
            kept = entries[: first - entries[0].index]
            if len(kept) < len(entries):
                connection.execute(_DELETE, (kept[0].index,))
                connection.executemany(_INSERT, _rows(kept))

    def _unpacked(self, row: tuple[int, int, int, int, bytes]) -> list[Entry]:
        """Return the entries of *row*, checked."""
        first, last, term, crc, packed = row
        try:
            is_intact = crc == records.batch_crc(first, packed)
        except TypeError:
            is_intact = False
        if is_intact:
            entries = records.unpack_batch(self._path, first, packed)
            if (last, term) == (entries[-1].index, entries[-1].term):
                return entries
        raise StorageError(records.damaged_batch(self._path, first))

    def _gave_up(self, connection: sqlite3.Connection, error: BaseException) -> bool:
        """Undo all since the last sync if *error* says that the disk is full."""
        if not self.is_full(error):
            return False
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        self._extent = self._synced
        self._inserted = 0
        # The rows that the last sweep deleted may be back.
        self._has_dropped = True
        return True

    @contextmanager
    def _writing(self, doing: str) -> Iterator[sqlite3.Connection]:
        """Lend the connection in a transaction, for all of the body or none."""
        with self._using(doing) as connection:
            is_first = not connection.in_transaction
            connection.execute("BEGIN IMMEDIATE" if is_first else "SAVEPOINT step")
            try:
                yield connection
            except BaseException as error:
                if not self._gave_up(connection, error):
                    self._undo(connection, is_first=is_first)
                raise
            if not is_first:
                connection.execute("RELEASE step")

    def _prepare(self, connection: sqlite3.Connection) -> None:
        is_new = connection.execute("SELECT 1 FROM sqlite_master").fetchone() is None
        if not is_new:
            (application,) = connection.execute("PRAGMA application_id").fetchone()
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            engine.refuse(look_at_format(self._path, application, version))
        _configure(connection, self.options)
        limit = self.options.checkpoint_mib * _MIB
        self._checkpointer = Checkpointer(self._path, limit)
        if is_new:
            _make_tables(connection)
        extent = self._load_extent(connection)
        self._extent = self._synced = extent
        (oldest,) = connection.execute(_OLDEST).fetchone()
        self._has_dropped = oldest is not None and oldest <= extent.base_index

    def _load_extent(self, connection: sqlite3.Connection) -> Extent:
        try:
            row = connection.execute(_LOAD_EXTENT).fetchone()
            base_index, base_term, last_index, text, crc = row
            extent = Extent(base_index, base_term, last_index, tuple(json.loads(text)))
            intact = crc == _extent_crc(extent)
            newest = connection.execute(_LAST).fetchone() or (base_index,)
            last_index = max(base_index, *newest)
        except (TypeError, ValueError, struct.error):
            intact = False
        if not intact:
            raise StorageError(records.damaged_extent(self._path))
        if last_index < extent.last_index:
            raise StorageError(records.missing_entry(self._path, last_index + 1))
        return replace(extent, last_index=last_index)

    def _undo(self, connection: sqlite3.Connection, *, is_first: bool) -> None:
        """Undo a step: the whole transaction if it *is_first* in that."""
        if is_first:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        elif connection.in_transaction:
            connection.execute("ROLLBACK TO step")
            connection.execute("RELEASE step")
        else:
            # SQLite gave up the whole transaction, and with it steps that this
            # server has been told are stored.
            self.close()


def _rows(entries: Sequence[Entry]) -> list[tuple[int, int, int, int, bytes]]:
    rows = []
    for batch, packed in records.pack_batches(entries):
        first, end = batch[0].index, batch[-1]
        crc = records.batch_crc(first, packed)
        rows.append((first, end.index, end.term, crc, packed))
    return rows


def _save_hard_state(connection: sqlite3.Connection, hard_state: HardState) -> None:
    term, vote = hard_state.term, hard_state.vote
    connection.execute(_SAVE, (term, vote, records.hard_state_crc(term, vote)))


def _save_extent(connection: sqlite3.Connection, extent: Extent) -> None:
    numbers = (extent.base_index, extent.base_term, extent.last_index)
    text = json.dumps(extent.memberships)
    connection.execute(_SAVE_EXTENT, (*numbers, text, _extent_crc(extent)))


def _extent_crc(extent: Extent) -> int:
    numbers = (extent.last_index, *extent.memberships)
    return records.extent_crc(extent.base_index, extent.base_term, numbers)


def _configure(connection: sqlite3.Connection, options: SQLiteOptions) -> None:
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    # Some distributions turn it on, and every deleted page is written with zeros.
    connection.execute("PRAGMA secure_delete = OFF")
    connection.execute(f"PRAGMA cache_size = -{options.cache_mib * 1024}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    for pragma, wanted in (("journal_mode", "wal"), ("synchronous", _FULL)):
        (value,) = connection.execute(f"PRAGMA {pragma}").fetchone()
        if value != wanted:
            message = (
                f"SQLite keeps {pragma} at {value}, not {wanted}:"
                " put the data directory on a local file system"
            )
            raise StorageError(message)


def _make_tables(connection: sqlite3.Connection) -> None:
    database = sqlite_utils.Database(
        connection, recursive_triggers=False, execute_plugins=False
    )
    connection.execute("BEGIN IMMEDIATE")
    for name, columns in _SCHEMA.items():
        key, *others = columns
        required = [column for column in others if column != "vote"]
        # Not create_table(): some releases of sqlite-utils commit in there.
        connection.execute(
            database.create_table_sql(name, columns, pk=key, not_null=required)
        )
    connection.execute(_VIEW)
    _save_hard_state(connection, HardState())
    _save_extent(connection, Extent())
    connection.execute("INSERT INTO meta (key, value) VALUES ('format', ?)", (FORMAT,))
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {FORMAT}")
    connection.execute("COMMIT")
    # From the WAL into the file, where check() can see them.
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
