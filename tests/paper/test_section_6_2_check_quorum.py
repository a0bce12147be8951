"""§6.2: a leader that hears no majority steps down."""

from __future__ import annotations

from dataclasses import replace

import pytest

from consensus.core.messages import AppendEntriesResponse, RequestVoteResponse
from consensus.core.ready import RoleChanged
from consensus.core.values import HardState, Role
from consensus.errors import NotLeaderError
from tests.support.network import STABLE, Network, led

_ELECTION = STABLE.election_ticks
_FIVE = ("s1", "s2", "s3", "s4", "s5")


class SteppingDownTests:
    """§6.2: an election timeout without a majority's answers."""

    def test_a_leader_that_hears_nobody_steps_down_within_a_timeout(self) -> None:
        """§6.2: and says so, so that its clients look for another."""
        network = led()
        network.isolate("s1")
        network.tick("s1", _ELECTION - 1)
        assert network.role("s1") is Role.LEADER
        network.tick("s1")
        state = network.rafts["s1"].state
        assert (state.role, state.leader) == (Role.FOLLOWER, None)
        assert network.events["s1"][-1] == RoleChanged(Role.FOLLOWER, 2, None)
        with pytest.raises(NotLeaderError):
            network.propose("s1", b"x")

    def test_its_reads_fail(self) -> None:
        """§6.2: rather than wait for a majority that may never answer."""
        network = led()
        network.isolate("s1")
        network.read("s1", 7)
        network.tick("s1", _ELECTION)
        assert network.failed_reads["s1"] == [7]
        assert network.reads["s1"] == []

    def test_its_term_its_vote_and_its_log_stay(self) -> None:
        """§6.2: its entries may yet be committed, by whoever leads next."""
        network = led()
        network.isolate("s1")
        network.propose("s1", b"x")
        network.tick("s1", _ELECTION)
        assert network.disks["s1"].hard_state == HardState(2, "s1")
        assert network.terms("s1") == [2, 2]

    def test_a_bare_majority_is_enough(self) -> None:
        """§6.2: two of four others answer."""
        network = led(*_FIVE)
        network.crash("s4")
        network.crash("s5")
        network.pass_time(20 * _ELECTION)
        assert network.leaders() == ["s1"]
        assert network.rafts["s1"].state.term == 2

    def test_one_less_is_not(self) -> None:
        """§6.2: one of four others."""
        network = led(*_FIVE)
        for name in ("s3", "s4", "s5"):
            network.crash(name)
        network.pass_time(_ELECTION + STABLE.heartbeat_ticks)
        assert network.role("s1") is not Role.LEADER

    def test_half_is_not(self) -> None:
        """§6.2: two of four servers."""
        network = led("s1", "s2", "s3", "s4")
        network.isolate("s1", "s2")
        network.pass_time(_ELECTION + STABLE.heartbeat_ticks)
        assert network.leaders() == []

    def test_a_new_leader_has_a_timeout_to_be_answered(self) -> None:
        """§6.2: nobody has heard of it when it begins."""
        network = Network(tuning=STABLE)
        network.campaign("s1")
        for message in network.deliveries():
            if isinstance(message, RequestVoteResponse):
                break
        assert network.role("s1") is Role.LEADER
        network.queue.clear()
        network.isolate("s1")
        network.tick("s1", _ELECTION - 1)
        assert network.role("s1") is Role.LEADER
        network.tick("s1")
        assert network.role("s1") is Role.FOLLOWER

    def test_a_refusal_is_an_answer_too(self) -> None:
        """§6.2: a follower whose log does not agree yet is alive."""
        network = led()
        network.isolate("s1")
        network.tick("s1", _ELECTION - 1)
        refusal = AppendEntriesResponse("s2", 2, success=False, index=1, round=0)
        network.step("s1", refusal)
        network.tick("s1", _ELECTION - 1)
        assert network.role("s1") is Role.LEADER
        network.tick("s1")
        assert network.role("s1") is Role.FOLLOWER

    def test_a_stranger_is_no_part_of_a_majority(self) -> None:
        """§6.2: only voters count."""
        network = led()
        network.isolate("s1")
        network.tick("s1", _ELECTION - 1)
        stranger = AppendEntriesResponse("s9", 2, success=True, index=2, round=0)
        network.step("s1", stranger)
        network.tick("s1")
        assert network.role("s1") is Role.FOLLOWER

    def test_a_single_server_leads_on(self) -> None:
        """§6.2: it is the majority."""
        network = Network(["s1"], tuning=STABLE)
        network.campaign("s1")
        network.pass_time(5 * _ELECTION)
        assert network.leaders() == ["s1"]

    def test_it_can_be_off(self) -> None:
        """§6.2: then a leader that is cut off believes in itself for ever."""
        network = led(tuning=replace(STABLE, stable_leader=False))
        network.isolate("s1")
        network.tick("s1", 20 * _ELECTION)
        assert network.role("s1") is Role.LEADER


