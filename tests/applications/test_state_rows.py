"""Tests of consensus.applications.state_rows."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.applications.state_rows import RowsReader, RowsSnapshot
from consensus.errors import StorageError
from consensus.testing.machine_copy import pieces

Pair = tuple[int, str]

_reader: RowsReader[Pair] = RowsReader(Pair, 3, "pairs")


def chunks_of(rows: list[Any], version: int = 3) -> bytes:
    """Return a snapshot of *rows*."""
    return b"".join(RowsSnapshot(version, rows).chunks())


class RowsTests:
    """Rows go into a snapshot and come out of it."""

    @given(
        st.lists(st.tuples(st.integers(0, 9), st.text()), max_size=5),
        st.integers(1, 200),
        st.integers(1, 40),
    )
    def test_they_come_back(self, some: list[Pair], times: int, size: int) -> None:
        rows = some * times
        assert list(_reader.read(pieces(chunks_of(rows), size))) == rows

    def test_in_blocks(self) -> None:
        """No row waits for all the others to be encoded."""
        chunks = list(RowsSnapshot(3, [(1, "a")] * 600).chunks())
        assert len(chunks) == 5

    def test_another_version(self) -> None:
        with pytest.raises(StorageError, match=r"of pairs: version 4.* knows 3 only"):
            list(_reader.read([chunks_of([], 4)]))

    def test_another_kind_of_row(self) -> None:
        with pytest.raises(StorageError, match="Expected `int`"):
            list(_reader.read([chunks_of([("a", "b")])]))

    def test_cut_off(self) -> None:
        """Wherever it ends, it is no snapshot."""
        whole = chunks_of([(1, "a"), (2, "b")])
        for end in range(len(whole)):
            with pytest.raises(StorageError, match="ends too early"):
                list(_reader.read([whole[:end]]))

    def test_too_long(self) -> None:
        with pytest.raises(StorageError, match="goes on after its end"):
            list(_reader.read([chunks_of([(1, "a")]), b"", b"x"]))

    def test_a_row_is_missing(self) -> None:
        whole = chunks_of([(1, "a")])
        with pytest.raises(StorageError, match="1 rows where 2 should be"):
            list(_reader.read([whole[:-1] + b"\2"]))

    def test_no_messagepack(self) -> None:
        with pytest.raises(StorageError):
            list(_reader.read([b"\3\0\0\0\1\xc1" + bytes(12)]))

    def test_structs(self) -> None:
        """A union of tagged ones tells kinds of rows apart."""

        class Point(msgspec.Struct, array_like=True, tag="p"):
            x: int

        class Name(msgspec.Struct, array_like=True, tag="n"):
            text: str

        reader: RowsReader[Point | Name] = RowsReader(Point | Name, 0, "things")
        rows = [Point(1), Name("a")]
        assert list(reader.read([chunks_of(rows, 0)])) == rows
