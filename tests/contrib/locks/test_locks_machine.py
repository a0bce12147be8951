"""Tests of contrib.locks.machine and contrib.locks.state."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.applications import lease_table
from consensus.applications.lease_commands import EndLease, OpenLease, RenewLease
from consensus.errors import InvalidCommandError, StorageError
from consensus.interfaces import LATER, Tick
from consensus.testing.machine import StateMachineSuite
from contrib.locks import state as state_module
from contrib.locks.commands import Acquire, Inspect, Release, Wait, Withdraw
from contrib.locks.machine import LocksMachine
from contrib.locks.state import (
    LeaseEndedError,
    LockConflictError,
    TicketEndedError,
    TooManyLocksError,
    WrongTokenError,
)
from tests.support.driven import DrivenWithLeases

_LEASES = st.integers(1, 4)
_TICKETS = st.integers(1, 6)
_NAMES = st.sampled_from(["a", "b"])
_MODES = st.sampled_from(["mutex", "reader", "writer", "semaphore"])
_COMMANDS = (
    st.builds(OpenLease, st.integers(100, 500), st.sampled_from(["", "ada"]))
    | st.builds(RenewLease, _LEASES)
    | st.builds(EndLease, _LEASES)
    | st.builds(
        Acquire, _LEASES, _TICKETS, _NAMES, _MODES, st.integers(1, 2), st.booleans()
    )
    | st.builds(Acquire, _LEASES, _TICKETS, _NAMES, st.just("mutex"))
    | st.builds(Withdraw, _LEASES, _TICKETS)
    | st.builds(Release, _NAMES, st.integers(1, 10))
)
_QUERIES = st.builds(Wait, _LEASES, _TICKETS) | st.builds(Inspect, _NAMES)

_OPENED = [OpenLease(100, f"o{number}") for number in range(4)]


class TestLocks(StateMachineSuite):
    """The conformance suite, from all sorts of commands."""

    machine: ClassVar[Any] = LocksMachine
    # A query among them, which is no command.
    commands: ClassVar[Any] = _COMMANDS | _QUERIES
    queries: ClassVar[Any] = _QUERIES | st.builds(RenewLease, _LEASES)


class TestBusyLocks(TestLocks):
    """The same with a sequence in which much is held and waited for."""

    commands: ClassVar[Any] = (
        *_OPENED,
        Acquire(1, 1, "a", "mutex"),
        Acquire(2, 1, "a", "mutex"),
        Acquire(3, 7, "a", "mutex"),
        Acquire(3, 1, "b", "reader"),
        Acquire(1, 2, "b", "writer"),
        Acquire(2, 2, "b", "reader"),
        Acquire(4, 1, "c", "semaphore", 2),
        Acquire(3, 2, "c", "semaphore", 2),
        Acquire(1, 3, "c", "semaphore", 2),
        Acquire(1, 4, "c", "semaphore", 3),
        Withdraw(2, 1),
        Withdraw(2, 9),
        Release("a", 1),
        EndLease(4),
        RenewLease(1),
        RenewLease(4),
        Release("c", 99),
    )
    queries: ClassVar[Any] = (
        Wait(1, 1),
        Wait(3, 7),
        Inspect("a"),
        Inspect("b"),
        Inspect("d"),
    )


class Locks(DrivenWithLeases):
    """A machine with its state."""

    def __init__(self) -> None:
        super().__init__(LocksMachine())

    def token(self, lease: int, ticket: int = 1) -> Any:
        """Return what a ticket was granted, or ``LATER``."""
        return self.read(Wait(lease, ticket))


@pytest.fixture
def locks() -> Locks:
    """Return a machine with four leases of a second."""
    locks = Locks()
    locks.open(4)
    return locks


class MutexTests:
    """One holds it, the others queue up."""

    def test_first_come_first_served(self, locks: Locks) -> None:
        assert [locks.write(Acquire(each, 1, "a", "mutex")) for each in (2, 1, 3)] == [
            1,
            0,
            0,
        ]
        assert locks.write(Release("a", 1))
        assert (locks.token(1), locks.token(3)) == (2, LATER)
        assert locks.write(Release("a", 2))
        assert locks.token(3) == 3

    def test_names_are_apart(self, locks: Locks) -> None:
        """Each name has a queue, and all have one sequence of tokens."""
        assert locks.write(Acquire(1, 1, "a", "mutex")) == 1
        assert locks.write(Acquire(2, 1, "b", "mutex")) == 2

    def test_without_waiting(self, locks: Locks) -> None:
        assert locks.write(Acquire(1, 1, "a", "mutex", wait=False)) == 1
        assert locks.write(Acquire(2, 1, "a", "mutex", wait=False)) is None
        assert locks.write(Release("a", 1))
        assert locks.read(Inspect("a")) is None

    def test_one_lease_queues_up_behind_itself(self, locks: Locks) -> None:
        """A lock has no memory of who has it already."""
        assert locks.write(Acquire(1, 1, "a", "mutex")) == 1
        assert locks.write(Acquire(1, 2, "a", "mutex")) == 0

    def test_a_command_that_comes_twice(self, locks: Locks) -> None:
        """It is answered as it stands; what has ended does not come back."""
        asked = Acquire(1, 1, "a", "mutex")
        assert locks.write(asked) == locks.write(asked) == 1
        waits = Acquire(2, 1, "a", "mutex")
        assert locks.write(waits) == locks.write(waits) == 0
        assert locks.write(Release("a", 1))
        assert not locks.write(Release("a", 1))
        assert locks.write(waits) == 2
        with pytest.raises(TicketEndedError):
            locks.write(asked)
        with pytest.raises(TicketEndedError):
            locks.token(1)

    def test_a_ticket_is_for_one_lock(self, locks: Locks) -> None:
        locks.write(Acquire(1, 1, "a", "mutex"))
        with pytest.raises(LockConflictError, match="one for 'a'"):
            locks.write(Acquire(1, 1, "b", "mutex"))


class TokenTests:
    """Fencing tokens only rise."""

    def test_for_ever(self, locks: Locks) -> None:
        """Nothing of a lock is left when it is free, but its tokens count."""
        for expected in range(1, 6):
            assert locks.write(Acquire(1, expected, "a", "mutex")) == expected
            assert locks.write(Release("a", expected))
            assert not locks.state.locks
            locks.restart()
        locks.write(Tick(10_000))
        locks.open(1)
        assert locks.write(Acquire(5, 1, "a", "mutex")) == 6

    def test_a_wrong_token_releases_nothing(self, locks: Locks) -> None:
        locks.write(Acquire(1, 1, "a", "mutex"))
        locks.write(Release("a", 1))
        locks.write(Acquire(2, 1, "a", "mutex"))
        locks.write(Acquire(3, 1, "b", "mutex"))
        assert not locks.write(Release("a", 1))
        assert not locks.write(Release("a", 3))
        assert not locks.write(Release("c", 3))
        with pytest.raises(WrongTokenError, match="3 was the last"):
            locks.write(Release("a", 4))
        assert (locks.token(2), locks.token(3)) == (2, 3)


class ReadWriteTests:
    """Many readers, or one writer."""

    def test_readers_share(self, locks: Locks) -> None:
        assert locks.write(Acquire(1, 1, "a", "reader")) == 1
        assert locks.write(Acquire(2, 1, "a", "reader")) == 2
        assert locks.write(Acquire(3, 1, "a", "writer")) == 0
        locks.write(Release("a", 1))
        assert locks.token(3) is LATER
        locks.write(Release("a", 2))
        assert locks.token(3) == 3

    def test_a_reader_does_not_overtake_a_writer(self, locks: Locks) -> None:
        locks.write(Acquire(1, 1, "a", "reader"))
        locks.write(Acquire(2, 1, "a", "writer"))
        assert locks.write(Acquire(3, 1, "a", "reader")) == 0
        assert locks.write(Acquire(4, 1, "a", "reader", wait=False)) is None
        locks.write(Release("a", 1))
        assert (locks.token(2), locks.token(3)) == (2, LATER)
        locks.write(Release("a", 2))
        assert locks.token(3) == 3

    def test_readers_behind_a_writer_come_together(self, locks: Locks) -> None:
        locks.write(Acquire(1, 1, "a", "writer"))
        for lease in (2, 3):
            locks.write(Acquire(lease, 1, "a", "reader"))
        locks.write(Acquire(4, 1, "a", "writer"))
        locks.write(Release("a", 1))
        assert [locks.token(each) for each in (2, 3, 4)] == [2, 3, LATER]

    def test_a_writer_that_gives_up_lets_readers_in(self, locks: Locks) -> None:
        locks.write(Acquire(1, 1, "a", "reader"))
        locks.write(Acquire(2, 1, "a", "writer"))
        locks.write(Acquire(3, 1, "a", "reader"))
        assert locks.write(Withdraw(2, 1))
        assert locks.token(3) == 2


class SemaphoreTests:
    """So many, and no more."""

    def test_permits(self, locks: Locks) -> None:
        results = [
            locks.write(Acquire(each, 1, "a", "semaphore", 2)) for each in range(1, 5)
        ]
        assert results == [1, 2, 0, 0]
        locks.write(Release("a", 2))
        assert (locks.token(3), locks.token(4)) == (3, LATER)

    def test_other_permits_are_refused(self, locks: Locks) -> None:
        """While somebody holds it; then it is nobody's, and may be any lock."""
        locks.write(Acquire(1, 1, "a", "semaphore", 2))
        with pytest.raises(LockConflictError, match="semaphore of 2 permits"):
            locks.write(Acquire(2, 1, "a", "semaphore", 3))
        with pytest.raises(LockConflictError, match="not a mutex"):
            locks.write(Acquire(2, 1, "a", "mutex"))
        with pytest.raises(LockConflictError, match="not a read-write lock"):
            locks.write(Acquire(2, 1, "a", "reader"))
        locks.write(Release("a", 1))
        assert locks.write(Acquire(2, 1, "a", "reader")) == 2


