"""Entries as bytes: they come back, and nothing else is taken for them."""

from __future__ import annotations

import struct
from itertools import groupby, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.core.values import Entry, EntryKind
from consensus.entries import fitting, pack_entries, unpack_entries

_RUN = struct.Struct(">QBI")


@st.composite
def logs(draw: st.DrawFn) -> list[Entry]:
    """Draw consecutive entries whose terms never fall."""
    first = draw(st.integers(1, 2**62))
    terms = sorted(draw(st.lists(st.integers(0, 2**63 - 1), max_size=8)))
    kinds = st.sampled_from(EntryKind)
    return [
        Entry(first + number, term, draw(kinds), draw(st.binary(max_size=9)))
        for number, term in enumerate(terms)
    ]


def packed(*runs: tuple[int, int, int], lengths: tuple[int, ...], rest: bytes) -> bytes:
    """Return what a packer with its own mind might write."""
    head = struct.pack(">II", len(lengths), len(runs))
    heads = b"".join(_RUN.pack(*run) for run in runs)
    return head + heads + struct.pack(f">{len(lengths)}I", *lengths) + rest


class RoundTripTests:
    """What is packed comes back."""

    @given(logs())
    def test_every_log(self, entries: list[Entry]) -> None:
        first = entries[0].index if entries else 1
        assert unpack_entries(pack_entries(entries), first) == entries

    @given(logs(), st.binary(max_size=5), st.binary(max_size=5))
    def test_in_the_middle_of_something(
        self, entries: list[Entry], before: bytes, after: bytes
    ) -> None:
        """What stands before and behind does not count."""
        data = pack_entries(entries)
        whole = before + data + after
        end = len(before) + len(data)
        first = entries[0].index if entries else 1
        assert unpack_entries(whole, first, len(before), end) == entries

    @pytest.mark.parametrize("length", range(1, 8))
    def test_every_order_of_kinds(self, length: int) -> None:
        """Entries of one term, as nearly all are, in as few runs as there can be."""
        kinds = (EntryKind.COMMAND, EntryKind.SESSION, EntryKind.TIME)
        for order in product(kinds, repeat=length):
            entries = [Entry(n, 3, kind, b"%d" % n) for n, kind in enumerate(order, 1)]
            data = pack_entries(entries)
            assert unpack_entries(data, 1) == entries
            runs = sum(1 for _ in groupby(order))
            assert struct.unpack_from(">II", data) == (length, runs)

    def test_the_bytes(self) -> None:
        """They are on disks and on wires: they never change."""
        entries = [
            Entry(4, 2, EntryKind.NOOP, b""),
            Entry(5, 2, EntryKind.COMMAND, b"a"),
            Entry(6, 2, EntryKind.COMMAND, b"bc"),
        ]
        assert pack_entries(entries) == bytes.fromhex(
            "00000003 00000002"
            "0000000000000002 00 00000001"
            "0000000000000002 01 00000002"
            "00000000 00000001 00000002"
            "616263"
        )

    def test_a_number_that_is_too_large(self) -> None:
        with pytest.raises(ValueError, match="impossible term"):
            pack_entries([Entry(1, 2**63, EntryKind.COMMAND, b"")])


class HostileBytesTests:
    """Whatever comes, the answer is entries or a ValueError."""

    @given(st.binary(max_size=80))
    def test_arbitrary_bytes(self, data: bytes) -> None:
        try:
            entries = unpack_entries(data, 1)
        except ValueError:
            return
        assert pack_entries(entries) == data

    @given(logs(), st.data())
    def test_a_changed_byte(self, entries: list[Entry], data: st.DataObject) -> None:
        """What can still be unpacked packs to the very same bytes."""
        changed = bytearray(pack_entries(entries))
        position = data.draw(st.integers(0, len(changed) - 1))
        changed[position] ^= data.draw(st.integers(1, 255))
        try:
            found = unpack_entries(bytes(changed), 1)
        except ValueError:
            return
        assert pack_entries(found) == changed

    @given(logs(), st.data())
    def test_too_short(self, entries: list[Entry], data: st.DataObject) -> None:
        whole = pack_entries(entries)
        length = data.draw(st.integers(0, len(whole) - 1))
        with pytest.raises(ValueError, match=r"fewer|short|length"):
            unpack_entries(whole[:length], 1)

    @pytest.mark.parametrize(
        ("data", "sentence"),
        [
            (packed((1, 1, 1), lengths=(), rest=b""), "fewer entries"),
            (packed((1, 1, 1), lengths=(2,), rest=b"a"), "the length is not"),
            (packed((1, 1, 2), lengths=(0,), rest=b""), "not as long"),
            (packed((1, 9, 1), lengths=(0,), rest=b""), "unknown kind"),
            (packed((2**63, 1, 1), lengths=(0,), rest=b""), "impossible term"),
            (packed((2, 1, 1), (1, 1, 1), lengths=(0, 0), rest=b""), "impossible term"),
            (packed((2, 1, 1), (2, 1, 1), lengths=(0, 0), rest=b""), "shorter than"),
            (packed((2, 1, 0), (2, 0, 1), lengths=(0, 0), rest=b""), "shorter than"),
        ],
    )
    def test_what_cannot_be(self, data: bytes, sentence: str) -> None:
        with pytest.raises(ValueError, match=sentence):
            unpack_entries(data, 1)

    def test_a_count_that_the_bytes_do_not_back(self) -> None:
        """No memory is taken for four thousand million entries."""
        with pytest.raises(ValueError, match="fewer entries"):
            unpack_entries(struct.pack(">II", 2**32 - 1, 1), 1)


class FittingTests:
    """How many entries have room."""

    @pytest.mark.parametrize(
        ("room", "least", "count"),
        [(0, 1, 1), (0, 0, 0), (2, 0, 0), (3, 1, 1), (5, 1, 1), (6, 1, 3), (99, 1, 3)],
    )
    def test_as_many_as_have_room(self, room: int, least: int, count: int) -> None:
        """An empty one has room where there is none; some may have to come."""
        commands = b"one", b"two", b""
        entries = [Entry(n, 1, 1, each) for n, each in enumerate(commands, 1)]
        assert fitting(entries, room, least) == entries[:count]

    def test_of_none(self) -> None:
        assert fitting([], 10) == []
