"""Election: one server's part, message by message."""

from __future__ import annotations

import pytest

from consensus.core import election
from consensus.core.messages import (
    AppendEntries,
    Message,
    RequestPreVote,
    RequestPreVoteResponse,
    RequestVote,
    RequestVoteResponse,
    TimeoutNow,
)
from consensus.core.ready import MembershipCommitted, RoleChanged
from consensus.core.state import Tuning
from consensus.core.values import HardState, Role
from tests.support.network import STABLE, Network, alone

_TUNING = Tuning(election_ticks=10)


def _grant(sender: str, term: int) -> RequestVoteResponse:
    return RequestVoteResponse(sender, term, granted=True)


def _answers(network: Network, message: Message) -> list[bool]:
    """Return what s1 answers to *message*: granted or not."""
    sent = network.step("s1", message)
    answers = [answer for _, answer in sent if isinstance(answer, RequestVoteResponse)]
    assert [peer for peer, _ in sent] == [message.sender] * len(answers)
    return [answer.granted for answer in answers]


class TickTests:
    """Time."""

    def test_stands_when_the_timeout_has_passed(self) -> None:
        """Not a tick earlier."""
        network = alone(1, tuning=_TUNING)
        state = network.rafts["s1"].state
        network.tick("s1", state.timeout - 1)
        assert (state.role, state.term) == (Role.FOLLOWER, 1)
        network.tick("s1")
        assert (state.role, state.term) == (Role.CANDIDATE, 2)

    def test_stands_again_when_nobody_wins(self) -> None:
        """A candidate's timer runs too."""
        network = alone(1, tuning=_TUNING)
        network.campaign("s1")
        network.campaign("s1")
        assert network.rafts["s1"].state.hard_state == HardState(3, "s1")

    def test_without_a_membership_never_stands(self) -> None:
        """A server that was not told of a cluster waits for one."""
        network = Network(["s1"], founders=(), tuning=_TUNING)
        network.tick("s1", 100)
        assert network.rafts["s1"].state.term == 0

    def test_a_server_that_is_no_voter_never_stands(self) -> None:
        """Its log may name others only."""
        network = alone(1, names=["s1", "s2", "s3"], tuning=_TUNING)
        del network.rafts["s1"].state.membership.voters["s1"]
        network.tick("s1", 100)
        assert network.role("s1") is Role.FOLLOWER


class CampaignTests:
    """The requests."""

    def test_ask_every_peer_with_the_end_of_the_log(self) -> None:
        """Last index and last term are what voters compare."""
        network = alone(1, 3)
        network.campaign("s1")
        request = RequestVote("s1", 4, last_index=3, last_term=3)
        assert network.queue == [("s2", request), ("s3", request)]

    def test_wait_until_term_and_vote_are_durable(self) -> None:
        """Else a crash would let it stand in the same term again."""
        network = alone(1)
        network.slow.add("s1")
        network.campaign("s1")
        assert network.queue == []
        network.sync("s1")
        assert [peer for peer, _ in network.queue] == ["s2", "s3"]


class PersistedTests:
    """A candidate's own vote."""

    def test_makes_a_single_server_leader(self) -> None:
        """It is the majority, once its vote is durable."""
        network = alone(1, names=["s1"])
        network.slow.add("s1")
        network.campaign("s1")
        assert network.role("s1") is Role.CANDIDATE
        network.sync("s1", 1)
        assert network.role("s1") is Role.LEADER

    def test_of_an_earlier_term_does_not_count(self) -> None:
        """Two terms are on their way to the disk; the first is durable."""
        network = alone(1, names=["s1"])
        network.slow.add("s1")
        network.campaign("s1")
        network.campaign("s1")
        assert len(network.unsynced["s1"]) == 2
        network._sync_one("s1")
        assert network.role("s1") is Role.CANDIDATE
        assert network.rafts["s1"].state.votes == set()
        network._sync_one("s1")
        assert network.role("s1") is Role.LEADER

    def test_counts_for_a_candidate_only(self) -> None:
        """A follower whose vote becomes durable counts nothing."""
        network = alone(1)
        network.step("s1", RequestVote("s2", 2, 2, 1))
        state = network.rafts["s1"].state
        election.persisted(state)
        assert (state.role, state.votes) == (Role.FOLLOWER, set())


