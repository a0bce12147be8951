"""
Random schedules of the core: figure 3.2's properties after every step.

A seed is a schedule: of deliveries, losses, repeats, reorderings, ticks,
proposals, slow and finished syncs, crashes and restarts.
"""

from __future__ import annotations

from contextlib import suppress

import pytest

from consensus.core.state import Tuning
from consensus.core.values import Role
from consensus.errors import InvalidChangeError, NotLeaderError
from tests.support.network import Network

_STEPS = 4000


class Checker:
    """Watches a network, and fails at the first broken property."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.leader_of: dict[int, str] = {}
        self.leader_logs: dict[int, list[tuple[int, bytes]]] = {}
        self.committed: dict[int, tuple[int, int, bytes]] = {}
        self.terms: dict[str, int] = {}
        network.observer = self.check

    def check(self, name: str) -> None:
        """Check all properties that a step of *name* can break."""
        state = self.network.rafts[name].state
        assert state.term >= self.terms.get(name, 0), "a term went back"
        self.terms[name] = self.network.disks[name].hard_state.term
        if state.role is Role.LEADER:
            self._check_leader(name)
        self._check_applied(name)
        assert state.log.last_applied <= state.log.stable_index
        assert state.log.stable_index <= state.log.last_index

    def _check_leader(self, name: str) -> None:
        term = self.network.rafts[name].state.term
        # Election Safety: at most one leader a term.
        assert self.leader_of.setdefault(term, name) == name
        log = self._log(name)
        # Leader Append-Only: it never overwrites or deletes its entries.
        known = self.leader_logs.setdefault(term, log)
        assert log[: len(known)] == known
        self.leader_logs[term] = log
        # Leader Completeness: it has all that was committed in earlier terms.
        for index, (term_of, entry_term, command) in self.committed.items():
            if term_of < term:
                assert log[index - 1] == (entry_term, command)

    def _log(self, name: str) -> list[tuple[int, bytes]]:
        log = self.network.rafts[name].state.log
        below = self.network.disks[name].entries[: log.offset]
        return [(entry.term, entry.command) for entry in [*below, *log.entries]]

    def _check_applied(self, name: str) -> None:
        # State Machine Safety: nobody applies another entry at an index.
        term = self.network.rafts[name].state.term
        for position, entry in enumerate(self.network.applied[name], 1):
            assert entry.index == position
            value = (entry.term, entry.command)
            known = self.committed.setdefault(entry.index, (term, *value))
            assert known[1:] == value

    def check_log_matching(self) -> None:
        """Log Matching: same index and term, same entries up to there."""
        logs = [self._log(name) for name in self.network.rafts]
        for one in logs:
            for other in logs:
                common = min(len(one), len(other))
                agreed = [i for i in range(common) if one[i][0] == other[i][0]]
                if agreed:
                    assert one[: agreed[-1] + 1] == other[: agreed[-1] + 1]


class Schedule:
    """One random run."""

    def __init__(self, seed: int) -> None:
        size = 3 if seed % 2 else 5
        self.network = Network(
            [f"s{number}" for number in range(1, size + 1)],
            seed=seed,
            tuning=Tuning(
                heartbeat_ticks=2,
                election_ticks=6,
                max_append_bytes=40,
                max_inflight=3,
                max_apply_bytes=60,
                stable_leader=seed % 4 < 2,
                preferred=("s2", "s1") if seed % 8 < 2 else (),
            ),
            cache_bytes=600 if seed % 3 else 1 << 20,
        )
        self.random = self.network.random
        self.checker = Checker(self.network)
        self.down: set[str] = set()
        self.count = 0
        self.loss = self.random.choice([0.0, 0.05, 0.3])

    def run(self) -> None:
        """Take random steps, then heal everything and expect progress."""
        for step in range(_STEPS):
            self.step()
            if step % 50 == 0:
                self.checker.check_log_matching()
        self.finish()

    def step(self) -> None:
        """Take one random step."""
        network, dice = self.network, self.random.random()
        if dice < 0.55:
            for _ in range(1 + len(network.queue) // 8):
                self.shuffle_one()
        elif dice < 0.80:
            name = self.random.choice(network.names)
            if name in network.rafts:
                network.tick(name)
        elif dice < 0.93:
            self.propose()
        else:
            self.disturb()

    def shuffle_one(self) -> None:
        """Deliver, lose or repeat one message, often not the oldest."""
        network = self.network
        if not network.queue:
            return
        near = self.random.random() < 0.7
        position = 0 if near else self.random.randrange(len(network.queue))
        if self.random.random() < self.loss:
            network.queue.pop(position)
            return
        if self.random.random() < 0.05:
            network.queue.append(network.queue[position])
        network.deliver(position)

    def propose(self) -> None:
        """Let each leader, perhaps a deposed one among them, take commands."""
        network = self.network
        for name in network.leaders():
            count = self.random.randrange(1, 4)
            commands = [f"c{self.count + i}".encode() * 5 for i in range(count)]
            self.count += count
            with suppress(NotLeaderError):  # it may be handing over
                network.propose(name, *commands)

    def disturb(self) -> None:  # noqa: C901 - a list of disturbances
        """Crash, restart, cut, heal, slow down, speed up, or hand over."""
        network = self.network
        name = self.random.choice(network.names)
        other = self.random.choice(network.names)
        match self.random.randrange(14):
            case 0 if name in network.rafts:
                network.crash(name)
            case 1 | 2:
                self.restart_all()
            case 3:
                network.cut.add((name, other))
            case 4 | 7:
                network.heal()
            case 8:
                network.isolate(name, other)
            case 9 | 10 | 11 if name in network.rafts and name not in network.leaders():
                network.campaign(name)
            case 12 | 13 if name in network.leaders():
                with suppress(InvalidChangeError):
                    network.transfer(name, self.random.choice([None, other]))
            case 5 if name in network.rafts:
                network.slow.add(name)
            case 6 if name in network.rafts:
                network.sync(name, self.random.randrange(1, 4))
                if self.random.random() < 0.5:
                    network.slow.discard(name)
                    network.sync(name)

    def restart_all(self) -> None:
        """Start whoever is down."""
        for name in self.network.names:
            if name not in self.network.rafts:
                self.network.restart(name)

    def finish(self) -> None:
        """Heal all; a leader emerges, and everybody applies a new command."""
        network = self.network
        network.heal()
        network.slow.clear()
        self.restart_all()
        for name in network.names:
            network.sync(name)
        # A leader that is about to hand over takes no command; its heir does.
        for _ in range(20):
            network.pass_time(40)
            with suppress(NotLeaderError, ValueError):
                (chief,) = network.leaders()
                network.propose(chief, b"the last one")
                break
        network.pass_time(40)
        self.checker.check_log_matching()
        for name in network.names:
            assert network.commands(name)[-1] == b"the last one"


@pytest.mark.parametrize("seed", range(80))
def test_no_schedule_breaks_a_property(seed: int) -> None:
    """Figure 3.2 holds after every step; afterwards the cluster goes on."""
    Schedule(seed).run()
