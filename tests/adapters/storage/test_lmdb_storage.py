"""The storage in an LMDB environment."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from contextlib import closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import lmdb
import pytest

from adapters.storage import lmdb as lmdb_adapter
from adapters.storage.lmdb import LMDBOptions, LMDBStorage
from consensus.core.values import Entry, EntryKind, HardState
from consensus.errors import StorageError
from consensus.testing.storage import StorageSuite, run_of
from tests.adapters.storage import engine_suite
from tests.adapters.storage.engine_suite import (
    MIB,
    PLENTY,
    Engine,
    FailureSuite,
    ValuesSuite,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.adapters.storage.engine_suite import Values

SMALL = LMDBOptions(map_mib=1)

opened = partial(engine_suite.opened, LMDBStorage)
write = partial(engine_suite.write, LMDBStorage)


class TestLMDBStorage(StorageSuite):
    """What every storage promises."""

    def make(self, directory: Path) -> LMDBStorage:  # noqa: ARG002 - it needs none
        return LMDBStorage()


@contextmanager
def database_in(directory: Path) -> Iterator[lmdb.Transaction]:
    """Lend a transaction on the batches, behind the storage's back."""
    path = str(directory / "raft.lmdb")
    with (
        closing(lmdb.open(path, max_dbs=2, map_size=64 * MIB)) as environment,
        environment.begin(
            environment.open_db(b"batches", create=False), write=True
        ) as transaction,
    ):
        yield transaction


def key(index: int) -> bytes:
    """Return the key of the entry at *index*."""
    return struct.pack(">q", index)


class Content:
    """What is in an environment."""

    def __init__(self, transaction: lmdb.Transaction, batches: Any, state: Any) -> None:
        self._transaction = transaction
        self._batches = batches
        self._state = state

    def _place(self, name: int | str) -> tuple[bytes, Any]:
        if isinstance(name, int):
            return key(name), self._batches
        return name.encode(), self._state

    def get(self, name: int | str) -> bytes:
        where, database = self._place(name)
        return bytes(self._transaction.get(where, db=database) or b"")

    def put(self, name: int | str, value: bytes) -> None:
        where, database = self._place(name)
        self._transaction.put(where, value, db=database)

    def delete(self, name: int | str) -> None:
        where, database = self._place(name)
        self._transaction.delete(where, db=database)


class LMDBEngine(Engine):
    """The engine, to the suites."""

    cls = LMDBStorage
    file = "raft.lmdb"

    @contextmanager
    def values(self, directory: Path) -> Iterator[Values]:
        """Lend the values of both databases."""
        path = str(directory / "raft.lmdb")
        with (
            closing(lmdb.open(path, max_dbs=2, map_size=64 * MIB)) as environment,
            environment.begin(write=True) as transaction,
        ):
            batches, state = (
                environment.open_db(name, txn=transaction, create=False)
                for name in (b"batches", b"state")
            )
            yield Content(transaction, batches, state)


def large(index: int, term: int = 1, size: int = 65_536) -> Entry:
    """Return an entry of *size* bytes that differ each time."""
    return Entry(index, term, EntryKind.COMMAND, os.urandom(size))


def map_size(storage: LMDBStorage) -> int:
    """Return how large the map of *storage* is."""
    assert storage._driver is not None
    size: int = storage._driver.info()["map_size"]
    return size


