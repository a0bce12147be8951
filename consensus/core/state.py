"""The data of one Raft, and how it becomes follower, candidate or leader."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from consensus.core.membership import Membership
from consensus.core.progress import Progress
from consensus.core.ready import (
    Event,
    Fetch,
    FetchChunk,
    MembershipChanged,
    MembershipCommitted,
    ReceivedChunk,
    RoleChanged,
)
from consensus.core.values import Entry, EntryKind, HardState, Role, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from consensus.core.log import Log
    from consensus.core.messages import Message
    from consensus.core.values import Address, LogIndex, ServerId, SnapshotMeta, Term


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
        log_tail: Entries that stay in the log although a snapshot covers
            them, for followers that are a little behind (§5.1).
        keeps_pledges: Give nobody a vote for an election timeout after having
            heard a leader, or having started, whatever comes in between; so
            that a leader may trust in a lease (§6.4.1).
        may_lease: As a leader, trust in one; the others are told.
    """

    heartbeat_ticks: int = 5
    election_ticks: int = 25
    max_append_bytes: int = 48 * 1024
    max_inflight: int = 8
    max_apply_bytes: int = 1024 * 1024
    stable_leader: bool = False
    preferred: tuple[ServerId, ...] = ()
    log_tail: int = 10_000
    keeps_pledges: bool = False
    may_lease: bool = True


@dataclass(slots=True)
class PendingRead:
    """
    A read that waits for a round of heartbeats (§6.4).

    Args:
        id: The number of whoever asked for it.
        index: What has to be applied before it is served.
        round: The round that it waits for.
        asker: The server that asked; ``None`` for this one.
    """

    id: int
    index: LogIndex
    round: int
    asker: ServerId | None = None


@dataclass(slots=True)
class Receiving:
    """
    A snapshot that a leader sends here (figure 5.3).

    Args:
        meta: Which.
        sender: By whom.
        chunks: How many of its chunks were handed out to be stored.
    """

    meta: SnapshotMeta
    sender: ServerId
    chunks: int = 0


