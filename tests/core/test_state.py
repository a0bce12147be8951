"""State: the three roles, the timer, and what waits for the disk."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from consensus.core import state as roles
from consensus.core.log import Log
from consensus.core.membership import Membership
from consensus.core.messages import RequestVoteResponse
from consensus.core.ready import (
    Fetch,
    FetchChunk,
    MembershipChanged,
    ReceivedChunk,
    RoleChanged,
)
from consensus.core.state import PendingRead, State, Tuning
from consensus.core.values import EntryKind, HardState, Role, SnapshotMeta, Status
from tests.support.network import entries_of

if TYPE_CHECKING:
    from collections.abc import Callable

_ANSWER = RequestVoteResponse("s1", 2, granted=True)
_META = SnapshotMeta(1, 1, b"", 1)


def _state(
    role: Role = Role.FOLLOWER, random_below: Callable[[int], int] = lambda n: n - 1
) -> State:
    """Return s1 of three in term 2, with a durable log of two entries."""
    return State(
        "s1",
        Tuning(election_ticks=10),
        Log(2, [(1, 1), (2, 2)]),
        HardState(2, "s3"),
        [(1, Membership({"s1": "a", "s2": "b", "s3": "c"}))],
        random_below,
        role=role,
        durable=HardState(2, "s3"),
    )


class StatusTests:
    """What a server says of itself."""

    def test_it_says_what_it_knows(self) -> None:
        """Of itself, its log, and who belongs to the cluster."""
        state = _state()
        state.snapshot = replace(_META, index=1)
        assert state.status("c", 3) == Status(
            server="s1",
            cluster="c",
            role="follower",
            term=2,
            leader=None,
            membership={"s1": "a", "s2": "b", "s3": "c"},
            commit_index=0,
            last_applied=0,
            last_index=2,
            membership_index=1,
            snapshot_index=1,
            machine_version=3,
        )

    def test_there_need_be_no_snapshot(self) -> None:
        assert _state().status("c", 1).snapshot_index == 0


class OutputTests:
    """What the next Ready has to say."""

    def test_nothing_is_nothing(self) -> None:
        """A state that just stands there wants nothing done."""
        assert not _state().has_output

    @pytest.mark.parametrize(
        "effect",
        [
            {"messages": [("s1", _ANSWER)]},
            {"messages_after": [("s1", _ANSWER)]},
            {"events": [RoleChanged(Role.FOLLOWER, 1, None)]},
            {"confirmed_reads": [(0, 0)]},
            {"failed_reads": [0]},
            {"fetches": [Fetch(1, 1, 1, None, 1)]},
            {"chunk_fetches": [FetchChunk(_META, 0, "s2", 1)]},
            {"received": [ReceivedChunk(_META, 0, b"")]},
            {"compact": (1, 1)},
            {"restore": _META},
        ],
        ids=lambda effect: next(iter(effect)),
    )
    def test_every_effect_is_output(self, effect: dict[str, Any]) -> None:
        """None is lost because the others are absent."""
        assert replace(_state(), **effect).has_output


class PeersTests:
    """The other voters."""

    def test_are_all_but_this_server(self) -> None:
        """A server sends itself nothing."""
        assert list(_state().electors()) == ["s2", "s3"]


class ReplyTests:
    """When a message may leave."""

    def test_leaves_at_once_when_all_is_durable(self) -> None:
        """What it says survives a crash already."""
        state = _state()
        state.reply("s2", _ANSWER, index=2)
        assert state.messages == [("s2", _ANSWER)]
        assert state.messages_after == []

    @pytest.mark.parametrize("hard_state", [HardState(3, "s3"), HardState(2)])
    def test_waits_for_term_and_vote(self, hard_state: HardState) -> None:
        """Storage knows another term or vote as yet."""
        state = _state()
        state.durable = hard_state
        state.reply("s2", _ANSWER)
        assert state.messages == []
        assert state.messages_after == [("s2", _ANSWER)]

    def test_waits_for_the_entries_that_it_claims(self) -> None:
        """What it says of the log up to an index has to be durable."""
        state = _state()
        state.log.append(entries_of(2, after=2))
        state.reply("s2", _ANSWER, index=3)
        assert state.messages_after == [("s2", _ANSWER)]

    def test_does_not_wait_for_later_entries(self) -> None:
        """What it does not speak of may still be on its way to the disk."""
        state = _state()
        state.log.append(entries_of(2, after=2))
        state.reply("s2", _ANSWER, index=2)
        assert state.messages == [("s2", _ANSWER)]


class AdoptMembershipTests:
    """The membership of the log."""

    def test_is_used_and_told(self) -> None:
        """The shell has to know whom to connect to."""
        state = _state()
        membership = Membership({"s9": "z"})
        state.replace_memberships(1, [(1, membership)])
        assert state.membership is membership
        assert state.events == [MembershipChanged(membership)]


class RestartTimerTests:
    """The election timeout (§3.4)."""

    @pytest.mark.parametrize(("drawn", "timeout"), [(0, 10), (4, 14), (9, 19)])
    def test_is_drawn_between_once_and_twice_the_interval(
        self, drawn: int, timeout: int
    ) -> None:
        """The least is the interval, the most just under twice of it."""
        state = _state(random_below=lambda n: drawn if n == 10 else -1)
        state.elapsed = 7
        roles.restart_timer(state)
        assert (state.elapsed, state.timeout) == (0, timeout)


class BecomeFollowerTests:
    """Following, from whatever role."""

    def test_in_a_newer_term_has_no_vote(self) -> None:
        """A vote is one of a term."""
        state = _state()
        roles.become_follower(state, 5, None)
        assert state.hard_state == HardState(5, None)

    def test_in_the_same_term_keeps_the_vote(self) -> None:
        """A leader's word does not free the vote of its term."""
        state = _state()
        roles.become_follower(state, 2, "s2")
        assert state.hard_state == HardState(2, "s3")
        assert state.leader == "s2"

    def test_hearing_a_leader_restarts_the_timer(self) -> None:
        """That is what the timer waits for."""
        state = _state()
        state.elapsed = 8
        roles.become_follower(state, 2, "s2")
        assert state.elapsed == 0

    def test_a_newer_term_alone_does_not_restart_the_timer(self) -> None:
        """A server that only stands for election wins nobody's patience."""
        state = _state()
        state.elapsed, state.timeout = 8, 15
        roles.become_follower(state, 5, None)
        assert (state.elapsed, state.timeout) == (8, 15)

    @pytest.mark.parametrize("role", [Role.CANDIDATE, Role.LEADER])
    def test_from_another_role_restarts_the_timer(self, role: Role) -> None:
        """The count of the old role was of something else."""
        state = _state(role)
        state.elapsed = 8
        roles.become_follower(state, 5, None)
        assert (state.role, state.elapsed, state.timeout) == (Role.FOLLOWER, 0, 19)

    def test_forgets_the_votes(self) -> None:
        """They were for a candidacy that is over."""
        state = _state(Role.CANDIDATE)
        state.votes = {"s1", "s2"}
        roles.become_follower(state, 2, "s3")
        assert state.votes == set()

    def test_fails_the_reads_of_a_leader(self) -> None:
        """It cannot know any more whether they would be fresh (§6.4)."""
        state = _state(Role.LEADER)
        state.reads.append(PendingRead(7, 2, 1))
        state.reads.append(PendingRead(8, 2, 1))
        state.round_due = state.heartbeat_due = True
        roles.become_follower(state, 3, None)
        assert state.failed_reads == [7, 8]
        assert not state.reads
        assert not state.round_due
        assert not state.heartbeat_due

    def test_forgets_the_progress_of_the_peers(self) -> None:
        """Only a leader has any."""
        state = _state(Role.CANDIDATE)
        roles.become_leader(state)
        roles.become_follower(state, 3, None)
        assert state.progress == {}

    def test_is_told_when_anything_changed(self) -> None:
        """The term, the leader or the role is another."""
        state = _state()
        roles.become_follower(state, 2, "s2")
        roles.become_follower(state, 3, "s2")
        roles.become_follower(state, 3, None)
        assert state.events == [
            RoleChanged(Role.FOLLOWER, 2, "s2"),
            RoleChanged(Role.FOLLOWER, 3, "s2"),
            RoleChanged(Role.FOLLOWER, 3, None),
        ]

    def test_is_not_told_when_nothing_changed(self) -> None:
        """Heartbeats are no news."""
        state = _state()
        roles.become_follower(state, 2, "s2")
        state.events.clear()
        roles.become_follower(state, 2, "s2")
        assert state.events == []