class WithdrawalTests:
    """Who gives up leaves nothing behind."""

    def test_from_the_queue(self, locks: Locks) -> None:
        for lease in (1, 2, 3):
            locks.write(Acquire(lease, 1, "a", "mutex"))
        assert locks.write(Withdraw(2, 1))
        locks.write(Release("a", 1))
        assert locks.token(3) == 2

    def test_it_crosses_a_grant(self, locks: Locks) -> None:
        """What was granted meanwhile is released."""
        locks.write(Acquire(1, 1, "a", "mutex"))
        locks.write(Acquire(2, 1, "a", "mutex"))
        assert locks.write(Withdraw(1, 1))
        assert not locks.write(Withdraw(1, 1))
        assert locks.token(2) == 2

    def test_it_overtakes_what_it_withdraws(self, locks: Locks) -> None:
        """A ticket that comes after its withdrawal is refused."""
        assert not locks.write(Withdraw(1, 2))
        with pytest.raises(TicketEndedError):
            locks.write(Acquire(1, 2, "a", "mutex"))
        locks.restart()
        with pytest.raises(TicketEndedError):
            locks.write(Acquire(1, 2, "a", "mutex"))
        assert locks.write(Acquire(1, 1, "a", "mutex")) == 1

    def test_of_a_lease_that_has_ended(self, locks: Locks) -> None:
        assert not locks.write(Withdraw(9, 1))


