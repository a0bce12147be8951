"""The locks' client."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any, Self

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from consensus.applications.client_commands import ApplicationClient, RepeatableCalls
from consensus.applications.client_lease import CLOCK_DRIFT
from consensus.applications.client_leases import LeaseLostError
from consensus.applications.lease_commands import MAX_OWNER
from contrib.locks import commands
from contrib.locks.commands import (
    Acquire,
    Inspect,
    LockStatus,
    Mode,
    Release,
    Wait,
    Withdraw,
)
from contrib.locks.leases import Leases, TicketedLease
from contrib.locks.state import (
    LeaseEndedError,
    LockConflictError,
    LocksError,
    TicketEndedError,
    TooManyLocksError,
    WrongTokenError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from consensus.client import Client

_ERRORS = (
    LeaseEndedError,
    LockConflictError,
    TicketEndedError,
    TooManyLocksError,
    WrongTokenError,
)


class LockLostError(LocksError):
    """
    The lease has ended, or may have: somebody else may hold the lock.

    Raised to who waits for a lock, whose place in the queue is lost, and at
    the end of ``async with``, if the lock was lost meanwhile.
    """


class LockTimeoutError(LocksError):
    """The lock was not granted in time, and is not waited for any more."""


class HeldLock:
    """
    A lock that was granted; made by :meth:`Lock.acquire`.

    ``async with`` releases it at the end.

    Args:
        client: Whose it is.
        lease: What holds it.
        name: The lock's.
        token: The fencing token.
    """

    def __init__(
        self, client: LocksClient, lease: TicketedLease, name: str, token: int
    ) -> None:
        self.name = name
        #: The fencing token: larger than all that were granted before, for
        #: whatever name.  What the lock protects refuses a smaller one than it
        #: has seen.
        self.token = token
        self._client = client
        self._lease = lease
        self._released: Deferred[None] | None = None
        self._listening: list[Deferred[None]] = []

    @property
    def is_held(self) -> bool:
        """
        Say whether nobody else can hold it now.

        By this process's own clock, and on the safe side: the servers end the
        lease later.  Between this answer and what follows from it the process
        may stand still; that is what the token is for.
        """
        return self._released is None and self._lease.keeper.is_sure

    @property
    def lost(self) -> Deferred[None]:
        """
        Return a Deferred that fires when :attr:`is_held` ends, unasked.

        Each caller gets one of its own.  It never fires once the lock is
        released.
        """
        if self._released is not None:
            return Deferred()
        waiter = self._lease.keeper.lost
        self._listening.append(waiter)
        return waiter

    def release(self) -> Deferred[None]:
        """
        Release it; to do so again does no harm.

        The Deferred fires when the servers have done so, or when the lease is
        lost, and they will by themselves.  It does not fail.
        """
        if self._released is None:
            for waiter in self._listening:
                self._lease.keeper.forget(waiter)
            self._listening.clear()
            self._released = Deferred()
            released = self._lease.insist(Release(self.name, self.token))
            _fire_with(self._released, released, self._lease.keeper.lost)
        also: Deferred[None] = Deferred()
        _fire_with(also, self._released)
        return also

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """
        Release it.

        Raises:
            LockLostError: It was lost before, and nothing else is raised.
        """
        was_held = self.is_held or self._released is not None
        released = self.release()
        if kind is GeneratorExit:
            return  # a coroutine that nobody continues may not wait
        await released
        if not was_held and error is None:
            message = f"{self.name!r} was lost: others may have held it meanwhile"
            raise LockLostError(message)


class Lock:
    """
    A lock that may be acquired; made by a :class:`LocksClient`.

    ``async with`` acquires it, gives the :class:`HeldLock`, and releases it.

    Args:
        client: For whom.
        name: The lock's.
        mode: How it is wanted.
        permits: Of a semaphore, how many may hold it at once.
        timeout: Seconds after which ``async with`` gives up; ``None`` for never.
    """

    def __init__(
        self,
        client: LocksClient,
        name: str,
        mode: Mode,
        permits: int,
        timeout: float | None,
    ) -> None:
        self.name = name
        self._client = client
        self._mode = mode
        self._permits = permits
        self._timeout = timeout
        self._held: HeldLock | None = None
        self._is_entered = False

    def acquire(self, timeout: float | None = None) -> Deferred[HeldLock]:
        """
        Wait until it is this caller's turn: first come, first served.

        To cancel the Deferred is to give up; what was granted meanwhile is
        released.

        Args:
            timeout: Seconds after which to give up; ``None`` for never.

        The Deferred fails with:
            LockTimeoutError: It was not granted in time.
            LockLostError: The lease was lost while it waited.
            LockConflictError: The name is that of another kind of lock, or of
                a semaphore with other permits.
            TooManyLocksError: There are too many leases or tickets.
            InvalidCommandError: The name, or the permits, cannot be.
            RaftError: The cluster could not be asked.
        """
        acquired = Deferred.fromCoroutine(self._get(may_wait=True))
        if timeout is not None:
            clock = self._client.cluster.clock
            acquired.addTimeout(timeout, clock, self._timed_out)
        return acquired

    def try_acquire(self) -> Deferred[HeldLock | None]:
        """
        Acquire it if it is free now; give ``None`` if it is not.

        The Deferred fails as that of :meth:`acquire`.
        """
        return Deferred.fromCoroutine(self._get(may_wait=False))

    async def _get(self, *, may_wait: bool) -> Any:
        return await self._client.acquire(self._ticket, may_wait=may_wait)

    def _ticket(self, lease: int, number: int, *, may_wait: bool) -> Acquire:
        return Acquire(lease, number, self.name, self._mode, self._permits, may_wait)

    def _timed_out(self, result: Any, seconds: float) -> Any:
        if isinstance(result, Failure) and result.check(CancelledError):
            message = f"{self.name!r} was not granted within {seconds:g} s"
            raise LockTimeoutError(message)
        return result

    async def __aenter__(self) -> HeldLock:
        """
        Acquire it; see :meth:`acquire`.

        Raises:
            RuntimeError: This object is in use: make another for the same name.
        """
        if self._is_entered:
            raise RuntimeError("it is entered already: make another for this name")
        self._is_entered = True
        try:
            self._held = await self.acquire(self._timeout)
        finally:
            self._is_entered = self._held is not None
        return self._held

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Release it; see :meth:`HeldLock.__aexit__`."""
        held, self._held, self._is_entered = self._held, None, False
        if held is not None:
            await held.__aexit__(kind, error, trace)


