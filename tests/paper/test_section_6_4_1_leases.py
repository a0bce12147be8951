"""§6.4.1: a leader that reads without asking needs voters that keep a pledge."""

from __future__ import annotations

from dataclasses import replace

import pytest

from consensus.core.messages import (
    AppendEntries,
    RequestPreVote,
    RequestPreVoteResponse,
    RequestVote,
    TimeoutNow,
)
from consensus.core.ready import TransferFailed
from consensus.core.values import HardState, Role
from tests.support.network import STABLE, Network, alone

_TUNING = replace(STABLE, keeps_pledges=True)
_ELECTION = _TUNING.election_ticks


def _pledged() -> Network:
    """Return s1 in term 2 just after it heard its leader, s2."""
    network = alone(1, tuning=_TUNING)
    network.tick("s1", _ELECTION)
    network.step("s1", AppendEntries("s2", 2, 0, 0, 0, 0))
    network.queue.clear()
    return network


def _led() -> Network:
    """Return a network that s1 leads; all have been up for long."""
    network = Network(tuning=_TUNING)
    for raft in network.rafts.values():
        raft.state.pledge = 0
    network.elect("s1")
    network.heartbeat("s1")
    return network


class PledgeTests:
    """§6.4.1: who answered a leader votes for no other for an election timeout."""

    def test_it_outlives_the_term(self) -> None:
        """
        §6.4.1: the leader cannot know that its voter has left its term.

        s3 had the pre-votes for term 3 before s2 won term 2.  It refuses a
        late question of s1, which so learns of term 3 and forgets its leader;
        but s2 may have been told a moment before that s1 follows it.
        """
        network = _pledged()
        network.step("s1", RequestPreVoteResponse("s3", 3, granted=False))
        state = network.rafts["s1"].state
        assert (state.term, state.leader) == (3, None)
        assert network.step("s1", RequestVote("s3", 3, 9, 9)) == []
        assert network.disks["s1"].hard_state == HardState(3, None)
        network.tick("s1", _ELECTION - 1)
        assert network.step("s1", RequestVote("s3", 3, 9, 9)) == []
        network.tick("s1")
        ((_, answer),) = network.step("s1", RequestVote("s3", 3, 9, 9))
        assert network.disks["s1"].hard_state == HardState(3, "s3")
        assert answer.sender == "s1"

    @pytest.mark.parametrize("kind", [RequestVote, RequestPreVote])
    def test_it_outlives_a_restart(
        self, kind: type[RequestVote | RequestPreVote]
    ) -> None:
        """§6.4.1: who has just started may have answered just before."""
        network = _pledged()
        network.crash("s1")
        network.restart("s1")
        for _ in range(_ELECTION):
            assert network.step("s1", kind("s3", 3, 9, 9)) == []
            network.tick("s1")
        assert len(network.step("s1", kind("s3", 3, 9, 9))) == 1

    def test_whoever_made_it_does_not_stand_either(self) -> None:
        """§6.4.1: its own vote is one, too."""
        network = _pledged()
        network.step("s1", RequestPreVoteResponse("s3", 3, granted=False))
        network.tick("s1", _ELECTION - 1)
        assert network.role("s1") is Role.FOLLOWER

    def test_every_message_of_the_leader_renews_it(self) -> None:
        """§6.4.1: also one that asks about a log that is another."""
        network = _pledged()
        network.tick("s1", _ELECTION - 1)
        network.step("s1", AppendEntries("s2", 2, 50, 2, 0, 0))
        network.step("s1", RequestPreVoteResponse("s3", 3, granted=False))
        network.tick("s1", _ELECTION - 1)
        assert network.step("s1", RequestVote("s3", 3, 9, 9)) == []

    def test_clusters_that_do_not_need_it_do_not_wait(self) -> None:
        """§6.4.1: without the rule a restarted voter votes at once."""
        network = alone(1, tuning=STABLE)
        assert len(network.step("s1", RequestVote("s3", 3, 9, 9))) == 1


class TransferTests:
    """§6.4.1, §3.10: a transfer breaks the pledges, so it ends the lease first."""

    def test_the_chosen_one_is_voted_for_at_once(self) -> None:
        """§3.10: that is what a transfer is for."""
        network = _pledged()
        request = RequestVote("s3", 3, 9, 9, transfer=True)
        assert len(network.step("s1", request)) == 1

    def test_who_hands_over_has_no_lease(self) -> None:
        """§6.4.1: from the moment in which it begins."""
        network = _led()
        state = network.rafts["s1"].state
        assert state.may_lease
        network.rafts["s1"].transfer("s2")
        assert not state.may_lease

    def test_nor_has_it_one_when_the_transfer_failed(self) -> None:
        """
        §6.4.1: the request to stand may still arrive, in the same term.

        s1 gave up and leads on, with a majority that has answered just now;
        then s2 hears that it shall stand, and wins at once.
        """
        network = _led()
        network.transfer("s1", "s2")
        (late,) = network.waiting(TimeoutNow)
        network.lose()
        network.pass_time(_ELECTION + 1)
        state = network.rafts["s1"].state
        assert TransferFailed("s2") in network.events["s1"]
        assert state.role is Role.LEADER
        network.rafts["s2"].step(late)
        network.pump("s2")
        network.pass_on(RequestVote, to="s3")
        network.settle()
        assert network.role("s2") is Role.LEADER
        assert not state.may_lease

    def test_in_its_next_term_it_may_have_one(self) -> None:
        """§6.4.1: the request was for the old one."""
        network = _led()
        network.transfer("s1", "s2")
        network.settle()
        assert network.role("s2") is Role.LEADER
        network.transfer("s2", "s1")
        network.settle()
        assert network.role("s1") is Role.LEADER
        assert network.rafts["s1"].state.may_lease
