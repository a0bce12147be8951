"""What each query of the key-value store is answered, from any :class:`.Store`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from consensus.interfaces import LATER
from contrib.kvstore.answers import Event, Events, Item, LeaseItem, Page
from contrib.kvstore.commands import (
    Changes,
    Count,
    Exists,
    Get,
    GetItem,
    GetMany,
    Lease,
    Leases,
    Revision,
    Scan,
    Size,
    Ttl,
)
from contrib.kvstore.failures import (
    AnswerTooLargeError,
    CompactedError,
    NoHistoryError,
)
from contrib.kvstore.store import after, bounds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from consensus.interfaces import Later
    from contrib.kvstore.commands import Value
    from contrib.kvstore.store import Store

#: An answer of several items ends with the one that would make it larger: so
#: it fits into a message, even if that item is as large as one can be.
ANSWER_BYTES = 1_000_000

#: What an item takes beside its key and its value, at most.
ITEM_BYTES = 32

# Whoever waits hears of so many events that are not for them: else all of
# those since would be looked through again and again.
_PATIENCE = 128

# Of a lease, so many keys are shown.
_SHOWN = 1000

_NO_END = -1
_NO_KEY = -2


def size_of(value: Value | None) -> int:
    """Return how many bytes *value* takes, at most."""
    if value is None:
        return 0
    # Text of one byte a character says so; to encode it would be the other way.
    return len(value) if isinstance(value, bytes) or value.isascii() else 4 * len(value)


def _get(query: Get, store: Store) -> Value | None:
    item = store.get(query.key)
    return None if item is None else item.value


def _get_item(query: GetItem, store: Store) -> Item | None:
    return store.get(query.key)


def _get_many(query: GetMany, store: Store) -> list[Value | None]:
    values: list[Value | None] = []
    size = 0
    for key in query.keys:
        item = store.get(key)
        value = None if item is None else item.value
        size += size_of(value) + ITEM_BYTES
        if size > ANSWER_BYTES and values:
            message = f"more than {ANSWER_BYTES} bytes: ask for fewer keys"
            raise AnswerTooLargeError(message)
        values.append(value)
    return values


def _exists(query: Exists, store: Store) -> int:
    return sum(store.get(key) is not None for key in query.keys)


def _ttl(query: Ttl, store: Store) -> int:
    item = store.get(query.key)
    if item is None:
        return _NO_KEY
    # What is overdue is still there, and ends any moment.
    return _NO_END if item.deadline is None else max(0, item.deadline - store.time)


def _scan(query: Scan, store: Store) -> Page:
    start = query.start
    if query.after is not None:
        start = max(start, after(query.after))
    page: list[tuple[bytes, Any, int]] = []
    size = 0
    for key, item in store.scan(*bounds(query.prefix, start, query.end)):
        value = None if query.keys_only else item.value
        size += len(key) + size_of(value) + ITEM_BYTES
        if len(page) == query.limit or (size > ANSWER_BYTES and page):
            return Page(page, more=True, revision=store.revision)
        page.append((key, value, item.modified))
    return Page(page, more=False, revision=store.revision)


def _count(query: Count, store: Store) -> int:
    return store.count(*bounds(query.prefix, query.start, query.end))


def _size(_: Size, store: Store) -> int:
    return len(store)


def _revision(_: Revision, store: Store) -> int:
    return store.revision


def _lease(query: Lease, store: Store) -> LeaseItem | None:
    found = store.lease(query.lease)
    if found is None:
        return None
    left = max(0, found.deadline - store.time)
    keys: list[bytes] = []
    size = 0
    for key in store.keys_of(query.lease, _SHOWN):
        size += len(key) + ITEM_BYTES
        if size > ANSWER_BYTES:
            break
        keys.append(key)
    return LeaseItem(left, found.ttl, keys)


def _leases(query: Leases, store: Store) -> list[int]:
    return store.leases(query.after, query.limit)


def _changes(query: Changes, store: Store) -> Events | Later:
    if not store.history:
        raise NoHistoryError("this store keeps no history: see its option history")
    if query.from_revision > store.revision:
        return LATER
    first = store.first_revision()
    if query.from_revision < first:
        raise CompactedError(first)
    return _matching(query, store)


def _matching(query: Changes, store: Store) -> Events | Later:
    """Return the events that *query* asks for, out of some that are next."""
    found: list[Event] = []
    size = 0
    # Those that do not match cost little, and are few if they are to be had again.
    most = max(query.limit, _PATIENCE)
    looked_at = store.events(query.from_revision, query.skip, most + 1)
    for number, event in enumerate(looked_at):
        if number == most:
            return Events(found, *_place(looked_at, number, query))
        if event.key.startswith(query.prefix):
            size += len(event.key) + size_of(event.value) + 2 * ITEM_BYTES
            if len(found) == query.limit or (size > ANSWER_BYTES and found):
                return Events(found, *_place(looked_at, number, query))
            found.append(event)
    if not found and len(looked_at) < min(_PATIENCE, store.history // 2):
        return LATER
    return Events(found, store.revision + 1)


def _place(events: Sequence[Event], number: int, query: Changes) -> tuple[int, int]:
    """Return where one of the *events* stands: its revision, and those before it."""
    revision = events[number].revision
    before = query.skip if revision == query.from_revision else 0
    for event in reversed(events[:number]):
        if event.revision != revision:
            break
        before += 1
    return revision, before


#: What is answered to which query.
LOOKUPS: dict[type, Callable[[Any, Store], Any]] = {
    Get: _get,
    GetItem: _get_item,
    GetMany: _get_many,
    Exists: _exists,
    Ttl: _ttl,
    Scan: _scan,
    Count: _count,
    Size: _size,
    Revision: _revision,
    Lease: _lease,
    Leases: _leases,
    Changes: _changes,
}
