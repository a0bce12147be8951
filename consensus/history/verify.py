"""
Look whether a stopped server's disk is whole, and what is on it fits together.

It goes on after the first thing that is wrong, so that all of it is found.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from consensus.core.membership import Membership
from consensus.core.values import EntryKind, HardState
from consensus.datadir import check_peers
from consensus.describe import describe, kind_name
from consensus.errors import ConfigError, RaftError, StorageError
from consensus.history.source import CHUNK_BYTES, no_progress, opened
from consensus.snapshots.header import read_header

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from consensus.core.values import Entry, LogIndex, Term
    from consensus.history.source import History, Progress
    from consensus.settings.values import Engine
    from consensus.snapshots.format import SnapshotFile

#: More are not looked for.
MOST_PROBLEMS = 1000


@dataclass(frozen=True, slots=True)
class Problem:
    """
    Something that is wrong.

    Args:
        where: The file, or the entries.
        message: What.
    """

    where: str
    message: str


@dataclass(slots=True)
class Verdict:
    """
    What a data directory has, and what is wrong with it.

    Args:
        path: The data directory.
        engine: The storage engine that wrote it; empty if that is not known.
        first_index: The first entry of the log.
        last_index: The last one.
        term: Of the hard state.
        vote: Likewise.
        snapshots: The last entry that each whole snapshot covers.
        problems: What is wrong, at most :data:`MOST_PROBLEMS` things.
    """

    path: str
    engine: str = ""
    first_index: LogIndex = 0
    last_index: LogIndex = 0
    term: Term = 0
    vote: str | None = None
    snapshots: list[LogIndex] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def verify(
    path: Path, configured: Engine | None = None, on_progress: Progress = no_progress
) -> Verdict:
    """
    Look at all that is in the data directory *path*; see :func:`.opened`.

    Raises:
        ConfigError: A server runs there.
        InvalidChangeError: It is no data directory.
    """
    verdict = Verdict(str(path))
    add = verdict.problems.append
    with ExitStack() as stack:
        try:
            history = stack.enter_context(opened(path, configured, is_fitted=False))
        except ConfigError as error:
            if any(each.id == "datadir.E008" for each in error.findings):
                raise
            verdict.problems += [
                Problem("raft.json", e.message) for e in error.findings
            ]
            return verdict
        except StorageError as error:
            add(Problem("log", str(error)))
            return verdict
        verdict.engine = history.engine
        verdict.first_index, verdict.last_index = (
            history.first_index,
            history.last_index,
        )
        for problem in _problems(history, verdict, on_progress):
            add(problem)
            if len(verdict.problems) >= MOST_PROBLEMS:
                break
    return verdict


def _problems(
    history: History, verdict: Verdict, on_progress: Progress
) -> Iterator[Problem]:
    for finding in check_peers(history.path):
        yield Problem("peers.json", finding.message)
    yield from _snapshots(history, verdict)
    log = _Log(history)
    yield from log.problems(on_progress)
    yield from _hard_state(history, verdict, log.term)


def _hard_state(
    history: History, verdict: Verdict, last_term: Term
) -> Iterator[Problem]:
    try:
        found = history.storage.hard_state()
    except RaftError as error:
        yield Problem("hard state", str(error))
        return
    verdict.term, verdict.vote = found.term, found.vote
    if found.term < last_term:
        message = f"its term {found.term} is below that of the last entry, {last_term}"
        yield Problem("hard state", message)
    is_empty = not history.last_index and found == HardState()
    if is_empty and (history.path / "used").exists():
        yield Problem("log", "it is empty, but the storage has had something")


# --- snapshots --------------------------------------------------------------


def _snapshots(history: History, verdict: Verdict) -> Iterator[Problem]:
    for error in history.damaged:
        yield Problem("snapshot", str(error))
    for file in history.snapshots:
        try:
            _read_all(file)
        except RaftError as error:
            yield Problem(f"snapshot {file.meta.index}", str(error))
        else:
            verdict.snapshots.append(file.meta.index)
    covered = max(verdict.snapshots, default=0)
    if history.first_index > covered + 1:
        message = (
            f"the log begins at {history.first_index}, and the last whole snapshot"
            f" ends at {covered}: entries are missing in between"
        )
        yield Problem("log", message)


def _read_all(file: SnapshotFile) -> None:
    """Read all of *file*; raise what is wrong with it."""
    header, rest = read_header(file.chunks())
    for _ in rest:
        pass  # at the end the checksum of the whole was compared
    Membership.decode(file.meta.membership)
    if header.last_applied != file.meta.index:
        message = (
            f"{file.path} covers {file.meta.index}, but holds {header.last_applied}"
        )
        raise StorageError(message)


# --- the log ------------------------------------------------------------------


class _Log:
    """
    Looks at every entry of a log.

    Args:
        history: Whose.
    """

    def __init__(self, history: History) -> None:
        self._history = history
        self._memberships: list[LogIndex] = []
        #: The highest term so far.
        self.term: Term = 0

    def problems(self, on_progress: Progress) -> Iterator[Problem]:
        """Yield what is wrong; afterwards :attr:`term` is that of the last entry."""
        first, last = self._history.first_index, self._history.last_index
        try:
            self.term = self._history.storage.term(first - 1)
        except RaftError as error:
            yield Problem(f"entry {first - 1}", str(error))
        expected, bad = first, _Run()
        while expected <= last:
            try:
                chunk = self._read(expected, last, is_careful=bad.reason != "")
            except RaftError as error:
                yield from bad.add(expected, str(error))
                expected += 1
                continue
            yield from bad.end()
            for entry in chunk:
                yield from self._look_at(entry, expected)
                expected += 1
            on_progress(expected - first, last - first + 1)
        yield from bad.end()
        yield from self._look_at_memberships()

    def _read(
        self, first: LogIndex, last: LogIndex, *, is_careful: bool
    ) -> list[Entry]:
        storage = self._history.storage
        if not is_careful:
            try:
                return list(storage.entries(first, last, CHUNK_BYTES))
            except RaftError:
                pass  # what is before the damage can still be read
        return list(storage.entries(first, first, 0))

    def _look_at(self, entry: Entry, expected: LogIndex) -> Iterator[Problem]:
        where = f"entry {expected}"
        if entry.index != expected:
            yield Problem(where, f"entry {entry.index} stands in its place")
        if entry.term < self.term:
            message = f"its term is {entry.term}, after one of term {self.term}"
            yield Problem(where, message)
        self.term = max(self.term, entry.term)
        if entry.kind == EntryKind.MEMBERSHIP:
            self._memberships.append(entry.index)
        if entry.kind != EntryKind.COMMAND and not _is_readable(entry):
            yield Problem(where, f"this is no entry of kind {kind_name(entry.kind)}")

    def _look_at_memberships(self) -> Iterator[Problem]:
        noted = list(self._history.storage.membership_indexes())
        if noted != self._memberships:
            message = f"memberships stand at {self._memberships}, but {noted} are noted"
            yield Problem("log", message)


def _is_readable(entry: Entry) -> bool:
    """Say whether an entry of the framework's own can be decoded."""
    shown = describe(entry)
    # The command in a session's entry is the application's.
    return shown.decoded or shown.time is not None


class _Run:
    """Neighbours that cannot be read for the same reason: one problem."""

    def __init__(self) -> None:
        self.reason = ""
        self._first = self._last = 0

    def add(self, index: LogIndex, reason: str) -> Iterator[Problem]:
        """Add an entry; yield the problem that ends before it."""
        if reason != self.reason:
            yield from self.end()
            self.reason, self._first = reason, index
        self._last = index

    def end(self) -> Iterator[Problem]:
        """Yield the problem, if there is one."""
        if self.reason:
            where = f"entry {self._first}"
            if self._last > self._first:
                where = f"entries {self._first} to {self._last}"
            yield Problem(where, self.reason)
            self.reason = ""
