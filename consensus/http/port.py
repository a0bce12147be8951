"""The HTTP port of one server, as a service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, inlineCallbacks, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.logger import Logger

from consensus.addresses import AddressError, is_private, parse
from consensus.clock import MonotonicClock, default_reactor, monotonic_clock
from consensus.errors import ConfigError, Finding, UnreachableError
from consensus.http import api, health, metrics, openapi
from consensus.http.door import Door
from consensus.http.pages import pages_of
from consensus.http.requests import QuietSite
from consensus.http.servants import Servant
from consensus.http.site import Root
from consensus.http.visitors import authorizing
from consensus.settings.http_addresses import beneath, is_encrypted
from consensus.tls_contexts import Contexts, Encrypting

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from consensus.core.values import Address
    from consensus.http.authority import Authorize
    from consensus.http.routes import Route
    from consensus.http.servants import Subject

_log = Logger()

#: All that the port answers, besides the pages of applications.
ROUTES = (*health.ROUTES, *metrics.ROUTES, *openapi.ROUTES, *api.ROUTES)


class HTTPPort(Service):
    """
    Where one server answers HTTP.

    It outlives the server, so that it can say that the server has failed.

    Args:
        server: Whose.
        address: Where to listen; ``tls:`` for HTTPS, with the config's certificate.
        reactor: By default the reactor of this process.
        clock: What everything that times out goes by; by default one that no
            change of the wall clock disturbs.
        authorize: Decides on every request; by default what the config says.
        more: What it answers besides.
    """

    def __init__(
        self,
        server: Subject,
        address: Address,
        reactor: Any = None,
        clock: Any = None,
        authorize: Authorize | None = None,
        *,
        more: Sequence[Route] = (),
    ) -> None:
        self.address = address
        self._server = server
        self._reactor = default_reactor() if reactor is None else reactor
        self._clock = monotonic_clock(self._reactor) if clock is None else clock
        self._is_encrypted = is_encrypted(address)
        self._authorize = authorize or authorizing(
            server, is_encrypted=self._is_encrypted
        )
        self._routes = (*ROUTES, *more)
        self._door: Door | None = None
        self._listening: Any = None

    def startService(self) -> Deferred[None]:
        """
        Begin to listen.

        The Deferred fails with:
            UnreachableError: It is not possible.
            ConfigError: There is no certificate for HTTPS, or not a good one.
        """
        super().startService()  # type: ignore[no-untyped-call]
        if isinstance(self._clock, MonotonicClock):
            self._clock.start()
        return Deferred.fromCoroutine(self._listen())

    async def _listen(self) -> None:
        server, address = self._server, beneath(self.address)
        factory = self._encrypted(self._make_door(is_private=is_private(address)))
        try:
            listening = await parse(address).server(self._reactor).listen(factory)
        except (AddressError, CannotListenError, OSError) as error:
            message = f"cannot listen for HTTP on {self.address!r}: {error}"
            raise UnreachableError(message) from error
        if not self.running:
            await maybeDeferred(listening.stopListening)
            return
        self._listening = listening
        _log.info(
            "{server} answers {what} on {address}",
            server=server.name,
            what="HTTPS" if self._is_encrypted else "HTTP",
            address=self.address,
        )

    def _make_door(self, *, is_private: bool) -> Door:
        """Return what lets connections in."""
        server = self._server
        root = Root(
            Servant(server, self._clock, self._routes),
            self._routes,
            pages_of(server, self._reactor, self._clock),
            self._authorize,
            is_private=is_private,
        )
        self._door = Door(QuietSite(root, self._clock), self._clock, server.name)
        return self._door

    def _encrypted(self, door: Door) -> Any:
        """Return what makes connections, encrypted if the address says so."""
        if not self._is_encrypted:
            return door
        tls = self._server.config.tls
        if tls is None:
            message = f"{self.address!r} wants a certificate: write tls: in the config"
            raise ConfigError([Finding("config.E014", message, "", "http")])
        contexts = Contexts(tls, needs_certificate=False)
        return Encrypting(contexts, door, "an HTTPS connection")

    @inlineCallbacks
    def stopService(self) -> Generator[Deferred[Any], Any, None]:
        """Listen no more, and cut all connections."""
        if not self.running:
            return
        super().stopService()  # type: ignore[no-untyped-call]
        listening, self._listening = self._listening, None
        if listening is not None:
            yield maybeDeferred(listening.stopListening)
        if self._door is not None:
            self._door.close()
        if isinstance(self._clock, MonotonicClock):
            self._clock.stop()

    @property
    def number(self) -> int:
        """Return the TCP port that it listens on, 0 if it does not."""
        host = None if self._listening is None else self._listening.getHost()
        return int(getattr(host, "port", 0))
