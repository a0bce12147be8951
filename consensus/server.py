"""
RaftServer: one server of a cluster, as a Twisted service.

It makes and unmakes what belongs to a server: storage and its thread,
transport, state machine, clock; and offers what users call.  What happens in
between is the :mod:`~consensus.driver`'s.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail, inlineCallbacks, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from consensus import calls
from consensus.clock import MonotonicClock, default_reactor, monotonic_clock
from consensus.core.membership import Membership
from consensus.core.ready import MembershipChanged, TransferFailed
from consensus.core.values import Role, Status
from consensus.driver import Driver
from consensus.errors import (
    NotLeaderError,
    RaftError,
    StoppedError,
    TimedOutError,
)
from consensus.recovery import Recovered, make_raft, recover
from consensus.requests import LeaderWaiters
from consensus.worker import StorageWorker

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Mapping

    from consensus.config import Config
    from consensus.core.messages import Message
    from consensus.core.ready import Event, RoleChanged
    from consensus.core.values import Address, Entry, LogIndex, ServerId

_log = Logger()

#: Readies in a row before other users of the reactor get their turn.
_MAX_READIES = 16


class RaftServer(Service):
    """
    One server of a cluster, as a Twisted service.

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
        random_below: Callable[[int], int] = secrets.randbelow,
    ) -> None:
        self.name: ServerId = name
        self.config = config
        #: Called with this server and the error when it stops by itself.
        self.on_failure: Callable[[RaftServer, Exception], None] | None = None
        self._reactor = default_reactor() if reactor is None else reactor
        self._clock: Any = monotonic_clock(self._reactor) if clock is None else clock
        self._random_below = random_below
        self._machine = config.state_machine.cls(config.state_machine.options)
        self._driver: Driver | None = None
        self._recovered: Recovered | None = None
        self._is_over = True
        self._reason: Exception = StoppedError(f"{name} was not started")
        self._starting: Deferred[None] = succeed(None)
        self._start_waiters: list[Deferred[None]] = []
        self._leader_waiters = LeaderWaiters(self._clock)
        self._transfers: list[Deferred[ServerId]] = []

    # --- starting and stopping -------------------------------------------

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
        self._worker = StorageWorker(self._storage, self._reactor, self._fail)
        self._starting = self._start()
        self._starting.addErrback(self._fail_with)

    @inlineCallbacks
    def _start(self) -> Generator[Deferred[Any], Any, None]:
        self._recovered = yield self._worker.call(
            partial(recover, self.config, self.name, self._storage)
        )
        self._worker.after_sync = self._recovered.mark_used
        raft = make_raft(self.config, self._recovered, self._random_below)
        identity = self._recovered.identity
        yield self._transport.listen(identity, self.config.address_of(self.name), self)
        driver = Driver(
            raft,
            self.config,
            self._machine,
            self._storage,
            self._worker,
            self._transport,
            self._reactor,
            self._on_event,
            self._fail,
        )
        if self.config.members and raft.is_new:
            raft.bootstrap(Membership(dict(self.config.members)))
        self._compare_members(raft.state.membership)
        driver.start(self._clock)
        self._driver = driver
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

    def _compare_members(self, membership: Membership) -> None:
        """Warn of a config that names other members than the log does."""
        configured, voters = set(self.config.members), set(membership.voters)
        if configured and voters and configured != voters:
            _log.warn(
                "the members of the config, {configured}, are not those of the log of"
                " {server}, {voters}; the log's count",
                server=self.name,
                configured=", ".join(sorted(configured)),
                voters=", ".join(sorted(voters)),
            )

    def when_started(self) -> Deferred[None]:
        """
        Wait until the server answers calls; at once if it does already.

        The Deferred fails with what kept it from starting:
            ConfigError: The data directory is another's, or in use.
            StorageError: The storage cannot be opened.
            UnreachableError: Its address cannot be listened on.
        """
        if self._driver is not None:
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
        if self._driver is not None and self.leader() == self.name:
            with suppress(RaftError):
                heir = yield self.transfer()
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

    def _halt(self, error: Exception) -> None:
        """Do nothing more, and tell all who wait."""
        self._is_over = True
        self._reason = error
        driver, self._driver = self._driver, None
        if driver is not None:
            driver.stop(error)
        self._leader_waiters.fail(error)
        self._end_transfers(Failure(error))
        waiters, self._start_waiters = self._start_waiters, []
        for waiter in waiters:
            waiter.errback(error)

    @inlineCallbacks
    def _close(self) -> Generator[Deferred[Any], Any, None]:
        """Give back the sockets, the files, the thread and the clock."""
        for close in (
            self._transport.close,
            partial(self._worker.call, self._storage.close),
        ):
            try:
                yield close()
            except Exception as error:  # noqa: BLE001 - the rest must be closed too
                _log.debug("{server}: {error}", server=self.name, error=error)
        self._worker.stop()
        if isinstance(self._clock, MonotonicClock):
            self._clock.stop()
        if self._recovered is not None:
            self._recovered.close()
            self._recovered = None

    # --- what users call -------------------------------------------------

    def write(self, command: Any) -> Deferred[Any]:
        """
        Apply *command* on every server; return this machine's result.

        The Deferred fires once the command is durable on a majority of the
        voters and applied here.  It fails with:
            RejectedError: It entered no log; :class:`~.NotLeaderError` says
                who leads.
            OutcomeUnknownError: It may yet be applied.
            CommandFailedError: It was applied, and the machine raised.
        """
        try:
            return self.write_encoded(self._machine.encode(command))
        except RaftError as error:
            return fail(error)

    def write_encoded(self, command: bytes) -> Deferred[Any]:
        """
        Do as :meth:`write` with what the machine's ``encode`` made of a command.

        Raises:
            RejectedError: It entered no log.
        """
        if self._driver is None:
            raise NotLeaderError
        return self._driver.write(command)

    def read(self, query: Any) -> Deferred[Any]:
        """
        Answer *query* from a state that has every write acknowledged before.

        Linearizable (§6.4); only the leader answers.  The Deferred fails with:
            NotLeaderError: Ask ``.leader``.
            TimedOutError: No majority confirmed that this server leads.
            CommandFailedError: The machine raised.
        """
        if self._driver is None:
            return fail(NotLeaderError())
        try:
            return self._driver.read(query)
        except RaftError as error:
            return fail(error)

    def status(self) -> Status:
        """
        Return what this server knows right now.

        Raises:
            StoppedError: It does not run.
        """
        state = self._running().raft.state
        return Status(
            server=self.name,
            cluster=self.config.cluster,
            role=state.role.value,
            term=state.term,
            leader=state.leader,
            membership=dict(state.membership.voters),
            commit_index=state.log.commit_index,
            last_applied=state.log.last_applied,
            last_index=state.log.last_index,
        )

    def leader(self) -> ServerId | None:
        """Return who leads as far as this server knows."""
        return None if self._driver is None else self._driver.raft.state.leader

    def when_leader_known(
        self, timeout: float | None = None, *, other_than: Collection[ServerId] = ()
    ) -> Deferred[ServerId]:
        """
        Wait until a leader is known; at once if one is.

        Args:
            timeout: In seconds; then the Deferred fails with
                :class:`~.TimedOutError`.
            other_than: Servers known to be gone, though this one may not have
                noticed yet.
        """
        leader = self.leader()
        if leader is not None and leader not in other_than:
            return succeed(leader)
        return self._leader_waiters.add(timeout, frozenset(other_than))

    def transfer(self, target: ServerId | None = None) -> Deferred[ServerId]:
        """
        Hand leadership over (§3.10); return who leads then.

        Args:
            target: To whom; by default to whoever is alive and nearest to the
                end of the log.

        Writes are refused meanwhile.  The Deferred fails with:
            NotLeaderError: This server does not lead.
            InvalidChangeError: *target* is no other voter, or nobody is alive.
            TimedOutError: *target* did not take over; this server still leads,
                or nobody does.
        """
        try:
            driver = self._running()
            driver.turn()  # what was asked for before is still done here
            driver.raft.transfer(target)
        except RaftError as error:
            return fail(error)
        waiter: Deferred[ServerId] = Deferred()
        self._transfers.append(waiter)
        # The core gives up after one election timeout; but it may have stepped
        # down by then, and nobody else may lead.
        timeout = 3 * self.config.timing.election_timeout
        waiter.addTimeout(timeout, self._clock, _nobody_leads)
        driver.schedule()
        return waiter

    def _end_transfers(self, outcome: ServerId | Failure) -> None:
        waiters, self._transfers = self._transfers, []
        for waiter in waiters:
            if not waiter.called:
                waiter.callback(outcome)

    def get_entry(self, index: LogIndex) -> Deferred[Entry | None]:
        """Return the entry at *index* of this server's log; ``None`` past its end."""
        log = self._running().raft.state.log
        if not 0 < index <= log.last_index:
            return succeed(None)
        if index > log.offset:
            return succeed(log.entries[index - log.offset - 1])
        return self._worker.call(lambda: self._storage.entries(index, index, 1)[0])

    def set_configuration(self, members: Mapping[ServerId, Address]) -> Deferred[None]:
        """
        Found a cluster of *members*, of which this server is one.

        The others must be new; they learn of it from this one.  The Deferred
        fires when the membership is durable here; it fails with
        :class:`~.AlreadyConfiguredError` when this server has one already.
        """
        try:
            driver = self._running()
            driver.raft.bootstrap(Membership(dict(members)))
        except RaftError as error:
            return fail(error)
        driver.turn()
        return self._worker.call(lambda: None)

    def _running(self) -> Driver:
        if self._driver is None:
            message = f"{self.name} does not run"
            raise StoppedError(message)
        return self._driver

    # --- what the transport calls (Inbox) ----------------------------------

    def deliver(self, message: Message) -> None:
        """Take a message of another server of the cluster."""
        if self._driver is not None:
            self._driver.deliver(message)

    def answer(self, method: str, payload: bytes) -> Deferred[bytes]:
        """Answer a client's call; see ``docs/reference/protocol.md``."""
        return calls.answer(self, self._machine, method, payload)

    # --- what the driver reports ----------------------------------------------

    def _on_event(self, event: Event) -> None:
        if isinstance(event, MembershipChanged):
            return
        if isinstance(event, TransferFailed):
            message = f"{event.target} did not take over in time; {self.name} leads on"
            self._end_transfers(Failure(TimedOutError(message)))
            return
        _log.info(
            _describe(event),
            server=self.name,
            term=event.term,
            leader=event.leader,
        )
        if event.leader is not None:
            self._leader_waiters.known(event.leader)
            if event.leader != self.name:
                self._end_transfers(event.leader)


def _nobody_leads(result: Any, timeout: float) -> Any:
    del result, timeout
    raise TimedOutError("nobody has taken over leadership yet")


def _describe(event: RoleChanged) -> str:
    """Return the log line of *event*."""
    if event.role is Role.LEADER:
        return "{server} became leader in term {term}"
    if event.role is Role.PRE_CANDIDATE:
        return "{server} hears no leader in term {term}, and asks around"
    if event.role is Role.CANDIDATE:
        return "{server} stands for election in term {term}"
    if event.leader is not None:
        return "{server} follows {leader} in term {term}"
    return "{server} knows no leader in term {term} yet"