class BecomeCandidateTests:
    """Standing for election."""

    def test_begins_a_term_with_a_vote_for_itself(self) -> None:
        """The next term; who led the last one does not matter."""
        state = _state()
        roles.become_follower(state, 2, "s3")
        state.events.clear()
        roles.become_candidate(state)
        assert state.hard_state == HardState(3, "s1")
        assert (state.role, state.leader) == (Role.CANDIDATE, None)
        assert state.events == [RoleChanged(Role.CANDIDATE, 3, None)]

    def test_begins_without_votes(self) -> None:
        """Those of an earlier candidacy are of an earlier term."""
        state = _state(Role.CANDIDATE)
        state.votes = {"s1", "s2"}
        roles.become_candidate(state)
        assert state.votes == set()

    def test_restarts_the_timer(self) -> None:
        """The election may end without a leader."""
        state = _state()
        state.elapsed = 19
        roles.become_candidate(state)
        assert (state.elapsed, state.timeout) == (0, 19)


class BecomeLeaderTests:
    """Leading."""

    def test_begins_the_term_with_a_no_op(self) -> None:
        """Its index is where the term starts."""
        state = _state(Role.CANDIDATE)
        roles.become_leader(state)
        (entry,) = state.log.entries
        assert (entry.index, entry.term) == (3, 2)
        assert (entry.kind, entry.command) == (EntryKind.NOOP, b"")
        assert state.term_start == 3

    def test_knows_nothing_of_the_peers(self) -> None:
        """Figure 3.1: next index is last index + 1, match index 0."""
        state = _state(Role.CANDIDATE)
        roles.become_leader(state)
        assert sorted(state.progress) == ["s2", "s3"]
        for progress in state.progress.values():
            assert (progress.next_index, progress.match_index) == (3, 0)

    def test_leads_itself(self) -> None:
        """It is the leader that it knows of; the heartbeats begin anew."""
        state = _state(Role.CANDIDATE)
        state.elapsed = 4
        roles.become_leader(state)
        assert (state.role, state.leader, state.elapsed) == (Role.LEADER, "s1", 0)
        assert state.events == [RoleChanged(Role.LEADER, 2, "s1")]
