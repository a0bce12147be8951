"""
Storage in an LMDB environment, ``raft.lmdb/``, with two named databases.

``entries``
    Index → CRC-32, term, kind, command.
``state``
    ``hard_state`` → CRC-32, term and, after a 1 if there is one, the vote.

The file ``FORMAT`` beside LMDB's own is the version of all this.  The
directory is made under another name, so that it is there whole or not at all.

Numbers are big-endian, so that keys sort as indexes do: 8 bytes for an index
or a term, 4 for a CRC-32, 1 for a kind.  :func:`_entry_crc` and
:func:`_pack_hard_state` say what a CRC-32 covers; LMDB itself checks nothing.

Whatever is written between two calls of :meth:`LMDBStorage.sync` is one
transaction.  Its commit is the sync: LMDB syncs the pages, then writes through
to the disk which of them count.  Until then the writes are kept in memory as
well, because a map that is full can only grow between transactions, and the
one that filled it has to be done again.
"""

from __future__ import annotations

import os
import shutil
import struct
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import lmdb

from consensus.core.values import Entry, HardState
from consensus.errors import CompactedError, Finding, StorageError
from consensus.interfaces import Storage

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from consensus.core.values import LogIndex, Term

_DIRECTORY = "raft.lmdb"
_DRAFT = "raft.lmdb.new"
_FORMAT = 1
_FIRST_INDEX = 1
_MIB = 1024 * 1024
_REMEDY = "check the disk, then replace this server: its copy cannot be trusted"

_FORMAT_FILE = "FORMAT"
_DATA_FILE = "data.mdb"
_ENTRIES = b"entries"
_STATE = b"state"
_HARD_STATE_KEY = b"hard_state"

# 64 TiB: a process on a common 64-bit machine can address twice as much.
_MOST_MAP_MIB = 2**26

# LMDB's first page: a header of its own, then this number in native order.
_MAGIC = struct.Struct("=16xI")
_MAGIC_NUMBER = 0xBEEFC0DE

_HEAD = struct.Struct(">IqB")
_CRC = struct.Struct(">I")
_NUMBER = struct.Struct(">q")
_key = _NUMBER.pack
_pack_head = _HEAD.pack
_pack_summed = struct.Struct(">qqB").pack


def _entry_crc(index: LogIndex, term: Term, kind: int, command: bytes) -> int:
    """Return the CRC-32 of index, term (8 bytes each), kind (1) and command."""
    return crc32(command, crc32(_pack_summed(index, term, kind)))


def _pack_hard_state(hard_state: HardState) -> bytes:
    """Return the value of ``hard_state``: the CRC-32 of the rest, and the rest."""
    voted = b"" if hard_state.vote is None else b"\x01" + hard_state.vote.encode()
    body = _NUMBER.pack(hard_state.term) + voted
    return _CRC.pack(crc32(body)) + body


def _unpack_hard_state(value: bytes) -> HardState:
    """
    Return what :func:`_pack_hard_state` packed.

    Raises:
        ValueError: *value* is not what it was.
    """
    body = value[_CRC.size :]
    if len(body) < _NUMBER.size or value[: _CRC.size] != _CRC.pack(crc32(body)):
        raise ValueError("the CRC-32 is another")
    (term,) = _NUMBER.unpack_from(body)
    voted = body[_NUMBER.size :]
    return HardState(term, voted[1:].decode() if voted else None)


@dataclass(frozen=True, slots=True)
class LMDBOptions:
    """
    What the YAML file may set under ``storage.options``.

    Args:
        map_mib: How large the map is at first.  It takes addresses, neither
            memory nor disk, and doubles whenever the log has filled it.
    """

    map_mib: int = 1024


