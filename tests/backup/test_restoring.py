"""Tests of consensus.backup.restoring: all of a directory, or none that counts."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from click.testing import CliRunner

from consensus import cli, config, registry
from consensus.backup.file import BackupFile
from consensus.backup.restoring import NewIdentity, Restoration
from consensus.core.membership import Membership
from consensus.core.values import HardState
from consensus.datadir import DataDirectory
from consensus.errors import (
    ConfigError,
    DiskFullError,
    InvalidChangeError,
    StorageError,
)
from consensus.shell.recovery import Recovered, recover
from consensus.snapshots.header import read_header
from consensus.state_machine import StateMachine
from tests import restore_and_die
from tests.support.backups import HEADER, write_backup
from tests.support.servers import Register

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

    from consensus.config import Config

ENGINES = ["sqlite", "rocksdb", "lmdb", "wal"]
STATE = Register().encode({"a": 1, "b": "x" * 200_000})

registry.register("state_machine", "restored-register", Register)


class Versioned(Register):
    """The same, in its second version only."""

    version = 2


registry.register("state_machine", "versioned-register", Versioned)


def write_config(directory: Path, engine: str = "sqlite", **keys: Any) -> Path:
    """Write a config for *engine* and return where it is."""
    path = directory / "config.yaml"
    document = {
        "cluster": "shop",
        "members": {"s1": "s1", "s2": "s2", "s3": "s3"},
        "serve": ["s1"],
        "state_machine": "restored-register",
        "transport": "memory",
        "storage": engine,
        "data_dir": "data",
    }
    path.write_text(json.dumps(document | keys))
    return path


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    """Return a backup of two chunks and more."""
    path = tmp_path / "backup"
    write_backup(path, [STATE], application="restored-register")
    return path


def found_by(chosen: Config, name: str) -> tuple[Recovered, dict[str, Any]]:
    """Return what a start of *name* finds, and the state in its snapshot."""
    storage = chosen.storage.cls(chosen.storage.options)
    recovered = recover(chosen, name, storage)
    with closing(recovered), closing(storage), closing(recovered.snapshots):
        latest = recovered.snapshots.latest
        assert latest is not None
        header, rest = read_header(recovered.snapshots.chunks(latest))
        assert (header.version, header.time) == (HEADER.version, HEADER.time)
        assert header.sessions == HEADER.sessions
        assert (header.marked, header.digest, header.is_claimed) == (0, None, True)
        assert header.last_applied == latest.index == recovered.last_index
        assert recovered.base == (latest.index, latest.term)
        return recovered, Register().restore(rest, latest.index)


def raft(path: Path, *words: object) -> Result:
    """Return how a ``raft restore`` ends."""
    command = ["-c", str(path), "restore", *map(str, words)]
    return CliRunner().invoke(cli.raft, command)


class RestoredTests:
    """What is in the directories."""

    @pytest.mark.parametrize("engine", ENGINES)
    def test_every_engine(self, engine: str, tmp_path: Path, backup: Path) -> None:
        """A start finds the state, a log that begins behind it, and a new cluster."""
        chosen = config.load(write_config(tmp_path, engine), ["s1", "s2", "s3"])
        done = Restoration(chosen, BackupFile(backup)).run()
        assert done.servers == done.voters == ["s1", "s2", "s3"]
        assert done.index == 7
        for name in done.servers:
            recovered, state = found_by(chosen, name)
            assert state == {"a": 1, "b": "x" * 200_000}
            assert recovered.hard_state == HardState(2)
            assert recovered.last_index == done.first_index - 1 > 10**15
            (membership,) = [each for _, each in recovered.memberships]
            assert membership == Membership(
                dict(chosen.members), cluster_id=done.cluster_id
            )
            assert not (chosen.directory(name) / "restoring").exists()

    def test_alone(self, tmp_path: Path, backup: Path) -> None:
        """The one server is the only voter."""
        chosen = config.load(write_config(tmp_path))
        done = Restoration(chosen, BackupFile(backup), alone=True).run()
        recovered, _ = found_by(chosen, "s1")
        assert recovered.memberships[-1][1].voters == {"s1": "s1"}
        assert done.voters == ["s1"]

    def test_host_by_host(self, tmp_path: Path, backup: Path) -> None:
        """With its identity, another host makes members of the same cluster."""
        path = write_config(tmp_path)
        first = Restoration(config.load(path, ["s1"]), BackupFile(backup)).run()
        again = Restoration(
            config.load(path, ["s2", "s3"]),
            BackupFile(backup),
            identity=first.identity,
        ).run()
        assert again == replace(first, servers=["s2", "s3"])
        ids = {
            found_by(config.load(path), name)[0].memberships[-1][1].cluster_id
            for name in ("s1", "s2", "s3")
        }
        assert ids == {first.cluster_id}

    def test_never_the_same_twice(self, tmp_path: Path, backup: Path) -> None:
        """Another restore, backup or membership makes another cluster."""
        chosen = config.load(write_config(tmp_path))
        other = tmp_path / "other"
        write_backup(other, [STATE, b" "], application="restored-register")
        identity = str(NewIdentity.drawn(7))
        fewer = replace(chosen, members={"s1": "s1", "s2": "s2"})
        ids = []
        for one, source, said in (
            (chosen, backup, None),
            (chosen, backup, None),
            (chosen, backup, identity),
            (chosen, other, identity),
            (fewer, backup, identity),
        ):
            work = Restoration(one, BackupFile(source), identity=said)
            ids.append(work.run().cluster_id)
            shutil.rmtree(chosen.data_dir)
        assert len(set(ids)) == len(ids)


class RefusedTests:
    """What is refused leaves everything as it was."""

    def check(self, path: Path, backup: Path, said: str, *words: str) -> None:
        """See that the command ends with a sentence, and that nothing is there."""
        before = sorted(path.parent.rglob("*"))
        done = raft(path, backup, *words)
        assert done.exit_code == 1
        assert said in done.stderr
        assert sorted(path.parent.rglob("*")) == before

    def test_a_directory_with_something_in_it(
        self, tmp_path: Path, backup: Path
    ) -> None:
        """Whatever it is; and then none of the others is restored either."""
        path = write_config(tmp_path)
        (tmp_path / "data" / "s3").mkdir(parents=True)
        (tmp_path / "data" / "s3" / "note").write_text("mine")
        serve = ["--serve", "s1", "--serve", "s2", "--serve", "s3"]
        self.check(path, backup, "s3 is not empty: it has note", *serve)

    def test_a_restored_one(self, tmp_path: Path, backup: Path) -> None:
        """A second restore into the same directory is one of those."""
        path = write_config(tmp_path)
        assert raft(path, backup).exit_code == 0
        self.check(path, backup, "is not empty")

    def test_another_application(self, tmp_path: Path, backup: Path) -> None:
        """A backup is of one state machine."""
        path = write_config(tmp_path, state_machine="kvstore")
        self.check(path, backup, "of the state machine 'restored-register', not of")

    def test_another_version(self, tmp_path: Path) -> None:
        """A release that has not the version that the log is at, cannot read it."""
        backup = tmp_path / "backup"
        write_backup(backup, [STATE], application="versioned-register")
        path = write_config(tmp_path, state_machine="versioned-register")
        self.check(path, backup, "version")

    def test_damage(self, tmp_path: Path, backup: Path) -> None:
        """The whole file is read before anything is made."""
        data = bytearray(backup.read_bytes())
        data[-100] ^= 1
        backup.write_bytes(data)
        self.check(write_config(tmp_path), backup, "chunk 3 of 4 is wrong")

    def test_not_the_index_it_says(self, tmp_path: Path) -> None:
        """Description and state must be of one entry."""
        backup = tmp_path / "backup"
        write_backup(backup, [STATE], application="restored-register", index=8)
        self.check(write_config(tmp_path), backup, "is not of the entry")

    def test_nothing_is_kept(self, tmp_path: Path, backup: Path) -> None:
        """A storage in memory cannot be restored into."""
        path = write_config(tmp_path, "memory")
        self.check(path, backup, "'memory' forgets everything")

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (("--alone", "--serve", "s1", "--serve", "s2"), "only one server"),
            (("--identity", "9-x"), "is no identity"),
            (("--identity", f"7-{'0' * 32}"), "of another backup"),
            (("--identity", f"{1 << 62}1-{'0' * 32}"), "no identity"),
            (("--alone", "--identity", f"70-{'0' * 32}"), "only one server"),
            (("--serve", "s9"), "'s9' is not among the members"),
        ],
    )
    def test_options(
        self, words: tuple[str, ...], said: str, tmp_path: Path, backup: Path
    ) -> None:
        """Options that make no sense are refused."""
        self.check(write_config(tmp_path), backup, said, *words)

    def test_a_file_in_the_way(self, tmp_path: Path, backup: Path) -> None:
        """A server's directory has to be one."""
        path = write_config(tmp_path)
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "s1").write_text("a file")
        self.check(path, backup, "is no directory")

    def test_two_at_once(self, tmp_path: Path, backup: Path) -> None:
        """A restore that is under way is not disturbed by another one."""
        chosen = config.load(write_config(tmp_path))
        staging = chosen.directory("s1") / "restoring"
        other = DataDirectory.open(staging, "shop", "s1", chosen.storage)
        with closing(other), pytest.raises(ConfigError, match=r"datadir\.E008"):
            Restoration(chosen, BackupFile(backup))


