"""
What must hold in every cluster at every moment, checked while it runs.

Election safety, leader append-only, log matching, leader completeness and
state machine safety (figure 3.2); that terms and commit indexes of a server
never go back; and that whatever was elected or committed was so by what is
*durable* on a majority of each half of the membership (§4.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from consensus.applying.applier import Applier
from consensus.core.values import Role
from consensus.errors import RaftError
from consensus.fingerprint import state_text

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

    from consensus.core.log import Log
    from consensus.core.membership import Membership
    from consensus.core.raft import Raft
    from consensus.core.state import State
    from consensus.core.values import Entry, HardState, LogIndex, ServerId, Term
    from consensus.interfaces import StateMachine
    from consensus.testing.sim_disk import Image, SimulatedDisk


class BrokenInvariantError(AssertionError):
    """Something happened that must never happen."""


@dataclass(slots=True)
class _View:
    """What one life of a server looked like when it was last seen."""

    raft: Raft
    hard_state: Hashable = None
    role: Role | None = None
    commit_index: LogIndex = 0
    last_index: LogIndex = 0
    last_applied: LogIndex = 0
    membership: Membership | None = None
    membership_index: LogIndex = 0
    term: Term = 0


class Invariants:
    """
    Watches some servers; the first thing that is wrong raises.

    Args:
        disks: What the servers have durable, by name.
        machine: Makes the state machine that all are compared with; ``None``
            if there is no comparison.
    """

    def __init__(
        self,
        disks: Mapping[ServerId, SimulatedDisk],
        machine: Callable[[], StateMachine] | None = None,
    ) -> None:
        self._disks = disks
        self._views: dict[ServerId, _View] = {}
        #: Who led which term.
        self.leaders: dict[Term, ServerId] = {}
        #: What is committed, and since which term; the first is entry 1.
        self.committed: list[tuple[Entry, Term]] = []
        # What follows from an entry's index and term: all of it, and the term
        # of the entry before it.  By induction that is all before it, too.
        self._entries: dict[tuple[LogIndex, Term], tuple[Term, int, bytes]] = {}
        # Found where nothing can be raised.
        self._broken = ""
        self._reference: Applier | None = None
        if machine is not None:
            self._reference = Applier(machine(), "reference")

    def appended(self, name: ServerId, entries: Sequence[Entry], before: Term) -> None:
        """See that *entries*, behind one of term *before* at *name*, match."""
        known = self._entries
        for entry in entries:
            found = known.setdefault(
                (entry.index, entry.term), (before, entry.kind, entry.command)
            )
            if found != (before, entry.kind, entry.command):
                self._broken = (
                    f"log matching: {name} stores an entry {entry.index} of term"
                    f" {entry.term} that is not what another has there: {entry!r}"
                    f" after term {before}, not {found}"
                )
            before = entry.term

    def saved(self, name: ServerId, new: HardState, old: HardState) -> None:
        """See that *name* votes once in a term, and that terms only grow."""
        has_changed = old.vote is not None and new.vote != old.vote
        if new.term < old.term or (new.term == old.term and has_changed):
            self._broken = f"{name} replaces {old} by {new}"

    def forget(self, name: ServerId) -> None:
        """Let *name* begin another life."""
        self._views.pop(name, None)

    def look(self, name: ServerId, raft: Raft) -> None:
        """
        Check all that can have changed at *name*.

        Raises:
            BrokenInvariantError: Something is wrong.
        """
        if self._broken:
            raise BrokenInvariantError(self._broken)
        state, log = raft.state, raft.state.log
        view = self._views.get(name)
        if view is None or view.raft is not raft:
            view = self._views[name] = self._new_view(name, raft)
        elif (
            log.commit_index == view.commit_index
            and log.last_index == view.last_index
            and state.role is view.role
            and state.hard_state is view.hard_state
            and log.last_applied == view.last_applied
            and state.memberships[-1][1] is view.membership
        ):
            return
        self._check(name, state, view)
        view.hard_state, view.role, view.term = state.hard_state, state.role, state.term
        view.commit_index, view.last_index = log.commit_index, log.last_index
        view.last_applied = log.last_applied
        view.membership = state.membership
        view.membership_index = state.membership_index

    def _new_view(self, name: ServerId, raft: Raft) -> _View:
        durable = self._disks[name].durable.hard_state
        if raft.state.term < durable.term:
            self._fail(f"{name} begins with term {raft.state.term}, and had {durable}")
        state = raft.state
        return _View(raft, membership=state.membership, term=state.term)

    def _check(self, name: ServerId, state: State, view: _View) -> None:
        log = state.log
        if state.term < view.term:
            self._fail(f"the term of {name} went back to {state.term}")
        if log.commit_index < view.commit_index:
            self._fail(f"the commit index of {name} went back to {log.commit_index}")
        # What a snapshot covers may be gone before that is restored.
        first = log.base_index if state.restoring is None else 0
        if not first <= log.last_applied <= log.commit_index <= log.last_index:
            self._fail(
                f"the log of {name} begins after {log.base_index}, is applied up to"
                f" {log.last_applied}, committed up to {log.commit_index}, and ends"
                f" at {log.last_index}"
            )
        if state.role is Role.LEADER:
            self._check_leader(name, state, view)
        if log.commit_index > view.commit_index:
            self._check_commit(name, state, view)
        if state.role is Role.LEADER:
            self._check_memberships(name, state)

    def _check_memberships(self, name: ServerId, state: State) -> None:
        """See that one change of the membership is under way at a time (§4.1)."""
        pending = [index for index, _ in state.memberships[:-1]]
        if pending and pending[-1] > len(self.committed):
            self._fail(
                f"{name} changes the membership at {state.membership_index}, and the"
                f" one at {pending[-1]} is not committed"
            )

    # --- leaders -----------------------------------------------------------------

    def _check_leader(self, name: ServerId, state: State, view: _View) -> None:
        leader = self.leaders.setdefault(state.term, name)
        if leader != name:
            self._fail(f"election safety: {leader} and {name} lead term {state.term}")
        if view.role is Role.LEADER and view.term == state.term:
            if state.log.last_index < view.last_index:
                self._fail(
                    f"leader append-only: the log of {name} went back from"
                    f" {view.last_index} to {state.log.last_index}"
                )
        else:
            self._check_elected(name, state, view)
            self._check_complete(name, state)

    def _check_elected(self, name: ServerId, state: State, view: _View) -> None:
        """See that a majority of each half has a durable vote for *name*."""
        membership = view.membership or state.membership
        for half in _halves(membership):
            votes = [
                each
                for each in half
                if any(
                    image.votes.get(state.term) == name
                    for image in self._images(each, membership)
                )
            ]
            if 2 * len(votes) <= len(half):
                self._fail(
                    f"{name} leads term {state.term} by the durable votes of"
                    f" {votes or 'nobody'}, of {sorted(half)}"
                )

    def _check_complete(self, name: ServerId, state: State) -> None:
        """See that a new leader has all that was committed in earlier terms."""
        for entry, since in reversed(self.committed):
            if since < state.term:
                if not _has(state.log, entry):
                    self._fail(
                        f"leader completeness: {name} leads term {state.term}"
                        f" without entry {entry.index} of term {entry.term}, which"
                        f" was committed in term {since}"
                    )
                return

    # --- what is committed -----------------------------------------------------------

    def _check_commit(self, name: ServerId, state: State, view: _View) -> None:
        log, index, committed = state.log, state.log.commit_index, self.committed
        if state.role is Role.LEADER:
            if log.term(index) != state.term and view.role is Role.LEADER:
                self._fail(
                    f"{name} leads term {state.term}, and has committed entry {index}"
                    f" of term {log.term(index)} by counting (figure 3.7)"
                )
            if log.term(index) == state.term:
                self._check_stored(name, state, view)
        for each in range(len(committed) + 1, index + 1):
            committed.append((self._entry(name, log, each), state.term))
        for each in {view.commit_index + 1, index}:
            entry = committed[each - 1][0]
            if each > log.base_index and log.term(each) != entry.term:
                self._fail(
                    f"state machine safety: {name} has committed an entry {each} of"
                    f" term {log.term(each)}, and another server one of {entry.term}"
                )

    def _check_stored(self, name: ServerId, state: State, view: _View) -> None:
        """See that what *name* commits as the leader is durable on majorities."""
        membership = view.membership or state.membership
        index = state.log.commit_index
        for number, half in enumerate(_halves(membership)):
            if number and not state.membership.is_joint:
                # With the joint membership committed, the new half goes on alone.
                index = min(index, view.membership_index)
            term = state.log.term(index)
            stored = [
                each
                for each in half
                if any(
                    image.has(index, term) for image in self._images(each, membership)
                )
            ]
            if term and 2 * len(stored) <= len(half):
                self._fail(
                    f"{name} has committed entry {index} of term {term}, and it is"
                    f" durable on {stored or 'nothing'} only, of {sorted(half)}"
                )

    def _images(self, name: ServerId, membership: Membership) -> list[Image]:
        """
        Return what is, or was, durable on the disk that *membership* means.

        A server that has lost its disk counts with what was on it, as one that
        is down, until it has joined with a new one.
        """
        disk = self._disks.get(name)
        disks = () if disk is None else (disk, *disk.former)
        meant = membership.incarnations.get(name)
        return [
            each.durable
            for each in disks
            if meant is None or meant == each.identity.incarnation
        ]

    def _entry(self, name: ServerId, log: Log, index: LogIndex) -> Entry:
        """Return an entry of *name*'s log: from memory, else from the disk."""
        if index > log.offset:
            return log.entries[index - log.offset - 1]
        live = self._disks[name].live
        if not live.base_index < index <= live.last_index:
            self._fail(f"{name} has committed entry {index}, which it does not have")
        return live.entries[index - live.base_index - 1]

    # --- what is applied -------------------------------------------------------------

    def compare(self, appliers: Iterable[tuple[ServerId, Applier]]) -> None:
        """
        See that each server has the state that the committed entries make.

        A server that is behind what was compared last waits for its turn.

        Raises:
            BrokenInvariantError: One has another state.
        """
        reference = self._reference
        if reference is None:
            return
        for name, applier in sorted(appliers, key=lambda each: each[1].last_applied):
            if not reference.last_applied <= applier.last_applied:
                continue
            if applier.last_applied > len(self.committed):
                self._fail(
                    f"{name} has applied entry {applier.last_applied}, and only"
                    f" {len(self.committed)} are committed"
                )
            wanted = self.committed[reference.last_applied : applier.last_applied]
            if wanted:
                reference.apply([entry for entry, _ in wanted], _ignore)
            self._check_state(name, applier, reference)

    def _check_state(self, name: ServerId, one: Applier, other: Applier) -> None:
        where = f"after entry {one.last_applied}"
        if one.version != other.version:
            self._fail(f"{name} applies commands by version {one.version} {where}")
        if one.sessions.encode() != other.sessions.encode():
            self._fail(f"{name} knows other sessions than it should {where}")
        if not _is_same(one.machine, one.state, other.state):
            self._fail(
                f"state machine safety: the state of {name} {where} is not what the"
                f" log makes of it: {_short(one.state)}, and not {_short(other.state)}"
            )

    def _fail(self, reason: str) -> None:
        raise BrokenInvariantError(reason)


def _ignore(entries: Sequence[Entry], results: Sequence[Any]) -> None:
    """Take no notice."""


def _has(log: Log, entry: Entry) -> bool:
    return entry.index <= log.base_index or (
        entry.index <= log.last_index and log.term(entry.index) == entry.term
    )


def _halves(membership: Membership) -> list[set[ServerId]]:
    """Return who votes, and in a joint membership who did before."""
    halves = [set(membership.voters), set(membership.outgoing)]
    return [half for half in halves if half]


def _is_same(machine: StateMachine, one: Any, other: Any) -> bool:
    """Say whether two states are equal; yes, if nobody can tell."""
    digests = machine.digest(one), machine.digest(other)
    if None not in digests:
        return digests[0] == digests[1]
    if one == other:
        return True
    try:
        chunks = [b"".join(machine.snapshot(each).chunks()) for each in (one, other)]
    except RaftError:
        return True
    # An order that nobody can see, as that of a set, may differ in the bytes.
    return chunks[0] == chunks[1] or state_text(machine, one) == state_text(
        machine, other
    )


def _short(state: Any) -> str:
    text = repr(state)
    return text if len(text) < 300 else f"{text[:300]}…"