class LMDBStorage(Storage):
    """A log in an LMDB environment; see the module for its format."""

    Options = LMDBOptions

    def __init__(self, options: Any = None) -> None:
        """Keep *options*; the environment is opened by :meth:`open`."""
        super().__init__(options)
        self._environment: lmdb.Environment | None = None
        self._transaction: lmdb.Transaction | None = None
        self._unsynced: list[Callable[[lmdb.Transaction], None]] = []
        self._path = Path(_DIRECTORY)
        self._last = 0

    @classmethod
    def check(cls, options: LMDBOptions, directory: Path) -> Iterable[Finding]:
        """Look at the options and at which files are there."""
        if not 1 <= options.map_mib <= _MOST_MAP_MIB:
            yield Finding(
                "storage.E105",
                f"map_mib is {options.map_mib}",
                f"write 1 or more, up to {_MOST_MAP_MIB}",
                "storage.options.map_mib",
            )
        yield from _look_at_files(directory / _DIRECTORY)

    def open(self, directory: Path) -> None:
        """Open the environment, or make it, and sync what is found."""
        self._path = directory / _DIRECTORY
        for finding in _look_at_files(self._path):
            raise StorageError(str(finding))
        with _driver_errors(self._path, "open"):
            if not self._path.exists():
                _make_environment(self._path)
            _sync(directory)
            self._environment = _open(self._path, self.options.map_mib * _MIB)
        try:
            with self._using("open") as environment:
                self._prepare(environment)
            # What a vote or an election needs first has to be there.
            self.hard_state()
            self.term(self._last)
        except BaseException:
            self.close()
            raise

    def hard_state(self) -> HardState:
        """Return what stands under ``hard_state``."""
        with self._reading("read the term and vote") as transaction:
            value = transaction.get(_HARD_STATE_KEY, db=self._state)
        if value is None:
            return HardState()
        try:
            return _unpack_hard_state(bytes(value))
        except ValueError as error:
            message = f"{self._path}: the term and vote are damaged; {_REMEDY}"
            raise StorageError(message) from error

    def save_hard_state(self, hard_state: HardState) -> None:
        """Replace what stands under ``hard_state``."""

        def put(transaction: lmdb.Transaction) -> None:
            value = _pack_hard_state(hard_state)
            transaction.put(_HARD_STATE_KEY, value, db=self._state)

        self._write("save the term and vote", put)

    def append(self, entries: Sequence[Entry]) -> None:
        """Put *entries* after deleting what they replace."""
        with _driver_errors(self._path, "append"):
            items = _items(entries, self._last)
        replaced = range(entries[0].index, self._last + 1)

        def put(transaction: lmdb.Transaction) -> None:
            for index in replaced:
                transaction.delete(_key(index), db=self._entries)
            # At the end of the database, where LMDB fills each page.
            _, added = transaction.cursor(self._entries).putmulti(items, append=True)
            # LMDB leaves out, and says nothing, what is not behind the last key.
            if added < len(items):
                raise lmdb.KeyExistsError("there are keys behind the last entry")

        self._write("append", put)
        self._last = entries[-1].index

    def entries(
        self, first: LogIndex, last: LogIndex, max_bytes: int
    ) -> Sequence[Entry]:
        """Read values until *max_bytes* are full, checking each."""
        if first < _FIRST_INDEX:
            raise CompactedError(_FIRST_INDEX)
        if last > self._last:
            message = f"entry {last} is beyond the last, {self._last}"
            raise StorageError(message)
        with self._reading(f"read entries {first} to {last}") as transaction:
            cursor = transaction.cursor(self._entries)
            return self._intact(cursor, range(first, last + 1), max_bytes)

    def term(self, index: LogIndex) -> Term:
        """Read the entry at *index*, so that it is checked as well."""
        if index == 0:
            return 0
        return self.entries(index, index, 0)[0].term

    def first_index(self) -> LogIndex:
        """Return 1: nothing is ever compacted."""
        return _FIRST_INDEX

    def last_index(self) -> LogIndex:
        """Return the highest index, which is kept in memory."""
        return self._last

    def sync(self) -> None:
        """Commit; close the environment for good if that fails."""
        with self._using("sync") as environment:
            if not self._unsynced:
                return
            try:
                self._do(environment, lambda transaction: transaction.commit())
            except BaseException:
                # A second try might succeed without the pages that are lost.
                self.close()
                raise
            self._transaction = None
            self._unsynced.clear()

    def close(self) -> None:
        """Close the environment, which undoes what is not committed."""
        self._abort()
        self._unsynced.clear()
        environment, self._environment = self._environment, None
        if environment is not None:
            environment.close()

    @contextmanager
    def _using(self, doing: str) -> Iterator[lmdb.Environment]:
        if self._environment is None:
            message = f"{self._path}: cannot {doing}: it is not open"
            raise StorageError(message)
        with _driver_errors(self._path, doing):
            yield self._environment

    @contextmanager
    def _reading(self, doing: str) -> Iterator[lmdb.Transaction]:
        """Lend the transaction that sees what was written, synced or not."""
        with self._using(doing) as environment:
            if self._unsynced:
                # After a write that failed, it has to be made once more.
                self._do(environment, lambda _: None)
                yield self._begun(environment)
            else:
                with environment.begin() as transaction:
                    yield transaction

    def _write(self, doing: str, step: Callable[[lmdb.Transaction], None]) -> None:
        """Do *step* after what is not synced, all of it or nothing."""
        with self._using(doing) as environment:
            self._do(environment, step)
            self._unsynced.append(step)

    def _do(
        self, environment: lmdb.Environment, step: Callable[[lmdb.Transaction], None]
    ) -> None:
        """
        Do *step* in the open transaction; let the map grow until it fits.

        If it fails, the next transaction repeats what there was before it.
        """
        while True:
            try:
                step(self._begun(environment))
            except lmdb.MapFullError:
                self._abort()
                self._enlarge(environment)
            except BaseException:
                self._abort()
                raise
            else:
                return

    def _begun(self, environment: lmdb.Environment) -> lmdb.Transaction:
        """Return the open transaction; a new one repeats what is not synced."""
        if self._transaction is None:
            self._transaction = environment.begin(write=True)
            for step in self._unsynced:
                step(self._transaction)
        return self._transaction

    def _abort(self) -> None:
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            # A commit that failed has ended it already.
            with suppress(lmdb.Error):
                transaction.abort()

    def _enlarge(self, environment: lmdb.Environment) -> None:
        size = environment.info()["map_size"]
        if size >= _MOST_MAP_MIB * _MIB:
            message = f"{self._path}: the map of {size} bytes cannot grow"
            raise StorageError(message)
        try:
            environment.set_mapsize(2 * size)
        except BaseException:
            # LMDB may have given up the old map, so nothing can be read.
            self.close()
            raise

    def _prepare(self, environment: lmdb.Environment) -> None:
        _lengthen(self._path / _DATA_FILE, environment)
        # Killed in the middle of a commit, the last process left pages that
        # are found whole, but that a power cut could still take away.
        environment.sync(True)  # noqa: FBT003 - no keyword in py-lmdb 2
        # A program that looked into the log and was killed keeps its pages.
        environment.reader_check()
        self._entries = environment.open_db(_ENTRIES, create=False)
        self._state = environment.open_db(_STATE, create=False)
        self._last = self._find_last(environment)

    def _find_last(self, environment: lmdb.Environment) -> LogIndex:
        with environment.begin(self._entries) as transaction:
            count: int = transaction.stat(self._entries)["entries"]
            cursor = transaction.cursor()
            last: int = _NUMBER.unpack(cursor.key())[0] if cursor.last() else 0
        if last != count:
            message = f"{self._path}: {count} of {last} entries are there; {_REMEDY}"
            raise StorageError(message)
        return last

    def _intact(
        self, cursor: lmdb.Cursor, indexes: Iterable[LogIndex], max_bytes: int
    ) -> list[Entry]:
        found: list[Entry] = []
        size = 0
        for index in indexes:
            # Not next(): where a page is damaged, that kills the process.
            if not cursor.set_key(_key(index)):
                raise StorageError(self._damage(index, "missing"))
            value = bytes(cursor.value())
            command = value[_HEAD.size :]
            size += len(command)
            try:
                crc, term, kind = _HEAD.unpack_from(value)
                intact = crc == _entry_crc(index, term, kind, command)
            except struct.error:
                intact = False
            if not intact:
                raise StorageError(self._damage(index, "damaged"))
            if found and size > max_bytes:
                return found
            found.append(Entry(index, term, kind, command))
        return found

    def _damage(self, index: LogIndex, what: str) -> str:
        return f"{self._path}: entry {index} is {what}; {_REMEDY}"


