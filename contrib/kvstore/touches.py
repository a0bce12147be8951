"""
Which keys a command or a query is about, for users who may touch some only.

What is not here is about all keys: leases, which end keys of others and name them,
and how many keys there are.  A revision counts the changes of all keys; it comes
with most answers, and is no secret.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from consensus.interfaces import KeyRange, Touched, key_range, prefix_range
from contrib.kvstore.commands import (
    Append,
    Cas,
    Changes,
    Count,
    Delete,
    DeleteMany,
    DeleteRange,
    Exists,
    Expire,
    Get,
    GetItem,
    GetMany,
    Incr,
    IncrFloat,
    Put,
    Revision,
    Scan,
    Set,
    SetMany,
    Take,
    Ttl,
    Txn,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def touches(message: Any) -> Touched | None:
    """Return what *message* is about; ``None`` for all keys."""
    known = _TOUCHES.get(type(message))
    return None if known is None else known(message)


def _reading(keys: Iterable[KeyRange]) -> Touched:
    return Touched(reads=tuple(keys))


def _changing(keys: Iterable[KeyRange]) -> Touched:
    # The answer of each command tells something of what was there.
    found = tuple(keys)
    return Touched(found, found)


def _read_key(query: Any) -> Touched:
    return _reading([key_range(query.key)])


def _read_keys(query: Any) -> Touched:
    return _reading(map(key_range, query.keys))


def _read_range(query: Any) -> Touched:
    # What comes after another key is no more than without it.
    return _reading([_part(query)])


def _change_key(command: Any) -> Touched:
    return _changing([key_range(command.key)])


def _change_keys(command: Any) -> Touched:
    return _changing(map(key_range, command.keys))


def _part(query: Scan | Count | DeleteRange) -> KeyRange:
    """Return the range of *query*: what both its prefix and its bounds allow."""
    of_prefix = prefix_range(query.prefix)
    ends = [each for each in (of_prefix.end, query.end) if each is not None]
    first = max(of_prefix.first, query.start)
    return KeyRange(first, min(ends) if ends else None)


def _put(command: Put) -> Touched | None:
    # A lease that somebody else has ends the key, and names it.
    return None if command.lease is not None else _change_key(command)


def _txn(txn: Txn) -> Touched | None:
    """Return what both branches are about; which is done tells of what is compared."""
    reads = [key_range(each.key) for each in txn.compare]
    writes: list[KeyRange] = []
    for each in (*txn.then, *txn.otherwise):
        part = touches(each)
        if part is None:
            return None
        reads += part.reads
        writes += part.writes
    return Touched(tuple(reads), tuple(writes))


_TOUCHES: dict[type, Callable[[Any], Touched | None]] = {
    **dict.fromkeys((Get, GetItem, Ttl), _read_key),
    **dict.fromkeys((GetMany, Exists), _read_keys),
    **dict.fromkeys((Scan, Count), _read_range),
    Changes: lambda query: _reading([prefix_range(query.prefix)]),
    Revision: lambda _: Touched(),
    **dict.fromkeys(
        (Set, Delete, Cas, Incr, IncrFloat, Append, Take, Expire), _change_key
    ),
    Put: _put,
    SetMany: lambda command: _changing(key_range(key) for key, _ in command.items),
    DeleteMany: _change_keys,
    DeleteRange: lambda command: _changing([_part(command)]),
    Txn: _txn,
}
