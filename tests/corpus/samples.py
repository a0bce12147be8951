"""
What a corpus has: bytes of one release, and what they mean.

Bytes stand in JSON as hexadecimal.  What they mean is written beside them by
the release that makes them, field by field: a later one may have more fields.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

import msgspec

from adapters.transport import amp_codec
from adapters.transport.amp_bytes import encode_box, encode_payload
from adapters.transport.amp_commands import encode_error
from adapters.transport.amp_connection import _head
from adapters.transport.amp_hello import introduction_pairs
from consensus import errors, sessions
from consensus.applying import agreements
from consensus.core import messages
from consensus.core.membership import Membership
from consensus.core.values import Entry, EntryKind, Identity, SnapshotMeta
from consensus.options import (
    ManyOptions,
    ReadOptions,
    WriteOptions,
    pack,
)
from consensus.sessions import Operation
from contrib.kvstore import commands
from contrib.kvstore.machine import KVStore

encode = msgspec.msgpack.encode

FOUNDING = Membership.founding("shop", {"s1": "a1", "s2": "a2", "s3": "a3"})
CHANGED = Membership(
    {"s1": "a1", "s2": "a2", "s4": "a4"},
    {"s5": "a5"},
    {"s1": "a1", "s2": "a2", "s3": "a3"},
    frozenset(),
    {"s4": "0123"},
    FOUNDING.cluster_id,
)
META = SnapshotMeta(4, 2, FOUNDING.encode(), 1, 1, 5, 0x12345678)
OWN = Identity("shop", "s1", "11" * 16, FOUNDING.cluster_id)


def set_(key: str, value: str) -> bytes:
    """Return the key-value store's command that sets a key."""
    return KVStore().encode(commands.Set(key.encode(), value))


#: A log with an entry of each kind.
LOG = [
    Entry(1, 1, EntryKind.MEMBERSHIP, FOUNDING.encode()),
    Entry(2, 2, EntryKind.NOOP, b""),
    Entry(3, 2, EntryKind.COMMAND, set_("colour", "blue")),
    Entry(4, 2, EntryKind.TIME, agreements.time_entry(1000)),
    Entry(
        5,
        2,
        EntryKind.SESSION,
        sessions.entry_of(Operation.OPEN, sessions.open_call(60_000), 1500),
    ),
    Entry(
        6,
        2,
        EntryKind.SESSION,
        sessions.entry_of(
            Operation.COMMAND,
            sessions.command_call(5, 1, 1, set_("size", "large")),
            1600,
        ),
    ),
    Entry(7, 3, EntryKind.NOOP, b""),
    Entry(8, 3, EntryKind.DIGEST, agreements.mark_entry()),
    Entry(9, 3, EntryKind.DIGEST, agreements.claim_entry(7, b"another")),
    Entry(10, 3, EntryKind.VERSION, agreements.upgrade_entry(1)),
    Entry(11, 3, EntryKind.MEMBERSHIP, CHANGED.encode()),
    Entry(
        12,
        3,
        EntryKind.SESSION,
        sessions.entry_of(Operation.CLOSE, sessions.close_call(5), 1700),
    ),
    Entry(13, 3, EntryKind.COMMAND, set_("colour", "red")),
]

#: Each message, with large numbers and small ones.
MESSAGES: list[Any] = [
    messages.RequestPreVote("s1", 3, 13, 3),
    messages.RequestPreVoteResponse("s2", 3, granted=True),
    messages.RequestVote("s1", 4, 13, 3, transfer=True),
    messages.RequestVote("s1", 4, 0, 0),
    messages.RequestVoteResponse("s2", 4, granted=False),
    messages.TimeoutNow("s1", 4),
    messages.AppendEntries("s1", 3, 0, 0, 1, 2, tuple(LOG)),
    messages.AppendEntries("s1", 4, 1 << 50, 3, 13, 1 << 40, (), may_lease=False),
    messages.AppendEntriesResponse("s2", 3, success=True, index=13, round=2),
    messages.AppendEntriesResponse("s2", 3, False, 13, 2, 7, 2),  # noqa: FBT003 - success
    messages.InstallSnapshot("s1", 3, META, 0, b"chunk"),
    messages.InstallSnapshotResponse("s2", 3, 4, META.checksum, 1),
    messages.RequestReadIndex("s2", 3, 1 << 60),
    messages.RequestReadIndexResponse("s1", 3, 1 << 60, 13),
]

