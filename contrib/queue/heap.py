"""A heap whose items may die where they are, and leave it later."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_Item = TypeVar("_Item", bound=Any)

# A heap with fewer items than this is not worth clearing.
_SLACK = 64


class LazyHeap(Generic[_Item]):
    """
    Finds the least item that is alive.

    Which are, only the function knows that it was made with.  The first is
    alive after :meth:`tidy`, which is to be called after every change.  An item
    that is pushed twice is in it twice.

    Args:
        is_live: Says whether an item counts.
    """

    __slots__ = ("_is_live", "_items")

    def __init__(self, is_live: Callable[[_Item], bool]) -> None:
        self._items: list[_Item] = []
        self._is_live = is_live

    def push(self, item: _Item) -> None:
        """Add *item*."""
        heappush(self._items, item)

    def first(self) -> _Item | None:
        """Return the least, without a change; ``None`` if there is none."""
        return self._items[0] if self._items else None

    def tidy(self, living: int) -> None:
        """
        Let the first be alive, and not more than half of the rest dead.

        Args:
            living: How many different items are alive.
        """
        items = self._items
        while items and not self._is_live(items[0]):
            heappop(items)
        if len(items) > 2 * living + _SLACK:
            # What is sorted is a heap, and the same one in every process.
            self._items = sorted({each for each in items if self._is_live(each)})

    def in_order(self) -> Iterator[_Item]:
        """
        Yield those that are alive, the least first, without a change.

        To get so many takes time by their number, not by that of all.
        """
        # Whoever is in the fringe stands below one that was yielded.
        fringe = [(item, 0) for item in self._items[:1]]
        last = None
        while fringe:
            item, place = heappop(fringe)
            if item != last and self._is_live(item):
                yield item
            last = item
            for below in (2 * place + 1, 2 * place + 2):
                if below < len(self._items):
                    heappush(fringe, (self._items[below], below))
