"""Twisted services that run somewhere, once at a time."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred, succeed
from twisted.logger import Logger

from consensus.errors import REFUSED_FOR_GOOD, RaftError
from contrib.election.state import ElectionError

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.python.failure import Failure

    from contrib.election.client import ElectionClient, Leadership

_log = Logger()

_P = ParamSpec("_P")
_R = TypeVar("_R")

#: Seconds before the next attempt, after one that failed.
_PAUSE = 1.0


class NotElectedError(ElectionError):
    """Who is to do it does not lead, or not for long enough."""


class Candidate(Service):
    """
    Stands for election while it runs, again after each office.

    A subclass does what a leader does in :meth:`elected`, and ends it in
    :meth:`deposed`.

    Args:
        election: The client; it stays open when the service stops.
        office: The name of what is to be led.
        candidate: What to call oneself; by default host and process.
        ttl: After so many seconds without this process, another leads.
        margin: How many seconds before that can be, the office counts as lost;
            see :meth:`.ElectionClient.campaign`.
    """

    def __init__(
        self,
        election: ElectionClient,
        office: str,
        *,
        candidate: str | None = None,
        ttl: float = 15.0,
        margin: float | None = None,
    ) -> None:
        self.office = office
        self._election = election
        self._candidate = candidate
        self._ttl = ttl
        self._margin = margin
        self._leadership: Leadership | None = None
        self._campaigning: Deferred[None] | None = None

    @property
    def is_elected(self) -> bool:
        """Say whether this process leads, and will for the margin at least."""
        return self._leadership is not None and self._leadership.is_leader

    @property
    def term(self) -> int:
        """
        Return the fencing token of this office; that of the last one, if lost.

        0 for who has no office to leave.
        """
        return 0 if self._leadership is None else self._leadership.term

    def elected(self) -> None:
        """Begin what a leader does; by default nothing."""

    def deposed(self) -> Any:
        """
        End what a leader does, within the margin; by default nothing.

        A Deferred that is returned is waited for, before anybody else is let
        in.
        """

    def startService(self) -> None:
        """Stand for election."""
        super().startService()  # type: ignore[no-untyped-call]
        self._campaigning = Deferred.fromCoroutine(self._campaigns())
        self._campaigning.addErrback(self._ended)

    def stopService(self) -> Deferred[None]:
        """Stand no more; fires when what a leader does has ended."""
        super().stopService()  # type: ignore[no-untyped-call]
        campaigning, self._campaigning = self._campaigning, None
        if campaigning is None:
            return succeed(None)
        campaigning.cancel()
        return campaigning

    def _ended(self, failure: Failure) -> None:
        if failure.check(CancelledError) is None:
            _log.failure(
                "{office}: this process stands no more", failure, office=self.office
            )

    async def _campaigns(self) -> None:
        while True:
            leadership = await self._campaign()
            if leadership is None or not await self._lead(leadership):
                await self._election.cluster.pause(_PAUSE)

    async def _campaign(self) -> Leadership | None:
        """Stand for election once."""
        try:
            return await self._election.campaign(
                self.office, self._candidate, ttl=self._ttl, margin=self._margin
            )
        except REFUSED_FOR_GOOD:
            raise
        except (RaftError, ElectionError) as error:
            _log.warn(
                "{office}: not a candidate now: {error}",
                office=self.office,
                error=error,
            )
            return None

    async def _lead(self, leadership: Leadership) -> bool:
        """Lead until it is over; say whether it could begin."""
        _log.info(
            "{office}: elected in term {term}", office=self.office, term=leadership.term
        )
        self._leadership = leadership
        lost = leadership.lost
        has_begun, ending = True, None
        try:
            self.elected()
            await lost
        except CancelledError as error:
            ending = error
        except Exception:  # noqa: BLE001 - whatever the user's code raises
            _log.failure("{office}: cannot begin to lead", office=self.office)
            has_begun = False
        await self._leave(leadership)
        if ending is not None:
            raise ending
        return has_begun

    async def _leave(self, leadership: Leadership) -> None:
        """End what a leader does; then let others in."""
        try:
            await maybeDeferred(self.deposed)
        except Exception:  # noqa: BLE001 - likewise
            _log.failure("{office}: cannot end to lead", office=self.office)
        if self._election.calls.seconds() >= leadership.ends:
            _log.critical(
                "{office}: what was led in term {term} ended too late: somebody else"
                " may have led meanwhile; give it a larger margin",
                office=self.office,
                term=leadership.term,
            )
        self._leadership = None
        _log.info("{office}: not the leader any more", office=self.office)
        clock, timeout = self._election.cluster.clock, self._election.timeout
        await leadership.resign().addTimeout(timeout, clock, lambda _, __: None)


class LeaderService(Candidate):
    """
    Runs a service somewhere, once at a time.

    Each process that has one of the same office stands for election; the one
    that leads runs its service, and stops it before its lease can have ended.

    Args:
        service: What is run, an ``IService``; it has no other parent.
        election: See :class:`Candidate`.
        office: Likewise.
        **options: Likewise.
    """

    def __init__(
        self, service: Any, election: ElectionClient, office: str, **options: Any
    ) -> None:
        super().__init__(election, office, **options)
        self._service = service

    def elected(self) -> None:
        """Start the service."""
        self._service.startService()

    def deposed(self) -> Any:
        """Stop the service."""
        return self._service.stopService()


def leader_only(
    candidate: Candidate,
) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """
    Return a decorator of what only a leader does.

    Args:
        candidate: Who has to be elected.

    What it decorates may be any function, a coroutine's too.  Called by who is
    not elected, or has lost the office, it does nothing, and raises at once:
        NotElectedError: This process does not lead, or not for long enough.
    """

    def decorate(job: Callable[_P, _R]) -> Callable[_P, _R]:
        @wraps(job)
        def guarded(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            if not candidate.is_elected:
                message = f"this process does not lead {candidate.office!r}"
                raise NotElectedError(message)
            return job(*args, **kwargs)

        return guarded

    return decorate
