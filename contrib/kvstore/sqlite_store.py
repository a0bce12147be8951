"""SQLiteStore: all that the key-value store knows, in a SQLite database."""

from __future__ import annotations

import shutil
import sqlite3
import weakref
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

from consensus.errors import StorageError
from contrib.kvstore.answers import Event, Item
from contrib.kvstore.state import Numbers, encoded
from contrib.kvstore.store import HISTORY_BYTES, Granted, Store, size_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: The name of the database in its directory.
FILE = "kvstore.sqlite"

#: Of the tables.
FORMAT = 1

# Values are TEXT or BLOB, as they were given, and so come back as they were.
_SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS items (
    key BLOB PRIMARY KEY,
    value NOT NULL,
    created INTEGER NOT NULL,
    modified INTEGER NOT NULL,
    version INTEGER NOT NULL,
    deadline INTEGER,
    lease INTEGER
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS ends ON items (deadline, key) WHERE deadline IS NOT NULL;
CREATE INDEX IF NOT EXISTS leased ON items (lease, key) WHERE lease IS NOT NULL;
CREATE TABLE IF NOT EXISTS leases (
    id INTEGER PRIMARY KEY,
    ttl INTEGER NOT NULL,
    deadline INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS lease_ends ON leases (deadline, id);
CREATE TABLE IF NOT EXISTS events (
    number INTEGER PRIMARY KEY,
    revision INTEGER NOT NULL,
    kind TEXT NOT NULL,
    key BLOB NOT NULL,
    value,
    size INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS event_revisions ON events (revision, number);
CREATE TABLE IF NOT EXISTS numbers (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    revision INTEGER NOT NULL,
    time INTEGER NOT NULL,
    last_lease INTEGER NOT NULL,
    first_kept INTEGER NOT NULL,
    last_applied INTEGER NOT NULL
);
INSERT OR IGNORE INTO numbers VALUES (1, 0, 0, 0, 1, 0);
"""

_GET = (
    "SELECT value, created, modified, version, deadline, lease FROM items WHERE key = ?"
)
_PUT = "INSERT OR REPLACE INTO items VALUES (?, ?, ?, ?, ?, ?, ?)"
_ROWS = "SELECT key, value, created, modified, version, deadline, lease FROM items"
_COUNT = "SELECT count(*) FROM items"
_FIRST_KEY = (
    "SELECT deadline, key FROM items WHERE deadline IS NOT NULL"
    " ORDER BY deadline, key LIMIT 1"
)
_FIRST_LEASE = "SELECT deadline, id FROM leases ORDER BY deadline, id LIMIT 1"
_EVENTS = "SELECT revision, kind, key, value FROM events"
_EVENTS_FROM = (
    f"{_EVENTS} WHERE revision >= ? ORDER BY revision, number LIMIT ? OFFSET ?"
)
_NUMBERS = "SELECT revision, time, last_lease, first_kept FROM numbers"
_SAVE = (
    "UPDATE numbers SET revision = ?, time = ?, last_lease = ?, first_kept = ?,"
    " last_applied = ?"
)
_KEPT = "SELECT count(*), coalesce(max(number), 0), coalesce(sum(size), 0) FROM events"

_UNKNOWN: Any = object()


class SQLiteStore(Store):
    """
    An open database.

    Changes belong into a :meth:`transaction`.

    Args:
        directory: Where the database is; ``None`` for a place that is
            forgotten with this object.
        history: How many events to keep.
        cache_mib: How much of the database to keep in memory.
    """

    def __init__(self, directory: Path | None, history: int, cache_mib: int) -> None:
        if directory is None:
            directory = Path(mkdtemp(prefix="kvstore-"))
            weakref.finalize(self, shutil.rmtree, directory, ignore_errors=True)
        self.path = directory / FILE
        self.history = history
        self._longest = history + history // 8
        self.shared = 0
        self._is_undoing = False
        try:
            self._connection = _connect(self.path)
            self._prepare(cache_mib)
        except sqlite3.Error as error:
            raise _failed(self.path, error) from error
        self._load()

    def _prepare(self, cache_mib: int) -> None:
        found = self._number("PRAGMA user_version")
        if found > FORMAT:
            self.close()
            message = f"{self.path} has format {found}; {FORMAT} is known"
            raise StorageError(message)
        self._execute("PRAGMA journal_mode = WAL")
        # A power cut may take the last transactions, but never a part of one,
        # and what it takes is in the server's log.
        self._execute("PRAGMA synchronous = NORMAL")
        self._execute(f"PRAGMA cache_size = -{cache_mib * 1024}")
        end = f"PRAGMA user_version = {FORMAT}; COMMIT;"
        self._connection.executescript(_SCHEMA + end)

    def _load(self) -> None:
        """Read what is kept beside the database."""
        numbers = self._one(_NUMBERS)
        self.revision, self.time, self.last_lease, self._first_kept = numbers
        self._count = self._number(_COUNT)
        self._kept, self._last_event, self._log_bytes = self._one(_KEPT)
        self._forget_firsts()

    def _forget_firsts(self) -> None:
        self._first_key: tuple[int, bytes] | None = _UNKNOWN
        self._first_lease: tuple[int, int] | None = _UNKNOWN

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    # --- the database ------------------------------------------------------------

    def _execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        try:
            return self._connection.execute(statement, values)
        except sqlite3.Error as error:
            raise _failed(self.path, error) from error

    def _one(self, statement: str, *values: Any) -> Any:
        """Return the first row, or ``None``."""
        return next(self._rows(statement, *values), None)

    def _number(self, statement: str, *values: Any) -> int:
        """Return the number in the only row."""
        found: int = self._one(statement, *values)[0]
        return found

    def _rows(self, statement: str, *values: Any) -> Iterator[Any]:
        """Yield the rows as they are found."""
        with closing(self._execute(statement, *values)) as cursor:
            try:
                yield from cursor
            except sqlite3.Error as error:
                raise _failed(self.path, error) from error

    def last_applied(self) -> int:
        """Return what the last transaction stored."""
        return self._number("SELECT last_applied FROM numbers")

    @contextmanager
    def transaction(self, last_applied: int) -> Iterator[None]:
        """Commit what is done within and *last_applied*, all or nothing."""
        self._execute("BEGIN IMMEDIATE")
        try:
            yield
            first = self._first_kept
            numbers = self.revision, self.time, self.last_lease, first, last_applied
            self._execute(_SAVE, *numbers)
            self._execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._execute("ROLLBACK")
            self._load()
            raise

    def clear(self) -> None:
        """Forget all; within a transaction."""
        for table in ("items", "leases", "events"):
            self._execute(f"DELETE FROM {table}")  # noqa: S608 - one of three names
        self.revision = self.time = self.last_lease = 0
        self._first_kept = 1
        self._count = self._kept = self._last_event = self._log_bytes = 0
        self._forget_firsts()

    # --- items -----------------------------------------------------------------

    def get(self, key: bytes) -> Item | None:
        """Return what *key* has; see the base."""
        row = self._one(_GET, key)
        return None if row is None else Item(*row)

    def put(self, key: bytes, item: Item) -> None:
        """Let *key* have *item*; see the base."""
        old = self.get(key)
        self._put_row(key, item)
        self._count += old is None
        if item.deadline is not None or (old is not None and old.deadline is not None):
            self._first_key = _UNKNOWN

    def _put_row(self, key: bytes, item: Item) -> None:
        self._execute(
            _PUT,
            key,
            item.value,
            item.created,
            item.modified,
            item.version,
            item.deadline,
            item.lease,
        )

    def remove(self, key: bytes) -> None:
        """Remove *key*; see the base."""
        self._execute("DELETE FROM items WHERE key = ?", key)
        self._count -= 1
        if self._first_key is not None:
            self._first_key = _UNKNOWN

    def scan(self, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, Item]]:
        """Yield the keys of a range; see the base."""
        rows = (
            self._rows(f"{_ROWS} WHERE key >= ? ORDER BY key", start)
            if end is None
            else self._rows(
                f"{_ROWS} WHERE key >= ? AND key < ? ORDER BY key", start, end
            )
        )
        for key, *fields in rows:
            yield key, Item(*fields)

    def count(self, start: bytes, end: bytes | None) -> int:
        """Return how many keys a range has; see the base."""
        if end is not None:
            return self._number(f"{_COUNT} WHERE key >= ? AND key < ?", start, end)
        if start:
            return self._number(f"{_COUNT} WHERE key >= ?", start)
        return self._count

    def __len__(self) -> int:
        return self._count

    # --- deadlines and leases ----------------------------------------------------

    def first_key(self) -> tuple[int, bytes] | None:
        """Return which key ends first; see the base."""
        if self._first_key is _UNKNOWN:
            self._first_key = self._one(_FIRST_KEY)
        return self._first_key

    def first_lease(self) -> tuple[int, int] | None:
        """Return which lease ends first; see the base."""
        if self._first_lease is _UNKNOWN:
            self._first_lease = self._one(_FIRST_LEASE)
        return self._first_lease

    def lease(self, lease: int) -> Granted | None:
        """Return a lease; see the base."""
        row = self._one("SELECT ttl, deadline FROM leases WHERE id = ?", lease)
        return None if row is None else Granted(*row)

    def put_lease(self, lease: int, granted: Granted) -> None:
        """Let there be a lease; see the base."""
        self._execute("INSERT OR REPLACE INTO leases VALUES (?, ?, ?)", lease, *granted)
        self._first_lease = _UNKNOWN

    def remove_lease(self, lease: int) -> None:
        """Forget a lease; see the base."""
        self._execute("DELETE FROM leases WHERE id = ?", lease)
        self._first_lease = _UNKNOWN

    def leases(self, after: int, limit: int) -> list[int]:
        """Return the ids of leases; see the base."""
        statement = "SELECT id FROM leases WHERE id > ? ORDER BY id LIMIT ?"
        return [lease for (lease,) in self._rows(statement, after, limit)]

    def lease_count(self) -> int:
        """Return how many leases there are."""
        return self._number("SELECT count(*) FROM leases")

    def keys_of(self, lease: int, limit: int | None = None) -> list[bytes]:
        """Return the keys that have *lease*; see the base."""
        statement = "SELECT key FROM items WHERE lease = ? ORDER BY key LIMIT ?"
        rows = self._rows(statement, lease, -1 if limit is None else limit)
        return [key for (key,) in rows]

    # --- history -----------------------------------------------------------------

    def append(self, event: Event) -> None:
        """Keep *event*; see the base."""
        size = size_of(event)
        self._last_event += 1
        self._execute(
            "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)",
            self._last_event,
            event.revision,
            event.kind,
            event.key,
            event.value,
            size,
        )
        self._kept += 1
        self._log_bytes += size
        self._forget_if_full()

    def _forget_if_full(self) -> None:
        """Drop the oldest events, if there are too many."""
        if self._is_undoing or (
            self._kept <= self._longest and self._log_bytes <= HISTORY_BYTES
        ):
            return
        few = HISTORY_BYTES - HISTORY_BYTES // 8
        last = 0
        for number, revision, size in self._rows(
            "SELECT number, revision, size FROM events ORDER BY number"
        ):
            if self._kept <= self.history and self._log_bytes <= few:
                break
            last, self._first_kept = number, revision + 1
            self._kept -= 1
            self._log_bytes -= size
        self._execute("DELETE FROM events WHERE number <= ?", last)

    def begin_history(self, revision: int) -> None:
        """Say where the history begins; see the base."""
        self._first_kept = max(self._first_kept, revision)

    def first_revision(self) -> int:
        """Return the first revision of which all events are kept."""
        found: int = self._first_kept
        return found

    def events(self, revision: int, skip: int, limit: int) -> Sequence[Event]:
        """Return events from *revision* on; see the base."""
        return [Event(*row) for row in self._rows(_EVENTS_FROM, revision, limit, skip)]

    # --- all or nothing ----------------------------------------------------------

    @contextmanager
    def undoing(self) -> Iterator[None]:
        """Undo what is done within, if it raises; see the base."""
        before = {name: getattr(self, name) for name in _UNDONE}
        self._execute("SAVEPOINT undoing")
        self._is_undoing = True
        try:
            yield
        except BaseException:
            self._execute("ROLLBACK TO undoing")
            for name, value in before.items():
                setattr(self, name, value)
            self._forget_firsts()
            raise
        finally:
            self._is_undoing = False
            self._execute("RELEASE undoing")
        self._forget_if_full()


#: What is not in the database until a transaction ends.
_UNDONE = (
    "revision",
    "last_lease",
    "_count",
    "_kept",
    "_last_event",
    "_log_bytes",
    "_first_kept",
)


def _failed(path: Path, error: sqlite3.Error) -> StorageError:
    return StorageError(f"the key-value store in {path}: {error}")


def _connect(path: Path) -> sqlite3.Connection:
    """Return a connection that begins no transactions by itself."""
    # A view is made in the reactor's thread and read in another one.
    return sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, factory=_Connection
    )


class _Connection(sqlite3.Connection):
    """
    One that closes itself if nobody does.

    A server that fails, or a simulated one that dies, does not come to it; from
    Python 3.13 on, that is a warning.
    """

    def __del__(self) -> None:
        self.close()


class SQLiteView:
    """
    A database at one moment: a read transaction of a connection of its own.

    As long as it is open, the WAL of the database grows.

    Args:
        path: The database.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._connection = _connect(path)
            self._connection.execute("BEGIN")
            # It sees what is there at its first read, so it has to read now.
            row = self._connection.execute(_NUMBERS).fetchone()
        except sqlite3.Error as error:
            raise _failed(path, error) from error
        self._numbers = Numbers(*row)

    def chunks(self) -> Iterator[bytes]:
        """Yield the view as bytes, a block at a time."""
        with closing(self._connection) as connection:
            items = connection.execute(f"{_ROWS} ORDER BY key")
            leases = connection.execute("SELECT * FROM leases ORDER BY id")
            events = connection.execute(f"{_EVENTS} ORDER BY number")
            try:
                yield from encoded(
                    self._numbers,
                    ((key, Item(*fields)) for key, *fields in items),
                    ((lease, Granted(*fields)) for lease, *fields in leases),
                    (Event(*row) for row in events),
                )
            except sqlite3.Error as error:
                raise _failed(self._path, error) from error
