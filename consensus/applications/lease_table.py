"""
Leases in a state machine's state, which end by the log's time.

For machines that are ``timed``: they pass on what a
:class:`~consensus.interfaces.Tick` says, and release what a lease has that is
due.  Nothing in here looks at a clock.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right, insort
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable

_ENDLESS = 1 << 64

#: So many leases one state has at most.
MAX_LEASES = 10_000


@dataclass(slots=True)
class Lease:
    """
    What lives for as long as its owner renews it; applications inherit it.

    Args:
        number: No other lease ever has it.
        owner: Whose it is, for people.
        ttl: For how many ms it lives without being renewed.
        deadline: When it ends, in log time.
    """

    number: int
    owner: str
    ttl: int
    deadline: int


_Lease = TypeVar("_Lease", bound=Lease)


@dataclass(slots=True)
class LeaseTable(Generic[_Lease]):
    """
    All leases there are.

    Args:
        time: The log's, in ms.
        last: The number of the lease that was opened last.
        by_number: The leases.
        deadlines: Of all leases, with their numbers, in order.
    """

    time: int = 0
    last: int = 0
    by_number: dict[int, _Lease] = field(default_factory=dict)
    # A list, and not a heap: a lease has one place in it, so that equal states
    # look alike.  To move one among ten thousand takes some microseconds.
    deadlines: list[tuple[int, int]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.by_number)

    def get(self, number: int) -> _Lease | None:
        """Return the lease of that *number*, if there is one."""
        return self.by_number.get(number)

    def next_time(self) -> int | None:
        """Return when the next lease ends; ``None`` if there is none."""
        return self.deadlines[0][0] if self.deadlines else None

    def pass_time(self, time: int) -> list[_Lease]:
        """
        Let it be *time*, if it is not later already.

        Returns:
            The leases that have ended, in the order of their deadlines, then
            of their numbers; they are in the table no more.
        """
        if time <= self.time:
            return []
        self.time = time
        count = bisect_right(self.deadlines, (time, _ENDLESS))
        due = self.deadlines[:count]
        del self.deadlines[:count]
        return [self.by_number.pop(number) for _, number in due]

    def next_number(self) -> int:
        """Return the number of a new lease."""
        self.last += 1
        return self.last

    def add(self, lease: _Lease) -> None:
        """Put *lease* into the table."""
        self.by_number[lease.number] = lease
        insort(self.deadlines, (lease.deadline, lease.number))

    def renew(self, number: int) -> bool:
        """Keep a lease for another ttl from now on; say whether it was there."""
        lease = self.by_number.get(number)
        if lease is None:
            return False
        self._forget_deadline(lease)
        lease.deadline = self.time + lease.ttl
        insort(self.deadlines, (lease.deadline, number))
        return True

    def take(self, number: int) -> _Lease | None:
        """Return a lease that ends now, if it was there."""
        lease = self.by_number.pop(number, None)
        if lease is not None:
            self._forget_deadline(lease)
        return lease

    def _forget_deadline(self, lease: _Lease) -> None:
        place = (lease.deadline, lease.number)
        del self.deadlines[bisect_left(self.deadlines, place)]


@dataclass(slots=True)
class LeaseState(ABC, Generic[_Lease]):
    """
    A state whose clients have leases; applications inherit it.

    Args:
        leases: With the log's time.
    """

    #: What a lease is.
    lease_type: ClassVar[type[Any]]

    #: What a command fails with whose lease has ended, or would be one too many.
    lease_ended: ClassVar[type[Exception]]
    too_many_leases: ClassVar[type[Exception]]

    leases: LeaseTable[_Lease] = field(default_factory=LeaseTable)

    @abstractmethod
    def drop(self, leases: Iterable[_Lease]) -> None:
        """Take away what *leases* have, which have ended in this order."""

    def pass_time(self, time: int) -> None:
        """Let it be *time*, if it is not later; end the leases that are due."""
        self.drop(self.leases.pass_time(time))

    def next_time(self) -> int | None:
        """Return when the next lease ends; ``None`` if there is none."""
        return self.leases.next_time()

    def open_lease(self, ttl: int, owner: str) -> int:
        """
        Begin a lease; return its number.

        Raises:
            Exception: That of the application; there are too many.
        """
        if len(self.leases) >= MAX_LEASES:
            message = f"there are {MAX_LEASES} leases, and may be no more"
            raise self.too_many_leases(message)
        number = self.leases.next_number()
        self.leases.add(self.lease_type(number, owner, ttl, self.leases.time + ttl))
        return number

    def end_lease(self, number: int) -> bool:
        """End a lease; say whether it was there."""
        lease = self.leases.take(number)
        if lease is None:
            return False
        self.drop([lease])
        return True

    def lease(self, number: int) -> _Lease:
        """
        Return the lease of that *number*.

        Raises:
            Exception: That of the application; it has ended.
        """
        lease = self.leases.get(number)
        if lease is None:
            message = f"lease {number} has ended, or never was"
            raise self.lease_ended(message)
        return lease
