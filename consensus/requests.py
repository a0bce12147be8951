"""
The writes and reads that users wait for, in their order of arrival.

Everything is bounded, everything has a deadline, and every Deferred fires.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from consensus.core.values import Role
from consensus.errors import (
    CommandFailedError,
    InvalidCommandError,
    LeadershipLostError,
    NotLeaderError,
    OverloadedError,
    TimedOutError,
)

if TYPE_CHECKING:
    from consensus.config import Limits
    from consensus.core.raft import Raft
    from consensus.core.ready import Ready
    from consensus.core.values import Entry, LogIndex, ServerId, Term
    from consensus.interfaces import StateMachine

_LOST = "this server no longer leads; the command may yet be committed"


def command_failed(error: Exception) -> Failure:
    """Return what a caller gets when the state machine raised *error*."""
    return Failure(CommandFailedError(type(error).__name__, str(error)))


class _WaitingWrite(NamedTuple):
    """A write that is in the log and not yet applied."""

    log_index: LogIndex
    term: Term
    deadline: int
    size: int
    answer: Deferred[Any]


class Writes:
    """
    Writes: those of this turn, then those in the log until they are applied.

    Args:
        limits: What bounds them.
        max_command_bytes: The largest command; the limits' own, or less.
    """

    def __init__(self, limits: Limits, max_command_bytes: int) -> None:
        self._limits = limits
        self._max_command_bytes = max_command_bytes
        self._new: list[tuple[bytes, Deferred[Any]]] = []
        self._waiting: deque[_WaitingWrite] = deque()
        self._bytes = 0

    def add(self, command: bytes) -> Deferred[Any]:
        """
        Keep *command* for :meth:`propose`; return the Deferred of its result.

        Raises:
            InvalidCommandError: It is larger than commands may be.
            OverloadedError: Too many are waiting, or too large ones.
        """
        limits, size = self._limits, len(command)
        if size > self._max_command_bytes:
            message = (
                f"the command has {size} bytes; at most {self._max_command_bytes} are"
                " possible (limits.max_command_bytes, and what the transport carries)"
            )
            raise InvalidCommandError(message)
        if (
            self._bytes + size > limits.max_pending_bytes
            or len(self._new) + len(self._waiting) >= limits.max_pending_requests
        ):
            raise OverloadedError("too many writes are waiting; back off")
        self._bytes += size
        answer: Deferred[Any] = Deferred()
        self._new.append((command, answer))
        return answer

    def propose(self, raft: Raft, deadline: int) -> None:
        """Append the writes of this turn to the log, all at once."""
        if not self._new:
            return
        batch, self._new = self._new, []
        try:
            first = raft.propose([command for command, _ in batch])
        except NotLeaderError as error:
            for command, answer in batch:
                self._bytes -= len(command)
                answer.errback(error)
            return
        term = raft.state.term
        self._waiting.extend(
            _WaitingWrite(index, term, deadline, len(command), answer)
            for index, (command, answer) in enumerate(batch, first)
        )

    def applied(self, entry: Entry, result: Any) -> None:
        """Answer the write that became *entry*, if it waits here."""
        if not self._waiting or self._waiting[0].log_index != entry.index:
            return
        write = self._pop()
        if write.term == entry.term:
            write.answer.callback(result)
        else:
            write.answer.errback(LeadershipLostError(_LOST))

    def drop_lost(self, raft: Raft) -> None:
        """Fail the writes of a leadership that is over."""
        state = raft.state
        while self._waiting and (
            state.role is not Role.LEADER or self._waiting[0].term != state.term
        ):
            self._pop().answer.errback(LeadershipLostError(_LOST))

    def expire(self, now: int) -> None:
        """Fail the writes whose deadline has passed."""
        while self._waiting and self._waiting[0].deadline <= now:
            self._pop().answer.errback(TimedOutError("not committed in time"))

    def fail(self, error: Exception) -> None:
        """Fail all of them."""
        answers = [answer for _, answer in self._new]
        answers += [write.answer for write in self._waiting]
        self._new.clear()
        self._waiting.clear()
        self._bytes = 0
        for answer in answers:
            answer.errback(error)

    def _pop(self) -> _WaitingWrite:
        write = self._waiting.popleft()
        self._bytes -= write.size
        return write


#: Queries and the Deferreds of their answers.
_Queries = list[tuple[Any, Deferred[Any]]]


class _Round(NamedTuple):
    """Reads that share a round of heartbeats; they need the log up to an index."""

    log_index: LogIndex
    deadline: int
    queries: _Queries


class Reads:
    """
    Reads: of this turn, then in a round, then until their index is applied.

    Args:
        limits: What bounds them.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._new: _Queries = []
        self._rounds: dict[int, _Round] = {}
        self._confirmed: deque[_Round] = deque()
        self._number = 0
        self._count = 0

    def add(self, query: Any) -> Deferred[Any]:
        """
        Keep *query* for :meth:`begin`; return the Deferred of its answer.

        Raises:
            OverloadedError: Too many are waiting.
        """
        if self._count >= self._limits.max_pending_requests:
            raise OverloadedError("too many reads are waiting; back off")
        self._count += 1
        answer: Deferred[Any] = Deferred()
        self._new.append((query, answer))
        return answer

    def begin(self, raft: Raft, deadline: int) -> None:
        """Let the reads of this turn share one round of heartbeats (§6.4)."""
        if not self._new:
            return
        queries, self._new = self._new, []
        self._number += 1
        try:
            raft.read(self._number)
        except NotLeaderError as error:
            self._refuse(queries, error)
            return
        self._rounds[self._number] = _Round(0, deadline, queries)

    def settle(self, ready: Ready, error: NotLeaderError) -> None:
        """Note which rounds *ready* confirms, and fail with *error* the others."""
        for number in ready.failed_reads:
            lost = self._rounds.pop(number, None)
            if lost is not None:
                self._refuse(lost.queries, error)
        for number, index in ready.reads:
            confirmed = self._rounds.pop(number, None)
            if confirmed is not None:
                self._confirmed.append(confirmed._replace(log_index=index))

    def serve(self, last_applied: LogIndex, machine: StateMachine, state: Any) -> None:
        """Answer the confirmed reads for which *state* is recent enough."""
        while self._confirmed and self._confirmed[0].log_index <= last_applied:
            queries = self._confirmed.popleft().queries
            self._count -= len(queries)
            for query, answer in queries:
                try:
                    result, _ = machine.handle_read(query, state)
                except Exception as error:  # noqa: BLE001 - the caller's to deal with
                    result = command_failed(error)
                answer.callback(result)

    def expire(self, now: int) -> None:
        """Fail the reads whose deadline has passed."""
        rounds = self._rounds
        late = [number for number in rounds if rounds[number].deadline <= now]
        expired = [rounds.pop(number) for number in late]
        while self._confirmed and self._confirmed[0].deadline <= now:
            expired.append(self._confirmed.popleft())
        for waiting in expired:
            self._refuse(waiting.queries, TimedOutError("not confirmed in time"))

    def fail(self, error: Exception) -> None:
        """Fail all of them."""
        batches = [waiting.queries for waiting in self._rounds.values()]
        batches += [waiting.queries for waiting in self._confirmed]
        batches.append(self._new)
        self._new = []
        self._rounds.clear()
        self._confirmed.clear()
        for queries in batches:
            self._refuse(queries, error)

    def _refuse(self, queries: _Queries, error: Exception) -> None:
        self._count -= len(queries)
        for _, answer in queries:
            answer.errback(error)