class TestMap:
    """The map grows by itself."""

    def test_it_grows_in_the_middle_of_a_transaction(self, tmp_path: Path) -> None:
        """What was written since the last sync is there as before."""
        synced = [large(index) for index in range(1, 6)]
        entries = [large(index) for index in range(6, 101)]
        with opened(tmp_path, SMALL) as storage:
            assert map_size(storage) == MIB
            storage.append(synced)
            storage.sync()
            storage.save_hard_state(HardState(2, "s2"))
            for entry in entries:
                storage.append([entry])
            storage.append([large(99, term=2)])
            assert map_size(storage) >= 8 * MIB
            assert storage.hard_state() == HardState(2, "s2")
            assert storage.last_index() == 99
            assert list(storage.entries(1, 98, PLENTY)) == [*synced, *entries[:-2]]
            storage.sync()
        with opened(tmp_path, SMALL) as storage:
            assert storage.hard_state() == HardState(2, "s2")
            assert storage.last_index() == 99
            assert list(storage.entries(1, 98, PLENTY)) == [*synced, *entries[:-2]]
            assert storage.term(99) == 2

    def test_one_append_may_need_several_doublings(self, tmp_path: Path) -> None:
        """An append larger than the map twice over comes back whole."""
        entries = [large(1), large(2, size=MIB), large(3, size=9 * MIB), large(4)]
        with opened(tmp_path, SMALL) as storage:
            storage.append(entries)
            assert list(storage.entries(1, 4, PLENTY)) == entries
            storage.sync()
            assert list(storage.entries(1, 4, PLENTY)) == entries
        with opened(tmp_path, SMALL) as storage:
            assert list(storage.entries(1, 4, PLENTY)) == entries

    def test_a_list_that_changed_is_not_written(self, tmp_path: Path) -> None:
        """A transaction that is made once more writes what was appended."""
        written = [*run_of(1, 2), large(3)]
        expected = [*written, *(large(index) for index in range(4, 60))]
        with opened(tmp_path, SMALL) as storage:
            storage.append(written)
            written.clear()
            for entry in expected[3:]:
                storage.append([entry])
            assert map_size(storage) > MIB
            storage.sync()
            assert list(storage.entries(1, 59, PLENTY)) == expected

    def test_each_step_can_be_the_one_that_fills_it(self, tmp_path: Path) -> None:
        """Commits and hard states grow the map as appends do."""
        with opened(tmp_path, SMALL) as storage:
            expected = []
            for index in range(1, 1500):
                expected.append(large(index, size=2000))
                storage.append(expected[-1:])
                storage.save_hard_state(HardState(index, "s1"))
                storage.sync()
            assert map_size(storage) >= 4 * MIB
            assert list(storage.entries(1, 1499, PLENTY)) == expected
            assert storage.hard_state() == HardState(1499, "s1")

    def test_a_crash_after_it_grew_undoes_what_was_not_synced(
        self, tmp_path: Path
    ) -> None:
        """To grow commits nothing."""
        first, second = tmp_path / "first", tmp_path / "second"
        first.mkdir()
        with opened(first, SMALL) as storage:
            storage.append(run_of(1, 3))
            storage.sync()
            storage.append([large(index, term=2) for index in range(2, 50)])
            assert map_size(storage) > MIB
            shutil.copytree(first, second)
        for directory in (first, second):
            with opened(directory, SMALL) as storage:
                assert storage.last_index() == 3
                assert list(storage.entries(1, 3, PLENTY)) == run_of(1, 3)

    def test_where_it_cannot_grow_the_append_fails(self, tmp_path: Path) -> None:
        """Without addresses to grow into, the storage closes; the synced is kept."""
        program = (
            "import resource, sys\n"
            "from pathlib import Path\n"
            "from adapters.storage.lmdb import LMDBOptions, LMDBStorage\n"
            "from consensus.core.values import Entry\n"
            "from consensus.errors import StorageError\n"
            "storage = LMDBStorage(LMDBOptions(map_mib=256))\n"
            "storage.open(Path(sys.argv[1]))\n"
            "storage.append([Entry(1, 1, 1, b'kept')])\n"
            "storage.sync()\n"
            "pages = int(Path('/proc/self/statm').read_text().split()[0])\n"
            "most = pages * resource.getpagesize() + (200 << 20)\n"
            "resource.setrlimit(resource.RLIMIT_AS, (most, most))\n"
            "for index in range(2, 100):\n"
            "    try:\n"
            "        storage.append([Entry(index, 1, 1, bytes(5 << 20))])\n"
            "        storage.sync()\n"
            "    except StorageError as error:\n"
            "        print(error)\n"
            "        break\n"
            "try:\n"
            "    storage.sync()\n"
            "except StorageError as error:\n"
            "    print(error)\n"
            "storage.close()\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path)],
            capture_output=True,
            text=True,
            check=True,
        )
        failed, closed = done.stdout.splitlines()
        assert "cannot append: " in failed
        assert "cannot sync: it is not open" in closed
        with opened(tmp_path) as storage:
            assert list(storage.entries(1, 1, PLENTY)) == [Entry(1, 1, 1, b"kept")]


