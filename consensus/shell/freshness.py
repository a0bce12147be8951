"""
How fresh a server's state is, and whether a leader holds a lease (§6.4.1).

Both go by real time, not by ticks: a process that was paused, or a clock
thread that starved, must not make an old state look fresh.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from consensus.core.messages import AppendEntries
from consensus.core.values import Role

if TYPE_CHECKING:
    from collections.abc import Callable

    from consensus.config import Config
    from consensus.core.messages import Message
    from consensus.core.raft import Raft
    from consensus.core.values import LogIndex, Term

#: Moments that are remembered; with more under way, a state looks a little
#: older than it is, and a lease ends a little sooner.
_MAX_REMEMBERED = 256


class _Round(NamedTuple):
    """A round of heartbeats that no majority has answered yet."""

    number: int
    began: float
    log_index: LogIndex


class _Moment(NamedTuple):
    """When a state that has applied the log up to an index was the newest."""

    log_index: LogIndex
    at: float


class Freshness:
    """
    When a server last knew that its state was the newest.

    Args:
        raft: The server's.
        seconds: Returns the time; it goes on while the process is paused.
        lease: For how long no other can lead after a majority has answered
            this leader, counted from when it asked; 0 for no leases.
        pause: After a longer silence of the server's own clock, what arrives
            may have waited as long, and says nothing for a while.
    """

    def __init__(
        self, raft: Raft, seconds: Callable[[], float], lease: float, pause: float
    ) -> None:
        self._raft = raft
        self._seconds = seconds
        self._lease = lease
        self.pause = pause
        self._term: Term = 0
        self._noted = 0
        self._rounds: deque[_Round] = deque()
        self._moments: deque[_Moment] = deque()
        self._fresh_at: float | None = None
        self._lease_end: float | None = None
        self._ticked_at = self._doubtful_until = seconds()

    # --- what happens ------------------------------------------------------

    def ticked(self) -> None:
        """Note that the server's clock goes, so it hears what is sent to it."""
        now = self._seconds()
        if now - self._ticked_at > self.pause:
            self._doubtful_until = now + self.pause
            self._moments.clear()
        self._ticked_at = now

    def heard(self, message: Message) -> None:
        """Note a message that the core has taken."""
        state = self._raft.state
        if (
            not isinstance(message, AppendEntries)
            or state.role is not Role.FOLLOWER
            or (state.leader, state.term) != (message.sender, message.term)
            or not self._is_news(message.commit_index)
        ):
            return
        now = self._seconds()
        if now >= self._doubtful_until and now - self._ticked_at <= self.pause:
            self._remember(_Moment(message.commit_index, now))

    def _is_news(self, commit_index: LogIndex) -> bool:
        """
        Say whether a leader with this commit index knows all that is committed.

        It does when it has committed an entry of its own term (§6.4).
        """
        state, log = self._raft.state, self._raft.state.log
        is_here = log.commit_index <= commit_index <= log.last_index
        return is_here and log.term(commit_index) == state.term

    def about_to_send(self) -> None:
        """Note when a leader's round begins: before it leaves the server."""
        state = self._raft.state
        if state.role is not Role.LEADER:
            return
        if state.term != self._term:
            # Rounds go on counting; the answers to an earlier reign do not.
            self._term, self._noted = state.term, state.round
            self._rounds.clear()
            self._lease_end = None
        if state.round > self._noted:
            self._noted = state.round
            index = max(state.log.commit_index, state.term_start)
            self._note(_Round(state.round, self._seconds(), index))
        self._confirm()

    def _note(self, new: _Round) -> None:
        if len(self._rounds) == _MAX_REMEMBERED:
            # Never a later beginning than the true one: the new round takes
            # the place of the last, with its time.
            new = self._rounds.pop()._replace(number=new.number)
        self._rounds.append(new)

    def _confirm(self) -> None:
        """Take note of the rounds that a majority has answered."""
        if not self._rounds:
            return
        last, latest = self._raft.confirmed_round, None
        while self._rounds and self._rounds[0].number <= last:
            latest = self._rounds.popleft()
        if latest is not None:
            self._lease_end = latest.began + self._lease
            self._remember(_Moment(latest.log_index, latest.began))

    def _remember(self, moment: _Moment) -> None:
        self._settle()
        if len(self._moments) < _MAX_REMEMBERED:
            self._moments.append(moment)

    def _settle(self) -> None:
        """See which moments the state machine has caught up with."""
        applied, moments = self._raft.state.log.last_applied, self._moments
        while moments and moments[0].log_index <= applied:
            self._fresh_at = moments.popleft().at

    # --- what follows ------------------------------------------------------

    def age(self) -> float | None:
        """
        Return how many seconds ago the state was the newest; ``None`` if never.

        A leader knows.  A follower believes the last message of its leader,
        which may have been under way for a while, and which may come from a
        leader that was deposed and has not noticed yet: that takes up to an
        election timeout.
        """
        self._settle()
        if self._fresh_at is None:
            return None
        return max(0.0, self._seconds() - self._fresh_at)

    def has_lease(self) -> bool:
        """
        Say whether no other server can lead now (§6.4.1).

        A majority has answered a heartbeat of this leader, so long ago at
        most that none of them may have voted since.
        """
        state = self._raft.state
        return (
            self._lease > 0.0
            and state.role is Role.LEADER
            and state.may_lease
            and state.term == self._term
            and self._lease_end is not None
            and self._seconds() < self._lease_end
        )


def lease_of(config: Config, raft: Raft, tick_interval: float) -> float:
    """
    Return the length of a leader's lease, in seconds; 0 for none.

    A voter keeps its pledge for an election timeout of its own ticks, of
    which the first and the last may come early.
    """
    if not config.reads.lease:
        return 0.0
    ticks = max(0, raft.state.tuning.election_ticks - 2)
    return ticks * tick_interval * (1.0 - config.reads.clock_drift)
