"""
The writes that users wait for, in their order of arrival.

Everything is bounded, everything has a deadline, and every Deferred fires.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure

from consensus.core.values import EntryKind, Role
from consensus.errors import (
    CommandFailedError,
    InvalidCommandError,
    LeadershipLostError,
    NotLeaderError,
    OverloadedError,
    TimedOutError,
)
from consensus.telemetry.measurements import Measurements

if TYPE_CHECKING:
    from collections.abc import Sequence

    from consensus.config import Limits
    from consensus.core.raft import Raft
    from consensus.core.values import Entry, LogIndex, Term

    #: A write that somebody waits for: the command, the entry's kind, whether
    #: the answer is to have the index, the answer.  A plain tuple is made in a
    #: tenth of the time of a named one.
    _Write = tuple[bytes, int, bool, Deferred[Any] | "_Many"]

_command = itemgetter(0)
_term = attrgetter("term")

_OVERLOADED = "too many writes are waiting; back off"
_LOST = "this server no longer leads; the command may yet be committed"


class _Many:
    """
    What waits for several writes, which stand in the log side by side.

    Args:
        count: How many.
        answer: What to call back with all the results; a command on which the
            machine raised has that error among them.
        with_index: Results come with their index, and the answer has the last.
    """

    __slots__ = ("_answer", "_count", "_index", "_results", "_with_index")

    def __init__(
        self, count: int, answer: Deferred[Any], *, with_index: bool = False
    ) -> None:
        self._count = count
        self._answer = answer
        self._with_index = with_index
        self._index = 0
        self._results: list[Any] = []

    def callback(self, result: Any) -> None:
        """Take the result of the next of them."""
        if isinstance(result, Failure):
            result = result.value
        elif self._with_index:
            result, self._index = result
        self._results.append(result)
        if len(self._results) == self._count:
            results = self._results
            self._answer.callback(
                (results, self._index) if self._with_index else results
            )

    def errback(self, error: Exception) -> None:
        """Fail, once, for all of them: some may have been applied."""
        if not self._answer.called:
            self._answer.errback(error)


@dataclass(slots=True)
class _Proposed:
    """
    Writes that are side by side in the log and not all applied yet.

    Args:
        next_index: Of the first that waits.
        term: In which they were proposed.
        deadline: The tick at which they fail.
        writes: Those that wait.
        times: When the first of them came, and when they were proposed.
    """

    next_index: LogIndex
    term: Term
    deadline: float
    writes: list[_Write]
    times: tuple[float, float]


class Writes:
    """
    Writes: those of this turn, then those in the log until they are applied.

    Args:
        limits: What bounds them.
        max_command_bytes: The largest command; the limits' own, or less.
        measured: Where it is counted what becomes of them.
    """

    def __init__(
        self,
        limits: Limits,
        max_command_bytes: int,
        measured: Measurements | None = None,
    ) -> None:
        self._measured = Measurements(lambda: 0.0) if measured is None else measured
        #: When that was committed which is applied now.
        self.committed_at = 0.0
        # When the first of those that are new came.
        self._began = 0.0
        self.limit(limits, max_command_bytes)
        self._new: list[_Write] = []
        self._waiting: deque[_Proposed] = deque()
        self._count = 0
        self._bytes = 0

    def limit(self, limits: Limits, max_command_bytes: int) -> None:
        """Be bounded by these from now on; what has been taken stays."""
        self._max_pending_bytes = limits.max_pending_bytes
        self._max_pending_requests = limits.max_pending_requests
        self._max_command_bytes = max_command_bytes

    def hasten(self, deadline: float) -> None:
        """Let nobody wait for longer than until *deadline*."""
        for proposed in self._waiting:
            proposed.deadline = min(proposed.deadline, deadline)

    def add(
        self,
        command: bytes,
        kind: int = EntryKind.COMMAND,
        *,
        with_index: bool = False,
    ) -> Deferred[Any]:
        """
        Keep *command* for :meth:`propose`; return the Deferred of its result.

        Args:
            command: The application's bytes, or those of another kind.
            kind: Of the entry.
            with_index: The Deferred gives the result and the log index.

        Raises:
            InvalidCommandError: It is larger than commands may be.

        The Deferred fails with:
            OverloadedError: Too many are waiting, or too large ones.
        """
        size = len(command)
        if size > self._max_command_bytes:
            self.check_size(size)
        if not self._take(1, size):
            # Not raised: there is much of it under load, and this costs less.
            return fail(OverloadedError(_OVERLOADED))
        answer: Deferred[Any] = Deferred()
        self._new.append((command, kind, with_index, answer))
        return answer

    def add_many(
        self, commands: Sequence[bytes], *, with_index: bool = False
    ) -> Deferred[Any]:
        """
        Keep *commands*, of which there are some, for :meth:`propose`.

        They come one after another in the log, with nothing in between.

        Returns:
            The Deferred of their results; with *with_index*, and of the log
            index of the last that did not fail.

        Raises:
            InvalidCommandError: One is larger than commands may be, or all
                together are more than may ever wait.

        The Deferred fails with:
            OverloadedError: Too many are waiting, or too large ones.
        """
        for command in commands:
            self.check_size(len(command))
        count, size = len(commands), sum(map(len, commands))
        if count > self._max_pending_requests or size > self._max_pending_bytes:
            message = (
                f"{count} commands of {size} bytes together are more than"
                " limits.max_pending_requests or limits.max_pending_bytes allows"
            )
            raise InvalidCommandError(message)
        if not self._take(count, size):
            return fail(OverloadedError(_OVERLOADED))
        answer: Deferred[Any] = Deferred()
        many = _Many(len(commands), answer, with_index=with_index)
        self._new += [(each, EntryKind.COMMAND, with_index, many) for each in commands]
        return answer

    def _take(self, count: int, size: int) -> bool:
        """Make room for *count* writes of *size* bytes together, if there is any."""
        if (
            self._bytes + size > self._max_pending_bytes
            or self._count + count > self._max_pending_requests
        ):
            self._measured.failed(OverloadedError(_OVERLOADED), count)
            return False
        self._bytes += size
        self._count += count
        if not self._new:
            self._began = self._measured.seconds()
        return True

    def check_size(self, size: int) -> None:
        """
        Refuse what is too large to be taken.

        Raises:
            InvalidCommandError: It is.
        """
        if size > self._max_command_bytes:
            message = (
                f"it has {size} bytes; at most {self._max_command_bytes} are possible"
                " (limits.max_command_bytes, and what the transport carries)"
            )
            error = InvalidCommandError(message)
            self._measured.failed(error)
            raise error

    @property
    def are_new(self) -> bool:
        """Say whether there is anything to propose."""
        return bool(self._new)

    def propose(self, raft: Raft, deadline: float) -> None:
        """Append the writes of this turn to the log, all at once."""
        if not self._new:
            return
        batch, self._new = self._new, []
        commands, kinds, _, _ = zip(*batch, strict=True)
        try:
            first = raft.propose(commands, kinds)
        except NotLeaderError as error:
            self._fail(batch, error)
            return
        now = self._measured.proposed(len(batch))
        times = (self._began, now)
        self._waiting.append(_Proposed(first, raft.state.term, deadline, batch, times))

    def applied(self, entries: Sequence[Entry], results: Sequence[Any]) -> None:
        """Answer the writes that became *entries*, if they wait here."""
        waiting = self._waiting
        first = entries[0].index
        while waiting:
            proposed = waiting[0]
            index = proposed.next_index
            skipped = index - first
            if not 0 <= skipped < len(entries):
                return
            writes = proposed.writes
            count = min(len(writes), len(entries) - skipped)
            if count == len(writes):
                waiting.popleft()
            else:
                proposed.next_index += count
                proposed.writes = writes[count:]
                writes = writes[:count]
            # Another leader may have kept the first of them, and replaced the rest.
            stop = skipped + count
            own = list(map(_term, entries[skipped:stop])).count(proposed.term)
            self._answer(writes[:own], results[skipped : skipped + own], index)
            if own:
                came, entered = proposed.times
                self._measured.commit_seconds.observe(self.committed_at - entered, own)
                self._measured.wrote(came, own)
            if own < count:
                self._fail(writes[own:], LeadershipLostError(_LOST))

    def _answer(
        self, writes: list[_Write], results: Sequence[Any], first: LogIndex
    ) -> None:
        """Answer *writes*, the first of which is at index *first*."""
        self._release(writes)
        failed = list(map(type, results)).count(Failure)
        if failed:
            self._measured.failures[CommandFailedError.code] += failed
        index = first
        for (_, _, with_index, answer), result in zip(writes, results, strict=True):
            if with_index and not isinstance(result, Failure):
                answer.callback((result, index))
            else:
                answer.callback(result)
            index += 1

    def drop_lost(self, raft: Raft) -> None:
        """Fail the writes of a leadership that is over."""
        state = raft.state
        while self._waiting and (
            state.role is not Role.LEADER or self._waiting[0].term != state.term
        ):
            self._fail(self._waiting.popleft().writes, LeadershipLostError(_LOST))

    def expire(self, now: float) -> None:
        """Fail the writes whose deadline has passed."""
        while self._waiting and self._waiting[0].deadline <= now:
            error = TimedOutError("not committed in time")
            self._fail(self._waiting.popleft().writes, error)

    @property
    def depth(self) -> int:
        """Return how many wait for their answer."""
        return self._count

    def fail(self, error: Exception) -> None:
        """Fail all of them."""
        writes, self._new = self._new, []
        for proposed in self._waiting:
            writes += proposed.writes
        self._waiting.clear()
        self._fail(writes, error)

    def _fail(self, writes: list[_Write], error: Exception) -> None:
        self._release(writes)
        self._measured.failed(error, len(writes))
        for _, _, _, answer in writes:
            answer.errback(error)

    def _release(self, writes: list[_Write]) -> None:
        self._count -= len(writes)
        self._bytes -= sum(map(len, map(_command, writes)))
