"""What an operator asks of the log of one server: to be cut, and to be explained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred, fail

from consensus.core.values import LogIndex, ServerId, Term  # noqa: TC001 - msgspec reads the types of an explanation
from consensus.errors import InvalidCommandError, RejectedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from consensus.core.raft import Raft
    from consensus.shell.events import Events
    from consensus.shell.milestones import Milestones
    from consensus.shell.worker import StorageWorker


@dataclass(frozen=True, slots=True)
class Step:
    """
    How far one entry is at one server.

    Args:
        is_done: Whether it is so far.
        time: Since when, in seconds since 1970 by that server's clock;
            ``None`` if it is not, or if nobody remembers.
    """

    is_done: bool
    time: float | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """
    What became of one entry at one server.

    Args:
        server: The server.
        index: The entry.
        term: The term of the entry; 0 where the log has it no more, or not yet.
        leader: Who led in that term, if this server remembers.
        is_compacted: The log has it no more: a snapshot covers it.
        appended: It entered the log.
        stored: It is durable.
        committed: The server knows that it is committed.
        applied: The state machine has it.
    """

    server: ServerId
    index: LogIndex
    term: Term
    leader: ServerId | None
    is_compacted: bool
    appended: Step
    stored: Step
    committed: Step
    applied: Step


class Inspection:
    """
    Looks into the log of one server, and cuts it.

    Args:
        raft: Whose log.
        milestones: When its entries came how far.
        events: Who led when.
        worker: Who calls the storage.
        turn: Has the storage told of what the core wants now.
    """

    def __init__(
        self,
        raft: Raft,
        milestones: Milestones,
        events: Events,
        worker: StorageWorker,
        turn: Callable[[], None],
    ) -> None:
        self._raft = raft
        self._milestones = milestones
        self._events = events
        self._worker = worker
        self._turn = turn

    def compact(self, keep: int = 0) -> Deferred[LogIndex]:
        """
        Drop the entries that the latest snapshot covers, but for *keep* of them.

        A follower that is further behind is sent the snapshot.

        Returns:
            The Deferred of the first entry that the log has then.  It fails
            with a :class:`~.RejectedError` if there is no snapshot.
        """
        state = self._raft.state
        if state.snapshot is None:
            message = f"{state.server} has no snapshot yet, so its log is needed"
            return fail(RejectedError(message))
        self._raft.compact(keep)
        self._turn()
        return self._worker.call(lambda: None).addCallback(
            lambda _: state.log.base_index + 1
        )

    def explain(self, index: LogIndex) -> Explanation:
        """
        Return what became of the entry at *index* here.

        Raises:
            InvalidCommandError: There is no such index.
        """
        if index < 1:
            raise InvalidCommandError("entries are counted from 1 on")
        state = self._raft.state
        log, times = state.log, self._milestones.of(index)
        is_compacted = index <= log.base_index
        term = 0 if is_compacted else log.term(index)

        def step(last: LogIndex, when: float | None) -> Step:
            return Step(index <= last, when if index <= last else None)

        return Explanation(
            state.server,
            index,
            term,
            self._leader_of(term),
            is_compacted,
            step(log.last_index, times.appended),
            step(log.stable_index, times.stored),
            step(log.commit_index, times.committed),
            step(log.last_applied, times.applied),
        )

    def _leader_of(self, term: Term) -> ServerId | None:
        state = self._raft.state
        if term and term == state.term:
            return state.leader
        return self._events.leader_of(term)
