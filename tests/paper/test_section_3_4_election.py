"""§3.4: leader election."""

from __future__ import annotations

import pytest

from consensus.core.messages import (
    AppendEntries,
    AppendEntriesResponse,
    RequestVote,
    RequestVoteResponse,
)
from consensus.core.state import Tuning
from consensus.core.values import HardState, Role
from tests.support.network import Network, alone

_FIVE = ("s1", "s2", "s3", "s4", "s5")


class TimeoutTests:
    """§3.4: a follower waits for one election timeout."""

    def test_servers_start_as_followers(self) -> None:
        """§3.4: whatever they were before."""
        network = Network()
        network.elect("s1")
        network.crash("s1")
        network.restart("s1")
        assert [network.role(name) for name in network.names] == [Role.FOLLOWER] * 3

    def test_heartbeats_keep_followers_quiet(self) -> None:
        """§3.4: a server stays a follower as long as it hears a leader."""
        network = Network()
        network.elect("s1")
        for _ in range(100):
            for name in network.names:
                network.tick(name)
            network.settle()
        assert network.leaders() == ["s1"]
        assert network.rafts["s1"].state.term == 2

    def test_silence_for_a_timeout_begins_an_election(self) -> None:
        """§3.4: no viable leader is assumed, and a new one is to be chosen."""
        network = Network()
        network.elect("s1")
        network.crash("s1")
        state = network.rafts["s2"].state
        network.tick("s2", state.timeout - state.elapsed - 1)
        assert state.role is Role.FOLLOWER
        network.tick("s2")
        assert (state.role, state.term) == (Role.CANDIDATE, 3)
        network.settle()
        assert network.leaders() == ["s2"]

    def test_a_granted_vote_restarts_the_timer(self) -> None:
        """Figure 3.1: without hearing from a leader or granting a vote."""
        network = alone(1, 3)
        network.tick("s1", 20)
        network.step("s1", RequestVote("s2", 4, 3, 3))
        assert network.rafts["s1"].state.elapsed == 0

    def test_a_refused_candidate_of_a_newer_term_does_not_restart_it(self) -> None:
        """Figure 3.1: else a server that cannot win keeps those quiet who can."""
        network = alone(1, 3)
        state = network.rafts["s1"].state
        network.tick("s1", state.timeout - 1)
        network.step("s1", RequestVote("s2", 9, 2, 1))
        assert (state.term, state.role) == (9, Role.FOLLOWER)
        network.tick("s1")
        assert (state.term, state.role) == (10, Role.CANDIDATE)


class CandidateTests:
    """§3.4: how an election begins."""

    def test_it_votes_for_itself_in_the_next_term_and_asks_all_others(self) -> None:
        """§3.4: requests leave in parallel."""
        network = Network()
        network.campaign("s1")
        assert network.disks["s1"].hard_state == HardState(2, "s1")
        request = RequestVote("s1", 2, last_index=1, last_term=1)
        assert network.queue == [("s2", request), ("s3", request)]

    def test_its_own_vote_counts_once_it_is_durable(self) -> None:
        """§3.4, §3.8: with one more vote, that makes two of three."""
        network = Network()
        network.slow.add("s1")
        network.campaign("s1")
        # Not sent by a correct server before it was asked, but proof enough.
        network.step("s1", RequestVoteResponse("s2", 2, granted=True))
        assert network.role("s1") is Role.CANDIDATE
        network.sync("s1")
        assert network.role("s1") is Role.LEADER


