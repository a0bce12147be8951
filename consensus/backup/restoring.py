"""
A new cluster from a backup: the data directories of its members, offline.

All members begin with the same snapshot, as if it were the first thing that
they had agreed on, and with a cluster id of their own, so that servers of the
old cluster are refused.  The id is made of the backup, the members and a text
that is drawn once: servers restored from other backups do not meet.

The log begins far behind where the old one can have ended, since indexes are
handed out: as the names of sessions, and to who reads its own writes.

All is made in ``restoring/`` in the server's directory and moved up, with
``raft.json`` last: without it the directory is refused at a start, and can be
restored again.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import shutil
import time
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import msgspec

from consensus.applying.agreements import Digests
from consensus.core.membership import Membership
from consensus.core.values import HardState, SnapshotMeta
from consensus.datadir import DataDirectory
from consensus.durable import sync_path, sync_tree
from consensus.errors import ConfigError, InvalidChangeError, StorageError
from consensus.registry import name_of
from consensus.snapshots.files import FileSnapshots
from consensus.snapshots.format import disk, split
from consensus.snapshots.header import Header, encode_header, read_header

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import Self

    from consensus.backup.file import BackupFile
    from consensus.config import Config
    from consensus.core.values import LogIndex, ServerId
    from consensus.interfaces import StateMachine, Storage

#: What a directory has while it is restored.
STAGING = "restoring"

_RECORD = "raft.json"

#: A new log begins with the entry of this number for each second since 1970: no
#: cluster writes so many, and no restore comes so soon after another.  Numbers
#: stay below 2**53 for 200 years, which is all that JavaScript can count.
_ENTRIES_PER_SECOND = 1_000_000

#: At least so far behind the backup, whatever the clock says.
_LEAST_GAP = 1_000_000_000

_LARGEST_INDEX = 1 << 62

_IDENTITY = re.compile(r"([1-9]\d{0,18})-([0-9a-f]{32})", re.ASCII)

#: What the root of a fresh file system has.
_NOT_DATA = {"lost+found"}


@dataclass(frozen=True, slots=True)
class NewIdentity:
    """
    What tells a restored cluster from all others.

    Args:
        index: Where its log begins.
        seed: Drawn once.
    """

    index: LogIndex
    seed: str

    @classmethod
    def drawn(cls, after: LogIndex) -> Self:
        """Return a new one, for a backup that ends with the entry *after*."""
        index = max(int(time.time()) * _ENTRIES_PER_SECOND, after + _LEAST_GAP)
        return cls(index, secrets.token_hex(16))

    @classmethod
    def parse(cls, text: str, after: LogIndex) -> Self:
        """
        Return what *text* is, as another restore printed it.

        Raises:
            InvalidChangeError: It is none, or of another backup.
        """
        match = _IDENTITY.fullmatch(text)
        if match is None:
            message = f"{text!r} is no identity, as raft restore prints one"
            raise InvalidChangeError(message)
        index = int(match[1])
        if not after < index <= _LARGEST_INDEX:
            message = f"the identity {text} is of another backup"
            raise InvalidChangeError(message)
        return cls(index, match[2])

    def __str__(self) -> str:
        """Return what :meth:`parse` reads."""
        return f"{self.index}-{self.seed}"


@dataclass(frozen=True, slots=True)
class Restored:
    """
    What was done.

    Args:
        servers: Whose directories are there now.
        cluster: The name of the new cluster.
        cluster_id: Its id.
        voters: All who belong to it.
        index: The entry of the old log that the state is of.
        first_index: The first entry of the new log.
        identity: For the other members, if they are restored elsewhere.
    """

    servers: list[ServerId]
    cluster: str
    cluster_id: str
    voters: list[ServerId]
    index: LogIndex
    first_index: LogIndex
    identity: str


class Restoration:
    """
    Makes data directories from a backup; nothing is changed before :meth:`run`.

    Args:
        config: As for a start; the members of ``serve`` are restored.
        backup: The file.
        alone: Whether the one server is the only voter, and others join it;
            else all members of the config are.
        identity: What the restore of the other members printed, if there was
            one.

    Raises:
        InvalidChangeError: It cannot be done so.
        ConfigError: A directory is in use or cannot be written.
        StorageError: The file is damaged, or of a newer machine.
    """

    def __init__(
        self,
        config: Config,
        backup: BackupFile,
        *,
        alone: bool = False,
        identity: str | None = None,
    ) -> None:
        self._config = config
        self._backup = backup
        said = backup.description
        names = config.serve
        if alone and (len(names) != 1 or identity is not None):
            message = "only one server can begin alone: the others join it"
            raise InvalidChangeError(message)
        members = config.members
        voters = {name: members[name] for name in (names if alone else members)}
        self._identity = (
            NewIdentity.drawn(said.index)
            if identity is None
            else NewIdentity.parse(identity, said.index)
        )
        self._membership = Membership(voters, cluster_id=self._cluster_id(voters))
        self._check_application()
        for name in names:
            self._check_directory(name)

    def _cluster_id(self, voters: dict[ServerId, str]) -> str:
        said, drawn = self._backup.description, self._identity
        whole = (self._config.cluster, sorted(voters), drawn.index, drawn.seed)
        source = (said.index, said.term, said.size, said.checksum)
        text = json.dumps([*whole, *source]).encode()
        return hashlib.sha256(text).hexdigest()[:32]

    def _check_application(self) -> None:
        said, engine = self._backup.description, self._config.state_machine
        ours = engine.name, name_of(engine.cls)
        # A class may move and a name may change; another machine differs in both.
        if said.application != ours[0] and said.application_class != ours[1]:
            message = (
                f"{self._backup.path} is of the state machine {said.application!r},"
                f" not of {engine.name!r}"
            )
            raise InvalidChangeError(message)

    def _check_directory(self, name: ServerId) -> None:
        """See that there is nothing that could be lost."""
        config = self._config
        engine, path = config.storage, config.directory(name)
        if not engine.cls.durable:
            message = f"the storage engine {engine.name!r} forgets everything"
            raise InvalidChangeError(message)
        if not path.is_dir():
            if path.exists():
                message = f"{path} is no directory"
                raise InvalidChangeError(message)
            return
        with disk(path):
            found = {each.name for each in path.iterdir()} - _NOT_DATA
        if STAGING in found and _RECORD not in found:
            found = set()  # of a restore that did not come to its end
        if found:
            message = (
                f"{path} is not empty: it has {', '.join(sorted(found)[:3])}; a"
                " restore begins with an empty directory"
            )
            raise InvalidChangeError(message)
        self._check_staging(name)

    def _check_staging(self, name: ServerId) -> None:
        """See that no other process is restoring *name* right now."""
        config = self._config
        staging = config.directory(name) / STAGING
        findings = DataDirectory.inspect(staging, config.cluster, name, config.storage)
        in_use = [
            each for each in findings if each.id in {"datadir.E001", "datadir.E008"}
        ]
        if in_use:
            raise ConfigError(in_use)

    def run(
        self, on_progress: Callable[[int, int], None] = lambda _done, _total: None
    ) -> Restored:
        """
        Read the whole backup, then make the directories, durably.

        Args:
            on_progress: Called with the bytes done, and with all to be done.

        Raises:
            InvalidChangeError: The machine of the config does not fit.
            StorageError: The file is damaged, or a disk failed.
        """
        names = self._config.serve
        total = self._backup.description.size * (1 + len(names))
        counted = _Counter(total, on_progress)
        self._check_content(counted.add)
        for name in names:
            self._make(name, counted.add)
        membership = self._membership
        return Restored(
            list(names),
            self._config.cluster,
            membership.cluster_id,
            sorted(membership.voters),
            self._backup.description.index,
            self._identity.index + 1,
            str(self._identity),
        )

    def _check_content(self, on_progress: Callable[[int], None]) -> None:
        """Read it once, so that nothing is made of a damaged one."""
        header, rest = read_header(self._backup.chunks(on_progress))
        for _ in rest:
            pass
        if header.last_applied != self._backup.description.index:
            message = f"{self._backup.path} is not of the entry that it says"
            raise StorageError(message)
        engine = self._config.state_machine
        machine: StateMachine = engine.cls(engine.options)
        if header.version != machine.version:
            machine.for_version(header.version)

    def _make(self, name: ServerId, on_progress: Callable[[int], None]) -> None:
        config = self._config
        path = config.directory(name)
        with disk(path):
            if path.is_dir():
                _empty(path)
            staging = path / STAGING
            directory = DataDirectory.open(
                staging, config.cluster, name, config.storage
            )
            with closing(directory):
                self._fill(staging, on_progress)
                directory.mark_used()
                sync_tree(staging)
                _move_up(staging, path)

    def _fill(self, staging: Path, on_progress: Callable[[int], None]) -> None:
        """Write the snapshot, and a log that begins behind it."""
        term, index = self._backup.description.term, self._identity.index
        meta = SnapshotMeta(index, term, self._membership.encode(), index)
        with closing(FileSnapshots(staging)) as snapshots:
            writer = snapshots.begin(meta)
            for chunk in split(self._content(on_progress)):
                writer.write(chunk)
            writer.finish()
            writer.commit()
        engine = self._config.storage
        storage: Storage = engine.cls(engine.options)
        storage.open(staging)
        with closing(storage):
            storage.save_hard_state(HardState(term))
            storage.compact(index, term)
            storage.sync()

    def _content(self, on_progress: Callable[[int], None]) -> Iterator[bytes]:
        """Yield what is in the backup, as that of the new index."""
        header, rest = read_header(self._backup.chunks(on_progress))
        yield from chain((encode_header(self._moved(header)),), rest)

    def _moved(self, header: Header) -> Header:
        """
        Return *header* at the new index.

        Sessions, the log's time and the version are part of the state.  The
        digests are about entries that the new log does not have.
        """
        digests = Digests()
        return msgspec.structs.replace(
            header,
            last_applied=self._identity.index,
            marked=digests.marked,
            digest=digests.digest,
            is_claimed=digests.is_claimed,
            equal=digests.equal,
        )


class _Counter:
    def __init__(self, total: int, on_progress: Callable[[int, int], None]) -> None:
        self._total = total
        self._on_progress = on_progress
        self._done = 0

    def add(self, count: int) -> None:
        self._done += count
        self._on_progress(self._done, self._total)


def _empty(path: Path) -> None:
    """Remove what a restore has left that did not come to its end."""
    for each in path.iterdir():
        # The mark that all this is a restore's goes last.
        if each.name not in {*_NOT_DATA, STAGING}:
            shutil.rmtree(each) if each.is_dir() else each.unlink()
    sync_path(path)
    if (path / STAGING).is_dir():
        shutil.rmtree(path / STAGING)


def _move_up(staging: Path, path: Path) -> None:
    """Move all from *staging* to *path*, the record that makes it count last."""
    names = {each.name for each in staging.iterdir()} - {_RECORD, "lock"}
    for name in sorted(names):
        (staging / name).rename(path / name)
    sync_path(path)
    (staging / _RECORD).rename(path / _RECORD)
    sync_path(path)
    shutil.rmtree(staging)
    sync_path(path)
