"""§4.2.3: servers that ask for elections which nobody needs."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from random import Random

import pytest

from consensus.core.messages import (
    AppendEntries,
    Message,
    RequestPreVote,
    RequestPreVoteResponse,
    RequestVote,
    RequestVoteResponse,
)
from consensus.core.ready import RoleChanged
from consensus.core.values import HardState, Role
from tests.support.network import STABLE, Network, alone, led

_ELECTION = STABLE.election_ticks
_THREE = ("s1", "s2", "s3")
_FIVE = ("s1", "s2", "s3", "s4", "s5")

#: What a server asks that was removed, or that hears no leader.
_REQUESTS = [RequestVote("s9", 10**6, 99, 99), RequestPreVote("s9", 10**6, 99, 99)]


def _following(elapsed: int) -> Network:
    """Return s1 alone; it heard its leader s2 so many ticks ago."""
    network = alone(1, 2, tuning=STABLE)
    network.rafts["s1"].state.random_below = lambda n: n - 1
    network.step("s1", AppendEntries("s2", 2, 3, 2, 0, 0))
    network.tick("s1", elapsed)
    assert network.role("s1") is Role.FOLLOWER
    return network


class LoyaltyTests:
    """§4.2.3: who hears a leader neither votes nor takes over a term."""

    @pytest.mark.parametrize("request_", _REQUESTS)
    def test_a_removed_server_changes_nothing(self, request_: Message) -> None:
        """§4.2.3: however high its term is; it does not even get an answer."""
        network = led()
        for name in network.names:
            state = network.rafts[name].state
            before = (state.hard_state, state.role, state.leader, state.elapsed)
            events = list(network.events[name])
            assert network.step(name, request_) == []
            after = (state.hard_state, state.role, state.leader, state.elapsed)
            assert after == before
            assert network.events[name] == events
        network.pass_time(5 * _ELECTION)
        assert network.leaders() == ["s1"]

    def test_it_may_ask_for_ever(self) -> None:
        """§4.2.3: in one term after another."""
        network = led()
        for term in range(3, 3 + 10 * _ELECTION):
            for name in network.names:
                network.step(name, RequestVote("s9", term, 99, 99))
            network.pass_time(1)
        assert network.leaders() == ["s1"]
        assert {network.rafts[name].state.term for name in network.names} == {2}

    @pytest.mark.parametrize("request_", _REQUESTS)
    def test_loyalty_lasts_for_the_shortest_election_timeout(
        self, request_: Message
    ) -> None:
        """§4.2.3: after that, the leader may be gone."""
        network = _following(_ELECTION - 1)
        assert network.step("s1", request_) == []
        network.tick("s1")
        ((_, answer),) = network.step("s1", request_)
        assert isinstance(answer, RequestVoteResponse | RequestPreVoteResponse)
        assert (answer.granted, answer.term) == (True, 10**6)

    def test_each_heartbeat_renews_it(self) -> None:
        """§4.2.3: hearing from a current leader is what counts."""
        network = _following(_ELECTION - 1)
        network.step("s1", AppendEntries("s2", 2, 3, 2, 0, 0))
        network.tick("s1", _ELECTION - 1)
        assert network.step("s1", RequestVote("s3", 3, 3, 2)) == []

    def test_who_knows_no_leader_votes(self) -> None:
        """§4.2.3: after a restart, for instance."""
        network = alone(1, 2, tuning=STABLE)
        sent = network.step("s1", RequestVote("s3", 3, 3, 2))
        assert sent == [("s3", RequestVoteResponse("s1", 3, granted=True))]

    def test_an_election_that_the_leader_wants_is_answered(self) -> None:
        """§4.2.3: it carries a flag that says so (§3.10)."""
        network = led()
        request = RequestVote("s3", 3, 2, 2, transfer=True)
        for name in ("s1", "s2"):
            sent = network.step(name, request)
            assert sent == [("s3", RequestVoteResponse(name, 3, granted=True))]
            assert network.disks[name].hard_state == HardState(3, "s3")
        assert network.role("s1") is Role.FOLLOWER

    def test_it_can_be_off(self) -> None:
        """§4.2.3: then a server deposes a leader that all others hear."""
        network = led(tuning=replace(STABLE, stable_leader=False))
        network.step("s1", RequestVote("s9", 10**6, 99, 99))
        state = network.rafts["s1"].state
        assert (state.role, state.term) == (Role.FOLLOWER, 10**6)


def _assert_undisturbed(network: Network, *names: str) -> None:
    """Let much time pass; s1 leads on, and *names* notice nothing."""
    events = [list(network.events[name]) for name in names]
    network.pass_time(30 * _ELECTION)
    assert network.leaders() == ["s1"]
    assert [network.events[name] for name in names] == events
    assert {network.rafts[name].state.term for name in network.names} == {2}


class PartitionTests:
    """§4.2.3, §9.6: links that are broken, in one direction or both."""

    def test_who_can_send_but_not_hear_deposes_nobody(self) -> None:
        """§4.2.3: it stands for ever, and is heard, and is not listened to."""
        network = led()
        network.cut |= {("s1", "s3"), ("s2", "s3")}
        _assert_undisturbed(network, "s1", "s2")
        assert network.role("s3") is Role.PRE_CANDIDATE

    def test_who_can_hear_but_not_send_stays_a_follower(self) -> None:
        """§4.2.3: the leader's heartbeats reach it."""
        network = led()
        network.cut |= {("s3", "s1"), ("s3", "s2")}
        _assert_undisturbed(network, *network.names)

    def test_who_is_cut_off_from_the_leader_only_deposes_nobody(self) -> None:
        """§4.2.3: the others, which it reaches, hear the leader."""
        network = led()
        network.cut |= {("s1", "s3"), ("s3", "s1")}
        _assert_undisturbed(network, "s1", "s2")

    def test_two_of_five_that_are_cut_off_from_the_leader_depose_nobody(self) -> None:
        """§4.2.3: two followers are loyal, which makes a majority."""
        network = led(*_FIVE)
        for name in ("s4", "s5"):
            network.cut |= {("s1", name), (name, "s1")}
        _assert_undisturbed(network, "s1", "s2", "s3")

    @pytest.mark.parametrize("leader", _THREE)
    def test_no_partition_of_three_keeps_elections_going(self, leader: str) -> None:
        """§4.2.3, §6.2, §9.6: all 64 sets of one-way links."""
        links = list(permutations(_THREE, 2))
        for bits in range(64):
            cut = {link for place, link in enumerate(links) if bits >> place & 1}
            _assert_comes_to_rest(_THREE, cut, leader, seed=bits)

    @pytest.mark.parametrize("seed", range(60))
    def test_no_partition_of_five_keeps_elections_going(self, seed: int) -> None:
        """§4.2.3, §6.2, §9.6: random sets of one-way links, few or many."""
        random = Random(seed)  # noqa: S311 - reproducible, not secret
        share = random.choice([0.1, 0.2, 0.3, 0.4, 0.5])
        links = permutations(_FIVE, 2)
        cut = {link for link in links if random.random() < share}
        _assert_comes_to_rest(_FIVE, cut, "s1", seed)


