"""
Driver: one Raft, from the start of its server to the end, turn by turn.

Whatever happens in one turn of the reactor (messages, writes, reads, finished
syncs) is gathered, and dealt with together at the start of the next one.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from consensus.core.ready import MembershipChanged
from consensus.core.values import EntryKind, Role
from consensus.errors import NotLeaderError, ProtocolError, RaftError
from consensus.recovery import TICKS_PER_HEARTBEAT
from consensus.requests import Reads, Writes, command_failed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from twisted.internet.defer import Deferred
    from twisted.python.failure import Failure

    from consensus.config import Config
    from consensus.core.membership import Membership
    from consensus.core.messages import Message
    from consensus.core.raft import Raft
    from consensus.core.ready import Event, Fetch, Ready
    from consensus.core.values import Entry, ServerId
    from consensus.interfaces import StateMachine, Storage, Transport
    from consensus.worker import StorageWorker

_log = Logger()

#: Readies in a row before other users of the reactor get their turn.
_MAX_READIES = 16


class Driver:
    """
    Turns events into calls of the core, and the core's readies into effects.

    Args:
        raft: What is driven.
        config: Of its server.
        machine: What commands are applied to.
        storage: Open.
        worker: Who calls *storage*.
        transport: Listening.
        reactor: For "on the next turn".
        on_event: Called with what the core reports.
        on_error: Called when the driver cannot go on.
    """

    def __init__(  # noqa: PLR0917 - each is used, and made once, by RaftServer
        self,
        raft: Raft,
        config: Config,
        machine: StateMachine,
        storage: Storage,
        worker: StorageWorker,
        transport: Transport,
        reactor: Any,
        on_event: Callable[[Event], None],
        on_error: Callable[[Exception], None],
    ) -> None:
        self.raft = raft
        self.name: ServerId = raft.state.server
        self._machine = machine
        self._state = machine.init(self.name)
        self._storage = storage
        self._worker = worker
        self._transport = transport
        self._reactor = reactor
        self._on_event = on_event
        self._on_error = on_error
        self._is_over = False
        self._is_scheduled = False
        self._ticking: LoopingCall | None = None
        self._ticks = 0
        timing = config.timing
        self._tick_interval = timing.heartbeat_interval / TICKS_PER_HEARTBEAT
        self._patience = max(1, round(timing.request_timeout / self._tick_interval))
        self._stall = max(1, round(timing.disk_stall_timeout / self._tick_interval))
        # At which tick each write began that storage has not finished yet.
        self._writing: deque[int] = deque()
        largest = config.transport.cls.max_command_bytes(config.transport.options)
        self._writes = Writes(
            config.limits, min(largest, config.limits.max_command_bytes)
        )
        self._reads = Reads(config.limits)

    def start(self, clock: Any) -> None:
        """Begin to tick by *clock*."""
        self.connect(self.raft.state.membership)
        self._ticking = LoopingCall(self._tick)
        self._ticking.clock = clock
        self._ticking.start(self._tick_interval, now=False)
        self.schedule()

    def stop(self, error: Exception) -> None:
        """Do nothing more; what is under way fails with *error*."""
        self._is_over = True
        if self._ticking is not None:
            self._ticking.stop()
            self._ticking = None
        self._writes.fail(error)
        self._reads.fail(error)

    # --- what comes in -----------------------------------------------------

    def write(self, command: bytes) -> Deferred[Any]:
        """
        Let *command* wait for the end of this turn.

        Raises:
            RejectedError: It cannot be taken.
        """
        self._require_leader()
        answer = self._writes.add(command)
        self.schedule()
        return answer

    def read(self, query: Any) -> Deferred[Any]:
        """
        Let *query* wait for the end of this turn.

        Raises:
            RejectedError: It cannot be taken.
        """
        self._require_leader()
        answer = self._reads.add(query)
        self.schedule()
        return answer

    def deliver(self, message: Message) -> None:
        """Take a message of another server of the cluster."""
        try:
            self.raft.step(message)
        except ProtocolError as error:
            _log.warn(
                "{server} refused a message of {peer}: {error}",
                server=self.name,
                peer=message.sender,
                error=error,
            )
        except Exception as error:  # noqa: BLE001 - logged; a broken server stops
            self._on_error(error)
        self.schedule()

    def not_leader(self) -> NotLeaderError:
        """Return the error that says who leads instead."""
        state = self.raft.state
        address = state.membership.voters.get(state.leader or "", "")
        return NotLeaderError(state.leader, address)

    def _require_leader(self) -> None:
        if self.raft.state.role is not Role.LEADER:
            raise self.not_leader()

    def connect(self, membership: Membership) -> None:
        """Let the transport reach everybody in *membership*."""
        for peer, address in membership.voters.items():
            if peer != self.name:
                self._transport.connect(peer, address)

    # --- one turn ------------------------------------------------------------

    def schedule(self) -> None:
        """Have :meth:`turn` called on the reactor's next turn."""
        if not self._is_scheduled:
            self._is_scheduled = True
            # Unlike callLater(0), it does not go by the wall clock.
            self._reactor.callFromThread(self.turn)

    def turn(self) -> None:
        """Deal with all that gathered since the last turn."""
        self._is_scheduled = False
        raft = self.raft
        try:
            for _ in range(_MAX_READIES):
                if self._is_over:
                    return
                deadline = self._ticks + self._patience
                self._writes.propose(raft, deadline)
                self._reads.begin(raft, deadline)
                ready = raft.ready()
                if ready is None:
                    return
                self._perform(raft, ready)
        except Exception as error:  # noqa: BLE001 - logged; a broken server stops
            self._on_error(error)
            return
        self.schedule()

    def _perform(self, raft: Raft, ready: Ready) -> None:
        """Do what *ready* says, in the order that it promises."""
        if ready.needs_storage:
            self._writing.append(self._ticks)
            self._worker.persist(
                ready.hard_state, ready.entries, partial(self._persisted, ready)
            )
        for peer, message in ready.messages:
            self._transport.send(peer, message)
        if ready.committed:
            self._apply(ready.committed)
        for event in ready.events:
            if isinstance(event, MembershipChanged):
                self.connect(event.membership)
            self._on_event(event)
        if ready.events:
            self._writes.drop_lost(raft)
        self._reads.settle(ready, self.not_leader())
        self._reads.serve(raft.state.log.last_applied, self._machine, self._state)
        for fetch in ready.fetches:
            self._fetch(fetch)

    def _persisted(self, ready: Ready) -> None:
        """Send what had to wait for storage, and let the core count on it."""
        if self._is_over:
            return
        self._writing.popleft()
        for peer, message in ready.messages_after:
            self._transport.send(peer, message)
        try:
            self.raft.advance(ready)
        except Exception as error:  # noqa: BLE001 - logged; a broken server stops
            self._on_error(error)
        self.schedule()

    def _fetch(self, fetch: Fetch) -> None:
        def fetched(entries: Sequence[Entry]) -> None:
            if not self._is_over:
                self.raft.fetched(fetch, entries)
                self.schedule()

        self._worker.call(
            partial(self._storage.entries, fetch.first, fetch.last, fetch.max_bytes)
        ).addCallback(fetched).addErrback(self._fetch_failed)

    def _fetch_failed(self, failure: Failure) -> None:
        if isinstance(failure.value, Exception):
            self._on_error(failure.value)

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

    # --- time ----------------------------------------------------------------

    def _tick(self) -> None:
        """
        Let one tick pass.

        One only, however late it comes: after a pause of the process, the
        messages that arrived meanwhile are heard before time runs out.
        """
        self._ticks += 1
        try:
            self.raft.tick()
            self._watch_disk()
        except Exception as error:  # noqa: BLE001 - logged; a broken server stops
            self._on_error(error)
            return
        self._writes.expire(self._ticks)
        self._reads.expire(self._ticks)
        self.turn()

    def _watch_disk(self) -> None:
        """Let another lead while this server's disk stands still."""
        if not self._writing or self._ticks - self._writing[0] < self._stall:
            return
        state = self.raft.state
        if state.role is not Role.LEADER or state.transferee is not None:
            return
        with suppress(RaftError):
            heir = self.raft.transfer()
            _log.warn(
                "the disk of {server} has not finished a write in {limit} s;"
                " handing over to {heir}",
                server=self.name,
                limit=self._stall * self._tick_interval,
                heir=heir,
            )
