"""
What the locks hold: leases, tickets, and queues of them.

Nothing in here depends on anything but the commands and their order.  What has
an effect on others, such as a lease's end, deals with tickets in the order of
their numbers, which a snapshot keeps, never in that of a dictionary.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from consensus.applications import lease_table
from consensus.applications.lease_table import LeaseState
from consensus.interfaces import LATER, Later
from contrib.locks.commands import Holder, LockStatus, Waiter

if TYPE_CHECKING:
    from collections.abc import Iterable

    from contrib.locks.commands import Acquire, Mode

#: So many tickets a lease has at most, and all together.
MAX_LEASE_TICKETS = 1_000
MAX_TICKETS = 100_000

#: How far the numbers of a lease's tickets may be ahead of those all used.
WINDOW = 4_096

#: So many holders, and so many of those that wait, are shown.
MOST_SHOWN = 100

# What a writer takes of a read-write lock, of which a reader takes one.
_WHOLE = 1 << 30


class LocksError(Exception):
    """Why a command of the locks was refused."""


class LeaseEndedError(LocksError):
    """The lease has ended, or there never was one of that number."""


class TicketEndedError(LocksError):
    """The ticket was withdrawn, or what it was granted is released."""


class LockConflictError(LocksError):
    """The name is that of a lock of another kind, or with other permits."""


class TooManyLocksError(LocksError):
    """There are as many leases or tickets as there may be."""


class WrongTokenError(LocksError):
    """No lock has been granted with that token yet."""


@dataclass(slots=True)
class Ticket:
    """
    A place in the queue of a lock, or in the lock.

    Args:
        lease: Whose.
        number: Of the ticket, among those of the lease.
        name: Of the lock.
        mode: How it is wanted.
        token: What it was granted with; 0 while it waits.
    """

    lease: int
    number: int
    name: str
    mode: Mode
    token: int = 0

    @property
    def weight(self) -> int:
        """Return how much of the lock it takes."""
        return _WHOLE if self.mode == "writer" else 1


@dataclass(slots=True)
class Lease(lease_table.Lease):
    """
    What one client holds and waits for.

    Args:
        used: All numbers of tickets up to this one have been used.
        scattered: And these, beyond it.
        tickets: Those there are, by number.
    """

    used: int = 0
    scattered: set[int] = field(default_factory=set)
    tickets: dict[int, Ticket] = field(default_factory=dict)

    def has_used(self, number: int) -> bool:
        """Say whether there has been a ticket of that *number*."""
        return number <= self.used or number in self.scattered

    def use(self, number: int) -> None:
        """Note that there has been one."""
        self.scattered.add(number)
        while self.used + 1 in self.scattered:
            self.used += 1
            self.scattered.remove(self.used)


@dataclass(slots=True)
class Lock:
    """
    A lock that somebody holds.

    Args:
        permits: How many may hold it at once; 0 of a read-write lock.
        holders: By token, in the order in which they came to hold it.
        queue: By lease and number, in the order in which they came.
        taken: How much of it the holders have.
    """

    permits: int
    holders: dict[int, Ticket] = field(default_factory=dict)
    # An ordered one, since it is emptied from the front.
    queue: OrderedDict[tuple[int, int], Ticket] = field(default_factory=OrderedDict)
    taken: int = 0

    def has_room(self, weight: int) -> bool:
        """Say whether that much of it is free."""
        return self.taken + weight <= (self.permits or _WHOLE)


def permits_of(mode: Mode, permits: int) -> int:
    """Return what :class:`Lock` is told for a lock that is wanted so."""
    if mode in {"reader", "writer"}:
        return 0
    return 1 if mode == "mutex" else permits


@dataclass(slots=True)
class State(LeaseState[Lease]):
    """
    Everything.

    Args:
        last_token: What was granted last; no token is ever used again.
        locks: By name; those that nobody holds are forgotten.
        tickets: How many there are.
    """

    lease_type = Lease
    lease_ended = LeaseEndedError
    too_many_leases = TooManyLocksError

    last_token: int = 0
    locks: dict[str, Lock] = field(default_factory=dict)
    tickets: int = 0

    # --- leases ------------------------------------------------------------

    def drop(self, leases: Iterable[Lease]) -> None:
        """Take all tickets of *leases* away, and only then grant what is free."""
        touched: dict[str, None] = {}
        for lease in leases:
            for number in sorted(lease.tickets):
                ticket = lease.tickets[number]
                self._take_away(ticket)
                touched[ticket.name] = None
        for name in touched:
            self._grant(name)

    # --- locks -------------------------------------------------------------

    def acquire(self, wanted: Acquire) -> int | None:
        """
        Queue up for a lock; see :class:`~contrib.locks.commands.Acquire`.

        Raises:
            LocksError: It is not possible; the class says why.
        """
        lease = self.lease(wanted.lease)
        ticket = lease.tickets.get(wanted.ticket)
        if ticket is not None:
            return _again(ticket, wanted)
        permits = permits_of(wanted.mode, wanted.permits)
        self._check(lease, wanted, permits)
        lease.use(wanted.ticket)
        ticket = Ticket(lease.number, wanted.ticket, wanted.name, wanted.mode)
        lock = self.locks.get(wanted.name) or Lock(permits)
        if not wanted.wait and (lock.queue or not lock.has_room(ticket.weight)):
            return None
        self.locks[wanted.name] = lock
        self.add_ticket(ticket, lease, lock)
        self._grant(wanted.name)
        return ticket.token

    def _check(self, lease: Lease, wanted: Acquire, permits: int) -> None:
        """Refuse what cannot be, before anything is changed."""
        if lease.has_used(wanted.ticket):
            message = f"ticket {wanted.ticket} of lease {lease.number} has ended"
            raise TicketEndedError(message)
        lock = self.locks.get(wanted.name)
        if lock is not None and lock.permits != permits:
            message = (
                f"{wanted.name!r} is {_kind(lock.permits)}, not {_kind(permits)},"
                " while somebody holds it"
            )
            raise LockConflictError(message)
        if len(lease.tickets) >= MAX_LEASE_TICKETS or self.tickets >= MAX_TICKETS:
            message = (
                f"a lease holds and waits for {MAX_LEASE_TICKETS} locks at most, and"
                f" all together for {MAX_TICKETS}"
            )
            raise TooManyLocksError(message)
        self._check_window(lease, wanted.ticket)

    def _check_window(self, lease: Lease, ticket: int) -> None:
        if ticket > lease.used + WINDOW:
            message = (
                f"ticket {ticket} is more than {WINDOW} ahead of {lease.used}, up to"
                " which all numbers have been used"
            )
            raise TooManyLocksError(message)

    def add_ticket(self, ticket: Ticket, lease: Lease, lock: Lock) -> None:
        """Put *ticket* into its places; a granted one into the lock."""
        self.tickets += 1
        lease.tickets[ticket.number] = ticket
        if ticket.token:
            lock.holders[ticket.token] = ticket
            lock.taken += ticket.weight
        else:
            lock.queue[ticket.lease, ticket.number] = ticket

    def withdraw(self, lease_number: int, number: int) -> bool:
        """
        Take a ticket back, be it there or still to come; say whether it was.

        Raises:
            TooManyLocksError: Its number is too far ahead.
        """
        lease = self.leases.get(lease_number)
        if lease is None:
            return False
        ticket = lease.tickets.pop(number, None)
        if ticket is not None:
            self._take_away(ticket)
            self._grant(ticket.name)
            return True
        if not lease.has_used(number):
            self._check_window(lease, number)
            lease.use(number)
        return False

    def release(self, name: str, token: int) -> bool:
        """
        Release what is held by *token*; say whether it was.

        Raises:
            WrongTokenError: There has been no such token yet.
        """
        if token > self.last_token:
            message = f"{token} has never been granted: {self.last_token} was the last"
            raise WrongTokenError(message)
        lock = self.locks.get(name)
        ticket = None if lock is None else lock.holders.get(token)
        if ticket is None:
            return False
        del self.lease(ticket.lease).tickets[ticket.number]
        self._take_away(ticket)
        self._grant(name)
        return True

    def _take_away(self, ticket: Ticket) -> None:
        """Take *ticket* out of the lock or its queue."""
        self.tickets -= 1
        lock = self.locks[ticket.name]
        if ticket.token:
            del lock.holders[ticket.token]
            lock.taken -= ticket.weight
        else:
            del lock.queue[ticket.lease, ticket.number]

    def _grant(self, name: str) -> None:
        """Grant the lock *name* to those whose turn it is, or forget it."""
        lock = self.locks[name]
        while lock.queue:
            key, ticket = next(iter(lock.queue.items()))
            if not lock.has_room(ticket.weight):
                return
            del lock.queue[key]
            self.last_token += 1
            ticket.token = self.last_token
            lock.holders[ticket.token] = ticket
            lock.taken += ticket.weight
        if not lock.holders:
            del self.locks[name]

    # --- queries -----------------------------------------------------------

    def token_of(self, lease: int, number: int) -> int | Later:
        """
        Return the token of a ticket; ``LATER`` while it is in the queue.

        Raises:
            LocksError: It is not to be had any more; the class says why.
        """
        ticket = self.lease(lease).tickets.get(number)
        if ticket is None:
            message = f"ticket {number} of lease {lease} has ended, or never was"
            raise TicketEndedError(message)
        return ticket.token or LATER

    def status(self, name: str) -> LockStatus | None:
        """Return what there is to know of a lock; ``None`` if nobody has it."""
        lock = self.locks.get(name)
        if lock is None:
            return None
        holders = [
            Holder(each.token, each.mode, each.lease, self.lease(each.lease).owner)
            for each in islice(lock.holders.values(), MOST_SHOWN)
        ]
        queue = [
            Waiter(each.mode, each.lease, self.lease(each.lease).owner)
            for each in islice(lock.queue.values(), MOST_SHOWN)
        ]
        counts = len(lock.holders), len(lock.queue)
        return LockStatus(lock.permits, tuple(holders), tuple(queue), *counts)


def _again(ticket: Ticket, wanted: Acquire) -> int:
    """Return what *ticket* came to, for a client that asks for it once more."""
    if (ticket.name, ticket.mode) != (wanted.name, wanted.mode):
        message = f"ticket {ticket.number} of this lease is one for {ticket.name!r}"
        raise LockConflictError(message)
    return ticket.token


def _kind(permits: int) -> str:
    """Return what a lock with so many permits is called."""
    if not permits:
        return "a read-write lock"
    return "a mutex" if permits == 1 else f"a semaphore of {permits} permits"
