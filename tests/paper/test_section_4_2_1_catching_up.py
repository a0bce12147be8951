"""§4.2.1: new servers catch up before they vote."""

from __future__ import annotations

from dataclasses import replace

import pytest

from consensus.core.messages import AppendEntries
from consensus.core.progress import Phase
from consensus.core.values import Role
from consensus.errors import MembershipPendingError
from tests.support.network import STABLE, Network, led

_ELECTION = STABLE.election_ticks
_FOUR = ("s1", "s2", "s3", "s4")


def _grown(*, tail: int = 10_000, count: int = 20) -> Network:
    """Return a network that s1 leads, and s4, which has nothing."""
    network = led(tuning=replace(STABLE, log_tail=tail))
    network.propose("s1", *(b"%d" % number for number in range(count)))
    network.settle()
    network.add("s4")
    return network


class AvailabilityTests:
    """§4.2.1: a new server must not hold up the cluster."""

    def test_the_new_server_does_not_count_while_it_lacks_the_log(self) -> None:
        """§4.2.1, figure 4.4: one crash later, commands are committed still."""
        network = _grown()
        network.isolate("s4")
        network.change("s1", _FOUR)
        network.settle()
        network.crash("s3")
        network.propose("s1", b"x")
        network.settle()
        assert network.commands("s1")[-1] == b"x"

    def test_many_new_servers_do_not_count_either(self) -> None:
        """§4.2.1: however many were added at once."""
        network = _grown()
        for name in ("s5", "s6", "s7"):
            network.add(name)
        network.isolate("s4", "s5", "s6", "s7")
        network.change("s1", [*_FOUR, "s5", "s6", "s7"])
        network.settle()
        network.propose("s1", b"x")
        network.settle()
        assert network.commands("s2")[-1] == b"x"

    def test_one_that_is_not_there_is_never_promoted(self) -> None:
        """§4.2.1: the leader finds that it makes no progress."""
        network = _grown()
        network.crash("s4")
        network.change("s1", _FOUR)
        network.pass_time(20 * _ELECTION)
        assert network.voters("s1") == ["s1", "s2", "s3"]

    def test_waiting_for_it_can_be_given_up(self) -> None:
        """§4.2.1: until then other changes of voters are refused."""
        network = _grown()
        network.crash("s4")
        network.change("s1", _FOUR)
        network.settle()
        with pytest.raises(MembershipPendingError, match="s4"):
            network.change("s1", ["s1", "s2"])
        network.change("s1", ["s1", "s2", "s3"])
        network.settle()
        network.change("s1", ["s1", "s2"])
        network.pass_time(_ELECTION)
        assert network.agrees_on("s1", "s2")


class RoundTests:
    """§4.2.1: replication to a new server is split into rounds."""

    def test_each_goes_to_where_the_log_ended_when_it_began(self) -> None:
        """§4.2.1: and the next one to what came meanwhile."""
        network = _grown()
        network.isolate("s4")
        network.change("s1", _FOUR)
        network.pass_time(1)
        progress = network.rafts["s1"].state.progress["s4"]
        last = network.rafts["s1"].state.log.last_index
        assert progress.goal == last
        network.propose("s1", b"x")
        network.pass_time(1)
        assert progress.goal == last
        network.heal()
        network.settle()
        for _ in range(2 * _ELECTION):
            if progress.goal == last:
                network.pass_time(1)
        assert progress.goal == last + 1

    def test_a_short_one_makes_it_a_voter(self) -> None:
        """§4.2.1: shorter than an election timeout."""
        network = _grown()
        network.change("s1", _FOUR)
        network.pass_time(2 * _ELECTION)
        assert network.agrees_on(*_FOUR)
        assert network.voters("s4") == [*_FOUR]

    def test_long_ones_do_not(self) -> None:
        """§4.2.1: the log grows as fast as the server takes it."""
        network = _grown()
        network.change("s1", _FOUR)
        network.settle()
        for number in range(8):
            network.cut |= {("s4", "s1")}
            network.propose("s1", b"%d" % number)
            network.pass_time(_ELECTION + 2)
            network.cut.clear()
            network.settle()
        assert network.voters("s1") == ["s1", "s2", "s3"]

    def test_the_next_leader_counts_them_anew(self) -> None:
        """§4.2.1: who is waited for stands in the log."""
        network = _grown()
        network.isolate("s4")
        network.change("s1", _FOUR)
        network.settle()
        network.crash("s1")
        network.heal()
        network.pass_time(6 * _ELECTION)
        network.restart("s1")
        network.pass_time(3 * _ELECTION)
        assert network.agrees_on(*_FOUR)


class NextIndexTests:
    """§4.2.1: the leader finds out fast where a new server's log ends."""

    @pytest.mark.parametrize("count", [1, 300])
    def test_it_takes_one_rejection(self, count: int) -> None:
        """§4.2.1: not one for each entry that it lacks."""
        network = _grown(count=count)
        network.change("s1", _FOUR)
        network.pass_on(AppendEntries, "s1", "s4")
        network.settle()
        progress = network.rafts["s1"].state.progress["s4"]
        assert progress.phase is Phase.REPLICATE
        assert network.applied["s4"][0].index == 1

    def test_or_a_snapshot_when_the_log_is_cut(self) -> None:
        """§4.2.1: with §5: the log's beginning is gone."""
        network = _grown(tail=0)
        network.snapshot("s1")
        network.change("s1", _FOUR)
        network.pass_time(4 * _ELECTION)
        assert network.agrees_on(*_FOUR)
        assert network.applied["s4"] == network.applied["s1"]

    def test_learners_may_stay_what_they_are(self) -> None:
        """§4.2.1: servers without a vote are of use by themselves."""
        network = _grown()
        network.change("s1", ["s1", "s2", "s3"], ["s4"])
        network.pass_time(10 * _ELECTION)
        assert network.learners("s1") == ["s4"]
        assert network.commands("s4") == network.commands("s1")
        assert network.role("s4") is Role.FOLLOWER
