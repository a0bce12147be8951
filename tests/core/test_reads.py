"""Reads: which round a read waits for, and what confirms it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from consensus.core import reads
from consensus.core.messages import (
    AppendEntries,
    AppendEntriesResponse,
    RequestReadIndex,
    RequestReadIndexResponse,
    RequestVote,
    RequestVoteResponse,
)
from consensus.core.values import Role
from consensus.errors import NotLeaderError
from tests.support.network import STABLE, Network, alone

if TYPE_CHECKING:
    from consensus.core.state import Tuning


def _leader(*names: str) -> Network:
    """Return s1 as leader of term 2, its no-op, entry 3, not yet committed."""
    network = alone(1, names=["s1", *names])
    network.campaign("s1")
    for peer in names:
        network.step("s1", RequestVoteResponse(peer, 2, granted=True))
    network.queue.clear()
    return network


def _confirm(network: Network, peer: str, round_: int, *, success: bool = True) -> None:
    """Let *peer* answer *round_*; it has nothing of the leader's log."""
    network.step("s1", AppendEntriesResponse(peer, 2, success, 0, round_))


class BeginTests:
    """A new read."""

    def test_begins_a_round(self) -> None:
        """Every peer is asked at once."""
        network = _leader("s2", "s3")
        network.read("s1", 7)
        asked = [
            (to, m.round) for to, m in network.queue if isinstance(m, AppendEntries)
        ]
        assert asked == [("s2", 1), ("s3", 1)]

    def test_shares_the_round_of_those_who_came_before_it_left(self) -> None:
        """All of them began before the heartbeats are sent."""
        network = _leader("s2", "s3")
        for read_id in (7, 8, 9):
            network.rafts["s1"].read(read_id)
        network.pump("s1")
        assert len(network.queue) == 2
        _confirm(network, "s2", 1)
        assert [read_id for read_id, _ in network.reads["s1"]] == [7, 8, 9]

    def test_after_the_round_has_left_begins_another(self) -> None:
        """An answer to the first says nothing of the time since."""
        network = _leader("s2", "s3")
        network.read("s1", 7)
        network.read("s1", 8)
        _confirm(network, "s2", 1)
        assert [read_id for read_id, _ in network.reads["s1"]] == [7]
        _confirm(network, "s3", 2)
        assert [read_id for read_id, _ in network.reads["s1"]] == [7, 8]

    def test_needs_the_no_op_of_the_term(self) -> None:
        """Before it is committed the commit index may be an old one."""
        network = _leader("s2", "s3")
        network.read("s1", 7)
        _confirm(network, "s2", 1)
        assert network.reads["s1"] == [(7, 3)]

    def test_needs_what_is_committed_when_it_begins(self) -> None:
        """Not what is committed later."""
        network = _leader("s2", "s3")
        network.propose("s1", b"x", b"y")
        network.step(
            "s1", AppendEntriesResponse("s2", 2, success=True, index=4, round=0)
        )
        network.read("s1", 7)
        network.step(
            "s1", AppendEntriesResponse("s2", 2, success=True, index=5, round=0)
        )
        assert network.committed("s1") == 5
        _confirm(network, "s2", 1)
        assert network.reads["s1"] == [(7, 4)]

    def test_of_a_single_server_is_confirmed_at_once(self) -> None:
        """It is the majority."""
        network = _leader()
        network.read("s1", 7)
        assert network.reads["s1"] == [(7, 3)]


