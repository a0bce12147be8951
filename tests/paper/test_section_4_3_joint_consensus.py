"""§4.3: arbitrary changes by joint consensus."""

from __future__ import annotations

import pytest

from consensus.core.messages import AppendEntries, AppendEntriesResponse
from consensus.core.ready import RoleChanged
from consensus.core.values import EntryKind, Role
from consensus.errors import MembershipPendingError
from tests.support.network import STABLE, Network, led

_ELECTION = STABLE.election_ticks
_OLD, _NEW = ("s1", "s2", "s3"), ("s4", "s5", "s6")


def _joint() -> Network:
    """Return a network whose leader s1 has just begun to exchange all servers."""
    network = led(*_OLD)
    for name in _NEW:
        network.add(name)
    network.change("s1", _OLD, _NEW)
    network.pass_time(_ELECTION)
    network.change("s1", _NEW)
    assert network.rafts["s1"].state.membership.is_joint
    return network


def _answers(network: Network, *peers: str) -> None:
    for peer in peers:
        network.pass_on(AppendEntries, "s1", peer)
        network.pass_on(AppendEntriesResponse, peer, "s1")


class CommitmentTests:
    """§4.3: agreement needs a majority of the old and one of the new servers."""

    @pytest.mark.parametrize("peers", [("s2", "s3"), _NEW])
    def test_one_majority_is_none(self, peers: tuple[str, ...]) -> None:
        """§4.3: whichever it is, and though it be all of them."""
        network = _joint()
        index = network.rafts["s1"].state.membership_index
        _answers(network, *peers)
        progress = network.rafts["s1"].state.progress
        assert {progress[peer].match_index for peer in peers} == {index}
        assert network.committed("s1") < index

    def test_both_are_enough(self) -> None:
        """§4.3: s1 and s2, s4 and s5."""
        network = _joint()
        index = network.rafts["s1"].state.membership_index
        _answers(network, "s4", "s5")
        assert network.committed("s1") < index
        _answers(network, "s2")
        assert network.committed("s1") == index

    def test_entries_go_to_the_servers_of_both(self) -> None:
        """§4.3: all of them have what is written meanwhile."""
        network = _joint()
        index = network.propose("s1", b"x")
        network.pass_on(AppendEntries)
        for name in (*_OLD, *_NEW):
            assert network.rafts[name].state.log.last_index == index

    def test_commands_are_taken_all_the_while(self) -> None:
        """§4.3: a client notices nothing of it."""
        network = _joint()
        network.propose("s1", b"x")
        network.pass_time(5 * _ELECTION)
        (chief,) = network.leaders()
        assert chief in _NEW
        assert {tuple(network.commands(name)) for name in _NEW} == {(b"x",)}


class ElectionTests:
    """§4.3: so does an election."""

    @pytest.mark.parametrize("silent", [("s2", "s3"), ("s4", "s5")])
    def test_one_majority_elects_nobody(self, silent: tuple[str, ...]) -> None:
        """§4.3: until one of the silent ones is back."""
        network = _joint()
        network.pass_on(AppendEntries)
        network.lose()
        for name in silent:
            network.crash(name)
        network.crash("s1")
        network.restart("s1")
        network.pass_time(15 * _ELECTION)
        assert network.leaders() == []
        network.restart(silent[0])
        network.pass_time(15 * _ELECTION)
        assert len(network.leaders()) == 1

    @pytest.mark.parametrize("chief", ["s3", "s6"])
    def test_a_server_of_either_may_lead(self, chief: str) -> None:
        """§4.3: and goes on with the change."""
        network = _joint()
        network.pass_on(AppendEntries)
        network.lose()
        network.crash("s1")
        for name in ("s2", "s3", "s4", "s5", "s6"):
            state = network.rafts[name].state
            state.timeout = _ELECTION if name == chief else 4 * _ELECTION
        network.pass_time(_ELECTION)
        # One of the old servers has handed over again by now (§4.2.2).
        assert RoleChanged(Role.LEADER, 3, chief) in network.events[chief]
        network.restart("s1")
        network.pass_time(6 * _ELECTION)
        assert network.agrees_on(*_NEW)


class StepTests:
    """§4.3: the joint membership, then the new one."""

    def test_the_second_step_waits_for_the_first(self) -> None:
        """§4.3: neither half can decide alone in between."""
        network = _joint()
        index = network.rafts["s1"].state.membership_index
        _answers(network, "s4", "s5")
        assert network.rafts["s1"].state.membership_index == index
        _answers(network, "s2")
        assert network.rafts["s1"].state.membership_index == index + 1
        assert network.voters("s1") == [*_NEW]
        assert not network.rafts["s1"].state.membership.is_joint

    def test_after_the_second_the_old_servers_are_not_needed(self) -> None:
        """§4.3: they may be shut down."""
        network = _joint()
        network.pass_time(5 * _ELECTION)
        for name in _OLD:
            network.crash(name)
        (chief,) = network.leaders()
        network.propose(chief, b"x")
        network.settle()
        assert network.commands(chief) == [b"x"]

    def test_both_are_entries_of_the_log(self) -> None:
        """§4.3: committed like any other."""
        network = led(*_OLD)
        network.change("s1", ["s1"])
        network.settle()
        entries = network.applied["s1"][-2:]
        assert [entry.kind for entry in entries] == [EntryKind.MEMBERSHIP] * 2

    @pytest.mark.parametrize("ticks", range(0, 3 * _ELECTION, 3))
    def test_no_other_change_comes_between(self, ticks: int) -> None:
        """§4.3: it is refused, until the cluster has its new servers."""
        network = _joint()
        network.isolate("s2", "s3")
        network.pass_time(min(ticks, _ELECTION - 2))
        with pytest.raises(MembershipPendingError):
            network.change("s1", ["s1"])
