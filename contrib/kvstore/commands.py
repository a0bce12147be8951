"""
The commands of the key-value store, as objects and as bytes.

On the wire and in the log a command is one byte, the version of this format,
and a MessagePack array: the command's name, then its fields in order::

    01 93 a3 "set" c4 03 "foo" a3 "bar"

A later release may add fields at the end, or commands.  A server that does
not know them refuses them: to ignore one would make its state another.

A key is bytes; text stands for its UTF-8 bytes.  A value is text or bytes and
comes back as the one that it was; two values are equal if their bytes are.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import msgspec

from consensus.errors import InvalidCommandError
from contrib.kvstore.queries import (
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
from contrib.kvstore.values import (
    MAX_KEY_BYTES,
    MAX_MANY,
    MAX_TTL,
    TTL,
    VALUE_TYPES,
    Bound,
    Key,
    Keyed,
    Keys,
    LeaseId,
    Limit,
    Message,
    Number,
    Value,
    as_bytes,
    as_key,
    check_value,
)

__all__ = [
    "MAX_KEY_BYTES",
    "MAX_MANY",
    "MAX_TTL",
    "VERSION",
    "Append",
    "Cas",
    "Changes",
    "Command",
    "Compare",
    "Count",
    "Delete",
    "DeleteMany",
    "DeleteRange",
    "Exists",
    "Expire",
    "Get",
    "GetItem",
    "GetMany",
    "Grant",
    "Incr",
    "IncrFloat",
    "KeepAlive",
    "Lease",
    "Leases",
    "Lookup",
    "Op",
    "Put",
    "Query",
    "Revision",
    "Revoke",
    "Scan",
    "Set",
    "SetMany",
    "Size",
    "Take",
    "Ttl",
    "Txn",
    "Value",
    "as_bytes",
    "as_key",
    "decode",
    "encode",
    "key_of",
]

#: The version of the format; the first byte of every command.
VERSION = 1

_SMALL = 4096

_VERSION_BYTE = bytes((VERSION,))


class Set(Keyed, tag="set", frozen=True):
    """
    Give *key* the *value*, whatever it had; the result is ``None``.

    Raises:
        TypeError: *value* is neither text nor bytes.
    """

    value: Any

    def __post_init__(self) -> None:
        """Accept text and bytes only."""
        if type(self.value) not in VALUE_TYPES:
            check_value(self.value)


class Delete(Keyed, tag="delete", frozen=True):
    """Remove *key*; the result says whether it was there."""


class Cas(Keyed, tag="cas", frozen=True):
    """
    Give *key* the *value* if it has the *expected* one (compare and set).

    ``None`` as *expected* stands for a key that is not there.  The result
    says whether the value was set.

    Raises:
        TypeError: A value is neither text nor bytes.
    """

    expected: Any
    value: Any

    def __post_init__(self) -> None:
        """Accept text and bytes only, and ``None`` for what is expected."""
        check_value(self.value)
        if self.expected is not None:
            check_value(self.expected)


# --- commands ---------------------------------------------------------------


class Put(Keyed, tag="put", frozen=True):
    """
    Give *key* the *value*, on conditions; the result is a :class:`.PutResult`.

    Without *ttl*, *keep_ttl* and *lease* the key lives on without end.

    Args:
        key: The key.
        value: Text or bytes.
        only_if: Do nothing unless the key is there, or is not.
        ttl: Milliseconds after which it ends.
        keep_ttl: It ends when it would have ended before, and with that lease.
        lease: It ends with this lease.
        want_old: Answer with the value that it had.

    Raises:
        TypeError: *value* is neither text nor bytes.
        ValueError: Both *ttl* and *keep_ttl* are given.
    """

    value: Any
    only_if: Literal["absent", "present"] | None = None
    ttl: TTL | None = None
    keep_ttl: bool = False
    lease: LeaseId | None = None
    want_old: bool = False

    def __post_init__(self) -> None:
        """Accept text and bytes only, and one way to end."""
        check_value(self.value)
        if self.keep_ttl and self.ttl is not None:
            raise ValueError("a key cannot have a ttl and keep the one that it has")


class Incr(Keyed, tag="incr", frozen=True):
    """
    Add *by* to the whole number that *key* has, 0 if it is not there.

    The number is text or bytes in decimal, of 64 bits with its sign.  The
    result is the sum; when the key ends does not change.
    """

    by: Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)] = 1


class IncrFloat(Keyed, tag="incr_float", frozen=True):
    """
    Add *by* to the number that *key* has, 0 if it is not there.

    The result is the sum, as the bytes that the key then has: decimal, without
    an exponent.  When the key ends does not change.
    """

    by: float

    def __post_init__(self) -> None:
        """Accept what is a number."""
        if not math.isfinite(self.by):
            message = f"{self.by} cannot be added"
            raise ValueError(message)


class Append(Keyed, tag="append", frozen=True):
    """
    Put the bytes of *value* behind those that *key* has.

    The result is how many there are then.  When the key ends does not change.

    Raises:
        TypeError: *value* is neither text nor bytes.
    """

    value: Any

    def __post_init__(self) -> None:
        """Accept text and bytes only."""
        check_value(self.value)


class Take(Keyed, tag="take", frozen=True):
    """Remove *key*; the result is the value that it had, or ``None``."""


class Expire(Keyed, tag="expire", frozen=True):
    """
    Let *key* end after *ttl*; the result says whether anything was done.

    This is no change of the key: no revision is counted, and nobody who
    watches hears of it before the end.

    Args:
        key: The key.
        ttl: Milliseconds; 0 or less ends it now; ``None`` lets it live on.
        only_if: Do so only if it has no end yet (``none``), if it has one
            (``some``), or if the new one is ``later`` or ``earlier``; to have
            none is later than any.
    """

    ttl: Annotated[int, msgspec.Meta(ge=-MAX_TTL, le=MAX_TTL)] | None = None
    only_if: Literal["none", "some", "later", "earlier"] | None = None


class SetMany(Message, tag="set_many", frozen=True):
    """
    Give each key of *items* its value, all or none; say whether it was done.

    Args:
        items: Keys and values.
        only_if: ``absent``: only if none of the keys is there.

    Raises:
        TypeError: A value is neither text nor bytes.
    """

    items: Annotated[list[tuple[Key, Any]], msgspec.Meta(max_length=MAX_MANY)]
    only_if: Literal["absent"] | None = None

    def __post_init__(self) -> None:
        """Accept text and bytes only."""
        for _, value in self.items:
            check_value(value)


class DeleteMany(Message, tag="delete_many", frozen=True):
    """Remove *keys*; the result is how many were there."""

    keys: Keys


class DeleteRange(Message, tag="delete_range", frozen=True):
    """
    Remove the keys of a range, in their order; the result is how many.

    If that is *limit*, there may be more.  The range is that of :class:`Scan`.
    """

    prefix: Bound = b""
    start: Bound = b""
    end: Bound | None = None
    limit: Limit = MAX_MANY


class Grant(Message, tag="grant", frozen=True):
    """
    Begin a lease, which keys may end with; the result is its id.

    Args:
        ttl: It ends when it is not kept alive for so many milliseconds.
        id: The one that it gets; one that no lease has if 0.
    """

    ttl: TTL
    id: Number = 0


class KeepAlive(Message, tag="keep_alive", frozen=True):
    """Let *lease* begin anew; the result is its ttl in milliseconds."""

    lease: LeaseId


class Revoke(Message, tag="revoke", frozen=True):
    """End *lease*; the result is how many keys ended with it."""

    lease: LeaseId


class Compare(
    msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True, gc=False
):
    """
    What a :class:`Txn` asks of a key.

    Args:
        key: The key.
        what: Its ``value``; the ``revision`` of its last change, 0 if it is
            not there; the one when it was ``created``; or if it ``exists``.
        op: How that relates to *to*.
        to: A value, or ``None`` for that of a key that is not there; a number;
            or a flag.

    Raises:
        TypeError: *to* is nothing that *what* can be compared with.
    """

    key: Key
    what: Literal["value", "revision", "created", "exists"] = "value"
    op: Literal["==", "!=", "<", ">"] = "=="
    to: Any = None

    def __post_init__(self) -> None:
        """Accept only what can be compared."""
        if self.what == "value":
            if self.to is not None:
                check_value(self.to)
            return
        wanted = bool if self.what == "exists" else int
        if type(self.to) is not wanted:
            message = f"compare {self.what} with {wanted.__name__}, not {self.to!r:.50}"
            raise TypeError(message)


#: What a :class:`Txn` can do, and what changes one state or another.
Op = (
    Set
    | Delete
    | Cas
    | Put
    | Incr
    | IncrFloat
    | Append
    | Take
    | Expire
    | SetMany
    | DeleteMany
    | DeleteRange
    | Grant
    | KeepAlive
    | Revoke
)

#: What does not change the state, and a :class:`Txn` can ask as well.
Lookup = Get | GetItem | GetMany | Exists | Ttl | Scan | Count | Size

_Ops = Annotated[list[Op | Lookup], msgspec.Meta(max_length=MAX_MANY)]


class Txn(Message, tag="txn", frozen=True):
    """
    Do several things at once; the result is a :class:`.TxnResult`.

    Nothing comes in between.  They share one revision.

    Args:
        compare: If all of these are so, *then* is done, else *otherwise*.
        then: Commands and queries.
        otherwise: Likewise.
        atomic: One that fails undoes all, and the whole fails as it does.
            Else it does not, and its place among the results has a
            :class:`.Failure`.
    """

    compare: Annotated[list[Compare], msgspec.Meta(max_length=MAX_MANY)]
    then: _Ops
    otherwise: _Ops = msgspec.field(default_factory=list)
    atomic: bool = False


#: What changes the state.
Command = Op | Txn

#: What does not.
Query = Lookup | Changes | Revision | Lease | Leases

_ALONE = (Set, Delete, Cas, Get, Incr, IncrFloat, Append, Take, Expire)

_encode = msgspec.msgpack.Encoder().encode
_decoder: msgspec.msgpack.Decoder[Command | Query] = msgspec.msgpack.Decoder(
    Command | Query
)
_decode = _decoder.decode


def encode(command: msgspec.Struct) -> bytes:
    """
    Return *command*, or a query, as bytes.

    Raises:
        InvalidCommandError: It is neither; or a key is empty, too long or no
            bytes, or text has half of a character.
    """
    try:
        data = _VERSION_BYTE + _encode(command)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        message = f"cannot encode a {type(command).__name__}: {error}"
        raise InvalidCommandError(message) from error
    # An object of ours may hold anything; what the log holds is checked here.
    if not _is_plain(command):
        decode(data)
    return data


def _is_plain(command: msgspec.Struct) -> bool:
    """Say, without decoding it again, that *command* is as most are, and right."""
    if type(command) is Set:
        if type(command.value) not in VALUE_TYPES:
            return False
        key = command.key
    elif type(command) is Get:
        key = command.key
    else:
        return False
    return type(key) is bytes and 0 < len(key) <= MAX_KEY_BYTES


def decode(data: bytes) -> Command | Query:
    """
    Return the command or query that :func:`encode` made *data* of.

    Raises:
        InvalidCommandError: *data* is not one.
    """
    if not data or data[0] != VERSION:
        message = (
            f"a command begins with {data[:1]!r}, but this release knows version"
            f" {VERSION} of the key-value store's commands only"
        )
        raise InvalidCommandError(message)
    try:
        # A view saves a copy, and costs as much as one of some kilobytes.
        return _decode(data[1:] if len(data) < _SMALL else memoryview(data)[1:])
    # msgspec's own errors are ValueErrors, and so is that of bad UTF-8.
    except (ValueError, RecursionError) as error:
        message = f"not a command of the key-value store: {error}"
        raise InvalidCommandError(message) from error


def key_of(command: Command | Query) -> bytes | None:
    """
    Return the key that *command* is about, if it neither changes nor sees more.

    ``None`` for what is about several keys, or is answered with a revision,
    which all of them have in common.
    """
    return command.key if isinstance(command, _ALONE) else None
