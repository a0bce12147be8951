"""§3.9: broadcast time << election timeout << mean time between failures."""

from __future__ import annotations

import pytest

from consensus.core.values import Role
from tests.support.network import Network

_FIVE = ("s1", "s2", "s3", "s4", "s5")


class _Slow:
    """A network whose every message takes some ticks."""

    def __init__(self, delay: int, seed: int = 0) -> None:
        self.network = Network(_FIVE, seed=seed)
        self.delay = delay
        self.now = 0
        self.leaders: dict[int, str] = {}
        self._due: list[int] = []
        self.network.observer = self._observe

    def _observe(self, name: str) -> None:
        state = self.network.rafts[name].state
        if state.role is Role.LEADER:
            assert self.leaders.setdefault(state.term, name) == name

    def run(self, ticks: int) -> None:
        """Let time pass everywhere."""
        network = self.network
        for _ in range(ticks):
            self.now += 1
            for name in network.rafts:
                network.tick(name)
            self._note()
            while self._due and self._due[0] <= self.now:
                self._due.pop(0)
                network.deliver()
                self._note()

    def _note(self) -> None:
        """Say when the messages that are new arrive."""
        new = len(self.network.queue) - len(self._due)
        self._due += [self.now + self.delay] * new

    def hurry(self) -> None:
        """Be a fast network from now on."""
        self.delay = 1
        self._due = [self.now] * len(self._due)


class TimingRequirementTests:
    """§3.9: what happens when it is met, and when it is not."""

    @pytest.mark.parametrize("seed", range(5))
    def test_when_met_a_leader_is_elected_and_stays(self, seed: int) -> None:
        """§3.9: its heartbeats arrive long before anybody's timeout."""
        slow = _Slow(delay=1, seed=seed)
        slow.run(200)
        (leader,) = slow.network.leaders()
        term = slow.network.rafts[leader].state.term
        slow.run(1000)
        assert slow.network.leaders() == [leader]
        assert slow.network.rafts[leader].state.term == term

    def test_when_not_met_nobody_is_elected(self) -> None:
        """§3.9: every candidate gives up before the votes arrive."""
        slow = _Slow(delay=60)
        slow.run(1000)
        assert slow.leaders == {}
        assert slow.network.rafts["s1"].state.term > 5

    def test_when_met_again_the_cluster_goes_on(self) -> None:
        """§3.9: only availability depends on timing."""
        slow = _Slow(delay=60)
        slow.run(300)
        slow.hurry()
        slow.run(200)
        (leader,) = slow.network.leaders()
        slow.network.propose(leader, b"x")
        slow.run(20)
        for name in _FIVE:
            assert slow.network.commands(name) == [b"x"]

    def test_safety_does_not_depend_on_timing(self) -> None:
        """§3.9: a network that becomes too slow loses nothing that is committed."""
        slow = _Slow(delay=1)
        slow.run(200)
        (leader,) = slow.network.leaders()
        slow.network.propose(leader, b"before")
        slow.run(20)
        slow.delay = 60
        slow.network.propose(leader, b"under way")
        slow.run(600)
        slow.hurry()
        slow.run(300)
        (leader,) = slow.network.leaders()
        slow.network.propose(leader, b"after")
        slow.run(20)
        commands = slow.network.commands(leader)
        assert commands in (
            [b"before", b"after"],
            [b"before", b"under way", b"after"],
        )
        for name in _FIVE:
            assert slow.network.commands(name) == commands

    @pytest.mark.parametrize("seed", range(5))
    def test_a_crashed_leader_is_missed_for_a_few_timeouts_at_most(
        self, seed: int
    ) -> None:
        """§3.9: the cluster is unavailable for roughly the election timeout."""
        slow = _Slow(delay=1, seed=seed)
        slow.run(200)
        (leader,) = slow.network.leaders()
        slow.network.crash(leader)
        slow.run(4 * slow.network.tuning.election_ticks)
        assert len(slow.network.leaders()) == 1