def _settled_leader(network: Network, timeouts: int = 5) -> str:
    """Return who leads after some election timeouts, and many more."""
    network.pass_time(timeouts * _ELECTION)
    (leader,) = network.leaders()
    events = list(network.events[leader])
    network.pass_time(30 * _ELECTION)
    assert network.leaders() == [leader]
    assert network.events[leader] == events
    return leader


class PartitionTests:
    """§6.2: partitions that leave a leader in its office, but without power."""

    @pytest.mark.parametrize("seed", range(5))
    def test_a_leader_that_can_send_but_not_hear_is_replaced(self, seed: int) -> None:
        """§6.2: its heartbeats alone would keep the others quiet for ever."""
        network = led(seed=seed)
        network.cut |= {("s2", "s1"), ("s3", "s1")}
        network.tick("s1", _ELECTION)
        assert network.role("s1") is Role.FOLLOWER
        assert _settled_leader(network) in {"s2", "s3"}
        network.heal()
        network.pass_time(_ELECTION)
        assert network.rafts["s1"].state.leader in network.leaders()

    @pytest.mark.parametrize("seed", range(5))
    def test_a_leader_that_can_hear_but_not_send_is_replaced(self, seed: int) -> None:
        """§3.4: the others hear no heartbeat, and it follows the next leader."""
        network = led(seed=seed)
        network.cut |= {("s1", "s2"), ("s1", "s3")}
        leader = _settled_leader(network)
        assert leader in {"s2", "s3"}
        assert network.rafts["s1"].state.leader == leader

    @pytest.mark.parametrize("seed", range(5))
    def test_if_one_server_alone_hears_a_majority_it_leads(self, seed: int) -> None:
        """
        §6.2: s3 exchanges messages with all, the other four with s3 only.

        The leader, one of those four, is heard by s3, whose loyalty would
        last as long as the leader does.
        """
        network = led(*_FIVE, seed=seed)
        for name in ("s1", "s2", "s4", "s5"):
            network.isolate(name)
        for name in ("s1", "s2", "s4", "s5"):
            network.cut -= {("s3", name), (name, "s3")}
        assert _settled_leader(network) == "s3"
        network.propose("s3", b"x")
        network.settle()
        assert network.commands("s3") == [b"x"]

    @pytest.mark.parametrize("seed", range(5))
    def test_the_ends_of_a_chain_do_not_depose_each_other(self, seed: int) -> None:
        """§6.2, §4.2.3: s1 and s3 reach s2 only; whoever leads goes on to."""
        network = Network(tuning=STABLE, seed=seed)
        network.cut |= {("s1", "s3"), ("s3", "s1")}
        leader = _settled_leader(network, 10)
        network.crash(leader)
        network.restart(leader)
        _settled_leader(network, 10)

    def test_a_write_of_a_leader_without_power_is_taken_over_or_lost(self) -> None:
        """§6.2: it is not acknowledged, whatever becomes of it."""
        network = led()
        network.isolate("s1")
        network.propose("s1", b"lost")
        leader = _settled_leader(network)
        assert network.commands("s1") == []
        network.propose(leader, b"kept")
        network.heal()
        network.pass_time(_ELECTION)
        for name in network.names:
            assert network.commands(name) == [b"kept"]


class SlowDiskTests:
    """A disk that takes long says nothing about its server."""

    def test_followers_answer_heartbeats_while_they_write(self) -> None:
        """§6.2: a leader whose followers' disks stand still hears them all the same."""
        network = led("s1", "s2", "s3")
        network.slow |= {"s2", "s3"}
        network.propose("s1", b"x")
        network.pass_time(5 * STABLE.election_ticks)
        assert network.leaders() == ["s1"]
        assert b"x" not in network.commands("s1")
        for name in ("s2", "s3"):
            network.slow.discard(name)
            network.sync(name)
        network.pass_time(STABLE.heartbeat_ticks)
        assert network.commands("s1") == [b"x"]

    def test_such_an_answer_claims_only_what_is_durable(self) -> None:
        """§3.8: it names the last entry that is on disk, not the last it has."""
        network = led("s1", "s2", "s3")
        before = network.rafts["s2"].state.log.last_index
        network.slow.add("s2")
        network.isolate("s3")
        network.propose("s1", b"x")
        network.pass_time(5)
        assert network.rafts["s2"].state.log.last_index == before + 1
        assert network.rafts["s1"].state.progress["s2"].match_index == before
