"""
Two versions of a state machine, given the same log, and where they differ first.

Each runs in a process of its own.  What every entry comes to is compared, and
the state every so many entries; where two states differ, the entries since the
last comparison are done again, one by one.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING

import msgspec

from consensus.errors import InvalidChangeError, StorageError
from consensus.history.replaying import Step, Task
from consensus.history.rows import Difference, differences
from consensus.history.source import no_progress

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from consensus.core.values import LogIndex
    from consensus.history.source import Progress

_MODULE = "consensus.history.replaying"


@dataclass(frozen=True, slots=True)
class Version:
    """
    One of the two.

    Args:
        machine: A registered name, or a dotted path.
        site: Where its modules are looked for first; empty for nowhere else.
    """

    machine: str
    site: str = ""

    @classmethod
    def parse(cls, text: str) -> Version:
        """Return what ``[DIRECTORY:]machine`` names."""
        site, _, machine = text.rpartition(":")
        return cls(machine, site)


@dataclass(frozen=True, slots=True)
class Divergence:
    """
    Where two versions differ first.

    Args:
        index: The entry.
        what: ``result``, ``state`` or ``error``.
        old: The result, or why it goes no further.
        new: Likewise.
        rows: In which rows the states differ after that entry.
    """

    index: LogIndex
    what: str
    old: str = ""
    new: str = ""
    rows: list[Difference] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Comparison:
    """
    What came of it.

    Args:
        entries: How many were compared.
        divergence: Where they differ; ``None`` if nowhere.
    """

    entries: int
    divergence: Divergence | None


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """
    An upgrade, tried on a recorded log.

    Args:
        old: The version that the log was written by.
        new: The one that shall read it.
        directory: The data directory of a stopped server.
        every: Compare states after so many entries.
    """

    old: Version
    new: Version
    directory: Path
    every: int = 1000

    def compare(self, on_progress: Progress = no_progress) -> Comparison:
        """
        Return where they differ first.

        Raises:
            StorageError: A process ended without a word.
            InvalidChangeError: One of the versions is no state machine.
        """
        count, found, same = 0, None, 0
        for old, new in self._pairs(every=self.every):
            found = _divergence(old, new)
            if found is not None:
                break
            if old is not None and old.state_sum:
                same = old.index
                on_progress(same, 0)
            else:
                count += 1
        if found is not None and found.what == "state":
            found = self._nearest(same + 1, found)
        if found is not None and found.what != "error":
            found = self._with_rows(found)
        return Comparison(count, found)

    def _nearest(self, first: LogIndex, found: Divergence) -> Divergence:
        """Return the first entry from *first* on after which states differ."""
        for old, new in self._pairs(first=first, last=found.index, every=1):
            nearer = _divergence(old, new)
            if nearer is not None:
                return nearer
        return found

    def _with_rows(self, found: Divergence) -> Divergence:
        """Return *found* with the rows that differ after its entry."""
        index, rows = found.index, []
        for old, new in self._pairs(first=index, last=index, rows=True):
            if old is not None and new is not None and old.rows is not None:
                rows = list(differences(old.rows, new.rows or {}))
        return Divergence(index, found.what, found.old, found.new, rows)

    def _pairs(
        self,
        *,
        first: LogIndex = 0,
        last: LogIndex = 0,
        every: int = 1,
        rows: bool = False,
    ) -> Iterator[tuple[Step | None, Step | None]]:
        """Yield what both tell of the entries from *first* to *last*."""

        def task(version: Version) -> Task:
            directory = str(self.directory)
            machine, site = version.machine, version.site
            return Task(directory, machine, site, first, last, every, rows)

        with _told(task(self.old)) as old, _told(task(self.new)) as new:
            yield from zip_longest(old, new)


def _divergence(old: Step | None, new: Step | None) -> Divergence | None:
    """Return how two steps differ; ``None`` if they do not."""
    if old is None or new is None or old.error or new.error:
        index = max(each.index for each in (old, new) if each is not None)
        return Divergence(index, "error", _end(old), _end(new))
    if old.state_sum != new.state_sum:
        return Divergence(old.index, "state")
    if old.result_sum != new.result_sum:
        return Divergence(old.index, "result", old.result, new.result)
    return None


def _end(step: Step | None) -> str:
    return "it ends" if step is None else step.error


@contextmanager
def _told(task: Task) -> Iterator[Iterator[Step]]:
    """Lend what a process tells that does *task*."""
    # -P: what the current directory has is none of the versions' modules.
    command = [sys.executable, "-P", "-m", _MODULE, msgspec.json.encode(task).decode()]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)  # noqa: S603 - ourselves
    try:
        yield _steps(process)
    finally:
        process.kill()
        process.communicate()


def _steps(process: subprocess.Popen[bytes]) -> Iterator[Step]:
    decode = msgspec.json.Decoder(Step).decode
    for line in process.stdout or ():
        step = decode(line)
        if step.missing:
            raise InvalidChangeError(step.missing)
        yield step
    if process.wait():
        message = (
            f"a version of the machine ended with exit status {process.returncode}"
        )
        raise StorageError(message)
