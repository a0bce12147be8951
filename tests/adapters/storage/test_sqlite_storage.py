"""The storage in a SQLite file."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import sqlite_utils

from adapters.storage import sqlite
from adapters.storage.sqlite import SQLiteOptions, SQLiteStorage
from consensus.core.values import Entry, EntryKind, HardState
from consensus.entries import unpack_entries
from consensus.errors import StorageError
from consensus.testing.storage import StorageSuite, run_of
from tests.adapters.storage import engine_suite
from tests.adapters.storage.engine_suite import (
    PLENTY,
    CheckSuite,
    Engine,
    FailureSuite,
)

if TYPE_CHECKING:
    from pathlib import Path

opened = partial(engine_suite.opened, SQLiteStorage)
write = partial(engine_suite.write, SQLiteStorage)


class TestSQLiteStorage(StorageSuite):
    """What every storage promises."""

    def make(self, directory: Path) -> SQLiteStorage:  # noqa: ARG002 - it needs none
        return SQLiteStorage()


class TestSmallWAL(StorageSuite):
    """What every storage promises, with checkpoints all the time."""

    def make(self, directory: Path) -> SQLiteStorage:  # noqa: ARG002 - it needs none
        return SQLiteStorage(SQLiteOptions(checkpoint_mib=1, cache_mib=1))


def tamper(directory: Path, *statements: str) -> None:
    """Run *statements* on the file behind the storage's back."""
    with closing(sqlite3.connect(directory / "raft.sqlite")) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


class SQLiteEngine(Engine):
    """The engine, to the suites."""

    cls = SQLiteStorage
    file = "raft.sqlite"

    def set_format(self, directory: Path, found: int) -> None:
        """Write the number to the header."""
        tamper(directory, f"PRAGMA user_version = {found}")


class TestFile:
    """What stands on the disk."""

    def test_sqlite_utils_reads_it_while_the_server_runs(self, tmp_path: Path) -> None:
        """Another connection sees all that is synced, under plain names."""
        with opened(tmp_path) as storage:
            storage.append(run_of(1, 2))
            storage.append(run_of(3, 3, term=2))
            storage.save_hard_state(HardState(4, "s2"))
            storage.sync()
            with closing(sqlite3.connect(tmp_path / "raft.sqlite")) as connection:
                database = sqlite_utils.Database(connection)
                batches = list(database.table("batches").rows)
                log = list(database.query("select * from log"))
                hard_states = list(database.table("hard_state").rows)
                meta = list(database.table("meta").rows)
                keys = database.table("batches").pks
        assert [(row["first"], row["last"], row["term"]) for row in batches] == [
            (1, 2, 1),
            (3, 3, 2),
        ]
        packed = batches[0]["entries"]
        assert unpack_entries(packed, 1) == run_of(1, 2)
        expected = {"first": 1, "last": 2, "count": 2, "term": 1, "bytes": len(packed)}
        assert log[0] == expected
        assert hard_states[0]["term"] == 4
        assert hard_states[0]["vote"] == "s2"
        assert meta == [{"key": "format", "value": 3}]
        assert keys == ["first"]

    def test_a_new_file_says_what_it_is(self, tmp_path: Path) -> None:
        """Its header has the application and the format while it is still open."""
        with opened(tmp_path):
            header = (tmp_path / "raft.sqlite").read_bytes()[:100]
        assert header[60:64] == b"\x00\x00\x00\x03"
        assert header[68:72] == b"RAFT"

    def test_a_sync_syncs(self, tmp_path: Path) -> None:
        """The connection is in WAL mode and waits for the disk."""
        with opened(tmp_path) as storage:
            connection = storage._driver
            assert connection is not None
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
            assert connection.execute("PRAGMA synchronous").fetchone() == (2,)

    def test_a_file_system_without_wal_is_refused(self) -> None:
        """Where SQLite cannot have its WAL, the storage does not do without."""
        with (
            closing(sqlite3.connect(":memory:")) as connection,
            pytest.raises(StorageError, match="journal_mode at memory"),
        ):
            sqlite._configure(connection, SQLiteOptions())

    def test_options_reach_sqlite(self, tmp_path: Path) -> None:
        """Mebibytes become kibibytes."""
        storage = SQLiteStorage(SQLiteOptions(cache_mib=3))
        storage.open(tmp_path)
        with closing(storage):
            connection = storage._driver
            assert connection is not None
            assert connection.execute("PRAGMA cache_size").fetchone() == (-3072,)

    def test_the_wal_does_not_grow_for_ever(self, tmp_path: Path) -> None:
        """After 64 MiB of entries a WAL of 1 MiB is some times as large at most."""
        storage = SQLiteStorage(SQLiteOptions(checkpoint_mib=1))
        storage.open(tmp_path)
        with closing(storage):
            for index in range(1, 257):
                command = bytes([index % 256]) * 262_144
                storage.append([Entry(index, 1, EntryKind.COMMAND, command)])
                storage.sync()
            wal = (tmp_path / "raft.sqlite-wal").stat().st_size
        assert wal < 6 * 1024 * 1024