class TestFiles:
    """What stands on the disk."""

    def test_batches_are_keys_in_order(self, tmp_path: Path) -> None:
        """An index is a key of eight bytes; the values are numbered."""
        with opened(tmp_path) as storage:
            for first in range(1, 900, 3):
                storage.append(run_of(first, first + 2))
            storage.sync()
        with database_in(tmp_path) as database:
            items = [(bytes(k), bytes(v)) for k, v in database.cursor()]
        assert [each for each, _ in items] == [key(at) for at in range(1, 900, 3)]
        numbers = [struct.unpack(">q", value[4:12])[0] for _, value in items]
        assert numbers == list(range(1, 301))

    def test_numbers_have_no_holes_after_a_conflict(self, tmp_path: Path) -> None:
        """What keeps its beginning keeps its number, and the next one follows."""
        with opened(tmp_path) as storage:
            for first in (1, 4, 7):
                storage.append(run_of(first, first + 2))
            storage.sync()
            storage.append(run_of(5, 9, term=2))
            storage.append(run_of(7, 8, term=3))
            storage.sync()
        with opened(tmp_path) as storage:
            assert list(storage.entries(1, 8, PLENTY)) == [
                *run_of(1, 4),
                *run_of(5, 6, term=2),
                *run_of(7, 8, term=3),
            ]
        with database_in(tmp_path) as database:
            items = [(bytes(k), bytes(v)) for k, v in database.cursor()]
        assert [each for each, _ in items] == [key(at) for at in (1, 4, 5, 7)]
        assert [struct.unpack(">q", value[4:12])[0] for _, value in items] == [
            *range(1, 5)
        ]

    def test_hard_states_do_not_make_the_file_grow(self, tmp_path: Path) -> None:
        """Pages that are free are used again."""
        with opened(tmp_path) as storage:
            sizes = []
            for term in range(1, 201):
                storage.save_hard_state(HardState(term, "s1"))
                storage.sync()
                sizes.append((tmp_path / "raft.lmdb" / "data.mdb").stat().st_size)
        assert sizes[-1] == sizes[20]

    def test_a_commit_is_written_through(self, tmp_path: Path) -> None:
        """LMDB runs with every flag off that trades durability for speed."""
        with opened(tmp_path) as storage:
            assert storage._driver is not None
            flags = storage._driver.flags()
        assert flags["sync"]
        assert flags["metasync"]
        assert not flags["map_async"]
        assert not flags["writemap"]

    def test_a_tool_may_look_in_meanwhile(self, tmp_path: Path) -> None:
        """Another process reads what is synced, not what is not yet."""
        program = (
            "import lmdb, sys\n"
            "log = lmdb.open(sys.argv[1], readonly=True, max_dbs=2)\n"
            "entries = log.open_db(b'batches', create=False)\n"
            "print(log.begin(entries).stat(entries)['entries'])\n"
        )
        with opened(tmp_path) as storage:
            for index in (1, 2, 3):
                storage.append(run_of(index, index))
            storage.sync()
            storage.append(run_of(4, 9))
            done = subprocess.run(
                [sys.executable, "-c", program, str(tmp_path / "raft.lmdb")],
                capture_output=True,
                check=True,
            )
            assert done.stdout == b"3\n"
            storage.sync()
            assert list(storage.entries(1, 9, PLENTY)) == run_of(1, 9)


