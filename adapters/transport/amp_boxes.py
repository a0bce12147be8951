"""
AMP boxes, read and written by hand: Twisted's format without its machinery.

A box is a set of keys and values with 16-bit lengths before them.  Twisted's
own ``amp.AMP`` spends 20 to 30 µs on each; a server handles tens of thousands
of them a second, so the parsing is done here in one loop, and a box that
carries a message of Raft never becomes a dictionary.  To the other end there
is no difference.

What other people send is bounded: keys and bytes of a box, and calls that
wait for an answer, with the one that asked.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IWriteDescriptor
from twisted.internet.protocol import Protocol

from adapters.transport.amp_commands import (
    MAX_PART_BYTES,
    MAX_VALUE_BYTES,
    decode_error,
    encode_error,
    split_bytes,
)
from consensus.errors import (
    OutcomeUnknownError,
    ProtocolError,
    RaftError,
    TimedOutError,
    UnreachableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from twisted.python.failure import Failure

Box = dict[bytes, bytes]

_T = TypeVar("_T")

_ANSWER = b"_answer"
_ASK = b"_ask"
_COMMAND = b"_command"
_ERROR = b"_error"
_ERROR_CODE = b"_error_code"
_ERROR_DESCRIPTION = b"_error_description"

# Keys as they stand in a box.
_ANSWER_KEY = b"\0\x07_answer"
_ASK_KEY = b"\0\x04_ask"
_PAYLOAD_KEY = b"\0\x07payload"

_END = b"\0\0"
_LENGTH = struct.Struct(">H")
_MAX_KEY_BYTES = 255

# A box of Message in the order of keys that every AMP library writes: sorted.
_MESSAGE = b"\0\x08_command\0\x07Message\0\x04"
_LAST = _MESSAGE + b"last"
_PART = _MESSAGE + b"part"
_KEY_AT = len(_MESSAGE)
_VALUE_AT = len(_LAST) + _LENGTH.size

# A key costs memory beside its bytes; more of them than the largest value
# needs, and a few for the command's own, are refused.
_MORE_KEYS = 16

# The like for a part of a message.
_PART_COST = 64


def encode_pairs(items: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the keys and values *items* as they stand in a box."""
    pack = _LENGTH.pack
    parts: list[bytes] = []
    for key, value in items:
        parts += pack(len(key)), key, pack(len(value)), value
    return b"".join(parts)