class LeaseTests:
    """What a lease's end does, and when it is."""

    def test_all_is_released(self, locks: Locks) -> None:
        locks.write(Acquire(1, 1, "a", "mutex"))
        locks.write(Acquire(1, 2, "b", "mutex"))
        locks.write(Acquire(2, 1, "a", "mutex"))
        locks.write(Acquire(1, 3, "a", "mutex"))
        locks.write(Acquire(3, 1, "b", "mutex"))
        assert locks.write(EndLease(1))
        assert not locks.write(EndLease(1))
        assert (locks.token(2), locks.token(3)) == (3, 4)
        assert locks.state.tickets == 2
        with pytest.raises(LeaseEndedError):
            locks.token(1)
        with pytest.raises(LeaseEndedError):
            locks.write(Acquire(1, 9, "a", "mutex"))

    def test_at_its_deadline_and_not_before(self, locks: Locks) -> None:
        locks.write(Acquire(1, 1, "a", "mutex"))
        locks.write(Tick(999))
        assert locks.token(1) == 1
        locks.write(Tick(1000))
        with pytest.raises(LeaseEndedError):
            locks.token(1)
        assert not locks.state.locks

    def test_renewing(self, locks: Locks) -> None:
        assert locks.machine.next_time(locks.state) == 1000
        locks.write(Tick(600))
        assert locks.write(RenewLease(1))
        locks.write(Tick(1599))
        assert not locks.write(RenewLease(2))
        assert locks.machine.next_time(locks.state) == 1600
        locks.write(Tick(1600))
        assert not locks.write(RenewLease(1))
        assert locks.machine.next_time(locks.state) is None

    def test_leases_that_end_together(self, locks: Locks) -> None:
        """Nothing is granted to one of them."""
        for lease in (1, 2, 3):
            locks.write(Acquire(lease, 1, "a", "mutex"))
        locks.write(Tick(500))
        locks.write(RenewLease(3))
        locks.write(Tick(1200))
        assert locks.token(3) == 2

    def test_in_the_order_of_their_deadlines(self) -> None:
        """What they leave is granted in that order, then in that of tickets."""
        locks = Locks()
        for ttl in (900, 500, 700, 2000):
            locks.write(OpenLease(ttl))
        for lease, name in ((1, "a"), (2, "b"), (3, "c")):
            locks.write(Acquire(lease, 2, name, "mutex"))
            locks.write(Acquire(lease, 1, name + name, "mutex"))
        names = ("a", "aa", "b", "bb", "c", "cc")
        for ticket, name in enumerate(names, 1):
            locks.write(Acquire(4, ticket, name, "mutex"))
        locks.restart()
        locks.write(Tick(1000))
        tokens = {name: locks.token(4, place) for place, name in enumerate(names, 1)}
        assert sorted(names, key=tokens.__getitem__) == [
            *("bb", "b", "cc", "c", "aa", "a")
        ]

    def test_time_does_not_go_back(self, locks: Locks) -> None:
        locks.write(Tick(500))
        locks.write(Tick(400))
        locks.open(1)
        assert locks.state.leases.by_number[5].deadline == 1500


