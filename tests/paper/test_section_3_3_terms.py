"""§3.3: roles, terms, and what a term decides between two servers."""

from __future__ import annotations

from typing import get_args

import pytest

from consensus.core.messages import (
    AppendEntries,
    AppendEntriesResponse,
    Message,
    RequestVote,
    RequestVoteResponse,
)
from consensus.core.values import Role
from consensus.errors import NotLeaderError
from tests.support.network import Network, alone, entries_of


class RoleTests:
    """§3.3: leader, follower, candidate (figure 3.3)."""

    def test_in_normal_operation_one_leads_and_the_others_follow(self) -> None:
        """§3.3: exactly one leader, and all the rest are followers."""
        network = Network()
        network.elect("s2")
        roles = {name: network.role(name) for name in network.names}
        assert roles == {"s1": Role.FOLLOWER, "s2": Role.LEADER, "s3": Role.FOLLOWER}

    def test_followers_are_passive(self) -> None:
        """§3.3: they issue no requests on their own, only answers."""
        network = Network()
        network.elect("s1")
        for name in ("s2", "s3"):
            network.tick(name, network.tuning.election_ticks - 1)
        assert network.queue == []

    def test_a_follower_redirects_a_client(self) -> None:
        """§3.3: it takes nothing itself, and names the leader that it knows."""
        network = Network()
        network.elect("s1")
        with pytest.raises(NotLeaderError) as error:
            network.propose("s2", b"x")
        assert error.value.leader == "s1"
        assert network.entries("s2") == network.entries("s1")


class TermTests:
    """§3.3: terms are a logical clock (figure 3.4)."""

    def test_each_election_begins_the_next_term(self) -> None:
        """§3.3: terms are numbered with consecutive integers."""
        network = Network()
        terms = []
        for name in ("s1", "s2", "s3"):
            network.elect(name)
            terms.append(network.rafts[name].state.term)
        assert terms == [2, 3, 4]

    def test_a_term_may_end_without_a_leader(self) -> None:
        """§3.3: a split vote elects nobody; a new term, a new election."""
        network = Network(["s1", "s2", "s3", "s4"])
        network.campaign("s1")
        network.campaign("s2")
        network.pass_on(RequestVote, "s1", "s3")
        network.pass_on(RequestVote, "s2", "s4")
        network.settle()
        assert network.leaders() == []
        network.elect("s1")
        assert network.rafts["s1"].state.term == 3

    def test_a_term_has_at_most_one_leader(self) -> None:
        """§3.3: of two candidates of a term, the second finds the votes gone."""
        network = Network()
        network.campaign("s1")
        network.campaign("s2")
        network.settle()
        assert network.leaders() == ["s1"]
        assert network.rafts["s2"].state.term == network.rafts["s1"].state.term

    @pytest.mark.parametrize("kind", get_args(Message))
    def test_the_smaller_term_is_updated_to_the_larger(
        self, kind: type[Message]
    ) -> None:
        """§3.3: current terms are exchanged with every message."""
        network = alone(1)
        network.step("s1", _message(kind, 7))
        assert network.disks["s1"].hard_state.term == 7

    @pytest.mark.parametrize("kind", get_args(Message))
    def test_a_candidate_whose_term_is_out_of_date_follows(
        self, kind: type[Message]
    ) -> None:
        """§3.3: it reverts to follower at once."""
        network = alone(1)
        network.campaign("s1")
        network.step("s1", _message(kind, 3))
        assert network.role("s1") is Role.FOLLOWER

    @pytest.mark.parametrize("kind", get_args(Message))
    def test_a_leader_whose_term_is_out_of_date_follows(
        self, kind: type[Message]
    ) -> None:
        """§3.3: it reverts to follower at once."""
        network = alone(1, names=["s1"])
        network.campaign("s1")
        assert network.role("s1") is Role.LEADER
        network.step("s1", _message(kind, 3))
        assert network.role("s1") is Role.FOLLOWER

    def test_a_term_never_goes_back(self) -> None:
        """§3.3: it increases monotonically over time."""
        network = alone(1)
        terms = []
        for term in (4, 2, 7, 3, 7, 1):
            network.step("s1", _message(AppendEntriesResponse, term))
            terms.append(network.rafts["s1"].state.term)
        assert terms == [4, 4, 7, 7, 7, 7]


class StaleTests:
    """§3.3: a request with a stale term is rejected."""

    def test_a_stale_leader_is_refused_and_told(self) -> None:
        """§3.3, figure 3.1: false if term < current term; the log stays."""
        network = alone(1, 3)
        entries = tuple(entries_of(2, after=3))
        ((_, answer),) = network.step("s1", AppendEntries("s2", 2, 3, 3, 9, 0, entries))
        assert isinstance(answer, AppendEntriesResponse)
        assert (answer.success, answer.term) == (False, 3)
        state = network.rafts["s1"].state
        assert (network.terms("s1"), state.leader) == ([1, 3], None)
        assert network.committed("s1") == 0

    def test_a_stale_candidate_is_refused_and_told(self) -> None:
        """§3.3, figure 3.1: false if term < current term, however long its log."""
        network = alone(1, 3)
        ((_, answer),) = network.step("s1", RequestVote("s2", 2, 99, 99))
        assert answer == RequestVoteResponse("s1", 3, granted=False)

    def test_a_stale_leader_does_not_keep_a_follower_quiet(self) -> None:
        """§3.3: only the leader of the current term restarts the timer."""
        network = alone(1, 3)
        network.tick("s1", 9)
        network.step("s1", AppendEntries("s2", 2, 3, 3, 0, 0))
        assert network.rafts["s1"].state.elapsed == 9

    def test_a_deposed_leader_learns_of_its_successor_from_a_refusal(self) -> None:
        """§3.3: the answer's term makes it follow."""
        network = Network()
        network.elect("s1")
        network.isolate("s1")
        network.elect("s2")
        network.heal()
        network.heartbeat("s1")
        assert network.role("s1") is Role.FOLLOWER
        assert network.leaders() == ["s2"]

    def test_answers_to_what_was_asked_in_an_older_term_do_not_count(self) -> None:
        """§3.3: a leader of term 4 does not commit by an answer to term 2's."""
        network = alone(1)
        for term in (2, 4):
            network.step("s1", _message(RequestVoteResponse, term - 1))
            network.campaign("s1")
            network.step("s1", RequestVoteResponse("s2", term, granted=True))
            assert network.role("s1") is Role.LEADER
        stale = AppendEntriesResponse("s2", 2, success=True, index=4, round=0)
        network.step("s1", stale)
        assert network.committed("s1") == 0
        assert network.rafts["s1"].state.progress["s2"].match_index == 0


def _message(kind: type[Message], term: int) -> Message:
    if kind is RequestVote:
        return RequestVote("s2", term, 2, 1)
    if kind is RequestVoteResponse:
        return RequestVoteResponse("s2", term, granted=False)
    if kind is AppendEntries:
        return AppendEntries("s2", term, 2, 1, 0, 0)
    return AppendEntriesResponse("s2", term, success=False, index=0, round=0)
