"""Tests of contrib.kvstore.disk and sqlite_store: the store that survives."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.errors import StorageError
from consensus.interfaces import Tick
from contrib.kvstore import (
    Changes,
    Delete,
    Expire,
    Get,
    Grant,
    Incr,
    KVClient,
    Put,
    Scan,
    Set,
    SetMany,
    Txn,
)
from contrib.kvstore.disk import KVStoreOnDisk, KVStoreOnDiskOptions
from contrib.kvstore.sqlite_store import FILE, SQLiteStore
from tests.contrib.kvstore.test_kvstore_faults import CONFIG, Group
from tests.contrib.kvstore.test_kvstore_state import HISTORIES
from tests.support.kv import KV, contents, make_kv

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random

    from consensus.testing.plugin import MakeCluster

BATCHES: list[list[Any]] = [
    [Set(b"a", "1"), Set(b"b", b"2")],
    [Tick(5), Put(b"c", "3", ttl=10), Grant(20), Delete(b"a")],
    [Incr(b"b"), Incr(b"c"), SetMany([(b"x", "1"), (b"y", "2")])],
    [Txn([], [Set(b"y", "3"), Incr(b"x")], atomic=True), Expire(b"x", 3)],
    [Tick(30), Set(b"z", "z")],
]


def copied(source: Path, target: Path) -> Path:
    """Copy the files of a database as they are now; return where to."""
    target.mkdir()
    for path in source.iterdir():
        if path.suffix != ".sqlite-shm":
            shutil.copy(path, target)
    return target


def opened(directory: Path) -> KV:
    """Return what is stored in *directory*."""
    return make_kv("disk", directory)


def ends(directory: Path) -> dict[int, Any]:
    """Write the batches into *directory*; return the state after each, by index."""
    kv = opened(directory)
    found = {0: kv.contents()}
    for batch in BATCHES:
        kv.write_all(*batch)
        found[kv.index] = kv.contents()
    kv.close()
    return found


class CrashTests:
    """What there is after a crash is what there was after some batch."""

    def test_between_any_two_statements(self, tmp_path: Path) -> None:
        """A process that ends anywhere leaves whole batches, and their index."""
        (tmp_path / "expected").mkdir()
        expected = ends(tmp_path / "expected")
        source = tmp_path / "source"
        source.mkdir()
        kv = opened(source)
        copies: list[tuple[Path, int]] = []

        def crash(_: str) -> None:
            target = tmp_path / f"copy{len(copies)}"
            copies.append((copied(source, target), done))

        done = 0
        kv.state._connection.set_trace_callback(crash)
        for batch in BATCHES:
            kv.write_all(*batch)
            done = kv.index
        kv.state._connection.set_trace_callback(None)
        kv.close()
        assert len(copies) > 60
        for path, least in copies:
            found = opened(path)
            assert found.index >= least
            assert found.contents() == expected[found.index]
            found.close()

    @given(cut=st.floats(0.0, 1.0))
    @settings(max_examples=30)
    def test_a_power_cut(self, tmp_path_factory: Any, cut: float) -> None:
        """It may take the last batches with it, but no part of one."""
        place = tmp_path_factory.mktemp("power")
        (place / "expected").mkdir()
        expected = ends(place / "expected")
        source = place / "source"
        source.mkdir()
        kv = opened(source)
        for batch in BATCHES:
            kv.write_all(*batch)
        path = copied(source, place / "copy")
        kv.close()
        wal = path / f"{FILE}-wal"
        data = wal.read_bytes()
        wal.write_bytes(data[: round(len(data) * cut)])
        found = opened(path)
        assert found.contents() == expected[found.index]
        found.close()

    def test_a_batch_that_fails(self, tmp_path: Path) -> None:
        """A disk that fails in the middle leaves all as it was before."""
        kv = opened(tmp_path)
        kv.write_all(*BATCHES[0])
        before, index = kv.contents(), kv.index
        kv.state._execute("DROP TABLE leases")
        with pytest.raises(StorageError, match="no such table"):
            kv.write_all(Set(b"a", "9"), Grant(5), Set(b"b", "9"))
        kv.state._execute("CREATE TABLE leases (id PRIMARY KEY, ttl, deadline)")
        assert kv.contents() == before
        assert kv.machine.last_applied(kv.state) == index
        assert kv.read(Get(b"a")) == "1"
        assert kv.state.revision == 2
        kv.close()


class SameTests:
    """The store on disk is the store in memory."""

    @given(HISTORIES)
    @settings(max_examples=40)
    def test_the_same_results(self, history: list[Any]) -> None:
        """Whatever is written, in whatever batches; and the same state."""
        disk, memory = (make_kv(kind, None, history=8) for kind in ("disk", "memory"))
        for start in range(0, len(history), 3):
            batch = history[start : start + 3]
            results = [
                [repr(result) for result in kv.write_all(*batch)]
                for kv in (disk, memory)
            ]
            assert results[0] == results[1]
            assert disk.next_time == memory.next_time
            assert disk.contents() == memory.contents()
        disk.close()

    def test_a_snapshot_of_either(self, tmp_path: Path) -> None:
        """One may follow the other: the bytes are of one format."""
        disk, memory = opened(tmp_path), make_kv("memory", None)
        for kv in (disk, memory):
            kv.write_all(*(command for batch in BATCHES for command in batch))
        found = memory.machine.restore(disk.snapshot(), 99)
        assert found == memory.state
        state = disk.machine.restore(memory.snapshot(), 99)
        disk.close()
        disk.state = state
        assert disk.contents() == memory.contents()
        assert disk.machine.last_applied(state) == 99
        disk.close()

    def test_it_survives(self, tmp_path: Path) -> None:
        """A restart goes on where it was, also with who watches."""
        kv = opened(tmp_path)
        kv.write_all(Put(b"k", "v", ttl=50), Set(b"l", "w"))
        kv.close()
        kv = opened(tmp_path)
        assert kv.index == 2
        assert kv.next_time == 50
        assert len(kv.read(Changes()).events) == 2
        kv.write_all(Tick(50), Incr(b"n"))
        assert [row[::2] for row in kv.read(Scan()).items] == [(b"l", 2), (b"n", 4)]
        kv.close()

    def test_what_was_applied_is_not_applied_again(self, tmp_path: Path) -> None:
        kv = opened(tmp_path)
        kv.write_all(Incr(b"n"))
        with pytest.raises(StorageError, match="applied before"):
            kv.machine.apply_batch([(1, Incr(b"n"))], kv.state)
        assert kv.read(Get(b"n")) == "1"
        kv.close()

    def test_a_view_stays_as_it_is(self, tmp_path: Path) -> None:
        kv = opened(tmp_path)
        kv.write_all(*BATCHES[0])
        before = kv.contents()
        view = kv.machine.snapshot(kv.state)
        kv.write_all(*BATCHES[1])
        assert contents(view.chunks()) == before
        kv.close()

    def test_an_interrupted_restore(self, tmp_path: Path) -> None:
        """It leaves what was there."""
        kv = opened(tmp_path)
        kv.write_all(*BATCHES[0])
        before, chunks = kv.contents(), kv.snapshot()
        with pytest.raises(StorageError, match="ends too early"):
            kv.machine.restore(chunks[:-1], 99)
        assert kv.contents() == before
        assert kv.machine.last_applied(kv.state) == kv.index
        kv.close()


class OpenTests:
    """What can be opened."""

    def test_without_a_directory(self) -> None:
        """It is forgotten with the state."""
        kv = make_kv("disk", None)
        kv.write_all(Set(b"k", "v"))
        path = kv.state.path
        assert path.exists()
        kv.close()
        del kv
        assert not path.exists()

    def test_what_is_no_database(self, tmp_path: Path) -> None:
        (tmp_path / FILE).write_text("no database, but long enough for a page" * 99)
        with pytest.raises(StorageError, match="not a database"):
            opened(tmp_path)

    def test_a_later_format(self, tmp_path: Path) -> None:
        opened(tmp_path).close()
        with closing(sqlite3.connect(tmp_path / FILE)) as connection:
            connection.execute("PRAGMA user_version = 9")
        with pytest.raises(StorageError, match="format 9"):
            opened(tmp_path)

    @pytest.mark.parametrize(
        "options", [{"history": -1}, {"history": 1 << 30}, {"cache_mib": 0}]
    )
    def test_options(self, options: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=r"is [01] to"):
            KVStoreOnDiskOptions(**options)

    def test_redis_clients(self) -> None:
        """They may be let in here as well, and by default are not."""
        assert not list(KVStoreOnDisk.check(None, {}, []))
        options = KVStoreOnDiskOptions(resp="nowhere")
        assert list(KVStoreOnDisk.check(options, {"s1": "tcp:h:1"}, ["s1"]))

    def test_a_table_is_walked_by_its_order(self, tmp_path: Path) -> None:
        """A page, an end and a place in the history take no search."""
        state = SQLiteStore(tmp_path, 10, 1)
        plans: list[str] = []
        statements: list[str] = []
        state._connection.set_trace_callback(statements.append)
        list(state.scan(b"a", b"b"))
        state.count(b"a", None)
        state.first_key()
        state.first_lease()
        state.keys_of(5)
        state.events(5, 1, 10)
        state._connection.set_trace_callback(None)
        for statement in statements:
            for row in state._execute(f"EXPLAIN QUERY PLAN {statement}"):
                plans.append(row[3])  # noqa: PERF401 - rows are read one by one
        assert len(plans) == 6
        assert not [
            plan
            for plan in plans
            if plan.startswith("SCAN items") and "ends" not in plan
        ]
        assert not [plan for plan in plans if "TEMP B-TREE" in plan]
        state.close()


@pytest.mark.raft_seeds(3)
class FaultTests:
    """The store on disk while servers crash."""

    def test_transfers_and_counts(
        self, raft_cluster: MakeCluster, tmp_path: Path
    ) -> None:
        """Nothing is lost, nothing is done twice."""
        cluster = raft_cluster(
            KVStoreOnDisk,
            config=CONFIG,
            machine_directory=tmp_path,
            compares=False,
            deterministic=False,
        )
        counted: list[int] = []
        unsure: list[Exception] = []

        async def count(store: KVClient, dice: Random) -> None:
            by = dice.randrange(1, 9)
            try:
                await store.txn([], [Incr(b"a", by), Incr(b"b", -by)], atomic=True)
            except Exception as error:
                unsure.append(error)
                raise
            counted.append(by)

        group = Group(cluster)
        group.begin(4, count)
        cluster.disturb(
            8.0, kinds=["crash", "partition", "pause", "snapshot", "transfer"]
        )
        cluster.run(8.0)
        group.end()
        page = cluster.read(Scan())
        found = {key: int(value) for key, value, _ in page.items}
        assert found[b"a"] + found[b"b"] == 0
        assert found[b"a"] >= sum(counted)
        if not unsure:
            assert found[b"a"] == sum(counted)
        states = [
            server.applier.state
            for server in cluster.servers.values()
            if server.applier
        ]
        assert len({tuple(state.scan(b"", None)) for state in states}) == 1