class LocksClient(ApplicationClient):
    """
    Acquires locks of a cluster; follows the leader.

    All that a client holds hangs on one lease, which is kept alive.  When it is
    lost, so are all of its locks; the next call opens another.

    Args:
        cluster: The cluster's client, which :meth:`close` closes too; or the
            addresses of its servers, one or more, as ``tcp:127.0.0.1:9101``.
        reactor: The reactor; needed with addresses only.
        ttl: After so many seconds without this client, others get its locks.
        owner: Whose the locks are, for people; by default host and process.
        timeout: Seconds after which a call to the cluster gives up.
        drift: By which part of *ttl* the clocks of a server and of this process
            may drift apart meanwhile.

    Raises:
        InvalidCommandError: *ttl* or *owner* is out of its range.
    """

    def __init__(
        self,
        cluster: Client | Iterable[str],
        reactor: Any = None,
        *,
        ttl: float = 15.0,
        owner: str | None = None,
        timeout: float = 10.0,
        drift: float = CLOCK_DRIFT,
    ) -> None:
        super().__init__(cluster, reactor, timeout=timeout)
        self._timeout = timeout
        self._calls = RepeatableCalls(self.cluster, commands.encode, _ERRORS)
        whose = _myself() if owner is None else owner
        self._leases = Leases(self._calls, ttl, whose, timeout, drift)

    def mutex(self, name: str, *, timeout: float | None = None) -> Lock:
        """Return a lock that one holds at a time."""
        return Lock(self, name, "mutex", 1, timeout)

    def reader(self, name: str, *, timeout: float | None = None) -> Lock:
        """Return the side of a read-write lock that any number hold at a time."""
        return Lock(self, name, "reader", 1, timeout)

    def writer(self, name: str, *, timeout: float | None = None) -> Lock:
        """Return the side of a read-write lock that one holds, and no reader."""
        return Lock(self, name, "writer", 1, timeout)

    def semaphore(
        self, name: str, permits: int, *, timeout: float | None = None
    ) -> Lock:
        """
        Return a lock that *permits* hold at a time.

        While it is held, all have to name the same number.
        """
        return Lock(self, name, "semaphore", permits, timeout)

    def inspect(self, name: str) -> Deferred[LockStatus | None]:
        """Return who holds and who waits for a lock; ``None`` if nobody does."""
        return self._calls.read(Inspect(name), LockStatus | None)

    def release(self, name: str, token: int) -> Deferred[bool]:
        """
        Release what was granted with *token*, by whomever, and say if it was held.

        For who has a token and not its :class:`HeldLock`, such as a person, or
        a process to which the work was handed over.

        The Deferred fails with:
            WrongTokenError: No lock has been granted with it yet.
            RaftError: The cluster could not be asked.
        """
        return self._calls.write(Release(name, token), bool, self._timeout)

    def close(self) -> Deferred[None]:
        """Release all that is held, then close the connections."""
        return Deferred.fromCoroutine(self._close())

    async def _close(self) -> None:
        await self._leases.end()
        self._calls.stop()
        await super().close()

    # --- for its locks -----------------------------------------------------

    async def acquire(self, make: Any, *, may_wait: bool) -> HeldLock | None:
        """
        Have a ticket, and wait for its turn.

        Args:
            make: Given the number of a lease and of a ticket, returns the
                command.
            may_wait: Whether to queue up.
        """
        while True:
            lease = await self._leases.current()
            try:
                return await self._queue_up(lease, make, may_wait=may_wait)
            except LeaseEndedError:
                # The servers know better; and so there is nothing of it left.
                lease.keeper.lose()

    async def _queue_up(
        self, lease: TicketedLease, make: Any, *, may_wait: bool
    ) -> HeldLock | None:
        number = lease.next_ticket()
        command = make(lease.number, number, may_wait=may_wait)
        try:
            token = await self._ask(command)
            if token == 0:
                token = await self._turn(lease, number)
        except BaseException:
            # It may be in the queue, or hold the lock.
            lease.insist(Withdraw(lease.number, number))
            raise
        if token is None:
            return None
        if not lease.keeper.is_sure:
            message = f"the lease was lost when {command.name!r} was granted"
            raise LockLostError(message)
        return HeldLock(self, lease, command.name, token)

    async def _ask(self, command: Acquire) -> int | None:
        try:
            # msgspec takes a union for a type.
            kind: Any = int | None
            token: int | None = await self._calls.write(command, kind, self._timeout)
        except TicketEndedError as error:
            if command.wait:
                message = f"{command.name!r} was granted, and released by somebody"
                raise LockLostError(message) from error
            return None  # this was said before, and the answer lost
        return token

    async def _turn(self, lease: TicketedLease, number: int) -> int:
        """Return the token of a ticket when it is granted."""
        try:
            token: int = await lease.answer(Wait(lease.number, number), int)
        except (LeaseEndedError, LeaseLostError, TicketEndedError) as error:
            message = f"while it waited: {error}"
            raise LockLostError(message) from error
        return token


def _fire_with(deferred: Deferred[None], *others: Deferred[None]) -> None:
    """Let *deferred* fire with the first of *others*, none of which fails."""

    def fire(_: None) -> None:
        if not deferred.called:
            deferred.callback(None)

    for other in others:
        other.addCallback(fire)


def _myself() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"[-MAX_OWNER:]
