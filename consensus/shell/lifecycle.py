"""
The life of a server: what belongs to it, from the start to the end.

It makes and unmakes storage and snapshots with their threads, transport, state
machine and clock.  What users call is :mod:`consensus.server`'s, and what
happens in between the :mod:`~consensus.shell.driver`'s.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from twisted.application.service import Service
from twisted.internet.defer import (
    Deferred,
    fail,
    inlineCallbacks,
    maybeDeferred,
    succeed,
)
from twisted.logger import Logger
from twisted.python.failure import Failure

from consensus.clock import MonotonicClock, default_reactor, monotonic_clock
from consensus.core.membership import Membership
from consensus.core.ready import MembershipChanged, MembershipCommitted, RoleChanged
from consensus.core.values import Role
from consensus.errors import RaftError, StoppedError, StorageError
from consensus.shell.acquaintances import Acquaintances
from consensus.shell.driver import Driver
from consensus.shell.events import Events, role_line
from consensus.shell.joining import Joiner
from consensus.shell.members import Applicant, Members, compare_members
from consensus.shell.parts import Parts
from consensus.shell.permits import ServerGuard, make_guard
from consensus.shell.recovery import Recovered, make_raft, recover
from consensus.shell.worker import StorageWorker
from consensus.telemetry.measurements import Measurements

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Mapping

    from consensus.config import Config
    from consensus.core.raft import Raft
    from consensus.core.ready import Event
    from consensus.core.values import Address, LogIndex, ServerId
    from consensus.interfaces import Inbox
    from consensus.shell.inspection import Inspection

_log = Logger()

# Drawn for every message of a leader; the system, which seeds it, would be slow.
_random_below = random.Random().randrange  # noqa: S311 - it is no secret


class ServerLife(Service, ABC):
    """
    One server of a cluster, as far as starting and stopping goes.

    Args:
        config: What to run, and with which adapters.
        name: Which of the config's members this is.
        reactor: Where to run; by default the reactor of this process.
        clock: An ``IReactorTime`` for everything that times out; by default a
            :class:`~consensus.clock.MonotonicClock`.
        random_below: ``random_below(n)`` draws an int from 0 to n - 1.
    """

    def __init__(
        self,
        config: Config,
        name: ServerId,
        reactor: Any = None,
        clock: Any = None,
        random_below: Callable[[int], int] = _random_below,
    ) -> None:
        self.name: ServerId = name
        self.config = config
        #: Called with this server and the error when it stops by itself.
        self.on_failure: Callable[[Any, Exception], None] | None = None
        self._reactor = default_reactor() if reactor is None else reactor
        self._clock: Any = monotonic_clock(self._reactor) if clock is None else clock
        self._random_below = random_below
        #: What happened here lately, and what is counted.
        self.events = Events(self._clock)
        self.measurements = Measurements(self._clock.seconds)
        self._machine = config.state_machine.cls(config.state_machine.options)
        self._driver: Driver | None = None
        self._members: Members | None = None
        self._joiner: Joiner | None = None
        self._recovered: Recovered | None = None
        self._acquaintances: Acquaintances | None = None
        # Who belonged to the cluster, as far as that was known last; and the
        # last entry that was in the log when this server started.
        self._belonged: set[ServerId] = set()
        self._last_at_start: LogIndex = 0
        self._is_over = True
        self._reason: Exception = StoppedError(f"{name} was not started")
        self._companion: Service | None = None
        #: Who may do what here; ``None`` if everybody may do everything.
        self.guard: ServerGuard | None = None
        self._is_started = False
        self._starting: Deferred[None] = succeed(None)
        self._start_waiters: list[Deferred[None]] = []

    # --- what the whole of a server is besides --------------------------------

    @abstractmethod
    def inbox(self) -> Inbox:
        """Return who takes what arrives."""

    @abstractmethod
    def companion(self) -> Service | None:
        """Return what is to run beside this server, if anything is."""

    @abstractmethod
    def hand_over(self) -> Deferred[ServerId]:
        """Let another lead, before this server stops."""

    @abstractmethod
    def heard(self, event: Event) -> None:
        """Hear of what the core reports."""

    @abstractmethod
    def ended(self, error: Exception) -> None:
        """Tell whoever waits that nothing will come of it, because of *error*."""

    @property
    def driver(self) -> Driver | None:
        """Return what drives this server; ``None`` while it does not run."""
        return self._driver

    @property
    def inspection(self) -> Inspection:
        """
        Return what looks into this server's log, and cuts it.

        Raises:
            StoppedError: This server does not run.
        """
        if self._driver is None:
            message = f"{self.name} does not run"
            raise StoppedError(message)
        return self._driver.inspection

    # --- what a simulated server does otherwise ----------------------------------

    def recover(self) -> Recovered:
        """Open what this server has on its disk; called on the storage's thread."""
        return recover(self.config, self.name, self._storage)

    def make_worker(
        self, clock: Any = None, on_full: Callable[[bool], None] | None = None
    ) -> StorageWorker:
        """Return a thread for the storage, or for the snapshots."""
        return StorageWorker(self._storage, self._reactor, self._fail, clock, on_full)

    # --- starting ---------------------------------------------------------------

    def startService(self) -> None:
        """Begin to open the storage and to listen; see :meth:`when_started`."""
        self._is_over = False
        Service.startService(self)
        if isinstance(self._clock, MonotonicClock):
            self._clock.start()
        config = self.config
        self._storage = config.storage.cls(config.storage.options)
        self._transport = config.transport.cls(
            config.transport.options, self._reactor, self._clock
        )
        self._worker = self.make_worker(self._clock, self._on_full)
        self._snapshot_worker = self.make_worker()
        self._starting = self._start()
        self._starting.addErrback(self._fail_with)

    @inlineCallbacks
    def _start(self) -> Generator[Deferred[Any], Any, None]:
        if self.config.tls is not None:
            self._transport.secure(self.config.tls)
        if self.config.access is not None:
            self.guard = make_guard(self, self.config, self._reactor, self._clock)
            self._transport.protect(self.guard)
        recovered = yield self._worker.call(self.recover)
        self._recovered = recovered
        self._worker.after_sync = recovered.mark_used
        if recovered.directory is not None:
            self._machine.directory = recovered.directory.for_machine()
        raft = make_raft(self.config, recovered, self._random_below)
        if self.config.members and not self.config.join and raft.is_new:
            raft.bootstrap(self.founding(self.config.members))
        self._belonged = set(raft.state.memberships[0][1].members())
        self._last_at_start = raft.state.log.last_index
        acquaintances = self._meet(raft, recovered)
        address = self.config.address_of(self.name)
        yield self._transport.listen(acquaintances.own, address, self.inbox())
        driver = Driver(self._parts(raft, recovered), self._on_event, self._fail)
        self._members = Members(
            raft, self.config, acquaintances.known, driver.schedule, self._clock
        )
        compare_members(self.name, self.config, raft.state.membership)
        driver.start()
        self._driver = driver
        self._seek(raft, acquaintances, recovered)
        self._companion = self.companion()
        if self._companion is not None:
            yield maybeDeferred(self._companion.startService)
        if self._is_over:
            return  # it failed meanwhile, and has told whoever waits
        self._is_started = True
        state = raft.state
        self.events.add("started", term=state.term, last_index=state.log.last_index)
        _log.info(
            "{server} of {cluster} started in term {term} with {entries} entries",
            server=self.name,
            cluster=self.config.cluster,
            term=raft.state.term,
            entries=raft.state.log.last_index,
        )
        waiters, self._start_waiters = self._start_waiters, []
        for waiter in waiters:
            waiter.callback(None)

    def _parts(self, raft: Raft, recovered: Recovered) -> Parts:
        return Parts(
            raft,
            self.config,
            self._machine,
            self._storage,
            self._worker,
            recovered.snapshots,
            self._snapshot_worker,
            self._transport,
            self._reactor,
            self._clock,
            self.events,
            self.measurements,
        )

    def founding(self, members: Mapping[ServerId, Address]) -> Membership:
        """Return the membership that *members* found this server's cluster with."""
        return Membership.founding(self.config.cluster, members)

    def _meet(self, raft: Raft, recovered: Recovered) -> Acquaintances:
        """Make what decides whom this server talks to."""
        state = raft.state

        def is_member(peer: ServerId) -> bool:
            return peer in state.membership.members()

        def incarnation_of(peer: ServerId) -> str | None:
            return state.membership.incarnations.get(peer)

        own = replace(recovered.identity, cluster_id=state.membership.cluster_id)
        self._acquaintances = Acquaintances(
            own, is_member, incarnation_of, recovered.directory
        )
        return self._acquaintances

    def _seek(
        self, raft: Raft, acquaintances: Acquaintances, recovered: Recovered
    ) -> None:
        """
        Ask to be taken in, if it comes to that.

        A new server with ``join`` asks until it has a log.  A founder asks if
        a member refuses it because of its data directory, as long as no leader
        has told it anything.  A member that has moved says where it is.
        """
        log, config = raft.state.log, self.config
        address = config.address_of(self.name)
        is_new = bool(config.join) and not log.last_index
        noted = recovered.memberships[-1][1].members().get(self.name, address)
        has_moved = noted != address

        def is_wanted() -> bool:
            return is_new or has_moved or acquaintances.is_taken_for_another

        def is_over() -> bool:
            if has_moved:
                return False
            return bool(log.last_index if is_new else log.commit_index)

        if is_over():
            return
        own, members = acquaintances.own, raft.state.membership.members()
        endpoints = (*config.join, *config.members.values(), *members.values())
        applicant = Applicant(
            own.cluster,
            own.server,
            address,
            own.incarnation,
            is_member=has_moved,
            is_refused=not (is_new or has_moved),
        )
        self._joiner = Joiner(
            applicant,
            tuple(dict.fromkeys(endpoints)),
            self._transport,
            self._clock,
            is_wanted,
            is_over,
        )
        self._joiner.start()

    def reconfigure(self, config: Config) -> None:
        """
        Go on as *config* says; see :mod:`consensus.reload` for what may differ.

        A server that is starting has to have started.
        """
        self.config = config
        if self._driver is not None:
            self._driver.reconfigure(config)
        if self._members is not None:
            self._members.timeout = config.timing.request_timeout

    @property
    def is_pledged(self) -> bool:
        """Say whether another server may trust in this one's election timeout."""
        if self._driver is None:
            return False
        state = self._driver.raft.state
        return state.role is not Role.LEADER and state.is_lease_possible

    def when_started(self) -> Deferred[None]:
        """
        Wait until the server answers calls; at once if it does already.

        The Deferred fails with what kept it from starting:
            ConfigError: The data directory is another's, or in use.
            StorageError: The storage cannot be opened.
            UnreachableError: Its address cannot be listened on.
            Exception: What its machine's companion cannot start with.
        """
        if self._is_started:
            return succeed(None)
        if self._is_over:
            return fail(self._reason)
        waiter: Deferred[None] = Deferred()
        self._start_waiters.append(waiter)
        return waiter

    @inlineCallbacks
    def stopService(self) -> Generator[Deferred[Any], Any, None]:
        """
        Stop; what is under way fails with :class:`~.StoppedError`.

        A leader hands over first, so that the others need not wait for an
        election timeout.
        """
        if not self.running:
            return
        Service.stopService(self)
        yield self._starting
        driver = self._driver
        if driver is not None and driver.raft.state.role is Role.LEADER:
            with suppress(RaftError):
                heir = yield self.hand_over()
                _log.info("{server} hands over to {heir}", server=self.name, heir=heir)
        if not self._is_over:
            self._halt(StoppedError(f"{self.name} was stopped"))
            yield self._close()
            _log.info("{server} stopped", server=self.name)

    def _fail_with(self, failure: Failure) -> None:
        failure.trap(Exception)
        self._fail(cast("Exception", failure.value))

    def _fail(self, error: Exception) -> None:
        """Stop for good: a server whose disk or logic failed must not go on."""
        if self._is_over:
            return
        Service.stopService(self)
        _log.critical(
            "{server} stops: {code}: {error}",
            server=self.name,
            code=error.code if isinstance(error, RaftError) else type(error).__name__,
            error=error,
        )
        if not isinstance(error, RaftError):
            _log.failure("{server} stops because of", Failure(error), server=self.name)
        self._halt(error)
        self._close()
        if self.on_failure is not None:
            self.on_failure(self, error)

    def _on_full(self, is_full: bool) -> None:  # noqa: FBT001 - as the worker calls it
        self.events.add("disk-full" if is_full else "disk-has-room")
        if self._driver is not None:
            self._driver.disk.on_full(is_full)

    def _halt(self, error: Exception) -> None:
        """Do nothing more, and tell all who wait."""
        self._is_over = True
        self._is_started = False
        self._reason = error
        driver, self._driver = self._driver, None
        if driver is not None:
            driver.stop(error)
        if self._joiner is not None:
            self._joiner.stop()
        if self._members is not None:
            self._members.fail(error)
        self.ended(error)
        self.events.stop()
        waiters, self._start_waiters = self._start_waiters, []
        for waiter in waiters:
            waiter.errback(error)

    @inlineCallbacks
    def _close(self) -> Generator[Deferred[Any], Any, None]:
        """Give back the sockets, the files, the thread and the clock."""
        recovered, self._recovered = self._recovered, None
        snapshots = () if recovered is None else (recovered.snapshots.close,)
        companion, self._companion = self._companion, None
        for close in (
            *(() if companion is None else (companion.stopService,)),
            self._transport.close,
            *(partial(self._snapshot_worker.call, each) for each in snapshots),
            partial(self._worker.call, self._storage.close, is_last=True),
        ):
            try:
                yield maybeDeferred(close)
            except Exception as error:  # noqa: BLE001 - the rest must be closed too
                _log.debug("{server}: {error}", server=self.name, error=error)
        self._snapshot_worker.stop()
        self._worker.stop()
        if isinstance(self._clock, MonotonicClock):
            self._clock.stop()
        if recovered is not None:
            recovered.close()

    # --- what the driver reports ------------------------------------------------

    def _on_event(self, event: Event) -> None:
        self.events.heard(event)
        members = self._members
        if isinstance(event, MembershipChanged):
            self._introduce(event)
        elif isinstance(event, MembershipCommitted):
            self._note_members(event)
            if members is not None:
                members.committed(event)
        elif isinstance(event, RoleChanged):
            _log.info(
                role_line(event),
                server=self.name,
                term=event.term,
                leader=event.leader,
            )
            if members is not None:
                members.role_changed(event)
        self.heard(event)

    def _introduce(self, event: MembershipChanged) -> None:
        """
        Be of the cluster of the new membership; look at all peers again.

        A server that catches up with a cluster that was recovered meets
        memberships of the old one first: the leader's id counts.
        """
        acquaintances, driver = self._acquaintances, self._driver
        if acquaintances is not None:
            leader = None if driver is None else driver.raft.state.leader
            found = acquaintances.cluster_of(leader) or event.membership.cluster_id
            own = replace(acquaintances.own, cluster_id=found)
            acquaintances.own = own
            self._transport.introduce(own)

    def _note_members(self, event: MembershipCommitted) -> None:
        """Log who belongs to the cluster now, and forget who does not."""
        members = event.membership.members()
        latest = self._latest_members()
        before, self._belonged = self._belonged, set(members)
        if self._acquaintances is not None:
            is_old = event.index <= self._last_at_start
            # Who left and came back is met anew; but what was in the log at
            # the start may be told a second time, and they may have met since.
            back = latest.keys() if is_old else latest.keys() - before
            self._forget_others(members.keys() | back)
        if event.index > 1 and not event.membership.is_joint:
            _log.info(
                "{server} knows of the voters {voters} and the learners {learners}",
                server=self.name,
                voters=", ".join(event.membership.voters),
                learners=", ".join(event.membership.learners) or "none",
            )
        if self.name in before and self.name not in {*members, *latest}:
            _log.warn(
                "{server} does not belong to {cluster} any more, and can be stopped",
                server=self.name,
                cluster=self.config.cluster,
            )

    def _forget_others(self, members: set[ServerId]) -> None:
        """Forget all but *members*; those that stay are only refused for longer."""
        try:
            cast("Acquaintances", self._acquaintances).keep_only(members)
        except StorageError as error:
            _log.warn(
                "{server} cannot forget who has left; it tries again with the next"
                " change of the membership: {error}",
                server=self.name,
                error=error,
            )

    def known_members(self) -> Collection[ServerId]:
        """Return who belongs to the cluster, as far as it is known here."""
        return self._latest_members() or self.config.members

    def _latest_members(self) -> dict[ServerId, Address]:
        """Return the members by the end of the log, committed or not."""
        if self._driver is None:
            return {}
        return self._driver.raft.state.membership.members()
