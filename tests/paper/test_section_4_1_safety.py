"""§4.1: changes of the membership are safe."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.core.membership import Membership
from consensus.core.messages import (
    AppendEntries,
    AppendEntriesResponse,
    RequestVote,
    RequestVoteResponse,
)
from consensus.core.ready import MembershipCommitted
from consensus.errors import MembershipPendingError, RejectedError
from tests.support.network import STABLE, Network, alone, led

_ELECTION = STABLE.election_ticks
_SERVERS = ("s1", "s2", "s3", "s4", "s5", "s6")
_VOTERS = st.sets(st.sampled_from(_SERVERS), min_size=1, max_size=5)


def _named(names: set[str]) -> dict[str, str]:
    return {name: f"at {name}" for name in sorted(names)}


def _quorums(membership: Membership) -> list[set[str]]:
    return [
        set(some)
        for size in range(1, len(_SERVERS) + 1)
        for some in combinations(_SERVERS, size)
        if membership.is_quorum(some)
    ]


class OverlapTests:
    """§4.1: no two disjoint majorities at any time."""

    @given(_VOTERS, _VOTERS)
    def test_every_step_overlaps_with_the_one_before(
        self, old: set[str], new: set[str]
    ) -> None:
        """§4.1: a majority of a membership meets every one of the next."""
        before = Membership(_named(old))
        joint = before.towards(_named(new), {}, caught_up=new)
        after = joint.left() if joint.is_joint else joint
        for one, other in ((before, joint), (joint, joint), (joint, after)):
            others = _quorums(other)
            for some in _quorums(one):
                assert all(some & more for more in others)

    def test_one_step_would_not_do(self) -> None:
        """§4.1, figure 4.2: of three and of five, two majorities are disjoint."""
        three = Membership(_named({"s1", "s2", "s3"}))
        five = Membership(_named({"s1", "s2", "s3", "s4", "s5"}))
        assert three.is_quorum({"s1", "s2"})
        assert five.is_quorum({"s3", "s4", "s5"})


class LatestTests:
    """§4.1: a server uses the latest membership in its log."""

    def test_as_soon_as_it_is_appended(self) -> None:
        """§4.1: at the leader before it is sent, at the others when it comes."""
        network = led()
        network.change("s1", ["s1", "s2"])
        assert network.voters("s1") == ["s1", "s2"]
        assert network.voters("s2") == ["s1", "s2", "s3"]
        network.pass_on(AppendEntries, "s1", "s2")
        assert network.voters("s2") == ["s1", "s2"]
        assert network.committed("s2") < network.rafts["s2"].state.membership_index

    def test_and_the_one_before_when_that_is_removed(self) -> None:
        """§4.1: the price is that a server must be able to fall back."""
        network = led()
        network.isolate("s1")
        network.change("s1", ["s1"])
        network.pass_time(4 * _ELECTION)
        assert network.rafts["s1"].state.membership.is_joint
        network.heal()
        network.pass_time(_ELECTION)
        assert network.agrees_on("s1", "s2", "s3")

    def test_and_believes_the_caller_about_who_belongs_to_it(self) -> None:
        """§4.1: it takes entries from a leader that is no member for it."""
        network = alone(1, 2, tuning=STABLE)
        ((_, answer),) = network.step("s1", AppendEntries("s9", 3, 3, 2, 0, 0))
        assert isinstance(answer, AppendEntriesResponse)
        assert answer.success
        assert network.rafts["s1"].state.leader == "s9"

    def test_and_votes_for_whom_it_does_not_know(self) -> None:
        """§4.1: occasionally that vote is needed for the cluster to go on."""
        network = alone(1, 2, tuning=STABLE)
        ((_, answer),) = network.step("s1", RequestVote("s9", 3, 3, 2))
        assert isinstance(answer, RequestVoteResponse)
        assert answer.granted

    def test_but_a_vote_of_no_voter_counts_nothing(self) -> None:
        """§4.1: a candidate counts by its own latest membership."""
        network = alone(1, 2)
        network.campaign("s1")
        term = network.rafts["s1"].state.term
        for name in ("s8", "s9"):
            network.step("s1", RequestVoteResponse(name, term, granted=True))
        assert network.leaders() == []
        network.step("s1", RequestVoteResponse("s2", term, granted=True))
        assert network.leaders() == ["s1"]


class OneAtATimeTests:
    """§4.1: a change begins when the one before it is committed."""

    def test_not_before(self) -> None:
        """§4.1: else two changes could overlap in a way that is not safe."""
        network = led()
        network.change("s1", ["s1", "s2", "s3"], ["s4"])
        with pytest.raises(MembershipPendingError):
            network.change("s1", ["s1", "s2", "s3"])
        network.settle()
        network.change("s1", ["s1", "s2", "s3"])

    def test_nor_before_the_leader_has_committed_an_entry_of_its_term(self) -> None:
        """§4.1: a change of another leader may be half done somewhere."""
        network = Network(("s1", "s2", "s3"), tuning=STABLE)
        network.campaign("s1")
        while not network.leaders():
            network.deliver()
        with pytest.raises(RejectedError, match="just begun"):
            network.change("s1", ["s1"])

    def test_it_is_over_when_it_is_committed(self) -> None:
        """§4.1: from then on servers that left may be stopped."""
        network = led()
        network.change("s1", ["s1"])
        assert not _is_told(network)
        network.settle()
        assert _is_told(network)
        network.crash("s2")
        network.crash("s3")
        network.propose("s1", b"x")
        assert network.commands("s1") == [b"x"]


def _is_told(network: Network) -> bool:
    """Say whether s1 has reported that it is the only voter."""
    return any(
        isinstance(event, MembershipCommitted)
        and event.membership.members().keys() == {"s1"}
        for event in network.events["s1"]
    )
