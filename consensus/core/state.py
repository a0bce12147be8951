"""The data of one Raft, and how it becomes follower, candidate or leader."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from consensus.core.progress import Progress
from consensus.core.ready import Event, Fetch, MembershipChanged, RoleChanged
from consensus.core.values import Entry, EntryKind, HardState, Role

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from consensus.core.log import Log
    from consensus.core.membership import Membership
    from consensus.core.messages import Message
    from consensus.core.values import LogIndex, ServerId, Term


@dataclass(frozen=True, slots=True)
class Tuning:
    """
    How patient a Raft is, in ticks, and how much it sends, in bytes.

    Args:
        heartbeat_ticks: A leader speaks to each peer at least this often.
        election_ticks: A follower waits for a leader between this and twice
            this long; a new draw for each wait (§3.4).
        max_append_bytes: The commands of one message; a larger one goes alone.
        max_inflight: Messages under way to one peer.
        max_apply_bytes: The commands that one Ready hands out to be applied.
        stable_leader: Ask before standing for election (§9.6), be loyal to a
            leader that is heard (§4.2.3), and as a leader step down when no
            majority is (§6.2).  One of these without the others can leave a
            cluster without a leader for ever.
        preferred: Who should lead, the most preferred first; a leader hands
            over to a better one that has caught up (§3.10).
    """

    heartbeat_ticks: int = 5
    election_ticks: int = 25
    max_append_bytes: int = 48 * 1024
    max_inflight: int = 8
    max_apply_bytes: int = 1024 * 1024
    stable_leader: bool = False
    preferred: tuple[ServerId, ...] = ()


@dataclass(slots=True)
class PendingRead:
    """A read that waits for a round of heartbeats (§6.4)."""

    id: int
    index: LogIndex
    round: int


@dataclass(slots=True)
class State:
    """
    All that one Raft knows; the modules beside this one change it.

    Args:
        server: Who this is.
        tuning: See :class:`Tuning`.
        log: Its log.
        hard_state: Term and vote, durable or about to be.
        membership: The latest in the log.
        random_below: ``random_below(n)`` draws an int from 0 to n - 1.
        role: Its role in the current term.
        leader: Who leads the current term, as far as known.
        durable: What storage is known to have of ``hard_state``.
        elapsed: Ticks since a leader was heard, or since the last heartbeat.
        timeout: At how many of them a follower loses patience.
        votes: Candidate or pre-candidate: who granted a vote so far.
        reign: Leader: ticks since it began to lead.
        transferee: Leader: to whom leadership is being handed over (§3.10).
        transfer_began: Leader: at which of those ticks; 0 if never.
        has_told_transferee: Leader: it has been asked to stand.
        progress: Leader: of each other voter.
        term_start: Leader: the index of its term's no-op (§6.4).
        round: Leader: counts rounds of heartbeats; never reset.
        round_due: Leader: send the current round to everybody.
        heartbeat_due: Leader: speak to everybody.
        reads: Leader: reads that wait for their round, oldest first.
    """

    server: ServerId
    tuning: Tuning
    log: Log
    hard_state: HardState
    membership: Membership
    random_below: Callable[[int], int]
    role: Role = Role.FOLLOWER
    leader: ServerId | None = None
    durable: HardState = field(default_factory=HardState)
    elapsed: int = 0
    timeout: int = 0
    votes: set[ServerId] = field(default_factory=set)
    reign: int = 0
    transferee: ServerId | None = None
    transfer_began: int = 0
    has_told_transferee: bool = False
    progress: dict[ServerId, Progress] = field(default_factory=dict)
    term_start: LogIndex = 0
    round: int = 0
    round_due: bool = False
    heartbeat_due: bool = False
    reads: deque[PendingRead] = field(default_factory=deque)
    # What the next Ready will say.
    messages: list[tuple[ServerId, Message]] = field(default_factory=list)
    messages_after: list[tuple[ServerId, Message]] = field(default_factory=list)
    confirmed_reads: list[tuple[int, LogIndex]] = field(default_factory=list)
    failed_reads: list[int] = field(default_factory=list)
    fetches: list[Fetch] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    @property
    def term(self) -> Term:
        """Return the current term."""
        return self.hard_state.term

    def peers(self) -> Iterator[ServerId]:
        """Yield the other voters."""
        return (voter for voter in self.membership.voters if voter != self.server)

    def is_alive(self, peer: ServerId) -> bool:
        """Say whether a leader has heard *peer* within an election timeout (§6.2)."""
        return self.reign - self.progress[peer].heard < self.tuning.election_ticks

    def reply(self, peer: ServerId, message: Message, index: LogIndex = 0) -> None:
        """
        Send *message* as soon as what it says is durable.

        Args:
            peer: To whom.
            message: It speaks for the current term.
            index: It also claims that the log up to here is durable.
        """
        is_durable = self.durable == self.hard_state and index <= self.log.stable_index
        (self.messages if is_durable else self.messages_after).append((peer, message))

    def adopt_membership(self, membership: Membership) -> None:
        """Use *membership*, which the log has now, committed or not (§4.1)."""
        self.membership = membership
        self.events.append(MembershipChanged(membership))


def become_follower(state: State, term: Term, leader: ServerId | None) -> None:
    """
    Follow *leader* in *term*; a newer term begins without a vote (§3.3).

    A newer term alone is no reason for more patience: else a server with an
    old log that stands again and again would keep all others from standing.
    """
    before = (state.role, state.term, state.leader)
    if term > state.term:
        state.hard_state = HardState(term)
    if state.role is Role.LEADER:
        _drop_leadership(state)
    if leader is not None or state.role is not Role.FOLLOWER:
        restart_timer(state)
    state.role = Role.FOLLOWER
    state.leader = leader
    state.votes.clear()
    if before != (Role.FOLLOWER, term, leader):
        _announce(state)


def become_pre_candidate(state: State) -> None:
    """
    Ask around in the current term, which does not change (§9.6).

    Only the first of many vain attempts is news.
    """
    is_news = state.role is not Role.PRE_CANDIDATE
    state.role = Role.PRE_CANDIDATE
    state.leader = None
    state.votes = {state.server}
    restart_timer(state)
    if is_news:
        _announce(state)


def become_candidate(state: State) -> None:
    """Begin a term of its own, with a vote for itself (§3.4)."""
    state.hard_state = HardState(state.term + 1, state.server)
    state.role = Role.CANDIDATE
    state.leader = None
    # Not even its own vote counts before it is durable: see election.persisted.
    state.votes.clear()
    restart_timer(state)
    _announce(state)


def become_leader(state: State) -> None:
    """Lead the current term; begin it with a no-op (§3.4, §3.6.2)."""
    state.role = Role.LEADER
    state.leader = state.server
    state.elapsed = state.reign = state.transfer_began = 0
    next_index = state.log.last_index + 1
    state.progress = {peer: Progress(next_index) for peer in state.peers()}
    state.term_start = next_index
    state.log.append([Entry(next_index, state.term, EntryKind.NOOP, b"")])
    _announce(state)


def restart_timer(state: State) -> None:
    """Wait a whole election timeout again, of a length drawn anew (§3.4)."""
    state.elapsed = 0
    ticks = state.tuning.election_ticks
    state.timeout = ticks + state.random_below(ticks)


def _drop_leadership(state: State) -> None:
    state.progress.clear()
    state.failed_reads += [read.id for read in state.reads]
    state.reads.clear()
    state.round_due = state.heartbeat_due = False
    state.transferee = None


def _announce(state: State) -> None:
    state.events.append(RoleChanged(state.role, state.term, state.leader))
