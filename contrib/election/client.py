"""The client of elections and of service discovery."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred

from consensus.applications.client_commands import ApplicationClient, RepeatableCalls
from consensus.applications.client_lease import CLOCK_DRIFT
from consensus.applications.client_leases import (
    GrantedLease,
    LeaseCommands,
    LeaseLostError,
    open_lease,
)
from consensus.applications.lease_commands import EndLease, OpenLease, RenewLease
from consensus.errors import REFUSED_FOR_GOOD, NotYetError, RaftError
from contrib.election import commands
from contrib.election.commands import (
    MAX_NAME,
    Campaign,
    Discover,
    Elected,
    Instances,
    Leader,
    Observe,
)
from contrib.election.registration import Registration
from contrib.election.state import (
    ElectionError,
    LeaseEndedError,
    NoCandidateError,
    SupersededError,
    TooManyError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from consensus.client import Client

_ERRORS = (LeaseEndedError, NoCandidateError, SupersededError, TooManyError)

#: For so many seconds a server keeps the question whether something is new.
_WAIT = 10.0

_PAUSE = 0.2

#: The part of the ttl that a leader has to stop in, and the most that it may be.
_MARGIN = 0.2
_LARGEST_MARGIN = 0.4


class CandidacyLostError(ElectionError):
    """The lease was lost, and with it the place among the candidates."""


class Leadership:
    """
    An office that this process has; made by :meth:`ElectionClient.campaign`.

    Args:
        lease: What holds it.
        name: The office's.
        candidate: What this process calls itself.
        term: The fencing token.
        margin: How many seconds before the lease's end it counts as lost.
    """

    def __init__(
        self, lease: GrantedLease, name: str, candidate: str, term: int, margin: float
    ) -> None:
        self.name = name
        self.candidate = candidate
        #: Larger than that of all who led before: what is led refuses a smaller
        #: one than it has seen.
        self.term = term
        self._lease = lease
        self._margin = margin

    @property
    def is_leader(self) -> bool:
        """
        Say whether nobody else can lead for the margin from now on.

        By this process's own clock, and on the safe side.
        """
        return self._lease.keeper.is_sure

    @property
    def lost(self) -> Deferred[None]:
        """
        Return a Deferred that fires when :attr:`is_leader` ends, unasked.

        The margin is left then to stop in.  Each caller gets one of its own;
        it never fires after :meth:`resign`.
        """
        return self._lease.keeper.lost

    @property
    def ends(self) -> float:
        """Return when somebody else may lead, by the client's clock."""
        return self._lease.keeper.sure_until + self._margin

    def resign(self) -> Deferred[None]:
        """
        Give the office back, also when it was lost, so that another has it soon.

        To be called when what was done by it has ended.  The Deferred fires
        when the servers know, or after a ttl; it does not fail.
        """
        return self._lease.end()


