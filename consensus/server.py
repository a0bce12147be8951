"""
RaftServer: one Raft with its storage, its transport, its machine and a clock.

This is the only place where the pure core meets the world.  Whatever happens
in one turn of the reactor (messages, writes, reads, finished syncs) is
gathered, and dealt with together at the start of the next one.
"""

from __future__ import annotations

import secrets
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail, inlineCallbacks, succeed
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from consensus import calls
from consensus.clock import MonotonicClock, default_reactor, monotonic_clock
from consensus.core.membership import Membership
from consensus.core.ready import MembershipChanged
from consensus.core.values import EntryKind, Role, Status
from consensus.errors import (
    NotLeaderError,
    ProtocolError,
    RaftError,
    StoppedError,
)
from consensus.recovery import TICKS_PER_HEARTBEAT, Recovered, make_raft, recover
from consensus.requests import LeaderWaiters, Reads, Writes, command_failed
from consensus.worker import StorageWorker

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Mapping, Sequence

    from consensus.config import Config
    from consensus.core.messages import Message
    from consensus.core.raft import Raft
    from consensus.core.ready import Event, Fetch, Ready, RoleChanged
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
        self._state: Any = None
        self._raft: Raft | None = None
        self._recovered: Recovered | None = None
        self._ticking: LoopingCall | None = None
        self._is_over = True
        self._reason: Exception = StoppedError(f"{name} was not started")
        self._starting: Deferred[None] = succeed(None)
        self._start_waiters: list[Deferred[None]] = []
        self._leader_waiters = LeaderWaiters(self._clock)
        self._is_scheduled = False
        self._ticks = 0
        timing = config.timing
        self._tick_interval = timing.heartbeat_interval / TICKS_PER_HEARTBEAT
        self._patience = max(1, round(timing.request_timeout / self._tick_interval))
        transport = config.transport
        largest = transport.cls.max_command_bytes(transport.options)
        self._writes = Writes(
            config.limits, min(largest, config.limits.max_command_bytes)
        )
        self._reads = Reads(config.limits)

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
        raft = make_raft(self.config, self._recovered, self._random_below)
        identity = self._recovered.identity
        yield self._transport.listen(identity, self.config.address_of(self.name), self)
        self._raft = raft
        self._state = self._machine.init(self.name)
        self._connect(raft.state.membership)
        if self.config.members and raft.is_new:
            raft.bootstrap(Membership(dict(self.config.members)))
        self._compare_members(raft.state.membership)
        self._ticking = LoopingCall(self._tick)
        self._ticking.clock = self._clock
        self._ticking.start(self._tick_interval, now=False)
        _log.info(
            "{server} of {cluster} started in term {term} with {entries} entries",
            server=self.name,
            cluster=self.config.cluster,
            term=raft.state.term,
            entries=raft.state.log.last_index,
        )
        self._schedule()
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
        if self._raft is not None:
            return succeed(None)
        if self._is_over:
            return fail(self._reason)
        waiter: Deferred[None] = Deferred()
        self._start_waiters.append(waiter)
        return waiter

    @inlineCallbacks
    def stopService(self) -> Generator[Deferred[Any], Any, None]:
        """Stop; what is under way fails with :class:`~.StoppedError`."""
        if not self.running:
            return
        Service.stopService(self)
        yield self._starting
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
        self._raft = None
        if self._ticking is not None:
            self._ticking.stop()
            self._ticking = None
        self._writes.fail(error)
        self._reads.fail(error)
        self._leader_waiters.fail(error)
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
        self._require_leader()
        answer = self._writes.add(command)
        self._schedule()
        return answer

    def read(self, query: Any) -> Deferred[Any]:
        """
        Answer *query* from a state that has every write acknowledged before.

        Linearizable (§6.4); only the leader answers.  The Deferred fails with:
            NotLeaderError: Ask ``.leader``.
            TimedOutError: No majority confirmed that this server leads.
            CommandFailedError: The machine raised.
        """
        try:
            self._require_leader()
            answer = self._reads.add(query)
        except RaftError as error:
            return fail(error)
        self._schedule()
        return answer

    def status(self) -> Status:
        """
        Return what this server knows right now.

        Raises:
            StoppedError: It does not run.
        """
        state = self._running().state
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
        return self._raft.state.leader if self._raft is not None else None

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

    def get_entry(self, index: LogIndex) -> Deferred[Entry | None]:
        """Return the entry at *index* of this server's log; ``None`` past its end."""
        log = self._running().state.log
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
            self._running().bootstrap(Membership(dict(members)))
        except RaftError as error:
            return fail(error)
        self._turn()
        return self._worker.call(lambda: None)

    def _running(self) -> Raft:
        if self._raft is None:
            message = f"{self.name} does not run"
            raise StoppedError(message)
        return self._raft

    def _require_leader(self) -> None:
        if self._raft is None or self._raft.state.role is not Role.LEADER:
            raise self._not_leader()

    def _not_leader(self) -> NotLeaderError:
        if self._raft is None:
            return NotLeaderError()
        state = self._raft.state
        address = state.membership.voters.get(state.leader or "", "")
        return NotLeaderError(state.leader, address)

    # --- what the transport calls (Inbox) ----------------------------------

    def deliver(self, message: Message) -> None:
        """Take a message of another server of the cluster."""
        if self._raft is None:
            return
        try:
            self._raft.step(message)
        except ProtocolError as error:
            _log.warn(
                "{server} refused a message of {peer}: {error}",
                server=self.name,
                peer=message.sender,
                error=error,
            )
        except Exception as error:  # noqa: BLE001 - logged; a broken server stops
            self._fail(error)
        self._schedule()

    def answer(self, method: str, payload: bytes) -> Deferred[bytes]:
        """Answer a client's call; see ``docs/reference/protocol.md``."""
        return calls.answer(self, self._machine, method, payload)

    # --- one turn ----------------------------------------------------------

    def _schedule(self) -> None:
        """Have :meth:`_turn` called on the reactor's next turn."""
        if not self._is_scheduled:
            self._is_scheduled = True
            # Unlike callLater(0), it does not go by the wall clock.
            self._reactor.callFromThread(self._turn)

    def _turn(self) -> None:
        """Deal with all that gathered since the last turn."""
        self._is_scheduled = False
        raft = self._raft
        if raft is None:
            return
        try:
            for _ in range(_MAX_READIES):
                deadline = self._ticks + self._patience
                self._writes.propose(raft, deadline)
                self._reads.begin(raft, deadline)
                ready = raft.ready()
                if ready is None:
                    return
                self._perform(raft, ready)
                if self._raft is None:
                    return
        except Exception as error:  # noqa: BLE001 - logged; a broken server stops
            self._fail(error)
            return
        self._schedule()

    def _perform(self, raft: Raft, ready: Ready) -> None:
        """Do what *ready* says, in the order that it promises."""
        if ready.needs_storage:
            self._worker.persist(
                ready.hard_state, ready.entries, partial(self._persisted, ready)
            )
        for peer, message in ready.messages:
            self._transport.send(peer, message)
        if ready.committed:
            self._apply(ready.committed)
        for event in ready.events:
            self._on_event(event)
        if ready.events:
            self._writes.drop_lost(raft)
        self._reads.settle(ready, self._not_leader())
        self._reads.serve(raft.state.log.last_applied, self._machine, self._state)
        for fetch in ready.fetches:
            self._fetch(fetch)

    def _persisted(self, ready: Ready) -> None:
        """Send what had to wait for storage, and let the core count on it."""
        if self._raft is None:
            return
        for peer, message in ready.messages_after:
            self._transport.send(peer, message)
        try:
            self._raft.advance(ready)
        except Exception as error:  # noqa: BLE001 - logged; a broken server stops
            self._fail(error)
        self._schedule()

    def _fetch(self, fetch: Fetch) -> None:
        def fetched(entries: Sequence[Entry]) -> None:
            if self._raft is not None:
                self._raft.fetched(fetch, entries)
                self._schedule()

        self._worker.call(
            partial(self._storage.entries, fetch.first, fetch.last, fetch.max_bytes)
        ).addCallback(fetched).addErrback(self._fail_with)

    def _on_event(self, event: Event) -> None:
        if isinstance(event, MembershipChanged):
            self._connect(event.membership)
            return
        _log.info(
            _describe(event),
            server=self.name,
            term=event.term,
            leader=event.leader,
        )
        if event.leader is not None:
            self._leader_waiters.known(event.leader)

    def _connect(self, membership: Membership) -> None:
        for peer, address in membership.voters.items():
            if peer != self.name:
                self._transport.connect(peer, address)

    def _tick(self) -> None:
        """
        Let one tick pass.

        One only, however late it comes: after a pause of the process, the
        messages that arrived meanwhile are heard before time runs out.
        """
        self._ticks += 1
        if self._raft is None:
            return
        self._raft.tick()
        self._writes.expire(self._ticks)
        self._reads.expire(self._ticks)
        self._turn()

    def _apply(self, entries: Sequence[Entry]) -> None:
        """Apply *entries*, and answer the writes among them that wait here."""
        applied, state = self._writes.applied, self._state
        decode, handle_write = self._machine.decode, self._machine.handle_write
        for entry in entries:
            result: Any = None
            if entry.kind == EntryKind.COMMAND:
                try:
                    result, state = handle_write(decode(entry.command), state)
                except MemoryError:
                    # Not every server runs out: this one must not go on.
                    raise
                except Exception as error:  # noqa: BLE001 - it is the result
                    result = command_failed(error)
                self._state = state
            applied(entry, result)


def _describe(event: RoleChanged) -> str:
    """Return the log line of *event*."""
    if event.role is Role.LEADER:
        return "{server} became leader in term {term}"
    if event.role is Role.CANDIDATE:
        return "{server} stands for election in term {term}"
    if event.leader is not None:
        return "{server} follows {leader} in term {term}"
    return "{server} knows no leader in term {term} yet"