@dataclass(slots=True)
class State:
    """
    All that one Raft knows; the modules beside this one change it.

    Args:
        server: Who this is.
        tuning: See :class:`Tuning`.
        log: Its log.
        hard_state: Term and vote, durable or about to be.
        memberships: Those of the log with their indexes, from the one that
            counted at what was applied last; the last one counts (§4.1).
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
        snapshot: The newest that is durable here (§5.1).
        receiving: Follower: the one that is coming in.
        restoring: The one that the state machine is being restored from.
        committed_membership: Up to which index a membership was reported as
            committed.
        may_lease: Leader: it has asked nobody to stand in its place.
        pledge: For so many ticks no vote is given (``keeps_pledges``).
        is_lease_possible: Follower: its leader may trust in a lease.
        hurry: For so many ticks waits are short: the leader is gone.
    """

    server: ServerId
    tuning: Tuning
    log: Log
    hard_state: HardState
    memberships: list[tuple[LogIndex, Membership]]
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
    snapshot: SnapshotMeta | None = None
    receiving: Receiving | None = None
    restoring: SnapshotMeta | None = None
    committed_membership: LogIndex = 0
    may_lease: bool = False
    pledge: int = 0
    is_lease_possible: bool = True
    hurry: int = 0
    # What the next Ready will say.
    compact: tuple[LogIndex, Term] | None = None
    restore: SnapshotMeta | None = None
    chunk_fetches: list[FetchChunk] = field(default_factory=list)
    received: list[ReceivedChunk] = field(default_factory=list)
    messages: list[tuple[ServerId, Message]] = field(default_factory=list)
    messages_after: list[tuple[ServerId, Message]] = field(default_factory=list)
    confirmed_reads: list[tuple[int, LogIndex]] = field(default_factory=list)
    failed_reads: list[int] = field(default_factory=list)
    fetches: list[Fetch] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    @property
    def has_output(self) -> bool:
        """Say whether the next Ready has something to say of what is kept here."""
        return bool(
            self.messages
            or self.messages_after
            or self.events
            or self.confirmed_reads
            or self.failed_reads
            or self.fetches
            or self.chunk_fetches
            or self.received
            or self.compact
            or self.restore
        )

    @property
    def term(self) -> Term:
        """Return the current term."""
        return self.hard_state.term

    @property
    def membership(self) -> Membership:
        """Return the latest in the log, committed or not (§4.1)."""
        return self.memberships[-1][1]

    @property
    def membership_index(self) -> LogIndex:
        """Return where in the log that stands."""
        return self.memberships[-1][0]

    def electors(self) -> Iterator[ServerId]:
        """Yield the others whose votes count for something."""
        return (name for name in self.membership.electors() if name != self.server)

    def status(self, cluster: str, machine_version: int) -> Status:
        """
        Return what this server knows of itself right now.

        Args:
            cluster: The name of its cluster.
            machine_version: The newest version of the state machine that it has.
        """
        return Status(
            server=self.server,
            cluster=cluster,
            role=self.role.value,
            term=self.term,
            leader=self.leader,
            membership=dict(self.membership.voters),
            machine_version=machine_version,
            commit_index=self.log.commit_index,
            last_applied=self.log.last_applied,
            last_index=self.log.last_index,
            learners=dict(self.membership.learners),
            outgoing=dict(self.membership.outgoing),
            target=sorted(self.membership.target),
            membership_index=self.membership_index,
            first_index=self.log.base_index + 1,
            snapshot_index=0 if self.snapshot is None else self.snapshot.index,
        )

    def contacts(self) -> dict[ServerId, Address]:
        """Return everybody whom this server may have to talk to."""
        found: dict[ServerId, Address] = {}
        for _, membership in self.memberships:
            found.update(membership.members())
        found.pop(self.server, None)
        return found

    def membership_at(self, index: LogIndex) -> tuple[LogIndex, Membership]:
        """Return what counted at *index*, at or after what was applied last."""
        return next(each for each in reversed(self.memberships) if each[0] <= index)

    def may_stand(self) -> bool:
        """
        Say whether this server may stand for election.

        One that is left out may have to, as long as it does not know that
        this is committed: perhaps all who vote need its log (§4.2.2).
        """
        known, _ = self.membership_at(self.log.commit_index)
        return any(
            self.server in membership.electors()
            for index, membership in self.memberships
            if index >= known
        )

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

    def replace_memberships(
        self, first: LogIndex, fresh: list[tuple[LogIndex, Membership]]
    ) -> None:
        """
        Use the last of *fresh*, which the log has now from *first* on (§4.1).

        A membership that stood there before is gone, and what preceded it
        counts again.
        """
        before = self.membership
        kept = [each for each in self.memberships if each[0] < first]
        self.memberships = kept + fresh or [(0, Membership())]
        if self.membership is before:
            return
        self.events.append(MembershipChanged(self.membership))
        if self.role is Role.LEADER:
            self._follow_members()

    def _follow_members(self) -> None:
        """
        Keep a progress for every member, and for those who leave a while.

        Who comes back may have lost all that it had: its progress begins anew.
        """
        members = self.membership.members()
        for peer in members:
            known = self.progress.get(peer)
            if peer != self.server and (known is None or known.leaving):
                fresh = Progress(self.log.last_index + 1, heard=self.reign)
                self.progress[peer] = fresh
        for peer, progress in self.progress.items():
            if peer not in members and not progress.leaving:
                progress.leaving = max(1, self.reign)

    def note_applied(self) -> None:
        """Report what is committed, and forget what no longer counts."""
        log = self.log
        if (
            self.committed_membership
            == self.memberships[-1][0]
            == self.memberships[0][0]
        ):
            return
        for index, membership in self.memberships:
            if self.committed_membership < index <= log.commit_index:
                self.committed_membership = index
                self.events.append(MembershipCommitted(index, membership))
        while len(self.memberships) > 1 and self.memberships[1][0] <= log.last_applied:
            del self.memberships[0]


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
    if leader is not None:
        state.hurry = 0
        make_pledge(state)
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
    state.may_lease = True
    state.elapsed = state.reign = state.transfer_began = state.hurry = 0
    next_index = state.log.last_index + 1
    state.progress = {
        peer: Progress(next_index)
        for peer in state.membership.members()
        if peer != state.server
    }
    state.term_start = next_index
    state.log.append([Entry(next_index, state.term, EntryKind.NOOP, b"")])
    _announce(state)


def restart_timer(state: State) -> None:
    """
    Wait a whole election timeout again, of a length drawn anew (§3.4).

    In a hurry, it is a heartbeat interval at most: enough for an election, so
    that two servers seldom stand at once.
    """
    state.elapsed = 0
    tuning = state.tuning
    if state.hurry:
        state.timeout = state.pledge + 1 + state.random_below(tuning.heartbeat_ticks)
    else:
        ticks = tuning.election_ticks
        state.timeout = ticks + state.random_below(ticks)


def make_pledge(state: State) -> None:
    """
    Promise to give nobody a vote for an election timeout (§6.4.1).

    Loyalty to a leader (§4.2.3) ends when a newer term is heard of.  This does
    not: the leader of the old term may not have heard of it, and trusts in it.
    """
    if state.tuning.keeps_pledges:
        state.pledge = state.tuning.election_ticks


def retune(state: State, tuning: Tuning, *, is_paced_anew: bool) -> None:
    """
    Go on with *tuning*; see :meth:`.Raft.retune`.

    If ticks mean something else from now on, what was counted until now says
    little.  So nobody stands for election, gives a pledged vote, or takes a
    peer for dead sooner than after a whole new election timeout.
    """
    state.tuning = tuning
    if not is_paced_anew:
        return
    state.hurry = 0
    if state.pledge:
        make_pledge(state)
    if state.role is not Role.LEADER:
        restart_timer(state)
    for progress in state.progress.values():
        progress.heard = progress.moved = state.reign


def _drop_leadership(state: State) -> None:
    state.progress.clear()
    state.failed_reads += [read.id for read in state.reads if read.asker is None]
    state.reads.clear()
    state.round_due = state.heartbeat_due = False
    state.transferee = None


def _announce(state: State) -> None:
    state.events.append(RoleChanged(state.role, state.term, state.leader))
