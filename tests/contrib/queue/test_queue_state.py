"""Tests of contrib.queue.heap, contrib.queue.snapshot and contrib.queue.commands."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.applications.state_rows import RowsSnapshot
from consensus.errors import InvalidCommandError, StorageError
from contrib.queue import Ack, Delivered, Item, Put, Queues, Receive
from contrib.queue.commands import decode, encode
from contrib.queue.heap import LazyHeap
from contrib.queue.records import Attempt, Head, Message, Ticket
from contrib.queue.snapshot import ROWS

MESSAGE = Message(1, "q", b"x", 0, 0, 5)


class HeapTests:
    """The least item that is alive."""

    @given(st.lists(st.integers(0, 300)), st.sets(st.integers(0, 300)))
    def test_order(self, items: list[int], dead: set[int]) -> None:
        heap: LazyHeap[int] = LazyHeap(lambda item: item not in dead)
        for item in items:
            heap.push(item)
        living = sorted(set(items) - dead)
        assert list(heap.in_order()) == living
        heap.tidy(len(living))
        assert heap.first() == (living[0] if living else None)
        assert list(heap.in_order()) == living

    def test_the_dead_are_few(self) -> None:
        living: set[int] = {0}
        heap: LazyHeap[int] = LazyHeap(living.__contains__)
        heap.push(0)
        for item in range(1, 1000):
            heap.push(item)
            heap.tidy(len(living))
        assert len(heap._items) <= 66


class CommandTests:
    """Commands as bytes."""

    def test_the_format(self) -> None:
        """An old log is read by every later release."""
        data = bytes.fromhex("01 92 a3") + b"ack" + bytes([7])
        assert encode(Ack(7)) == data
        assert decode(data) == Ack(7)
        put = bytes.fromhex("01 93 a3") + b"put" + bytes.fromhex("a1 71 91 91 c4 01 78")
        assert decode(put) == Put("q", (Item(b"x"),))

    @pytest.mark.parametrize(
        "wrong",
        [
            Receive("q", 0),
            Receive("q", 1001),
            Receive("", 1),
            Receive("q" * 256),
            Ack(0),
            Ack(2**63),
            Put("q", ()),
            Put("q" * 251, (Item(b"x"),)),
            Put("q", (Item(b"x", priority=2**31),)),
            Put("q", (Item(b"x", delay=-1),)),
        ],
    )
    def test_what_is_out_of_range(self, wrong: Any) -> None:
        with pytest.raises(InvalidCommandError):
            encode(wrong)

    @pytest.mark.parametrize(
        "data", [b"", b"\2\x91\xa3ack", b"\1", b"\1\xc1", b"\1\x90"]
    )
    def test_what_is_no_command(self, data: bytes) -> None:
        with pytest.raises(InvalidCommandError):
            decode(data)

    def test_what_is_no_result(self) -> None:
        with pytest.raises(InvalidCommandError, match="no command"):
            Queues().encode(object())
        with pytest.raises(InvalidCommandError):
            encode(Delivered("x"))  # type: ignore[arg-type]


class SnapshotTests:
    """Snapshots are read with care."""

    @pytest.mark.parametrize(
        "rows",
        [
            [],
            [MESSAGE],
            [Head(), Head()],
            [Head(), MESSAGE, MESSAGE],
            [Head(), *[Ticket(1, "q", 1, 1, 9)] * 2],
            [
                Head(),
                *(
                    msgspec.structs.replace(MESSAGE, id=number, due=9, receipt=4)
                    for number in (1, 2)
                ),
            ],
        ],
    )
    def test_what_does_not_fit(self, rows: list[Any]) -> None:
        with pytest.raises(StorageError, match="not a snapshot of the queues"):
            ROWS.restore(RowsSnapshot(1, rows).chunks())

    def test_a_later_release(self) -> None:
        with pytest.raises(StorageError, match="version 2"):
            ROWS.restore(RowsSnapshot(2, [Head()]).chunks())

    def test_a_whole_message(self) -> None:
        """Each field is there again."""
        message = Message(
            *(3, "q.dead", b"x", -1, 5, 9, 2, 77, 8, 6, 4, "q"),
            history=(Attempt(1, 2, "bad"),),
        )
        ticket = Ticket(4, "q.dead", 2, 70, 0, (8,))
        state = ROWS.restore(
            RowsSnapshot(1, [Head(7, 9, 9, 9), ticket, message]).chunks()
        )
        assert state.messages == {3: message}
        assert state.tickets == {4: ticket}
        assert state.head() == Head(7, 9, 9, 9)