class CrashTests:
    """A restore that does not come to its end can be done again."""

    @pytest.mark.parametrize("engine", ENGINES)
    def test_killed_at_each_step(
        self, engine: str, tmp_path: Path, backup: Path
    ) -> None:
        """A start refuses what is left, or it is complete, or nothing is there."""
        path, out = write_config(tmp_path, engine), tmp_path / "out"
        out.mkdir()
        places = [str(path), str(backup), str(out)]
        program = [sys.executable, restore_and_die.__file__, *places]
        environment = {**os.environ, "PYTHONPATH": str(_register(tmp_path))}
        path.write_text(
            path.read_text().replace("restored-register", "register_here.Register")
        )
        run = subprocess.run(
            program, capture_output=True, text=True, env=environment, check=False
        )
        assert run.returncode == 0, run.stderr
        steps = int(run.stdout)
        assert steps > 10
        write_config(tmp_path, engine)
        chosen = config.load(path)
        kinds = [self._kind(chosen, out / str(step)) for step in range(steps + 1)]
        assert kinds == sorted(kinds)
        assert set(kinds) == {0, 1, 2}

    def _kind(self, chosen: Config, left: Path) -> int:
        """Restore what was *left* once more; return how far it had come."""
        shutil.rmtree(chosen.data_dir, ignore_errors=True)
        shutil.move(left, chosen.data_dir)
        where = chosen.directory("s1")
        findings = list(
            DataDirectory.inspect(where, chosen.cluster, "s1", chosen.storage)
        )
        is_empty = not where.exists() or not list(where.iterdir())
        source = BackupFile(chosen.data_dir.parent / "backup")
        if is_empty or findings:
            assert [each.id for each in findings] == (
                [] if is_empty else ["datadir.E007"]
            )
            Restoration(chosen, source).run()
        else:
            with pytest.raises(InvalidChangeError, match="not empty"):
                Restoration(chosen, source)
        assert found_by(chosen, "s1")[1]["a"] == 1
        return 0 if is_empty else 1 if findings else 2

    def test_no_room(
        self, tmp_path: Path, backup: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A full disk leaves what a start refuses, and what can be restored."""
        chosen = config.load(write_config(tmp_path))

        def no_room(*_: object) -> NoReturn:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", no_room)
            with pytest.raises(DiskFullError):
                Restoration(chosen, BackupFile(backup)).run()
        with pytest.raises(ConfigError, match=r"datadir\.E007"):
            found_by(chosen, "s1")
        Restoration(chosen, BackupFile(backup)).run()
        assert found_by(chosen, "s1")[1]["a"] == 1


def _register(directory: Path) -> Path:
    """Write a module that another process finds the machine in."""
    (directory / "modules").mkdir()
    (directory / "modules" / "register_here.py").write_text(
        "from tests.support.servers import Register\n"
    )
    return directory / "modules"


def test_versions_are_looked_at() -> None:
    """The machine of the test above refuses what it does not know."""
    with pytest.raises(StorageError):
        Versioned().for_version(1)
    assert issubclass(Versioned, StateMachine)
