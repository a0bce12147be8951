"""
The framework's own state in a snapshot: a header before what the machine gave.

A byte for the version and four for the length, then a MessagePack map; a later
release may add members to it.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Annotated

import msgspec

from consensus.errors import StorageError
from consensus.sessions import EncodedSession  # noqa: TC001 - msgspec reads it

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: The version of a snapshot's header.
HEADER_VERSION = 1

# Version and length; then the header, and then the machine's chunks.
_PREFIX = Struct(">BI")

#: More than the results of all sessions ever take.
_MAX_HEADER_BYTES = 1 << 28

_Unsigned = Annotated[int, msgspec.Meta(ge=0)]


class Header(msgspec.Struct, frozen=True):
    """The framework's own state, in front of the machine's."""

    last_applied: _Unsigned
    version: Annotated[int, msgspec.Meta(ge=1)]
    time: _Unsigned
    sessions: list[EncodedSession]
    marked: _Unsigned
    digest: bytes | None
    is_claimed: bool
    equal: _Unsigned


_encode_header = msgspec.msgpack.Encoder().encode
_decode_header = msgspec.msgpack.Decoder(Header).decode


def encode_header(header: Header) -> bytes:
    """Return *header* as the first bytes of a snapshot."""
    encoded = _encode_header(header)
    return _PREFIX.pack(HEADER_VERSION, len(encoded)) + encoded


def read_header(chunks: Iterable[bytes]) -> tuple[Header, Iterator[bytes]]:
    """
    Return a snapshot's header, and an iterator of what comes after it.

    Raises:
        StorageError: It is none.
    """
    read, rest = bytearray(), iter(chunks)
    _fill(read, _PREFIX.size, rest)
    version, length = _PREFIX.unpack_from(read)
    if version != HEADER_VERSION or length > _MAX_HEADER_BYTES:
        message = (
            f"the snapshot begins with version {version} and {length} bytes of a"
            f" header; this release reads version {HEADER_VERSION}"
        )
        raise StorageError(message)
    size = _PREFIX.size + length
    _fill(read, size, rest)
    try:
        header = _decode_header(read[_PREFIX.size : size])
    # msgspec's own errors are ValueErrors, and so is that of bad UTF-8.
    except (ValueError, RecursionError) as error:
        message = f"the snapshot's header cannot be read: {error}"
        raise StorageError(message) from error
    return header, _joined(bytes(read[size:]), rest)


def _fill(read: bytearray, size: int, chunks: Iterator[bytes]) -> None:
    """Add to *read* from *chunks* until it has *size* bytes."""
    while len(read) < size:
        chunk = next(chunks, None)
        if chunk is None:
            raise StorageError("the snapshot ends within its header")
        read += chunk


def _joined(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    if first:
        yield first
    yield from rest
