"""Unit tests for ``tests/bench/grpc.py``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from tests.bench.grpc import CallError, Connection, frame, headers, message

if TYPE_CHECKING:
    from twisted.python.failure import Failure

DATA, HEADERS, RESET, SETTINGS, PING, WINDOW = 0, 1, 3, 4, 6, 8
END, ACK = 1, 1


class MessageTests(SynchronousTestCase):
    """What is sent."""

    def test_fields(self) -> None:
        """Fields are numbered from 1, and their lengths may take two bytes."""
        body = b"\x0a\x01k\x12\x80\x02" + b"v" * 256
        found = message(b"k", b"v" * 256)
        assert found == b"\x00" + len(body).to_bytes(4) + body

    def test_frame(self) -> None:
        """A frame's length takes three bytes, and its stream four."""
        assert frame(DATA, END, 3, b"abc") == b"\x00\x00\x03\x00\x01\x00\x00\x00\x03abc"
        assert frame(DATA, 0, 1, b"x" * 70_000)[:3] == b"\x01\x11\x70"

    def test_headers(self) -> None:
        """The path is written out, and the method is an index."""
        assert headers("/a/B").startswith(b"\x83\x86\x04\x04/a/B\x01\x09localhost")


class Pipe(StringTransport):
    """A transport that keeps what is sent."""

    def setTcpNoDelay(self, enabled: object) -> None:
        """Be told what every TCP connection is told."""
        assert enabled


class ConnectionTests(SynchronousTestCase):
    """One connection."""

    def setUp(self) -> None:
        """Have a connection, and two calls under way."""
        pipe: Any = Pipe
        connection: Any = Connection
        self.pipe, self.connection = pipe(), connection()
        self.connection.makeConnection(self.pipe)
        self.begun = self.pipe.value()
        self.pipe.clear()
        self.done: list[int] = []
        self.failures: list[Failure] = []

    def call(self, number: int, body: bytes = b"body") -> bytes:
        """Make a call; return what was sent for it."""
        call = self.connection.call(b"headers", body)
        call.addCallback(lambda _: self.done.append(number))
        call.addErrback(self.failures.append)
        sent: bytes = self.pipe.value()
        self.pipe.clear()
        return sent

    def test_begin(self) -> None:
        """It begins with the preface, and room for what comes."""
        assert self.begun.startswith(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert frame(WINDOW, 0, 0, b"\x7f\xff\x00\x00") in self.begun

    def test_call(self) -> None:
        """Each call is a stream, with an odd number; any may be answered first."""
        assert self.call(1) == frame(HEADERS, 4, 1, b"headers") + frame(
            DATA, END, 1, b"body"
        )
        assert frame(DATA, END, 3, b"body") in self.call(2)
        answer = frame(HEADERS, 4, 3, b"?") + frame(DATA, 0, 3, b"answer")
        answer += frame(HEADERS, 4 | END, 3, b"?")
        for each in answer:
            self.connection.dataReceived(bytes([each]))
        assert self.done == [2]
        self.connection.dataReceived(answer.replace(b"\x00\x03", b"\x00\x01"))
        assert self.failures == []

    def test_refused(self) -> None:
        """A call that is answered without a message, or reset, has failed."""
        self.call(1)
        self.call(2)
        self.connection.dataReceived(frame(HEADERS, 4 | END, 1, b"?"))
        self.connection.dataReceived(frame(RESET, 0, 3, b"\x00\x00\x00\x01"))
        assert [each.type for each in self.failures] == [CallError] * 2

    def test_lost(self) -> None:
        """What is under way when the connection ends has failed."""
        self.call(1)
        self.connection.connectionLost()
        assert [each.type for each in self.failures] == [CallError]

    def test_no_room(self) -> None:
        """No more is sent than the other end has room for, on the whole or a stream."""
        sent = self.call(1, b"x" * 65_536)
        assert sent.count(b"x") == 65_535
        more = b"\x00\x01\x00\x00"
        self.connection.dataReceived(frame(WINDOW, 0, 0, more))
        assert self.pipe.value() == b""
        self.connection.dataReceived(frame(WINDOW, 0, 1, more))
        assert self.pipe.value() == frame(DATA, END, 1, b"x")

    def test_settings(self) -> None:
        """Another size of windows holds for streams that wait, too."""
        self.call(1, b"x" * 65_536)
        self.connection.dataReceived(frame(WINDOW, 0, 0, b"\x00\x01\x00\x00"))
        self.connection.dataReceived(frame(SETTINGS, 0, 0, b"\x00\x04\x00\x02\x00\x00"))
        assert self.pipe.value() == frame(SETTINGS, ACK, 0) + frame(DATA, END, 1, b"x")

    def test_ping(self) -> None:
        """A ping is answered with what it brought."""
        self.connection.dataReceived(frame(PING, 0, 0, b"12345678"))
        assert self.pipe.value() == frame(PING, ACK, 0, b"12345678")