class OnRequestVoteTests:
    """A voter."""

    def test_grants_the_first_who_asks(self) -> None:
        """The vote is kept with the term."""
        network = alone(1)
        assert _answers(network, RequestVote("s2", 2, 2, 1)) == [True]
        assert network.disks["s1"].hard_state == HardState(2, "s2")

    def test_refuses_the_second_who_asks(self) -> None:
        """One vote a term, first come, first served."""
        network = alone(1)
        assert _answers(network, RequestVote("s2", 2, 2, 1)) == [True]
        assert _answers(network, RequestVote("s3", 2, 9, 1)) == [False]
        assert network.disks["s1"].hard_state == HardState(2, "s2")

    def test_grants_again_whom_it_granted(self) -> None:
        """The first answer may have been lost."""
        network = alone(1)
        assert _answers(network, RequestVote("s2", 2, 2, 1)) == [True]
        assert _answers(network, RequestVote("s2", 2, 2, 1)) == [True]

    @pytest.mark.parametrize(
        ("last_term", "last_index", "granted"),
        [
            (3, 3, True),
            (3, 4, True),
            (4, 1, True),
            (3, 2, False),
            (2, 9, False),
            (0, 0, False),
        ],
    )
    def test_compares_terms_before_indexes(
        self, last_term: int, last_index: int, *, granted: bool
    ) -> None:
        """Its own log ends at index 3 in term 3."""
        network = alone(1, 3)
        request = RequestVote("s2", 7, last_index, last_term)
        assert _answers(network, request) == [granted]
        assert network.disks["s1"].hard_state.vote == ("s2" if granted else None)

    def test_a_refusal_leaves_the_vote_free(self) -> None:
        """A better candidate of the same term gets it."""
        network = alone(1, 3)
        assert _answers(network, RequestVote("s2", 7, 2, 1)) == [False]
        assert _answers(network, RequestVote("s3", 7, 3, 3)) == [True]

    def test_refuses_one_of_an_older_term(self) -> None:
        """The answer tells it of the current term."""
        network = alone(1, 3)
        sent = network.step("s1", RequestVote("s2", 2, 9, 9))
        assert sent == [("s2", RequestVoteResponse("s1", 3, granted=False))]

    def test_a_candidate_refuses_another_of_its_term(self) -> None:
        """It has voted for itself."""
        network = alone(1)
        network.campaign("s1")
        assert _answers(network, RequestVote("s2", 2, 9, 1)) == [False]

    def test_a_leader_refuses_a_candidate_of_its_term(self) -> None:
        """It has voted for itself, and won."""
        network = alone(1)
        network.campaign("s1")
        network.step("s1", _grant("s2", 2))
        assert _answers(network, RequestVote("s3", 2, 9, 1)) == [False]
        assert network.role("s1") is Role.LEADER

    def test_a_founder_that_has_yet_to_hear_of_its_cluster_votes(self) -> None:
        """Who has no membership answers whoever asks."""
        network = Network(["s1", "s2"], founders=())
        assert _answers(network, RequestVote("s2", 2, 1, 1)) == [True]

    def test_a_grant_counts_as_a_sign_of_life(self) -> None:
        """The candidate gets the time to win."""
        network = alone(1, tuning=_TUNING)
        network.tick("s1", 9)
        network.step("s1", RequestVote("s2", 2, 2, 1))
        assert network.rafts["s1"].state.elapsed == 0

    def test_a_refusal_does_not(self) -> None:
        """A server with an old log cannot keep the others from standing."""
        network = alone(1, 3, tuning=_TUNING)
        network.tick("s1", 9)
        network.step("s1", RequestVote("s2", 7, 2, 1))
        assert network.rafts["s1"].state.elapsed == 9

    def test_the_answer_waits_until_the_vote_is_durable(self) -> None:
        """So does a refusal, which tells of a term."""
        network = alone(1)
        network.slow.add("s1")
        network.step("s1", RequestVote("s2", 2, 2, 1))
        network.step("s1", RequestVote("s3", 2, 2, 1))
        assert network.queue == []
        network.sync("s1")
        assert network.queue == [
            ("s2", RequestVoteResponse("s1", 2, granted=True)),
            ("s3", RequestVoteResponse("s1", 2, granted=False)),
        ]