@contextmanager
def _driver_errors(path: Path, doing: str) -> Iterator[None]:
    """Turn what LMDB, the system and a number too large raise into ours."""
    try:
        yield
    except (lmdb.Error, OSError, OverflowError, struct.error) as error:
        message = f"{path}: cannot {doing}: {error}"
        raise StorageError(message) from error


def _open(path: Path, map_bytes: int) -> lmdb.Environment:
    return lmdb.open(
        str(path),
        map_size=map_bytes,
        max_dbs=2,  # entries and state
        # Together they make a commit durable when it returns: the pages are
        # synced before the meta page, and that one is written through.
        sync=True,
        metasync=True,
        # Whoever looks into the log meanwhile finds the pages left alone.
        lock=True,
        # A log is read from one end to the other.
        readahead=True,
        # So a full disk is an error of the commit, and no signal that kills.
        writemap=False,
    )


def _make_environment(path: Path) -> None:
    """Make *path*, durably, with two empty databases and its ``FORMAT``."""
    draft = path.with_name(_DRAFT)
    if draft.exists():
        shutil.rmtree(draft)
    draft.mkdir()
    with (
        closing(_open(draft, _MIB)) as environment,
        environment.begin(write=True) as transaction,
    ):
        environment.open_db(_ENTRIES, txn=transaction)
        environment.open_db(_STATE, txn=transaction)
    (draft / _FORMAT_FILE).write_text(f"{_FORMAT}\n")
    _sync(draft / _FORMAT_FILE)
    _sync(draft)
    draft.rename(path)


