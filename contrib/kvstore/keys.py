"""SortedKeys: the keys of a dictionary, in their order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sortedcontainers import SortedList

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

# Fewer changes are not worth a new list.
_FEW = 1000


class SortedKeys:
    """
    The keys of *items*, in order when they are asked for.

    Changes are only noted, and looked at then: a set of a new key takes no
    search, and many of them become one sorting.

    Args:
        items: What has the keys, now and later.
    """

    def __init__(self, items: Collection[bytes]) -> None:
        self._items = items
        self._order: SortedList[bytes] | None = None
        # Keys that came or went; in a dict, which has an order of its own.
        self._changed: dict[bytes, None] = {}

    def add(self, key: bytes) -> None:
        """Note that *key* has come."""
        if self._order is not None:
            self._changed[key] = None
            if len(self._changed) > _FEW + len(self._order) // 4:
                self._order = None
                self._changed.clear()

    #: Note that a key has gone; which of the two it was shows later.
    remove = add

    def between(self, start: bytes, end: bytes | None) -> Iterable[bytes]:
        """Return the keys from *start* to below *end*, in order."""
        found: Iterable[bytes] = self._sorted().irange(start, end, (True, False))
        return found

    def count(self, start: bytes, end: bytes | None) -> int:
        """Return how many keys there are from *start* to below *end*."""
        order = self._sorted()
        last: int = len(order) if end is None else order.bisect_left(end)
        first: int = order.bisect_left(start)
        return max(0, last - first)

    def _sorted(self) -> SortedList[bytes]:
        order = self._order
        if order is None:
            order = self._order = SortedList(self._items)
            return order
        for key in self._changed:
            was_there, is_there = key in order, key in self._items
            if is_there and not was_there:
                order.add(key)
            elif was_there and not is_there:
                order.remove(key)
        self._changed.clear()
        return order
