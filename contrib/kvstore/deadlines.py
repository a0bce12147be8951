"""Deadlines: what ends when, and what does first."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

_Name = TypeVar("_Name", bytes, int)

# So many outdated entries are put up with, and as many as there are others.
_SLACK = 64


class Deadlines(Generic[_Name]):
    """When things of some name end; which is the first takes no search."""

    def __init__(self) -> None:
        self._when: dict[_Name, int] = {}
        # Entries that do not agree with the dict are outdated; the first never is.
        self._heap: list[tuple[int, _Name]] = []

    def __len__(self) -> int:
        return len(self._when)

    def set(self, name: _Name, when: int | None) -> None:
        """Let *name* end at *when*, or never."""
        if when is None:
            if self._when.pop(name, None) is None:
                return
        else:
            self._when[name] = when
            heappush(self._heap, (when, name))
        self._tidy()

    def first(self) -> tuple[int, _Name] | None:
        """Return the first deadline, and the least name that has it."""
        return self._heap[0] if self._heap else None

    def _tidy(self) -> None:
        heap, when = self._heap, self._when
        while heap and when.get(heap[0][1]) != heap[0][0]:
            heappop(heap)
        if len(heap) > 2 * len(when) + _SLACK:
            heap[:] = [(time, name) for name, time in when.items()]
            heapify(heap)
