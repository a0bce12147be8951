"""A stopped server's log moves from one engine to another, or stays as it is."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from contextlib import closing
from itertools import permutations
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from adapters.storage.sqlite import SQLiteStorage
from consensus import cli, config, migration, registry
from consensus.core.values import Entry, EntryKind, HardState
from consensus.datadir import DataDirectory
from consensus.errors import ConfigError, InvalidChangeError, StorageError
from consensus.testing.storage_model import Kept, kept
from tests import migrate_and_die
from tests.support.servers import Register

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from click.testing import Result

    from consensus.interfaces import Storage

ENGINES = ["sqlite", "rocksdb", "lmdb", "wal"]

registry.register("state_machine", "migration-register", Register)


class LyingStorage(SQLiteStorage):
    """Writes another command than it was told, in a file of its own."""

    def open(self, directory: Path) -> None:
        (directory / "liar").mkdir(exist_ok=True)
        super().open(directory / "liar")

    def append(self, entries: Sequence[Entry]) -> None:
        super().append([Entry(e.index, e.term, e.kind, b"lie") for e in entries])


def write_config(directory: Path, engine: str) -> Path:
    """Write a config for *engine* and return where it is."""
    path = directory / "config.yaml"
    path.write_text(
        "members: {s1: a1, s2: a2, s3: a3}\nserve: [s1]\n"
        "state_machine: migration-register\ntransport: memory\n"
        f"storage: {engine}\ndata_dir: data\n"
    )
    return path


def entries_from(first: int, last: int) -> list[Entry]:
    """Return entries of which some are memberships."""
    return [
        Entry(
            index,
            index // 10,
            EntryKind.MEMBERSHIP if index % 100 == 7 else EntryKind.COMMAND,
            b"%d" % index * 50,
        )
        for index in range(first, last + 1)
    ]


def fill(path: Path) -> Kept:
    """Leave a compacted log in the directory of s1; return what is in it."""
    chosen = config.load(path)
    directory = DataDirectory.open(
        chosen.directory("s1"), chosen.cluster, "s1", chosen.storage
    )
    storage: Storage = chosen.storage.cls(chosen.storage.options)
    storage.open(directory.path)
    with closing(directory), closing(storage):
        storage.save_hard_state(HardState(250, "s2"))
        storage.append(entries_from(1, 2500))
        storage.sync()
        storage.compact(300, 30)
        storage.sync()
        (directory.path / "snapshots").mkdir()
        (directory.path / "snapshots" / "one").write_text("whole")
        directory.mark_used()
        return kept(storage)


def found(path: Path) -> Kept:
    """Return what a start with the config at *path* finds."""
    chosen = config.load(path)
    where = chosen.directory("s1")
    assert not list(DataDirectory.inspect(where, chosen.cluster, "s1", chosen.storage))
    storage: Storage = chosen.storage.cls(chosen.storage.options)
    assert not list(storage.check(storage.options, where))
    storage.open(where)
    with closing(storage):
        assert list(storage.membership_indexes()) == list(range(307, 2501, 100))
        return kept(storage)


def names(path: Path) -> set[str]:
    """Return what is in the directory of s1."""
    return {each.name for each in config.load(path).directory("s1").iterdir()}


def migrate(path: Path, to: str, *arguments: str) -> Result:
    """Return how ``raft storage migrate`` ends."""
    command = ["-c", str(path), "storage", "migrate", "--to", to, *arguments]
    return CliRunner().invoke(cli.raft, command)


@pytest.mark.parametrize(("source", "target"), list(permutations(ENGINES, 2)))
def test_everything_moves(source: str, target: str, tmp_path: Path) -> None:
    """Log, base, term and vote are there; of the old engine nothing is left."""
    path = write_config(tmp_path, source)
    expected = fill(path)
    identity = json.loads((tmp_path / "data/s1/raft.json").read_text())["incarnation"]
    result = migrate(path, target)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        f"s1: entries 301 to 2500 moved from {source} to {target}",
        f"now let {path} say: storage: {target}",
    ]
    write_config(tmp_path, target)
    assert found(path) == expected
    record = json.loads((tmp_path / "data/s1/raft.json").read_text())
    assert (record["engine"], record["incarnation"]) == (target, identity)
    assert not any(name.startswith(f"raft.{source}") for name in names(path))
    assert not any(name.startswith("migration") for name in names(path))
    assert (tmp_path / "data/s1/snapshots/one").read_text() == "whole"
    assert (tmp_path / "data/s1/used").exists()


def test_there_and_back_again(tmp_path: Path) -> None:
    """The second migration begins where the first one ended."""
    path = write_config(tmp_path, "sqlite")
    expected = fill(path)
    migrate(path, "lmdb")
    write_config(tmp_path, "lmdb")
    result = migrate(path, "sqlite", "--json")
    assert json.loads(result.stdout) == [
        {
            "server": "s1",
            "source": "lmdb",
            "target": "sqlite",
            "first_index": 301,
            "last_index": 2500,
        }
    ]
    write_config(tmp_path, "sqlite")
    assert found(path) == expected


@pytest.mark.parametrize("target", ["rocksdb", "lmdb", "wal"])
@pytest.mark.parametrize("moment", ["0", "1", "2200", "4000", "moved", "switched"])
def test_a_kill_leaves_one_engine_in_charge(
    target: str, moment: str, tmp_path: Path
) -> None:
    """Before the switch the old one with everything, after it the new one."""
    path = write_config(tmp_path, "sqlite")
    expected = fill(path)
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(path), "s1", target, moment],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    in_charge = target if moment == "switched" else "sqlite"
    write_config(tmp_path, in_charge)
    assert found(path) == expected
    # What it left does not disturb the next one.
    other = "sqlite" if moment == "switched" else target
    assert migrate(path, other).exit_code == 0
    write_config(tmp_path, other)
    assert found(path) == expected
    assert not any(name.startswith(f"raft.{in_charge}") for name in names(path))


_PROGRAM = f"""
import sys
from consensus import registry
from tests.support.servers import Register
registry.register("state_machine", "migration-register", Register)
sys.path.insert(0, {str(migrate_and_die.__file__.rpartition("/")[0])!r})
import migrate_and_die
migrate_and_die.main(*sys.argv[1:])
"""


def refusal(path: Path, to: str) -> str:
    """Return the one line that refuses the migration."""
    result = migrate(path, to)
    assert result.exit_code == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    return str(line)


def test_refusals(tmp_path: Path) -> None:
    """Each is one line, with status 1, and changes nothing."""
    path = write_config(tmp_path, "sqlite")
    assert "there is nothing to move" in refusal(path, "lmdb")
    expected = fill(path)
    before = names(path)
    assert "in the hands of 'sqlite' already" in refusal(path, "sqlite")
    assert "forgets everything" in refusal(path, "memory")
    assert "no storage engine is called 'nosuch'" in refusal(path, "nosuch")
    chosen = config.load(path)
    held = DataDirectory.open(
        chosen.directory("s1"), chosen.cluster, "s1", chosen.storage
    )
    with closing(held):
        assert "[datadir.E008]" in refusal(path, "lmdb")
    assert names(path) == before
    assert found(path) == expected


def test_a_lie_is_found_out(tmp_path: Path) -> None:
    """What is read back is compared; the old engine stays in charge."""
    path = write_config(tmp_path, "lmdb")
    expected = fill(path)
    before = names(path)
    registry.register("storage", "migration-liar", LyingStorage)
    assert "were not written as they were read" in refusal(path, "migration-liar")
    assert names(path) == before
    assert found(path) == expected


def test_damage_is_not_carried_over(tmp_path: Path) -> None:
    """A damaged entry stops the migration with the usual sentence."""
    path = write_config(tmp_path, "sqlite")
    fill(path)
    file = tmp_path / "data/s1/raft.sqlite"
    content = file.read_bytes()
    file.write_bytes(content.replace(b"1234" * 50, b"1243" * 50))
    assert "the batch of entries from 1 on is damaged" in refusal(path, "rocksdb")
    assert not any(name.startswith("raft.rocksdb") for name in names(path))


def test_two_engines_of_the_same_files_are_refused(tmp_path: Path) -> None:
    """One would destroy what the other has."""

    class Twin(SQLiteStorage):
        pass

    registry.register("storage", "migration-twin", Twin)
    path = write_config(tmp_path, "sqlite")
    expected = fill(path)
    assert "both engines write to raft.sqlite" in refusal(path, "migration-twin")
    assert found(path) == expected


def test_the_record_is_needed(tmp_path: Path) -> None:
    """A damaged raft.json, or one that goes meanwhile, stops it."""
    path = write_config(tmp_path, "sqlite")
    fill(path)
    chosen = config.load(path)
    where = chosen.directory("s1")
    directory = DataDirectory.open(where, chosen.cluster, "s1", chosen.storage)
    record = where / "raft.json"
    shutil.move(record, tmp_path / "kept")
    with closing(directory), pytest.raises(StorageError, match="is gone"):
        directory.change_engine(chosen.storage)
    record.write_text("{}")
    with pytest.raises(ConfigError, match=r"datadir\.E006"):
        migration.plan(chosen, "s1", "lmdb")


def test_progress_ends_at_the_total(tmp_path: Path) -> None:
    """Every entry counts twice: written, and read back."""
    path = write_config(tmp_path, "sqlite")
    fill(path)
    chosen = config.load(path)
    seen: list[tuple[int, int]] = []
    migration.run(migration.plan(chosen, "s1", "lmdb"), lambda *each: seen.append(each))
    assert seen[0] == (0, 4400)
    assert seen[-1] == (4400, 4400)
    with pytest.raises(InvalidChangeError, match="already"):
        migration.plan(chosen, "s1", "lmdb")