class TestFailure(LMDBEngine, FailureSuite):
    """What happens when a call fails."""

    def test_a_failed_sync_is_the_last(self, tmp_path: Path) -> None:
        """After it every call fails, so that nobody can try again."""
        with opened(tmp_path) as storage:
            storage.append(run_of(1, 1))
            assert storage._transaction is not None
            storage._transaction.abort()
            with pytest.raises(StorageError, match="cannot sync: ") as caught:
                storage.sync()
            assert isinstance(caught.value.__cause__, lmdb.Error)
            with pytest.raises(StorageError, match="not open"):
                storage.sync()

    def test_a_failed_append_changes_nothing(self, tmp_path: Path) -> None:
        """What was written before it, and not synced, is there all the same."""
        with opened(tmp_path) as storage:
            storage.append(run_of(1, 2))
            storage.save_hard_state(HardState(1, "s1"))
            assert storage._transaction is not None
            storage._transaction.abort()
            with pytest.raises(StorageError, match="cannot append: ") as caught:
                storage.append(run_of(2, 4, term=2))
            assert isinstance(caught.value.__cause__, lmdb.Error)
            assert storage.last_index() == 2
            assert list(storage.entries(1, 2, PLENTY)) == run_of(1, 2)
            storage.sync()
        with opened(tmp_path) as storage:
            assert list(storage.entries(1, 2, PLENTY)) == run_of(1, 2)
            assert storage.hard_state() == HardState(1, "s1")

    def test_an_append_that_fails_half_way_changes_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The entries that it had put already, and those deleted, are undone."""
        with opened(tmp_path) as storage:
            storage.append(run_of(1, 3))
            put = lmdb_adapter._put

            # A key behind the log's end, put by the step that then fails.
            def fails(cursor: lmdb.Cursor, batches: Any) -> None:
                put(cursor, batches)
                put(cursor, batches)

            monkeypatch.setattr(lmdb_adapter, "_put", fails)
            with pytest.raises(StorageError, match="cannot append: "):
                storage.append(run_of(2, 4, term=2))
            monkeypatch.undo()
            assert list(storage.entries(1, 3, PLENTY)) == run_of(1, 3)
            storage.append(run_of(2, 4, term=2))
            assert list(storage.entries(2, 4, PLENTY)) == run_of(2, 4, term=2)

    def test_a_full_disk_fails_the_sync(self, tmp_path: Path) -> None:
        """A file that may not grow is an error, and what was synced is kept."""
        program = (
            "import resource, signal, sys\n"
            "from pathlib import Path\n"
            "from adapters.storage.lmdb import LMDBStorage\n"
            "from consensus.core.values import Entry\n"
            "from consensus.errors import StorageError\n"
            "storage = LMDBStorage()\n"
            "storage.open(Path(sys.argv[1]))\n"
            "storage.append([Entry(1, 1, 1, b'kept')])\n"
            "storage.sync()\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
            "storage.append([Entry(2, 1, 1, bytes(2 << 20))])\n"
            "try:\n"
            "    storage.sync()\n"
            "except StorageError as error:\n"
            "    print(error)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path)],
            capture_output=True,
            text=True,
            check=True,
        )
        assert "cannot sync: " in done.stdout
        with opened(tmp_path) as storage:
            assert storage.last_index() == 1
            assert list(storage.entries(1, 1, PLENTY)) == [Entry(1, 1, 1, b"kept")]


class TestDamage(LMDBEngine, ValuesSuite):
    """What a failing disk, or a meddler, does to the files is noticed."""

    @pytest.mark.parametrize(
        ("index", "message"),
        [
            (1, r"entry 1 is missing; .*replace"),
            (3, r"3 of the batches with entries 1 to 4 are there, not 4; .*replace"),
        ],
    )
    def test_a_missing_entry_is_noticed_by_the_open(
        self, tmp_path: Path, index: int, message: str
    ) -> None:
        """A hole anywhere stops the start: the batches are counted."""
        write(tmp_path, 4)
        with database_in(tmp_path) as database:
            database.delete(key(index))
        with pytest.raises(StorageError, match=message):
            LMDBStorage().open(tmp_path)

    def test_a_missing_entry_is_noticed_by_a_read(self, tmp_path: Path) -> None:
        """So is one for which there is another too many."""
        write(tmp_path, 4)
        with database_in(tmp_path) as database:
            database.delete(key(3))
            database.put(key(1) + b"\x00", b"")
        with opened(tmp_path) as storage:
            with pytest.raises(StorageError, match="entry 3 is missing"):
                storage.entries(1, 4, PLENTY)
            with pytest.raises(StorageError, match="entry 3 is missing"):
                storage.term(3)

    def test_a_key_that_is_no_index_is_noticed_by_the_open(
        self, tmp_path: Path
    ) -> None:
        """It is no batch of ours."""
        write(tmp_path, 3)
        with database_in(tmp_path) as database:
            database.put(b"\x7f", b"")
        with pytest.raises(StorageError, match="cannot open"):
            LMDBStorage().open(tmp_path)

    def test_a_page_of_zeros_is_an_error(self, tmp_path: Path) -> None:
        """A read that meets it fails; the process lives, and so do other reads."""
        entries = [large(index, size=1000) for index in range(1, 301)]
        with opened(tmp_path) as storage:
            for entry in entries:
                storage.append([entry])
            storage.sync()
        file = tmp_path / "raft.lmdb" / "data.mdb"
        content = bytearray(file.read_bytes())
        start = content.index(entries[150].command) // 4096 * 4096
        content[start : start + 4096] = bytes(4096)
        file.write_bytes(content)
        with opened(tmp_path) as storage:
            assert list(storage.entries(1, 100, PLENTY)) == entries[:100]
            assert list(storage.entries(200, 300, PLENTY)) == entries[199:]
            with pytest.raises(StorageError, match="CORRUPTED"):
                storage.entries(100, 200, PLENTY)

    @pytest.mark.parametrize("percent", [5, 50, 90])
    def test_a_file_cut_off_is_an_error(self, tmp_path: Path, percent: int) -> None:
        """LMDB's signal for it, which would kill the process, is prevented."""
        write(tmp_path, 3000)
        file = tmp_path / "raft.lmdb" / "data.mdb"
        os.truncate(file, max(file.stat().st_size * percent // 100, 8192))
        storage = LMDBStorage()
        with pytest.raises(StorageError, match="CORRUPTED"):
            storage.open(tmp_path)


class TestCheck(LMDBEngine):
    """What is noticed before a start."""

    def test_an_environment_of_another_program_is_found(self, tmp_path: Path) -> None:
        """It is neither opened nor marked as ours."""
        path = tmp_path / "raft.lmdb"
        lmdb.open(str(path)).close()
        assert self.ids(tmp_path) == ["storage.E102"]
        with pytest.raises(StorageError, match="another program"):
            LMDBStorage().open(tmp_path)
        assert not (path / "FORMAT").exists()

    def test_databases_of_another_program_are_refused(self, tmp_path: Path) -> None:
        """An environment without ours is not filled with them."""
        write(tmp_path, 1)
        path = tmp_path / "raft.lmdb"
        (path / "data.mdb").unlink()
        lmdb.open(str(path)).close()
        with pytest.raises(StorageError, match=r"cannot open: .*NOTFOUND"):
            LMDBStorage().open(tmp_path)

    def test_a_lost_file_is_found(self, tmp_path: Path) -> None:
        """A directory without data.mdb is no new log: a vote may be forgotten."""
        write(tmp_path, 1)
        (tmp_path / "raft.lmdb" / "data.mdb").unlink()
        assert self.ids(tmp_path) == ["storage.E104"]
        with pytest.raises(StorageError, match="gone"):
            LMDBStorage().open(tmp_path)

    @pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 8192])
    def test_a_file_that_is_no_database_is_found(
        self, tmp_path: Path, content: bytes
    ) -> None:
        """Nor is an empty one new, which LMDB takes it for."""
        write(tmp_path, 1)
        (tmp_path / "raft.lmdb" / "data.mdb").write_bytes(content)
        assert self.ids(tmp_path) == ["storage.E101"]
        with pytest.raises(StorageError, match="not an LMDB database"):
            LMDBStorage().open(tmp_path)

    @pytest.mark.parametrize("size", [0, -1, 2**26 + 1])
    def test_an_option_out_of_range_is_found(self, tmp_path: Path, size: int) -> None:
        """The finding says which option it is."""
        (finding,) = LMDBStorage.check(LMDBOptions(map_mib=size), tmp_path)
        assert finding.id == "storage.E105"
        assert finding.path == "storage.options.map_mib"

    def test_a_directory_half_made_is_a_new_log(self, tmp_path: Path) -> None:
        """A server that was killed while it made the directory begins again."""
        draft = tmp_path / "raft.lmdb.new"
        draft.mkdir()
        (draft / "data.mdb").write_bytes(b"half")
        assert self.ids(tmp_path) == []
        with opened(tmp_path) as storage:
            assert storage.last_index() == 0
        assert not draft.exists()

    def test_a_smaller_map_bears_a_larger_log(self, tmp_path: Path) -> None:
        """Who makes the option smaller later finds the log all the same."""
        entries = [large(index) for index in range(1, 65)]
        with opened(tmp_path) as storage:
            storage.append(entries)
            storage.sync()
        with opened(tmp_path, SMALL) as storage:
            assert list(storage.entries(1, 64, PLENTY)) == entries
            storage.append([large(65)])
            storage.sync()
