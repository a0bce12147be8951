"""
Raft: one server's part of the protocol, as a pure function of its inputs.

Inputs are :meth:`Raft.tick`, :meth:`~Raft.step`, :meth:`~Raft.propose`,
:meth:`~Raft.read`, :meth:`~Raft.fetched` and :meth:`~Raft.advance`; after any
of them :meth:`Raft.ready` says what the shell has to do.
"""

from __future__ import annotations

from itertools import count, repeat
from typing import TYPE_CHECKING

from consensus.core import changes, election, reads, replication, snapshot, transfer
from consensus.core import state as roles
from consensus.core.dispatch import DISPATCH
from consensus.core.log import MAX_BATCH, Log
from consensus.core.membership import Membership
from consensus.core.messages import (
    AppendEntries,
    AppendEntriesResponse,
    InstallSnapshot,
    RequestPreVote,
    RequestPreVoteResponse,
    RequestVote,
    RequestVoteResponse,
)
from consensus.core.ready import Fetch, FetchChunk, Ready
from consensus.core.state import State, Tuning
from consensus.core.values import Entry, EntryKind, HardState, Role
from consensus.errors import (
    AlreadyConfiguredError,
    InvalidChangeError,
    InvariantError,
    NotLeaderError,
    ProtocolError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from consensus.core.messages import Message
    from consensus.core.values import Address, LogIndex, ServerId, SnapshotMeta


def _disturbs(message: Message) -> bool:
    """Say whether *message* asks for an election that no leader asked for."""
    if isinstance(message, RequestVote):
        return not message.transfer
    return isinstance(message, RequestPreVote)


class Raft:
    """
    One server's Raft.

    Args:
        server: Its name.
        random_below: ``random_below(n)`` draws an int from 0 to n - 1.
        tuning: How patient it is and how much it sends.
        hard_state: As storage has it.
        log: As storage has it; see :class:`~consensus.core.log.Log`.
        memberships: Those in that log with their indexes, in order; before
            them that of *snapshot*.
        snapshot: The newest one.  The log reaches up to it, and counts it as
            applied; the first Ready says to restore it.
    """

    def __init__(
        self,
        server: ServerId,
        random_below: Callable[[int], int],
        *,
        tuning: Tuning | None = None,
        hard_state: HardState | None = None,
        log: Log | None = None,
        memberships: Sequence[tuple[LogIndex, Membership]] = (),
        snapshot: SnapshotMeta | None = None,
    ) -> None:
        hard_state = hard_state or HardState()
        self.state = State(
            server,
            tuning or Tuning(),
            log or Log(),
            hard_state,
            list(memberships) or [(0, Membership())],
            random_below,
            durable=hard_state,
            snapshot=snapshot,
        )
        self.state.committed_membership = self.state.memberships[0][0]
        self.state.restore = self.state.restoring = snapshot
        roles.restart_timer(self.state)
        # A pledge that was made before a restart is not remembered.
        roles.make_pledge(self.state)
        self._number = 0
        self._handed_out = hard_state
        self._is_applying_fetch = False
        self._fetched: Sequence[Entry] = ()

    # --- inputs ----------------------------------------------------------

    @property
    def is_new(self) -> bool:
        """
        Say whether this server was never part of a cluster.

        Elections begin with term 2: term 1 says that :meth:`bootstrap` was
        begun, and that a crash left no more of it.
        """
        is_untouched = self.state.hard_state in {HardState(), HardState(1)}
        return is_untouched and not self.state.log.last_index

    def bootstrap(self, membership: Membership) -> None:
        """
        Found a cluster: make *membership* the first entry of an empty log.

        Every founding server may do this, if all do it with the same voters;
        or one alone, and the others learn of it when it leads.  A crash may
        leave of it the term alone; then it is done again.

        Raises:
            AlreadyConfiguredError: This server has a log, or took part in an
                election already.
        """
        state = self.state
        if not self.is_new:
            raise AlreadyConfiguredError(
                "this server has a membership, or has voted for one, already"
            )
        state.hard_state = HardState(1)
        entry = Entry(1, 1, EntryKind.MEMBERSHIP, membership.encode())
        state.log.append([entry])
        state.replace_memberships(1, [(1, membership)])

    def tick(self) -> None:
        """Let one unit of time pass."""
        if self.state.pledge:
            self.state.pledge -= 1
        if self.state.role is Role.LEADER:
            replication.tick(self.state)
        else:
            election.tick(self.state)

    def retune(self, tuning: Tuning, *, is_paced_anew: bool) -> None:
        """
        Be as patient, and send as much, as *tuning* says from now on.

        Leases rest on every member's election timeout: while one could be
        trusted in, it must not become shorter.

        Args:
            tuning: What counts now.
            is_paced_anew: A tick, or an election timeout, is of another
                length: every wait for one begins anew.
        """
        roles.retune(self.state, tuning, is_paced_anew=is_paced_anew)

    def step(self, message: Message) -> None:
        """
        Take a message of another server (§3.3).

        Raises:
            ProtocolError: No correct server sends this; it changed nothing
                but, perhaps, the term.
        """
        state = self.state
        if message.sender == state.server:
            raise ProtocolError("a message in this server's own name")
        if _disturbs(message) and election.is_loyal(state):
            return
        if message.term < state.term:
            self._refuse_stale(message)
            return
        if message.term > state.term:
            roles.become_follower(state, message.term, None)
        DISPATCH[state.role, type(message)](state, message)

    def _refuse_stale(self, message: Message) -> None:
        """Tell a server that is behind the current term (§3.3)."""
        state = self.state
        answer: Message
        if isinstance(message, RequestVote):
            answer = RequestVoteResponse(state.server, state.term, granted=False)
        elif isinstance(message, RequestPreVote):
            answer = RequestPreVoteResponse(state.server, state.term, granted=False)
        elif isinstance(message, AppendEntries | InstallSnapshot):
            answer = AppendEntriesResponse(
                state.server, state.term, success=False, index=0, round=0
            )
        else:
            return
        state.reply(message.sender, answer)

    def peer_gone(self, peer: ServerId) -> None:
        """Hear that the process of *peer* has ended, as far as can be told."""
        election.on_gone(self.state, peer)

    def propose(
        self, commands: Sequence[bytes], kinds: Sequence[int] | None = None
    ) -> LogIndex:
        """
        Append *commands* to the leader's log, all at once (§3.5).

        Args:
            commands: Not empty.
            kinds: What each is; by default the application's commands.

        Returns:
            The index of the first; the others follow it.

        Raises:
            NotLeaderError: Somebody else leads, or is about to; nothing was
                appended.
            ValueError: There are not as many *kinds*; likewise.
        """
        if kinds is not None and len(kinds) != len(commands):
            message = f"there are {len(commands)} commands, but {len(kinds)} kinds"
            raise ValueError(message)
        self._require_office()
        log, term = self.state.log, self.state.term
        first = log.last_index + 1
        every_kind = repeat(EntryKind.COMMAND) if kinds is None else kinds
        # One call for all: this is done for every write.
        log.append(list(map(Entry, count(first), repeat(term), every_kind, commands)))
        return first

    def transfer(self, target: ServerId | None = None) -> ServerId:
        """
        Hand leadership over (§3.10); a ``RoleChanged`` says that it is done.

        Args:
            target: To whom; by default to whoever is alive and nearest to the
                end of the log.

        Returns:
            To whom.

        Raises:
            NotLeaderError: Somebody else leads.
            InvalidChangeError: *target* is no other voter, or nobody is alive.
        """
        self._require_leader()
        state = self.state
        chosen = transfer.successor(state) if target is None else target
        if chosen is None:
            raise InvalidChangeError("no other voter is alive")
        if chosen == state.server:
            message = f"{chosen} leads already"
            raise InvalidChangeError(message)
        if chosen not in state.membership.voters:
            peers = state.membership.voters.keys() - {state.server}
            others = ", ".join(sorted(peers)) or "none"
            message = f"{chosen} is no other voter of this cluster; those are: {others}"
            raise InvalidChangeError(message)
        transfer.begin(state, chosen)
        return chosen

    def read(self, read_id: int) -> None:
        """
        Begin a linearizable read (§6.4); a later Ready names *read_id* again.

        Raises:
            NotLeaderError: Somebody else leads.
        """
        self._require_leader()
        reads.begin(self.state, read_id)

    def change_membership(
        self,
        voters: Mapping[ServerId, Address],
        learners: Mapping[ServerId, Address],
        *,
        expected_index: LogIndex | None = None,
        incarnations: Mapping[ServerId, str] | None = None,
    ) -> LogIndex:
        """
        Take the first step towards a cluster of *voters* and *learners* (§4).

        The other steps follow by themselves, under whatever leader:
        ``MembershipCommitted`` events say how far it is.

        Args:
            voters: Who shall vote, with their addresses; those who do not yet
                catch up as learners first.
            learners: Who else shall get the log.
            expected_index: Where in the log the membership is that the caller
                has seen; any if ``None``.
            incarnations: Data directories that members have from now on.

        Returns:
            The index of the first step; that of the present membership if
            there is nothing to change.

        Raises:
            NotLeaderError: Somebody else leads, or is about to.
            MembershipPendingError: Another change is under way.
            InvalidChangeError: There is no such membership, or the present
                one is another than expected.
        """
        self._require_office()
        return changes.begin(
            self.state,
            voters,
            learners,
            expected_index=expected_index,
            incarnations=incarnations,
        )

    def read_index(self, read_id: int) -> None:
        """
        Do as :meth:`read` on any server: one that does not lead asks (§6.4).

        Question and answer may be lost: ask again, with the same *read_id*,
        until a Ready names it.  No other question of this server may ever
        have had it, not even before a restart: an answer to that one could
        still be under way.

        Raises:
            NotLeaderError: Nobody is known to lead.
        """
        if self.state.leader is None:
            self._require_leader()
        reads.ask(self.state, read_id)

    @property
    def confirmed_round(self) -> int:
        """Return the last round that a majority has answered; a leader's (§6.4)."""
        return reads.confirmed(self.state)

    def _require_leader(self) -> None:
        state = self.state
        if state.role is not Role.LEADER:
            address = state.membership.members().get(state.leader or "", "")
            raise NotLeaderError(state.leader, address)

    def _require_office(self) -> None:
        """Refuse what a leader that is about to hand over does not take (§3.10)."""
        self._require_leader()
        heir = self.state.transferee
        if heir is not None:
            raise NotLeaderError(heir, self.state.membership.voters.get(heir, ""))

    def fetched(self, fetch: Fetch, entries: Sequence[Entry]) -> None:
        """Take the entries that an earlier Ready asked for."""
        if fetch.peer is not None:
            replication.fetched(self.state, fetch, entries)
            return
        self._is_applying_fetch = False
        # Unless a snapshot came in between.
        if fetch.first == self.state.log.last_applied + 1:
            self._fetched = entries

    def chunk_fetched(self, fetch: FetchChunk, data: bytes | None) -> None:
        """Take a chunk that was asked for; ``None`` if that snapshot is gone."""
        snapshot.fetched(self.state, fetch, data)

    def snapshot_taken(self, meta: SnapshotMeta) -> None:
        """Note that a snapshot of the state machine is durable (§5.1)."""
        snapshot.taken(self.state, meta)

    def compact(self, tail: int) -> None:
        """Drop what the latest snapshot covers, but for *tail* entries (§5.1)."""
        snapshot.cut(self.state, tail)

    def snapshot_stored(self, meta: SnapshotMeta, *, is_whole: bool) -> None:
        """
        Note that all chunks of *meta* were stored.

        Args:
            meta: As it was announced.
            is_whole: What is durable now is what was announced; otherwise it
                was thrown away, and has to be received again.
        """
        snapshot.stored(self.state, meta, is_whole=is_whole)

    def restored(self, meta: SnapshotMeta) -> None:
        """Note that the state machine has what ``Ready.restore`` named."""
        snapshot.restored(self.state, meta)
        # What was read before, to be applied, the snapshot covers.
        self._fetched = ()

    def advance(self, ready: Ready) -> None:
        """Note that all that *ready* and those before asked to persist is durable."""
        state = self.state
        if ready.hard_state is not None:
            state.durable = ready.hard_state
        log = state.log
        log.persisted(ready.number)
        election.persisted(state)
        if state.role is Role.LEADER and log.stable_index > log.commit_index:
            replication.maybe_commit(state)

    # --- output ----------------------------------------------------------

    def ready(self) -> Ready | None:
        """Return what there is to do now, once; ``None`` if nothing."""
        state = self.state
        committed = self._take_committed()
        if state.role is Role.LEADER:
            # What is applied now often causes the next writes; they will
            # carry the commit index, if they come before the next Ready.
            replication.send_due(state, tell_commit=not committed)
        state.note_applied()
        hard_state = self._take_hard_state()
        entries = state.log.take_unpersisted(self._number + 1)
        if not (committed or hard_state or entries or state.has_output):
            return None
        self._number += 1
        ready = Ready(
            number=self._number,
            compact=state.compact,
            hard_state=hard_state,
            entries=entries,
            messages=state.messages,
            messages_after=state.messages_after,
            committed=committed,
            reads=state.confirmed_reads,
            failed_reads=state.failed_reads,
            fetches=state.fetches,
            chunk_fetches=state.chunk_fetches,
            received=state.received,
            restore=state.restore,
            events=state.events,
        )
        state.compact = state.restore = None
        state.chunk_fetches, state.received = [], []
        state.messages, state.messages_after = [], []
        state.confirmed_reads, state.failed_reads = [], []
        state.fetches, state.events = [], []
        return ready

    def _take_hard_state(self) -> HardState | None:
        if self.state.hard_state == self._handed_out:
            return None
        self._handed_out = self.state.hard_state
        return self._handed_out

    def _take_committed(self) -> Sequence[Entry]:
        """
        Return the next entries to apply, or have them read from storage.

        Only what is durable here is applied, so that a state machine is never
        ahead of its server's own log.
        """
        log, limit = self.state.log, self.state.tuning.max_apply_bytes
        first, last = log.last_applied + 1, min(log.commit_index, log.stable_index)
        if first > last or self.state.restoring is not None:
            return ()
        if first > log.offset:
            committed: Sequence[Entry]
            committed = log.slice(first, last, limit)
        elif self._fetched:
            committed, self._fetched = self._fetched, ()
        else:
            if not self._is_applying_fetch:
                self._is_applying_fetch = True
                last = min(last, log.offset, log.last_applied + MAX_BATCH)
                fetch = Fetch(first, last, limit, None, self.state.term)
                self.state.fetches.append(fetch)
            return ()
        if committed[0].index != first:
            message = f"applied up to {first - 1}, next is {committed[0].index}"
            raise InvariantError(message)
        log.last_applied = committed[-1].index
        log.shrink()
        return committed