class TestCheckpoint:
    """The WAL is moved to the file beside the writing."""

    def grow(self, storage: SQLiteStorage, mebibytes: int) -> None:
        """Write, in synced steps of 64 KiB."""
        first = storage.last_index() + 1
        for index in range(first, first + 16 * mebibytes):
            storage.append([Entry(index, 1, EntryKind.COMMAND, bytes(65_536))])
            storage.sync()

    def test_commits_do_none(self, tmp_path: Path) -> None:
        """SQLite is not to begin one by itself."""
        with opened(tmp_path) as storage:
            connection = storage._driver
            assert connection is not None
            found = connection.execute("PRAGMA wal_autocheckpoint").fetchone()
            assert found == (0,)

    def test_deletions_write_nothing_twice(self, tmp_path: Path) -> None:
        """Whatever the distribution's SQLite would do."""
        with opened(tmp_path) as storage:
            connection = storage._driver
            assert connection is not None
            assert connection.execute("PRAGMA secure_delete").fetchone() == (0,)

    def test_moves_what_is_there(self, tmp_path: Path) -> None:
        """The file grows while the storage is open."""
        path = tmp_path / "raft.sqlite"
        with opened(tmp_path, SQLiteOptions(checkpoint_mib=1)) as storage:
            before = path.stat().st_size
            self.grow(storage, 8)
            assert path.stat().st_size > before + (1 << 20)

    def test_that_fails_stops_the_storage(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What was to be moved may be lost: no second try makes it good."""

        def fail(*_: object, **__: object) -> None:
            raise sqlite3.OperationalError("disk I/O error")

        storage = SQLiteStorage(SQLiteOptions(checkpoint_mib=1))
        storage.open(tmp_path)
        with closing(storage):
            monkeypatch.setattr(sqlite3, "connect", fail)
            with pytest.raises(StorageError, match="cannot sync: disk I/O error"):
                self.grow(storage, 64)
            with pytest.raises(StorageError, match="it is not open"):
                storage.sync()
        monkeypatch.undo()
        with opened(tmp_path) as storage:
            assert storage.last_index() > 0

    def test_that_fails_to_sync_stops_the_storage(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Likewise."""

        def fail(_: int) -> None:
            raise OSError(errno.EIO, "Input/output error")

        with opened(tmp_path, SQLiteOptions(checkpoint_mib=1)) as storage:
            monkeypatch.setattr(os, "fsync", fail)
            with pytest.raises(StorageError, match=r"cannot sync: .*Input/output"):
                self.grow(storage, 64)

    def test_without_room_is_tried_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What is committed is safe in the WAL."""
        tries = []

        class FullError(sqlite3.OperationalError):
            sqlite_errorcode = sqlite3.SQLITE_FULL

        def fail(*_: object, **__: object) -> None:
            tries.append(1)
            raise FullError("database or disk is full")

        with opened(tmp_path, SQLiteOptions(checkpoint_mib=1)) as storage:
            with monkeypatch.context() as patch:
                patch.setattr(sqlite3, "connect", fail)
                self.grow(storage, 16)
            assert len(tries) > 1
            self.grow(storage, 16)
        with opened(tmp_path) as storage:
            assert storage.last_index() == 2 * 16 * 16

    def test_that_stands_still_bounds_the_wal(self, tmp_path: Path) -> None:
        """At four times the limit a sync waits for it; not before, not for ever."""

        class Stalled:
            joined = 0

            def is_alive(self) -> bool:
                return True

            def join(self) -> None:
                self.joined += 1

        stalled: Any = Stalled()
        with opened(tmp_path, SQLiteOptions(checkpoint_mib=1)) as storage:
            storage._checkpointer._thread = stalled
            self.grow(storage, 3)
            assert stalled.joined == 0
            self.grow(storage, 2)
            assert stalled.joined == 1
            self.grow(storage, 4)
            wal = (tmp_path / "raft.sqlite-wal").stat().st_size
            assert wal < 8 * 1024 * 1024

    def test_beside_a_reader_is_made_up_for(self, tmp_path: Path) -> None:
        """Who reads the file keeps the WAL from beginning anew, no longer."""
        path = tmp_path / "raft.sqlite"
        with opened(tmp_path, SQLiteOptions(checkpoint_mib=1)) as storage:
            with closing(sqlite3.connect(path)) as reader:
                reader.execute("BEGIN")
                reader.execute("SELECT count(*) FROM batches").fetchone()
                self.grow(storage, 8)
            wal = tmp_path / "raft.sqlite-wal"
            size = wal.stat().st_size
            assert size > 6 * 1024 * 1024
            self.grow(storage, 32)
            assert wal.stat().st_size < size + 6 * 1024 * 1024

    def test_under_way_is_waited_for(self, tmp_path: Path) -> None:
        """A close leaves no thread behind."""
        with opened(tmp_path, SQLiteOptions(checkpoint_mib=1)) as storage:
            self.grow(storage, 2)
        names = [thread.name for thread in threading.enumerate()]
        assert "raft-checkpoint" not in names

    def test_leaves_the_locks_alone(self, tmp_path: Path) -> None:
        """Another process cannot take the database for its own meanwhile."""
        script = (
            "import sqlite3, sys\n"
            "connection = sqlite3.connect(sys.argv[1], timeout=0)\n"
            "connection.execute('PRAGMA journal_mode = DELETE')\n"
        )
        with opened(tmp_path, SQLiteOptions(checkpoint_mib=1)) as storage:
            self.grow(storage, 8)
            path = tmp_path / "raft.sqlite"
            done = subprocess.run(
                [sys.executable, "-c", script, path],
                capture_output=True,
                text=True,
                check=False,
            )
            assert "database is locked" in done.stderr


class TestFailure(SQLiteEngine, FailureSuite):
    """What happens when a call fails."""

    def test_a_failed_append_is_taken_back(self, tmp_path: Path) -> None:
        """Neither its rows nor its deletions stay; what came before does."""
        with opened(tmp_path) as storage:
            storage.append(run_of(1, 3))
            assert storage._driver is not None
            storage._driver.execute(
                "CREATE TEMP TRIGGER fail BEFORE INSERT ON main.batches"
                " WHEN new.first = 2 BEGIN SELECT RAISE(ABORT, 'no'); END"
            )
            with pytest.raises(StorageError, match="cannot append: no") as caught:
                storage.append(run_of(2, 5, term=2))
            assert isinstance(caught.value.__cause__, sqlite3.Error)
            assert storage.last_index() == 3
            assert list(storage.entries(1, 3, PLENTY)) == run_of(1, 3)
            storage.sync()
        with opened(tmp_path) as storage:
            assert list(storage.entries(1, 3, PLENTY)) == run_of(1, 3)

    def test_a_full_disk_leaves_what_was_synced(self, tmp_path: Path) -> None:
        """The append that fills the disk is nowhere to be seen."""
        with opened(tmp_path) as storage:
            storage.append(run_of(1, 3))
            storage.sync()
            assert storage._driver is not None
            storage._driver.execute("PRAGMA max_page_count = 20")
            large = [
                Entry(index, 2, EntryKind.COMMAND, b"x" * 20_000)
                for index in range(2, 9)
            ]
            with pytest.raises(StorageError, match="full"):
                storage.append(large)
        with opened(tmp_path) as storage:
            assert storage.last_index() == 3
            assert list(storage.entries(1, 3, PLENTY)) == run_of(1, 3)

    def test_a_transaction_that_sqlite_gave_up_closes_it(self, tmp_path: Path) -> None:
        """When earlier appends are lost with a failed one, nothing works on."""
        with opened(tmp_path) as storage:
            storage.append(run_of(1, 2))
            assert storage._driver is not None
            storage._driver.execute(
                "CREATE TEMP TRIGGER give_up BEFORE INSERT ON main.batches"
                " BEGIN SELECT RAISE(ROLLBACK, 'the disk is gone'); END"
            )
            with pytest.raises(StorageError, match="the disk is gone"):
                storage.append(run_of(3, 4))
            with pytest.raises(StorageError, match="not open"):
                storage.entries(1, 2, PLENTY)

    def test_a_failed_sync_is_the_last(self, tmp_path: Path) -> None:
        """After it every call fails, so that nobody can try again."""
        with opened(tmp_path) as storage:
            connection = storage._driver
            assert connection is not None
            connection.execute("PRAGMA foreign_keys = ON")
            storage.append(run_of(1, 2))
            # A commit is what finds that a deferred reference leads nowhere.
            connection.execute("CREATE TEMP TABLE target (id INTEGER PRIMARY KEY)")
            connection.execute(
                "CREATE TEMP TABLE source"
                " (id REFERENCES target DEFERRABLE INITIALLY DEFERRED)"
            )
            connection.execute("INSERT INTO source VALUES (1)")
            with pytest.raises(StorageError, match="cannot sync: FOREIGN KEY"):
                storage.sync()
            with pytest.raises(StorageError, match="not open"):
                storage.sync()
        with opened(tmp_path) as storage:
            assert storage.last_index() == 0


class TestDamage(SQLiteEngine):
    """What a failing disk, or a meddler, does to the file is noticed."""

    @pytest.mark.parametrize(
        "change",
        [
            "UPDATE batches SET entries = x'00' WHERE first = 2",
            "UPDATE batches SET entries = 'text' WHERE first = 2",
            "UPDATE batches SET entries = 7 WHERE first = 2",
            "UPDATE batches SET term = 8 WHERE first = 2",
            "UPDATE batches SET term = 'one' WHERE first = 2",
            "UPDATE batches SET last = 3 WHERE first = 2",
            "UPDATE batches SET crc = crc + 1 WHERE first = 2",
            "UPDATE batches SET crc = 'sum' WHERE first = 2",
        ],
    )
    def test_a_changed_entry_is_not_returned(self, tmp_path: Path, change: str) -> None:
        """The error names the file, the entry and the way out."""
        write(tmp_path, 3)
        tamper(tmp_path, change)
        self.check_damaged(tmp_path)

    def test_entries_that_changed_places_are_noticed(self, tmp_path: Path) -> None:
        """The CRC covers the index."""
        write(tmp_path, 4)
        tamper(
            tmp_path,
            "UPDATE batches SET first = 9 WHERE first = 2",
            "UPDATE batches SET first = 2 WHERE first = 3",
            "UPDATE batches SET first = 3 WHERE first = 9",
        )
        with (
            opened(tmp_path) as storage,
            pytest.raises(StorageError, match="from 2 on is damaged"),
        ):
            storage.entries(1, 4, PLENTY)

    def test_a_flipped_bit_is_noticed(self, tmp_path: Path) -> None:
        """One bit of a command, changed in the file, is enough."""
        write(tmp_path, 3)
        path = tmp_path / "raft.sqlite"
        content = path.read_bytes()
        wanted = run_of(2, 2)[0].command
        assert content.count(wanted) == 1
        path.write_bytes(content.replace(wanted, wanted[:-1] + b"3"))
        with (
            opened(tmp_path) as storage,
            pytest.raises(StorageError, match="from 2 on is damaged"),
        ):
            storage.entries(1, 3, PLENTY)

    def test_a_missing_entry_is_noticed_by_a_read(self, tmp_path: Path) -> None:
        """A hole ends a read with an error that names it."""
        write(tmp_path, 4)
        tamper(tmp_path, "DELETE FROM batches WHERE first = 3")
        with opened(tmp_path) as storage:
            with pytest.raises(StorageError, match="entry 3 is missing"):
                storage.entries(1, 4, PLENTY)
            with pytest.raises(StorageError, match="entry 3 is missing"):
                storage.term(3)

    @pytest.mark.parametrize(
        ("statement", "message"),
        [
            ("DELETE FROM batches WHERE first = 1", "entry 1 is missing"),
            ("UPDATE batches SET term = 2 WHERE first = 3", "from 3 on is damaged"),
            ("UPDATE hard_state SET term = 2", "term and vote are damaged"),
            ("UPDATE hard_state SET vote = 's2'", "term and vote are damaged"),
            ("UPDATE hard_state SET vote = NULL", "term and vote are damaged"),
            ("UPDATE hard_state SET vote = 7", "term and vote are damaged"),
            ("DROP TABLE hard_state", "no such table"),
            ("DELETE FROM hard_state", "term and vote are damaged"),
            ("DELETE FROM extent", "where the log begins is damaged"),
            ("UPDATE extent SET base_index = 1", "where the log begins"),
            ("UPDATE extent SET base_term = 1", "where the log begins"),
            ("UPDATE extent SET last_index = 2", "where the log begins"),
            ("UPDATE extent SET memberships = '[2]'", "where the log begins"),
            ("UPDATE extent SET memberships = '[', crc = 0", "where the log begins"),
            ("UPDATE extent SET memberships = 7", "where the log begins"),
        ],
    )
    def test_a_damaged_end_is_noticed_by_the_open(
        self, tmp_path: Path, statement: str, message: str
    ) -> None:
        """What a first vote depends on is checked before there is one."""
        write(tmp_path, 3)
        tamper(tmp_path, statement)
        storage = SQLiteStorage()
        with pytest.raises(StorageError, match=message):
            storage.open(tmp_path)

    def test_a_missing_end_is_noticed_by_the_open(self, tmp_path: Path) -> None:
        """What was there when the extent was written has to be there again."""
        write(tmp_path, 3)
        with opened(tmp_path) as storage:
            storage.append([Entry(4, 9, EntryKind.MEMBERSHIP, b"who")])
            storage.sync()
        tamper(tmp_path, "DELETE FROM batches WHERE first > 2")
        storage = SQLiteStorage()
        with pytest.raises(StorageError, match="entry 3 is missing"):
            storage.open(tmp_path)

    def test_a_torn_wal_leaves_a_prefix(self, tmp_path: Path) -> None:
        """A transaction whose end is missing in the WAL is gone as a whole."""
        first, second = tmp_path / "first", tmp_path / "second"
        first.mkdir()
        with opened(first) as storage:
            for index in range(1, 6):
                storage.append(run_of(index * 2 - 1, index * 2))
                storage.sync()
            shutil.copytree(first, second)
        wal = second / "raft.sqlite-wal"
        wal.write_bytes(wal.read_bytes()[:-100])
        with opened(second) as storage:
            assert list(storage.entries(1, 8, PLENTY)) == run_of(1, 8)
            assert storage.last_index() == 8


class TestCheck(SQLiteEngine, CheckSuite):
    """What is noticed before a start."""

    def test_a_file_of_another_kind_is_found(self, tmp_path: Path) -> None:
        """A file that SQLite did not write is refused by check and open."""
        (tmp_path / "raft.sqlite").write_bytes(b"not a database, but long enough" * 9)
        assert self.ids(tmp_path) == ["storage.E101"]
        with pytest.raises(StorageError, match="not a database"):
            SQLiteStorage().open(tmp_path)

    def test_a_short_file_is_found(self, tmp_path: Path) -> None:
        """Half a header is none."""
        (tmp_path / "raft.sqlite").write_bytes(b"SQLite format 3\x00")
        assert self.ids(tmp_path) == ["storage.E101"]

    def test_a_directory_in_its_place_is_found(self, tmp_path: Path) -> None:
        """What cannot be read as a file is refused by check and open."""
        (tmp_path / "raft.sqlite").mkdir()
        assert self.ids(tmp_path) == ["storage.E101"]
        with pytest.raises(StorageError, match="cannot open"):
            SQLiteStorage().open(tmp_path)

    def test_a_database_of_another_program_is_found(self, tmp_path: Path) -> None:
        """Its tables are left alone."""
        tamper(tmp_path, "CREATE TABLE entries (id INTEGER)")
        before = (tmp_path / "raft.sqlite").read_bytes()
        assert self.ids(tmp_path) == ["storage.E102"]
        with pytest.raises(StorageError, match="another program"):
            SQLiteStorage().open(tmp_path)
        assert (tmp_path / "raft.sqlite").read_bytes() == before

    def test_a_lost_file_is_found(self, tmp_path: Path) -> None:
        """A WAL without its file is no new log: a vote may be forgotten."""
        (tmp_path / "raft.sqlite-wal").write_bytes(b"what is left")
        assert self.ids(tmp_path) == ["storage.E104"]
        with pytest.raises(StorageError, match="gone"):
            SQLiteStorage().open(tmp_path)
        assert (tmp_path / "raft.sqlite-wal").read_bytes() == b"what is left"

    def test_a_kill_during_a_checkpoint_is_no_damage(self, tmp_path: Path) -> None:
        """A file whose first page is newer than the rest has its WAL for that."""
        first, second = tmp_path / "first", tmp_path / "second"
        first.mkdir()
        with opened(first) as storage:
            storage.append(run_of(1, 500))
            storage.sync()
            shutil.copytree(first, second)
        # The close has moved the whole WAL; the kill came after one page.
        moved = (first / "raft.sqlite").read_bytes()
        path = second / "raft.sqlite"
        untouched = path.read_bytes()
        assert len(moved) > len(untouched)
        path.write_bytes(moved[:4096] + untouched[4096:])
        assert self.ids(second) == []
        with opened(second) as storage:
            assert list(storage.entries(1, 500, PLENTY)) == run_of(1, 500)

    def test_an_empty_file_is_a_new_log(self, tmp_path: Path) -> None:
        """A server that was killed while it made the file begins again."""
        (tmp_path / "raft.sqlite").touch()
        assert self.ids(tmp_path) == []
        with opened(tmp_path) as storage:
            assert storage.last_index() == 0

    def test_a_file_without_tables_is_a_new_log(self, tmp_path: Path) -> None:
        """Killed a little later, it left a header and no more."""
        tamper(tmp_path, "PRAGMA journal_mode = WAL")
        assert (tmp_path / "raft.sqlite").stat().st_size > 0
        assert self.ids(tmp_path) == []
        with opened(tmp_path) as storage:
            assert storage.last_index() == 0
