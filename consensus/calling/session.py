"""
A client's session: its writes are applied once each, however often they are sent.

Servers remember what the session's numbered commands came to (see
:mod:`consensus.sessions`), so whatever was not answered is sent again.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, overload

from twisted.internet.defer import Deferred, fail

from consensus.errors import (
    InvalidCommandError,
    OutcomeUnknownError,
    OverloadedError,
    ProtocolError,
    RaftError,
    RejectedError,
    SessionExpiredError,
    TimedOutError,
)
from consensus.options import unpack_result
from consensus.sessions import (
    MAX_WINDOW,
    close_call,
    command_call,
    open_call,
    session_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.python.failure import Failure

    from consensus.core.values import LogIndex


@dataclass(slots=True)
class Attempts:
    """
    What became of the attempts at one call so far.

    Args:
        deadline: When the last one may begin.
        is_uncertain: One of them may have reached a log.
    """

    deadline: float
    is_uncertain: bool = False

    def failed(self, error: RaftError) -> None:
        """Note that an attempt failed with *error*."""
        # An expired session says of this attempt that it was not applied.
        if isinstance(error, OutcomeUnknownError) and not isinstance(
            error, SessionExpiredError
        ):
            self.is_uncertain = True


@dataclass(slots=True)
class _Opened:
    """
    A session that servers know.

    Args:
        id: Its name.
        next: The number of its next command.
        wanted: The numbers whose results are still waited for, in order.
    """

    id: int
    next: int = 1
    wanted: dict[int, None] = field(default_factory=dict)

    def lowest_wanted(self) -> int:
        """Return below which number all answers are there."""
        return next(iter(self.wanted), self.next)


@dataclass(frozen=True, slots=True)
class _Write:
    """
    A write of the session.

    Args:
        command: What is to be applied.
        attempts: What became of it so far.
        is_indexed: The answer is to have its log index.
    """

    command: bytes
    attempts: Attempts
    is_indexed: bool


class ClientSession:
    """
    Writes that are applied once each; made by :meth:`.Client.session`.

    Any number of them may be under way at once.  They are applied in any
    order: who needs one waits for the answer before the next write.  The
    session is opened by the first write, and another one when the servers have
    forgotten it.

    Args:
        call: Makes a call, and repeats it until it has an answer.
        clock: What *timeout* goes by.
        timeout: Seconds after which a write gives up.
        ttl: The seconds that the session may be idle.
        note: Told the log index with which each write is answered.

    Raises:
        InvalidCommandError: *ttl* is out of its range.
    """

    def __init__(
        self,
        call: Callable[[str, bytes, Attempts], Deferred[bytes]],
        clock: Any,
        timeout: float,
        ttl: float,
        note: Callable[[LogIndex], None] | None = None,
    ) -> None:
        self._call = call
        self._clock = clock
        self._timeout = timeout
        self._opening = open_call(round(ttl * 1000))
        self._note = note
        self._opened: _Opened | None = None
        self._is_opening = False
        self._is_waking = False
        # Writes that wait for the session, or for a number.
        self._waiting: deque[Deferred[None]] = deque()

    @overload
    def write(
        self,
        command: bytes,
        *,
        with_index: Literal[False] = False,
        timeout: float | None = None,
    ) -> Deferred[bytes]: ...

    @overload
    def write(
        self,
        command: bytes,
        *,
        with_index: bool,
        timeout: float | None = None,
    ) -> Deferred[Any]: ...

    def write(
        self,
        command: bytes,
        *,
        with_index: bool = False,
        timeout: float | None = None,
    ) -> Deferred[Any]:
        """
        Apply *command* once and return its result, as the machine encodes both.

        Args:
            command: For the state machine.
            with_index: Return ``(result, log index)``; see :meth:`.Client.read`.
            timeout: Seconds after which it gives up; the client's if ``None``.

        The Deferred fails with:
            RejectedError: It was not applied and will not be.
            TimedOutError: No answer came in time: it may have been applied, or
                may yet be, but not twice.
            SessionExpiredError: The servers have forgotten the session while
                it was not known whether the command had been applied.
            CommandFailedError: The state machine raised; or its result is not
                kept any more (``.kind`` is ``ResultLost``).
        """
        if timeout is not None and not 0 < timeout < math.inf:
            message = f"a timeout is a number of seconds above 0, not {timeout!r}"
            return fail(InvalidCommandError(message))
        is_indexed = with_index or self._note is not None
        write = _Write(command, self._begin(timeout), is_indexed)
        # Mostly there is a session, and room in it: that takes no coroutine.
        if self._opened is not None and self._has_room():
            answer = self._attempt(self._opened, write)
        else:
            answer = Deferred.fromCoroutine(self._write(write))
        if is_indexed:
            return answer.addCallback(self._indexed, with_index)
        return answer

    def _indexed(self, payload: bytes, with_index: bool) -> Any:  # noqa: FBT001 - a callback's
        try:
            result, index = unpack_result(payload)
        except ValueError as error:
            message = f"this is no result with its index: {error}"
            raise ProtocolError(message) from error
        if self._note is not None:
            self._note(index)
        return (result, index) if with_index else result

    def close(self) -> Deferred[None]:
        """
        Let the servers forget the session; a later write opens another.

        It is no failure when they cannot be reached: they forget it in time.
        """
        return Deferred.fromCoroutine(self._close())

    async def _close(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            try:
                await self._call("session_close", close_call(opened.id), self._begin())
            except RaftError:
                return

    def _begin(self, timeout: float | None = None) -> Attempts:
        patience = self._timeout if timeout is None else timeout
        return Attempts(self._clock.seconds() + patience)

    async def _write(self, write: _Write) -> bytes:
        opened = await self._ready(write.attempts)
        return await self._attempt(opened, write)

    def _attempt(self, opened: _Opened, write: _Write) -> Deferred[bytes]:
        """Send *write* as the next one of the session *opened*."""
        number = opened.next
        opened.next += 1
        opened.wanted[number] = None
        lowest = opened.lowest_wanted()
        payload = command_call(opened.id, number, lowest, write.command)
        method = "session_write_indexed" if write.is_indexed else "session_write"
        answer = self._call(method, payload, write.attempts)
        answer.addCallbacks(
            self._answered,
            self._failed,
            callbackArgs=(opened, number),
            errbackArgs=(opened, number, write),
        )
        self._wake()  # those who waited for the session come after this one
        return answer

    def _answered(self, answer: bytes, opened: _Opened, number: int) -> bytes:
        del opened.wanted[number]
        self._wake()
        return answer

    def _failed(
        self, failure: Failure, opened: _Opened, number: int, write: _Write
    ) -> Any:
        """Begin anew in another session, if *opened* has expired; or fail."""
        error = failure.value
        has_expired = isinstance(error, SessionExpiredError)
        if has_expired and self._opened is opened:
            self._opened = None
        del opened.wanted[number]
        self._wake()
        if has_expired:
            if write.attempts.is_uncertain:
                return failure
            return Deferred.fromCoroutine(self._write(write))
        if isinstance(error, RejectedError) and write.attempts.is_uncertain:
            message = f"an attempt had no answer, and the last failed: {error}"
            raise TimedOutError(message) from error
        return failure

    async def _ready(self, attempts: Attempts) -> _Opened:
        """Return the session when it has a number for one more command."""
        while self._clock.seconds() < attempts.deadline:
            if self._opened is not None and self._has_room():
                return self._opened
            if self._has_room():
                await self._open(attempts)
            else:
                waiter: Deferred[None] = Deferred()
                self._waiting.append(waiter)
                await waiter
        self._wake()  # this one makes room, if there is any
        if attempts.is_uncertain:
            raise TimedOutError("no answer came in time")
        raise OverloadedError("too many commands of the session are under way")

    def _has_room(self) -> bool:
        """Say whether one more write can do something."""
        if self._opened is None:
            return not self._is_opening
        return self._opened.next - self._opened.lowest_wanted() < MAX_WINDOW

    async def _open(self, attempts: Attempts) -> None:
        self._is_opening = True
        try:
            # Whether it was opened is not what the write's caller wonders.
            opening = Attempts(attempts.deadline)
            answer = await self._call("session_open", self._opening, opening)
            self._opened = _Opened(session_of(answer))
        except RejectedError:
            raise
        except RaftError as error:
            message = f"no session could be opened: {error}"
            raise RejectedError(message) from error
        except ValueError as error:
            message = f"this is no server of sessions: {error}"
            raise ProtocolError(message) from error
        finally:
            self._is_opening = False
            if self._opened is None:
                self._wake()

    def _wake(self) -> None:
        """Let those who wait look again, as long as it is of use."""
        if self._is_waking:
            return  # whoever was woken has failed at once
        self._is_waking = True
        while self._waiting and self._has_room():
            self._waiting.popleft().callback(None)
        self._is_waking = False
