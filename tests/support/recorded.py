"""Data directories that real servers have left, with each storage engine."""

from __future__ import annotations

from contextlib import closing, suppress
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from adapters.storage.lmdb import LMDBStorage
from adapters.storage.rocksdb import RocksDBStorage
from adapters.storage.sqlite import SQLiteStorage
from adapters.storage.wal import WALStorage
from consensus.datadir import DataDirectory
from consensus.errors import CommandFailedError
from consensus.sessions import (
    Operation,
    close_call,
    command_call,
    open_call,
    session_of,
)
from consensus.settings.values import Engine
from tests.support.servers import Register, Servers

if TYPE_CHECKING:
    from pathlib import Path

    from consensus.interfaces import StateMachine, Storage
    from consensus.server import RaftServer


class InlineSQLite(SQLiteStorage):
    """Is called in the reactor's thread."""

    blocking = False


class InlineRocksDB(RocksDBStorage):
    """Is called in the reactor's thread."""

    blocking = False


class InlineLMDB(LMDBStorage):
    """Is called in the reactor's thread."""

    blocking = False


class InlineWAL(WALStorage):
    """Is called in the reactor's thread."""

    blocking = False


ENGINES: dict[str, tuple[type[Storage], type[Storage]]] = {
    "sqlite": (SQLiteStorage, InlineSQLite),
    "rocksdb": (RocksDBStorage, InlineRocksDB),
    "lmdb": (LMDBStorage, InlineLMDB),
    "wal": (WALStorage, InlineWAL),
}


class Recording:
    """
    A cluster of one that is recorded.

    Args:
        directory: For the data directory ``s1``.
        engine: The name of the storage engine.
        machine: What commands are applied to.
        config: What else the config says.
    """

    def __init__(
        self,
        directory: Path,
        engine: str = "sqlite",
        machine: type[StateMachine] = Register,
        **config: Any,
    ) -> None:
        self.path = directory / "s1"
        self._engine, inline = ENGINES[engine]
        self._name = engine
        self.servers = Servers(
            ("s1",),
            config={"storage": inline, **config},
            data_dir=directory,
            machine=machine,
        )
        self.server: RaftServer = self.servers.leader()

    def write(self, *commands: Any) -> int:
        """Write *commands*; return the index of the last."""
        index = 0
        for command in commands:
            done = self.server.write(command, with_index=True)
            with suppress(CommandFailedError):  # it is in the log as well
                _, index = self.servers.result(done)
        return index

    def session(self, *commands: Any) -> int:
        """Write *commands* in a session, the last one twice; return its name."""
        ask, encode = self.server.write_session, self.server.encoded
        name = session_of(self.servers.result(ask(Operation.OPEN, open_call(60_000))))
        for number, command in enumerate(commands, 1):
            call = command_call(name, number, 1, encode(command))
            for _ in range(1 + (number == len(commands))):
                self.servers.result(ask(Operation.COMMAND, call))
        self.servers.result(ask(Operation.CLOSE, close_call(name)))
        return name

    def snapshot(self) -> int:
        """Take a snapshot, let the log be cut; return its index."""
        meta = self.servers.result(self.server.snapshot())
        self.servers.run(1)
        index: int = meta.index
        return index

    def state(self) -> Any:
        """Return the state of the server as it is."""
        return self.server._running().applier.state

    def stop(self) -> Path:
        """Stop; return the data directory, as one that the plain engine left."""
        self.servers.stop("s1")
        engine = Engine(self._name, self._engine, None)
        inline = Engine("", ENGINES[self._name][1], None)
        directory = DataDirectory.open(self.path, "raft", "s1", inline)
        with closing(directory):
            directory.change_engine(engine)
        return self.path


def sums(path: Path) -> dict[str, tuple[str, int]]:
    """Return the checksum and the time of each file below *path*."""
    return {
        str(each): (sha256(each.read_bytes()).hexdigest(), each.stat().st_mtime_ns)
        for each in path.rglob("*")
        if each.is_file()
    }
