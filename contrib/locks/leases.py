"""A client's lease at the servers of the locks; another one when it is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, DeferredLock
from twisted.logger import Logger

from consensus.applications.client_leases import GrantedLease, LeaseCommands, open_lease
from consensus.applications.lease_commands import EndLease, OpenLease, RenewLease
from contrib.locks.commands import encode

if TYPE_CHECKING:
    from consensus.applications.client_commands import RepeatableCalls

_log = Logger()


class TicketedLease:
    """
    A lease, and the numbers of its tickets.

    Args:
        granted: The lease.
    """

    def __init__(self, granted: GrantedLease) -> None:
        self.number = granted.number
        self.keeper = granted.keeper
        self.insist = granted.insist
        self.answer = granted.answer
        self.end = granted.end
        self._tickets = 0

    def next_ticket(self) -> int:
        """Return a number that no other ticket of this lease has."""
        self._tickets += 1
        return self._tickets


class Leases:
    """
    Opens a lease when there is none.

    Args:
        calls: To the cluster.
        ttl: Of each lease, in seconds.
        owner: Whose they are, for people.
        timeout: Seconds after which opening one gives up.
        drift: By which part of *ttl* clocks may drift apart meanwhile.

    Raises:
        InvalidCommandError: *ttl* or *owner* is out of its range.
    """

    def __init__(
        self,
        calls: RepeatableCalls,
        ttl: float,
        owner: str,
        timeout: float,
        drift: float,
    ) -> None:
        command = OpenLease(round(ttl * 1000), owner)
        encode(command)  # which checks it
        self._commands = LeaseCommands(command, RenewLease, EndLease)
        self._calls = calls
        self._ttl = ttl
        self._timeout = timeout
        self._drift = drift
        self._current: TicketedLease | None = None
        self._opening = DeferredLock()

    async def current(self) -> TicketedLease:
        """
        Return a lease that is sure; open one if there is none.

        Raises:
            RaftError: That was not possible in time.
            TooManyLocksError: There are too many leases.
        """
        await self._opening.acquire()
        try:
            if self._current is None or not self._current.keeper.is_sure:
                self._current = await self._open()
            return self._current
        finally:
            self._opening.release()

    async def _open(self) -> TicketedLease:
        granted = await open_lease(
            self._calls, self._commands, self._ttl, self._timeout, drift=self._drift
        )
        granted.keeper.lost.addCallback(_lost, granted.number)
        return TicketedLease(granted)

    def end(self) -> Deferred[Any]:
        """
        Give the lease back, with all that it holds.

        The Deferred fires after some seconds at the latest.
        """
        lease, self._current = self._current, None
        if lease is None:
            return Deferred.fromCoroutine(_nothing())
        clock = self._calls.cluster.clock
        return lease.end().addTimeout(self._timeout, clock, lambda _, __: None)


async def _nothing() -> None:
    """Do nothing."""


def _lost(_: None, number: int) -> None:
    _log.warn("lease {lease} is lost, with the locks that it held", lease=number)
