"""
What the key-value store answers, where it is more than a value or a number.

As bytes, such an answer is a MessagePack extension, whose number says what it
is and whose data is the array of its fields: so it is told apart from a list
wherever it stands.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec.msgpack import Decoder, Encoder, Ext

#: What became of a key.
EventKind = Literal["set", "delete", "expire"]


class Item(
    msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True, gc=False
):
    """
    A key's value, and what is known of it.

    Args:
        value: Text or bytes.
        created: The revision at which the key came to be.
        modified: The revision of its last change.
        version: How many changes it has seen since it came to be.
        deadline: When it ends, in the log's time; ``None`` for never.
        lease: Which lease it ends with, if any.
    """

    value: Any
    created: int
    modified: int
    version: int = 1
    deadline: int | None = None
    lease: int | None = None


class PutResult(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """
    What a :class:`.Put` came to.

    Args:
        done: Was it done?
        old: The value before, if that was asked for; ``None`` for no key.
        revision: Of the change; of the last one before if nothing was done.
    """

    done: bool
    old: Any
    revision: int


class Failure(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """
    A command of a :class:`.Txn` that failed.

    Args:
        kind: The name of the exception's class.
        detail: What it said.
    """

    kind: str
    detail: str


class TxnResult(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """
    What a :class:`.Txn` came to.

    Args:
        succeeded: Was all so that was compared?
        results: Of each command and query that was done, in their order.
        revision: Of the changes; of the last one before if there were none.
    """

    succeeded: bool
    results: list[Any]
    revision: int


class Page(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """
    Some keys of a range.

    Args:
        items: Key, value and revision of the last change of each, in the order
            of keys; the value is ``None`` if it was not asked for.
        more: Are there more behind the last one?
        revision: Of the last change of all that is stored.
    """

    items: list[tuple[bytes, Any, int]]
    more: bool
    revision: int


class Event(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """
    Something that happened to a key.

    Args:
        revision: At which it happened; what a transaction did has the same.
        kind: ``set``, ``delete`` or, if its time was over, ``expire``.
        key: The key.
        value: The new one, if it was set.
    """

    revision: int
    kind: EventKind
    key: bytes
    value: Any = None


class Events(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """
    What happened to keys, in order.

    Args:
        events: May be none, if nothing of interest happened for long.
        next_revision: Where to go on from.
        skip: And how many events of that revision are among these already.
    """

    events: list[Event]
    next_revision: int
    skip: int = 0


class LeaseItem(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """
    A lease.

    Args:
        left: Milliseconds until it ends, unless it is kept alive.
        ttl: So many when it begins anew.
        keys: Those that end with it, in their order; the first thousand.
    """

    left: int
    ttl: int
    keys: list[bytes]


#: Of the extensions.  They are on the wire: they mean this for ever.
_NUMBERS: dict[type, int] = {
    Item: 1,
    PutResult: 2,
    Failure: 3,
    TxnResult: 4,
    Page: 5,
    Events: 6,
    LeaseItem: 7,
}

_pack = Encoder().encode


def encode(answer: Any) -> bytes:
    """
    Return *answer* as bytes.

    Raises:
        TypeError, ValueError, OverflowError, RecursionError: It is none.
    """
    return _pack(_wrapped(answer))


def _wrapped(answer: Any) -> Any:
    number = _NUMBERS.get(type(answer))
    if number is None:
        return answer
    if type(answer) is TxnResult:
        results = [_wrapped(each) for each in answer.results]
        answer = TxnResult(answer.succeeded, results, answer.revision)
    return Ext(number, _pack(answer))


def _unwrapped(number: int, data: memoryview) -> Any:
    decoder = _decoders.get(number)
    if decoder is None:
        message = f"an answer of kind {number}"
        raise ValueError(message)
    return decoder.decode(data)


_decoders: dict[int, Decoder[Any]] = {
    number: Decoder(kind, ext_hook=_unwrapped) for kind, number in _NUMBERS.items()
}

#: Return what :func:`encode` made bytes of; raise a ``ValueError`` or a
#: ``RecursionError`` if it did not.
decode = Decoder(ext_hook=_unwrapped).decode
