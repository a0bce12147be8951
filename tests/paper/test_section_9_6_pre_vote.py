"""§9.6: a server asks whether it could win, before it begins a new term."""

from __future__ import annotations

import pytest

from consensus.core.messages import (
    AppendEntries,
    RequestPreVote,
    RequestPreVoteResponse,
    RequestVote,
    RequestVoteResponse,
)
from consensus.core.ready import RoleChanged
from consensus.core.values import HardState, Role
from tests.support.network import STABLE, Network, alone, led

_FIVE = ("s1", "s2", "s3", "s4", "s5")
_ELECTION = STABLE.election_ticks


def _answer(sender: str, term: int, *, granted: bool = True) -> RequestPreVoteResponse:
    return RequestPreVoteResponse(sender, term, granted)


def _everything(network: Network, name: str) -> tuple[object, ...]:
    """Return what an election would change of *name*."""
    state = network.rafts[name].state
    return (
        state.hard_state,
        state.role,
        state.leader,
        state.elapsed,
        state.timeout,
        sorted(state.votes),
        network.disks[name].hard_state,
        network.terms(name),
    )


class AskingTests:
    """§9.6: a candidate first learns whether a majority would vote for it."""

    def test_who_loses_patience_asks_in_the_term_it_is_in(self) -> None:
        """§9.6: neither its term nor its vote changes."""
        network = alone(1, 3, tuning=STABLE, vote="s2")
        network.campaign("s1")
        assert network.role("s1") is Role.PRE_CANDIDATE
        assert network.rafts["s1"].state.hard_state == HardState(3, "s2")
        request = RequestPreVote("s1", 3, last_index=3, last_term=3)
        assert network.queue == [("s2", request), ("s3", request)]

    def test_asking_costs_no_write(self) -> None:
        """§9.6: there is nothing to persist, so nothing waits for the disk."""
        network = alone(1, tuning=STABLE)
        network.slow.add("s1")
        network.campaign("s1")
        assert len(network.waiting(RequestPreVote)) == 2
        assert network.disks["s1"].hard_state == HardState(1)

    def test_with_a_majority_it_stands_in_the_next_term(self) -> None:
        """§9.6: its own consent and two more of five."""
        network = alone(1, names=_FIVE, tuning=STABLE)
        network.campaign("s1")
        network.step("s1", _answer("s2", 1))
        assert network.role("s1") is Role.PRE_CANDIDATE
        sent = network.step("s1", _answer("s3", 1))
        assert network.role("s1") is Role.CANDIDATE
        assert network.disks["s1"].hard_state == HardState(2, "s1")
        assert [peer for peer, _ in sent] == ["s2", "s3", "s4", "s5"]
        assert {message for _, message in sent} == {RequestVote("s1", 2, 2, 1)}

    def test_consent_is_no_vote(self) -> None:
        """§9.6: the election that follows is won by votes alone."""
        network = alone(1, tuning=STABLE)
        network.campaign("s1")
        network.step("s1", _answer("s2", 1))
        network.step("s1", _answer("s3", 1))
        assert network.role("s1") is Role.CANDIDATE
        network.step("s1", RequestVoteResponse("s3", 2, granted=True))
        assert network.role("s1") is Role.LEADER

    def test_who_is_refused_stays_in_its_term_for_ever(self) -> None:
        """§9.6: it asks again after each timeout, and nothing else happens."""
        network = alone(1, 3, tuning=STABLE)
        for _ in range(50):
            network.campaign("s1")
            for peer in ("s2", "s3"):
                assert network.step("s1", _answer(peer, 3, granted=False)) == []
            assert network.role("s1") is Role.PRE_CANDIDATE
        assert network.disks["s1"].hard_state == HardState(3)

    def test_consent_to_an_earlier_question_is_forgotten(self) -> None:
        """§9.6: the majority has to be one of a single round."""
        network = alone(1, names=_FIVE, tuning=STABLE)
        for peer in ("s2", "s3", "s4"):
            network.campaign("s1")
            network.step("s1", _answer(peer, 1))
            assert network.role("s1") is Role.PRE_CANDIDATE

    @pytest.mark.parametrize("seed", range(5))
    def test_a_cluster_left_to_itself_elects_a_leader(self, seed: int) -> None:
        """§9.6: pre-vote stands in the way of nobody who can win."""
        network = Network(_FIVE, tuning=STABLE, seed=seed)
        network.pass_time(10 * _ELECTION)
        (leader,) = network.leaders()
        for name in network.names:
            assert network.rafts[name].state.leader == leader


