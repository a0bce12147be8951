"""§4.2.2: the leader is removed."""

from __future__ import annotations

from consensus.core.messages import AppendEntries, AppendEntriesResponse, RequestVote
from consensus.core.values import Role
from tests.support.network import STABLE, Network, led

_ELECTION = STABLE.election_ticks


def _half_out() -> Network:
    """Return a network in which s1 leads s2 and s3, and is none of them."""
    network = led()
    network.change("s1", ["s2", "s3"])
    network.pass_on(AppendEntries)
    network.pass_on(AppendEntriesResponse)
    assert network.voters("s1") == ["s2", "s3"]
    assert not network.rafts["s1"].state.membership.is_joint
    return network


class LeadingTests:
    """§4.2.2: it leads until the membership without it is committed."""

    def test_it_leads_a_cluster_that_it_does_not_belong_to(self) -> None:
        """§4.2.2: it goes on replicating, and takes commands."""
        network = _half_out()
        assert network.role("s1") is Role.LEADER
        network.propose("s1", b"x")
        network.settle()
        network.pass_time(2 * _ELECTION)
        assert network.commands("s2") == [b"x"]

    def test_it_does_not_count_itself(self) -> None:
        """§4.2.2: two of three have the entry, but one of those two."""
        network = _half_out()
        index = network.rafts["s1"].state.membership_index
        network.pass_on(AppendEntries, "s1", "s2")
        network.pass_on(AppendEntriesResponse, "s2", "s1")
        assert network.committed("s1") < index
        network.pass_on(AppendEntries, "s1", "s3")
        network.pass_on(AppendEntriesResponse, "s3", "s1")
        assert network.committed("s1") >= index

    def test_it_gives_up_its_office_then(self) -> None:
        """§4.2.2: by a transfer (§3.10), so that nobody has to time out."""
        network = _half_out()
        network.settle()
        (chief,) = set(network.leaders()) - {"s1"}
        assert network.rafts[chief].state.term == 3
        network.pass_time(_ELECTION)
        assert network.leaders() == [chief]
        assert network.role("s1") is Role.FOLLOWER

    def test_it_gives_it_up_without_an_heir_too(self) -> None:
        """§4.2.2: the others elect one after a timeout."""
        network = _half_out()
        for _ in range(2):
            network.pass_on(AppendEntries)
            network.pass_on(AppendEntriesResponse)
        network.lose()
        network.tick("s1", _ELECTION)
        assert network.role("s1") is Role.FOLLOWER
        network.lose()
        network.pass_time(4 * _ELECTION)
        (chief,) = network.leaders()
        assert chief in {"s2", "s3"}


class StandingTests:
    """§4.2.2: a server that its latest membership leaves out may be needed."""

    def _needed(self) -> Network:
        """Return s1, back after a crash, alone with what s2 has to get."""
        network = led("s1", "s2")
        network.change("s1", ["s2"])
        network.pass_on(AppendEntries)
        network.pass_on(AppendEntriesResponse)
        network.lose()
        network.crash("s1")
        network.restart("s1")
        assert network.voters("s1") == ["s2"]
        return network

    def test_it_stands_until_that_is_committed(self) -> None:
        """§4.2.2, figure 4.6: s2 cannot win without its vote, nor get that."""
        network = self._needed()
        network.pass_time(8 * _ELECTION)
        assert network.leaders() == ["s2"]
        assert network.agrees_on("s2")

    def test_it_does_not_count_its_own_vote(self) -> None:
        """§4.2.2: it is none of the voters that it asks."""
        network = self._needed()
        network.isolate("s1")
        network.tick("s1", 10 * _ELECTION)
        assert network.role("s1") is not Role.LEADER
        assert not network.waiting(RequestVote, "s1")

    def test_it_stands_no_more_when_it_knows(self) -> None:
        """§4.2.2: then it may be shut down."""
        network = self._needed()
        network.pass_time(8 * _ELECTION)
        network.crash("s2")
        network.tick("s1", 10 * _ELECTION)
        assert network.role("s1") is Role.FOLLOWER
