"""The directory of one server: whose it is, and that nobody else uses it."""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest

from adapters.storage.memory import MemoryStorage
from adapters.storage.sqlite import SQLiteStorage
from consensus.config import Engine
from consensus.datadir import DataDirectory
from consensus.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator

SQLITE = Engine("sqlite", SQLiteStorage, None)
MEMORY = Engine("memory", MemoryStorage, None)


def make(path: Path) -> str:
    """Make the directory of s1 at *path*; return its incarnation."""
    directory = DataDirectory.open(path, "raft", "s1", SQLITE)
    directory.close()
    return directory.identity.incarnation


def ids(
    path: Path, cluster: str = "raft", server: str = "s1", engine: Engine = SQLITE
) -> list[str]:
    """Return the ids of what is found; opening finds the same."""
    found = [each.id for each in DataDirectory.inspect(path, cluster, server, engine)]
    if found:
        with pytest.raises(ConfigError) as caught:
            DataDirectory.open(path, cluster, server, engine)
        assert [each.id for each in caught.value.findings] == found
    return found


@contextmanager
def nobody() -> Iterator[None]:
    """Be a user without special rights; whoever is none already stays."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


@pytest.fixture
def entered_by_all() -> Iterator[Path]:
    """Return a directory that other users reach; pytest's are closed to them."""
    with TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o755)
        yield path
        path.chmod(0o755)


class OpenTests:
    """Making and finding a directory."""

    def test_new(self, tmp_path: Path) -> None:
        """A directory is made, with its parents, and says whose it is."""
        path = tmp_path / "data" / "s1"
        directory = DataDirectory.open(path, "raft", "s1", SQLITE)
        said = json.loads((path / "raft.json").read_text())
        checksum = said.pop("checksum")
        assert said == {
            "format": 1,
            "cluster": "raft",
            "server": "s1",
            "incarnation": directory.identity.incarnation,
            "engine": "sqlite",
            "engine_class": "adapters.storage.sqlite.SQLiteStorage",
        }
        assert len(checksum) == 64
        assert directory.path == path
        assert (directory.identity.cluster, directory.identity.server) == ("raft", "s1")
        directory.close()

    def test_again(self, tmp_path: Path) -> None:
        """The incarnation of a directory never changes."""
        first = make(tmp_path / "s1")
        assert make(tmp_path / "s1") == first
        assert make(tmp_path / "s2") != first

    def test_interrupted(self, tmp_path: Path) -> None:
        """A crash while the directory was made leaves one that is still new."""
        (tmp_path / "lock").touch()
        (tmp_path / "raft.json.new").write_text('{"form')
        (tmp_path / "lost+found").mkdir()
        assert ids(tmp_path) == []
        make(tmp_path)
        assert not (tmp_path / "raft.json.new").exists()

    def test_close_twice(self, tmp_path: Path) -> None:
        """Closing a second time does nothing, whoever has the descriptor now."""
        directory = DataDirectory.open(tmp_path, "raft", "s1", SQLITE)
        directory.close()
        other = os.open(tmp_path, os.O_RDONLY)
        directory.close()
        os.close(other)

    def test_refusal_releases_the_lock(self, tmp_path: Path) -> None:
        """A refused start keeps nobody else from starting."""
        make(tmp_path)
        with pytest.raises(ConfigError):
            DataDirectory.open(tmp_path, "raft", "s2", SQLITE)
        make(tmp_path)

    def test_inspect_changes_nothing(self, tmp_path: Path) -> None:
        """A check makes neither directory nor file."""
        assert ids(tmp_path / "data" / "s1") == []
        assert list(tmp_path.iterdir()) == []
        assert ids(tmp_path) == []
        assert list(tmp_path.iterdir()) == []


class BelongsTests:
    """A directory of somebody else is refused."""

    def test_own(self, tmp_path: Path) -> None:
        """Its own server may come back."""
        make(tmp_path)
        assert ids(tmp_path) == []

    def test_other_server(self, tmp_path: Path) -> None:
        """Another server may not."""
        make(tmp_path)
        assert ids(tmp_path, server="s2") == ["datadir.E002"]

    def test_other_cluster(self, tmp_path: Path) -> None:
        """A server of the same name of another cluster may not."""
        make(tmp_path)
        assert ids(tmp_path, cluster="blue") == ["datadir.E003"]

    def test_other_engine(self, tmp_path: Path) -> None:
        """With another engine, the server would forget its votes."""
        make(tmp_path)
        assert ids(tmp_path, engine=MEMORY) == ["datadir.E004"]
        (finding,) = DataDirectory.inspect(tmp_path, "raft", "s1", MEMORY)
        assert finding.hint.startswith("write engine: sqlite")
        assert finding.path == "storage.engine"

    def test_everything_at_once(self, tmp_path: Path) -> None:
        """All differences are told."""
        make(tmp_path)
        found = ids(tmp_path, "blue", "s2", MEMORY)
        assert found == ["datadir.E003", "datadir.E002", "datadir.E004"]

    def test_engine_by_another_name(self, tmp_path: Path) -> None:
        """A name and a dotted path of the same class are the same engine."""
        make(tmp_path)
        dotted = "adapters.storage.sqlite.SQLiteStorage"
        assert ids(tmp_path, engine=Engine(dotted, SQLiteStorage, None)) == []

    def test_engine_whose_class_moved(self, tmp_path: Path) -> None:
        """A registered name goes on when a release moves its class."""
        make(tmp_path)
        moved = type("MovedStorage", (SQLiteStorage,), {})
        assert ids(tmp_path, engine=Engine("sqlite", moved, None)) == []

    def test_data_without_a_record(self, tmp_path: Path) -> None:
        """A log without raft.json may be anybody's."""
        (tmp_path / "raft.db").touch()
        assert ids(tmp_path) == ["datadir.E007"]

    def test_nobody_touches_it(self, tmp_path: Path) -> None:
        """A refused start leaves raft.json as it was."""
        make(tmp_path)
        before = (tmp_path / "raft.json").read_bytes()
        ids(tmp_path, "blue", "s2", MEMORY)
        assert (tmp_path / "raft.json").read_bytes() == before