class InspectTests:
    """Who has it, and who wants it."""

    def test_a_lock(self) -> None:
        locks = Locks()
        for owner in ("ada", "bob", "eve"):
            locks.write(OpenLease(1000, owner))
        locks.write(Acquire(1, 1, "a", "reader"))
        locks.write(Acquire(2, 1, "a", "writer"))
        locks.write(Acquire(3, 1, "a", "reader"))
        status = locks.read(Inspect("a"))
        assert status.permits == 0
        assert [(each.token, each.mode, each.owner) for each in status.holders] == [
            (1, "reader", "ada")
        ]
        assert [(each.mode, each.lease, each.owner) for each in status.queue] == [
            ("writer", 2, "bob"),
            ("reader", 3, "eve"),
        ]
        assert (status.holding, status.waiting) == (1, 2)

    def test_only_the_first_are_shown(
        self, locks: Locks, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(state_module, "MOST_SHOWN", 2)
        for ticket in range(1, 9):
            locks.write(Acquire(1, ticket, "a", "semaphore", 4))
        status = locks.read(Inspect("a"))
        assert (len(status.holders), len(status.queue)) == (2, 2)
        assert (status.holding, status.waiting) == (4, 4)


class BoundsTests:
    """Memory is bounded, and what is refused changes nothing."""

    def test_leases(self, locks: Locks, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lease_table, "MAX_LEASES", 4)
        with pytest.raises(TooManyLocksError):
            locks.open(1)
        locks.write(EndLease(1))
        locks.open(1)

    def test_tickets_of_a_lease(
        self, locks: Locks, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(state_module, "MAX_LEASE_TICKETS", 2)
        self.fill(locks, [1, 1])
        with pytest.raises(TooManyLocksError):
            locks.write(Acquire(1, 3, "b", "mutex"))
        assert locks.write(Acquire(2, 1, "b", "mutex")) == 2

    def test_tickets_in_all(
        self, locks: Locks, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(state_module, "MAX_TICKETS", 3)
        self.fill(locks, [1, 1, 2])
        with pytest.raises(TooManyLocksError):
            locks.write(Acquire(2, 9, "b", "mutex"))
        locks.write(Withdraw(1, 2))
        assert locks.write(Acquire(2, 9, "b", "mutex")) == 2

    def fill(self, locks: Locks, leases: list[int]) -> None:
        """Take a ticket for one lock for each of *leases*."""
        for place, lease in enumerate(leases, 1):
            locks.write(Acquire(lease, place, "a", "mutex"))

    def test_numbers_far_ahead(self, locks: Locks) -> None:
        """Those in between would have to be remembered."""
        far = state_module.WINDOW + 1
        for refused in (Acquire(1, far, "a", "mutex"), Withdraw(1, far)):
            with pytest.raises(TooManyLocksError):
                locks.write(refused)
        assert locks.write(Acquire(1, 1, "a", "mutex")) == 1
        assert locks.write(Acquire(1, far, "a", "mutex")) == 0

    def test_used_numbers_become_one(self, locks: Locks) -> None:
        lease = locks.state.leases.by_number[1]
        for ticket in (3, 2, 5, 1):
            locks.write(Withdraw(1, ticket))
        assert (lease.used, lease.scattered) == (3, {5})


class KindTests:
    """Commands and queries are told apart."""

    def test_a_query_is_not_written(self, locks: Locks) -> None:
        with pytest.raises(InvalidCommandError, match="Inspect changes nothing"):
            locks.write(Inspect("a"))

    def test_a_command_is_not_read(self, locks: Locks) -> None:
        with pytest.raises(InvalidCommandError, match="RenewLease changes the state"):
            locks.read(RenewLease(1))

    def test_what_is_neither(self) -> None:
        with pytest.raises(InvalidCommandError, match="is no command"):
            LocksMachine().encode(object())

    @pytest.mark.parametrize(
        "data", [b"", b"\2\x91\xa4open", b"\1\xc1", b"\1\x91\xa1x", b"\1\x91\xa1\xff"]
    )
    def test_bytes_that_are_no_command(self, data: bytes) -> None:
        with pytest.raises(InvalidCommandError):
            LocksMachine().decode(data)

    def test_the_bytes_of_a_command(self) -> None:
        """They stay in logs: they never change."""
        data = b"\1\x93\xa7release\xa3job\7"
        assert LocksMachine().encode(Release("job", 7)) == data


class SnapshotTests:
    """A state survives its snapshot."""

    @given(st.lists(_COMMANDS | st.builds(Tick, st.integers(1, 2000)), max_size=40))
    def test_it_goes_on_as_before(self, history: list[Any]) -> None:
        """Whatever comes after it has the same results as without."""
        one, two = Locks(), Locks()
        for locks in (one, two):
            locks.open(4, 700)
        half = len(history) // 2
        results: list[list[Any]] = [[], []]
        for place, locks in enumerate((one, two)):
            for number, command in enumerate(history):
                if locks is two and number == half:
                    locks.restart()
                try:
                    results[place].append(locks.write(command))
                except state_module.LocksError as error:
                    results[place].append(str(error))
        assert results[0] == results[1]
        assert one.state == two.state

    def test_tickets_of_nobody(self, locks: Locks) -> None:
        """A snapshot that cannot be is refused."""
        locks.write(Acquire(1, 1, "a", "mutex"))
        del locks.state.leases.by_number[1]
        with pytest.raises(StorageError, match="without a lease"):
            locks.restart()


class ModelTests:
    """What holds after any history."""

    @given(st.lists(_COMMANDS | st.builds(Tick, st.integers(1, 2000)), max_size=60))
    def test_invariants(self, history: list[Any]) -> None:
        """Never too many holders; nobody waits for what is free; tokens rise."""
        locks = Locks()
        locks.open(4, 700)
        granted = 0
        for command in history:
            with suppress(state_module.LocksError):
                locks.write(command)
            state = locks.state
            assert state.last_token >= granted
            granted = state.last_token
            check(state)


def check(state: state_module.State) -> None:
    """See that everything is in its place."""
    tickets = {
        (lease.number, number): ticket
        for lease in state.leases.by_number.values()
        for number, ticket in lease.tickets.items()
    }
    assert state.tickets == len(tickets)
    assert state.leases.deadlines == sorted(
        (lease.deadline, lease.number) for lease in state.leases.by_number.values()
    )
    assert all(deadline > state.leases.time for deadline, _ in state.leases.deadlines)
    for lock in state.locks.values():
        assert lock.holders
        assert list(lock.holders) == sorted(lock.holders)
        modes = [each.mode for each in lock.holders.values()]
        if lock.permits:
            assert len(modes) <= lock.permits
        else:
            assert modes.count("writer") == 0 or len(modes) == 1
        assert lock.taken == sum(each.weight for each in lock.holders.values())
        if lock.queue:
            first = next(iter(lock.queue.values()))
            assert not lock.has_room(first.weight)
        for token, each in lock.holders.items():
            assert each.token == token
            assert tickets.pop((each.lease, each.number)) is each
        for key, each in lock.queue.items():
            assert not each.token
            assert tickets.pop(key) is each
    assert not tickets
