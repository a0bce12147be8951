"""The bytes of AMP boxes: keys and values with 16-bit lengths before them."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from adapters.transport.amp_commands import MAX_VALUE_BYTES, split_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable

LENGTH = struct.Struct(">H")

#: What ends a box: a key without bytes.
END = b"\0\0"

# Keys as they stand in a box; the length of the value follows.
ANSWER_KEY = b"\0\x07_answer"
ASK_KEY = b"\0\x04_ask"
PAYLOAD_KEY = b"\0\x07payload"

#: How TLS begins: with a handshake, or with an alert because of what it got.
TLS_RECORDS = (b"\x16\x03", b"\x15\x03")


def encode_pairs(items: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the keys and values *items* as they stand in a box."""
    pack = LENGTH.pack
    parts: list[bytes] = []
    for key, value in items:
        parts += pack(len(key)), key, pack(len(value)), value
    return b"".join(parts)


def encode_box(items: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the keys and values *items* as the bytes of a box."""
    return encode_pairs(items) + END


def encode_payload(payload: bytes) -> bytes:
    """Return the payload of a call or an answer as it stands in a box."""
    if len(payload) > MAX_VALUE_BYTES:
        return encode_pairs(split_bytes(b"payload", payload))
    return PAYLOAD_KEY + LENGTH.pack(len(payload)) + payload
