"""
As much of gRPC as it takes to call etcd: unary calls, many at once.

A call is a stream of HTTP/2 (RFC 9113): a HEADERS frame that is the same each
time, and the message in DATA frames.  A call whose answer has no message failed;
why stands in compressed headers, which are not looked into.
"""

from __future__ import annotations

import struct
from collections import deque
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol

_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS = 0x1, 0x1, 0x4
_INITIAL_WINDOW_SETTING = 4

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_MAX_FRAME = 16_384
_WINDOW_AT_FIRST = 65_535
_MAX_WINDOW = (1 << 31) - 1


class CallError(Exception):
    """A call failed, or the connection did."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return a frame of HTTP/2."""
    size = len(payload)
    return (
        struct.pack(">BHBBI", size >> 16, size & 0xFFFF, kind, flags, stream) + payload
    )


def headers(path: str) -> bytes:
    """Return the compressed headers (RFC 7541) of a call to *path*."""
    return b"".join(
        (
            b"\x83\x86",  # :method: POST, :scheme: http
            b"\x04" + _text(path.encode()),  # :path
            b"\x01" + _text(b"localhost"),  # :authority
            b"\x0f\x10" + _text(b"application/grpc"),  # content-type
            b"\x00" + _text(b"te") + _text(b"trailers"),
        )
    )


def _text(value: bytes) -> bytes:
    return bytes([len(value)]) + value


def message(*fields: bytes) -> bytes:
    """Return a protobuf message of *fields*, numbered from 1, as gRPC sends it."""
    body = b"".join(
        bytes([number << 3 | 2]) + _varint(len(value)) + value
        for number, value in enumerate(fields, 1)
    )
    return struct.pack(">BI", 0, len(body)) + body


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


class Connection(Protocol):
    """One connection to a server, with any number of calls under way."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._next_stream = 1
        self._calls: dict[int, Deferred[None]] = {}
        self._answered: set[int] = set()
        # What may be sent, on the whole and on each stream that waits.
        self._window = self._stream_window = _WINDOW_AT_FIRST
        self._windows: dict[int, int] = {}
        self._waiting: deque[tuple[int, bytes]] = deque()

    def connectionMade(self) -> None:
        pipe: Any = self.transport
        pipe.setTcpNoDelay(True)
        setting = struct.pack(">HI", _INITIAL_WINDOW_SETTING, _MAX_WINDOW)
        more = struct.pack(">I", _MAX_WINDOW - _WINDOW_AT_FIRST)
        self._write(
            _PREFACE + frame(_SETTINGS, 0, 0, setting) + frame(_WINDOW, 0, 0, more)
        )

    def call(self, compressed: bytes, body: bytes) -> Deferred[None]:
        """Send a call with *compressed* headers; fires when it is answered."""
        stream = self._next_stream
        self._next_stream += 2
        answered: Deferred[None] = Deferred()
        self._calls[stream] = answered
        self._write(frame(_HEADERS, _END_HEADERS, stream, compressed))
        self._windows[stream] = self._stream_window
        self._waiting.append((stream, body))
        self._pump()
        return answered

    def _pump(self) -> None:
        """Send what the other end has room for."""
        while self._waiting:
            stream, body = self._waiting[0]
            size = min(len(body), _MAX_FRAME, self._window, self._windows[stream])
            if size <= 0:
                return
            self._window -= size
            self._windows[stream] -= size
            is_all = size == len(body)
            flags = _END_STREAM if is_all else 0
            self._write(frame(_DATA, flags, stream, body[:size]))
            if is_all:
                self._waiting.popleft()
                del self._windows[stream]
            else:
                self._waiting[0] = (stream, body[size:])

    def dataReceived(self, data: bytes) -> None:
        received = self._received
        received += data
        start = 0
        while len(received) - start >= 9:
            high, low, kind, flags, stream = struct.unpack_from(
                ">BHBBI", received, start
            )
            end = start + 9 + (high << 16 | low)
            if len(received) < end:
                break
            self._take(kind, flags, stream, received[start + 9 : end])
            start = end
        del received[:start]

    def _take(self, kind: int, flags: int, stream: int, payload: bytearray) -> None:
        if kind == _DATA:
            self._answered.add(stream)
        elif kind == _WINDOW:
            self._widen(stream, struct.unpack(">I", payload)[0])
        elif kind == _SETTINGS and not flags & _ACK:
            self._settle(payload)
        elif kind == _PING and not flags & _ACK:
            self._write(frame(_PING, _ACK, 0, bytes(payload)))
        elif kind == _GOAWAY:
            self._fail("the server goes away")
        if stream and (
            kind == _RESET or (kind in {_DATA, _HEADERS} and flags & _END_STREAM)
        ):
            self._end(stream)

    def _end(self, stream: int) -> None:
        answered = self._calls.pop(stream, None)
        if answered is None:
            return
        if stream in self._answered:
            self._answered.discard(stream)
            answered.callback(None)
        else:
            answered.errback(CallError("the server refused a call"))

    def _settle(self, payload: bytearray) -> None:
        for number, value in struct.iter_unpack(">HI", payload):
            if number == _INITIAL_WINDOW_SETTING:
                for stream in self._windows:
                    self._windows[stream] += value - self._stream_window
                self._stream_window = value
        self._write(frame(_SETTINGS, _ACK, 0))
        self._pump()

    def _widen(self, stream: int, size: int) -> None:
        if not stream:
            self._window += size
        elif stream in self._windows:
            self._windows[stream] += size
        self._pump()

    def connectionLost(self, reason: object = None) -> None:
        self._fail(str(reason))

    def _fail(self, why: str) -> None:
        calls, self._calls = self._calls, {}
        for each in calls.values():
            each.errback(CallError(why))

    def _write(self, data: bytes) -> None:
        pipe: Any = self.transport
        pipe.write(data)