def encode_box(items: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the keys and values *items* as the bytes of a box."""
    return encode_pairs(items) + _END


def encode_payload(payload: bytes) -> bytes:
    """Return the payload of a call or an answer as it stands in a box."""
    if len(payload) > MAX_VALUE_BYTES:
        return encode_pairs(split_bytes(b"payload", payload))
    return _PAYLOAD_KEY + _LENGTH.pack(len(payload)) + payload


class BoxProtocol(Protocol, ABC):
    """
    One end of a connection on which AMP boxes travel both ways.

    Args:
        clock: What the answers' timeouts go by.
        max_box_bytes: The size of the largest box or message to be read.
    """

    transport: Any

    def __init__(self, clock: Any, max_box_bytes: int) -> None:
        self.clock = clock
        #: When the last complete box came.
        self.heard = clock.seconds()
        #: How many bytes wait to be sent, beyond what Twisted sends at once.
        self.unsent = 0
        self.is_lost = False
        self._max_box_bytes = max_box_bytes
        self._max_keys = max_box_bytes // MAX_VALUE_BYTES + _MORE_KEYS
        self._is_dropped = False
        self._is_paused = False
        self._rest = bytearray()
        self._need = 0
        self._parts: list[bytes] = []
        self._parts_bytes = 0
        self._last_tag = 0
        # Who waits for an answer, until when, and how it is read.
        self._asked: dict[bytes, tuple[Deferred[Any], float, Callable[[Box], Any]]] = {}
        self._timer: Any = None
        self._wakes_at = inf
        self._flush: Callable[[], object] | None = None

    # What a subclass implements.

    @abstractmethod
    def part_received(self) -> None:
        """Say whether a message may come now, before its bytes are kept."""

    @abstractmethod
    def message_received(self, data: bytes) -> None:
        """Take the bytes of a whole message."""

    @abstractmethod
    def messages_end(self) -> None:
        """Note that the messages so far came together, and no more with them."""

    @abstractmethod
    def command_received(self, command: bytes, tag: bytes | None, box: Box) -> None:
        """Take a command; *tag* goes to :meth:`answer`, if there is one."""

    @abstractmethod
    def violated(self, error: ProtocolError) -> None:
        """Note that the connection was dropped because of *error*."""

    # Connecting and parting.

    def connectionMade(self) -> None:
        """Ask the transport to tell how it gets on with sending."""
        self.transport.registerProducer(self, True)  # noqa: FBT003 - Twisted's signature
        if IWriteDescriptor.providedBy(self.transport):
            # What the reactor calls when it finds that the socket can take
            # more.  Mostly it can, and a message is on its way a turn sooner;
            # if it fails, the reactor, which calls it too, will see that.
            self._flush = self.transport.doWrite

    def pauseProducing(self) -> None:
        """Begin to count what is written: the transport does not keep up."""
        self._is_paused = True

    def resumeProducing(self) -> None:
        """Forget the count: all has been sent."""
        self._is_paused = False
        self.unsent = 0

    def stopProducing(self) -> None:
        """Do nothing; :meth:`connectionLost` comes too."""

    @property
    def is_open(self) -> bool:
        """Say whether anything can still be sent."""
        return not self.is_lost and not self._is_dropped

    @property
    def is_full(self) -> bool:
        """Say whether too much waits to be sent already."""
        return False

    def drop(self) -> None:
        """Close the connection now, whatever waits to be sent."""
        if not self.is_lost:
            self._is_dropped = True
            self.transport.abortConnection()

    def finish(self) -> None:
        """Take no more, send what waits, then close the connection."""
        if self.is_open:
            self._is_dropped = True
            # With a producer, Twisted would wait for it to be finished.
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure | None = None) -> None:
        """Fail what was asked and not answered."""
        self.is_lost = True
        self._rest.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._wakes_at = None, inf
        asked, self._asked = self._asked, {}
        why = "" if reason is None else f": {reason.getErrorMessage()}"
        message = f"the connection was lost before the answer{why}"
        for answer, _, _ in asked.values():
            # One that failed may have cancelled another.
            if not answer.called:
                answer.errback(OutcomeUnknownError(message))

    # Reading.

    def dataReceived(self, data: bytes) -> None:
        """Handle every complete box; keep the rest until more comes."""
        if self._is_dropped:
            return
        if self._rest:
            self._rest += data
            if len(self._rest) < self._need:
                return
            data = bytes(self._rest)
            self._rest.clear()
        try:
            used = self._consume(data)
        except ProtocolError as error:
            self.drop()
            self.messages_end()
            self.violated(error)
            return
        if used:
            self.heard = self.clock.seconds()
        self._rest += data[used:]
        self.messages_end()

    def _consume(self, buffer: bytes) -> int:
        """Handle the boxes that *buffer* begins with; return where the last ends."""
        at, end = 0, len(buffer)
        self._need = 0
        while at < end and not self._is_dropped:
            if buffer.startswith((_LAST, _PART), at):
                used = self._consume_message(buffer, at, end)
            else:
                used = self._consume_box(buffer, at, end)
            if used == at:
                break
            at = used
        return at

    def _consume_message(self, buffer: bytes, at: int, end: int) -> int:
        """Handle the box of a message at *at*; return where it ends, or *at*."""
        first = at + _VALUE_AT
        if first > end:
            self._need = _VALUE_AT
            return at
        length: int = _LENGTH.unpack_from(buffer, first - _LENGTH.size)[0]
        stop = first + length + len(_END)
        if stop > end:
            self._need = stop - at
            return at
        if buffer[stop - len(_END) : stop] != _END:
            return self._consume_box(buffer, at, end)
        is_last = buffer.startswith(b"last", at + _KEY_AT)
        self._take_part(buffer[first : first + length], is_last=is_last)
        return stop

    def _consume_box(self, buffer: bytes, at: int, end: int) -> int:
        """
        Handle the box at *at*; return where it ends, or *at*.

        One that is not complete is looked at again when its next length is
        there, a few times for each key.
        """
        first, box = at, Box()
        pairs, room = self._max_keys, self._max_box_bytes
        while at + 1 < end and (length := buffer[at] << 8 | buffer[at + 1]):
            if length > _MAX_KEY_BYTES:
                raise ProtocolError("a box has a key of more than 255 bytes")
            value_at = at + length + 4
            if value_at > end:
                self._need = value_at - first
                return first
            size = buffer[value_at - 2] << 8 | buffer[value_at - 1]
            stop = value_at + size
            if stop > end:
                self._need = stop - first
                return first
            box[buffer[at + 2 : value_at - 2]] = buffer[value_at:stop]
            at = stop
            pairs -= 1
            room -= length + size
            if pairs < 0:
                raise ProtocolError("a box has too many keys")
            if room < 0:
                message = f"a box is larger than {self._max_box_bytes} bytes"
                raise ProtocolError(message)
        if at + 1 >= end:
            self._need = at + 2 - first
            return first
        self._take_box(box)
        return at + 2

    def _take_part(self, part: bytes, *, is_last: bool) -> None:
        self.part_received()
        if is_last and not self._parts:
            self.message_received(part)
            return
        self._parts.append(part)
        self._parts_bytes += len(part) + _PART_COST
        if self._parts_bytes > self._max_box_bytes:
            message = f"a message is larger than {self._max_box_bytes} bytes"
            raise ProtocolError(message)
        if is_last:
            parts, self._parts, self._parts_bytes = self._parts, [], 0
            self.message_received(b"".join(parts))

    def _take_box(self, box: Box) -> None:
        if (tag := box.get(_ANSWER)) is not None:
            if (waiting := self._asked.pop(tag, None)) is not None:
                answer, _, read = waiting
                try:
                    result = read(box)
                except ProtocolError as error:
                    answer.errback(error)
                else:
                    answer.callback(result)
        elif (tag := box.get(_ERROR)) is not None:
            if (waiting := self._asked.pop(tag, None)) is not None:
                code = box.get(_ERROR_CODE, b"")
                description = box.get(_ERROR_DESCRIPTION, b"")
                waiting[0].errback(decode_error(code, description))
        elif (command := box.get(_COMMAND)) is None:
            raise ProtocolError("a box is no command, no answer and no error")
        elif command == b"Message":
            self._take_message_box(box)
        else:
            self.command_received(command, box.get(_ASK), box)

    def _take_message_box(self, box: Box) -> None:
        """Take a message whose box another AMP library has built its own way."""
        is_last = b"last" in box
        part = box.get(b"last" if is_last else b"part")
        if part is None:
            raise ProtocolError("a box of Message has neither 'last' nor 'part'")
        self._take_part(part, is_last=is_last)
        if _ASK in box:
            if self.is_full:
                raise ProtocolError("the other end does not take its answers")
            self.answer(box[_ASK], ())

    # Writing.

    def write(self, data: bytes) -> None:
        """Send *data*, and count it while the transport does not keep up."""
        if self._is_paused:
            self.unsent += len(data)
        self.transport.write(data)

    def send_message(self, data: bytes) -> None:
        """Send the bytes of a message, in as many parts as it takes."""
        first = 0
        while len(data) - first > MAX_PART_BYTES:
            part = data[first : first + MAX_PART_BYTES]
            self.write(b"".join((_PART, _LENGTH.pack(len(part)), part, _END)))
            first += MAX_PART_BYTES
        last = data[first:] if first else data
        self.write(b"".join((_LAST, _LENGTH.pack(len(last)), last, _END)))
        if self._flush is not None and self.is_open and not self._is_paused:
            self._flush()

    def answer(self, tag: bytes, items: Iterable[tuple[bytes, bytes]]) -> None:
        """Answer the command that came with *tag*."""
        self.write(encode_box(((_ANSWER, tag), *items)))

    def answer_bytes(self, tag: bytes, payload: bytes) -> None:
        """Answer the call that came with *tag* with *payload*."""
        size, body = _LENGTH.pack(len(tag)), encode_payload(payload)
        self.write(b"".join((_ANSWER_KEY, size, tag, body, _END)))

    def refuse(self, tag: bytes, error: RaftError) -> None:
        """Answer the command that came with *tag* with *error*."""
        code, description = encode_error(error)
        self.write(
            encode_box(
                ((_ERROR, tag), (_ERROR_CODE, code), (_ERROR_DESCRIPTION, description))
            )
        )

    def ask(
        self, command: bytes, items: Iterable[tuple[bytes, bytes]], timeout: float
    ) -> Deferred[Box]:
        """
        Send *command* with *items* and return the box that answers it.

        The Deferred fails with:
            UnreachableError: The connection was lost before.
            OutcomeUnknownError: It was lost after.
            TimedOutError: No answer came within *timeout* seconds.
            RaftError: The other end's error.
        """
        body = encode_pairs(((_COMMAND, command), *items))
        return self.ask_encoded(body, timeout, _as_it_is)

    def ask_encoded(
        self, body: bytes, timeout: float, read: Callable[[Box], _T]
    ) -> Deferred[_T]:
        """
        Send a command and return what *read* makes of the box that answers it.

        Args:
            body: The command and its items, encoded.
            timeout: In seconds.
            read: It may raise :class:`~.ProtocolError`.

        The Deferred fails as that of :meth:`ask`.
        """
        if not self.is_open:
            return fail(UnreachableError("the connection is closed"))
        self._last_tag += 1
        tag = b"%x" % self._last_tag
        answer: Deferred[_T] = Deferred(partial(self._forget, tag))
        deadline = self.clock.seconds() + timeout
        self._asked[tag] = answer, deadline, read
        if deadline < self._wakes_at:
            self._wake_at(deadline)
        self.write(b"".join((_ASK_KEY, _LENGTH.pack(len(tag)), tag, body, _END)))
        return answer

    @property
    def asked(self) -> int:
        """Return how many commands wait for their answers."""
        return len(self._asked)

    def _forget(self, tag: bytes, _: object) -> None:
        self._asked.pop(tag, None)

    # One timer serves all that was asked, because timers are dear: the next
    # deadline is usually the one of the oldest question.

    def _wake_at(self, deadline: float) -> None:
        """Look at that time whether an answer is late."""
        if self._timer is not None:
            self._timer.cancel()
        self._wakes_at = deadline
        delay = max(0.0, deadline - self.clock.seconds())
        self._timer = self.clock.callLater(delay, self._expire)

    def _expire(self) -> None:
        self._timer, self._wakes_at = None, inf
        now = self.clock.seconds()
        due = [tag for tag, (_, deadline, _) in self._asked.items() if deadline <= now]
        late = [self._asked.pop(tag)[0] for tag in due]
        if self._asked:
            self._wake_at(min(deadline for _, deadline, _ in self._asked.values()))
        for answer in late:
            if not answer.called:
                answer.errback(TimedOutError("no answer came in time"))


def _as_it_is(box: Box) -> Box:
    return box
