"""A Raft that goes on with another patience."""

from __future__ import annotations

from dataclasses import replace

from consensus.core.state import Tuning
from consensus.core.values import Role
from consensus.testing.network import Network


def network() -> Network:
    """Return three servers, of which s1 leads."""
    made = Network(tuning=Tuning(stable_leader=True))
    made.elect("s1")
    for raft in made.rafts.values():
        raft.state.tuning = Tuning(stable_leader=True, keeps_pledges=True)
        raft.state.pledge = 7
    return made


class RetuneTests:
    """What begins anew, and what does not."""

    def test_another_limit_moves_no_timer(self) -> None:
        """Without another pace everything that is counted goes on."""
        servers = network()
        raft = servers.rafts["s2"]
        state = raft.state
        raft.tick()
        before = (state.elapsed, state.timeout, state.pledge)
        raft.retune(replace(state.tuning, max_inflight=3), is_paced_anew=False)
        assert (state.elapsed, state.timeout, state.pledge) == before
        assert state.tuning.max_inflight == 3

    def test_a_follower_begins_to_wait_anew(self) -> None:
        """Timer and pledge are whole ones of the new length."""
        servers = network()
        raft = servers.rafts["s2"]
        raft.tick()
        raft.state.hurry = 3
        raft.retune(replace(raft.state.tuning, election_ticks=100), is_paced_anew=True)
        assert (raft.state.elapsed, raft.state.hurry) == (0, 0)
        assert 100 <= raft.state.timeout < 200
        assert raft.state.pledge == 100

    def test_a_pledge_that_is_over_is_not_made_again(self) -> None:
        """Who may give its vote may go on doing so."""
        servers = network()
        raft = servers.rafts["s2"]
        raft.state.pledge = 0
        raft.retune(replace(raft.state.tuning, election_ticks=9), is_paced_anew=True)
        assert raft.state.pledge == 0

    def test_a_leader_keeps_its_office(self) -> None:
        """Peers that were silent for longer than the new timeout count as heard."""
        servers = network()
        raft = servers.rafts["s1"]
        for _ in range(20):
            raft.tick()
        raft.retune(replace(raft.state.tuning, election_ticks=6), is_paced_anew=True)
        for _ in range(5):
            raft.tick()
        assert servers.role("s1") is Role.LEADER
        raft.tick()
        assert servers.role("s1") is Role.FOLLOWER
