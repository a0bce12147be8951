"""When a state was the newest, and when a lease ends."""

from __future__ import annotations

from dataclasses import replace

from consensus.core.messages import AppendEntries, AppendEntriesResponse
from consensus.shell.freshness import Freshness
from tests.support.network import STABLE, Network, alone

_TUNING = replace(STABLE, heartbeat_ticks=1)


class World:
    """One server whose peers, and whose clock, are the test's."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.now = 100.0
        raft = network.rafts["s1"]
        self.freshness = Freshness(raft, lambda: self.now, 10.0, 5.0)

    def beat(self) -> int:
        """Let the leader send a heartbeat; return its round."""
        raft = self.network.rafts["s1"]
        raft.tick()
        self.freshness.about_to_send()
        self.network.pump("s1")
        return raft.state.round

    def answer(self, round_: int, term: int = 2) -> None:
        """Let s2 answer, with all of the log."""
        last = self.network.rafts["s1"].state.log.last_index
        self.network.step("s1", AppendEntriesResponse("s2", term, True, last, round_))  # noqa: FBT003 - a field
        self.freshness.about_to_send()


def _leading() -> World:
    network = Network(tuning=_TUNING)
    network.elect("s1")
    world = World(network)
    world.freshness.about_to_send()
    return world


def _following() -> World:
    network = alone(1, tuning=STABLE)
    return World(network)


class LeaseTests:
    """A leader's lease."""

    def test_begins_when_its_round_did(self) -> None:
        """However long the answer took."""
        world = _leading()
        assert not world.freshness.has_lease()
        number = world.beat()
        world.now += 9.0
        world.answer(number)
        assert world.freshness.has_lease()
        world.now += 1.0
        assert not world.freshness.has_lease()

    def test_many_rounds_under_way_take_bounded_memory(self) -> None:
        """The last ones count from an earlier moment than theirs, never a later."""
        world = _leading()
        for _ in range(600):
            world.now += 0.01
            world.network.rafts["s1"].state.round += 1
            world.freshness.about_to_send()
        number = world.network.rafts["s1"].state.round
        began = 100.0 + 2.56
        world.answer(number)
        world.now = began + 9.9
        assert world.freshness.has_lease()
        world.now = began + 10.1
        assert not world.freshness.has_lease()


class AgeTests:
    """A follower's age."""

    def _hear(self, world: World, commit_index: int = 2) -> None:
        message = AppendEntries("s2", 2, 2, 2, commit_index, 0)
        world.network.step("s1", message)
        world.freshness.heard(message)

    def _world(self) -> World:
        world = _following()
        world.network.store("s1", 2, term=2)
        world = World(world.network)
        self._hear(world)
        return world

    def test_is_that_of_the_last_message(self) -> None:
        """Of the current leader."""
        world = self._world()
        assert world.freshness.age() == 0.0
        world.now += 2.0
        assert world.freshness.age() == 2.0
        self._hear(world)
        assert world.freshness.age() == 0.0

    def test_after_a_pause_messages_say_nothing_for_a_while(self) -> None:
        """They may have waited as long as the process stood still."""
        world = self._world()
        world.now += 60.0
        self._hear(world)
        assert world.freshness.age() == 60.0
        world.freshness.ticked()
        self._hear(world)
        assert world.freshness.age() == 60.0
        for _ in range(6):
            world.now += 1.0
            world.freshness.ticked()
        self._hear(world)
        assert world.freshness.age() == 0.0

    def test_of_an_older_leader_says_nothing(self) -> None:
        """It was deposed."""
        world = self._world()
        world.now += 1.0
        world.network.step("s1", AppendEntries("s3", 3, 2, 2, 2, 0))
        world.freshness.heard(AppendEntries("s2", 2, 2, 2, 2, 0))
        assert world.freshness.age() == 1.0
