"""MemoryStore: all that the key-value store knows, in memory."""

from __future__ import annotations

from bisect import bisect_left
from contextlib import contextmanager
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from contrib.kvstore.answers import Event, Item
from contrib.kvstore.deadlines import Deadlines
from contrib.kvstore.keys import SortedKeys
from contrib.kvstore.store import (
    EVENT_BYTES,
    HISTORY_BYTES,
    Granted,
    Store,
    size_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from contrib.kvstore.commands import Value

_revision = attrgetter("revision")


class MemoryStore(Store):
    """
    Dictionaries, and what it takes to find things in them.

    Args:
        history: How many events to keep.
    """

    def __init__(self, history: int = 0) -> None:
        self.revision = self.time = self.last_lease = self.shared = 0
        self.history = history
        self.items: dict[bytes, Item] = {}
        self.granted: dict[int, Granted] = {}
        #: The events that are kept, in order.
        self.log: list[Event] = []
        #: The first revision of which all are.
        self.first_kept = 1
        self._log_bytes = 0
        self._longest = history + history // 8
        self._index()

    def _index(self) -> None:
        """Begin what can be told from the rest."""
        self._keys: SortedKeys | None = None
        self._key_ends: Deadlines[bytes] = Deadlines()
        self._lease_ends: Deadlines[int] = Deadlines()
        self._leased: dict[int, dict[bytes, None]] = {}
        # How to undo what was done, the last first, if that is wanted.
        self._undo: list[Callable[[], Any]] | None = None

    # --- items -----------------------------------------------------------------

    def set(self, key: bytes, value: Value) -> None:
        """Do as the base; it is what most commands are, so it takes no calls."""
        if self._undo is not None:
            super().set(key, value)
            return
        items = self.items
        old = items.get(key)
        revision = self.revision = self.shared or self.revision + 1
        if old is None:
            items[key] = Item(value, revision, revision)
            if self._keys is not None:
                self._keys.add(key)
        elif old.deadline is None and old.lease is None:
            items[key] = Item(value, old.created, revision, old.version + 1)
        else:
            self.put(key, Item(value, old.created, revision, old.version + 1))
        if self.history:
            log = self.log
            log.append(Event(revision, "set", key, value))
            self._log_bytes += len(key) + len(value) + EVENT_BYTES
            if len(log) > self._longest or self._log_bytes > HISTORY_BYTES:
                self._forget()

    def get(self, key: bytes) -> Item | None:
        """Return what *key* has; see the base."""
        return self.items.get(key)

    def put(self, key: bytes, item: Item) -> None:
        """Let *key* have *item*; see the base."""
        old = self.items.get(key)
        self.items[key] = item
        if old is None:
            if self._keys is not None:
                self._keys.add(key)
            if self._undo is not None:
                self._undo.append(lambda: self.remove(key))
        elif self._undo is not None:
            self._undo.append(lambda: self.put(key, old))
        if item.deadline is not None or (old is not None and old.deadline is not None):
            self._key_ends.set(key, item.deadline)
        self._relate(key, None if old is None else old.lease, item.lease)

    def _relate(self, key: bytes, old: int | None, new: int | None) -> None:
        """Note that *key* has another lease."""
        if old == new:
            return
        if old is not None:
            keys = self._leased[old]
            del keys[key]
            if not keys:
                del self._leased[old]
        if new is not None:
            self._leased.setdefault(new, {})[key] = None

    def remove(self, key: bytes) -> None:
        """Remove *key*; see the base."""
        old = self.items.pop(key)
        if self._keys is not None:
            self._keys.remove(key)
        if self._undo is not None:
            self._undo.append(lambda: self.put(key, old))
        if old.deadline is not None:
            self._key_ends.set(key, None)
        self._relate(key, old.lease, None)

    def scan(self, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, Item]]:
        """Yield the keys of a range; see the base."""
        items = self.items
        for key in self._sorted().between(start, end):
            yield key, items[key]

    def count(self, start: bytes, end: bytes | None) -> int:
        """Return how many keys a range has; see the base."""
        if not start and end is None:
            return len(self.items)
        return self._sorted().count(start, end)

    def _sorted(self) -> SortedKeys:
        # Who never asks for an order need not pay for it.
        if self._keys is None:
            self._keys = SortedKeys(self.items)
        return self._keys

    def __len__(self) -> int:
        return len(self.items)

    # --- deadlines and leases ----------------------------------------------------

    def first_key(self) -> tuple[int, bytes] | None:
        """Return which key ends first; see the base."""
        return self._key_ends.first()

    def first_lease(self) -> tuple[int, int] | None:
        """Return which lease ends first; see the base."""
        return self._lease_ends.first()

    def lease(self, lease: int) -> Granted | None:
        """Return a lease; see the base."""
        return self.granted.get(lease)

    def put_lease(self, lease: int, granted: Granted) -> None:
        """Let there be a lease; see the base."""
        old = self.granted.get(lease)
        self.granted[lease] = granted
        self._lease_ends.set(lease, granted.deadline)
        if self._undo is not None:
            self._undo.append(
                (lambda: self.remove_lease(lease))
                if old is None
                else (lambda: self.put_lease(lease, old))
            )

    def remove_lease(self, lease: int) -> None:
        """Forget a lease; see the base."""
        old = self.granted.pop(lease)
        self._lease_ends.set(lease, None)
        if self._undo is not None:
            self._undo.append(lambda: self.put_lease(lease, old))

    def leases(self, after: int, limit: int) -> list[int]:
        """Return the ids of leases; see the base."""
        return sorted(lease for lease in self.granted if lease > after)[:limit]

    def lease_count(self) -> int:
        """Return how many leases there are."""
        return len(self.granted)

    def keys_of(self, lease: int, limit: int | None = None) -> list[bytes]:
        """Return the keys that have *lease*; see the base."""
        return sorted(self._leased.get(lease, ()))[:limit]

    # --- history -----------------------------------------------------------------

    def append(self, event: Event) -> None:
        """Keep *event*; see the base."""
        self.log.append(event)
        self._log_bytes += size_of(event)
        # What may have to be undone stays until then.
        if self._undo is None and (
            len(self.log) > self._longest or self._log_bytes > HISTORY_BYTES
        ):
            self._forget()

    def _forget(self) -> None:
        """Drop the oldest events."""
        log = self.log
        count = max(0, len(log) - self.history)
        size = self._log_bytes - sum(map(size_of, islice(log, count)))
        while size > HISTORY_BYTES - HISTORY_BYTES // 8:
            size -= size_of(log[count])
            count += 1
        self.first_kept = log[count - 1].revision + 1
        self._log_bytes = size
        self.dropped(log[:count])
        del log[:count]

    def dropped(self, events: Sequence[Event]) -> None:
        """Hear that *events* are not kept any more."""

    def begin_history(self, revision: int) -> None:
        """Say where the history begins; see the base."""
        # It may be shorter here than where it comes from.
        self.first_kept = max(self.first_kept, revision)

    def first_revision(self) -> int:
        """Return the first revision of which all events are kept."""
        return self.first_kept

    def events(self, revision: int, skip: int, limit: int) -> Sequence[Event]:
        """Return events from *revision* on; see the base."""
        first = skip + bisect_left(self.log, revision, key=_revision)
        return self.log[first : first + limit]

    # --- all or nothing ----------------------------------------------------------

    @contextmanager
    def undoing(self) -> Iterator[None]:
        """Undo what is done within, if it raises; see the base."""
        before = self.revision, self.last_lease, self._log_bytes, len(self.log)
        undo = self._undo = []
        try:
            yield
        except BaseException:
            self._undo = None
            for step in reversed(undo):
                step()
            self.revision, self.last_lease, self._log_bytes, kept = before
            self.taken_back(self.log[kept:])
            del self.log[kept:]
            raise
        self._undo = None
        if len(self.log) > self._longest or self._log_bytes > HISTORY_BYTES:
            self._forget()

    def taken_back(self, events: Sequence[Event]) -> None:
        """Hear that *events* did not happen."""

    # --- copies ------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        """Return what cannot be told from the rest."""
        return {name: each for name, each in vars(self).items() if name[0] != "_"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what :meth:`__getstate__` returned, and tell the rest from it."""
        vars(self).update(state)
        self._longest = self.history + self.history // 8
        self._log_bytes = sum(map(size_of, self.log))
        self._index()
        for lease, granted in self.granted.items():
            self._lease_ends.set(lease, granted.deadline)
        for key, item in self.items.items():
            if item.deadline is not None:
                self._key_ends.set(key, item.deadline)
            self._relate(key, None, item.lease)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MemoryStore):
            return NotImplemented
        return self.__getstate__() == other.__getstate__()

    __hash__ = None  # type: ignore[assignment]