_KEY = b"k" * 16

#: What clients call, one after the other, of a new server of one member.
CALLS: list[tuple[str, bytes]] = [
    ("write", set_("colour", "blue")),
    ("write_with", pack(WriteOptions(with_index=True), set_("size", "small"))),
    ("write_many", pack(ManyOptions(), [set_("a", "1"), set_("b", "2")])),
    ("write_many", pack(ManyOptions(with_index=True), [set_("c", "3")])),
    ("read", KVStore().encode(commands.Get(b"colour"))),
    *(
        ("read_with", pack(options, KVStore().encode(commands.Get(b"size"))))
        for options in (
            ReadOptions("stale", max_age=60.0),
            ReadOptions("follower", at_index=1),
            ReadOptions("lease", wait=1.0),
        )
    ),
    ("session_open", sessions.open_call(60_000)),
    ("session_write", sessions.command_call(99, 1, 1, set_("d", "4"))),
    ("session_write_indexed", sessions.command_call(99, 2, 1, set_("e", "5"))),
    ("session_close", sessions.close_call(99)),
    ("session_forwarded", b"\x01" + sessions.open_call(60_000)),
    ("status", b""),
    ("transfer", b"s9"),
    ("add", encode(["s9", "s9", True])),
    ("promote", b"s8"),
    ("remove", b"s9"),
    ("change_membership", encode([{"s1": "s1"}, {"s7": "s7"}, None])),
    ("join", encode(["shop", "s7", "elsewhere", "22", False, False])),
    ("snapshot", b""),
    ("backup_begin", _KEY),
    ("backup_chunk", _KEY + bytes(8)),
    ("backup_end", _KEY),
    ("no_such_method", b""),
]

ERRORS = [
    errors.NotLeaderError("s2", "tcp:127.0.0.1:9102"),
    errors.NotLeaderError(),
    errors.CommandFailedError("KeyError", "colour"),
    errors.CompactedError(12),
    *(
        cls("why")
        for cls in (
            *(errors.OverloadedError, errors.InvalidCommandError),
            *(errors.StaleError, errors.NotYetError, errors.InvalidChangeError),
            *(errors.MembershipPendingError, errors.TimedOutError),
            *(errors.LeadershipLostError, errors.SessionExpiredError),
            *(errors.StoppedError, errors.DiskFullError, errors.ProtocolError),
            *(errors.RejectedError, errors.ReplacedError, errors.StorageError),
        )
    ),
]


def meaning(value: Any) -> Any:
    """Return *value* as JSON can say it: fields by their names."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: meaning(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, dict):
        return {name: meaning(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [meaning(each) for each in value]
    return value


def has(whole: Any, part: Any) -> bool:
    """Say whether *whole* means what *part* does; it may have more fields."""
    if isinstance(part, dict) and isinstance(whole, dict):
        return all(
            name in whole and has(whole[name], each) for name, each in part.items()
        )
    if isinstance(part, list) and isinstance(whole, list):
        return len(part) == len(whole) and all(map(has, whole, part))
    return bool(whole == part)


def wire() -> dict[str, Any]:
    """Return what goes over connections, and what it means."""
    return {
        "messages": [
            {
                "bytes": amp_codec.encode(each).hex(),
                "type": type(each).__name__,
                "fields": meaning(each),
            }
            for each in MESSAGES
        ],
        "introduction": encode_box(
            [(b"_command", b"Hello"), (b"_ask", b"1"), *introduction_pairs(OWN, "s2")]
        ).hex(),
        "errors": [
            {
                "bytes": encode_box(
                    zip(
                        (b"_error", b"_error_code", b"_error_description"),
                        (b"1", *encode_error(each)),
                        strict=True,
                    )
                ).hex(),
                "type": type(each).__name__,
                "code": each.code,
                "text": str(each),
                "fields": {name: getattr(each, name) for name in each.fields},
            }
            for each in ERRORS
        ],
    }


def call_box(method: str, payload: bytes) -> bytes:
    """Return the bytes of a box that calls *method*."""
    tag = b"\0\x04_ask\0\x011"
    return _head(method) + tag + encode_payload(payload) + b"\0\0"