class OnResponseTests:
    """A candidate that counts."""

    def test_leads_with_a_majority(self) -> None:
        """Its own vote and two more of five."""
        network = alone(1, names=["s1", "s2", "s3", "s4", "s5"])
        network.campaign("s1")
        network.step("s1", _grant("s2", 2))
        assert network.role("s1") is Role.CANDIDATE
        network.step("s1", _grant("s5", 2))
        assert network.role("s1") is Role.LEADER

    def test_a_repeated_vote_counts_once(self) -> None:
        """A transport may deliver an answer twice."""
        network = alone(1, names=["s1", "s2", "s3", "s4", "s5"])
        network.campaign("s1")
        network.step("s1", _grant("s2", 2))
        network.step("s1", _grant("s2", 2))
        assert network.role("s1") is Role.CANDIDATE

    def test_a_refusal_counts_for_nothing(self) -> None:
        """Two refusals are no majority of three."""
        network = alone(1)
        network.campaign("s1")
        for peer in ("s2", "s3"):
            network.step("s1", RequestVoteResponse(peer, 2, granted=False))
        assert network.role("s1") is Role.CANDIDATE

    def test_a_stranger_has_no_vote(self) -> None:
        """Only voters of the membership count."""
        network = alone(1)
        network.campaign("s1")
        network.step("s1", _grant("s9", 2))
        assert network.role("s1") is Role.CANDIDATE

    def test_a_vote_of_the_last_candidacy_does_not_count(self) -> None:
        """It came too late: this is another term."""
        network = alone(1)
        network.campaign("s1")
        network.campaign("s1")
        network.step("s1", _grant("s2", 2))
        assert network.role("s1") is Role.CANDIDATE

    def test_votes_of_the_last_candidacy_are_forgotten(self) -> None:
        """One vote of each of two terms is no majority in either."""
        network = alone(1, names=["s1", "s2", "s3", "s4", "s5"])
        network.campaign("s1")
        network.step("s1", _grant("s2", 2))
        network.campaign("s1")
        network.step("s1", _grant("s3", 3))
        assert network.role("s1") is Role.CANDIDATE

    def test_a_follower_counts_nothing(self) -> None:
        """The leader of its term was elected already."""
        network = alone(1)
        network.campaign("s1")
        network.step("s1", AppendEntries("s3", 2, 2, 1, 0, 0))
        network.step("s1", _grant("s2", 2))
        assert network.role("s1") is Role.FOLLOWER


def _consent(sender: str, term: int) -> RequestPreVoteResponse:
    return RequestPreVoteResponse(sender, term, granted=True)


class PreVoteTests:
    """One that asks around before it stands."""

    def test_asks_when_the_timeout_has_passed(self) -> None:
        """Not a tick earlier; and again after another one."""
        network = alone(1, tuning=STABLE)
        state = network.rafts["s1"].state
        for _ in range(3):
            network.queue.clear()
            network.tick("s1", state.timeout - 1)
            assert network.queue == []
            network.tick("s1")
            assert [peer for peer, _ in network.queue] == ["s2", "s3"]
            assert state.role is Role.PRE_CANDIDATE

    def test_draws_its_patience_anew_each_time(self) -> None:
        """So that two who ask in turn do not do so for ever."""
        network = alone(1, tuning=Tuning(election_ticks=1000, stable_leader=True))
        timeouts = set()
        for _ in range(5):
            network.campaign("s1")
            timeouts.add(network.rafts["s1"].state.timeout)
        assert len(timeouts) > 1

    def test_a_server_that_is_no_voter_never_asks(self) -> None:
        """Nor does one that was told of no cluster."""
        network = alone(1, tuning=STABLE)
        del network.rafts["s1"].state.membership.voters["s1"]
        network.tick("s1", 100)
        assert (network.role("s1"), network.queue) == (Role.FOLLOWER, [])

    def test_a_single_server_consents_for_itself(self) -> None:
        """It leads as soon as its vote is durable."""
        network = alone(1, names=["s1"], tuning=STABLE)
        network.campaign("s1")
        assert network.role("s1") is Role.LEADER
        assert network.events["s1"] == [
            RoleChanged(Role.PRE_CANDIDATE, 1, None),
            RoleChanged(Role.CANDIDATE, 2, None),
            RoleChanged(Role.LEADER, 2, "s1"),
            MembershipCommitted(1, network.rafts["s1"].state.membership),
        ]

    def test_the_leader_is_forgotten(self) -> None:
        """Whoever asks hears none; so it is not loyal to it either."""
        network = alone(1, 2, tuning=STABLE)
        network.step("s1", AppendEntries("s2", 2, 3, 2, 0, 0))
        network.campaign("s1")
        state = network.rafts["s1"].state
        assert (state.role, state.leader) == (Role.PRE_CANDIDATE, None)
        assert not election.is_loyal(state)

    def test_the_question_waits_until_the_term_is_durable(self) -> None:
        """It speaks for a term, like every message."""
        network = alone(1, tuning=STABLE)
        network.slow.add("s1")
        network.step("s1", RequestVoteResponse("s2", 5, granted=False))
        network.campaign("s1")
        assert network.queue == []
        network.sync("s1")
        assert {message.term for _, message in network.queue} == {5}

    def test_a_refusal_counts_for_nothing(self) -> None:
        """Two refusals are no majority of three."""
        network = alone(1, tuning=STABLE)
        network.campaign("s1")
        for peer in ("s2", "s3"):
            network.step("s1", RequestPreVoteResponse(peer, 1, granted=False))
        assert network.role("s1") is Role.PRE_CANDIDATE

    def test_a_stranger_is_not_asked(self) -> None:
        """Only voters of the membership count."""
        network = alone(1, tuning=STABLE)
        network.campaign("s1")
        network.step("s1", _consent("s9", 1))
        assert network.role("s1") is Role.PRE_CANDIDATE

    def test_a_repeated_consent_counts_once(self) -> None:
        """A transport may deliver an answer twice."""
        network = alone(1, names=["s1", "s2", "s3", "s4", "s5"], tuning=STABLE)
        network.campaign("s1")
        network.step("s1", _consent("s2", 1))
        network.step("s1", _consent("s2", 1))
        assert network.role("s1") is Role.PRE_CANDIDATE

    def test_a_consent_that_comes_late_counts_for_nothing(self) -> None:
        """The election has begun, or another leads."""
        network = alone(1, names=["s1", "s2", "s3", "s4", "s5"], tuning=STABLE)
        network.campaign("s1")
        network.step("s1", _consent("s2", 1))
        network.step("s1", _consent("s3", 1))
        network.step("s1", _consent("s4", 2))
        network.step("s1", _consent("s5", 2))
        state = network.rafts["s1"].state
        assert (state.role, state.votes) == (Role.CANDIDATE, {"s1"})

    def test_a_candidate_consents_to_another(self) -> None:
        """In the next term, this one's vote is free."""
        network = alone(1, tuning=_TUNING)
        network.campaign("s1")
        sent = network.step("s1", RequestPreVote("s2", 2, 2, 1))
        assert sent == [("s2", _consent("s1", 2))]
        assert network.role("s1") is Role.CANDIDATE

    def test_a_leader_consents_if_it_may_be_deposed(self) -> None:
        """Its own tuning says so; the sender's differs."""
        network = alone(1, names=["s1"], tuning=_TUNING)
        network.campaign("s1")
        sent = network.step("s1", RequestPreVote("s2", 2, 3, 2))
        assert sent == [("s2", _consent("s1", 2))]
        assert network.role("s1") is Role.LEADER


