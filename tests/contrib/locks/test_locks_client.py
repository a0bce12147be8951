"""Tests of contrib.locks.client, of a cluster in virtual time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from consensus.applications.lease_commands import EndLease
from consensus.errors import InvalidCommandError, RaftError
from contrib.locks import (
    LockConflictError,
    LockLostError,
    LocksClient,
    LocksMachine,
    LockTimeoutError,
    TooManyLocksError,
    WrongTokenError,
)
from contrib.locks import state as state_module
from contrib.locks.commands import Withdraw
from tests.support.deferreds import error_of, has_fired, result_of
from tests.support.simulated import SimulatedWorld

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from contrib.locks import HeldLock

TTL = 4.0


class World(SimulatedWorld):
    """A cluster, and clients of its locks."""

    def __init__(self, servers: int = 1) -> None:
        super().__init__(LocksMachine, servers)

    def client(self, name: str = "ada", ttl: float = TTL) -> LocksClient:
        """Return a client on a host of its own."""
        return LocksClient(self.cluster_client(name), ttl=ttl, owner=name)


@pytest.fixture
def world() -> World:
    """Return a new world."""
    return World()


class AcquireTests:
    """Acquiring and releasing."""

    def test_a_mutex(self, world: World) -> None:
        async def use() -> tuple[int, int]:
            async with world.client().mutex("a") as lock:
                assert lock.is_held
                assert lock.name == "a"
                first = lock.token
            assert [lock.is_held] == [False]
            async with world.client("bob").mutex("a") as lock:
                return first, lock.token

        assert world.done(use()) == (1, 2)
        assert not world.state().locks

    def test_it_waits_for_its_turn(self, world: World) -> None:
        """It is granted at once when the one before releases it."""
        ada, bob = world.client(), world.client("bob")
        held = world.done(ada.mutex("a").acquire())
        waiting = bob.mutex("a").acquire()
        world.run(20.0)
        assert not has_fired(waiting)
        releasing = held.release()
        world.run(0.1)
        assert has_fired(releasing)
        assert has_fired(waiting)
        assert result_of(waiting).token == 2

    def test_readers_and_writers(self, world: World) -> None:
        client = world.client()
        one = world.done(client.reader("a").acquire())
        two = world.done(client.reader("a").acquire())
        writing = client.writer("a").acquire()
        world.done(one.release())
        world.run(1.0)
        assert not has_fired(writing)
        world.done(two.release())
        assert world.done(writing).is_held

    def test_a_semaphore(self, world: World) -> None:
        client = world.client()
        pool = client.semaphore("a", 2)
        one, two = world.done(pool.acquire()), world.done(pool.acquire())
        assert world.done(pool.try_acquire()) is None
        world.done(one.release())
        assert world.done(pool.try_acquire()).token == two.token + 1

    def test_differing_permits(self, world: World) -> None:
        client = world.client()
        world.done(client.semaphore("a", 2).acquire())
        with pytest.raises(LockConflictError, match="not a semaphore of 3"):
            world.done(client.semaphore("a", 3).acquire())
        with pytest.raises(LockConflictError):
            world.done(client.mutex("a").try_acquire())

    def test_trying(self, world: World) -> None:
        """What is not free is not waited for."""
        mutex = world.client().mutex("a")
        held = world.done(mutex.try_acquire())
        assert held.token == 1
        assert world.done(mutex.try_acquire()) is None
        assert world.state().tickets == 1

    def test_trying_again_after_a_lost_answer(self, world: World) -> None:
        """A refusal that was not heard is one all the same."""
        world.done(world.client("bob").mutex("a").acquire())
        client = world.client()
        world.done(client.mutex("b").acquire())
        trying = client.mutex("a").try_acquire()
        world.cluster.cut("s1", "ada")
        world.run(1.0)
        assert not has_fired(trying)
        world.cluster.heal()
        assert world.done(trying) is None

    def test_what_cannot_be(self, world: World) -> None:
        client = world.client()
        for lock in (
            client.mutex(""),
            client.mutex("x" * 256),
            client.semaphore("a", 0),
            client.semaphore("a", 1_000_001),
            client.mutex("\ud800"),
        ):
            with pytest.raises(InvalidCommandError):
                world.done(lock.acquire())
        with pytest.raises(InvalidCommandError):
            world.done(client.inspect(""))

    @pytest.mark.parametrize("ttl", [0.0, -1.0, 0.09, 86401.0])
    def test_ttls_that_cannot_be(self, world: World, ttl: float) -> None:
        with pytest.raises(InvalidCommandError):
            world.client(ttl=ttl)

    def test_too_many(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(state_module, "MAX_LEASE_TICKETS", 2)
        client = world.client()
        held = [world.done(client.mutex(name).acquire()) for name in "ab"]
        for _ in range(3):
            with pytest.raises(TooManyLocksError):
                world.done(client.mutex("c").acquire())
        world.done(held[0].release())
        assert world.done(client.mutex("c").acquire()).is_held
        [lease] = world.state().leases.by_number.values()
        assert not lease.scattered

    def test_an_object_is_entered_once(self, world: World) -> None:
        """Another for the same name may wait meanwhile."""

        async def twice() -> None:
            mutex = world.client().mutex("a")
            async with mutex:
                with pytest.raises(RuntimeError, match="make another"):
                    await mutex.__aenter__()
            async with mutex:
                pass

        world.done(twice())
        assert not world.state().locks

    def test_who_failed_to_enter_may_try_again(self, world: World) -> None:
        held = world.done(world.client("bob").mutex("a").acquire())
        mutex = world.client().mutex("a", timeout=1.0)

        async def enter() -> int:
            async with mutex as lock:
                return lock.token

        with pytest.raises(LockTimeoutError):
            world.done(enter())
        world.done(held.release())
        assert world.done(enter()) == 2

    def test_addresses_need_the_reactor(self) -> None:
        with pytest.raises(TypeError, match="needs the reactor"):
            LocksClient(["tcp:127.0.0.1:9101"])

    def test_an_owner_by_default(self, world: World) -> None:
        client = LocksClient(world.cluster.make_client("ada"))
        world.done(client.mutex("a").acquire())
        status = world.done(client.inspect("a"))
        assert ":" in status.holders[0].owner


class GiveUpTests:
    """Who gives up leaves no ticket behind."""

    def test_a_timeout(self, world: World) -> None:
        held = world.done(world.client().mutex("a").acquire())
        bob = world.client("bob")
        with pytest.raises(LockTimeoutError, match="was not granted within"):
            world.done(bob.mutex("a").acquire(timeout=1.5))
        world.run(0.5)
        assert world.state().tickets == 1
        world.done(held.release())
        world.run(0.5)
        assert not world.state().locks

    def test_cancelling(self, world: World) -> None:
        world.done(world.client().mutex("a").acquire())
        waiting = world.client("bob").mutex("a").acquire()
        world.run(0.5)
        assert world.state().tickets == 2
        waiting.cancel()
        assert isinstance(error_of(waiting), CancelledError)
        world.run(0.5)
        assert world.state().tickets == 1

    def test_it_crosses_a_grant(self, world: World) -> None:
        """What the servers have granted, and nobody has heard of, is released."""
        held = world.done(world.client().mutex("a").acquire())
        waiting = world.client("bob").mutex("a").acquire()
        world.run(0.5)
        world.cluster.cut("s1", "bob")
        world.done(held.release())
        waiting.cancel()
        assert isinstance(error_of(waiting), CancelledError)
        world.run(0.3)
        assert world.done(world.client("eve").inspect("a")).holders[0].token == 2
        world.cluster.heal()
        world.run(1.0)
        assert not world.state().locks

    def test_before_it_was_heard_of(self, world: World) -> None:
        """A ticket that comes after its withdrawal is none."""
        bob = world.client("bob")
        world.done(bob.mutex("b").acquire())
        waiting = bob.mutex("a").acquire()
        waiting.cancel()
        assert isinstance(error_of(waiting), CancelledError)
        world.run(1.0)
        assert list(world.state().locks) == ["b"]

    def test_at_any_moment(self, world: World) -> None:
        """Nothing is left, whenever it was cancelled."""
        bob = world.client("bob")
        for step in range(40):
            waiting = bob.mutex("a").acquire()
            world.run(0.0005 * step)
            waiting.cancel()
            waiting.addCallbacks(lambda held: held.release(), lambda _: None)
            world.run(0.2)
            assert has_fired(waiting)
            assert not world.state().locks


class LoseTests:
    """A lease that is not kept alive ends, here first."""

    def held(self, world: World) -> tuple[LocksClient, HeldLock]:
        """Return a client that holds a lock, and nothing else happens."""
        client = world.client()
        return client, world.done(client.mutex("a").acquire())

    def test_it_is_kept(self, world: World) -> None:
        _, lock = self.held(world)
        world.run(10 * TTL)
        assert lock.is_held
        assert not has_fired(lock.lost)

    def test_the_client_knows_first(self, world: World) -> None:
        _, lock = self.held(world)
        waiting = world.client("bob").mutex("a").acquire()
        lost = lock.lost
        world.cut_off("ada")
        while lock.is_held:
            assert not has_fired(lost)
            world.run(0.01)
        world.run(0.01)
        assert has_fired(lost)
        assert not has_fired(waiting)
        assert world.done(waiting).token == 2

    def test_who_held_it_is_told_at_the_end(self, world: World) -> None:
        """If it raises nothing else."""
        client = world.client()

        async def use(work: Callable[[], Awaitable[Any]]) -> None:
            async with client.mutex("a") as lock:
                world.cut_off("ada")
                await lock.lost
                world.cluster.heal()
                await work()

        async def fail() -> None:
            raise ZeroDivisionError

        async def nothing() -> None:
            pass

        with pytest.raises(LockLostError, match="others may have held it"):
            world.done(use(nothing))
        with pytest.raises(ZeroDivisionError):
            world.done(use(fail))

    def test_the_next_lock_has_another_lease(self, world: World) -> None:
        """It waits for the old one as anybody does: what it did may go on."""
        client, lock = self.held(world)
        lost = lock.lost
        world.cut_off("ada")
        world.run(0.92 * TTL)
        assert has_fired(lost)
        world.cluster.heal()
        acquiring = client.mutex("a").acquire()
        world.run(0.02)
        assert not has_fired(acquiring)
        again = world.done(acquiring)
        assert (again.token, again.is_held, lock.is_held) == (2, True, False)
        world.done(lock.release())
        assert world.done(client.inspect("a")).holding == 1

    def test_what_is_lost_is_released_too(self, world: World) -> None:
        """Whoever waits need not wait for the lease to end."""
        _, lock = self.held(world)
        waiting = world.client("bob").mutex("a").acquire()
        world.cut_off("ada")
        world.run(0.92 * TTL)
        world.cluster.heal()
        assert not has_fired(waiting)
        assert has_fired(lock.release())
        world.run(0.1)
        assert has_fired(waiting)

    def test_a_client_that_stood_still(self, world: World) -> None:
        """It sees at once that its time is over, before any timer fires."""
        _, lock = self.held(world)
        host: Any = lock._client.cluster.clock
        host.pause()
        world.run(TTL)
        assert not lock.is_held
        host.resume()
        world.run(1.0)
        assert has_fired(lock.lost)

    def test_a_place_in_the_queue_is_lost_too(self, world: World) -> None:
        self.held(world)
        waiting = world.client("bob").mutex("a").acquire()
        world.run(0.5)
        world.cut_off("bob")
        with pytest.raises(LockLostError):
            world.done(waiting)
        world.run(TTL)
        assert world.state().tickets == 1

    def stand_still(self, client: LocksClient, world: World) -> None:
        """Let the process of *client* stand still for longer than its lease."""
        host: Any = client.cluster.clock
        host.pause()
        world.run(TTL)
        host.resume()

    def granted(self, name: str, world: World) -> None:
        """Let time pass until the servers have granted a lock, and no longer."""
        while name not in world.state().locks:
            world.run(0.0002)

    def test_a_grant_that_is_heard_of_too_late(self, world: World) -> None:
        client, _ = self.held(world)
        trying = client.mutex("b").try_acquire()
        self.granted("b", world)
        self.stand_still(client, world)
        with pytest.raises(LockLostError, match="when 'b' was granted"):
            world.done(trying)

    def test_a_timeout_that_comes_too_late(self, world: World) -> None:
        """Then the lease is lost, which says more."""
        client, _ = self.held(world)
        waiting = client.mutex("a").acquire(timeout=1.0)
        world.run(0.5)
        self.stand_still(client, world)
        with pytest.raises(LockLostError, match="while it waited"):
            world.done(waiting)

    def test_a_ticket_that_has_ended(self, world: World) -> None:
        """As one does that was granted, and released by its token, unheard."""
        client, _ = self.held(world)
        world.cluster.write(Withdraw(1, 2))
        with pytest.raises(LockLostError, match="released by somebody"):
            world.done(client.mutex("b").acquire())
        assert world.done(client.mutex("b").acquire()).is_held

    def test_servers_that_have_ended_the_lease(self, world: World) -> None:
        """They know better: what waits is lost, and what begins has another."""
        client, _ = self.held(world)
        waiting = client.mutex("a").acquire()
        world.run(0.1)
        world.cluster.write(EndLease(1))
        with pytest.raises(LockLostError):
            world.done(waiting)
        assert world.done(client.mutex("b").acquire()).is_held

    def test_a_lease_that_is_gone_is_opened_anew(self, world: World) -> None:
        client, lock = self.held(world)
        world.cluster.write(EndLease(1))
        again = world.done(client.mutex("a").acquire())
        assert again.is_held
        assert not lock.is_held
        assert has_fired(lock.lost)

    def test_nobody_to_open_a_lease_at(self, world: World) -> None:
        world.cut_off("ada")
        client = world.client()
        with pytest.raises(RaftError):
            world.done(client.mutex("a").acquire())


class LeaderTests:
    """A change of the leader costs nobody a lock."""

    def test_it_is_held_on(self) -> None:
        world = World(3)
        lock = world.done(world.client().mutex("a").acquire())
        waiting = world.client("bob").mutex("a").acquire()
        for _ in range(3):
            world.run(1.0)
            leader = world.cluster.leader().name
            world.cluster.crash(leader)
            world.run(3.0)
            world.cluster.restart(leader)
        assert lock.is_held
        assert not has_fired(waiting)
        world.done(lock.release())
        assert world.done(waiting).token == 2


class ReleaseTests:
    """Giving back."""

    def test_twice(self, world: World) -> None:
        lock = world.done(world.client().mutex("a").acquire())
        one, two = lock.release(), lock.release()
        one.cancel()
        one.addErrback(lambda _: None)
        assert world.done(two) is None
        assert world.done(lock.release()) is None

    def test_it_is_not_held_from_then_on(self, world: World) -> None:
        """Before the servers have heard of it."""
        lock = world.done(world.client().mutex("a").acquire())
        lost = lock.lost
        lock.release()
        assert not lock.is_held
        world.cut_off("ada")
        world.run(3 * TTL)
        assert not has_fired(lost)
        assert not has_fired(lock.lost)

    def test_as_long_as_it_takes(self, world: World) -> None:
        """Servers that do not answer now are told later."""
        lock = world.done(world.client().mutex("a").acquire())
        world.cut_off("ada")
        releasing = lock.release()
        world.run(2.0)
        assert not has_fired(releasing)
        world.cluster.heal()
        world.done(releasing)
        assert not world.state().locks
        assert len(world.state().leases)

    def test_within_async_with(self, world: World) -> None:
        """Who has released it has not lost it."""

        async def use() -> None:
            async with world.client().mutex("a") as lock:
                await lock.release()

        world.done(use())

    def test_by_a_coroutine_that_nobody_continues(self, world: World) -> None:
        """What is thrown away leaves no lock behind."""

        async def hold() -> None:
            async with world.client().mutex("a"):
                await Deferred()

        holding = hold()
        Deferred.fromCoroutine(holding)
        world.run(0.5)
        assert world.state().locks
        holding.close()
        world.run(0.5)
        assert not world.state().locks

    def test_by_token(self, world: World) -> None:
        """Whoever has the token may; who has another may not."""
        lock = world.done(world.client().mutex("a").acquire())
        bob = world.client("bob")
        assert world.done(bob.release("a", lock.token)) is True
        assert world.done(bob.release("a", lock.token)) is False
        again = world.done(bob.mutex("a").acquire())
        assert world.done(bob.release("a", lock.token)) is False
        with pytest.raises(WrongTokenError):
            world.done(bob.release("a", 77))
        assert world.done(bob.inspect("a")).holders[0].token == again.token

    def test_a_held_lock_may_be_entered(self, world: World) -> None:
        async def use() -> bool:
            held = await world.client().mutex("a").try_acquire()
            assert held is not None
            async with held as lock:
                assert lock is held
            return held.is_held

        assert world.done(use()) is False
        assert not world.state().locks


class InspectTests:
    """Looking at a lock."""

    def test_a_lock(self, world: World) -> None:
        ada, bob = world.client(), world.client("bob")
        assert world.done(ada.inspect("a")) is None
        world.done(ada.mutex("a").acquire())
        bob.mutex("a").acquire()
        world.run(0.5)
        status = world.done(bob.inspect("a"))
        assert [each.owner for each in status.holders] == ["ada"]
        assert [each.owner for each in status.queue] == ["bob"]
        assert (status.permits, status.holding, status.waiting) == (1, 1, 1)


class CloseTests:
    """The end of a client."""

    def test_all_is_released(self, world: World) -> None:
        ada = world.client()
        lock = world.done(ada.mutex("a").acquire())
        waiting = world.client("bob").mutex("a").acquire()
        world.done(ada.close())
        assert not lock.is_held
        assert world.done(waiting).token == 2
        with pytest.raises(RaftError):
            world.done(ada.mutex("a").acquire())

    def test_who_waits_is_told(self, world: World) -> None:
        world.done(world.client("bob").mutex("a").acquire())
        ada = world.client()
        waiting = ada.mutex("a").acquire()
        world.run(0.5)
        world.done(ada.close())
        with pytest.raises(LockLostError):
            world.done(waiting)

    def test_without_servers(self, world: World) -> None:
        """It ends; the lease does by itself."""
        ada = world.client()
        lock = world.done(ada.mutex("a").acquire())
        world.cut_off("ada")
        lock.release()
        world.done(ada.close())
        world.run(3 * TTL)
        assert not len(world.state().leases)

    def test_without_ever_having_a_lease(self, world: World) -> None:
        world.done(world.client().close())
