"""
A stopped server's log, moved from one storage engine to another.

The new engine writes into ``migration/`` in the server's directory, and all of
it is read back and compared.  Then its files move beside the old ones, and
``raft.json`` is replaced, which is the one moment that counts: whatever ends
the process before it leaves the old engine in charge, with all that it had.
After it, the old engine's files are removed.

Which files are an engine's is found out by a look at what it makes in an empty
directory.
"""

from __future__ import annotations

import shutil
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from consensus import registry
from consensus.config import Engine
from consensus.datadir import DataDirectory
from consensus.durable import sync_path, sync_tree
from consensus.errors import InvalidChangeError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from consensus.config import Config
    from consensus.core.values import Entry, LogIndex, ServerId
    from consensus.interfaces import Storage

_STAGING = "migration"
_PROBE = "migration.probe"

#: Bytes of commands that are copied, and synced, at once.
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Migration:
    """
    What is to be done with one server's directory.

    Args:
        server: Whose it is.
        cluster: The name of its cluster.
        path: Where it is.
        source: The engine that wrote it.
        target: The engine that is to take over.
    """

    server: ServerId
    cluster: str
    path: Path
    source: Engine
    target: Engine


@dataclass(frozen=True, slots=True)
class Migrated:
    """
    What has been done.

    Args:
        server: Whose log it was.
        source: The name of the old engine.
        target: The name of the new engine.
        first_index: The first entry.
        last_index: The last one.
    """

    server: ServerId
    source: str
    target: str
    first_index: LogIndex
    last_index: LogIndex


def plan(config: Config, server: ServerId, to: str) -> Migration:
    """
    Return what it takes to move *server* to the engine *to*; change nothing.

    An engine that is the config's has its options from there, another one the
    defaults.

    Raises:
        ConfigError: The directory's ``raft.json`` is damaged.
        InvalidChangeError: There is nothing to move, or nowhere to.
    """
    path = config.directory(server)
    wrote = DataDirectory.engine_of(path)
    if wrote is None:
        message = f"{path} has no raft.json: there is nothing to move"
        raise InvalidChangeError(message)
    source = _engine(config, *wrote)
    target = _engine(config, to)
    if source.cls is target.cls:
        message = f"{path} is in the hands of {source.name!r} already"
        raise InvalidChangeError(message)
    if not target.cls.durable:
        message = f"the storage engine {to!r} forgets everything"
        raise InvalidChangeError(message)
    return Migration(server, config.cluster, path, source, target)


def _engine(config: Config, *names: str) -> Engine:
    """Return the engine that the first good one of *names* stands for."""
    for name in names:
        try:
            cls = registry.resolve("storage", name)
        except registry.EngineError as error:
            failure = error
            continue
        is_configured = cls is config.storage.cls
        options = config.storage.options if is_configured else cls.Options()
        return Engine(names[0], cls, options)
    raise InvalidChangeError(str(failure))


def run(migration: Migration, on_progress: Callable[[int, int], None]) -> Migrated:
    """
    Do *migration*; call *on_progress* with what is done and how much there is.

    Blocking; the directory is locked meanwhile.

    Raises:
        ConfigError: A running server uses the directory, or it is another's.
        InvalidChangeError: The engines would write to the same files.
        StorageError: What is there cannot be read, or not be written; the old
            engine is in charge, as before.
    """
    path = migration.path
    directory = DataDirectory.open(
        path, migration.cluster, migration.server, migration.source
    )
    with closing(directory), _system_errors(path):
        try:
            old, new = _files(path, migration.source), _files(path, migration.target)
            if old & new:
                message = f"both engines write to {', '.join(sorted(old & new))}"
                raise InvalidChangeError(message)
            migrated = _copy(migration, on_progress)
            _take_places(path)
            directory.change_engine(migration.target)
            for name in old:
                _remove(path / name)
        finally:
            _remove(path / _STAGING)
            _remove(path / _PROBE)
    return migrated


@contextmanager
def _system_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = f"cannot move the log in {path}: {error}"
        raise StorageError(message) from error


def _files(path: Path, engine: Engine) -> set[str]:
    """Return the names of the files that *engine* makes."""
    probe = path / _PROBE
    _remove(probe)
    probe.mkdir()
    with _opened(engine, probe) as storage:
        storage.sync()
        names = {each.name for each in probe.iterdir()}
    names |= {each.name for each in probe.iterdir()}
    _remove(probe)
    return names


@contextmanager
def _opened(engine: Engine, directory: Path) -> Iterator[Storage]:
    for finding in engine.cls.check(engine.options, directory):
        if not finding.is_warning:
            raise StorageError(str(finding))
    storage: Storage = engine.cls(engine.options)
    storage.open(directory)
    with closing(storage):
        yield storage


def _copy(migration: Migration, on_progress: Callable[[int, int], None]) -> Migrated:
    """Write all to the staging directory, and compare it with what was read."""
    staging = migration.path / _STAGING
    _remove(staging)
    staging.mkdir()
    with _opened(migration.source, migration.path) as source:
        first, last = source.first_index(), source.last_index()
        counter = _Counter(2 * (last - first + 1), on_progress)
        with _opened(migration.target, staging) as target:
            _write(source, target, counter)
        with _opened(migration.target, staging) as target:
            _compare(source, target, counter)
    sync_tree(staging)
    names = (migration.source.name, migration.target.name)
    return Migrated(migration.server, *names, first, last)


class _Counter:
    def __init__(self, total: int, on_progress: Callable[[int, int], None]) -> None:
        self._total = total
        self._on_progress = on_progress
        self._done = 0
        on_progress(0, total)

    def add(self, count: int) -> None:
        self._done += count
        self._on_progress(self._done, self._total)


def _write(source: Storage, target: Storage, counter: _Counter) -> None:
    base = source.first_index() - 1
    target.save_hard_state(source.hard_state())
    target.compact(base, source.term(base))
    target.sync()
    for entries in _chunks(source):
        target.append(entries)
        target.sync()
        counter.add(len(entries))


def _compare(source: Storage, target: Storage, counter: _Counter) -> None:
    if _summary(source) != _summary(target):
        raise StorageError("what was written is not what was read; nothing is changed")
    for entries in _chunks(source):
        for chunk in _chunks(target, entries[0].index, entries[-1].index):
            start = chunk[0].index - entries[0].index
            if entries[start : start + len(chunk)] != chunk:
                message = (
                    f"entries {chunk[0].index} to {chunk[-1].index} were not written"
                    " as they were read; nothing is changed"
                )
                raise StorageError(message)
        counter.add(len(entries))


def _summary(storage: Storage) -> tuple[Any, ...]:
    first, last = storage.first_index(), storage.last_index()
    memberships = tuple(storage.membership_indexes())
    return storage.hard_state(), first, last, storage.term(first - 1), memberships


def _chunks(
    storage: Storage, first: LogIndex = 0, last: LogIndex = 0
) -> Iterator[list[Entry]]:
    """Yield the entries from *first* to *last*, or all, bit by bit."""
    first = first or storage.first_index()
    last = last or storage.last_index()
    while first <= last:
        chunk = list(storage.entries(first, last, _CHUNK_BYTES))
        yield chunk
        first = chunk[-1].index + 1


def _take_places(path: Path) -> None:
    """Put what is staged beside the old engine's files, durably."""
    for each in (path / _STAGING).iterdir():
        # Left by a migration that was killed, or older than the old engine.
        _remove(path / each.name)
        each.rename(path / each.name)
    sync_path(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        with suppress(FileNotFoundError):
            path.unlink()