class RecordTests:
    """What raft.json may look like."""

    @pytest.mark.parametrize(
        "damage",
        [
            b"",
            b"{",
            b"[]",
            b"null",
            b"{}",
            b'{"format": 1}',
            b'{"format": [1]}',
            b'{"format": "1", "checksum": ""}',
            b"\xff\xfe",
            b"\x00" * 4096,
            b"[" * 100_000,
        ],
    )
    def test_damaged(self, tmp_path: Path, damage: bytes) -> None:
        """Whatever stands there instead is refused, not raised."""
        make(tmp_path)
        (tmp_path / "raft.json").write_bytes(damage)
        assert ids(tmp_path) == ["datadir.E006"]

    def test_every_flipped_byte(self, tmp_path: Path) -> None:
        """No single changed byte that means something goes unnoticed."""
        make(tmp_path)
        file = tmp_path / "raft.json"
        good = file.read_bytes()
        meaning = json.loads(good)
        for position in range(len(good)):
            bad = bytearray(good)
            bad[position] ^= 1
            file.write_bytes(bad)
            try:
                same = json.loads(bad) == meaning
            except ValueError:
                same = False
            found = list(DataDirectory.inspect(tmp_path, "raft", "s1", SQLITE))
            assert bool(found) != same

    def test_changed_by_hand(self, tmp_path: Path) -> None:
        """Who renames a server there is told that the file is not as written."""
        make(tmp_path)
        file = tmp_path / "raft.json"
        file.write_text(file.read_text().replace('"s1"', '"s2"'))
        assert ids(tmp_path, server="s2") == ["datadir.E006"]

    def test_newer_format(self, tmp_path: Path) -> None:
        """What a newer release wrote is left to it."""
        make(tmp_path)
        said = json.loads((tmp_path / "raft.json").read_text())
        (tmp_path / "raft.json").write_text(json.dumps(said | {"format": 2}))
        assert ids(tmp_path) == ["datadir.E005"]


