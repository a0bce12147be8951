"""
Storage in one SQLite file, ``raft.sqlite``: a row for each entry.

The file is an ordinary database in WAL mode that ``sqlite-utils`` and
Datasette can open, also while the server runs.  Its tables:

``entries``
    ``index`` (the primary key), ``term``, ``kind``, ``command``, ``crc``.
``hard_state``
    One row of ``id`` (always 1), ``term``, ``vote``, ``crc``.
``meta``
    ``key`` and ``value``; the row ``format`` is the version of all this, for
    people.  The server reads the same number from the file's header, where
    it is SQLite's ``user_version``; the ``application_id`` there is "RAFT".

A ``crc`` is the CRC-32 of what :func:`_entry_crc` and :func:`_hard_state_crc`
feed to it.  SQLite itself checks only what is in its WAL, not what it has
moved on to the database file.

Whatever is written between two calls of :meth:`SQLiteStorage.sync` is one
transaction.  Its commit is the sync: with ``synchronous=FULL`` SQLite returns
from it when the WAL is on the disk.
"""

from __future__ import annotations

import os
import sqlite3
import struct
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import sqlite_utils

from consensus.core.values import Entry, HardState
from consensus.errors import CompactedError, Finding, StorageError
from consensus.interfaces import Storage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from consensus.core.values import LogIndex, ServerId, Term

_FILE = "raft.sqlite"
_FORMAT = 1
_APPLICATION_ID = int.from_bytes(b"RAFT")
_FIRST_INDEX = 1
_MIB = 1024 * 1024
_FULL = 2
_REMEDY = "check the disk, then replace this server: its copy cannot be trusted"

#: How long a program that writes to the file, against all advice, is waited for.
_LOCK_TIMEOUT_SECONDS = 5.0

_SCHEMA: dict[str, dict[str, type]] = {
    "entries": {"index": int, "term": int, "kind": int, "command": bytes, "crc": int},
    "hard_state": {"id": int, "term": int, "vote": str, "crc": int},
    "meta": {"key": str, "value": int},
}

_INSERT = (
    'INSERT INTO entries ("index", term, kind, command, crc) VALUES (?, ?, ?, ?, ?)'
)
_SELECT = (
    'SELECT "index", term, kind, command, crc FROM entries'
    ' WHERE "index" BETWEEN ? AND ? ORDER BY "index"'
)
_DELETE = 'DELETE FROM entries WHERE "index" >= ?'
_LOAD = "SELECT term, vote, crc FROM hard_state"
_SAVE = "INSERT OR REPLACE INTO hard_state (id, term, vote, crc) VALUES (1, ?, ?, ?)"

# Two subqueries, because min() beside max() would read the whole table.
_BOUNDS = (
    'SELECT (SELECT min("index") FROM entries), (SELECT max("index") FROM entries)'
)

# The parts of a SQLite file's header that say what it is: the magic, how often
# the schema was changed, the user_version and the application_id.
_MAGIC = b"SQLite format 3\x00"
_HEADER = struct.Struct(">16s24xI16xI4xI")

_pack_entry = struct.Struct(">qqB").pack
_pack_term = struct.Struct(">q").pack


def _entry_crc(index: LogIndex, term: Term, kind: int, command: bytes) -> int:
    """Return the CRC-32 of index, term (8 bytes each), kind (1) and command."""
    return crc32(command, crc32(_pack_entry(index, term, kind)))


def _hard_state_crc(term: Term, vote: ServerId | None) -> int:
    """Return the CRC-32 of term (8 bytes) and, after a 1 if any, the vote."""
    voted = b"" if vote is None else b"\x01" + vote.encode()
    return crc32(voted, crc32(_pack_term(term)))


@dataclass(frozen=True, slots=True)
class SQLiteOptions:
    """
    What the YAML file may set under ``storage.options``.

    Args:
        checkpoint_mib: How much the WAL gathers before SQLite moves it to the
            database file.  The sync that does so takes longer; a larger WAL
            makes that rarer, and longer.
        cache_mib: How much of the database SQLite keeps in memory.
    """

    checkpoint_mib: int = 4
    cache_mib: int = 8


