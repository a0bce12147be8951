"""When entries came how far, as a server remembers it."""

from __future__ import annotations

from itertools import count

from consensus.core.ready import Ready
from consensus.core.values import Entry
from consensus.shell.milestones import Milestones, Times


def entries(first: int, last: int) -> list[Entry]:
    """Return some."""
    return [Entry(index, 1, 1, b"") for index in range(first, last + 1)]


def ticking() -> Milestones:
    """Return a memory of three batches, whose clock goes on with every look."""
    seconds = count(1)
    return Milestones(0, lambda: float(next(seconds)), 3)


class MilestonesTests:
    """The memory of one server."""

    def test_steps(self) -> None:
        """Each step of a batch has its time."""
        found = ticking()
        found.see(Ready(1, entries=entries(1, 3)), 0)
        found.stored(entries(1, 3))
        found.see(Ready(2), 2)
        found.see(Ready(3), 3)
        found.applied(entries(1, 3))
        assert found.of(2) == Times(1.0, 2.0, 3.0, 5.0)
        assert found.of(3) == Times(1.0, 2.0, 4.0, 5.0)
        assert found.of(4) == Times(None, None, None, None)

    def test_nothing_new(self) -> None:
        """What neither appends nor commits is no batch."""
        found = ticking()
        found.see(Ready(1, entries=entries(1, 1)), 1)
        for number in range(2, 9):
            found.see(Ready(number), 1)
            found.stored([])
        assert found.of(1) == Times(1.0, None, 2.0, None)

    def test_replaced(self) -> None:
        """That an entry was stored says nothing of the one that replaced it."""
        found = ticking()
        found.see(Ready(1, entries=entries(1, 3)), 0)
        found.stored(entries(1, 3))
        found.see(Ready(2, entries=entries(2, 2)), 0)
        assert found.of(1) == Times(1.0, 2.0, None, None)
        assert found.of(2) == Times(3.0, None, None, None)
        found.stored(entries(2, 2))
        assert found.of(2) == Times(3.0, 4.0, None, None)

    def test_forgotten(self) -> None:
        """As many batches are remembered as there is room for."""
        found = ticking()
        for index in range(1, 6):
            found.see(Ready(index, entries=entries(index, index)), 0)
        assert found.of(2).appended is None
        assert found.of(3).appended == 3.0
