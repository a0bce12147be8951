"""§4.4: how a cluster begins, and how servers come and go by themselves."""

from __future__ import annotations

import pytest

from consensus.errors import AlreadyConfiguredError
from tests.support.network import STABLE, Network, led

_ELECTION = STABLE.election_ticks


class BootstrapTests:
    """§4.4: the first membership."""

    def test_one_server_begins_and_the_others_are_added(self) -> None:
        """§4.4: the first entry of its log names it alone."""
        network = Network(("s1",), tuning=STABLE)
        network.elect("s1")
        for name in ("s2", "s3"):
            network.add(name)
            network.change("s1", sorted({*network.voters("s1"), name}))
            network.pass_time(3 * _ELECTION)
        assert network.agrees_on("s1", "s2", "s3")
        assert network.applied["s3"][0] == network.applied["s1"][0]

    def test_a_server_that_was_added_cannot_begin_a_cluster(self) -> None:
        """§4.4: it belongs to one."""
        network = led("s1", "s2")
        network.add("s3")
        network.change("s1", ["s1", "s2", "s3"])
        network.pass_time(3 * _ELECTION)
        raft = network.rafts["s3"]
        with pytest.raises(AlreadyConfiguredError):
            raft.bootstrap(raft.state.membership)

    def test_a_server_without_a_membership_never_stands(self) -> None:
        """§4.4: a new one waits to be added."""
        network = led()
        network.add("s4")
        network.tick("s4", 20 * _ELECTION)
        assert network.queue == []
        assert network.rafts["s4"].state.term == 0


class ReplacementTests:
    """§4.4: a dead server's place is taken."""

    def test_a_new_server_takes_the_place_of_a_dead_one(self) -> None:
        """§4.4: added and removed in one change."""
        network = led()
        network.crash("s3")
        network.add("s4")
        network.change("s1", ["s1", "s2", "s4"])
        network.pass_time(5 * _ELECTION)
        assert network.agrees_on("s1", "s2", "s4")
        network.crash("s2")
        network.propose("s1", b"x")
        network.settle()
        assert network.commands("s4") == [b"x"]
