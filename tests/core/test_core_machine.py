"""
Hypothesis drives the core: any order of anything, and no property breaks.

The rules are what a network, disks and people may do to servers; the oracles
are those of the random schedules.  Hypothesis shortens what breaks one.
"""

from __future__ import annotations

from contextlib import suppress

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from consensus.core.reads import MAX_WAITING
from consensus.core.state import Tuning
from consensus.core.values import Role
from consensus.errors import NotLeaderError, RejectedError
from tests.simulation.test_random_schedules import Checker
from tests.support.network import Network

_ALL = ("s1", "s2", "s3", "s4")
_MOST_WAITING = 300

names = st.sampled_from(_ALL)
positions = st.integers(0, 1 << 16)


class Core(RuleBasedStateMachine):
    """Three servers, one in reserve, and whatever happens to them."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        #: What the newest commit index was when each read began.
        self.asked: dict[int, int] = {}

    @initialize(
        stable=st.booleans(),
        seed=st.integers(0, 7),
        tail=st.sampled_from([0, 3, 50]),
        cache=st.sampled_from([0, 1 << 20]),
        leads=st.booleans(),
    )
    def start(
        self, *, stable: bool, seed: int, tail: int, cache: int, leads: bool
    ) -> None:
        """Found a cluster; often with a leader, as most things need one."""
        tuning = Tuning(
            heartbeat_ticks=1,
            election_ticks=3,
            max_append_bytes=20,
            max_inflight=2,
            max_apply_bytes=30,
            stable_leader=stable,
            log_tail=tail,
        )
        self.network = Network(_ALL[:3], seed=seed, tuning=tuning, cache_bytes=cache)
        self.checker = Checker(self.network)
        if leads:
            self.network.elect("s1")

    def is_up(self, name: str) -> bool:
        """Say whether *name* runs."""
        return name in self.network.rafts

    def any_leader(self, position: int) -> str | None:
        """Return one of those who think that they lead."""
        leaders = self.network.leaders()
        return leaders[position % len(leaders)] if leaders else None

    # --- the network -----------------------------------------------------------

    @precondition(lambda self: self.network.queue)
    @rule(at=positions)
    def deliver(self, at: int) -> None:
        """Deliver any message, not always the oldest."""
        self.network.deliver(at % len(self.network.queue))

    @precondition(lambda self: self.network.queue)
    @rule(count=st.integers(1, 30))
    def deliver_some(self, count: int) -> None:
        """Deliver the oldest messages, and what they cause."""
        for _ in range(count):
            if self.network.queue:
                self.network.deliver()

    @precondition(lambda self: self.network.queue)
    @rule(at=positions)
    def lose(self, at: int) -> None:
        """Lose any message."""
        self.network.queue.pop(at % len(self.network.queue))

    @precondition(lambda self: self.network.queue)
    @rule(at=positions)
    def duplicate(self, at: int) -> None:
        """Let any message arrive twice."""
        queue = self.network.queue
        queue.append(queue[at % len(queue)])

    @rule(sender=names, receiver=names)
    def cut(self, sender: str, receiver: str) -> None:
        """Cut one direction of a link."""
        self.network.cut.add((sender, receiver))

    @rule(name=names)
    def isolate(self, name: str) -> None:
        """Cut all links of one."""
        self.network.isolate(name)

    @rule()
    def heal(self) -> None:
        """Mend all links."""
        self.network.heal()

    # --- servers and their disks -------------------------------------------------

    @rule(name=names, count=st.integers(1, 7))
    def tick(self, name: str, count: int) -> None:
        """Let time pass for one server: clocks are not alike."""
        if self.is_up(name):
            self.network.tick(name, count)

    @rule(ticks=st.integers(1, 9))
    def let_time_pass(self, ticks: int) -> None:
        """Let time pass for all; what is sent arrives, where nothing is cut."""
        self.network.pass_time(ticks)

    @rule(name=names, count=st.integers(1, 3))
    def go_on(self, name: str, count: int) -> None:
        """Let all be well for some time, but for one that nobody hears."""
        self.network.heal()
        self.network.isolate(name)
        self.let_time_pass(7)
        for number in range(len(self.network.leaders())):
            self.propose(number, count)
        self.network.settle()

    @rule(name=names)
    def crash(self, name: str) -> None:
        """Stop one; what was not synced is lost."""
        if self.is_up(name):
            self.network.crash(name)

    @rule(name=names)
    def restart(self, name: str) -> None:
        """Start one that is down."""
        if name in self.network.names and not self.is_up(name):
            self.network.restart(name)

    @rule(name=names)
    def slow_down(self, name: str) -> None:
        """Let writes, reads and installations of one disk wait."""
        network = self.network
        for slow in (network.slow, network.slow_reading, network.slow_installing):
            slow.add(name)

    @rule(name=names, count=st.integers(1, 3))
    def sync(self, name: str, count: int) -> None:
        """Let some writes of a slow disk finish."""
        if self.is_up(name):
            self.network.sync(name, count)

    @rule(name=names)
    def speed_up(self, name: str) -> None:
        """Let all that waits for a disk finish."""
        network = self.network
        for slow in (network.slow, network.slow_reading, network.slow_installing):
            slow.discard(name)
        if self.is_up(name):
            network.sync(name)
            network.install(name)
            network.fetch(name)

    @rule(name=names)
    def snapshot(self, name: str) -> None:
        """Let one take a snapshot."""
        if self.is_up(name):
            state = self.network.rafts[name].state
            if state.restoring is None and state.log.last_applied:
                self.network.snapshot(name)

    # --- people --------------------------------------------------------------------

    @rule(which=positions, count=st.integers(1, 4))
    def propose(self, which: int, count: int) -> None:
        """Let a leader, perhaps a deposed one, take commands."""
        leader = self.any_leader(which)
        if leader is not None:
            self.count += count
            commands = [f"c{self.count - each}".encode() * 3 for each in range(count)]
            with suppress(RejectedError):
                self.network.propose(leader, *commands)

    @rule(
        which=positions,
        voters=st.sets(names, min_size=1),
        learners=st.sets(names, max_size=2),
    )
    def change(self, which: int, voters: set[str], learners: set[str]) -> None:
        """Ask a leader for any membership at all."""
        network, leader = self.network, self.any_leader(which)
        if "s4" in voters | learners and "s4" not in network.names:
            network.add("s4")
        if leader is not None:
            with suppress(RejectedError):
                network.change(leader, sorted(voters), sorted(learners - voters))

    @rule(which=positions, to=names | st.none())
    def transfer(self, which: int, to: str | None) -> None:
        """Ask a leader to hand over."""
        leader = self.any_leader(which)
        if leader is not None:
            with suppress(RejectedError):
                self.network.transfer(leader, to)

    @rule(which=positions)
    def read_from_a_leader(self, which: int) -> None:
        """Ask who leads, or thinks so, for a read."""
        leader = self.any_leader(which)
        if leader is not None:
            self.read(leader)

    @rule(name=names)
    def read(self, name: str) -> None:
        """Ask any server for a read."""
        if not self.is_up(name):
            return
        self.count += 1
        newest = len(self.checker.committed)
        with suppress(NotLeaderError):
            self.network.rafts[name].read_index(self.count)
            self.asked[self.count] = newest
            self.network.pump(name)

    # --- what must hold ----------------------------------------------------------

    @invariant()
    def logs_match(self) -> None:
        """See that logs match; the rest is checked within each step."""
        if hasattr(self, "checker"):
            self.checker.check_log_matching()

    @invariant()
    def reads_see_what_was_committed(self) -> None:
        """See that a read is served behind all that was applied when it began."""
        if not hasattr(self, "network"):
            return
        for name in self.network.names:
            for read_id, index in self.network.reads[name]:
                assert index >= self.asked[read_id]

    @invariant()
    def memory_is_bounded(self) -> None:
        """See that what waits for others stays within its bounds."""
        if not hasattr(self, "network"):
            return
        for raft in self.network.rafts.values():
            state = raft.state
            assert state.progress.keys() <= set(_ALL)
            # A question that comes twice waits twice.
            assert len({(each.asker, each.id) for each in state.reads}) <= self.count
            assert len(state.reads) <= MAX_WAITING
            assert state.votes <= set(_ALL)
            if state.role is not Role.LEADER:
                assert not state.reads
        # The network of the tests has no bound; a real one loses.
        del self.network.queue[:-_MOST_WAITING]


_effort = settings(
    max_examples=300,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def test_no_order_of_anything_breaks_a_property() -> None:
    """Figure 3.2, and reads that see what was committed before them."""
    run_state_machine_as_test(Core, settings=_effort)
