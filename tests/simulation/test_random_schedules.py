"""
Random schedules of the core: figure 3.2's properties after every step.

A seed is a schedule: of deliveries, losses, repeats, reorderings, ticks,
proposals, slow and finished syncs, crashes and restarts; of changes of the
membership, new servers, snapshots and slow installations (§4, §5).
"""

from __future__ import annotations

from contextlib import suppress
from random import Random
from typing import TYPE_CHECKING

import pytest

from consensus.core.state import Tuning
from consensus.core.values import Role
from consensus.errors import InvalidChangeError, RejectedError
from tests.support.network import Network

if TYPE_CHECKING:
    from collections.abc import Sequence

    from consensus.core.membership import Membership
    from consensus.core.raft import Raft
    from consensus.core.values import Entry

_STEPS = 2500

#: The servers of a cluster that began with three or five, and their reserve.
_NAMES = ("s1", "s2", "s3", "s4", "s5", "s6", "s7")


class Checker:
    """Watches a network, and fails at the first broken property."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.leader_of: dict[int, str] = {}
        #: Of each leader: where its log began when it was last seen, and ends.
        self.leader_logs: dict[int, dict[int, Entry]] = {}
        #: What was applied somewhere, first in which term.
        self.committed: list[tuple[int, Entry]] = []
        self.terms: dict[str, int] = {}
        self.elected: set[int] = set()
        self.checked: dict[str, tuple[object, int]] = {}
        #: Each server at its last step: Raft, membership, its index, commit index.
        self.before: dict[str, tuple[Raft, Membership, int, int]] = {}
        network.observer = self.check

    def check(self, name: str) -> None:
        """Check all properties that a step of *name* can break."""
        state = self.network.rafts[name].state
        log = state.log
        assert state.term >= self.terms.get(name, 0), "a term went back"
        self.terms[name] = self.network.disks[name].hard_state.term
        if state.role is Role.LEADER:
            self._check_leader(name)
            self._check_majorities(name)
        self.before[name] = (
            self.network.rafts[name],
            state.membership,
            state.membership_index,
            log.commit_index,
        )
        self._check_applied(name)
        self._check_committed(name)
        if state.restoring is None:
            assert log.base_index <= log.last_applied <= log.stable_index
        assert log.base_index <= log.commit_index <= log.last_index
        assert log.base_index <= log.offset <= log.last_index
        assert log.stable_index <= log.last_index

    def _check_leader(self, name: str) -> None:
        state = self.network.rafts[name].state
        term, log = state.term, self._log(name)
        # Election Safety: at most one leader a term.
        assert self.leader_of.setdefault(term, name) == name
        # Leader Append-Only: it never overwrites or deletes its entries.
        known = self.leader_logs.get(term)
        if known is None:
            self._check_complete(state.log.base_index, log)
        else:
            last = max(known, default=0)
            assert last <= state.log.last_index
            for index in range(max(state.log.base_index, last - 20) + 1, last + 1):
                assert log[index] == known[index]
        self.leader_logs[term] = log

    def _check_majorities(self, name: str) -> None:
        # It was elected, and what it commits is stored, by a majority of each
        # half of the membership that it had then (§4.3).
        network = self.network
        raft = network.rafts[name]
        state, disks = raft.state, network.disks
        if name not in self.before or self.before[name][0] is not raft:
            return
        _, membership, membership_index, commit_index = self.before[name]
        halves = [set(membership.voters), set(membership.outgoing)]
        if state.term not in self.elected:
            self.elected.add(state.term)
            for half in filter(None, halves):
                votes = [disks[each].votes.get(state.term) == name for each in half]
                assert 2 * sum(votes) > len(half), "elected by no majority"
        index = state.log.commit_index
        if index <= commit_index or state.log.term(index) != state.term:
            return
        for half in filter(None, halves):
            if half == halves[1] and not state.membership.is_joint:
                # With the joint membership committed, the new half goes on alone.
                index = membership_index
            term = state.log.term(index) or self.committed[index - 1][1].term
            stored = [disks[each].has(index, term) for each in half]
            assert 2 * sum(stored) > len(half), "committed by no majority"

    def _check_complete(self, base: int, log: dict[int, Entry]) -> None:
        # Leader Completeness: it has all that was committed before its term.
        for _, entry in self.committed:
            assert entry.index <= base or log[entry.index] == entry

    def _log(self, name: str) -> dict[int, Entry]:
        log, disk = self.network.rafts[name].state.log, self.network.disks[name]
        # A disk may be behind what the log knows to be compacted.
        first = max(log.base_index, disk.base[0]) + 1
        entries = [*disk.read(first, log.offset), *log.entries]
        return {entry.index: entry for entry in entries}

    def _check_applied(self, name: str) -> None:
        # State Machine Safety: nobody applies another entry at an index, and
        # a restored state is what the others applied up to there.
        network = self.network
        applied, term = network.applied[name], network.rafts[name].state.term
        seen, count = self.checked.get(name, (None, 0))
        # A list that is another now was restored, and is looked at anew.
        start = count if seen is applied else 0
        for position, entry in enumerate(applied[start:], start + 1):
            assert entry.index == position
            if position > len(self.committed):
                self.committed.append((term, entry))
            assert self.committed[position - 1][1] == entry
        self.checked[name] = (applied, len(applied))

    def _check_committed(self, name: str) -> None:
        # What was committed stays so, in every log that says it has it.
        log = self.network.rafts[name].state.log
        for index in range(max(log.base_index, log.commit_index - 3), log.commit_index):
            known = self.committed[index : index + 1]
            assert not known or log.term(index + 1) == known[0][1].term

    def check_log_matching(self) -> None:
        """Log Matching: same index and term, same entries up to there."""
        logs = [self._log(name) for name in self.network.rafts]
        for one in logs:
            for other in logs:
                common = one.keys() & other.keys()
                agreed = [i for i in common if one[i].term == other[i].term]
                last = max(agreed, default=0)
                assert all(one[i] == other[i] for i in common if i <= last)


class Schedule:
    """One random run."""

    def __init__(self, seed: int, steps: int = _STEPS) -> None:
        self.steps = steps
        size = 3 if seed % 2 else 5
        self.network = Network(
            _NAMES[:size],
            seed=seed,
            tuning=Tuning(
                heartbeat_ticks=2,
                election_ticks=6,
                max_append_bytes=40,
                max_inflight=3,
                max_apply_bytes=60,
                stable_leader=seed % 4 < 2,
                preferred=("s2", "s1") if seed % 8 < 2 else (),
                log_tail=seed % 5 * 3,
            ),
            cache_bytes=600 if seed % 3 else 1 << 20,
        )
        self.random = self.network.random
        self.checker = Checker(self.network)
        self.count = 0
        self.loss = self.random.choice([0.0, 0.05, 0.3])
        #: Some runs change the cluster again and again, others never.
        self.restless = self.random.choice([0.0, 0.02, 0.1])
        #: In some runs messages come together, with dice of their own.
        self.gathers = Random(seed)  # noqa: S311 - repeatable
        self.together = 0.7 if seed % 4 == 3 else 0.0
        self.gathered: set[str] = set()

    def run(self) -> None:
        """Take random steps, then heal everything and expect progress."""
        for step in range(self.steps):
            self.step()
            if step % 50 == 0:
                self.checker.check_log_matching()
        self.finish()

    def step(self) -> None:
        """Take one random step."""
        network, dice = self.network, self.random.random()
        if self.random.random() < self.restless:
            self.change()
        if dice < 0.55:
            for _ in range(1 + len(network.queue) // 8):
                self.shuffle_one()
            self.deal_with_all()
        elif dice < 0.80:
            name = self.random.choice(network.names)
            if name in network.rafts:
                network.tick(name)
        elif dice < 0.91:
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
        peer, _ = network.queue[position]
        # A transport hands messages over together that came together.
        is_last = self.gathers.random() >= self.together
        if not is_last:
            self.gathered.add(peer)
        network.deliver(position, is_last=is_last)

    def deal_with_all(self) -> None:
        """Let everybody deal with what came together."""
        for name in sorted(self.gathered & self.network.rafts.keys()):
            self.network.pump(name)
        self.gathered.clear()

    def propose(self) -> None:
        """Let each leader, perhaps a deposed one among them, take commands."""
        network = self.network
        for name in network.leaders():
            count = self.random.randrange(1, 4)
            commands = [f"c{self.count + i}".encode() * 5 for i in range(count)]
            self.count += count
            with suppress(RejectedError):  # it may be handing over
                network.propose(name, *commands)

    def change(self) -> None:
        """Let each leader be asked for any membership at all."""
        network = self.network
        if len(network.names) < len(_NAMES) and self.random.random() < 0.3:
            network.add(_NAMES[len(network.names)])
        voters = self.some(1)
        learners = set(self.some(0)) - set(voters)
        for name in network.leaders():
            with suppress(RejectedError):
                if self.random.random() < 0.2:
                    # This gives up waiting for anybody.
                    voters = list(network.rafts[name].state.membership.voters)
                    learners -= set(voters)
                network.change(name, voters, learners)

    def some(self, least: int) -> Sequence[str]:
        """Return some of the servers, in any order."""
        names = self.network.names
        return self.random.sample(names, self.random.randint(least, len(names)))

    def disturb(self) -> None:  # noqa: C901, PLR0912 - a list of disturbances
        """Crash, restart, cut, heal, slow down, speed up, hand over, compact."""
        network = self.network
        name = self.random.choice(network.names)
        other = self.random.choice(network.names)
        is_up = name in network.rafts
        match self.random.randrange(22):
            case 0 if is_up:
                network.crash(name)
            case 1 | 2:
                self.restart_all()
            case 3:
                network.cut.add((name, other))
            case 4 | 7:
                network.heal()
            case 8:
                network.isolate(*self.some(1))
            case 9 | 10 | 11 if is_up and self.may_stand(name):
                network.campaign(name)
            case 12 | 13 if name in network.leaders():
                with suppress(InvalidChangeError):
                    network.transfer(name, self.random.choice([None, other]))
            case 5 if is_up:
                network.slow.add(name)
            case 6 if is_up:
                network.sync(name, self.random.randrange(1, 4))
                if self.random.random() < 0.5:
                    network.slow.discard(name)
                    network.sync(name)
            case 14 | 15 | 16 if is_up and self.may_snapshot(name):
                network.snapshot(name)
            case 17 if is_up:
                network.slow_installing.add(name)
            case 18 if is_up:
                network.slow_installing.discard(name)
                network.install(name)
            case 19 if is_up:
                network.slow_reading.add(name)
            case 20 | 21 if is_up:
                network.slow_reading.discard(name)
                network.fetch(name)

    def may_stand(self, name: str) -> bool:
        """Say whether *name* would stand for election if it heard nobody."""
        state = self.network.rafts[name].state
        return state.may_stand() and state.role is not Role.LEADER

    def may_snapshot(self, name: str) -> bool:
        """Say whether the state machine of *name* has a state that is its own."""
        state = self.network.rafts[name].state
        return state.restoring is None and state.log.last_applied > 0

    def restart_all(self) -> None:
        """Start whoever is down."""
        for name in self.network.names:
            if name not in self.network.rafts:
                self.network.restart(name)

    def heal(self) -> None:
        """Mend whatever is cut, down or slow."""
        network = self.network
        network.heal()
        for slow in (network.slow, network.slow_installing, network.slow_reading):
            slow.clear()
        self.restart_all()
        for name in network.names:
            network.sync(name)
            network.install(name)
            network.fetch(name)

    def finish(self) -> None:
        """Heal all; a leader emerges, the change ends, all members apply a command."""
        network = self.network
        self.heal()
        # A leader that is about to hand over takes no command; its heir does.
        for _ in range(20):
            network.pass_time(40)
            self.stop_the_removed()
            with suppress(RejectedError, ValueError):
                network.propose(self.chief(), b"the last one")
                break
        network.pass_time(40)
        self.checker.check_log_matching()
        state = network.rafts[self.chief()].state
        membership = state.membership
        assert not membership.is_joint
        assert not membership.target
        assert state.membership_index <= state.log.commit_index
        for name in membership.members():
            assert network.commands(name)[-1] == b"the last one"
            assert network.rafts[name].state.membership == membership

    def stop_the_removed(self) -> None:
        """Without loyalty to a leader, they would disturb it for ever (§4.2.3)."""
        network = self.network
        if network.tuning.stable_leader:
            return
        for leader in network.leaders():
            state = network.rafts[leader].state
            is_over = not (state.membership.is_joint or state.membership.target)
            if is_over and state.membership_index <= state.log.commit_index:
                for name in network.rafts.keys() - state.membership.members().keys():
                    if name != leader:
                        network.crash(name)
                return

    def chief(self) -> str:
        """Return who leads in the newest term: a removed one may not know yet."""
        network = self.network
        return max(network.leaders(), key=lambda name: network.rafts[name].state.term)


@pytest.mark.parametrize("seed", range(100))
def test_no_schedule_breaks_a_property(seed: int) -> None:
    """Figure 3.2 holds after every step; afterwards the cluster goes on."""
    Schedule(seed).run()