def _assert_comes_to_rest(
    names: tuple[str, ...], cut: set[tuple[str, str]], leader: str, seed: int
) -> None:
    """
    Cut links; within 15 election timeouts all is as it will be.

    If somebody exchanges messages with a majority, such a server leads then,
    and goes on to lead; if nobody does, nobody leads.
    """
    network = Network(names, tuning=STABLE, seed=seed)
    network.elect(leader)
    network.heartbeat(leader)
    network.cut = cut
    network.pass_time(15 * _ELECTION)
    able = [name for name in names if _reaches_majority(network, name)]
    leaders = network.leaders()
    assert len(leaders) == bool(able)
    assert set(leaders) <= set(able)
    before = [_reign(network, name) for name in leaders]
    network.pass_time(15 * _ELECTION)
    assert network.leaders() == leaders
    assert [_reign(network, name) for name in leaders] == before


def _reaches_majority(network: Network, name: str) -> bool:
    """Say whether *name* exchanges messages with a majority, itself included."""
    peers = [
        peer for peer in network.names if not {(name, peer), (peer, name)} & network.cut
    ]
    return len(peers) > len(network.names) / 2


def _reign(network: Network, name: str) -> tuple[int, int]:
    """Return the term of *name*, and how often it became leader."""
    term = network.rafts[name].state.term
    events = network.events[name]
    return term, sum(
        isinstance(event, RoleChanged) and event.role is Role.LEADER for event in events
    )


class RemovedTests:
    """§4.2.3: a server that was removed, and does not know."""

    def _back(self, *, is_stable: bool) -> Network:
        """Return a network to which s3 comes back, which missed its removal."""
        network = led(tuning=replace(STABLE, stable_leader=is_stable))
        network.isolate("s3")
        network.change("s1", ["s1", "s2"])
        network.pass_time(5 * _ELECTION)
        network.heal()
        return network

    def test_it_deposes_nobody(self) -> None:
        """§4.2.3: nobody who hears the leader listens to it."""
        network = self._back(is_stable=True)
        network.pass_time(20 * _ELECTION)
        assert network.leaders() == ["s1"]
        assert network.rafts["s1"].state.term == 2
        network.propose("s1", b"x")
        network.settle()
        assert network.commands("s2") == [b"x"]

    def test_without_loyalty_it_deposes_leader_after_leader(self) -> None:
        """§4.2.3: it cannot win, but its terms are newer every time."""
        network = self._back(is_stable=False)
        network.pass_time(20 * _ELECTION)
        assert network.rafts["s1"].state.term > 3
        assert network.role("s3") is not Role.LEADER

    def test_pre_vote_alone_would_not_do_before_the_others_know(self) -> None:
        """§4.2.3, figure 4.7: its log is as good as those that lag behind."""
        network = led("s1", "s2", "s3", "s4")
        network.change("s1", ["s1", "s2", "s3"])
        # Only the leader has the new membership; s4 hears it no more.
        network.lose()
        network.isolate("s4")
        network.tick("s4", 3 * _ELECTION)
        network.heal()
        network.pass_time(6 * _ELECTION)
        assert network.leaders() == ["s1"]
        assert network.rafts["s1"].state.term == 2
        assert network.agrees_on("s1", "s2", "s3")
