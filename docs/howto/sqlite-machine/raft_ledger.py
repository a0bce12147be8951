"""
Accounts and their balances, in a SQLite database: a state machine on disk.

Commands are ``["deposit", account, amount]`` and ``["transfer", source,
target, amount]``; both answer with the balance of the account that they name
first.  The queries are ``["balance", account]`` and ``["total"]``.

The database is ``ledger.sqlite``, in WAL mode.  The table ``applied`` has one
row, the index of the last command whose effect is there; it changes in the
transactions that change ``accounts``, so the two always fit.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import weakref
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

from consensus.errors import StorageError
from consensus.interfaces import StateMachine

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

#: Of the tables and of a snapshot's bytes.
FORMAT = 1

SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS accounts (
    name TEXT PRIMARY KEY,
    balance INTEGER NOT NULL CHECK (typeof(balance) = 'integer' AND balance >= 0)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS applied (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    last_index INTEGER NOT NULL
);
INSERT OR IGNORE INTO applied VALUES (1, 0);
PRAGMA user_version = {FORMAT};
COMMIT;
"""

ADD = """
INSERT INTO accounts VALUES (?1, ?2)
ON CONFLICT (name) DO UPDATE SET balance = balance + ?2
"""
TAKE = "UPDATE accounts SET balance = balance - ?2 WHERE name = ?1"
BALANCE = "SELECT balance FROM accounts WHERE name = ?"


class Ledger(StateMachine):
    """Accounts that survive a restart without their log."""

    def init(self, name: str) -> Database:
        """Open the database, or begin one."""
        return Database(self.directory)

    def handle_write(self, command: Any, state: Database) -> tuple[int, Database]:
        """Apply one command; called by apply_batch, in its transaction."""
        match command:
            case ["deposit", str(account), int(amount)] if amount > 0:
                state.execute(ADD, account, amount)
            case ["transfer", str(account), str(target), int(amount)] if amount > 0:
                # Whether there is so much, the CHECK of the table says.
                if not state.execute(TAKE, account, amount).rowcount:
                    raise ValueError(f"there is no account {account}")
                state.execute(ADD, target, amount)
            case _:
                raise ValueError("not a command of the ledger")
        return state.execute(BALANCE, account).fetchone()[0], state

    def handle_read(self, query: Any, state: Database) -> tuple[int, Database]:
        """Answer a query."""
        match query:
            case ["balance", str(account)]:
                row = state.execute(BALANCE, account).fetchone()
                return row[0] if row else 0, state
            case ["total"]:
                sums = state.execute("SELECT coalesce(sum(balance), 0) FROM accounts")
                return sums.fetchone()[0], state
        raise ValueError("not a query of the ledger")

    def apply_batch(
        self, batch: Sequence[tuple[int, Any]], state: Database
    ) -> tuple[Sequence[Any], Database]:
        """Apply the commands of *batch*, and store how far: all or nothing."""
        results = []
        if batch[0][0] <= self.last_applied(state):
            raise StorageError(f"command {batch[0][0]} was applied before")
        with state.transaction():
            for _, command in batch:
                results.append(self._apply(command, state))
            state.set_last_applied(batch[-1][0])
        return results, state

    def _apply(self, command: Any, state: Database) -> Any:
        """Return the result of *command*; one that fails changes nothing."""
        state.execute("SAVEPOINT command")
        try:
            result, _ = self.handle_write(command, state)
        # These are the same on every server.  Whatever else is raised is not: a
        # full or broken disk is this server's own affair, and must stop it.
        except ValueError as error:
            state.execute("ROLLBACK TO command")
            result = error
        except (sqlite3.IntegrityError, OverflowError):
            # Words that are not ours may differ from release to release.
            state.execute("ROLLBACK TO command")
            result = ValueError("the balance would be below 0, or too large")
        state.execute("RELEASE command")
        return result

    def last_applied(self, state: Database) -> int:
        """Return what the last transaction stored."""
        return state.execute("SELECT last_index FROM applied").fetchone()[0]

    def snapshot(self, state: Database) -> View:
        """Return a view of the accounts as they are now."""
        return View(state.path)

    def restore(self, chunks: Iterable[bytes], last_applied: int) -> Database:
        """Replace all accounts by those of a snapshot: all or nothing."""
        state = Database(self.directory)
        try:
            with state.transaction():
                state.execute("DELETE FROM accounts")
                state.execute_many("INSERT INTO accounts VALUES (?, ?)", rows(chunks))
                state.set_last_applied(last_applied)
        except BaseException:
            state.close()
            raise
        return state

    def close(self, state: Database) -> None:
        """Close the database."""
        state.close()


