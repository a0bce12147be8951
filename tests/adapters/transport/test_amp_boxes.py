"""Tests of adapters.transport.amp_boxes: the box format and its limits."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.abstract import FileDescriptor
from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactor, StringTransport
from twisted.protocols import amp
from twisted.python.failure import Failure

from adapters.transport.amp_boxes import Box, BoxProtocol
from adapters.transport.amp_bytes import encode_box
from adapters.transport.amp_commands import MAX_PART_BYTES, join_bytes
from consensus.errors import (
    NotLeaderError,
    OutcomeUnknownError,
    ProtocolError,
    TimedOutError,
    UnreachableError,
)
from tests.support.deferreds import error_of, has_fired, result_of

MAX_BOX_BYTES = 200_000


class Socket(FileDescriptor):
    """
    Twisted's buffer before a socket, and a socket that takes what the test likes.

    Args:
        room: How many bytes it takes.
    """

    def __init__(self, room: int = 1 << 30) -> None:
        reactor: Any = MemoryReactor()
        super().__init__(reactor)
        self.writers: Any = reactor.getWriters
        self.connected = 1
        self.room = room
        self.taken = b""
        #: How often somebody tried to write.
        self.tries = 0
        self.error: Exception | None = None

    def writeSomeData(self, data: bytes) -> int | Exception:
        """Take some bytes, or say what is wrong."""
        self.tries += 1
        if self.error is not None:
            return self.error
        some = bytes(data[: self.room])
        self.room -= len(some)
        self.taken += some
        return len(some)

    def abortConnection(self) -> None:
        """Write no more."""
        self.stopWriting()  # type: ignore[no-untyped-call] # Twisted's

    def run(self) -> object:
        """Do what the reactor does when the socket takes more."""
        result: object = self.doWrite()  # type: ignore[no-untyped-call] # Twisted's
        return result

    @property
    def is_waiting(self) -> bool:
        """Say whether the reactor is to write more when it can."""
        return self in self.writers()


class Recorder(BoxProtocol):
    """A connection's end that keeps what arrives."""

    def __init__(self, socket: Socket | None = None) -> None:
        self.time = Clock()
        super().__init__(self.time, MAX_BOX_BYTES)
        self.messages: list[bytes] = []
        self.commands: list[tuple[bytes, bytes | None, Box]] = []
        self.payloads: list[tuple[bytes, bytes]] = []
        self.violations: list[ProtocolError] = []
        self.wire = StringTransport()
        self.transport = self.wire if socket is None else socket
        self.connectionMade()

    def part_received(self) -> None:
        pass

    def message_received(self, data: bytes) -> None:
        self.messages.append(data)

    def messages_end(self) -> None:
        pass

    def command_received(self, command: bytes, tag: bytes | None, box: Box) -> None:
        self.commands.append((command, tag, box))

    def payload_received(self, tag: bytes, payload: bytes) -> None:
        self.payloads.append((tag, payload))

    def violated(self, error: ProtocolError) -> None:
        self.violations.append(error)

    def sent(self) -> list[Box]:
        """Return the boxes that were written, as Twisted reads them."""
        boxes: list[Box] = [dict(box) for box in amp.parseString(self.wire.value())]
        self.wire.clear()
        return boxes


def box_of(**items: bytes) -> bytes:
    """Return a box as Twisted writes it."""
    box: Any = amp.Box({key.encode(): value for key, value in items.items()})
    serialized: bytes = box.serialize()
    return serialized


def refusal(data: bytes) -> str:
    """Return why a connection that receives *data* is dropped."""
    recorder = Recorder()
    recorder.dataReceived(data)
    assert recorder.wire.disconnecting
    (violation,) = recorder.violations
    return str(violation)