class IsLoyalTests:
    """Who hears a leader."""

    def test_a_leader_is_at_any_time(self) -> None:
        """However rarely it speaks; it knows by itself when to step down."""
        tuning = Tuning(heartbeat_ticks=50, election_ticks=6, stable_leader=True)
        network = alone(1, names=["s1"], tuning=tuning)
        network.campaign("s1")
        network.tick("s1", 20)
        assert election.is_loyal(network.rafts["s1"].state)

    def test_nobody_is_without_the_option(self) -> None:
        """Its three parts belong together."""
        network = alone(1, 2, tuning=_TUNING)
        network.step("s1", AppendEntries("s2", 2, 3, 2, 0, 0))
        assert not election.is_loyal(network.rafts["s1"].state)


class OnTimeoutNowTests:
    """One that its leader wants to lead."""

    @pytest.mark.parametrize("role", [Role.FOLLOWER, Role.PRE_CANDIDATE])
    def test_stands_at_once(self, role: Role) -> None:
        """Its requests say on whose behalf."""
        network = alone(1, 2, tuning=STABLE)
        if role is Role.PRE_CANDIDATE:
            network.campaign("s1")
        network.queue.clear()
        sent = network.step("s1", TimeoutNow("s2", 2))
        assert {message for _, message in sent} == {
            RequestVote("s1", 3, 3, 2, transfer=True)
        }
        assert network.role("s1") is Role.CANDIDATE

    def test_a_later_candidacy_is_its_own(self) -> None:
        """It asks around, and its requests do not say so any more."""
        network = alone(1, 2, tuning=STABLE)
        network.step("s1", TimeoutNow("s2", 2))
        network.campaign("s1")
        (_, request), _ = network.step("s1", _consent("s2", 3))
        assert request == RequestVote("s1", 4, 3, 2, transfer=False)

    def test_a_server_that_is_no_voter_does_not(self) -> None:
        """It could not count its own vote."""
        network = alone(1, 2, tuning=STABLE)
        del network.rafts["s1"].state.membership.voters["s1"]
        assert network.step("s1", TimeoutNow("s2", 2)) == []
        assert network.rafts["s1"].state.hard_state == HardState(2)
