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

from abc import ABC, abstractmethod
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IWriteDescriptor
from twisted.internet.protocol import Protocol

from adapters.transport.amp_bytes import (
    ANSWER_KEY,
    ASK_KEY,
    END,
    LENGTH,
    TLS_RECORDS,
    encode_box,
    encode_pairs,
    encode_payload,
)
from adapters.transport.amp_commands import (
    MAX_PART_BYTES,
    MAX_VALUE_BYTES,
    decode_error,
    encode_error,
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
_MAX_KEY_BYTES = 255
_LONG_KEY = "a box has a key of more than 255 bytes"
_SPEAKS_TLS = "it speaks TLS, and there is no tls: in the config of this end"

# A box of Message in the order of keys that every AMP library writes: sorted.
_MESSAGE = b"\0\x08_command\0\x07Message\0\x04"
_LAST = _MESSAGE + b"last"
_PART = _MESSAGE + b"part"
_KEY_AT = len(_MESSAGE)
_VALUE_AT = len(_LAST) + LENGTH.size

# A key costs memory beside its bytes; more of them than the largest value
# needs, and a few for the command's own, are refused.
_MORE_KEYS = 16

# The like for a part of a message.
_PART_COST = 64


class BoxProtocol(Protocol, ABC):
    """
    One end of a connection on which AMP boxes travel both ways.

    Args:
        clock: What the answers' timeouts go by.
        max_box_bytes: The size of the largest box or message to be read.
    """

    transport: Any
    #: Whether what is written goes to the socket as it is.
    has_own_socket: ClassVar[bool] = True

    def __init__(self, clock: Any, max_box_bytes: int) -> None:
        self.clock = clock
        #: When the last complete box came.
        self.heard = clock.seconds()
        #: How many bytes wait to be sent, beyond what Twisted sends at once.
        self.unsent = 0
        #: How many bytes of boxes were handed to the transport, and came.
        self.sent_bytes = self.received_bytes = 0
        self.is_lost = False
        #: Whether the other end has begun with TLS, where there is none.
        self.speaks_tls = False
        self._max_box_bytes = max_box_bytes
        self._max_keys = max_box_bytes // MAX_VALUE_BYTES + _MORE_KEYS
        self._is_dropped = False
        # Whether the transport has a socket, and says when it has sent all.
        self._has_socket = False
        # Whether what is written may have to wait for what was written before.
        self._is_behind = False
        self._rest = bytearray()
        self._need = 0
        self._parts: list[bytes] = []
        self._parts_bytes = 0
        #: What stands between tag and payload of a command that comes often:
        #: such boxes go to :meth:`payload_received`; none if empty.
        self.expected = b""
        self._last_tag = 0
        # Who waits for an answer, until when, and how it is read.
        self._asked: dict[bytes, tuple[Deferred[Any], float, Callable[[Box], Any]]] = {}
        self._timer: Any = None
        self._wakes_at = inf

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
    def payload_received(self, tag: bytes, payload: bytes) -> None:
        """Take the payload of a command that was :attr:`expected`."""

    @abstractmethod
    def violated(self, error: ProtocolError) -> None:
        """Note that the connection was dropped because of *error*."""

    # Connecting and parting.

    def connectionMade(self) -> None:
        """Ask the transport to tell how it gets on with sending."""
        # A socket's transport tells a producer that it has to pull whenever it
        # has sent all; one that pushes is told only if there was much of it.
        # Other transports would keep pulling.
        is_writer = IWriteDescriptor.providedBy(self.transport)
        self._has_socket = is_writer and self.has_own_socket
        self.transport.registerProducer(self, not self._has_socket)

    def pauseProducing(self) -> None:
        """Begin to count what is written: the transport does not keep up."""
        self._is_behind = True

    def resumeProducing(self) -> None:
        """Forget the count: all has been sent."""
        self._is_behind = False
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
        error: Callable[[str], RaftError] = OutcomeUnknownError
        if self.speaks_tls and len(asked) == self._last_tag:
            # It has understood nothing of what it was asked.
            error, message = UnreachableError, _SPEAKS_TLS
        for answer, _, _ in asked.values():
            # One that failed may have cancelled another.
            if not answer.called:
                answer.errback(error(message))

    # Reading.

    def dataReceived(self, data: bytes) -> None:
        """Handle every complete box; keep the rest until more comes."""
        if self._is_dropped:
            return
        self.received_bytes += len(data)
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
            elif self.expected and buffer.startswith(ASK_KEY, at):
                used = self._consume_expected(buffer, at, end)
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
        length: int = LENGTH.unpack_from(buffer, first - LENGTH.size)[0]
        stop = first + length + len(END)
        if stop > end:
            self._need = stop - at
            return at
        if buffer[stop - len(END) : stop] != END:
            return self._consume_box(buffer, at, end)
        is_last = buffer.startswith(b"last", at + _KEY_AT)
        self._take_part(buffer[first : first + length], is_last=is_last)
        return stop

    def _consume_expected(self, buffer: bytes, at: int, end: int) -> int:
        """Handle the box at *at*, the sooner if it is like those before."""
        tag_at = at + len(ASK_KEY) + LENGTH.size
        if tag_at < end:
            tag_end = tag_at + (buffer[tag_at - 2] << 8 | buffer[tag_at - 1])
            first = tag_end + len(self.expected) + LENGTH.size
            if first < end and buffer.startswith(self.expected, tag_end):
                stop = first + (buffer[first - 2] << 8 | buffer[first - 1])
                # Otherwise it has more of the payload, or is not complete.
                is_whole = buffer[stop : stop + len(END)] == END
                if is_whole and stop - at <= self._max_box_bytes:
                    self.payload_received(buffer[tag_at:tag_end], buffer[first:stop])
                    return stop + len(END)
        return self._consume_box(buffer, at, end)

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
                self.speaks_tls = buffer.startswith(TLS_RECORDS, first)
                raise ProtocolError(_SPEAKS_TLS if self.speaks_tls else _LONG_KEY)
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
        self.sent_bytes += len(data)
        if self._has_socket:
            self._is_behind = True
        if self._is_behind:
            self.unsent += len(data)
        self.transport.write(data)

    def _write_now(self, data: bytes) -> None:
        """
        Send *data* in this turn, if the socket takes it.

        Mostly it does, and a message is on its way a turn sooner, with nothing
        for the reactor to do.  If it fails, the reactor, which tries again, will
        see that.
        """
        if self._has_socket and not self._is_behind and self.is_open:
            sent = self.transport.writeSomeData(data)
            if isinstance(sent, int):
                self.sent_bytes += sent
                if sent == len(data):
                    return
                data = data[sent:]
        self.write(data)

    def send_message(self, data: bytes) -> None:
        """Send the bytes of a message, in as many parts as it takes."""
        first = 0
        while len(data) - first > MAX_PART_BYTES:
            part = data[first : first + MAX_PART_BYTES]
            self._write_now(b"".join((_PART, LENGTH.pack(len(part)), part, END)))
            first += MAX_PART_BYTES
        last = data[first:] if first else data
        self._write_now(b"".join((_LAST, LENGTH.pack(len(last)), last, END)))

    def answer(self, tag: bytes, items: Iterable[tuple[bytes, bytes]]) -> None:
        """Answer the command that came with *tag*."""
        self.write(encode_box(((_ANSWER, tag), *items)))

    def answer_bytes(self, tag: bytes, payload: bytes) -> None:
        """Answer the call that came with *tag* with *payload*."""
        size, body = LENGTH.pack(len(tag)), encode_payload(payload)
        self.write(b"".join((ANSWER_KEY, size, tag, body, END)))

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
        self.write(b"".join((ASK_KEY, LENGTH.pack(len(tag)), tag, body, END)))
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