class PeersTests:
    """peers.json: which other servers this one has met."""

    @pytest.fixture
    def directory(self, tmp_path: Path) -> Iterator[DataDirectory]:
        """Return a directory that is open, of a server that has met s2."""
        made = DataDirectory.open(tmp_path, "raft", "s1", SQLITE)
        made.remember("s2", "first")
        yield made
        made.close()

    def test_it_is_remembered(self, directory: DataDirectory) -> None:
        """What is noted is there at the next start, and nothing else is."""
        directory.remember("s3", "other")
        directory.remember("s2", "second")
        directory.close()
        again = DataDirectory.open(directory.path, "raft", "s1", SQLITE)
        assert again.acquaintances() == {"s2": "second", "s3": "other"}
        again.forget("s2")
        again.forget("s9")
        assert again.acquaintances() == {"s3": "other"}
        again.close()
        assert sorted(each.name for each in directory.path.iterdir()) == [
            "lock",
            "peers.json",
            "raft.json",
        ]

    def test_nobody_yet(self, tmp_path: Path) -> None:
        """A server that has met nobody has no such file."""
        make(tmp_path)
        directory = DataDirectory.open(tmp_path, "raft", "s1", SQLITE)
        assert directory.acquaintances() == {}
        directory.close()

    @pytest.mark.parametrize(
        "damage",
        [b"", b"[]", b"{}", b'{"format": 1, "peers": {}}', b"\xff", b"[" * 9999],
    )
    def test_damaged(self, directory: DataDirectory, damage: bytes) -> None:
        """The start is refused, and the finding says what to do."""
        directory.close()
        (directory.path / "peers.json").write_bytes(damage)
        assert ids(directory.path) == ["datadir.E009"]
        (finding,) = DataDirectory.inspect(directory.path, "raft", "s1", SQLITE)
        assert "peers.json is damaged" in finding.message
        assert "remove it if no other server" in finding.hint

    def test_every_flipped_byte(self, directory: DataDirectory) -> None:
        """No single changed byte that means something goes unnoticed."""
        directory.close()
        file = directory.path / "peers.json"
        good = file.read_bytes()
        meaning = json.loads(good)
        for position in range(len(good)):
            bad = bytearray(good)
            bad[position] ^= 1
            file.write_bytes(bad)
            try:
                same = json.loads(bad) == meaning
            except ValueError:
                same = False
            found = list(DataDirectory.inspect(directory.path, "raft", "s1", SQLITE))
            assert bool(found) != same

    def test_newer_format(self, directory: DataDirectory) -> None:
        """What a newer release wrote is left to it."""
        directory.close()
        (directory.path / "peers.json").write_text('{"format": 2, "peers": []}')
        assert ids(directory.path) == ["datadir.E009"]
        (directory.path / "peers.json").write_text('{"format": 2}')
        assert ids(directory.path) == ["datadir.E005"]

    def test_a_crash_while_writing(self, directory: DataDirectory) -> None:
        """What was half written is not looked at, and is replaced later."""
        (directory.path / "peers.json.new").write_text("{")
        assert directory.acquaintances() == {"s2": "first"}
        directory.remember("s3", "other")
        assert directory.acquaintances() == {"s2": "first", "s3": "other"}

    def test_what_cannot_be_written(self, entered_by_all: Path) -> None:
        """The error says where, and what was there stays."""
        entered_by_all.chmod(0o777)
        with nobody():
            directory = DataDirectory.open(entered_by_all, "raft", "s1", SQLITE)
            directory.remember("s2", "first")
        entered_by_all.chmod(0o555)
        with nobody(), pytest.raises(StorageError, match="cannot write in"):
            directory.remember("s2", "second")
        assert directory.acquaintances() == {"s2": "first"}
        directory.close()

    def test_too_many(self, directory: DataDirectory) -> None:
        """A file that could not be read again is never written."""
        with pytest.raises(StorageError, match=r"peers.json would be longer"):
            directory.remember("s3", "x" * 70_000)
        assert directory.acquaintances() == {"s2": "first"}

    def test_after_close(self, directory: DataDirectory) -> None:
        """The directory may be another process's by then."""
        directory.close()
        with pytest.raises(StorageError, match="is closed"):
            directory.remember("s3", "other")
        with pytest.raises(StorageError, match="is closed"):
            directory.forget("s2")


class LockTests:
    """One directory has one server at a time."""

    def test_second_server(self, tmp_path: Path) -> None:
        """A second one is refused, with the process that has it."""
        first = DataDirectory.open(tmp_path, "raft", "s1", SQLITE)
        assert ids(tmp_path) == ["datadir.E008"]
        (finding,) = DataDirectory.inspect(tmp_path, "raft", "s1", SQLITE)
        assert finding.message.startswith(f"process {os.getpid()} runs the server")
        first.close()
        assert ids(tmp_path) == []

    def test_looking_is_no_use(self, tmp_path: Path) -> None:
        """Two who check at once do not take each other for a server."""
        make(tmp_path)
        lock = os.open(tmp_path / "lock", os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_SH)
        assert list(DataDirectory.inspect(tmp_path, "raft", "s1", SQLITE)) == []
        os.close(lock)


class WritableTests:
    """A directory that cannot be written is refused before a start."""

    def test_file_in_the_way(self, tmp_path: Path) -> None:
        """A file where a directory should be is named."""
        (tmp_path / "data").touch()
        assert ids(tmp_path / "data") == ["datadir.E001"]
        assert ids(tmp_path / "data" / "s1") == ["datadir.E001"]
        (finding,) = DataDirectory.inspect(
            tmp_path / "data" / "s1", "raft", "s1", SQLITE
        )
        assert f"{tmp_path}/data is no directory" in finding.message

    def test_no_right_to_write(self, entered_by_all: Path) -> None:
        """A directory of somebody else is named."""
        entered_by_all.chmod(0o555)
        with nobody():
            assert ids(entered_by_all) == ["datadir.E001"]
            path = entered_by_all / "data" / "s1"
            assert ids(path) == ["datadir.E001"]
            (finding,) = DataDirectory.inspect(path, "raft", "s1", SQLITE)
        assert f"may not write in {entered_by_all}" in finding.message

    def test_no_right_to_look(self, entered_by_all: Path) -> None:
        """A directory that cannot even be entered is no traceback."""
        closed = entered_by_all / "closed"
        (closed / "inner").mkdir(parents=True)
        closed.chmod(0)
        with nobody():
            path = closed / "inner" / "s1"
            assert ids(path) == ["datadir.E001"]
            (finding,) = DataDirectory.inspect(path, "raft", "s1", SQLITE)
        closed.chmod(0o755)
        assert f"may not write in {closed}" in finding.message

    def test_unreadable_record(self, tmp_path: Path) -> None:
        """A raft.json that is a directory is no traceback either."""
        (tmp_path / "raft.json").mkdir()
        assert ids(tmp_path) == ["datadir.E001"]
