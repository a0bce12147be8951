"""
The log and the snapshots of a stopped server, read and not changed.

A storage engine changes its files when it opens them: it recovers what a crash
left.  So it opens a copy, in a directory for temporary files, and the data
directory stays as it is, byte for byte.  Snapshots are read where they are.
"""

from __future__ import annotations

import shutil
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from consensus import registry
from consensus.datadir import DataDirectory, kept_from_servers
from consensus.errors import InvalidChangeError, StorageError
from consensus.settings.values import Engine
from consensus.shell.recovery import fit
from consensus.snapshots.format import complete_files, disk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from consensus.core.values import Entry, LogIndex
    from consensus.interfaces import Storage
    from consensus.snapshots.format import SnapshotFile

    #: Called with what is done, and with how much there is.
    Progress = Callable[[int, int], None]

#: Bytes of commands that are read at once.
CHUNK_BYTES = 1 << 20

#: What no engine of ours has made, and what is read where it is.
_NOT_THE_ENGINES = frozenset(
    {"lock", "machine", "migration", "migration.probe", "peers.json", "raft.json"}
    | {"snapshots", "used"}
)


def no_progress(done: int, total: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True)
class History:
    """
    What a stopped server has of the past.

    Args:
        path: Its data directory.
        engine: The name of the storage engine.
        storage: Its log, opened from a copy.
        snapshots: Its snapshots that can be read, the oldest first.
        damaged: What is wrong with the others.
    """

    path: Path
    engine: str
    storage: Storage
    snapshots: list[SnapshotFile]
    damaged: list[StorageError] = field(default_factory=list)

    @property
    def first_index(self) -> LogIndex:
        """Return the first entry that the log has."""
        return self.storage.first_index()

    @property
    def last_index(self) -> LogIndex:
        """Return the last entry that the log has."""
        return self.storage.last_index()

    def entries(
        self,
        first: LogIndex = 0,
        last: LogIndex | None = None,
        on_progress: Progress = no_progress,
    ) -> Iterator[Entry]:
        """
        Yield the entries from *first* to *last* that the log has.

        Raises:
            StorageError: One is damaged.
        """
        for chunk in self.chunks(first, last, on_progress):
            yield from chunk

    def chunks(
        self,
        first: LogIndex = 0,
        last: LogIndex | None = None,
        on_progress: Progress = no_progress,
    ) -> Iterator[list[Entry]]:
        """Yield the same, bit by bit."""
        begin = first = max(first, self.first_index)
        last = self.last_index if last is None else min(last, self.last_index)
        while first <= last:
            chunk = list(self.storage.entries(first, last, CHUNK_BYTES))
            yield chunk
            first = chunk[-1].index + 1
            on_progress(first - begin, last - begin + 1)


@contextmanager
def opened(
    path: Path, configured: Engine | None = None, *, is_fitted: bool = True
) -> Iterator[History]:
    """
    Lend the history in the data directory *path*; no server can start meanwhile.

    Args:
        path: Of a stopped server, or of a copy of its directory.
        configured: The storage engine of a config, whose options count if it
            is the one that wrote the log.
        is_fitted: Let the log follow the latest snapshot, as a start does.

    Raises:
        ConfigError: A server runs there, or ``raft.json`` is damaged.
        InvalidChangeError: It is no data directory.
        StorageError: What is there cannot be read.
    """
    with ExitStack() as stack:
        engine = engine_of(path, configured)
        stack.enter_context(kept_from_servers(path))
        copy = stack.enter_context(_copied(path))
        storage = stack.enter_context(open_storage(engine, copy))
        snapshots, damaged = complete_files(path)
        if is_fitted and snapshots:
            # Where a gap is in between, there is nothing to be done here.
            with suppress(StorageError):
                fit(storage, snapshots[-1].meta)
        yield History(path, engine.name, storage, snapshots, damaged)


def engine_of(path: Path, configured: Engine | None = None) -> Engine:
    """
    Return the storage engine that wrote what is in *path*; see :func:`opened`.

    Raises:
        ConfigError: ``raft.json`` is damaged.
        InvalidChangeError: It is no data directory, or the engine is not
            installed.
    """
    wrote = DataDirectory.engine_of(path)
    if wrote is None:
        message = f"{path} is no data directory: it has no raft.json"
        raise InvalidChangeError(message)
    for name in wrote:
        try:
            cls = registry.resolve("storage", name)
        except registry.EngineError as error:
            failure = error
            continue
        is_configured = configured is not None and cls is configured.cls
        options: Any = configured.options if is_configured else cls.Options()  # type: ignore[union-attr] # looked at above
        return Engine(wrote[0], cls, options)
    raise InvalidChangeError(str(failure))


@contextmanager
def open_storage(engine: Engine, directory: Path) -> Iterator[Storage]:
    """
    Lend the log in *directory*, which may be changed.

    Raises:
        StorageError: It cannot be read.
    """
    for finding in engine.cls.check(engine.options, directory):
        if not finding.is_warning:
            raise StorageError(str(finding))
    storage: Storage = engine.cls(engine.options)
    storage.open(directory)
    with closing(storage):
        yield storage


@contextmanager
def _copied(path: Path) -> Iterator[Path]:
    """Lend a copy of an engine's files; see ``TMPDIR`` for where it is."""
    with TemporaryDirectory(prefix="raft-log-") as name:
        copy = Path(name)
        with disk(copy):
            for each in path.iterdir():
                if each.name in _NOT_THE_ENGINES:
                    continue
                if each.is_dir():
                    shutil.copytree(each, copy / each.name)
                else:
                    shutil.copy2(each, copy)
        yield copy
