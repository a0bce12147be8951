"""
The directory of one server: whose it is, and that nobody else uses it.

``raft.json`` says which server of which cluster has its log and its vote in
here, and with which storage engine; it is there before anything else is.
``lock`` is locked while the server runs.  ``used`` says that the storage has
had something to remember: if it has nothing then, its files are lost.
``peers.json`` says which other servers this one has met.  A start in the wrong
directory would forget votes, or take another's for one's own, so it is
refused:

============ ==========================================================
datadir.E001 the directory cannot be made or written
datadir.E002 it belongs to another server
datadir.E003 it belongs to another cluster
datadir.E004 its data is that of another storage engine
datadir.E005 a newer release wrote it
datadir.E006 ``raft.json`` is damaged
datadir.E007 there is data without a ``raft.json``
datadir.E008 a running process uses it
datadir.E009 ``peers.json`` is damaged
============ ==========================================================
"""

from __future__ import annotations

import fcntl
import os
import uuid
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import msgspec

from consensus.core.values import Identity
from consensus.durable import NEW, sync_path
from consensus.errors import ConfigError, Finding, StorageError
from consensus.records import FORMAT, read_record, write_record
from consensus.registry import name_of
from consensus.snapshots.format import disk

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from consensus.config import Engine
    from consensus.core.values import ServerId

_RECORD = "raft.json"
_LOCK = "lock"
_USED = "used"
_PEERS = "peers.json"

#: Of nobody's interest in an otherwise new directory: our own files, and what
#: a fresh file system has in its root.
_NOT_DATA = {_RECORD, _RECORD + NEW, _LOCK, _USED, "lost+found"}

_Text = Annotated[str, msgspec.Meta(min_length=1)]


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    """What ``raft.json`` says; the file also has a checksum of all this."""

    format: int
    cluster: _Text
    server: _Text
    incarnation: _Text
    engine: _Text
    engine_class: _Text


class _Peers(msgspec.Struct, frozen=True, kw_only=True):
    """What ``peers.json`` says, likewise: incarnations by server."""

    format: int
    peers: dict[_Text, _Text]