class WinningTests:
    """§3.4, case (a): it wins the election."""

    def test_a_majority_of_the_full_cluster_makes_a_leader(self) -> None:
        """§3.4: three of five suffice, though two are down."""
        network = Network(_FIVE)
        network.crash("s4")
        network.crash("s5")
        network.elect("s1")

    def test_a_minority_does_not(self) -> None:
        """§3.4: two of five, however long they try."""
        network = Network(_FIVE)
        for name in ("s3", "s4", "s5"):
            network.crash(name)
        for _ in range(5):
            network.campaign("s1")
            network.settle()
            assert network.leaders() == []

    def test_half_does_not(self) -> None:
        """§3.4: two of four."""
        network = Network(["s1", "s2", "s3", "s4"])
        network.isolate("s1", "s2")
        network.campaign("s1")
        network.settle()
        assert network.leaders() == []

    def test_a_server_votes_for_one_candidate_a_term_first_come_first_served(
        self,
    ) -> None:
        """§3.4: the second one's log may be longer."""
        network = alone(1)
        ((_, first),) = network.step("s1", RequestVote("s2", 2, 2, 1))
        ((_, second),) = network.step("s1", RequestVote("s3", 2, 9, 1))
        assert first == RequestVoteResponse("s1", 2, granted=True)
        assert second == RequestVoteResponse("s1", 2, granted=False)

    def test_a_server_may_vote_again_in_the_next_term(self) -> None:
        """§3.4: a vote is one of a term."""
        network = alone(1)
        network.step("s1", RequestVote("s2", 2, 2, 1))
        ((_, answer),) = network.step("s1", RequestVote("s3", 3, 2, 1))
        assert answer == RequestVoteResponse("s1", 3, granted=True)

    def test_votes_are_counted_in_the_term_they_were_granted_in(self) -> None:
        """§3.4: a vote for each of two candidacies elects in neither."""
        network = Network(_FIVE)
        network.campaign("s1")
        network.pass_on(RequestVote, to="s2")
        network.pass_on(RequestVoteResponse)
        network.lose()
        network.campaign("s1")
        network.pass_on(RequestVote, to="s3")
        network.pass_on(RequestVoteResponse)
        assert network.role("s1") is Role.CANDIDATE
        assert network.rafts["s1"].state.votes == {"s1", "s3"}

    def test_a_late_vote_for_the_last_term_does_not_count(self) -> None:
        """§3.4: the majority has to be one of the same term."""
        network = Network()
        network.campaign("s1")
        network.pass_on(RequestVote, to="s2")
        late = network.waiting(RequestVoteResponse)
        network.lose()
        network.campaign("s1")
        network.step("s1", late[0])
        assert network.role("s1") is Role.CANDIDATE

    def test_the_winner_tells_everybody_at_once(self) -> None:
        """§3.4: to establish its authority and prevent new elections."""
        network = Network()
        network.campaign("s1")
        network.pass_on(RequestVote, to="s2")
        network.lose("s1", "s3")
        network.pass_on(RequestVoteResponse)
        assert network.role("s1") is Role.LEADER
        assert {to for to, _ in network.queue} == {"s2", "s3"}
        network.tick("s3", 20)
        network.pass_on(AppendEntries, to="s3")
        state = network.rafts["s3"].state
        assert (state.leader, state.elapsed) == ("s1", 0)


class LosingTests:
    """§3.4, case (b): another server establishes itself as leader."""

    @pytest.mark.parametrize("term", [2, 3])
    def test_a_leader_of_its_term_or_a_newer_one_ends_the_candidacy(
        self, term: int
    ) -> None:
        """§3.4: the candidate recognizes it and follows."""
        network = alone(1)
        network.campaign("s1")
        network.step("s1", AppendEntries("s2", term, 2, 1, 0, 0))
        state = network.rafts["s1"].state
        assert (state.role, state.leader, state.term) == (Role.FOLLOWER, "s2", term)

    def test_a_leader_of_an_older_term_does_not(self) -> None:
        """§3.4: the candidate rejects the request and goes on."""
        network = alone(1)
        network.campaign("s1")
        ((_, answer),) = network.step("s1", AppendEntries("s2", 1, 2, 1, 0, 0))
        assert isinstance(answer, AppendEntriesResponse)
        assert (answer.success, answer.term) == (False, 2)
        assert network.role("s1") is Role.CANDIDATE


class SplitVoteTests:
    """§3.4, case (c): a period of time goes by with no winner."""

    def test_each_candidate_times_out_and_stands_again(self) -> None:
        """§3.4: a new term and another round of requests."""
        network = Network(["s1", "s2"])
        network.campaign("s1")
        network.campaign("s2")
        network.settle()
        assert network.leaders() == []
        network.campaign("s1")
        assert network.rafts["s1"].state.term == 3
        assert network.waiting(RequestVote) == [RequestVote("s1", 3, 1, 1)]
        network.settle()
        assert network.leaders() == ["s1"]

    def test_timeouts_are_drawn_from_a_fixed_interval(self) -> None:
        """§3.4: between once and twice the election timeout, and spread over it."""
        network = Network(["s1"], founders=(), tuning=Tuning(election_ticks=10), seed=3)
        timeouts = set()
        for _ in range(300):
            network.restart("s1")
            timeouts.add(network.rafts["s1"].state.timeout)
        assert timeouts == set(range(10, 20))

    def test_each_candidate_draws_anew_at_the_start_of_an_election(self) -> None:
        """§3.4: so that the next vote is less likely to be split."""
        network = alone(1, tuning=Tuning(election_ticks=1000))
        state = network.rafts["s1"].state
        timeouts = []
        for _ in range(5):
            network.campaign("s1")
            timeouts.append(state.timeout)
        assert len(set(timeouts)) > 1

    @pytest.mark.parametrize("seed", range(10))
    def test_a_cluster_left_to_itself_elects_a_leader(self, seed: int) -> None:
        """§3.4: in most cases a single server times out, and wins at once."""
        network = Network(_FIVE, seed=seed)
        for _ in range(10 * network.tuning.election_ticks):
            for name in network.names:
                network.tick(name)
            network.settle()
        (leader,) = network.leaders()
        for name in network.names:
            assert network.rafts[name].state.leader == leader
