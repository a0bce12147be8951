"""Servant: what routes may ask of a server and of its cluster."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol

from consensus import admin
from consensus.client import Client
from consensus.http.problems import Problem

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from consensus.admin import Census
    from consensus.config import Config
    from consensus.core.values import Address, ServerId, Status
    from consensus.http.routes import Route
    from consensus.shell.driver import Driver
    from consensus.shell.events import Events
    from consensus.shell.log_pages import LogPage, PageRequest
    from consensus.state_machine import StateMachine
    from consensus.telemetry.measurements import Measurements

# Seconds for the members to say how they are, and for the leader to act.
_SURVEY = 2.0
_PATIENCE = 5.0


class Subject(Protocol):
    """What is asked of a server; see :class:`.RaftServer`."""

    name: ServerId
    config: Config
    events: Events
    measurements: Measurements
    running: int

    @property
    def driver(self) -> Driver | None:
        """See :class:`.ServerLife`."""

    @property
    def machine(self) -> StateMachine:
        """See :class:`.RaftServer`."""

    def status(self) -> Status:
        """See :class:`.RaftServer`."""

    def leader(self) -> ServerId | None:
        """See :class:`.RaftServer`."""

    def log_page(self, asked: PageRequest) -> Deferred[LogPage]:
        """See :class:`.RaftServer`."""


class Servant:
    """
    A server as the routes know it.

    Args:
        server: Which.
        clock: What it goes by.
        routes: All that it answers.
    """

    def __init__(self, server: Subject, clock: Any, routes: tuple[Route, ...]) -> None:
        self.server = server
        self.routes = routes
        self.clock = clock

    @property
    def driver(self) -> Driver:
        """
        Return what drives the server.

        Raises:
            Problem: It does not run.
        """
        driver = self.server.driver
        if driver is None:
            message = f"{self.server.name} does not run"
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, "stopped", message)
        return driver

    def running(self) -> Subject:
        """
        Return the server.

        Raises:
            Problem: It does not run.
        """
        _ = self.driver
        return self.server

    @property
    def client(self) -> Client:
        """Return a client of the cluster, on the server's own transport."""
        driver = self.driver
        patience = min(_PATIENCE, self.server.config.timing.request_timeout)
        # It is never closed: the transport is the server's.
        transport = driver.parts.transport
        return Client(self._members(), transport, self.clock, timeout=patience)

    def _members(self) -> dict[ServerId, Address]:
        """Return the addresses of whom the server knows, itself among them."""
        server = self.server
        known = self.driver.raft.state.membership.members()
        own = {server.name: server.config.address_of(server.name)}
        return own | known

    async def census(self) -> Census:
        """Find out who belongs to the cluster, and ask all how they are."""
        return await admin.census(
            self.client, self._members(), self.server.config.join, _SURVEY
        )