class ReadingTests:
    """Boxes that another AMP library wrote."""

    def test_a_command(self) -> None:
        recorder = Recorder()
        recorder.dataReceived(box_of(_command=b"Fly", _ask=b"1", height=b"9"))
        ((command, tag, box),) = recorder.commands
        assert (command, tag, box[b"height"]) == (b"Fly", b"1", b"9")

    @given(
        st.lists(
            st.one_of(
                st.binary(max_size=300).map(lambda data: ("message", data)),
                st.binary(max_size=300).map(lambda data: ("command", data)),
            ),
            max_size=8,
        ),
        st.data(),
    )
    def test_it_does_not_matter_how_bytes_are_cut(
        self, sent: list[tuple[str, bytes]], data: st.DataObject
    ) -> None:
        """Boxes arrive whole and in order, however TCP delivers them."""
        stream = b"".join(
            box_of(_command=b"Message", last=value)
            if kind == "message"
            else box_of(_command=b"Fly", _ask=b"1", value=value)
            for kind, value in sent
        )
        cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=12))
        recorder = Recorder()
        before = 0
        for cut in [*sorted(cuts), len(stream)]:
            recorder.dataReceived(stream[before:cut])
            before = cut
        assert recorder.messages == [value for kind, value in sent if kind == "message"]
        assert [box[b"value"] for _, _, box in recorder.commands] == [
            value for kind, value in sent if kind == "command"
        ]
        assert recorder.violations == []

    @given(
        st.lists(
            st.dictionaries(
                st.binary(min_size=1, max_size=20).filter(
                    lambda key: not key.startswith((b"_", b"last", b"part"))
                ),
                st.binary(max_size=300),
                max_size=6,
            ).map(lambda items: {**items, b"_command": b"Call", b"_ask": b"1f"}),
            max_size=5,
        ),
        st.data(),
    )
    def test_keys_in_any_order(self, boxes: list[Box], data: st.DataObject) -> None:
        """A box means the same whatever order its keys have, and however it is cut."""
        orders = [data.draw(st.permutations(sorted(box))) for box in boxes]
        stream = b"".join(
            encode_box((key, box[key]) for key in order)
            for box, order in zip(boxes, orders, strict=True)
        )
        assert [dict(box) for box in amp.parseString(stream)] == boxes
        cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=12))
        recorder = Recorder()
        for first, last in pairwise([0, *sorted(cuts), len(stream)]):
            recorder.dataReceived(stream[first:last])
        assert [box for _, _, box in recorder.commands] == boxes
        assert recorder.violations == []

    @given(st.integers(0, MAX_BOX_BYTES // 2))
    def test_an_answer_is_what_twisted_reads(self, size: int) -> None:
        """However large: it has as many keys as it takes."""
        recorder = Recorder()
        payload = bytes(size)
        recorder.answer_bytes(b"2a", payload)
        (box,) = recorder.sent()
        assert box.pop(b"_answer") == b"2a"
        assert join_bytes(b"payload", box) == payload

    def test_keys_that_come_again_are_counted(self) -> None:
        """What is read again and again while it is not complete has an end."""
        assert "too many keys" in refusal(b"\0\1k\0\0" * 100)

    def test_an_incomplete_box_is_not_read_for_each_byte(self) -> None:
        """But when its next length or value is there."""
        recorder = Recorder()
        stream = encode_box([(b"_command", b"Fly"), (b"height", bytes(5000))])
        reads: list[int] = []
        consume = recorder._consume
        recorder._consume = lambda buffer: reads.append(0) or consume(buffer)  # type: ignore[func-returns-value, method-assign]
        for at in range(len(stream)):
            recorder.dataReceived(stream[at : at + 1])
        assert len(recorder.commands) == 1
        assert len(reads) <= 10

    def test_byte_by_byte(self) -> None:
        """A message of which one byte comes at a time arrives once, at its end."""
        recorder = Recorder()
        stream = box_of(_command=b"Message", last=b"hello") * 2
        for number in range(len(stream)):
            recorder.dataReceived(stream[number : number + 1])
        assert recorder.messages == [b"hello", b"hello"]

    def test_a_message_in_parts(self) -> None:
        recorder = Recorder()
        recorder.dataReceived(box_of(_command=b"Message", part=b"one "))
        recorder.dataReceived(box_of(_command=b"Message", part=b"two "))
        assert recorder.messages == []
        recorder.dataReceived(box_of(_command=b"Message", last=b"three"))
        recorder.dataReceived(box_of(_command=b"Message", last=b"next"))
        assert recorder.messages == [b"one two three", b"next"]

    def test_a_message_with_other_keys(self) -> None:
        """A box of Message that is built another way means the same."""
        recorder = Recorder()
        recorder.dataReceived(
            b"\0\x04last\0\x02hi\0\x08_command\0\x07Message\0\0"
            b"\0\x08_command\0\x07Message\0\x04last\0\x02ho\0\x04more\0\0\0\0"
        )
        assert recorder.messages == [b"hi", b"ho"]

    def test_a_message_that_asks_is_answered(self) -> None:
        """Libraries that know no commands without answers can send messages."""
        recorder = Recorder()
        recorder.dataReceived(box_of(_command=b"Message", _ask=b"7", last=b"hi"))
        assert recorder.messages == [b"hi"]
        assert recorder.sent() == [{b"_answer": b"7"}]

    def test_a_large_box_arrives_in_pieces(self) -> None:
        """Values of the largest size, spread over many reads."""
        recorder = Recorder()
        items = {f"k{number}": bytes([number]) * 65_535 for number in range(3)}
        stream = box_of(_command=b"Fly", **items)
        for first in range(0, len(stream), 1_000):
            recorder.dataReceived(stream[first : first + 1_000])
        ((_, tag, box),) = recorder.commands
        assert tag is None
        assert [box[key.encode()] for key in items] == list(items.values())


class ExpectedTests:
    """Boxes like those before go to a method of their own."""

    def test_one(self) -> None:
        """Only with the same bytes between its tag and its payload."""
        recorder = Recorder()
        recorder.expected = b"\0\x08_command\0\x03Fly\0\x07payload"
        recorder.dataReceived(box_of(_ask=b"1", _command=b"Fly", payload=b"up"))
        recorder.dataReceived(box_of(_ask=b"2", _command=b"Dive", payload=b"down"))
        assert recorder.payloads == [(b"1", b"up")]
        ((command, tag, _),) = recorder.commands
        assert (command, tag) == (b"Dive", b"2")

    def test_one_that_is_too_large(self) -> None:
        """The bound of a box is the same, however it is read."""
        recorder = Recorder()
        recorder.expected = b"\0\x08_command\0\x03Fly\0\x07payload"
        recorder._max_box_bytes = 100
        recorder.dataReceived(box_of(_ask=b"1", _command=b"Fly", payload=bytes(101)))
        assert recorder.payloads == []
        assert "larger than 100 bytes" in str(recorder.violations[0])


class HostileBytesTests:
    """What breaks the rules costs its sender the connection."""

    @given(st.binary(max_size=300))
    def test_arbitrary_bytes(self, data: bytes) -> None:
        """Nothing but the connection suffers."""
        recorder = Recorder()
        recorder.dataReceived(data)
        assert recorder.wire.disconnecting == bool(recorder.violations)

    def test_a_key_that_is_too_long(self) -> None:
        """An HTTP client, say: its first bytes are no length of a key."""
        assert "255" in refusal(b"GET / HTTP/1.1\r\n")

    def test_a_box_that_is_nothing(self) -> None:
        assert "no command" in refusal(box_of(height=b"9"))

    def test_an_empty_box(self) -> None:
        assert "no command" in refusal(b"\0\0")

    def test_a_message_without_bytes(self) -> None:
        assert "neither" in refusal(box_of(_command=b"Message", height=b"9"))

    def test_too_many_keys(self) -> None:
        keys = b"".join(b"\0\x02%02d\0\0" % number for number in range(30))
        assert "too many keys" in refusal(keys)

    def test_a_box_that_is_too_large(self) -> None:
        """It is refused when it passes the limit, not when it ends."""
        value = b"\xff\xff" + bytes(65_535)
        assert "larger than 200000" in refusal(
            b"".join(b"\0\x01%d" % number + value for number in range(4))
        )

    def test_a_message_that_is_too_large(self) -> None:
        part = box_of(_command=b"Message", part=bytes(60_000))
        assert "larger than 200000" in refusal(part * 4)

    def test_a_message_of_countless_parts(self) -> None:
        """Empty parts cost memory too, and are counted."""
        part = box_of(_command=b"Message", part=b"")
        assert "larger than 200000" in refusal(part * 4_000)

    def test_many_small_boxes_are_no_large_one(self) -> None:
        """The bound is for each box, and for each message."""
        recorder = Recorder()
        for _ in range(5):
            recorder.dataReceived(box_of(_command=b"Fly", height=bytes(60_000)))
            recorder.dataReceived(box_of(_command=b"Message", part=bytes(60_000)))
            recorder.dataReceived(box_of(_command=b"Message", last=b""))
        assert recorder.violations == []
        assert len(recorder.commands) == len(recorder.messages) == 5

    def test_nothing_is_handled_after_a_violation(self) -> None:
        recorder = Recorder()
        good = box_of(_command=b"Fly")
        recorder.dataReceived(good + b"\0\0" + good)
        recorder.dataReceived(good)
        assert len(recorder.commands) == 1

    def test_an_answer_to_nothing(self) -> None:
        """It may be late, for a call that was cancelled: no offence."""
        recorder = Recorder()
        recorder.dataReceived(box_of(_answer=b"99") + box_of(_error=b"98"))
        assert recorder.violations == []

    def test_rubbish_is_not_kept(self) -> None:
        """What was not complete when the connection was lost is forgotten."""
        recorder = Recorder()
        recorder.dataReceived(b"\0\x08_command\xff\xff" + bytes(5_000))
        recorder.connectionLost(Failure(ConnectionDone()))
        assert not recorder._rest


class WritingTests:
    """Boxes that Twisted's own AMP can read."""

    def test_a_box(self) -> None:
        data = encode_box([(b"_command", b"Fly"), (b"height", bytes(65_535))])
        assert data == box_of(_command=b"Fly", height=bytes(65_535))

    @pytest.mark.parametrize(
        "size",
        [0, 1, MAX_PART_BYTES, MAX_PART_BYTES + 1, 2 * MAX_PART_BYTES, 150_000],
    )
    def test_a_message_in_as_many_boxes_as_it_takes(self, size: int) -> None:
        """No box is larger than 64 KiB, and the last says that it is."""
        sender, receiver = Recorder(), Recorder()
        data = bytes(range(256)) * (size // 256) + bytes(size % 256)
        sender.send_message(data)
        stream = sender.wire.value()
        boxes = sender.sent()
        assert {box[b"_command"] for box in boxes} == {b"Message"}
        assert all(b"part" in box for box in boxes[:-1])
        assert b"last" in boxes[-1]
        assert max(len(encode_box(box.items())) for box in boxes) <= 65_536
        receiver.dataReceived(stream)
        assert receiver.messages == [data]

    def test_what_waits_is_counted(self) -> None:
        """Bytes count while the transport does not keep up, and only then."""
        recorder = Recorder()
        recorder.write(b"12345")
        assert recorder.unsent == 0
        recorder.pauseProducing()
        recorder.write(b"12345")
        recorder.write(b"123")
        assert recorder.unsent == 8
        recorder.resumeProducing()
        assert recorder.unsent == 0

    def test_the_transport_tells_how_it_gets_on(self) -> None:
        recorder = Recorder()
        assert recorder.wire.producer is recorder
        assert recorder.wire.streaming

    def test_finish_sends_what_waits(self) -> None:
        """A producer would keep Twisted from closing, so it leaves first."""
        recorder = Recorder()
        recorder.finish()
        assert recorder.wire.disconnecting
        assert recorder.wire.producer is None
        assert not recorder.is_open
        recorder.dataReceived(box_of(_command=b"Fly"))
        assert recorder.commands == []


class AtOnceTests:
    """Messages do not wait for the reactor's next turn, if the socket takes them."""

    MESSAGE = box_of(_command=b"Message", last=b"hello")

    def test_a_message(self) -> None:
        """It has left when the call returns, and the reactor has nothing to do."""
        socket = Socket()
        Recorder(socket).send_message(b"hello")
        assert socket.taken == self.MESSAGE
        assert not socket.is_waiting

    def test_what_is_no_message_waits(self) -> None:
        """Answers go together, on the next turn, and messages after them too."""
        socket = Socket()
        recorder = Recorder(socket)
        recorder.answer(b"1", ())
        recorder.answer(b"2", ())
        recorder.send_message(b"hello")
        assert socket.taken == b""
        socket.run()
        assert socket.tries == 1
        answers = box_of(_answer=b"1") + box_of(_answer=b"2")
        assert socket.taken == answers + self.MESSAGE

    def test_a_socket_that_takes_a_part(self) -> None:
        """The reactor sends the rest, before any other message."""
        socket = Socket(room=5)
        recorder = Recorder(socket)
        recorder.send_message(b"hello")
        recorder.send_message(b"hello")
        assert socket.taken == self.MESSAGE[:5]
        assert socket.is_waiting
        socket.room = 1000
        socket.run()
        assert socket.taken == 2 * self.MESSAGE
        assert not socket.is_waiting

    def test_a_socket_that_does_not_keep_up(self) -> None:
        """Nobody tries until the reactor finds that it takes more."""
        socket = Socket(room=0)
        recorder = Recorder(socket)
        recorder.send_message(bytes(MAX_PART_BYTES))
        recorder.send_message(bytes(MAX_PART_BYTES))
        tries, unsent = socket.tries, recorder.unsent
        recorder.send_message(b"hello")
        assert socket.tries == tries
        assert recorder.unsent == unsent + len(self.MESSAGE)
        socket.room = 1 << 30
        while socket.is_waiting:
            socket.run()
        assert recorder.unsent == 0
        assert socket.taken.endswith(self.MESSAGE)
        recorder.send_message(b"hello")
        assert socket.taken.endswith(2 * self.MESSAGE)

    def test_a_socket_that_fails(self) -> None:
        """The reactor will see that too: it closes the connection, nobody else."""
        socket = Socket()
        recorder = Recorder(socket)
        socket.error = ConnectionLost()
        recorder.send_message(b"hello")
        assert recorder.is_open
        assert socket.is_waiting
        assert socket.run() is socket.error

    @pytest.mark.parametrize("end", ["drop", "finish"])
    def test_a_connection_that_is_over(self, end: str) -> None:
        """Nobody tries to write on it."""
        socket = Socket()
        recorder = Recorder(socket)
        getattr(recorder, end)()
        recorder.send_message(b"hello")
        assert socket.tries == 0

    def test_a_connection_that_was_lost(self) -> None:
        """Likewise."""
        socket = Socket()
        recorder = Recorder(socket)
        recorder.connectionLost(Failure(ConnectionDone()))
        recorder.send_message(b"hello")
        assert socket.tries == 0

    def test_a_transport_without_a_socket(self) -> None:
        """What cannot be asked to write at once writes when it likes."""
        recorder = Recorder()
        recorder.send_message(b"hello")
        assert recorder.wire.value() == self.MESSAGE


class AskingTests:
    """Commands that wait for their answers."""

    def test_an_answer(self) -> None:
        recorder = Recorder()
        answer = recorder.ask(b"Fly", [(b"height", b"9")], timeout=1.0)
        (box,) = recorder.sent()
        assert (box[b"_command"], box[b"height"]) == (b"Fly", b"9")
        assert not has_fired(answer)
        recorder.dataReceived(box_of(_answer=box[b"_ask"], landed=b"yes"))
        assert result_of(answer)[b"landed"] == b"yes"
        assert recorder.asked == 0

    def test_answers_out_of_order(self) -> None:
        recorder = Recorder()
        answers = [recorder.ask(b"Fly", (), timeout=1.0) for _ in range(3)]
        tags = [box[b"_ask"] for box in recorder.sent()]
        for tag in reversed(tags):
            recorder.dataReceived(box_of(_answer=tag, again=tag))
        assert [result_of(answer)[b"again"] for answer in answers] == tags

    def test_an_error(self) -> None:
        recorder, server = Recorder(), Recorder()
        answer = recorder.ask(b"Fly", (), timeout=1.0)
        server.refuse(recorder.sent()[0][b"_ask"], NotLeaderError("s2", "tcp:h:1"))
        recorder.dataReceived(server.wire.value())
        error = error_of(answer)
        assert isinstance(error, NotLeaderError)
        assert (error.leader, error.address) == ("s2", "tcp:h:1")

    def test_an_error_that_says_nothing(self) -> None:
        """Whatever another server writes, the caller gets one of our errors."""
        recorder = Recorder()
        answer = recorder.ask(b"Fly", (), timeout=1.0)
        recorder.dataReceived(box_of(_error=recorder.sent()[0][b"_ask"]))
        assert isinstance(error_of(answer), OutcomeUnknownError)

    def test_each_deadline_is_kept(self) -> None:
        """One timer serves all, whichever was asked first or last."""
        recorder = Recorder()
        slow = recorder.ask(b"Fly", (), timeout=3.0)
        quick = recorder.ask(b"Fly", (), timeout=1.0)
        middle = recorder.ask(b"Fly", (), timeout=2.0)
        for late, waiting in ((quick, (middle, slow)), (middle, (slow,)), (slow, ())):
            recorder.time.advance(0.9)
            assert not has_fired(late)
            recorder.time.advance(0.1)
            assert isinstance(error_of(late), TimedOutError)
            assert not any(has_fired(answer) for answer in waiting)
        assert recorder.time.calls == []

    def test_a_late_answer_is_dropped(self) -> None:
        recorder = Recorder()
        answer = recorder.ask(b"Fly", (), timeout=1.0)
        recorder.time.advance(1.0)
        assert isinstance(error_of(answer), TimedOutError)
        recorder.dataReceived(box_of(_answer=recorder.sent()[0][b"_ask"]))
        assert recorder.violations == []

    def test_a_lost_connection_leaves_the_outcome_unknown(self) -> None:
        recorder = Recorder()
        answer = recorder.ask(b"Fly", (), timeout=1.0)
        recorder.connectionLost(Failure(ConnectionDone()))
        assert type(error_of(answer)) is OutcomeUnknownError
        assert recorder.time.calls == []

    def test_nothing_is_asked_on_a_closed_connection(self) -> None:
        """The error says that nothing was sent."""
        recorder = Recorder()
        recorder.drop()
        answer = recorder.ask(b"Fly", (), timeout=1.0)
        assert isinstance(error_of(answer), UnreachableError)
        assert recorder.wire.value() == b""

    def test_cancel(self) -> None:
        recorder = Recorder()
        answer = recorder.ask(b"Fly", (), timeout=1.0)
        answer.cancel()
        assert isinstance(error_of(answer), CancelledError)
        assert recorder.asked == 0

    def test_cancelling_another_in_an_errback(self) -> None:
        """What fails together may be cancelled by one of them."""
        recorder = Recorder()
        first = recorder.ask(b"Fly", (), timeout=1.0)
        second = recorder.ask(b"Fly", (), timeout=1.0)
        first.addErrback(lambda _: second.cancel())
        recorder.time.advance(1.0)
        assert isinstance(error_of(second), CancelledError)