class Database:
    """
    An open connection.

    Args:
        directory: Where ``ledger.sqlite`` is; ``None`` for a place that is
            forgotten with this object.
    """

    def __init__(self, directory: Path | None) -> None:
        if directory is None:
            directory = Path(mkdtemp(prefix="ledger-"))
            weakref.finalize(self, shutil.rmtree, directory, ignore_errors=True)
        self.path = directory / "ledger.sqlite"
        try:
            self._connection = connect(self.path)
            self._prepare()
        except sqlite3.Error as error:
            raise StorageError(f"cannot open {self.path}: {error}") from error

    def _prepare(self) -> None:
        found = self.execute("PRAGMA user_version").fetchone()[0]
        if found > FORMAT:
            self.close()
            raise StorageError(f"{self.path} has format {found}; {FORMAT} is known")
        self.execute("PRAGMA journal_mode = WAL")
        # A power cut may take the last transactions, but never a part of one,
        # and what it takes is in the server's log.  So nothing waits for the
        # disk here.
        self.execute("PRAGMA synchronous = NORMAL")
        self._connection.executescript(SCHEMA)

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        """Execute one statement."""
        return self._connection.execute(statement, values)

    def execute_many(self, statement: str, rows: Iterable[Any]) -> None:
        """Execute one statement for each of *rows*."""
        self._connection.executemany(statement, rows)

    def set_last_applied(self, index: int) -> None:
        """Store *index*; within the transaction that it belongs to."""
        self.execute("UPDATE applied SET last_index = ?", index)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit what is done within, or roll it back."""
        try:
            self.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.execute("COMMIT")
            finally:
                if self._connection.in_transaction:
                    self.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise StorageError(f"cannot write {self.path}: {error}") from error

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def connect(path: Path) -> sqlite3.Connection:
    """Return a connection that begins no transactions by itself."""
    # A view is made in the reactor's thread and read in another one.
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False)


class View:
    """The accounts of one moment: a read transaction of its own connection."""

    def __init__(self, path: Path) -> None:
        self._connection = connect(path)
        self._connection.execute("BEGIN")
        # It sees what is there at its first read, so it has to read now.
        self._connection.execute("SELECT last_index FROM applied").fetchone()

    def chunks(self) -> Iterator[bytes]:
        """Yield a line of JSON for the format, and one for each account."""
        with closing(self._connection) as connection:
            yield b"%d\n" % FORMAT
            for row in connection.execute("SELECT * FROM accounts ORDER BY name"):
                yield json.dumps(row).encode() + b"\n"


def rows(chunks: Iterable[bytes]) -> Iterator[Any]:
    """Yield the accounts in a snapshot."""
    found = lines(chunks)
    try:
        if json.loads(next(found, b"0")) != FORMAT:
            raise StorageError(f"not a snapshot of the ledger, or not of {FORMAT}")
        for line in found:
            name, balance = json.loads(line)
            yield name, balance
    except (ValueError, TypeError) as error:
        raise StorageError(f"not a snapshot of the ledger: {error}") from error


def lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the lines in *chunks*, however they are cut."""
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole
    if rest:
        raise StorageError("a snapshot that ends within a line")
