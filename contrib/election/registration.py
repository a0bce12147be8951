"""An instance of a service that stays registered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from twisted.internet.defer import CancelledError, Deferred, DeferredLock, succeed
from twisted.logger import Logger

from consensus.errors import RaftError
from contrib.election.commands import Register, encode
from contrib.election.state import LeaseEndedError, SupersededError, TooManyError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from consensus.applications.client_leases import GrantedLease
    from contrib.election.client import ElectionClient

_log = Logger()

_PAUSE = 1.0


class Registration:
    """
    What this process says of an instance; made by :meth:`.ElectionClient.register`.

    It is renewed, and made again when it was lost, until :meth:`deregister`.

    Args:
        client: For whom.
        service: What is offered.
        instance: By whom.
        ttl: After so many seconds without this process it counts as gone.
    """

    def __init__(
        self, client: ElectionClient, service: str, instance: str, ttl: float
    ) -> None:
        self.service = service
        self.instance = instance
        self._client = client
        self._ttl = ttl
        self._address = ""
        self._metadata: dict[str, str] = {}
        self._lease: GrantedLease | None = None
        self._version = 0
        # The number of the first lease: who began later comes first.
        self._origin = 0
        self._writing = DeferredLock()
        self._keeping: Deferred[Any] = succeed(None)
        #: Has another process registered the same instance since?  Then this
        #: one says nothing of it any more.
        self.is_superseded = False

    @property
    def is_registered(self) -> bool:
        """Say whether it is there, as far as can be told."""
        return self._lease is not None and self._lease.keeper.is_sure

    async def begin(self, address: str, metadata: Mapping[str, str] | None) -> Self:
        """Register it for the first time; return itself."""
        self._address, self._metadata = address, dict(metadata or {})
        self._check(self._address, self._metadata)
        self._lease = await self._register_anew()
        self._origin = self._lease.number
        self._keeping = Deferred.fromCoroutine(self._keep())
        self._keeping.addErrback(_ended)
        return self

    def update(
        self, address: str, metadata: Mapping[str, str] | None = None
    ) -> Deferred[None]:
        """
        Say something else of it from now on.

        The Deferred fails with:
            SupersededError: Another process has registered it since.
            InvalidCommandError: An argument is out of its range; what was said
                before stays.
            RaftError: The cluster could not be asked now; it will be said when
                the registration is made again, or by the next update.
        """
        return Deferred.fromCoroutine(self._update(address, dict(metadata or {})))

    async def _update(self, address: str, metadata: dict[str, str]) -> None:
        self._check(address, metadata)
        self._address, self._metadata = address, metadata
        lease = self._lease
        if lease is None:
            return  # it is being registered anew, with what is said now
        try:
            await self._say(lease)
        except LeaseEndedError:
            lease.keeper.lose()
        except SupersededError:
            self._give_way()
            raise

    def _check(self, address: str, metadata: dict[str, str]) -> None:
        encode(Register(1, 1, 1, self.service, self.instance, address, metadata))

    async def _say(self, lease: GrantedLease) -> None:
        """Register what is to be said now, after what was said before."""
        await self._writing.acquire()
        try:
            self._version += 1
            command = Register(
                lease.number,
                self._origin or lease.number,
                self._version,
                self.service,
                self.instance,
                self._address,
                self._metadata,
            )
            await self._client.calls.write(command, int, self._client.timeout)
        finally:
            self._writing.release()

    async def _register_anew(self) -> GrantedLease:
        lease = await self._client.lease(self._ttl, self.instance)
        said: Any = None
        try:
            # Somebody may say something else meanwhile.
            while said != (self._address, self._metadata):
                said = (self._address, self._metadata)
                await self._say(lease)
        except BaseException:
            lease.end()
            raise
        return lease

    async def _keep(self) -> None:
        """Register it again whenever it was lost."""
        while not self.is_superseded:
            if self._lease is not None:
                await self._lease.keeper.lost
                self._lease = None
            try:
                self._lease = await self._register_anew()
            except SupersededError:
                self._give_way()
            except (RaftError, LeaseEndedError, TooManyError) as error:
                _log.warn(
                    "{instance} of {service} is not registered: {error}",
                    instance=self.instance,
                    service=self.service,
                    error=error,
                )
                await self._client.cluster.pause(_PAUSE)

    def _give_way(self) -> None:
        """Say nothing of it any more."""
        self.is_superseded = True
        lease, self._lease = self._lease, None
        if lease is not None:
            self._keeping.cancel()
            lease.end()
        _log.warn(
            "{instance} of {service} was registered by another process",
            instance=self.instance,
            service=self.service,
        )

    def deregister(self) -> Deferred[None]:
        """
        Say that it is gone; to do so again does no harm.

        The Deferred fires when the servers know, or after a ttl; it does not
        fail.
        """
        return Deferred.fromCoroutine(self._deregister())

    async def _deregister(self) -> None:
        self._keeping.cancel()
        lease, self._lease = self._lease, None
        if lease is not None:
            await lease.end()


def _ended(failure: Any) -> None:
    failure.trap(CancelledError)
