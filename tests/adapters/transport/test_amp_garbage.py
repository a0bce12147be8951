"""
Arbitrary bytes on a connection: an error for it, and nothing for anybody else.

Whatever comes, in whatever pieces, :meth:`dataReceived` raises nothing, and
what it keeps is bounded by the options.
"""

from __future__ import annotations

import random
from itertools import cycle, pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.testing import StringTransport

from adapters.transport.amp_bytes import encode_box
from adapters.transport.amp_codec import encode
from adapters.transport.amp_connection import Connection
from consensus.core.messages import AppendEntries, RequestVote
from consensus.core.values import Entry, EntryKind
from tests.support.amp import World

if TYPE_CHECKING:
    from collections.abc import Iterator

    from adapters.transport.amp import AMPTransport

_MOST = 100_000
_CALLS = 50
_GARBAGE = 3_000_000

#: One box comes in whole, and one piece of TCP on top of it.
_BOUND = _MOST + 2 * 65_536 + 64 * 1024

HELLO = encode_box(
    [
        (b"_command", b"Hello"),
        (b"_ask", b"1"),
        (b"min_version", b"1"),
        (b"max_version", b"1"),
        (b"cluster", b"c"),
        (b"server", b"s2"),
        (b"incarnation", b"1"),
        (b"to", b"s1"),
    ]
)


def message_box(data: bytes, key: bytes = b"last") -> bytes:
    """Return the box of a message."""
    return encode_box([(b"_command", b"Message"), (key, data)])


def call_box(method: bytes, payload: bytes, tag: bytes = b"7") -> bytes:
    """Return the box of a call."""
    return encode_box(
        [
            (b"_ask", tag),
            (b"_command", b"Call"),
            (b"method", method),
            (b"payload", payload),
            (b"version", b"1"),
        ]
    )


VOTE = message_box(encode(RequestVote("s2", 7, 6, 5)))
APPEND = message_box(
    encode(
        AppendEntries(
            "s2", 7, 3, 2, 3, 1, (Entry(4, 7, EntryKind.COMMAND, b"x" * 300),)
        )
    )
)
VALID = [
    HELLO,
    VOTE,
    APPEND,
    message_box(b"a part", b"part"),
    call_box(b"echo", b"payload"),
    call_box(b"fail", b""),
    encode_box([(b"_ask", b"3"), (b"_command", b"Ping")]),
    encode_box([(b"_ask", b"3"), (b"_command", b"Fly")]),
    encode_box([(b"_answer", b"1"), (b"x", b"y")]),
    encode_box([(b"_error", b"1"), (b"_error_code", b"storage")]),
]


class Wire:
    """A connection that s1 accepted, and what it keeps."""

    def __init__(self) -> None:
        self.world = World()
        self.transport: AMPTransport = self.world.server(
            "s1", max_message_bytes=_MOST, max_calls=_CALLS, max_unsent_bytes=_MOST
        )
        self.connection: Any = Connection(self.transport, is_accepted=True)
        self.wire: Any = StringTransport()
        self.connection.makeConnection(self.wire)  # type: ignore[no-untyped-call] # Twisted's
        #: The most bytes that it kept at once.
        self.peak = 0

    @property
    def is_dropped(self) -> bool:
        """Say whether the server has had enough."""
        return not self.connection.is_open

    def feed(self, data: bytes) -> None:
        """Let *data* arrive; Twisted delivers nothing after a close."""
        if self.is_dropped:
            return
        connection = self.connection
        connection.dataReceived(data)
        kept = len(connection._rest) + connection._parts_bytes
        self.peak = max(self.peak, kept)
        assert connection._calls <= _CALLS
        self.wire.clear()

    def stream(self, pieces: Iterator[bytes], sizes: tuple[int, ...]) -> int:
        """Let *pieces* arrive, cut into *sizes*; return how many bytes were taken."""
        rest, taken = bytearray(), 0
        for size in cycle(sizes):
            while len(rest) < size:
                rest += next(pieces)
            self.feed(bytes(rest[:size]))
            del rest[:size]
            taken += size
            if taken > _GARBAGE or self.is_dropped:
                return taken
        return taken


