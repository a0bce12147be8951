"""
Joining: how a server that belongs to no cluster, or lost its disk, gets in.

A new server with ``join`` in its config asks the servers there, again and
again, until the leader has taken it in.  So does a founder that hears no
leader: if its data directory is not the one that it had, the others do not
talk to it, and the leader has to let it join anew.  And so does a member that
listens elsewhere than the membership says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from consensus.errors import NotLeaderError, RaftError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from consensus.core.values import Address
    from consensus.interfaces import Transport
    from consensus.shell.members import Applicant

_log = Logger()

_PAUSE = 0.5
_TIMEOUT = 10.0
_MOST_REPORTS = 20


class Joiner:
    """
    Asks the servers at some addresses to be taken in.

    Args:
        applicant: What this server says of itself.
        endpoints: Whom to ask.
        transport: How.
        clock: What pauses go by.
        is_wanted: Whether there is reason to ask just now.
        is_over: Whether there never will be again.
    """

    def __init__(  # noqa: PLR0917 - made in one place only
        self,
        applicant: Applicant,
        endpoints: Collection[Address],
        transport: Transport,
        clock: Any,
        is_wanted: Callable[[], bool],
        is_over: Callable[[], bool],
    ) -> None:
        self._applicant = applicant
        self._endpoints = [each for each in endpoints if each != applicant.address]
        self._transport = transport
        self._clock = clock
        self._is_wanted = is_wanted
        self._is_over = is_over
        self._asking: Deferred[None] | None = None
        self._reported: set[str] = set()

    def start(self) -> None:
        """Begin to ask."""
        self._asking = Deferred.fromCoroutine(self._ask())
        self._asking.addErrback(lambda failure: failure.trap(CancelledError))

    def stop(self) -> None:
        """Ask no more."""
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None

    async def _ask(self) -> None:
        # Once there was reason to ask there is until the end: a leader may have
        # removed this server to take it in anew, and crashed in between.
        is_asking = False
        while not self._is_over():
            is_asking = is_asking or self._is_wanted()
            if is_asking:
                for endpoint in self._endpoints:
                    if await self._was_taken_in(endpoint):
                        return
            await deferLater(self._clock, _PAUSE)

    async def _was_taken_in(self, endpoint: Address) -> bool:
        """Ask the server at *endpoint*, and whom it takes for the leader."""
        payload = msgspec.msgpack.encode(self._applicant)
        try:
            try:
                await self._transport.ask(endpoint, "join", payload, _TIMEOUT)
            except NotLeaderError as error:
                if not error.address or error.address == endpoint:
                    return False
                await self._transport.ask(error.address, "join", payload, _TIMEOUT)
        except NotLeaderError:
            return False  # an election is going on
        except RaftError as error:
            self._report(endpoint, error)
            return False
        return True

    def _report(self, endpoint: Address, error: RaftError) -> None:
        """Log why this server is not taken in, each reason once."""
        reason = f"{endpoint}: {error}"
        if reason in self._reported or len(self._reported) >= _MOST_REPORTS:
            return
        self._reported.add(reason)
        _log.warn(
            "{server} is not taken in by {endpoint}: {error}; it goes on asking",
            server=self._applicant.server,
            endpoint=endpoint,
            error=error,
        )