class ElectionClient(ApplicationClient):
    """
    Stands for election, and finds leaders and services; follows the cluster's leader.

    Args:
        cluster: The cluster's client, which :meth:`close` closes too; or the
            addresses of its servers, one or more, as ``tcp:127.0.0.1:9101``.
        reactor: The reactor; needed with addresses only.
        timeout: Seconds after which a call to the cluster gives up.
        drift: By which part of a ttl the clocks of a server and of this process
            may drift apart meanwhile.
    """

    def __init__(
        self,
        cluster: Client | Iterable[str],
        reactor: Any = None,
        *,
        timeout: float = 10.0,
        drift: float = CLOCK_DRIFT,
    ) -> None:
        super().__init__(cluster, reactor, timeout=timeout)
        #: Seconds after which a call to the cluster gives up.
        self.timeout = timeout
        #: What makes calls that are repeated.
        self.calls = RepeatableCalls(self.cluster, commands.encode, _ERRORS)
        self._drift = drift

    # --- elections ---------------------------------------------------------

    def campaign(
        self,
        name: str,
        candidate: str | None = None,
        *,
        ttl: float = 15.0,
        margin: float | None = None,
    ) -> Deferred[Leadership]:
        """
        Stand for election as the leader of *name*, and wait for it.

        Who has stood for longest leads.  To cancel the Deferred is to give up.

        Args:
            name: What is to be led.
            candidate: What to call oneself; by default host and process.
            ttl: After so many seconds without this process, another leads.
            margin: How many seconds before that can be, the office counts as
                lost; by default a fifth of *ttl*, at most two fifths.

        The Deferred fails with:
            CandidacyLostError: The lease was lost while it waited.
            TooManyError: There are too many candidates.
            InvalidCommandError: A name, or *ttl*, is out of its range.
            RaftError: The cluster could not be asked.

        Raises:
            ValueError: *margin* is out of its range.
        """
        if margin is None:
            margin = ttl * _MARGIN
        if not 0 <= margin <= ttl * _LARGEST_MARGIN:
            message = f"a margin of {margin:g} s does not go with a ttl of {ttl:g} s"
            raise ValueError(message)
        who = myself() if candidate is None else candidate
        return Deferred.fromCoroutine(self._campaign(name, who, ttl, margin))

    async def _campaign(
        self, name: str, candidate: str, ttl: float, margin: float
    ) -> Leadership:
        lease = await self.lease(ttl, candidate, margin)
        try:
            term = await self._elected(lease, name, candidate)
        except BaseException:
            lease.end()
            raise
        return Leadership(lease, name, candidate, term, margin)

    async def _elected(self, lease: GrantedLease, name: str, candidate: str) -> int:
        """Return the term when the candidate leads."""
        command = Campaign(lease.number, name, candidate)
        try:
            term: int = await self.calls.write(command, int, self.timeout)
            if not term:
                term = await lease.answer(Elected(lease.number, name), int)
        except (LeaseLostError, LeaseEndedError) as error:
            raise CandidacyLostError(str(error)) from error
        if not lease.keeper.is_sure:
            raise CandidacyLostError("the lease was lost when it was elected")
        return term

    async def lease(self, ttl: float, owner: str, margin: float = 0.0) -> GrantedLease:
        """Open a lease; see :func:`.open_lease` for what it raises."""
        opening = LeaseCommands(
            OpenLease(round(ttl * 1000), owner), RenewLease, EndLease
        )
        return await open_lease(
            self.calls, opening, ttl, self.timeout, drift=self._drift, margin=margin
        )

    def leader(self, name: str) -> Deferred[Leader | None]:
        """Return who leads *name* now; ``None`` if nobody does."""
        return self.calls.read(Observe(name), Leader | None)

    def observe(self, name: str, known: int) -> Deferred[Leader | None]:
        """
        Wait until another leads *name* than the one of the term *known*.

        Args:
            name: What is led.
            known: The term of who led when it was last seen; 0 if nobody did.

        Returns:
            The Deferred of who leads then, ``None`` if nobody does.  Those who
            have led in between are not told of.  It waits through changes of
            the cluster's leader; it fails as that of :meth:`leader` only when
            the query cannot be, or the client is closed.
        """
        return self._eventually(Observe(name, known), Leader | None)

    # --- services ----------------------------------------------------------

    def register(
        self,
        service: str,
        instance: str,
        address: str,
        metadata: Mapping[str, str] | None = None,
        *,
        ttl: float = 15.0,
    ) -> Deferred[Registration]:
        """
        Say where an instance of a service is, until it is said to be gone.

        Args:
            service: What is offered.
            instance: By whom.  If an instance of that name is there already, it
                is taken over.
            address: Where.
            metadata: What else there is to say.
            ttl: After so many seconds without this process it counts as gone.

        The Deferred fails with:
            TooManyError: There are too many registrations.
            SupersededError: Another process has registered it in this moment.
            InvalidCommandError: An argument is out of its range.
            RaftError: The cluster could not be asked.
        """
        registration = Registration(self, service, instance, ttl)
        return Deferred.fromCoroutine(registration.begin(address, metadata))

    def discover(self, service: str) -> Deferred[Instances]:
        """Return who offers *service* now."""
        return self.calls.read(Discover(service), Instances)

    def watch(self, service: str, after: int) -> Deferred[Instances]:
        """
        Wait until *service* changes, and return who offers it then.

        Any server answers, and none with what is older than *after*.

        Args:
            service: Which.
            after: The revision of what was seen last; 0 if nothing was.

        The Deferred waits through changes of the cluster's leader; see
        :meth:`observe`.
        """
        query = Discover(service, after)
        return self._eventually(query, Instances, consistency="stale")

    def _eventually(self, query: Any, kind: Any, **options: Any) -> Deferred[Any]:
        return Deferred.fromCoroutine(self._ask(query, kind, options))

    async def _ask(self, query: Any, kind: Any, options: Mapping[str, Any]) -> Any:
        commands.encode(query)  # which checks it
        while True:
            try:
                return await self.calls.read(query, kind, wait=_WAIT, **options)
            except NotYetError:
                continue
            except REFUSED_FOR_GOOD:
                raise
            except RaftError:
                if self._is_closed:
                    raise
                await self.cluster.pause(_PAUSE)

    _is_closed = False

    def close(self) -> Deferred[None]:
        """
        Close the connections; what is under way fails.

        Offices and registrations end with their ttl: resign and deregister
        before.
        """
        self._is_closed = True
        self.calls.stop()
        return super().close()


def myself() -> str:
    """Return what this process is called by default."""
    return f"{socket.gethostname()}:{os.getpid()}"[-MAX_NAME:]
