"""DigestedStore: a store in memory that keeps a digest of itself."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import msgspec

from contrib.kvstore.memory import MemoryStore
from contrib.kvstore.store import Store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from contrib.kvstore.answers import Event, Item
    from contrib.kvstore.commands import Value
    from contrib.kvstore.store import Granted

_DIGEST_BYTES = 8
_MODULUS = 1 << 8 * _DIGEST_BYTES

_encode = msgspec.msgpack.Encoder().encode
_to_int = int.from_bytes


class DigestedStore(MemoryStore):
    """
    A store whose digest changes with it.

    The digest is the sum of a hash of each item, lease and event: it does not
    depend on the order in which they came, and a change of one costs the hash
    of what was there and of what is.
    """

    def __init__(self, history: int = 0) -> None:
        super().__init__(history)
        self.sum = 0

    def set(self, key: bytes, value: Value) -> None:
        """Do as the base, by the others."""
        Store.set(self, key, value)

    def put(self, key: bytes, item: Item) -> None:
        """Count another item."""
        old = self.items.get(key)
        if old is not None:
            self.sum -= _hash((key, old))
        super().put(key, item)
        self.sum += _hash((key, item))

    def remove(self, key: bytes) -> None:
        """Count one item less."""
        self.sum -= _hash((key, self.items[key]))
        super().remove(key)

    def put_lease(self, lease: int, granted: Granted) -> None:
        """Count another lease."""
        old = self.granted.get(lease)
        if old is not None:
            self.sum -= _hash((lease, old))
        super().put_lease(lease, granted)
        self.sum += _hash((lease, granted))

    def remove_lease(self, lease: int) -> None:
        """Count one lease less."""
        self.sum -= _hash((lease, self.granted[lease]))
        super().remove_lease(lease)

    def append(self, event: Event) -> None:
        """Count another event."""
        self.sum += _hash(event)
        super().append(event)

    def dropped(self, events: Sequence[Event]) -> None:
        """Count fewer events."""
        self.sum -= sum(map(_hash, events))

    #: Those that did not happen do not count either.
    taken_back = dropped

    @property
    def digest(self) -> bytes:
        """Return what differs, with any likelihood, when states do."""
        rest = (self.revision, self.time, self.last_lease, self.first_kept)
        return ((self.sum + _hash(rest)) % _MODULUS).to_bytes(_DIGEST_BYTES)


def _hash(part: Any) -> int:
    return _to_int(blake2b(_encode(part), digest_size=_DIGEST_BYTES).digest())