@st.composite
def cut(draw: st.DrawFn, stream: bytes) -> list[bytes]:
    """Draw pieces of *stream*."""
    at = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    bounds = [0, *at, len(stream)]
    return [stream[first:last] for first, last in pairwise(bounds)]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Draw boxes that are almost right."""
    boxes = draw(st.lists(st.sampled_from(VALID), min_size=1, max_size=6))
    stream = bytearray(b"".join([HELLO, *boxes] if draw(st.booleans()) else boxes))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(stream) - 1))
        match draw(st.integers(0, 3)):
            case 0:
                stream[at] = draw(st.integers(0, 255))
            case 1:
                stream[at:at] = draw(st.binary(max_size=4))
            case 2:
                stream[at:at] = stream[at : at + draw(st.integers(1, 40))]
            case _ if len(stream) > 9:
                del stream[at : at + draw(st.integers(1, 8))]
    return bytes(stream)


class GarbageTests:
    """Short streams, of any bytes."""

    @given(st.binary(max_size=400).flatmap(cut), st.booleans())
    def test_any_bytes(self, pieces: list[bytes], is_introduced: bool) -> None:  # noqa: FBT001 - Hypothesis draws it
        """No bytes make a connection raise, before Hello or after it."""
        wire = Wire()
        if is_introduced:
            wire.feed(HELLO)
            assert wire.connection.peer == "s2"
        for piece in pieces:
            wire.feed(piece)
        assert wire.world.inboxes["s1"].messages == []

    @settings(max_examples=400)
    @given(mutated().flatmap(cut))
    def test_almost_right_boxes(self, pieces: list[bytes]) -> None:
        """Of changed boxes, messages of the sender alone get through."""
        wire = Wire()
        for piece in pieces:
            wire.feed(piece)
        for message in wire.world.inboxes["s1"].messages:
            assert message.sender == wire.connection.peer

    def test_right_boxes(self) -> None:
        """What the others are made of is right: it gets through."""
        wire = Wire()
        for box in VALID[:3]:
            wire.feed(box)
        assert not wire.is_dropped
        assert len(wire.world.inboxes["s1"].messages) == 2


def noise() -> Iterator[bytes]:
    """Yield random bytes."""
    dice = random.Random(3)  # noqa: S311 - reproducible, not secret
    while True:
        yield dice.randbytes(5000)


def endless_box() -> Iterator[bytes]:
    """Yield one box that never ends."""
    for number in cycle(range(1, 9)):
        yield b"\0\x01%d" % number + b"\xff\xff" + bytes(65_535)


def endless_keys() -> Iterator[bytes]:
    """Yield a box of more and more empty values."""
    number = 0
    while True:
        number += 1
        yield b"\0\x04%04d\0\0" % (number % 10_000)


def endless_message() -> Iterator[bytes]:
    """Yield parts of a message whose last one never comes."""
    while True:
        yield message_box(bytes(1000), b"part")


def endless_crumbs() -> Iterator[bytes]:
    """Yield parts of a message without a byte in them."""
    while True:
        yield message_box(b"", b"part")


def unanswered_calls() -> Iterator[bytes]:
    """Yield calls that this server takes long to answer."""
    number = 0
    while True:
        number += 1
        yield call_box(b"wait", bytes(900), b"%d" % number)


def half_a_length() -> Iterator[bytes]:
    """Yield the beginning of a value, again and again."""
    while True:
        yield b"\0\x08_command\xff\xff"


class BoundTests:
    """Megabytes, in odd pieces."""

    @pytest.mark.parametrize("sizes", [(1460,), (65_536, 1, 7), (3, 20_001)])
    @pytest.mark.parametrize("is_introduced", [False, True])
    @pytest.mark.parametrize(
        "garbage",
        [
            *(noise, endless_box, endless_keys, endless_message, endless_crumbs),
            *(unanswered_calls, half_a_length),
        ],
    )
    def test_memory_is_bounded(
        self,
        garbage: Any,
        is_introduced: bool,  # noqa: FBT001 - a parameter of the table
        sizes: tuple[int, ...],
    ) -> None:
        """What is kept of a stream never exceeds the options, and a piece."""
        wire = Wire()
        if is_introduced:
            wire.feed(HELLO)
        taken = wire.stream(garbage(), sizes)
        assert wire.peak <= _BOUND
        assert wire.is_dropped or taken > _GARBAGE
        wire.connection.connectionLost()
        assert not wire.connection._rest

    def test_answers_that_nobody_takes_are_bounded(self) -> None:
        """Who asks for answers and reads none is dropped, not waited for."""
        ping = encode_box([(b"_ask", b"x" * 1000), (b"_command", b"Ping")])
        message = encode_box(
            [
                (b"_ask", b"x" * 1000),
                (b"_command", b"Message"),
                (b"last", encode(RequestVote("s2", 7, 6, 5))),
            ]
        )
        for box in (ping, message):
            wire = Wire()
            wire.feed(HELLO)
            wire.connection.pauseProducing()
            for _ in range(1000):
                wire.feed(box)
            assert wire.is_dropped
            assert wire.connection.unsent <= 2 * _MOST
