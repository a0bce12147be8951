"""Tests of contrib.election.client and .registration, in virtual time."""

from __future__ import annotations

import pytest
from twisted.internet.defer import CancelledError

from consensus.applications.lease_commands import EndLease
from consensus.errors import InvalidCommandError, RaftError
from contrib.election import (
    CandidacyLostError,
    ElectionClient,
    ElectionMachine,
    SupersededError,
    TooManyError,
)
from contrib.election import state as state_module
from tests.support.deferreds import error_of, has_fired, result_of
from tests.support.simulated import SimulatedWorld

TTL = 4.0


class World(SimulatedWorld):
    """A cluster, and clients of its elections."""

    def __init__(self, servers: int = 1) -> None:
        super().__init__(ElectionMachine, servers)

    def client(self, name: str = "ada") -> ElectionClient:
        """Return a client on a host of its own."""
        return ElectionClient(self.cluster_client(name), timeout=2.0)

    def addresses(self) -> list[str]:
        """Return where the instances of ``web`` are."""
        found = self.done(self.client("eve").discover("web"))
        return [each.address for each in found.instances]


@pytest.fixture
def world() -> World:
    """Return a new world."""
    return World()


class CampaignTests:
    """Standing for election."""

    def test_alone(self, world: World) -> None:
        ada = world.client()
        office = world.done(ada.campaign("cron", "ada", ttl=TTL))
        assert (office.name, office.candidate, office.term) == ("cron", "ada", 1)
        assert office.is_leader
        leader = world.done(ada.leader("cron"))
        assert (leader.candidate, leader.term) == ("ada", 1)
        world.run(10 * TTL)
        assert office.is_leader

    def test_the_next_in_turn(self, world: World) -> None:
        office = world.done(world.client().campaign("cron", "ada", ttl=TTL))
        waiting = world.client("bob").campaign("cron", "bob", ttl=TTL)
        world.run(3 * TTL)
        assert not has_fired(waiting)
        world.done(office.resign())
        assert not office.is_leader
        assert world.done(waiting).term == 2

    def test_a_leader_that_is_cut_off(self, world: World) -> None:
        """It knows first, and has the margin to stop in."""
        office = world.done(world.client().campaign("cron", "ada", ttl=TTL, margin=1.0))
        waiting = world.client("bob").campaign("cron", "bob", ttl=TTL)
        world.run(0.5)
        world.cut_off("ada")
        lost = office.lost
        while not has_fired(lost):
            world.run(0.01)
        assert not office.is_leader
        world.run(0.99)
        assert not has_fired(waiting)
        assert world.done(waiting).term == 2

    def test_giving_up(self, world: World) -> None:
        world.done(world.client().campaign("cron", "ada", ttl=TTL))
        waiting = world.client("bob").campaign("cron", "bob", ttl=TTL)
        world.run(0.5)
        waiting.cancel()
        assert isinstance(error_of(waiting), CancelledError)
        world.run(0.5)
        assert len(world.state().leases) == 1

    def test_a_place_in_the_queue_is_lost(self, world: World) -> None:
        world.done(world.client().campaign("cron", "ada", ttl=TTL))
        waiting = world.client("bob").campaign("cron", "bob", ttl=TTL)
        world.run(0.5)
        world.cluster.write(EndLease(2))
        with pytest.raises(CandidacyLostError):
            world.done(waiting)
        again = world.client("eve").campaign("cron", "eve", ttl=TTL)
        world.run(0.5)
        world.cut_off("eve")
        with pytest.raises(CandidacyLostError):
            world.done(again)

    def test_an_election_that_is_heard_of_too_late(self, world: World) -> None:
        """By a process that stood still."""
        ada = world.client()
        standing = ada.campaign("cron", "ada", ttl=TTL)
        world.cluster.until(lambda: len(world.state().leases))
        world.run(0.004)
        ada.cluster.clock.pause()
        world.run(TTL)
        ada.cluster.clock.resume()
        with pytest.raises(CandidacyLostError):
            world.done(standing)

    def test_a_change_of_the_clusters_leader(self) -> None:
        """Whoever leads in the application goes on."""
        world = World(3)
        office = world.done(world.client().campaign("cron", "ada", ttl=TTL))
        waiting = world.client("bob").campaign("cron", "bob", ttl=TTL)
        for _ in range(3):
            world.run(1.0)
            name = world.cluster.leader().name
            world.cluster.crash(name)
            world.run(3.0)
            world.cluster.restart(name)
        assert office.is_leader
        assert not has_fired(waiting)

    def test_a_default_name(self, world: World) -> None:
        office = world.done(world.client().campaign("cron", ttl=TTL))
        assert ":" in office.candidate

    @pytest.mark.parametrize("margin", [-0.1, 1.7])
    def test_a_margin_that_cannot_be(self, world: World, margin: float) -> None:
        with pytest.raises(ValueError, match="margin"):
            world.client().campaign("cron", ttl=TTL, margin=margin)

    def test_what_cannot_be(self, world: World) -> None:
        ada = world.client()
        for call in (
            ada.campaign("", ttl=TTL),
            ada.campaign("cron", "", ttl=TTL),
            ada.campaign("cron", ttl=0.01),
            ada.leader(""),
            ada.observe("", 0),
            ada.observe("cron", -1),
            ada.register("", "w", "tcp:1"),
            ada.register("web", "w", "x" * 2000),
            ada.register("web", "w", "tcp:1", ttl=0.01),
            ada.watch("web", -1),
        ):
            with pytest.raises(InvalidCommandError):
                world.done(call)
        assert not world.state().items

    def test_too_many(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(state_module, "MAX_ITEMS", 0)
        with pytest.raises(TooManyError):
            world.done(world.client().campaign("cron", ttl=TTL))
        world.run(0.1)
        assert not len(world.state().leases)

    def test_addresses_need_the_reactor(self) -> None:
        with pytest.raises(TypeError, match="needs the reactor"):
            ElectionClient(["tcp:127.0.0.1:9101"])


class ObserveTests:
    """Being told who leads."""

    def test_each_change(self, world: World) -> None:
        eve = world.client("eve")
        observing = eve.observe("cron", 0)
        world.run(25.0)
        assert not has_fired(observing)
        office = world.done(world.client().campaign("cron", "ada", ttl=TTL))
        world.run(0.1)
        assert result_of(observing).candidate == "ada"
        observing = eve.observe("cron", office.term)
        world.run(1.0)
        assert not has_fired(observing)
        office.resign()
        assert world.done(observing) is None

    def test_through_a_cut(self, world: World) -> None:
        """It goes on by itself."""
        eve = world.client("eve")
        observing = eve.observe("cron", 0)
        world.cut_off("eve")
        world.run(30.0)
        world.done(world.client().campaign("cron", "ada", ttl=TTL))
        world.cluster.heal()
        assert world.done(observing).candidate == "ada"

    def test_until_the_client_is_closed(self, world: World) -> None:
        eve = world.client("eve")
        observing = eve.observe("cron", 0)
        watching = eve.watch("web", 0)
        world.run(1.0)
        world.done(eve.close())
        for each in (observing, watching):
            with pytest.raises(RaftError):
                world.done(each)


class RegisterTests:
    """Services and where they are."""

    def test_registering(self, world: World) -> None:
        registration = world.done(
            world.client().register("web", "w1", "tcp:1", {"zone": "north"}, ttl=TTL)
        )
        assert registration.is_registered
        [found] = world.done(world.client("eve").discover("web")).instances
        assert (found.instance, found.address) == ("w1", "tcp:1")
        assert found.metadata == {"zone": "north"}
        world.run(10 * TTL)
        assert world.addresses() == ["tcp:1"]
        world.done(registration.deregister())
        world.done(registration.deregister())
        assert world.addresses() == []
        world.run(10 * TTL)
        assert not len(world.state().leases)

    def test_updating(self, world: World) -> None:
        registration = world.done(
            world.client().register("web", "w1", "tcp:1", ttl=TTL)
        )
        world.done(registration.update("tcp:2", {"a": "b"}))
        assert world.addresses() == ["tcp:2"]
        with pytest.raises(InvalidCommandError):
            world.done(registration.update("x" * 2000))
        world.cluster.write(EndLease(1))
        world.run(TTL)
        assert world.addresses() == ["tcp:2"]

    def test_one_that_is_cut_off(self, world: World) -> None:
        """It is gone after a while, and there again when it is back."""
        ada = world.client()
        registration = world.done(ada.register("web", "w1", "tcp:1", ttl=TTL))
        world.cut_off("ada")
        world.run(2 * TTL)
        assert world.addresses() == []
        assert not registration.is_registered
        updating = registration.update("tcp:2")
        world.run(0.1)
        assert has_fired(updating)
        world.cluster.heal()
        world.run(4.0)
        assert world.addresses() == ["tcp:2"]

    def test_updates_while_it_is_registered_anew(self, world: World) -> None:
        """The last one counts, whenever it comes."""
        ada = world.client()
        registration = world.done(ada.register("web", "w1", "tcp:0", ttl=TTL))
        for step in range(1, 12):
            world.cluster.write(EndLease(world.state().leases.last))
            world.run(TTL / 3 + 0.004 * step)
            registration.update(f"tcp:{step}").addErrback(lambda _: None)
            world.run(TTL)
            assert world.addresses() == [f"tcp:{step}"]
        assert world.state().items == 1

    def test_ended_by_the_servers_between(self, world: World) -> None:
        """An update that finds no lease is said with the next one."""
        registration = world.done(
            world.client().register("web", "w1", "tcp:1", ttl=TTL)
        )
        world.cluster.write(EndLease(1))
        world.done(registration.update("tcp:2"))
        world.run(0.2)
        assert world.addresses() == ["tcp:2"]

    def test_another_process_takes_over(self, world: World) -> None:
        """The older one says nothing any more."""
        older = world.done(world.client().register("web", "w1", "tcp:1", ttl=TTL))
        newer = world.done(world.client("bob").register("web", "w1", "tcp:2", ttl=TTL))
        with pytest.raises(SupersededError):
            world.done(older.update("tcp:3"))
        world.run(3 * TTL)
        assert world.addresses() == ["tcp:2"]
        assert older.is_superseded
        assert not older.is_registered
        world.done(older.deregister())
        assert newer.is_registered

    def test_an_older_process_that_comes_back(self, world: World) -> None:
        """It finds that another has taken its place."""
        older = world.done(world.client().register("web", "w1", "tcp:1", ttl=TTL))
        world.cut_off("ada")
        world.run(2 * TTL)
        world.done(world.client("bob").register("web", "w1", "tcp:2", ttl=TTL))
        world.cluster.heal()
        world.run(2 * TTL)
        assert older.is_superseded
        assert world.addresses() == ["tcp:2"]
        assert len(world.state().leases) == 1
        world.done(older.deregister())

    def test_giving_up(self, world: World) -> None:
        """Nothing is left of one that is cancelled, at whatever moment."""
        ada = world.client()
        for step in range(20):
            registering = ada.register("web", "w1", "tcp:1", ttl=TTL)
            world.run(0.001 * step)
            registering.cancel()
            registering.addCallbacks(lambda one: one.deregister(), lambda _: None)
            world.run(TTL + 1)
            assert not world.state().items
            assert not len(world.state().leases)

    def test_deregistering_while_it_is_lost(self, world: World) -> None:
        registration = world.done(
            world.client().register("web", "w1", "tcp:1", ttl=TTL)
        )
        world.cut_off("ada")
        world.run(2 * TTL)
        world.done(registration.deregister())
        world.cluster.heal()
        world.run(2 * TTL)
        assert world.addresses() == []
        assert not len(world.state().leases)


class WatchTests:
    """Being told what has changed."""

    def test_each_change(self) -> None:
        """At any server, and never what is older."""
        world = World(3)
        eve = world.client("eve")
        watching = eve.watch("web", 0)
        world.run(25.0)
        assert not has_fired(watching)
        registration = world.done(
            world.client().register("web", "w1", "tcp:1", ttl=TTL)
        )
        found = world.done(watching)
        assert [each.address for each in found.instances] == ["tcp:1"]
        watching = eve.watch("web", found.revision)
        world.run(1.0)
        assert not has_fired(watching)
        world.done(registration.deregister())
        found = world.done(watching)
        assert found.instances == ()