class _LeaderWaiter(NamedTuple):
    """Somebody who waits for a leader, but for none of these."""

    answer: Deferred[ServerId]
    other_than: frozenset[ServerId]


class LeaderWaiters:
    """
    Those who wait until a leader is known.

    Args:
        clock: What their timeouts go by.
    """

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self._waiting: list[_LeaderWaiter] = []

    def add(
        self, timeout: float | None, other_than: frozenset[ServerId]
    ) -> Deferred[ServerId]:
        """Wait for a leader that is none of *other_than*, so many seconds."""
        answer: Deferred[ServerId] = Deferred()
        self._waiting.append(_LeaderWaiter(answer, other_than))
        if timeout is not None:
            answer.addTimeout(timeout, self._clock, partial(_no_leader, timeout))
        return answer

    def known(self, leader: ServerId) -> None:
        """Tell those whom *leader* suits."""
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if leader in waiter.other_than:
                self._waiting.append(waiter)
            elif not waiter.answer.called:
                waiter.answer.callback(leader)

    def fail(self, error: Exception) -> None:
        """Tell all of them."""
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.answer.called:
                waiter.answer.errback(error)


def _no_leader(timeout: float, result: Any, after: float) -> Any:
    del result, after
    message = f"no leader within {timeout:g} s"
    raise TimedOutError(message)