@dataclass(slots=True)
class DataDirectory:
    """
    The directory of a running server, locked until :meth:`close`.

    Args:
        path: Where it is.
        identity: Who the server is, with the incarnation drawn when the
            directory was made.
    """

    path: Path
    identity: Identity
    _lock: int

    @staticmethod
    def exists(path: Path) -> bool:
        """Say whether *path* is the directory of some server."""
        return (path / _RECORD).exists()

    @staticmethod
    def inspect(
        path: Path, cluster: str, server: ServerId, engine: Engine
    ) -> Iterator[Finding]:
        """
        Yield what forbids that *server* starts in *path*; change nothing.

        A directory that does not exist yet is fine if it can be made.
        """
        try:
            reason = _not_writable(path)
            if reason:
                yield _unusable(path, reason)
            elif path.is_dir():
                yield from _inspect_lock(path)
                yield from _inspect_record(path, cluster, server, engine)
        except OSError as error:
            yield _unusable(path, error.strerror or str(error))

    @classmethod
    def open(
        cls, path: Path, cluster: str, server: ServerId, engine: Engine
    ) -> DataDirectory:
        """
        Make *path*, or see that it is this server's; lock it.

        Blocking; when it returns, the directory and its ``raft.json`` are
        durable.

        Raises:
            ConfigError: It is another's, in use, or cannot be written.
        """
        try:
            _make(path)
            lock = _take_lock(path)
            try:
                record = _own_record(path, cluster, server, engine)
            except BaseException:
                os.close(lock)
                raise
        except OSError as error:
            raise ConfigError(
                [_unusable(path, error.strerror or str(error))]
            ) from error
        return cls(path, Identity(cluster, server, record.incarnation), lock)

    @staticmethod
    def engine_of(path: Path) -> tuple[str, str] | None:
        """
        Return name and class of the storage engine that wrote what is in *path*.

        ``None`` if there is no ``raft.json``.

        Raises:
            ConfigError: It is damaged, or of a newer release.
        """
        record = _read_record(path)
        return None if record is None else (record.engine, record.engine_class)

    def change_engine(self, engine: Engine) -> None:
        """
        Let *engine* be the one whose data this is, durably, at once or not at all.

        Raises:
            StorageError: ``raft.json`` cannot be read or written.
        """
        record = _read_record(self.path)
        if record is None:
            message = f"{self.path / _RECORD} is gone"
            raise StorageError(message)
        changed = msgspec.structs.replace(
            record, engine=engine.name, engine_class=name_of(engine.cls)
        )
        write_record(self.path / _RECORD, changed)

    @property
    def is_used(self) -> bool:
        """Say whether the storage in here has had something to remember."""
        return (self.path / _USED).exists()

    def mark_used(self) -> None:
        """
        Note, durably, that the storage has something to remember now.

        Raises:
            DiskFullError: There is no room to note it.
            StorageError: It could not be noted.
        """
        with disk(self.path):
            (self.path / _USED).touch(mode=0o600)
            sync_path(self.path)

    def acquaintances(self) -> dict[ServerId, str]:
        """
        Return the incarnation of each server that :meth:`remember` was told of.

        Raises:
            ConfigError: ``peers.json`` is damaged.
        """
        return _read_peers(self.path)

    def remember(self, peer: ServerId, incarnation: str) -> None:
        """
        Note, durably, that *peer* has *incarnation*.

        Raises:
            StorageError: It could not be noted.
        """
        self._rewrite_peers({**_read_peers(self.path), peer: incarnation})

    def forget(self, peer: ServerId) -> None:
        """
        Undo :meth:`remember`, durably.

        Raises:
            StorageError: It is still noted.
        """
        peers = _read_peers(self.path)
        if peers.pop(peer, None) is not None:
            self._rewrite_peers(peers)

    def forget_all(self) -> None:
        """
        Forget every server that :meth:`remember` was told of, durably.

        Raises:
            StorageError: They are still noted.
        """
        self._rewrite_peers({})

    def _rewrite_peers(self, peers: dict[ServerId, str]) -> None:
        if self._lock < 0:
            message = f"{self.path} is closed"
            raise StorageError(message)
        try:
            write_record(self.path / _PEERS, _Peers(format=FORMAT, peers=peers))
        except OSError as error:
            message = f"cannot write in {self.path}: {error.strerror or error}"
            raise StorageError(message) from error

    def for_machine(self) -> Path:
        """
        Return the directory, made if need be, of a state machine's own files.

        Raises:
            StorageError: It cannot be made.
        """
        path = self.path / "machine"
        try:
            path.mkdir(mode=0o700, exist_ok=True)
            sync_path(self.path)
        except OSError as error:
            message = f"cannot make {path}: {error.strerror}"
            raise StorageError(message) from error
        return path

    def close(self) -> None:
        """Unlock the directory; a second call does nothing."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)


# --- whether it can be written ------------------------------------------------


def _not_writable(path: Path) -> str:
    """Return why *path* can neither be written nor made; empty if it can."""
    existing = path
    while not os.path.lexists(existing) and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        return f"{existing} is no directory"
    # Not the real user: twistd may have been started by root for another.
    if not os.access(existing, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
        return f"this user may not write in {existing}"
    return ""


def _unusable(path: Path, reason: str) -> Finding:
    return Finding(
        "datadir.E001",
        f"the directory {path} cannot be used: {reason}",
        "let data_dir name a directory that this user may write in",
        "data_dir",
    )


def _make(path: Path) -> None:
    """Make *path* and its parents, durably."""
    if path.is_dir():
        return
    if path.parent != path:
        _make(path.parent)
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    sync_path(path.parent)


# --- the lock -----------------------------------------------------------------


def _take_lock(path: Path) -> int:
    """
    Return the locked file's descriptor; the lock ends when that is closed.

    The file stays: were it removed, two processes could hold locks on two
    files that had the same name one after the other.
    """
    lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)
        os.write(lock, b"%d\n" % os.getpid())
    except BlockingIOError:
        holder = _holder(lock)
        os.close(lock)
        raise ConfigError([_in_use(path, holder)]) from None
    except BaseException:
        os.close(lock)
        raise
    return lock


def _inspect_lock(path: Path) -> Iterator[Finding]:
    try:
        with kept_from_servers(path):
            pass
    except ConfigError as error:
        yield from error.findings


@contextmanager
def kept_from_servers(path: Path) -> Iterator[None]:
    """
    Let no server start in *path* meanwhile; change nothing there.

    Raises:
        ConfigError: One runs.
    """
    try:
        lock = os.open(path / _LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield  # a copy, or one that no server has used yet
        return
    with os.fdopen(lock):
        try:
            # Shared, so that two who look do not take each other for a server.
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError([_in_use(path, _holder(lock))]) from None
        yield


def _holder(lock: int) -> str:
    pid = os.pread(lock, 20, 0).decode("ascii", "replace").strip()
    return f"process {pid}" if pid.isdigit() else "another process"


def _in_use(path: Path, holder: str) -> Finding:
    return Finding(
        "datadir.E008",
        f"{holder} runs the server of {path}",
        "stop it first, or serve another member",
        "data_dir",
    )


# --- whose it is --------------------------------------------------------------


def _inspect_record(
    path: Path, cluster: str, server: ServerId, engine: Engine
) -> Iterable[Finding]:
    try:
        record = _read_record(path)
    except ConfigError as error:
        return error.findings
    if record is None:
        return _inspect_new(path)
    return [
        *_differences(record, path, cluster, server, engine),
        *check_peers(path),
    ]


def _inspect_new(path: Path) -> Iterator[Finding]:
    data = sorted({each.name for each in path.iterdir()} - _NOT_DATA)
    if data:
        yield Finding(
            "datadir.E007",
            f"{path} has {', '.join(data[:3])}, but no {_RECORD} that says whose it is",
            f"restore {_RECORD} from where the rest came, or name an empty directory",
            "data_dir",
        )


def check_peers(path: Path) -> Iterable[Finding]:
    """Return what is wrong with the ``peers.json`` in *path*."""
    try:
        _read_peers(path)
    except ConfigError as error:
        return error.findings
    return ()


def _differences(
    record: _Record, path: Path, cluster: str, server: ServerId, engine: Engine
) -> Iterator[Finding]:
    if record.cluster != cluster:
        yield Finding(
            "datadir.E003",
            f"{path} belongs to the cluster {record.cluster!r}, not {cluster!r}",
            "let data_dir name another directory, or correct cluster",
            "data_dir",
        )
    if record.server != server:
        yield Finding(
            "datadir.E002",
            f"{path} belongs to the server {record.server!r}, not {server!r}",
            "do not copy or rename the directories of servers",
            "data_dir",
        )
    # A class may move and a name may change; another engine differs in both.
    if record.engine != engine.name and record.engine_class != name_of(engine.cls):
        yield Finding(
            "datadir.E004",
            f"what is in {path} was written by the storage engine {record.engine!r},"
            f" not by {engine.name!r}",
            f"write engine: {record.engine}, or let data_dir name another directory",
            "storage.engine",
        )


def _own_record(path: Path, cluster: str, server: ServerId, engine: Engine) -> _Record:
    findings = list(_inspect_record(path, cluster, server, engine))
    if findings:
        raise ConfigError(findings)
    return _read_record(path) or _write_record(path, cluster, server, engine)


# --- raft.json and peers.json -------------------------------------------------


def _read_record(path: Path) -> _Record | None:
    """
    Return what ``raft.json`` says; ``None`` if there is none.

    Raises:
        ConfigError: It is damaged, or of a newer release.
    """
    return read_record(path / _RECORD, _Record, _damaged)


def _read_peers(path: Path) -> dict[ServerId, str]:
    """
    Return what ``peers.json`` says; nothing if there is none.

    Raises:
        ConfigError: It is damaged, or of a newer release.
    """
    found = read_record(path / _PEERS, _Peers, _damaged_peers)
    return {} if found is None else dict(found.peers)


def _write_record(
    path: Path, cluster: str, server: ServerId, engine: Engine
) -> _Record:
    """Write a new ``raft.json``, as a whole or not at all."""
    record = _Record(
        format=FORMAT,
        cluster=cluster,
        server=server,
        incarnation=uuid.uuid4().hex,
        engine=engine.name,
        engine_class=name_of(engine.cls),
    )
    write_record(path / _RECORD, record)
    return record


def _damaged(file: Path, reason: str) -> Finding:
    return Finding(
        "datadir.E006",
        f"{file} is damaged: {reason}",
        "restore it from a backup; do not begin anew under the same name, for the"
        " server may have voted",
        "data_dir",
    )


def _damaged_peers(file: Path, reason: str) -> Finding:
    return Finding(
        "datadir.E009",
        f"{file} is damaged: {reason}",
        "remove it if no other server of the cluster has lost its data directory,"
        " for this one would not notice; else restore it from a backup",
        "data_dir",
    )
