"""
What each command of the key-value store does, to any :class:`.Store`.

Each raises before it changes anything, and returns its result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from contrib.kvstore import commands, numbers
from contrib.kvstore.answers import Item, PutResult
from contrib.kvstore.commands import (
    Append,
    Cas,
    Delete,
    DeleteMany,
    DeleteRange,
    Expire,
    Grant,
    Incr,
    IncrFloat,
    KeepAlive,
    Put,
    Revoke,
    Set,
    SetMany,
    Take,
)
from contrib.kvstore.failures import (
    LeaseExistsError,
    LeaseNotFoundError,
    TooManyLeasesError,
    ValueTooLargeError,
)
from contrib.kvstore.store import Granted, bounds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from contrib.kvstore.commands import Value
    from contrib.kvstore.store import Store

#: How many leases there can be at a time.
MAX_LEASES = 100_000

#: How long :class:`.Append` can make a value.
MAX_VALUE_BYTES = 1 << 20

#: How many keys end at once; the others a moment later.
MAX_ENDS = 10_000


def _set(command: Set, store: Store) -> None:
    store.set(command.key, command.value)


def _delete(command: Delete, store: Store) -> bool:
    if store.get(command.key) is None:
        return False
    store.discard(command.key, store.stamp())
    return True


def _compare_and_set(command: Cas, store: Store) -> bool:
    item = store.get(command.key)
    if not is_same(item.value if item else None, command.expected):
        return False
    store.set(command.key, command.value)
    return True


def is_same(current: Value | None, expected: Value | None) -> bool:
    """Say whether two values have the same bytes, or neither is there."""
    if current is None or expected is None:
        return current is expected
    return commands.as_bytes(current) == commands.as_bytes(expected)


def _put(command: Put, store: Store) -> PutResult:
    key, lease = command.key, command.lease
    item = store.get(key)
    old = item.value if item and command.want_old else None
    if command.only_if and (command.only_if == "present") is (item is None):
        return PutResult(done=False, old=old, revision=store.revision)
    if lease is not None:
        _granted(lease, store)
    deadline = None
    if command.keep_ttl and item is not None:
        deadline = item.deadline
        lease = item.lease if lease is None else lease
    if command.ttl is not None:
        deadline = store.time + command.ttl
    store.change(key, command.value, store.stamp(), deadline, lease)
    return PutResult(done=True, old=old, revision=store.revision)


def _granted(lease: int, store: Store) -> Granted:
    found = store.lease(lease)
    if found is None:
        message = f"there is no lease {lease}"
        raise LeaseNotFoundError(message)
    return found


def _amend(key: bytes, item: Item | None, value: Value, store: Store) -> None:
    """Give *key* another value, and let it end when it would have."""
    deadline, lease = (item.deadline, item.lease) if item else (None, None)
    store.change(key, value, store.stamp(), deadline, lease)


def _increment(command: Incr, store: Store) -> int:
    item = store.get(command.key)
    total = numbers.add_integer(item.value if item else "0", command.by)
    _amend(command.key, item, str(total), store)
    return total


def _increment_float(command: IncrFloat, store: Store) -> bytes:
    item = store.get(command.key)
    total = numbers.add_number(item.value if item else "0", command.by)
    _amend(command.key, item, total, store)
    return total.encode()


def _append(command: Append, store: Store) -> int:
    item = store.get(command.key)
    value: Value = command.value
    if item is not None:
        value = _joined(item.value, value)
    size = len(commands.as_bytes(value))
    if size > MAX_VALUE_BYTES:
        message = f"a value of {size} bytes; {MAX_VALUE_BYTES} are the most"
        raise ValueTooLargeError(message)
    _amend(command.key, item, value, store)
    return size


def _joined(first: Value, second: Value) -> Value:
    """Return both, as text if both are."""
    if isinstance(first, str) and isinstance(second, str):
        return first + second
    return commands.as_bytes(first) + commands.as_bytes(second)


def _take(command: Take, store: Store) -> Value | None:
    item = store.get(command.key)
    if item is None:
        return None
    store.discard(command.key, store.stamp())
    value: Value = item.value
    return value


def _expire(command: Expire, store: Store) -> bool:
    item = store.get(command.key)
    if item is None or not _may_expire(command, item.deadline, store.time):
        return False
    if command.ttl is None:
        if item.deadline is None:
            return False
        store.put(command.key, _ending(item, None))
    elif command.ttl <= 0:
        store.discard(command.key, store.stamp())
    else:
        store.put(command.key, _ending(item, store.time + command.ttl))
    return True


def _may_expire(command: Expire, deadline: int | None, time: int) -> bool:
    if command.only_if is None:
        return True
    if command.only_if in {"none", "some"}:
        return (command.only_if == "none") is (deadline is None)
    # What has no end ends after all that have one.
    new = float("inf") if command.ttl is None else time + command.ttl
    old = float("inf") if deadline is None else deadline
    return new > old if command.only_if == "later" else new < old


def _ending(item: Item, deadline: int | None) -> Item:
    return Item(
        item.value, item.created, item.modified, item.version, deadline, item.lease
    )


def _set_many(command: SetMany, store: Store) -> bool:
    if command.only_if and any(store.get(key) for key, _ in command.items):
        return False
    if command.items:
        revision = store.stamp()
        for key, value in command.items:
            store.change(key, value, revision)
    return True


def _delete_many(command: DeleteMany, store: Store) -> int:
    # A key may be named twice, and is there only once.
    return _discard_all((key for key in command.keys if store.get(key)), store)


def _delete_range(command: DeleteRange, store: Store) -> int:
    first, last = bounds(command.prefix, command.start, command.end)
    keys: list[bytes] = []
    for key, _ in store.scan(first, last):
        keys.append(key)
        if len(keys) == command.limit:
            break
    return _discard_all(keys, store)


def _discard_all(keys: Iterable[bytes], store: Store) -> int:
    """Remove *keys*, which are there when it is their turn; return how many."""
    count = revision = 0
    for key in keys:
        revision = revision or store.stamp()
        store.discard(key, revision)
        count += 1
    return count


def _grant(command: Grant, store: Store) -> int:
    if store.lease_count() >= MAX_LEASES:
        message = f"there are {MAX_LEASES} leases, which are the most"
        raise TooManyLeasesError(message)
    lease = command.id
    if lease and store.lease(lease) is not None:
        message = f"there is a lease {lease}"
        raise LeaseExistsError(message)
    if not lease:
        lease = store.last_lease + 1
        while store.lease(lease) is not None:
            lease += 1
        store.last_lease = lease
    store.put_lease(lease, Granted(command.ttl, store.time + command.ttl))
    return lease


def _keep_alive(command: KeepAlive, store: Store) -> int:
    ttl = _granted(command.lease, store).ttl
    store.put_lease(command.lease, Granted(ttl, store.time + ttl))
    return ttl


def _revoke(command: Revoke, store: Store) -> int:
    _granted(command.lease, store)
    count = _discard_all(store.keys_of(command.lease), store)
    store.remove_lease(command.lease)
    return count


def pass_time(time: int, store: Store) -> None:
    """
    Let it be *time*, and what is due end: the earliest first, then by key.

    Leases end after the keys that are due at the same time, and their keys
    with them, in their order.
    """
    store.time = max(store.time, time)
    revision = 0
    for _ in range(MAX_ENDS):
        due = next_end(store)
        if due is None or due > store.time:
            return
        key = store.first_key()
        if key is not None and key[0] == due:
            revision = revision or store.stamp()
            store.discard(key[1], revision, "expire")
            continue
        lease = store.first_lease()
        if lease is not None:
            for each in store.keys_of(lease[1]):
                revision = revision or store.stamp()
                store.discard(each, revision, "expire")
            store.remove_lease(lease[1])


def next_end(store: Store) -> int | None:
    """Return when a key or a lease ends next; ``None`` if nothing does."""
    key, lease = store.first_key(), store.first_lease()
    if key is None:
        return lease[0] if lease else None
    return min(key[0], lease[0]) if lease else key[0]


#: What does which command.
CHANGES: dict[type, Callable[[Any, Store], Any]] = {
    Set: _set,
    Delete: _delete,
    Cas: _compare_and_set,
    Put: _put,
    Incr: _increment,
    IncrFloat: _increment_float,
    Append: _append,
    Take: _take,
    Expire: _expire,
    SetMany: _set_many,
    DeleteMany: _delete_many,
    DeleteRange: _delete_range,
    Grant: _grant,
    KeepAlive: _keep_alive,
    Revoke: _revoke,
}
