"""§3.4, §4.2.3: a leader whose process has ended, as the transport says."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from consensus.core.membership import Membership
from consensus.core.messages import (
    AppendEntries,
    InstallSnapshot,
    RequestPreVote,
    RequestPreVoteResponse,
    RequestVote,
)
from consensus.core.ready import RoleChanged
from consensus.core.state import Tuning
from consensus.core.values import HardState, Role, SnapshotMeta
from tests.support.network import STABLE, Network, alone, led

#: As servers have it whose leader does not trust in a lease.
_TUNING = replace(STABLE, keeps_pledges=True, may_lease=False)
_ELECTION = _TUNING.election_ticks


def _led(tuning: Tuning = _TUNING, seed: int = 0) -> Network:
    """Return a network that s1 leads; all have been up for long."""
    network = Network(tuning=tuning, seed=seed)
    for raft in network.rafts.values():
        raft.state.pledge = 0
    network.elect("s1")
    network.heartbeat("s1")
    return network


def _following(*, may_lease: bool = False) -> Network:
    """Return s1 alone, in term 2, just after it heard its leader, s2."""
    network = alone(1, tuning=_TUNING)
    network.rafts["s1"].state.random_below = lambda _: 0
    network.tick("s1", _ELECTION)
    network.step("s1", AppendEntries("s2", 2, 0, 0, 0, 0, (), may_lease))
    network.queue.clear()
    return network


def _install(network: Network, leader: str, term: int) -> None:
    """Let *leader* of *term* begin to send s1 a snapshot."""
    membership = Membership({leader: ""}).encode()
    meta = SnapshotMeta(9, 2, membership, 1, 1, 1, 0)
    network.step("s1", InstallSnapshot(leader, term, meta, 0, b"x"))
    network.queue.clear()


def _tell(network: Network, name: str, peer: str) -> None:
    network.rafts[name].peer_gone(peer)
    network.pump(name)


class EndedTests:
    """§3.4: the hint is right."""

    def test_another_leads_at_once(self) -> None:
        """§3.4: nobody waits for an election timeout."""
        network = _led()
        network.rafts["s2"].state.random_below = lambda _: 0
        network.rafts["s3"].state.random_below = lambda n: n - 1
        network.crash("s1")
        _tell(network, "s2", "s1")
        _tell(network, "s3", "s1")
        network.pass_time(1)
        assert network.leaders() == ["s2"]
        assert network.rafts["s3"].state.leader == "s2"

    def test_who_is_told_first_asks_until_the_others_are(self) -> None:
        """§4.2.3: they are loyal until then."""
        network = _led()
        network.rafts["s2"].state.random_below = lambda _: 0
        network.rafts["s3"].state.random_below = lambda n: n - 1
        network.crash("s1")
        _tell(network, "s2", "s1")
        network.pass_time(3)
        assert network.leaders() == []
        _tell(network, "s3", "s1")
        network.pass_time(1)
        assert network.leaders() == ["s2"]

    @pytest.mark.parametrize("seed", range(30))
    def test_both_at_once_split_the_vote_for_a_moment_only(self, seed: int) -> None:
        """§3.4: short waits are drawn anew, too."""
        network = _led(seed=seed)
        network.crash("s1")
        _tell(network, "s2", "s1")
        _tell(network, "s3", "s1")
        for _ in range(100):
            network.pass_time(1)
            if network.leaders():
                break
        assert len(network.leaders()) == 1

    def test_the_hurry_ends(self) -> None:
        """§3.4: who is alone asks less often after an election timeout."""
        network = _following()
        _tell(network, "s1", "s2")
        network.tick("s1", _ELECTION)
        asked = len(network.waiting(RequestPreVote))
        assert asked == 2 * _ELECTION
        network.tick("s1", _ELECTION - 1)
        assert len(network.waiting(RequestPreVote)) == asked
        network.tick("s1")
        assert len(network.waiting(RequestPreVote)) == asked + 2

    def test_a_vote_ends_it(self) -> None:
        """§3.4: a vote given is a reason to wait."""
        network = _following()
        _tell(network, "s1", "s2")
        assert len(network.step("s1", RequestVote("s3", 3, 9, 9))) == 1
        network.queue.clear()
        network.tick("s1", _ELECTION - 1)
        assert network.waiting(RequestPreVote) == []

    def test_a_learner_never_stands(self) -> None:
        """§4.2.1: it has no vote; it follows whoever comes next."""
        network = _following()
        state = network.rafts["s1"].state
        others = Membership({"s2": "", "s3": ""}, {"s1": ""})
        state.memberships = [(0, others)]
        _tell(network, "s1", "s2")
        network.tick("s1", 3 * _ELECTION)
        assert (state.role, state.leader, state.term) == (Role.FOLLOWER, None, 2)
        network.step("s1", AppendEntries("s3", 3, 0, 0, 0, 0))
        assert state.leader == "s3"


class MistakenTests:
    """§4.2.3: the hint is wrong: the leader lives."""

    def test_a_loyal_majority_keeps_its_leader(self) -> None:
        """§9.6: who was misled asks in vain, and begins no term."""
        network = _led()
        term = network.rafts["s1"].state.term
        for _ in range(20):
            _tell(network, "s2", "s1")
            network.pass_time(1)
        network.pass_time(3 * _ELECTION)
        assert network.leaders() == ["s1"]
        terms = {raft.state.term for raft in network.rafts.values()}
        assert terms == {term}
        assert network.rafts["s2"].state.leader == "s1"

    def test_the_next_heartbeat_sets_it_right(self) -> None:
        """§3.4: the wait is a whole election timeout again."""
        network = _following()
        _tell(network, "s1", "s2")
        network.step("s1", AppendEntries("s2", 2, 0, 0, 0, 0, (), may_lease=False))
        state = network.rafts["s1"].state
        assert (state.leader, state.hurry) == ("s2", 0)
        assert state.pledge == _ELECTION
        assert state.timeout >= _ELECTION

    @pytest.mark.parametrize("seed", range(50))
    def test_a_majority_that_is_mistaken_elects_another_safely(self, seed: int) -> None:
        """§3.6: what was committed stays, and a term has one leader."""
        network = _led(seed=seed)
        dice = Random(seed)  # noqa: S311 - a schedule that can be repeated
        leaders: dict[int, set[str]] = {}
        written: list[bytes] = []
        for number in range(60):
            for name in network.leaders():
                leaders.setdefault(network.rafts[name].state.term, set()).add(name)
            if dice.random() < 0.4:
                name, peer = dice.sample(["s1", "s2", "s3"], 2)
                _tell(network, name, peer)
            if dice.random() < 0.3 and len(network.leaders()) == 1:
                leader = network.leaders()[0]
                network.propose(leader, b"%d" % number)
                network.settle()
                if network.committed(leader) == len(network.terms(leader)):
                    written.append(b"%d" % number)
            network.pass_time(1)
        network.pass_time(5 * _ELECTION)
        assert all(len(each) == 1 for each in leaders.values())
        (leader,) = network.leaders()
        kept = network.commands(leader)
        assert [each for each in kept if each in written] == written

    @pytest.mark.parametrize("peer", ["s1", "s3", "s9"])
    def test_others_may_end(self, peer: str) -> None:
        """§3.4: only the leader of the current term matters."""
        network = _following()
        events = list(network.events["s1"])
        _tell(network, "s1", peer)
        state = network.rafts["s1"].state
        assert (state.leader, state.hurry, state.pledge) == ("s2", 0, _ELECTION)
        assert network.events["s1"] == events

    def test_a_former_leader_may_end(self) -> None:
        """§3.4: the hint comes when another leads already."""
        network = _following()
        network.step("s1", AppendEntries("s3", 3, 0, 0, 0, 0, (), may_lease=False))
        _tell(network, "s1", "s2")
        state = network.rafts["s1"].state
        assert (state.leader, state.pledge) == ("s3", _ELECTION)

    def test_a_leader_leads_on(self) -> None:
        """§6.2: it steps down when it hears no majority, and only then."""
        network = _led()
        for peer in ("s1", "s2", "s3"):
            _tell(network, "s1", peer)
        assert network.leaders() == ["s1"]

    @pytest.mark.parametrize("role", [Role.PRE_CANDIDATE, Role.CANDIDATE])
    def test_who_stands_goes_on(self, role: Role) -> None:
        """§3.4: it has no leader to lose."""
        network = _following()
        network.tick("s1", _ELECTION)
        if role is Role.CANDIDATE:
            network.step("s1", RequestPreVoteResponse("s3", 2, granted=True))
        state = network.rafts["s1"].state
        before = (state.role, state.term, state.elapsed, state.timeout)
        assert state.role is role
        _tell(network, "s1", "s2")
        assert before == (state.role, state.term, state.elapsed, state.timeout)

    def test_without_a_stable_leader_it_is_nothing(self) -> None:
        """§9.6: without pre-vote, a mistake would cost a term."""
        network = led(tuning=Tuning(heartbeat_ticks=2, election_ticks=6))
        _tell(network, "s2", "s1")
        assert network.rafts["s2"].state.leader == "s1"


class LeaseTests:
    """§6.4.1: a leader that may trust in a lease keeps its voters' pledges."""

    @pytest.mark.parametrize("kind", [RequestVote, RequestPreVote])
    def test_the_pledge_is_kept(self, kind: type[RequestVote | RequestPreVote]) -> None:
        """§6.4.1: the hint may be wrong, and the lease must not be."""
        network = _following(may_lease=True)
        _tell(network, "s1", "s2")
        for _ in range(_ELECTION):
            assert network.step("s1", kind("s3", 3, 9, 9)) == []
            assert network.role("s1") is Role.FOLLOWER
            network.tick("s1")
        assert len(network.step("s1", kind("s3", 3, 9, 9))) == 1

    def test_nobody_waits_longer(self) -> None:
        """§3.4: it stands as soon as the pledge has ended."""
        network = _following(may_lease=True)
        network.tick("s1", 2)
        _tell(network, "s1", "s2")
        network.tick("s1", _ELECTION - 2)
        assert network.role("s1") is Role.FOLLOWER
        network.tick("s1")
        assert network.role("s1") is Role.PRE_CANDIDATE

    def test_without_a_lease_there_is_nothing_to_keep(self) -> None:
        """§6.4.1: the leader has said so, in each message."""
        network = _following()
        _tell(network, "s1", "s2")
        assert len(network.step("s1", RequestVote("s3", 3, 9, 9))) == 1
        assert network.disks["s1"].hard_state == HardState(3, "s3")

    def test_each_leader_speaks_for_itself(self) -> None:
        """§6.4.1: one without leases is followed by one that has them."""
        network = _following()
        network.step("s1", AppendEntries("s3", 3, 0, 0, 0, 0))
        _tell(network, "s1", "s3")
        assert network.step("s1", RequestVote("s2", 4, 9, 9)) == []

    def test_a_leader_that_sends_a_snapshot_first_may_have_one(self) -> None:
        """§6.4.1: its heartbeats would say, but none has come."""
        network = _following()
        _install(network, "s3", 3)
        _tell(network, "s1", "s3")
        assert network.step("s1", RequestVote("s2", 4, 99, 99)) == []

    def test_a_snapshot_of_the_same_leader_changes_nothing(self) -> None:
        """§6.4.1: it has said that it has none."""
        network = _following()
        _install(network, "s2", 2)
        _tell(network, "s1", "s2")
        assert len(network.step("s1", RequestVote("s3", 3, 99, 99))) == 1

    def test_a_restart_makes_a_pledge_that_no_hint_ends(self) -> None:
        """§6.4.1: whom it had heard before is not known any more."""
        network = _following()
        network.crash("s1")
        network.restart("s1")
        _tell(network, "s1", "s2")
        assert network.step("s1", RequestVote("s3", 3, 9, 9)) == []

    def test_the_leader_tells(self) -> None:
        """§6.4.1: as its tuning has it."""
        for may_lease in (True, False):
            network = _led(replace(_TUNING, may_lease=may_lease))
            assert network.rafts["s2"].state.is_lease_possible is may_lease

    def test_who_asks_the_follower_hears_that_nobody_leads(self) -> None:
        """§3.4: calls are not sent to a server that has ended."""
        network = _following()
        _tell(network, "s1", "s2")
        assert network.events["s1"][-1] == RoleChanged(Role.FOLLOWER, 2, None)
