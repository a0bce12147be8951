"""
As what bytes a store goes into a snapshot.

They are one that says the version of this format, then blocks: a length of 4
bytes, big-endian, and as many bytes of MessagePack.  The first block has the
numbers that there is one of, in an array; each other one is an array of a
kind, 0 for items, 1 for leases, 2 for events, and an array of such rows.  A
block of length 0 ends them, and after it come 8 bytes, how many rows there are.
"""

from __future__ import annotations

import struct
from itertools import chain
from typing import TYPE_CHECKING, Any

import msgspec

from consensus.applications.state_rows import BlockSource
from consensus.errors import StorageError
from contrib.kvstore.answers import Event, EventKind, Item
from contrib.kvstore.store import Granted
from contrib.kvstore.values import Key, Number, check_value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from contrib.kvstore.memory import MemoryStore
    from contrib.kvstore.store import Store

#: The version of the format; the first byte of every snapshot.
VERSION = 2

#: A block ends with the row that makes it so large.
_BLOCK_BYTES = 64 * 1024

# What a row takes beside a key and a value.
_ROW_BYTES = 16

_LENGTH = struct.Struct(">I")
_COUNT = struct.Struct(">Q")
_END = _LENGTH.pack(0)

_ITEMS, _LEASES, _EVENTS = range(3)

_encode = msgspec.msgpack.Encoder().encode


class Numbers(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """
    What there is one of; see :class:`.Store`.

    Args:
        revision: Of the last change.
        time: The log's.
        last_lease: The id that was given last.
        first_kept: The first revision of which all events are kept.
    """

    revision: Number
    time: Number
    last_lease: Number
    first_kept: Number


class ItemRow(
    msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True, gc=False
):
    """A key and its :class:`.Item`."""

    key: Key
    value: Any
    created: Number
    modified: Number
    version: Number
    deadline: Number | None
    lease: Number | None

    def __post_init__(self) -> None:
        """Accept text and bytes only."""
        check_value(self.value)


class LeaseRow(
    msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True, gc=False
):
    """A lease's id, and what was :class:`.Granted`."""

    lease: Number
    ttl: Number
    deadline: Number


class EventRow(
    msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True, gc=False
):
    """An :class:`.Event`."""

    revision: Number
    kind: EventKind
    key: Key
    value: Any

    def __post_init__(self) -> None:
        """Accept text and bytes only, or nothing."""
        if self.value is not None:
            check_value(self.value)


_decode_numbers = msgspec.msgpack.Decoder(Numbers).decode
_decode_block = msgspec.msgpack.Decoder(tuple[int, msgspec.Raw]).decode
_decode_items = msgspec.msgpack.Decoder(list[ItemRow]).decode
_decode_leases = msgspec.msgpack.Decoder(list[LeaseRow]).decode
_decode_events = msgspec.msgpack.Decoder(list[EventRow]).decode


class StoreView:
    """
    A copy of a store in memory, which has its rows in common with it.

    That they cannot be changed makes it a view that stays as it is; to make
    it takes some 25 ms for each million keys.
    """

    def __init__(self, store: MemoryStore) -> None:
        self._numbers = numbers_of(store)
        self._items = store.items.copy()
        self._granted = store.granted.copy()
        self._log = store.log.copy()

    def chunks(self) -> Iterator[bytes]:
        """Yield the copy as bytes, a block at a time."""
        return encoded(
            self._numbers, self._items.items(), self._granted.items(), self._log
        )


def numbers_of(store: Store) -> Numbers:
    """Return what *store* has one of."""
    return Numbers(store.revision, store.time, store.last_lease, store.first_revision())


def encoded(
    numbers: Numbers,
    items: Iterable[tuple[bytes, Item]],
    leases: Iterable[tuple[int, Granted]],
    events: Iterable[Event],
) -> Iterator[bytes]:
    """Yield all this as bytes, a block at a time; what is iterated is not kept."""
    count = 0
    yield bytes((VERSION,)) + _framed(_encode(numbers))
    rows: Iterable[tuple[int, Any]] = chain(
        ((_ITEMS, _item_row(key, item)) for key, item in items),
        ((_LEASES, (lease, *granted)) for lease, granted in leases),
        ((_EVENTS, event) for event in events),
    )
    block: list[Any] = []
    kind = size = 0
    for row_kind, row in rows:
        if row_kind != kind or size >= _BLOCK_BYTES:
            if block:
                yield _framed(_encode((kind, block)))
            block, kind, size = [], row_kind, 0
        block.append(row)
        size += _row_size(row_kind, row)
        count += 1
    if block:
        yield _framed(_encode((kind, block)))
    yield _END + _COUNT.pack(count)


def _item_row(key: bytes, item: Item) -> tuple[Any, ...]:
    return (
        key,
        item.value,
        item.created,
        item.modified,
        item.version,
        item.deadline,
        item.lease,
    )


def _row_size(kind: int, row: Any) -> int:
    if kind == _ITEMS:
        return len(row[0]) + len(row[1]) + _ROW_BYTES
    if kind == _EVENTS:
        return len(row.key) + len(row.value or ()) + _ROW_BYTES
    return _ROW_BYTES


def _framed(data: bytes) -> bytes:
    return _LENGTH.pack(len(data)) + data


def fill(store: Store, chunks: Iterable[bytes]) -> None:
    """
    Put into the empty *store* what a snapshot has.

    Args:
        store: What is put there may be incomplete when this raises.
        chunks: The snapshot's bytes, cut anyhow.

    Raises:
        StorageError: They are not those of a snapshot that this release knows.
    """
    reader = BlockSource(chunks, _malformed)
    version = reader.take(1)[0]
    if version != VERSION:
        message = f"version {version}, and this release knows {VERSION} only"
        raise _malformed(message)
    numbers = _decoded(_decode_numbers, reader.take(reader.length()))
    rows = 0
    while length := reader.length():
        kind, raw = _decoded(_decode_block, reader.take(length))
        rows += _fill_rows(store, kind, bytes(raw))
    store.revision, store.time = numbers.revision, numbers.time
    store.last_lease = numbers.last_lease
    store.begin_history(numbers.first_kept)
    count = _COUNT.unpack(reader.take(_COUNT.size))[0]
    reader.expect_end()
    if count != rows:
        message = f"{rows} rows where {count} should be"
        raise _malformed(message)


def _fill_rows(store: Store, kind: int, data: bytes) -> int:
    """Put the rows of one block into *store*; return how many they are."""
    if kind == _ITEMS:
        items = _decoded(_decode_items, data)
        for row in items:
            key, *fields = msgspec.structs.astuple(row)
            store.put(key, Item(*fields))
        return len(items)
    if kind == _LEASES:
        leases = _decoded(_decode_leases, data)
        for lease in leases:
            store.put_lease(lease.lease, Granted(lease.ttl, lease.deadline))
        return len(leases)
    if kind == _EVENTS:
        events = _decoded(_decode_events, data)
        for event in events:
            store.note(event.revision, event.kind, event.key, event.value)
        return len(events)
    message = f"rows of kind {kind}"
    raise _malformed(message)


def _decoded(decode: Callable[[bytes], Any], data: bytes) -> Any:
    try:
        return decode(data)
    # msgspec's own errors are ValueErrors, and so is that of bad UTF-8.
    except (ValueError, RecursionError) as error:
        raise _malformed(str(error)) from error


def _malformed(reason: str) -> StorageError:
    return StorageError(f"not a snapshot of the key-value store: {reason}")
