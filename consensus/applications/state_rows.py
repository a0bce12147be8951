"""
A snapshot of a state that is made of rows, for state machines in memory.

The bytes are one that says the version of the rows, then blocks: a length of 4
bytes, big-endian, and as many bytes of MessagePack, an array of rows.  A block
of length 0 ends them, and after it come 8 bytes, how many rows there are.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from consensus.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

_Row = TypeVar("_Row")
_State = TypeVar("_State")

#: So many rows are encoded at a time.
_BLOCK_ROWS = 256

_LENGTH = struct.Struct(">I")
_COUNT = struct.Struct(">Q")

_encode = msgspec.msgpack.Encoder().encode


class RowsSnapshot:
    """
    A view of a state as rows.

    Args:
        version: Of what the rows mean; 0 to 255.
        rows: What MessagePack has, or msgspec's Structs; nobody changes them
            from now on.
    """

    def __init__(self, version: int, rows: Sequence[Any]) -> None:
        self._version = version
        self._rows = rows

    def chunks(self) -> Iterator[bytes]:
        """Yield the rows as bytes, a block at a time."""
        yield bytes((self._version,))
        for start in range(0, len(self._rows), _BLOCK_ROWS):
            block = _encode(self._rows[start : start + _BLOCK_ROWS])
            yield _LENGTH.pack(len(block)) + block
        yield _LENGTH.pack(0) + _COUNT.pack(len(self._rows))


class RowsReader(Generic[_Row]):
    """
    Reads what a :class:`RowsSnapshot` has made of rows.

    Args:
        kind: The type of one row, for msgspec: a Struct, or a union of some.
        version: The only one that is known.
        what: What the snapshot is of, for people.
    """

    def __init__(self, kind: Any, version: int, what: str) -> None:
        self._decode = msgspec.msgpack.Decoder(list[kind]).decode
        self.version = version
        self._what = what

    def read(self, chunks: Iterable[bytes]) -> Iterator[_Row]:
        """
        Yield the rows of *chunks*, which are cut anyhow.

        Raises:
            StorageError: They are not those of a snapshot that this release
                knows; perhaps after some rows.
        """
        source = BlockSource(chunks, self.malformed)
        version = source.take(1)[0]
        if version != self.version:
            message = f"version {version}, and this release knows {self.version} only"
            raise self.malformed(message)
        count = 0
        while length := source.length():
            rows = self._rows(source.take(length))
            count += len(rows)
            yield from rows
        said = _COUNT.unpack(source.take(_COUNT.size))[0]
        source.expect_end()
        if said != count:
            message = f"{count} rows where {said} should be"
            raise self.malformed(message)

    def _rows(self, block: bytes) -> list[_Row]:
        try:
            rows: list[_Row] = self._decode(block)
        # msgspec's own errors are ValueErrors, and so is that of bad UTF-8.
        except (ValueError, RecursionError) as error:
            raise self.malformed(str(error)) from error
        return rows

    def malformed(self, reason: str) -> StorageError:
        """Return the error that says why this is no such snapshot."""
        return StorageError(f"not a snapshot of {self._what}: {reason}")


class RowsFormat(Generic[_State]):
    """
    Makes rows of a state, and a state of rows.

    Args:
        reader: What reads the rows.
        rows_of: Returns those of a state; nobody changes them from now on.
        state_of: Returns the state that these rows are of; it raises a
            :class:`ValueError` where one does not fit to those before.
    """

    def __init__(
        self,
        reader: RowsReader[Any],
        rows_of: Callable[[_State], Iterable[Any]],
        state_of: Callable[[Iterator[Any]], _State],
    ) -> None:
        self._reader = reader
        self._rows_of = rows_of
        self._state_of = state_of

    def snapshot(self, state: _State) -> RowsSnapshot:
        """Return a view of *state* that later commands do not change."""
        return RowsSnapshot(self._reader.version, list(self._rows_of(state)))

    def restore(self, chunks: Iterable[bytes]) -> _State:
        """
        Return the state that :meth:`snapshot` made *chunks* of, cut anyhow.

        Raises:
            StorageError: They are not a snapshot that this release knows.
        """
        try:
            return self._state_of(self._reader.read(chunks))
        except ValueError as error:
            raise self._reader.malformed(str(error)) from error


class BlockSource:
    """
    Takes from *chunks* as many bytes as one asks for.

    Args:
        chunks: Cut anyhow.
        malformed: Makes the error that says why they are not what they should be.
    """

    def __init__(
        self, chunks: Iterable[bytes], malformed: Callable[[str], StorageError]
    ) -> None:
        self._chunks = iter(chunks)
        self._malformed = malformed
        self._buffer = bytearray()

    def take(self, size: int) -> bytes:
        """Return the next *size* bytes."""
        buffer = self._buffer
        while len(buffer) < size:
            try:
                buffer += next(self._chunks)
            except StopIteration:
                raise self._malformed("it ends too early") from None
        taken = bytes(buffer[:size])
        del buffer[:size]
        return taken

    def length(self) -> int:
        """Return the length of the next block."""
        found: int = _LENGTH.unpack(self.take(_LENGTH.size))[0]
        return found

    def expect_end(self) -> None:
        """Read to the end, where whoever gave the chunks checks the whole."""
        if self._buffer or any(self._chunks):
            raise self._malformed("it goes on after its end")
