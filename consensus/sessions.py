"""
Sessions: a command is applied once, however often its client sends it (§6.3).

A client opens a session and numbers its commands.  Every server keeps the
results, so a command that comes again is answered and not applied again.  The
client says with each command below which number it has all the answers, and
those are forgotten.

Everything here is a function of the log.  Time is the log's own: each entry
carries the leader's, and the largest so far counts.  The bounds are part of
the format: servers that disagreed on one would apply different commands.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from enum import IntEnum
from heapq import heapify, heappop, heappush
from struct import Struct
from struct import error as StructError  # noqa: N812 - it is a class
from typing import TYPE_CHECKING, Annotated, NamedTuple

import msgspec

from consensus.errors import (
    CommandFailedError,
    InvalidCommandError,
    OutcomeUnknownError,
    OverloadedError,
    RaftError,
    SessionExpiredError,
    StorageError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from consensus.core.values import LogIndex

#: The version of the bytes of an entry, and of the bounds below.
VERSION = 1

#: How long a session may live without a command, in milliseconds.
MIN_TTL = 1_000
MAX_TTL = 86_400_000

#: The least recently used one ends when one more is opened.
MAX_SESSIONS = 10_000

#: How far the number of a command may be above the lowest still wanted.
MAX_WINDOW = 1024

#: The results that are kept of one session, and of all, with what they cost
#: besides.  One that does not fit is not kept, and the oldest go first; what
#: was applied is known all the same.
MAX_SESSION_BYTES = 1 << 20
MAX_BYTES = 64 << 20
_RESULT_COST = 128

#: A result that is not kept any more, or was lost in a crash.
LOST = ("ResultLost", "it was applied once, but its result is not kept any more")

#: What a command came to: the result, encoded, or an exception's type and text.
Result = bytes | tuple[str, str]


class Operation(IntEnum):
    """What an entry asks for; the numbers are on disk."""

    OPEN = 1
    CLOSE = 2
    COMMAND = 3


# Version, operation, the leader's time in milliseconds; then the call's bytes.
_HEAD = Struct(">BBQ")
_CALLS = {
    Operation.OPEN: Struct(">I"),  # how long it may live without a command
    Operation.CLOSE: Struct(">Q"),  # the session
    Operation.COMMAND: Struct(">QQQ"),  # session, number, lowest still wanted
}
_OPEN, _CLOSE, _COMMAND = _CALLS.values()
_ID = Struct(">Q")

#: The bytes of an entry besides those of the command.
OVERHEAD = _HEAD.size + _COMMAND.size

_COMMAND_MARK = bytes([VERSION, Operation.COMMAND])
_COMMAND_ENTRY = Struct(">BBQQQQ")


# --- calls, as clients send them ---------------------------------------------


def open_call(ttl: int) -> bytes:
    """
    Return the bytes that open a session which lives *ttl* ms without a command.

    Raises:
        InvalidCommandError: It is too short or too long.
    """
    if not MIN_TTL <= ttl <= MAX_TTL:
        message = f"a session lives {MIN_TTL} to {MAX_TTL} ms, not {ttl}"
        raise InvalidCommandError(message)
    return _OPEN.pack(ttl)


def close_call(session: int) -> bytes:
    """Return the bytes that close *session*."""
    return _CLOSE.pack(session)


def command_call(session: int, number: int, wanted: int, command: bytes) -> bytes:
    """
    Return the bytes of a command of a session.

    Args:
        session: The session.
        number: The command's own, from 1.
        wanted: The lowest number whose result may still be asked for.
        command: What is to be applied.
    """
    return _COMMAND.pack(session, number, wanted) + command


def session_of(answer: bytes) -> int:
    """
    Return the session that was opened.

    Raises:
        ValueError: *answer* names none.
    """
    if len(answer) != _ID.size:
        raise ValueError("the name of a session has 8 bytes")
    session: int = _ID.unpack(answer)[0]
    return session


def check(operation: Operation, call: bytes) -> None:
    """
    See that *call* may enter the log.

    Raises:
        InvalidCommandError: It has the wrong length, or a number out of range.
    """
    layout = _CALLS[operation]
    is_open_ended = operation is Operation.COMMAND
    if len(call) < layout.size or (len(call) > layout.size and not is_open_ended):
        message = f"{len(call)} bytes are too few or too many for this call"
        raise InvalidCommandError(message)
    numbers = layout.unpack_from(call)
    if operation is Operation.OPEN:
        open_call(*numbers)
    elif operation is Operation.COMMAND and not 1 <= numbers[2] <= numbers[1]:
        message = f"command {numbers[1]} cannot want results from {numbers[2]} on"
        raise InvalidCommandError(message)


def command_of(call: bytes) -> bytes:
    """Return the command in a checked *call*."""
    return call[_COMMAND.size :]


# --- entries, as they stand in the log ----------------------------------------


def entry_of(operation: Operation, call: bytes, time: int) -> bytes:
    """Return the bytes of the entry for a checked *call* at *time*, in ms."""
    return _HEAD.pack(VERSION, operation, time) + call


def key_of(data: bytes) -> tuple[int, int] | None:
    """Return session and number of the command in an entry, if it is one."""
    if len(data) < OVERHEAD or data[1] != Operation.COMMAND:
        return None
    session, number, _ = _COMMAND.unpack_from(data, _HEAD.size)
    return session, number


def read_entry(index: LogIndex, data: bytes) -> tuple[Operation, int, bytes]:
    """
    Return what the entry *data* at *index* asks for, its time in ms, and its call.

    Raises:
        StorageError: It is not one that this release can read.
    """
    try:
        version, number, time = _HEAD.unpack_from(data)
        if version != VERSION:
            message = (
                f"entry {index} is of version {version} of sessions, and this"
                f" release knows {VERSION}: install the one that wrote it"
            )
            raise StorageError(message)
        operation, call = Operation(number), data[_HEAD.size :]
        check(operation, call)
    except (ValueError, InvalidCommandError, StructError) as error:
        message = f"entry {index} is no entry of a session: {error}"
        raise StorageError(message) from error
    return operation, time, call


def numbers_of(operation: Operation, call: bytes) -> tuple[int, ...]:
    """Return the numbers in a checked *call*, as the functions above take them."""
    return _CALLS[operation].unpack_from(call)


class Due(NamedTuple):
    """A command that has to be applied now, and then :meth:`Sessions.record`."""

    session: int
    number: int
    command: bytes


class LogClock:
    """
    The log's time, as a leader has it (§6.3).

    It goes on from what the log says, at the speed of this server's clock, so
    that neither a wall clock that is moved nor a new leader ends sessions.

    Args:
        seconds: A clock that never goes back.
    """

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._term = 0
        self._base = 0
        self._began = 0.0

    def now(self, term: int, reached: int) -> int:
        """
        Return the time in ms.

        Args:
            term: In each term it begins anew.
            reached: What the log says.
        """
        moment = self._seconds()
        time = self._base + int((moment - self._began) * 1000)
        if term != self._term or reached > time:
            self._term, self._base, self._began = term, reached, moment
            return reached
        return time


@dataclass(slots=True)
class _Session:
    """
    One session.

    Args:
        id: The index of the entry that opened it.
        ttl: How long it lives without a command, in ms.
        used: The log's time of the last.
        wanted: The lowest number whose result may still be asked for.
        applied: A bit for each number from *wanted* on: it was applied.
        size: What its kept results take.
    """

    id: int
    ttl: int
    used: int
    wanted: int = 1
    applied: int = 0
    size: int = 0


_Unsigned = Annotated[int, msgspec.Meta(ge=0)]


class EncodedSession(msgspec.Struct, array_like=True, frozen=True):
    """A session in a snapshot, with the results that it has."""

    id: _Unsigned
    ttl: _Unsigned
    used: _Unsigned
    wanted: _Unsigned
    applied: Annotated[bytes, msgspec.Meta(max_length=MAX_WINDOW // 8)]
    results: list[tuple[_Unsigned, bytes]]
    failures: list[tuple[_Unsigned, str, str]]


class Sessions:
    """
    All sessions of a cluster, at one place of its log.

    Args:
        time: The log's time.
        sessions: From a snapshot; the least recently used first.
    """

    def __init__(self, time: int = 0, sessions: Iterable[EncodedSession] = ()) -> None:
        #: The largest time of an entry so far, in ms.
        self.time = time
        self._sessions: OrderedDict[int, _Session] = OrderedDict()
        self._results: OrderedDict[tuple[int, int], Result] = OrderedDict()
        self._size = 0
        # When each session ends at the earliest; it may have been used since.
        self._ends: list[tuple[int, int]] = []
        for each in sessions:
            self._add_encoded(each)

    def __len__(self) -> int:
        return len(self._sessions)

    # --- what an entry does ------------------------------------------------

    def admit(self, index: LogIndex, data: bytes) -> Due | bytes | RaftError:
        """
        Take the entry *data* at *index*; return what it is answered.

        A command that was not applied yet is due now.

        Raises:
            StorageError: The entry is not one that this release can read.
        """
        # Nearly all are commands: they take a shorter way.
        if data[:2] == _COMMAND_MARK and len(data) >= OVERHEAD:
            _, _, time, session, number, wanted = _COMMAND_ENTRY.unpack_from(data)
            if 1 <= wanted <= number:
                self.pass_time(time)
                return self._admit_command(session, number, wanted, data)
        operation, call = self._read(index, data)
        if operation is Operation.OPEN:
            return self._open(index, _OPEN.unpack(call)[0])
        self._end(_CLOSE.unpack(call)[0])
        return b""

    def _read(self, index: LogIndex, data: bytes) -> tuple[Operation, bytes]:
        """Move the time on, and return the rest."""
        operation, time, call = read_entry(index, data)
        self.pass_time(time)
        return operation, call

    def pass_time(self, time: int) -> None:
        """Move the time on, if *time* is later."""
        if time > self.time:
            self.time = time
            self._expire()

    def _open(self, index: LogIndex, ttl: int) -> bytes:
        self._sessions[index] = _Session(index, ttl, self.time)
        if len(self._sessions) > MAX_SESSIONS:
            self._end(next(iter(self._sessions)))
        if len(self._ends) > 2 * len(self._sessions):
            self._ends = [(s.used + s.ttl, s.id) for s in self._sessions.values()]
            heapify(self._ends)
        else:
            heappush(self._ends, (self.time + ttl, index))
        return _ID.pack(index)

    def _admit_command(
        self, name: int, number: int, wanted: int, data: bytes
    ) -> Due | bytes | RaftError:
        session = self._sessions.get(name)
        if session is None:
            return SessionExpiredError("the session has ended; this was not applied")
        session.used = self.time
        self._sessions.move_to_end(name)
        if wanted > session.wanted:
            self._forget(session, wanted)
        place = number - session.wanted
        if place < 0:
            return OutcomeUnknownError("the session does not want this result any more")
        if place >= MAX_WINDOW:
            message = f"more than {MAX_WINDOW} commands of the session are under way"
            return OverloadedError(message)
        if session.applied >> place & 1:
            return answer(self._results.get((name, number), LOST))
        session.applied |= 1 << place
        return Due(name, number, data[OVERHEAD:])

    def record(self, due: Due, result: Result) -> None:
        """Keep the *result* of what was due, in case that it is asked for again."""
        session = self._sessions.get(due.session)
        if session is None or due.number < session.wanted or result is LOST:
            return
        cost = _cost(result)
        if session.size + cost > MAX_SESSION_BYTES:
            return
        session.size += cost
        self._size += cost
        self._results[due.session, due.number] = result
        while self._size > MAX_BYTES:
            (name, _), oldest = self._results.popitem(last=False)
            self._sessions[name].size -= _cost(oldest)
            self._size -= _cost(oldest)

    # --- what ends -----------------------------------------------------------

    def _expire(self) -> None:
        """End the sessions whose time is over."""
        ends = self._ends
        while ends and ends[0][0] < self.time:
            session = self._sessions.get(heappop(ends)[1])
            if session is None:
                continue
            end = session.used + session.ttl
            if end < self.time:
                self._end(session.id)
            else:
                heappush(ends, (end, session.id))

    def _end(self, name: int) -> None:
        session = self._sessions.get(name)
        if session is not None:
            self._forget(session, session.wanted + MAX_WINDOW)
            del self._sessions[name]

    def _forget(self, session: _Session, wanted: int) -> None:
        """Drop the results of *session* below *wanted*."""
        gone = wanted - session.wanted
        if session.size:
            end = session.wanted + min(gone, MAX_WINDOW)
            for number in range(session.wanted, end):
                result = self._results.pop((session.id, number), None)
                if result is not None:
                    cost = _cost(result)
                    session.size -= cost
                    self._size -= cost
        session.applied = session.applied >> gone if gone < MAX_WINDOW else 0
        session.wanted = wanted

    # --- snapshots -------------------------------------------------------------

    def encode(self) -> list[EncodedSession]:
        """Return all of them, the least recently used first."""
        kept: dict[int, list[tuple[int, Result]]] = {}
        for (name, number), result in self._results.items():
            kept.setdefault(name, []).append((number, result))
        return [_encoded(s, kept.get(s.id, ())) for s in self._sessions.values()]

    def _add_encoded(self, each: EncodedSession) -> None:
        applied = int.from_bytes(each.applied, "big")
        session = _Session(each.id, each.ttl, each.used, each.wanted, applied)
        self._sessions[each.id] = session
        heappush(self._ends, (each.used + each.ttl, each.id))
        for number, data in each.results:
            self.record(Due(each.id, number, b""), data)
        for number, kind, detail in each.failures:
            self.record(Due(each.id, number, b""), (kind, detail))


def answer(result: Result) -> bytes | CommandFailedError:
    """Return what a command that came to *result* is answered."""
    return result if isinstance(result, bytes) else CommandFailedError(*result)


def _cost(result: Result) -> int:
    if isinstance(result, bytes):
        return _RESULT_COST + len(result)
    return _RESULT_COST + len(result[0]) + len(result[1])


def _encoded(
    session: _Session, results: Iterable[tuple[int, Result]]
) -> EncodedSession:
    applied = session.applied
    return EncodedSession(
        session.id,
        session.ttl,
        session.used,
        session.wanted,
        applied.to_bytes((applied.bit_length() + 7) // 8, "big"),
        [(number, each) for number, each in results if isinstance(each, bytes)],
        [(number, *each) for number, each in results if not isinstance(each, bytes)],
    )