def _lengthen(file: Path, environment: lmdb.Environment) -> None:
    """
    Put zeros where *file* ends too early.

    LMDB leaves out pages at the end that nobody uses.  Others may be missing
    if the disk lost them, and to read those would kill the process; zeros
    instead are noticed.
    """
    size = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    if file.stat().st_size < size:
        os.truncate(file, size)


def _items(entries: Sequence[Entry], last: LogIndex) -> list[tuple[bytes, bytes]]:
    """Return *entries* as items, or refuse them as no continuation of *last*."""
    if not entries:
        raise StorageError("nothing to append")
    expected = entries[0].index
    if not _FIRST_INDEX <= expected <= last + 1:
        message = f"entry {expected} does not follow {last}"
        raise StorageError(message)
    items = []
    for entry in entries:
        index, term, kind, command = entry.index, entry.term, entry.kind, entry.command
        if index != expected:
            message = f"entry {index} stands in the place of {expected}"
            raise StorageError(message)
        crc = _entry_crc(index, term, kind, command)
        items.append((_key(index), _pack_head(crc, term, kind) + command))
        expected += 1
    return items


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _look_at_files(path: Path) -> Iterator[Finding]:
    """
    Yield what forbids to open *path*, changing nothing.

    LMDB is not asked: it would make files, and take an empty one for new.
    """
    try:
        names = {file.name for file in path.iterdir()}
        version = _content(path / _FORMAT_FILE, names).strip().decode()
        header = _content(path / _DATA_FILE, names)
    except FileNotFoundError:
        return
    except (OSError, UnicodeError) as error:
        yield _refusal("storage.E101", f"{path} cannot be read: {error}", _REMEDY)
        return
    if _FORMAT_FILE not in names:
        yield _refusal(
            "storage.E102",
            f"{path} has no {_FORMAT_FILE}: it belongs to another program",
            "give the server a data directory of its own",
        )
    elif version != str(_FORMAT):
        yield _refusal(
            "storage.E103",
            f"{path} has format {version or '?'}; this release reads {_FORMAT}",
            "run the release that wrote it",
        )
    elif _DATA_FILE not in names:
        message = f"{path}/{_DATA_FILE} is gone, but {_FORMAT_FILE} is still there"
        yield _refusal("storage.E104", message, _REMEDY)
    elif len(header) < _MAGIC.size or _MAGIC.unpack(header) != (_MAGIC_NUMBER,):
        message = f"{path}/{_DATA_FILE} is not an LMDB database"
        yield _refusal("storage.E101", message, _REMEDY)


def _content(file: Path, names: Collection[str]) -> bytes:
    """Return how *file* begins, or nothing if it is not among *names*."""
    if file.name not in names:
        return b""
    with file.open("rb") as opened:
        return opened.read(_MAGIC.size)


def _refusal(identifier: str, message: str, hint: str) -> Finding:
    return Finding(identifier, message, hint, "data_dir")
