"""§4.2.4: a cluster goes on through changes of its membership."""

from __future__ import annotations

import pytest

from consensus.core.values import Role
from consensus.errors import NotLeaderError
from tests.support.network import STABLE, Network, led

_ELECTION = STABLE.election_ticks
_CHANGES = [
    ("s1 s2 s3", "s1 s2 s3 s4"),
    ("s1 s2 s3", "s1 s2"),
    ("s1 s2 s3", "s2 s3"),
    ("s1 s2 s3", "s4 s5 s6"),
    ("s1", "s1 s2 s3"),
]


def _changing(before: str, after: str) -> Network:
    network = led(*before.split())
    for name in after.split():
        if name not in network.names:
            network.add(name)
    network.change("s1", after.split())
    return network


@pytest.mark.parametrize(("before", "after"), _CHANGES)
class ChangeTests:
    """§4.2.4: with a majority of the old and of the new servers."""

    def test_commands_are_committed_all_the_while(
        self, before: str, after: str
    ) -> None:
        """§4.2.4: a leader refuses some only while it hands over."""
        network = _changing(before, after)
        count, refused = 0, 0
        for _ in range(6 * _ELECTION):
            network.pass_time(1)
            chief = max(
                network.leaders(), key=lambda name: network.rafts[name].state.term
            )
            try:
                network.propose(chief, b"%d" % count)
                count += 1
            except NotLeaderError:
                refused += 1
        network.pass_time(_ELECTION)
        assert network.agrees_on(*after.split())
        assert refused <= _ELECTION
        for name in after.split():
            expected = [b"%d" % number for number in range(count)]
            assert network.commands(name) == expected

    def test_whoever_crashes_and_comes_back(self, before: str, after: str) -> None:
        """§4.2.4: each server once, the leader too, at every point."""
        for victim in sorted({*before.split(), *after.split()}):
            for point in range(0, 3 * _ELECTION, 4):
                network = _changing(before, after)
                network.pass_time(point)
                network.crash(victim)
                network.pass_time(3 * _ELECTION)
                network.restart(victim)
                network.pass_time(10 * _ELECTION)
                assert network.agrees_on(*after.split()), (victim, point)
                (chief,) = network.leaders()
                network.propose(chief, b"x")
                network.pass_time(_ELECTION)
                assert network.commands(after.split(maxsplit=1)[0])[-1] == b"x"


class LossTests:
    """§4.2.4: one minority of each may be gone for ever."""

    def test_a_change_ends_without_a_minority_of_both_halves(self) -> None:
        """§4.2.4: one of the old ones, one of the new ones."""
        network = led("s1", "s2", "s3")
        for name in ("s4", "s5", "s6"):
            network.add(name)
        network.change("s1", ["s1", "s2", "s3"], ["s4", "s5", "s6"])
        network.pass_time(_ELECTION)
        network.change("s1", ["s4", "s5", "s6"])
        network.crash("s3")
        network.crash("s6")
        network.pass_time(6 * _ELECTION)
        (chief,) = network.leaders()
        assert chief in {"s4", "s5"}
        assert network.role("s1") is Role.FOLLOWER
        assert network.voters(chief) == ["s4", "s5", "s6"]