class ConfirmTests:
    """Answers to a round."""

    def test_of_a_majority_release(self) -> None:
        """The leader and two of four peers."""
        network = _leader("s2", "s3", "s4", "s5")
        network.read("s1", 7)
        _confirm(network, "s2", 1)
        assert network.reads["s1"] == []
        _confirm(network, "s4", 1)
        assert network.reads["s1"] == [(7, 3)]

    def test_of_one_peer_count_once(self) -> None:
        """A repeated answer is no majority."""
        network = _leader("s2", "s3", "s4", "s5")
        network.read("s1", 7)
        _confirm(network, "s2", 1)
        _confirm(network, "s2", 1)
        assert network.reads["s1"] == []

    def test_of_an_earlier_round_release_nothing(self) -> None:
        """They may have been sent before the read began."""
        network = _leader("s2", "s3")
        _confirm(network, "s2", 0)
        network.read("s1", 7)
        _confirm(network, "s2", 0)
        _confirm(network, "s3", 0)
        assert network.reads["s1"] == []

    def test_of_a_later_round_release_those_before(self) -> None:
        """Whoever follows now followed then."""
        network = _leader("s2", "s3")
        network.read("s1", 7)
        network.read("s1", 8)
        _confirm(network, "s2", 2)
        assert [read_id for read_id, _ in network.reads["s1"]] == [7, 8]

    def test_of_a_peer_whose_log_does_not_agree_count(self) -> None:
        """It said that this leader is the one of its term."""
        network = _leader("s2", "s3")
        network.read("s1", 7)
        _confirm(network, "s2", 1, success=False)
        assert network.reads["s1"] == [(7, 3)]

    def test_after_a_majority_are_kept_for_later(self) -> None:
        """Nothing waits for them any more."""
        network = _leader("s2", "s3")
        network.read("s1", 7)
        _confirm(network, "s2", 1)
        _confirm(network, "s3", 1)
        assert network.reads["s1"] == [(7, 3)]
        assert network.rafts["s1"].state.progress["s3"].round == 1

    def test_that_come_late_do_not_take_a_round_back(self) -> None:
        """A peer's latest answer is what counts."""
        network = _leader("s2", "s3")
        state = network.rafts["s1"].state
        network.read("s1", 7)
        network.read("s1", 8)
        reads.confirm(state, "s2", 2)
        reads.confirm(state, "s2", 1)
        assert state.progress["s2"].round == 2


class LostLeadershipTests:
    """A leader that is none any more."""

    def test_fails_what_is_not_confirmed(self) -> None:
        """The caller may ask the new leader."""
        network = _leader("s2", "s3")
        network.read("s1", 7)
        network.step("s1", RequestVote("s3", 3, 9, 9))
        assert network.failed_reads["s1"] == [7]
        assert network.reads["s1"] == []

    def test_begins_a_new_round_when_it_leads_again(self) -> None:
        """The numbers go on, so an old round is never taken for a new one."""
        network = _leader("s2", "s3")
        network.read("s1", 7)
        network.step("s1", RequestVote("s3", 3, 9, 9))
        network.campaign("s1")
        network.step("s1", RequestVoteResponse("s2", 4, granted=True))
        network.read("s1", 8)
        network.step(
            "s1", AppendEntriesResponse("s2", 4, success=True, index=0, round=1)
        )
        assert network.reads["s1"] == []
        network.step(
            "s1", AppendEntriesResponse("s2", 4, success=True, index=0, round=2)
        )
        assert [read_id for read_id, _ in network.reads["s1"]] == [8]


def _asks(network: Network, sender: str = "s2", read_id: int = 7) -> None:
    network.step("s1", RequestReadIndex(sender, 2, read_id))


class OtherServersTests:
    """Reads that another server asked for."""

    def test_are_answered_after_a_round(self) -> None:
        """Not before: a newer leader may have written meanwhile."""
        network = _leader("s2", "s3")
        assert network.step("s1", RequestReadIndex("s2", 2, 7)) == [
            ("s2", AppendEntries("s1", 2, 0, 0, 0, 1)),
            ("s3", AppendEntries("s1", 2, 0, 0, 0, 1)),
        ]
        sent = network.step("s1", AppendEntriesResponse("s3", 2, True, 0, 1))  # noqa: FBT003 - a field
        assert ("s2", RequestReadIndexResponse("s1", 2, 7, 3)) in sent
        assert network.reads["s1"] == []

    def test_share_the_round_of_the_leaders_own(self) -> None:
        """One heartbeat a peer does for both."""
        network = _leader("s2", "s3")
        network.rafts["s1"].read(1)
        network.rafts["s1"].step(RequestReadIndex("s2", 2, 7))
        network.pump("s1")
        assert len(network.waiting(AppendEntries)) == 2
        _confirm(network, "s2", 1)
        assert network.reads["s1"] == [(1, 3)]

    def test_of_a_server_that_is_no_voter_are_answered(self) -> None:
        """A learner reads as well."""
        network = _leader("s2", "s3")
        _asks(network, "s9")
        sent = network.step("s1", AppendEntriesResponse("s3", 2, True, 0, 1))  # noqa: FBT003 - a field
        assert ("s9", RequestReadIndexResponse("s1", 2, 7, 3)) in sent

    def test_are_not_the_shells_when_leadership_is_lost(self) -> None:
        """It never heard of them; the askers ask again, elsewhere."""
        network = _leader("s2", "s3")
        _asks(network)
        network.read("s1", 8)
        network.step("s1", RequestVote("s3", 3, 9, 9))
        assert network.failed_reads["s1"] == [8]

    def test_beyond_the_bound_are_lost(self) -> None:
        """Memory is bounded; who asked asks again."""
        network = _leader("s2", "s3")
        for read_id in range(reads.MAX_WAITING + 5):
            network.rafts["s1"].step(RequestReadIndex("s2", 2, read_id))
        assert len(network.rafts["s1"].state.reads) == reads.MAX_WAITING

    def test_are_lost_on_one_that_does_not_lead(self) -> None:
        """It cannot say."""
        network = alone(1, names=["s1", "s2", "s3"])
        assert network.step("s1", RequestReadIndex("s2", 1, 7)) == []


