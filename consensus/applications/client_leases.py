"""A lease that an application's servers grant to a client, which keeps it alive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from twisted.internet.defer import CancelledError
from twisted.logger import Logger

from consensus.applications.client_lease import CLOCK_DRIFT, ClientLease
from consensus.errors import REFUSED_FOR_GOOD, NotYetError, RaftError

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.defer import Deferred

    from consensus.applications.client_commands import RepeatableCalls

_log = Logger()

#: One attempt to open a lease, or to end it, has this part of the ttl: what is
#: left of the ttl afterwards is all that the client is sure of.
_ATTEMPT = 0.25

_PAUSE = 0.05


#: For so many seconds a server keeps a question that has no answer yet.  One
#: that was cut off meanwhile is noticed only then.
_WAIT = 5.0


class LeaseLostError(Exception):
    """The lease has ended, or may have."""


class LeaseCommands(NamedTuple):
    """
    What an application calls its commands about leases.

    Args:
        open: The command whose result is the number of a new lease.
        renew: Given the number, returns one that says whether it was there.
        end: Likewise.
    """

    open: Any
    renew: Callable[[int], Any]
    end: Callable[[int], Any]


class GrantedLease:
    """
    A lease of this client; made by :func:`open_lease`.

    Args:
        number: Its number at the servers.
        keeper: Keeps it alive.
        calls: To the cluster.
        end: The command that ends it.
    """

    def __init__(
        self, number: int, keeper: ClientLease, calls: RepeatableCalls, end: Any
    ) -> None:
        self.number = number
        self.keeper = keeper
        self._calls = calls
        self._end = end

    async def answer(self, query: Any, kind: Any) -> Any:
        """
        Return the answer to *query*, a waiting read, however long that takes.

        Args:
            query: About what this lease has.
            kind: The type of the answer, for msgspec.

        Raises:
            LeaseLostError: The lease was lost meanwhile.
            Exception: What the machine has refused it for.
        """
        while self.keeper.is_sure:
            lost = self.keeper.lost
            reading = self._calls.read(query, kind, wait=_WAIT)
            lost.addCallback(_cancel, reading)
            try:
                return await reading
            except NotYetError:
                continue
            except REFUSED_FOR_GOOD:
                raise
            except CancelledError:
                if self.keeper.is_sure:
                    raise
            except RaftError:
                # As long as the lease is sure, so is what it waits for.
                await self._calls.cluster.pause(_PAUSE)
            finally:
                self.keeper.forget(lost)
        raise LeaseLostError("the lease was lost meanwhile")

    def insist(self, command: Any) -> Deferred[None]:
        """
        Write *command* about what this lease has, for as long as it may be there.

        That is as long as it is sure, and the ttl from now on; then the
        Deferred fires too.
        """
        keeper, now = self.keeper, self._calls.seconds
        end = now() + keeper.ttl
        return self._calls.insist(
            command, keeper.ttl * _ATTEMPT, lambda: keeper.is_sure or now() < end
        )

    def end(self) -> Deferred[None]:
        """
        Give it back; it is not sure from now on.

        The Deferred fires when the servers have ended it, or will have.
        """
        self.keeper.end()
        return self.insist(self._end)


async def open_lease(
    calls: RepeatableCalls,
    commands: LeaseCommands,
    ttl: float,
    patience: float,
    *,
    drift: float = CLOCK_DRIFT,
    margin: float = 0.0,
) -> GrantedLease:
    """
    Return a lease that is kept alive from now on.

    Args:
        calls: To the cluster.
        commands: The application's.
        ttl: In seconds.
        patience: Seconds after which no further attempt begins.
        drift: See :class:`.ClientLease`; *margin* likewise.
        margin: See there.

    Raises:
        RaftError: It was not possible in time.
        Exception: What the machine has refused it for.
    """
    deadline = calls.seconds() + patience
    while True:
        began = calls.seconds()
        try:
            number = await calls.write(commands.open, int, ttl * _ATTEMPT)
        except REFUSED_FOR_GOOD:
            raise
        except RaftError as error:
            if calls.seconds() >= deadline:
                raise
            _log.debug("no lease was opened: {error}", error=error)
            await calls.cluster.pause(_PAUSE)
        else:
            break

    def renew(patience: float) -> Deferred[bool]:
        return calls.write(commands.renew(number), bool, patience)

    clock = calls.cluster.clock
    keeper = ClientLease(clock, ttl, renew, drift=drift, margin=margin)
    keeper.begin(began)
    return GrantedLease(number, keeper, calls, commands.end(number))


def _cancel(_: None, reading: Deferred[Any]) -> None:
    reading.cancel()