class AnsweringTests:
    """§9.6: an answer promises nothing."""

    @pytest.mark.parametrize("is_asking", [False, True])
    def test_it_changes_no_term_no_vote_and_no_timer(self, *, is_asking: bool) -> None:
        """§9.6: whether the receiver follows or asks itself."""
        network = alone(1, tuning=STABLE)
        if is_asking:
            network.campaign("s1")
        network.tick("s1", 2)
        before = _everything(network, "s1")
        sent = network.step("s1", RequestPreVote("s2", 1, 2, 1))
        assert sent == [("s2", _answer("s1", 1))]
        assert _everything(network, "s1") == before

    @pytest.mark.parametrize(
        ("last_term", "last_index", "granted"),
        [(3, 3, True), (4, 1, True), (3, 2, False), (2, 9, False)],
    )
    def test_it_is_yes_if_the_log_is_no_older(
        self, last_term: int, last_index: int, *, granted: bool
    ) -> None:
        """§9.6: by the same comparison as a vote (§3.6.1)."""
        network = alone(1, 3, term=5, tuning=STABLE)
        request = RequestPreVote("s2", 5, last_index, last_term)
        ((_, answer),) = network.step("s1", request)
        assert answer == _answer("s1", 5, granted=granted)

    def test_it_is_yes_to_several_and_in_spite_of_a_vote(self) -> None:
        """§9.6: the vote of this term says nothing about the next one."""
        network = alone(1, term=5, vote="s3", tuning=STABLE)
        for peer in ("s2", "s3", "s2"):
            sent = network.step("s1", RequestPreVote(peer, 5, 2, 1))
            assert sent == [(peer, _answer("s1", 5))]

    def test_who_is_behind_is_told_of_the_newer_term(self) -> None:
        """§9.6, §3.3: so that it asks in that one next time."""
        network = Network(tuning=STABLE)
        network.disks["s1"].hard_state = HardState(4)
        network.restart("s1")
        network.campaign("s2")
        network.pass_on(RequestPreVote, to="s1")
        network.pass_on(RequestPreVoteResponse)
        state = network.rafts["s2"].state
        assert (state.role, state.term) == (Role.FOLLOWER, 4)
        network.queue.clear()
        network.elect("s2")
        assert state.term == 5


class TurningTests:
    """§9.6: what ends a pre-candidacy, and what leads back to one."""

    def test_a_split_vote_leads_back_to_asking(self) -> None:
        """§9.6: no term begins without a majority's consent."""
        network = Network(["s1", "s2"], tuning=STABLE)
        network.campaign("s1")
        network.campaign("s2")
        network.settle()
        assert network.leaders() == []
        assert {network.role(name) for name in network.names} == {Role.CANDIDATE}
        network.campaign("s1")
        state = network.rafts["s1"].state
        assert (state.role, state.hard_state) == (
            Role.PRE_CANDIDATE,
            HardState(2, "s1"),
        )
        network.settle()
        assert (network.leaders(), state.term) == (["s1"], 3)

    @pytest.mark.parametrize("term", [1, 2])
    def test_who_grants_a_vote_follows(self, term: int) -> None:
        """§9.6: another was faster; it gets the time to win."""
        network = alone(1, tuning=STABLE)
        network.campaign("s1")
        network.tick("s1", 3)
        sent = network.step("s1", RequestVote("s2", term, 2, 1))
        assert sent == [("s2", RequestVoteResponse("s1", term, granted=True))]
        state = network.rafts["s1"].state
        assert (state.role, state.leader, state.elapsed) == (Role.FOLLOWER, None, 0)
        assert network.disks["s1"].hard_state == HardState(term, "s2")
        assert network.events["s1"][-1] == RoleChanged(Role.FOLLOWER, term, None)
        network.step("s1", _answer("s3", term))
        assert network.role("s1") is Role.FOLLOWER

    def test_who_refuses_a_vote_goes_on_asking(self) -> None:
        """§9.6: its vote in this term is another's already."""
        network = alone(1, vote="s3", tuning=STABLE)
        network.campaign("s1")
        network.tick("s1", 3)
        sent = network.step("s1", RequestVote("s2", 1, 2, 1))
        assert sent == [("s2", RequestVoteResponse("s1", 1, granted=False))]
        state = network.rafts["s1"].state
        assert (state.role, state.elapsed) == (Role.PRE_CANDIDATE, 3)

    def test_a_leader_of_its_term_is_followed_again(self) -> None:
        """§9.6: it had only been out of hearing."""
        network = alone(1, 2, tuning=STABLE)
        network.campaign("s1")
        network.step("s1", AppendEntries("s2", 2, 3, 2, 0, 0))
        state = network.rafts["s1"].state
        assert (state.role, state.leader, state.term) == (Role.FOLLOWER, "s2", 2)


