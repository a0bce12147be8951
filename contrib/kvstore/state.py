"""
What the key-value store holds, and as what bytes it goes into a snapshot.

The bytes are one that says the version of this format, then blocks: a length
of 4 bytes, big-endian, and as many bytes of MessagePack, a map of keys and
values.  A block of length 0 ends them, and after it come 8 bytes, how many
keys there are.
"""

from __future__ import annotations

import struct
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import msgspec

from consensus.errors import StorageError
from contrib.kvstore.commands import Value, as_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: Keys are bytes, values text or bytes.
State = dict[bytes, Value]

#: The version of the format; the first byte of every snapshot.
VERSION = 1

#: A block ends with the item that makes it so large.
_BLOCK_BYTES = 64 * 1024

_DIGEST_BYTES = 8
_MODULUS = 1 << 8 * _DIGEST_BYTES

_pack_kind = struct.Struct(">H").pack
_to_int = int.from_bytes

_LENGTH = struct.Struct(">I")
_COUNT = struct.Struct(">Q")
_END = _LENGTH.pack(0)

_encode = msgspec.msgpack.Encoder().encode
# msgspec knows no union of text and bytes; what the values are is seen to below.
_decode = msgspec.msgpack.Decoder(dict[bytes, Any]).decode


class DigestedState(State):
    """
    A state that keeps a digest of itself, by assignments and ``del`` only.

    The digest is the sum of a hash of each item: it does not depend on the
    order in which they came, and a change of one costs the hash of what was
    there and of what is.
    """

    def __init__(self) -> None:
        super().__init__()
        self._sum = 0

    def __setitem__(self, key: bytes, value: Value) -> None:
        old = self.get(key)
        if old is not None:
            self._sum -= _hash(key, old)
        self._sum += _hash(key, value)
        super().__setitem__(key, value)

    def __delitem__(self, key: bytes) -> None:
        self._sum -= _hash(key, self[key])
        super().__delitem__(key)

    @property
    def digest(self) -> bytes:
        """Return what differs, with any likelihood, when states do."""
        return (self._sum % _MODULUS).to_bytes(_DIGEST_BYTES)


def _hash(key: bytes, value: Value) -> int:
    # Text and its bytes are different values, and keys have any length.
    if type(value) is bytes:
        item = key + value + _pack_kind(2 * len(key))
    else:
        item = key + as_bytes(value) + _pack_kind(2 * len(key) + 1)
    return _to_int(blake2b(item, digest_size=_DIGEST_BYTES).digest())


class StateSnapshot:
    """
    A copy of *state*, which has its keys and values in common with it.

    That they cannot be changed makes it a view that stays as it is; to make
    it takes some 25 ms for each million keys.
    """

    def __init__(self, state: State) -> None:
        self._state: State = state.copy()

    def chunks(self) -> Iterator[bytes]:
        """Yield the copy as bytes, a block at a time."""
        yield bytes((VERSION,))
        block: State = {}
        size = 0
        for key, value in self._state.items():
            block[key] = value
            size += len(key) + len(value)
            if size >= _BLOCK_BYTES:
                yield _encoded(block)
                block = {}
                size = 0
        if block:
            yield _encoded(block)
        yield _END + _COUNT.pack(len(self._state))


def _encoded(block: State) -> bytes:
    data = _encode(block)
    return _LENGTH.pack(len(data)) + data


def fill(state: State, chunks: Iterable[bytes]) -> None:
    """
    Put into the empty *state* what a snapshot has.

    Args:
        state: What is put there may be incomplete when this raises.
        chunks: The snapshot's bytes, cut anyhow.

    Raises:
        StorageError: They are not those of a snapshot that this release knows.
    """
    reader = _Reader(chunks)
    version = reader.take(1)[0]
    if version != VERSION:
        message = f"version {version}, and this release knows {VERSION} only"
        raise _malformed(message)
    while length := _LENGTH.unpack(reader.take(_LENGTH.size))[0]:
        for key, value in _items(reader.take(length)):
            state[key] = value
    keys = _COUNT.unpack(reader.take(_COUNT.size))[0]
    reader.expect_end()
    if keys != len(state):
        message = f"{len(state)} keys where {keys} should be"
        raise _malformed(message)


def _items(block: bytes) -> Iterable[tuple[bytes, Value]]:
    try:
        items = _decode(block)
    # msgspec's own errors are ValueErrors, and so is that of bad UTF-8.
    except (ValueError, RecursionError) as error:
        raise _malformed(str(error)) from error
    for value in items.values():
        if type(value) is not bytes and type(value) is not str:
            message = f"a value that is a {type(value).__name__}"
            raise _malformed(message)
    return items.items()


class _Reader:
    """Takes from *chunks* as many bytes as one asks for."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._buffer = bytearray()

    def take(self, size: int) -> bytes:
        """Return the next *size* bytes."""
        buffer = self._buffer
        while len(buffer) < size:
            try:
                buffer += next(self._chunks)
            except StopIteration:
                raise _malformed("it ends too early") from None
        taken = bytes(buffer[:size])
        del buffer[:size]
        return taken

    def expect_end(self) -> None:
        """Read to the end, where whoever gave the chunks checks the whole."""
        if self._buffer or any(self._chunks):
            raise _malformed("it goes on after its end")


def _malformed(reason: str) -> StorageError:
    return StorageError(f"not a snapshot of the key-value store: {reason}")