class AskTests:
    """A server that asks its leader."""

    def _follower(self, tuning: Tuning | None = None) -> Network:
        network = alone(1, names=["s1", "s2", "s3"], tuning=tuning)
        network.step("s1", AppendEntries("s2", 2, 0, 0, 0, 0))
        return network

    def _ask(self, network: Network, read_id: int) -> None:
        network.rafts["s1"].read_index(read_id)
        network.pump("s1")

    def test_is_answered_with_an_index(self) -> None:
        """The read waits until the log is applied up to there."""
        network = self._follower()
        network.queue.clear()
        self._ask(network, 7)
        assert network.queue == [("s2", RequestReadIndex("s1", 2, 7))]
        network.step("s1", RequestReadIndexResponse("s2", 2, 7, 5))
        assert network.reads["s1"] == [(7, 5)]

    def test_hears_nothing_of_one_that_cannot_say(self) -> None:
        """An index of 0 is none."""
        network = self._follower()
        network.step("s1", RequestReadIndexResponse("s2", 2, 7, 0))
        assert network.reads["s1"] == []

    def test_without_a_leader_is_told_so(self) -> None:
        """There is nobody to ask."""
        network = alone(1, names=["s1", "s2", "s3"])
        with pytest.raises(NotLeaderError) as caught:
            self._ask(network, 7)
        assert caught.value.leader is None

    def test_believes_no_answer_of_an_older_term(self) -> None:
        """It asks again in the new one."""
        network = self._follower()
        self._ask(network, 7)
        network.step("s1", AppendEntries("s3", 3, 0, 0, 0, 0))
        network.step("s1", RequestReadIndexResponse("s2", 2, 7, 5))
        assert network.reads["s1"] == []

    def test_may_have_lost_its_leader_meanwhile(self) -> None:
        """The answer was true when it was given, after the question."""
        network = self._follower(STABLE)
        self._ask(network, 7)
        network.campaign("s1")
        assert network.role("s1") is Role.PRE_CANDIDATE
        network.step("s1", RequestReadIndexResponse("s2", 2, 7, 5))
        assert network.reads["s1"] == [(7, 5)]

    def test_as_the_leader_begins_a_round_itself(self) -> None:
        """Whoever asks need not know who leads."""
        network = _leader("s2", "s3")
        self._ask(network, 7)
        _confirm(network, "s2", 1)
        assert network.reads["s1"] == [(7, 3)]

    def test_asks_nobody_while_nobody_leads(self) -> None:
        """There is no one to send the question to."""
        state = Network().rafts["s1"].state
        reads.ask(state, 1)
        assert not state.messages


class HeartbeatTests:
    """The rounds that no read began."""

    def test_each_heartbeat_is_a_round(self) -> None:
        """So that a leader knows, without reads, when it was confirmed last."""
        network = _leader("s2", "s3")
        network.tick("s1", network.tuning.heartbeat_ticks)
        assert {each.round for each in network.waiting(AppendEntries)} == {1}
        assert network.rafts["s1"].confirmed_round == 0
        _confirm(network, "s3", 1)
        assert network.rafts["s1"].confirmed_round == 1