class ReturnTests:
    """§9.6: a server rejoins the cluster."""

    def test_who_was_cut_off_for_long_disturbs_nobody(self) -> None:
        """§9.6: the leader, its term and all that others know stay."""
        network = led()
        network.isolate("s3")
        network.pass_time(20 * _ELECTION)
        assert network.role("s3") is Role.PRE_CANDIDATE
        assert network.rafts["s3"].state.term == 2
        events = [list(network.events[name]) for name in ("s1", "s2")]
        disks = [network.disks[name].hard_state for name in network.names]
        network.heal()
        network.pass_time(20 * _ELECTION)
        assert network.leaders() == ["s1"]
        assert [network.events[name] for name in ("s1", "s2")] == events
        assert [network.disks[name].hard_state for name in network.names] == disks
        state = network.rafts["s3"].state
        assert (state.role, state.leader) == (Role.FOLLOWER, "s1")
        assert [network.terms(name) for name in network.names] == [[2], [2], [2]]

    def test_who_was_cut_off_gets_what_it_missed(self) -> None:
        """§9.6: without an election."""
        network = led()
        network.isolate("s3")
        network.propose("s1", b"x")
        network.pass_time(5 * _ELECTION)
        network.heal()
        network.pass_time(_ELECTION)
        assert network.commands("s3") == [b"x"]
        assert {network.rafts[name].state.term for name in network.names} == {2}

    def test_half_a_cluster_begins_no_term(self) -> None:
        """§9.6: two of five ask each other in vain, however long."""
        network = led(*_FIVE)
        network.isolate("s4", "s5")
        network.pass_time(20 * _ELECTION)
        assert [network.rafts[name].state.term for name in ("s4", "s5")] == [2, 2]
        network.heal()
        network.pass_time(5 * _ELECTION)
        assert network.leaders() == ["s1"]
        assert {network.rafts[name].state.term for name in network.names} == {2}

    @pytest.mark.parametrize("seed", range(5))
    def test_who_comes_back_in_a_higher_term_is_taken_in(self, seed: int) -> None:
        """
        §9.6: it had stood when the link broke, so its term is newer.

        It refuses the leader's entries; the leader steps down, once, and
        the next one leads them all.
        """
        network = led(seed=seed)
        network.crash("s3")
        network.disks["s3"].hard_state = HardState(7, "s3")
        network.restart("s3")
        network.pass_time(5 * _ELECTION)
        (leader,) = network.leaders()
        terms = {network.rafts[name].state.term for name in network.names}
        assert len(terms) == 1
        assert min(terms) >= 8
        assert network.events["s1"].count(RoleChanged(Role.FOLLOWER, 7, None)) == 1
        events = [list(network.events[name]) for name in network.names]
        network.pass_time(20 * _ELECTION)
        assert network.leaders() == [leader]
        assert [network.events[name] for name in network.names] == events