class SQLiteStorage(Storage):
    """A log in a SQLite database; see the module for its format."""

    Options = SQLiteOptions

    def __init__(self, options: Any = None) -> None:
        """Keep *options*; the file is opened by :meth:`open`, on its thread."""
        super().__init__(options)
        self._connection: sqlite3.Connection | None = None
        self._path = Path(_FILE)
        self._last = 0

    @classmethod
    def check(cls, options: SQLiteOptions, directory: Path) -> Iterable[Finding]:
        """Look at the options and, without a lock, at the file."""
        for field in fields(options):
            if getattr(options, field.name) < 1:
                yield Finding(
                    "storage.E105",
                    f"{field.name} is {getattr(options, field.name)}",
                    "write 1 or more",
                    f"storage.options.{field.name}",
                )
        yield from _look_at_file(directory / _FILE)

    def open(self, directory: Path) -> None:
        """Open the database, or make it; this thread is the connection's."""
        self._path = directory / _FILE
        _refuse(_look_for_lost_file(self._path))
        with _driver_errors(self._path, "open"):
            _sync_wal(self._path)
            self._connection = sqlite3.connect(
                self._path, timeout=_LOCK_TIMEOUT_SECONDS, isolation_level=None
            )
        try:
            with self._using("open") as connection:
                self._prepare(connection)
            # What a vote or an election needs first has to be there.
            self.hard_state()
            self.term(self._last)
        except BaseException:
            self.close()
            raise

    def hard_state(self) -> HardState:
        """Return the only row of ``hard_state``."""
        with self._using("read the term and vote") as connection:
            row = connection.execute(_LOAD).fetchone()
        if row is None:
            return HardState()
        term, vote, crc = row
        try:
            intact = crc == _hard_state_crc(term, vote)
        except (AttributeError, TypeError, struct.error):
            intact = False
        if not intact:
            message = f"{self._path}: the term and vote are damaged; {_REMEDY}"
            raise StorageError(message)
        return HardState(term, vote)

    def save_hard_state(self, hard_state: HardState) -> None:
        """Replace the only row of ``hard_state``."""
        term, vote = hard_state.term, hard_state.vote
        with self._writing("save the term and vote") as connection:
            connection.execute(_SAVE, (term, vote, _hard_state_crc(term, vote)))

    def append(self, entries: Sequence[Entry]) -> None:
        """Insert *entries* after deleting what they replace."""
        with self._writing("append") as connection:
            rows = _rows(entries, self._last)
            first, last = rows[0][0], rows[-1][0]
            if first <= self._last:
                connection.execute(_DELETE, (first,))
            connection.executemany(_INSERT, rows)
        self._last = last

    def entries(
        self, first: LogIndex, last: LogIndex, max_bytes: int
    ) -> Sequence[Entry]:
        """Read rows until *max_bytes* are full, checking each."""
        if first < _FIRST_INDEX:
            raise CompactedError(_FIRST_INDEX)
        if last > self._last:
            message = f"entry {last} is beyond the last, {self._last}"
            raise StorageError(message)
        with (
            self._using(f"read entries {first} to {last}") as connection,
            closing(connection.execute(_SELECT, (first, last))) as rows,
        ):
            return self._intact(rows, first, last, max_bytes)

    def term(self, index: LogIndex) -> Term:
        """Read the entry at *index*, so that it is checked as well."""
        if index == 0:
            return 0
        return self.entries(index, index, 0)[0].term

    def first_index(self) -> LogIndex:
        """Return 1: nothing is ever compacted."""
        return _FIRST_INDEX

    def last_index(self) -> LogIndex:
        """Return the highest primary key, which is kept in memory."""
        return self._last

    def sync(self) -> None:
        """Commit; close the file for good if that fails."""
        with self._using("sync") as connection:
            if not connection.in_transaction:
                return
            try:
                connection.execute("COMMIT")
            except sqlite3.Error:
                # A second try might succeed without the pages that are lost.
                self.close()
                raise

    def close(self) -> None:
        """Close the file, which undoes what is not committed."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    @contextmanager
    def _using(self, doing: str) -> Iterator[sqlite3.Connection]:
        if self._connection is None:
            message = f"{self._path}: cannot {doing}: it is not open"
            raise StorageError(message)
        with _driver_errors(self._path, doing):
            yield self._connection

    @contextmanager
    def _writing(self, doing: str) -> Iterator[sqlite3.Connection]:
        """Lend the connection in a transaction, for all of the body or none."""
        with self._using(doing) as connection:
            if not connection.in_transaction:
                connection.execute("BEGIN IMMEDIATE")
            connection.execute("SAVEPOINT step")
            try:
                yield connection
            except BaseException:
                self._undo(connection)
                raise
            connection.execute("RELEASE step")

    def _prepare(self, connection: sqlite3.Connection) -> None:
        is_new = connection.execute("SELECT 1 FROM sqlite_master").fetchone() is None
        if not is_new:
            (application,) = connection.execute("PRAGMA application_id").fetchone()
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            _refuse(_look_at_format(self._path, application, version))
        _configure(connection, self.options)
        if is_new:
            _make_tables(connection)
        first, last = connection.execute(_BOUNDS).fetchone()
        if first not in {None, _FIRST_INDEX}:
            raise StorageError(self._damage(_FIRST_INDEX, "missing"))
        self._last = last or 0

    def _undo(self, connection: sqlite3.Connection) -> None:
        if connection.in_transaction:
            connection.execute("ROLLBACK TO step")
            connection.execute("RELEASE step")
        else:
            # SQLite gave up the whole transaction, and with it steps that this
            # server has been told are stored.
            self.close()

    def _intact(
        self,
        rows: Iterable[tuple[int, int, int, bytes, int]],
        first: LogIndex,
        last: LogIndex,
        max_bytes: int,
    ) -> list[Entry]:
        found: list[Entry] = []
        expected = first
        size = 0
        for index, term, kind, command, crc in rows:
            if index != expected:
                break
            try:
                size += len(command)
                intact = crc == _entry_crc(index, term, kind, command)
            except (TypeError, struct.error):
                intact = False
            if not intact:
                raise StorageError(self._damage(index, "damaged"))
            if found and size > max_bytes:
                return found
            found.append(Entry(index, term, kind, command))
            expected += 1
        if expected <= last:
            raise StorageError(self._damage(expected, "missing"))
        return found

    def _damage(self, index: LogIndex, what: str) -> str:
        return f"{self._path}: entry {index} is {what}; {_REMEDY}"


@contextmanager
def _driver_errors(path: Path, doing: str) -> Iterator[None]:
    """Turn what SQLite, the system and a number too large raise into ours."""
    try:
        yield
    except (sqlite3.Error, OSError, struct.error) as error:
        message = f"{path}: cannot {doing}: {error}"
        raise StorageError(message) from error


def _refuse(findings: Iterable[Finding]) -> None:
    for finding in findings:
        raise StorageError(str(finding))


def _rows(
    entries: Sequence[Entry], last: LogIndex
) -> list[tuple[int, int, int, bytes, int]]:
    """Return *entries* as rows, or refuse them as no continuation of *last*."""
    if not entries:
        raise StorageError("nothing to append")
    expected = entries[0].index
    if not _FIRST_INDEX <= expected <= last + 1:
        message = f"entry {expected} does not follow {last}"
        raise StorageError(message)
    rows = []
    for entry in entries:
        index, term, kind, command = entry.index, entry.term, entry.kind, entry.command
        if index != expected:
            message = f"entry {index} stands in the place of {expected}"
            raise StorageError(message)
        crc = _entry_crc(index, term, kind, command)
        rows.append((index, term, kind, command, crc))
        expected += 1
    return rows


def _sync_wal(path: Path) -> None:
    """
    Make durable what the last process may have left unsynced in the WAL.

    Killed in the middle of a sync, it leaves a transaction that SQLite will
    find whole, but that a power cut could still take away.
    """
    wal = path.with_name(f"{path.name}-wal")
    if not wal.exists():
        return
    descriptor = os.open(wal, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _configure(connection: sqlite3.Connection, options: SQLiteOptions) -> None:
    (page_size,) = connection.execute("PRAGMA page_size").fetchone()
    pages = options.checkpoint_mib * _MIB // page_size
    connection.execute(f"PRAGMA wal_autocheckpoint = {pages}")
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
    connection.execute("INSERT INTO meta (key, value) VALUES ('format', ?)", (_FORMAT,))
    connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {_FORMAT}")
    connection.execute("COMMIT")
    # From the WAL into the file, where check() can see them.
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _look_at_format(path: Path, application: int, version: int) -> Iterator[Finding]:
    """Yield why a database with this in its header is not for this release."""
    if application != _APPLICATION_ID:
        yield Finding(
            "storage.E102",
            f"{path} is a database of another program",
            "give the server a data directory of its own",
            "data_dir",
        )
    elif version != _FORMAT:
        yield Finding(
            "storage.E103",
            f"{path} has format {version}; this release reads {_FORMAT}",
            "run the release that wrote it",
            "data_dir",
        )


def _look_for_lost_file(path: Path) -> Iterator[Finding]:
    wal = path.with_name(f"{path.name}-wal")
    if wal.exists() and not path.exists():
        yield Finding(
            "storage.E104",
            f"{path} is gone, but its WAL is still there",
            _REMEDY,
            "data_dir",
        )


def _look_at_file(path: Path) -> Iterator[Finding]:
    """
    Yield what forbids to open *path*, changing nothing.

    Only the header is looked at, and not through SQLite, which would recover
    the WAL first, or, told to leave it alone, take a file that was killed
    during a checkpoint for a damaged one.
    """
    yield from _look_for_lost_file(path)
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER.size)
    except FileNotFoundError:
        return
    except OSError as error:
        message = f"{path} cannot be read: {error}"
        yield Finding("storage.E101", message, _REMEDY, "data_dir")
        return
    if not header:
        return
    if len(header) < _HEADER.size or not header.startswith(_MAGIC):
        yield Finding(
            "storage.E101", f"{path} is not a SQLite database", _REMEDY, "data_dir"
        )
        return
    _, schema_changes, version, application = _HEADER.unpack(header)
    # No schema yet: the server that began to make the file was killed.
    if schema_changes:
        yield from _look_at_format(path, application, version)
