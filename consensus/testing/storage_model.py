"""
A storage and a list in memory, compared under random calls.

Hypothesis draws the calls, closes and crashes; what the list does is right.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import strategies
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from consensus.core.values import Entry, EntryKind, HardState
from consensus.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from consensus.core.values import LogIndex, Term
    from consensus.interfaces import Storage

_PLENTY = 1 << 30
_NAMES = strategies.text(
    strategies.characters(codec="utf-8", exclude_characters="\x00"), max_size=20
)


class Kept(NamedTuple):
    """All that a storage has to keep, as plain values."""

    hard_state: HardState
    entries: tuple[Entry, ...]
    #: Index and term of the last dropped entry.
    base: tuple[LogIndex, Term] = (0, 0)

    @property
    def last_index(self) -> LogIndex:
        """Return the index of the last entry, be it dropped."""
        return self.base[0] + len(self.entries)

    def appended(self, entries: Sequence[Entry]) -> Kept:
        """Return what there is after an append of *entries*."""
        stay = entries[0].index - self.base[0] - 1
        return self._replace(entries=(*self.entries[:stay], *entries))

    def compacted(self, index: LogIndex, term: Term) -> Kept:
        """Return what there is after a compaction."""
        if index <= self.base[0]:
            return self
        covered = [entry for entry in self.entries if entry.index == index]
        stay = (
            index - self.base[0]
            if [each.term for each in covered] == [term]
            else (len(self.entries))
        )
        return self._replace(entries=self.entries[stay:], base=(index, term))

    def memberships(self) -> list[LogIndex]:
        """Return the indexes of the entries that are memberships."""
        return [
            entry.index for entry in self.entries if entry.kind == EntryKind.MEMBERSHIP
        ]


def kept(storage: Storage) -> Kept:
    """Read all that *storage* keeps."""
    first, last = storage.first_index(), storage.last_index()
    entries = storage.entries(first, last, _PLENTY) if first <= last else ()
    base = (first - 1, storage.term(first - 1))
    return Kept(storage.hard_state(), tuple(entries), base)


def errors_of(storage: Storage, directory: Path) -> list[str]:
    """Return what forbids *storage* to open in *directory*."""
    findings = storage.check(storage.options, directory)
    return [str(finding) for finding in findings if not finding.is_warning]


class Comparison(RuleBasedStateMachine):
    """
    A storage beside a list; every step does the same to both.

    ``_possible`` is what a crash may leave, the oldest first: what was synced,
    then a state for each write since.  The last is what reads see.
    """

    def __init__(
        self,
        make: Callable[[Path], Storage],
        crash: Callable[[Path, Path], None],
        parent: Path,
    ) -> None:
        super().__init__()
        self._make = make
        self._crash = crash
        self._parent = Path(tempfile.mkdtemp(dir=parent))
        self._number = 0
        self._possible = [Kept(HardState(), ())]
        self._open(self._place())

    def teardown(self) -> None:
        """Remove what the example wrote."""
        self._storage.close()
        shutil.rmtree(self._parent)

    @property
    def _now(self) -> Kept:
        return self._possible[-1]

    @property
    def _is_durable(self) -> bool:
        return self._storage.durable

    def _place(self) -> Path:
        self._number += 1
        return self._parent / str(self._number)

    def _open(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        self._directory = directory
        self._storage = self._make(directory)
        assert not errors_of(self._storage, directory)
        self._storage.open(directory)

    def _recover(self, directory: Path) -> None:
        self._open(directory)
        found = kept(self._storage)
        assert found in self._possible
        self._possible = [found]

    def _new_entries(
        self, first: LogIndex, commands: Sequence[bytes], *, newer: bool
    ) -> list[Entry]:
        """Return entries of the log's last term, or of the next if *newer*."""
        terms = [entry.term for entry in self._now.entries]
        term = max(terms, default=max(self._now.base[1], 1)) + newer
        return [
            Entry(index, term, _kind(command), command)
            for index, command in enumerate(commands, first)
        ]

    def _first_of_append(self, back: int) -> LogIndex:
        return max(self._now.last_index + 1 - back, self._now.base[0] + 1)

    @rule(
        back=strategies.integers(0, 5),
        commands=strategies.lists(
            strategies.binary(max_size=40), min_size=1, max_size=8
        ),
        newer=strategies.booleans(),
    )
    def append(self, back: int, commands: Sequence[bytes], *, newer: bool) -> None:
        """Append, over the last *back* entries if there are as many."""
        added = self._new_entries(self._first_of_append(back), commands, newer=newer)
        self._storage.append(added)
        self._possible.append(self._now.appended(added))

    @rule(
        back=strategies.integers(-3, 3),
        commands=strategies.lists(
            strategies.binary(max_size=9), min_size=2, max_size=5
        ),
    )
    def append_a_hole(self, back: int, commands: Sequence[bytes]) -> None:
        """Try to append what is not consecutive, or does not follow the log."""
        first = self._first_of_append(back)
        broken = self._new_entries(first, commands, newer=True)
        broken[-1].index += 1
        with pytest.raises(StorageError):
            self._storage.append(broken)

    @rule(below=strategies.integers(0, 3))
    def append_to_what_is_dropped(self, below: int) -> None:
        """Try to append from the last dropped entry on, or from before it."""
        first = self._now.base[0] - below
        with pytest.raises(StorageError):
            self._storage.append(self._new_entries(first, [b"", b""], newer=True))

    @rule(ahead=strategies.integers(-2, 6), other_term=strategies.booleans())
    def compact(self, ahead: int, *, other_term: bool) -> None:
        """Compact from below the first entry to beyond the last, in any term."""
        index = self._now.base[0] + ahead
        terms = {entry.index: entry.term for entry in self._now.entries}
        last = max(terms.values(), default=max(self._now.base[1], 1))
        term = terms.get(index, last) + other_term
        self._storage.compact(index, term)
        self._possible.append(self._now.compacted(index, term))

    @rule(
        term=strategies.integers(0, 2**40),
        vote=strategies.none() | _NAMES,
    )
    def save_hard_state(self, term: Term, vote: str | None) -> None:
        """Save a hard state."""
        self._storage.save_hard_state(HardState(term, vote))
        self._possible.append(self._now._replace(hard_state=HardState(term, vote)))

    @rule()
    def sync(self) -> None:
        """Sync: from now on, a crash loses nothing of what was written."""
        self._storage.sync()
        self._possible = [self._now]

    @precondition(lambda self: self._is_durable)
    @rule()
    def close_and_open(self) -> None:
        """Close; what is found again may lack the end of what was not synced."""
        self._storage.close()
        self._recover(self._directory)

    @precondition(lambda self: self._is_durable)
    @rule()
    def crash_and_open(self) -> None:
        """Crash; the same holds as for a close."""
        copy = self._place()
        self._crash(self._directory, copy)
        self._storage.close()
        self._recover(copy)

    @precondition(lambda self: self._now.entries)
    @rule(choice=strategies.data(), max_bytes=strategies.integers(0, 200))
    def read(self, choice: strategies.DataObject, max_bytes: int) -> None:
        """Read a part of the log, of limited size."""
        entries = self._now.entries
        begin = self._now.base[0] + 1
        first = choice.draw(strategies.integers(begin, self._now.last_index))
        last = choice.draw(strategies.integers(first, self._now.last_index))
        # Half of what there is, besides what was drawn: a limit that bites.
        wanted = entries[first - begin : last - begin + 1]
        half = sum(len(entry.command) for entry in wanted) // 2
        for limit in (max_bytes, half):
            expected = [wanted[0]]
            size = len(wanted[0].command)
            for entry in wanted[1:]:
                size += len(entry.command)
                if size > limit:
                    break
                expected.append(entry)
            assert list(self._storage.entries(first, last, limit)) == expected

    @invariant()
    def it_reads_as_the_list(self) -> None:
        """After every step all of the log, the term and the vote are the list's."""
        now = self._now
        assert kept(self._storage) == now
        assert self._storage.first_index() == now.base[0] + 1
        assert self._storage.last_index() == now.last_index
        assert list(self._storage.membership_indexes()) == now.memberships()
        for entry in now.entries[-1:]:
            assert self._storage.term(entry.index) == entry.term


def _kind(command: bytes) -> EntryKind:
    """Make about every third entry a membership."""
    is_membership = sum(command) % 3 == 1
    return EntryKind.MEMBERSHIP if is_membership else EntryKind.COMMAND
