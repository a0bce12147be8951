"""
Store: where the key-value store's machine keeps what it knows.

What commands mean is written once, in :mod:`contrib.kvstore.changes` and
:mod:`contrib.kvstore.lookups`, for any of these.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple

from contrib.kvstore.answers import Event, Item

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

    from contrib.kvstore.answers import EventKind
    from contrib.kvstore.commands import Value

#: The most that the kept events have in bytes, of keys and values.
HISTORY_BYTES = 16 << 20

#: What an event takes beside its key and its value, roughly.
EVENT_BYTES = 120


class Granted(NamedTuple):
    """
    A lease.

    Args:
        ttl: Milliseconds that it lives when it begins anew.
        deadline: When it ends.
    """

    ttl: int
    deadline: int


class Store(ABC):
    """
    Keys with their items, leases, and the latest events.

    It indexes what it is given, and knows nothing of what commands mean.
    """

    #: The revision of the last change.
    revision: int = 0

    #: The log's time, in milliseconds.
    time: int = 0

    #: The id of the last lease that was granted without one.
    last_lease: int = 0

    #: The revision that changes get; 0 for the next one each.
    shared: int = 0

    #: How many events are kept; 0 for none, ever.
    history: int = 0

    def stamp(self) -> int:
        """Return the revision of a change that happens now."""
        self.revision = self.shared or self.revision + 1
        return self.revision

    def set(self, key: bytes, value: Value) -> None:
        """Give *key* the *value*, and no end."""
        self.change(key, value, self.stamp())

    def change(
        self,
        key: bytes,
        value: Value,
        revision: int,
        deadline: int | None = None,
        lease: int | None = None,
    ) -> None:
        """Give *key* the *value* at *revision*, and an end."""
        old = self.get(key)
        created, version = (old.created, old.version) if old else (revision, 0)
        item = Item(value, created, revision, version + 1, deadline, lease)
        self.put(key, item)
        self.note(revision, "set", key, value)

    def discard(self, key: bytes, revision: int, kind: EventKind = "delete") -> None:
        """Remove *key*, which is there, at *revision*."""
        self.remove(key)
        self.note(revision, kind, key)

    def note(
        self, revision: int, kind: EventKind, key: bytes, value: Value | None = None
    ) -> None:
        """Keep what happened, if anything is kept."""
        if self.history:
            self.append(Event(revision, kind, key, value))

    # --- items -----------------------------------------------------------------

    @abstractmethod
    def get(self, key: bytes) -> Item | None:
        """Return what *key* has; ``None`` if it is not there."""

    @abstractmethod
    def put(self, key: bytes, item: Item) -> None:
        """Let *key* have *item*, whatever it had."""

    @abstractmethod
    def remove(self, key: bytes) -> None:
        """Remove *key*, which is there."""

    @abstractmethod
    def scan(self, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, Item]]:
        """
        Yield the keys from *start* to below *end*, in order, with their items.

        Nothing may change while it goes on.
        """

    @abstractmethod
    def count(self, start: bytes, end: bytes | None) -> int:
        """Return how many keys there are from *start* to below *end*."""

    @abstractmethod
    def __len__(self) -> int: ...

    # --- deadlines ---------------------------------------------------------------

    @abstractmethod
    def first_key(self) -> tuple[int, bytes] | None:
        """Return the first deadline of a key, and the first key that has it."""

    @abstractmethod
    def first_lease(self) -> tuple[int, int] | None:
        """Return the first deadline of a lease, and the lowest id that has it."""

    # --- leases ------------------------------------------------------------------

    @abstractmethod
    def lease(self, lease: int) -> Granted | None:
        """Return a lease; ``None`` if there is none of that id."""

    @abstractmethod
    def put_lease(self, lease: int, granted: Granted) -> None:
        """Let there be a lease, or let it be another."""

    @abstractmethod
    def remove_lease(self, lease: int) -> None:
        """Forget a lease that is there, and that no key has."""

    @abstractmethod
    def leases(self, after: int, limit: int) -> list[int]:
        """Return the ids of leases above *after*, in order."""

    @abstractmethod
    def lease_count(self) -> int:
        """Return how many leases there are."""

    @abstractmethod
    def keys_of(self, lease: int, limit: int | None = None) -> list[bytes]:
        """Return the keys that have *lease*, in their order."""

    # --- history -----------------------------------------------------------------

    @abstractmethod
    def append(self, event: Event) -> None:
        """
        Keep *event* behind all others, whose revisions are not above its.

        The oldest go when there are more than :attr:`history`, or larger ones
        than :data:`HISTORY_BYTES`: an eighth at a time, or more.
        """

    @abstractmethod
    def begin_history(self, revision: int) -> None:
        """Say that what happened before *revision* is not kept."""

    @abstractmethod
    def first_revision(self) -> int:
        """Return the first revision of which all events are kept."""

    @abstractmethod
    def events(self, revision: int, skip: int, limit: int) -> Sequence[Event]:
        """Return events from *revision* on, but for the first *skip* of them."""

    # --- all or nothing ----------------------------------------------------------

    @abstractmethod
    def undoing(self) -> AbstractContextManager[None]:
        """Undo what is done within, if it raises."""


def after(key: bytes) -> bytes:
    """Return the least of all keys above *key*."""
    return key + b"\0"


def end_of(prefix: bytes) -> bytes | None:
    """Return the least bytes above all that begin with *prefix*."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes((stem[-1] + 1,)) if stem else None


def bounds(
    prefix: bytes, start: bytes, end: bytes | None
) -> tuple[bytes, bytes | None]:
    """Return from where to where those that begin with *prefix* are within a range."""
    last = end_of(prefix)
    if end is not None and (last is None or end < last):
        last = end
    return max(prefix, start), last


def size_of(event: Event) -> int:
    """Return how much *event* takes, roughly."""
    value = event.value
    return len(event.key) + (0 if value is None else len(value)) + EVENT_BYTES
