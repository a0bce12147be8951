"""What a log is made of: counted by kind, by command and by term."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from consensus.describe import describe

if TYPE_CHECKING:
    from consensus.core.values import Entry, LogIndex, Term
    from consensus.interfaces import StateMachine

#: Of so many names the entries are counted apart; of the others, together.
MOST_NAMES = 1000

OTHERS = "(others)"


@dataclass(slots=True)
class Count:
    """
    How many entries there are of a sort.

    Args:
        entries: So many.
        size: The bytes of their commands.
    """

    entries: int = 0
    size: int = 0

    def add(self, size: int) -> None:
        """Count one more, of so many bytes."""
        self.entries += 1
        self.size += size


@dataclass(slots=True)
class Stats:
    """
    What there is in a part of a log.

    Args:
        first_index: The first entry; 0 if there is none.
        last_index: The last one.
        total: All of them.
        kinds: By kind.
        commands: Those of the application, also in sessions, by name.
        undecodable: Entries that cannot be decoded.
        largest: The entry with the longest command, and its bytes.
        terms: How many there are of each term.
        times: The first and the last time that an entry says, in ms; ``None``
            where none does.
        timed: The entries behind the first that says a time, up to the last.
    """

    first_index: LogIndex = 0
    last_index: LogIndex = 0
    total: Count = field(default_factory=Count)
    kinds: dict[str, Count] = field(default_factory=dict)
    commands: dict[str, Count] = field(default_factory=dict)
    undecodable: int = 0
    largest: tuple[LogIndex, int] = (0, 0)
    terms: Counter[Term] = field(default_factory=Counter)
    times: tuple[int, int] | None = None
    timed: int = 0
    _since: int = 0

    @property
    def rate(self) -> float | None:
        """Return entries a second of the log's time, where that is known."""
        if self.times is None or self.times[1] <= self.times[0]:
            return None
        return self.timed * 1000 / (self.times[1] - self.times[0])

    def add(self, entry: Entry, machine: StateMachine | None) -> None:
        """Count *entry*, whose command *machine* knows."""
        shown = describe(entry, machine)
        self.first_index = self.first_index or entry.index
        self.last_index = entry.index
        self.total.add(shown.size)
        self.kinds.setdefault(shown.kind, Count()).add(shown.size)
        if shown.name:
            is_one_more = shown.name not in self.commands
            is_full = is_one_more and len(self.commands) >= MOST_NAMES
            name = OTHERS if is_full else shown.name
            self.commands.setdefault(name, Count()).add(shown.size)
        self.undecodable += not shown.decoded
        if shown.size > self.largest[1]:
            self.largest = (entry.index, shown.size)
        self.terms[entry.term] += 1
        self._pass_time(shown.time)

    def _pass_time(self, time: int | None) -> None:
        self._since += 1
        if time is not None:
            if self.times is None:
                self.times = (time, time)
            else:
                self.times = (self.times[0], max(self.times[1], time))
                self.timed += self._since
            self._since = 0
