"""§3.2: the five properties of figure 3.2, and what a leader is for."""

from __future__ import annotations

from itertools import combinations

import pytest

from consensus.core.messages import (
    AppendEntries,
    AppendEntriesResponse,
    RequestVote,
    RequestVoteResponse,
)
from consensus.core.values import Role
from tests.support.network import Network, alone, entries_of

_FIVE = ("s1", "s2", "s3", "s4", "s5")


class OverviewTests:
    """What a cluster does when nothing goes wrong."""

    def test_a_leader_takes_replicates_and_tells_when_to_apply(self) -> None:
        """§3.2: data flow from the leader to the other servers."""
        network = Network()
        network.elect("s1")
        network.propose("s1", b"x")
        network.propose("s1", b"y", b"z")
        network.settle()
        for name in network.names:
            assert network.commands(name) == [b"x", b"y", b"z"]


class ElectionSafetyTests:
    """§3.2, figure 3.2: at most one leader can be elected in a given term."""

    @pytest.mark.parametrize("seed", range(60))
    def test_no_order_of_delivery_elects_two(self, seed: int) -> None:
        """§3.2: three candidates of one term, and every message late or twice."""
        network = Network(_FIVE, seed=seed)
        dice = network.random
        for name in ("s1", "s2", "s3"):
            network.campaign(name)
        leaders: dict[int, str] = {}
        for _ in range(200):
            if not network.queue:
                break
            position = dice.randrange(len(network.queue))
            if dice.random() < 0.1:
                network.queue.append(network.queue[position])
            network.deliver(position)
            for name in network.leaders():
                term = network.rafts[name].state.term
                assert leaders.setdefault(term, name) == name


class LeaderAppendOnlyTests:
    """§3.2, figure 3.2: a leader never overwrites or deletes its entries."""

    def test_whatever_a_leader_is_told(self) -> None:
        """§3.2: rejections, old leaders and repeats only ever find the log longer."""
        network = Network()
        network.elect("s1")
        network.propose("s1", b"x", b"y")
        before = network.entries("s1")
        term = network.rafts["s1"].state.term
        for message in (
            AppendEntriesResponse("s2", term, success=False, index=4, round=0),
            AppendEntriesResponse("s2", term, success=False, index=1, round=0),
            AppendEntriesResponse("s3", term, success=True, index=2, round=0),
            AppendEntries("s3", term - 1, 0, 0, 9, 0, tuple(entries_of(1, 1, after=0))),
            RequestVote("s3", term, 99, term),
            RequestVoteResponse("s3", term, granted=False),
        ):
            network.step("s1", message)
            assert network.role("s1") is Role.LEADER
            assert network.entries("s1") == before


class LogMatchingTests:
    """§3.2, figure 3.2: an entry of the same index and term, the same log before."""

    def test_after_logs_have_diverged(self) -> None:
        """§3.2: once a follower holds the leader's last entry, it holds them all."""
        network = Network(_FIVE)
        network.store("s1", 1, 1, 4, 4, 5, 5, 6)
        for name, terms in {
            "s2": [1, 1, 4],
            "s3": [1, 1, 4, 4, 4, 4],
            "s4": [1, 2, 2, 2, 3, 3, 3, 3, 3],
            "s5": [],
        }.items():
            network.store(name, *terms)
        network.elect("s1")
        network.heartbeat("s1")
        leader = network.entries("s1")
        for name in _FIVE[1:]:
            assert network.entries(name) == leader


class LeaderCompletenessTests:
    """§3.2, figure 3.2: what is committed is in every later leader's log."""

    @pytest.mark.parametrize("holders", list(combinations(_FIVE[1:], 2)))
    def test_only_who_has_all_that_is_committed_can_win(
        self, holders: tuple[str, str]
    ) -> None:
        """§3.2: the entry is at s1 and two more; the others stand in vain."""
        network = Network(_FIVE)
        network.elect("s1")
        network.heartbeat("s1")
        others = [name for name in _FIVE[1:] if name not in holders]
        network.isolate(*others)
        network.propose("s1", b"committed")
        network.settle()
        assert network.committed("s1") == 3
        network.crash("s1")
        network.heal()
        for name in others:
            network.campaign(name)
            network.settle()
            assert network.role(name) is not Role.LEADER
        network.elect(holders[0])
        assert b"committed" in network.commands(holders[0])


class StateMachineSafetyTests:
    """§3.2, figure 3.2: no server applies another entry at the same index."""

    def test_an_entry_that_lost_is_applied_by_nobody(self) -> None:
        """§3.2: the deposed leader's entry gives way to the committed one."""
        network = Network()
        network.elect("s1")
        network.heartbeat("s1")
        network.isolate("s1")
        network.propose("s1", b"lost")
        network.elect("s2")
        network.propose("s2", b"kept")
        network.settle()
        network.heal()
        network.heartbeat("s2")
        network.heartbeat("s2")
        for name in network.names:
            assert network.commands(name) == [b"kept"]

    def test_nothing_is_applied_before_it_is_committed(self) -> None:
        """§3.2: an entry at a minority is in the logs alone."""
        network = alone(1, 1)
        network.step(
            "s1", AppendEntries("s2", 2, 3, 1, 3, 0, tuple(entries_of(2, after=3)))
        )
        assert network.terms("s1") == [1, 1, 2]
        assert [entry.index for entry in network.applied["s1"]] == [1, 2, 3]
