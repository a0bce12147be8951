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

from twisted.logger import Logger

from consensus.applier import Applier
from consensus.core.values import EntryKind, Role
from consensus.errors import (
    CompactedError,
    NotLeaderError,
    OverloadedError,
    ProtocolError,
    RaftError,
)
from consensus.freshness import Freshness
from consensus.log_time import LogTime
from consensus.recovery import TICKS_PER_HEARTBEAT
from consensus.requests import Reads
from consensus.sessions import entry_of
from consensus.snapshotter import Snapshotter
from consensus.upkeep import Upkeep
from consensus.writes import Writes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from twisted.internet.defer import Deferred
    from twisted.python.failure import Failure

    from consensus.config import Config
    from consensus.core.messages import Message
    from consensus.core.raft import Raft
    from consensus.core.ready import Event, Fetch, Ready
    from consensus.core.values import Address, Entry, ServerId
    from consensus.options import ReadOptions
    from consensus.parts import Parts
    from consensus.sessions import Operation

_log = Logger()

#: Readies in a row before other users of the reactor get their turn.
_MAX_READIES = 16

#: Writes that storage has not finished; beyond it, answers that only wait for
#: them are lost.
_MAX_WRITING = 1000


class Driver:
    """
    Turns events into calls of the core, and the core's readies into effects.

    Args:
        parts: What it has to do with.
        on_event: Called with what the core reports.
        on_error: Called when the driver cannot go on.
    """

    def __init__(
        self,
        parts: Parts,
        on_event: Callable[[Event], None],
        on_error: Callable[[Exception], None],
    ) -> None:
        raft, config, clock = parts.raft, parts.config, parts.clock
        self.raft = raft
        self.name: ServerId = raft.state.server
        self.applier = Applier(parts.machine, self.name)
        self._storage = parts.storage
        self._worker = parts.worker
        self._transport = parts.transport
        self._reactor = parts.reactor
        self._clock = clock
        self._on_event = on_event
        self._on_error = on_error
        self._connected: dict[ServerId, Address] = {}
        self.snapshotter = Snapshotter(
            raft,
            self.applier,
            parts.snapshots,
            parts.snapshot_worker,
            config.snapshots,
            schedule=self.schedule,
            on_error=on_error,
        )
        self._is_over = False
        self._is_scheduled = False
        self._is_turning = False
        self._is_due = False
        self._ticking: Any = None
        self._next_tick = 0.0
        self._ticks = 0
        timing = config.timing
        self._tick_interval = timing.heartbeat_interval / TICKS_PER_HEARTBEAT
        self._patience = max(1, round(timing.request_timeout / self._tick_interval))
        self._stall = max(1, round(timing.disk_stall_timeout / self._tick_interval))
        # At which tick each write began that storage has not finished yet.
        self._writing: deque[int] = deque()
        self._is_full = False
        self._is_handing_over = False
        self._directory = config.data_dir / self.name
        largest = config.transport.cls.max_command_bytes(config.transport.options)
        self._writes = Writes(
            config.limits, min(largest, config.limits.max_command_bytes)
        )
        self._freshness = Freshness(
            raft, clock.seconds, self._lease(config), timing.election_timeout
        )
        self._reads = Reads(config.limits, self._freshness, 1 / self._tick_interval)
        self._log_time = LogTime(raft, self.applier, clock.seconds)
        self._upkeep = Upkeep(
            raft,
            self.applier,
            parts.transport,
            clock,
            cluster=config.cluster,
            digest_every=config.digest_every,
        )

    def _lease(self, config: Config) -> float:
        """
        Return the length of a leader's lease, in seconds; 0 for none.

        A voter keeps its pledge for an election timeout of its own ticks, of
        which the first and the last may come early.
        """
        if not config.reads.lease:
            return 0.0
        ticks = max(0, self.raft.state.tuning.election_ticks - 2)
        return ticks * self._tick_interval * (1.0 - config.reads.clock_drift)

    def start(self) -> None:
        """Begin to tick."""
        self._connect()
        self._next_tick = self._clock.seconds()
        self._tick_later()
        self.schedule()

    def stop(self, error: Exception) -> None:
        """Do nothing more; what is under way fails with *error*."""
        self._is_over = True
        if self._ticking is not None and self._ticking.active():
            self._ticking.cancel()
        self.snapshotter.stop()
        self.applier.close()
        self._writes.fail(error)
        self._reads.fail(error)

    # --- what comes in -----------------------------------------------------

    def write(self, command: bytes, *, with_index: bool = False) -> Deferred[Any]:
        """
        Let *command* wait for the end of this turn; see :meth:`.Writes.add`.

        Raises:
            RejectedError: It cannot be taken.
        """
        self._require_office()
        answer = self._writes.add(command, with_index=with_index)
        self.schedule()
        return answer

    def write_many(
        self, commands: Sequence[bytes], *, with_index: bool = False
    ) -> Deferred[Any]:
        """
        Let *commands* wait for the end of this turn; see :meth:`.Writes.add_many`.

        Raises:
            RejectedError: They cannot be taken.
        """
        self._require_office()
        answer = self._writes.add_many(commands, with_index=with_index)
        self.schedule()
        return answer

    def write_session(
        self, operation: Operation, call: bytes, *, with_index: bool = False
    ) -> Deferred[Any]:
        """
        Let a checked *call* of a session wait for the end of this turn.

        Raises:
            RejectedError: It cannot be taken.
        """
        self._require_office()
        data = entry_of(operation, call, self._log_time.now())
        answer = self._writes.add(data, EntryKind.SESSION, with_index=with_index)
        self.schedule()
        return answer

    def read(self, query: Any, options: ReadOptions, size: int = 0) -> Deferred[Any]:
        """
        Let *query* wait for the end of this turn; see :meth:`.Reads.add`.

        Raises:
            RejectedError: It cannot be taken.
        """
        if self.raft.state.role is not Role.LEADER and options.needs_leader:
            raise self.not_leader()
        self.applier.require_version()
        if size:
            self.check_size(size)
        answer = self._reads.add(query, options, size)
        self.schedule()
        return answer

    def check_size(self, size: int) -> None:
        """
        Refuse a command or query that is too large.

        Raises:
            InvalidCommandError: It is.
        """
        self._writes.check_size(size)

    def deliver(self, messages: Sequence[Message]) -> None:
        """Take messages of other servers of the cluster, and deal with them now."""
        for message in messages:
            try:
                self.raft.step(message)
                self._freshness.heard(message)
            except ProtocolError as error:
                _log.warn(
                    "{server} refused a message of {peer}: {error}",
                    server=self.name,
                    peer=message.sender,
                    error=error,
                )
            except Exception as error:  # noqa: BLE001 - logged; a broken server stops
                self._on_error(error)
                return  # what it is now says nothing to the rest of them
        self.turn()

    def gone(self, peer: ServerId) -> None:
        """Hear that the process of *peer* has ended."""
        self.raft.peer_gone(peer)
        self.schedule()

    def not_leader(self) -> NotLeaderError:
        """Return the error that says who leads instead."""
        state = self.raft.state
        address = state.membership.members().get(state.leader or "", "")
        return NotLeaderError(state.leader, address)

    def _require_office(self) -> None:
        """Refuse a command that this server cannot take now."""
        if self.raft.state.role is not Role.LEADER:
            raise self.not_leader()
        self.applier.require_version()
        if self._is_full:
            message = (
                f"the disk of {self.name}, with {self._directory}, is full;"
                " free some space"
            )
            raise OverloadedError(message)

    def _connect(self) -> None:
        """Let the transport reach whom the core may have to talk to."""
        state = self.raft.state
        wanted = state.contacts()
        for peer, address in self._connected.items():
            if peer in state.progress:
                wanted.setdefault(peer, address)  # it is still being told that it left
        if wanted == self._connected:
            return
        for peer in self._connected.keys() - wanted.keys():
            self._transport.disconnect(peer)
        for peer, address in wanted.items():
            self._transport.connect(peer, address)
        self._connected = wanted

    def on_full(self, is_full: bool) -> None:  # noqa: FBT001 - what happened is the argument
        """Refuse writes while the disk is full, and say so; reads go on."""
        self._is_full = is_full
        text = (
            "the disk of {server} is full: free some space for {directory};"
            " writes are refused until then"
            if is_full
            else "the disk of {server} has room again for {directory}"
        )
        _log.warn(text, server=self.name, directory=self._directory)

    # --- one turn ------------------------------------------------------------

    def schedule(self) -> None:
        """Have :meth:`turn` called on the reactor's next turn."""
        if self._is_turning:
            # The turn under way goes on for as long as there is anything to do.
            self._is_due = True
        elif not self._is_scheduled:
            self._is_scheduled = True
            # Unlike callLater(0), it does not go by the wall clock.
            self._reactor.callFromThread(self.turn)

    def turn(self) -> None:
        """Deal with all that gathered since the last turn."""
        self._is_scheduled = False
        if self._is_turning:
            # A caller that was just answered: some of what is committed may
            # not be applied yet.
            self._is_due = True
            return
        self._is_turning = True
        try:
            is_done = self._turn()
        finally:
            self._is_turning = False
        if not is_done:
            self.schedule()

    def _turn(self) -> bool:
        """Do so; return whether all is done."""
        raft = self.raft
        try:
            for _ in range(_MAX_READIES):
                if self._is_over:
                    return True
                self._is_due = False
                deadline = self._ticks + self._patience
                if self._writes.are_new:
                    self._log_time.before_writes()
                self._writes.propose(raft, deadline)
                self._reads.begin(raft, self._ticks, deadline)
                self._freshness.about_to_send()
                ready = raft.ready()
                if ready is None:
                    self._serve()
                else:
                    self._perform(raft, ready)
                    if ready.committed or ready.events:
                        # More may be committed, and nobody was told of this yet.
                        continue
                if not self._is_due:
                    return True
        except Exception as error:  # noqa: BLE001 - logged; a broken server stops
            self._on_error(error)
            return True
        return False

    def _perform(self, raft: Raft, ready: Ready) -> None:
        """Do what *ready* says, in the order that it promises."""
        # First to the others, who have a longer way to go: as soon as storage
        # has something to do, its thread wants the interpreter's lock.
        for peer, message in ready.messages:
            self._transport.send(peer, message)
        if ready.needs_storage and not self._is_drowned(ready):
            self._writing.append(self._ticks)
            if ready.compact is not None:
                self._worker.compact(*ready.compact, _nothing)
            self._worker.persist(
                ready.hard_state, ready.entries, partial(self._persisted, ready)
            )
        if ready.committed:
            self.applier.apply(ready.committed, self._writes.applied)
            self.snapshotter.applied(ready.committed)
            self._upkeep.look()
        for event in ready.events:
            self._on_event(event)
        if ready.events:
            self._connect()
            self._writes.drop_lost(raft)
            self._reads.drop_lost(raft, self.not_leader)
            self._log_time.now()  # a new leader's begins to pass now
        self._reads.settle(ready, self.not_leader)
        self._serve()
        for fetch in ready.fetches:
            self._fetch(fetch)
        self.snapshotter.perform(ready)

    def _is_drowned(self, ready: Ready) -> bool:
        """
        Say whether *ready* has only answers that wait for a disk that hangs.

        A leader goes on asking; what nobody can wait for any more is lost, as
        messages may be, so that memory is bounded.
        """
        only_answers = not (ready.compact or ready.hard_state or ready.entries)
        return only_answers and len(self._writing) >= _MAX_WRITING

    def _serve(self) -> None:
        """Answer the reads for which the state machine is far enough."""
        if self.raft.state.restoring is None:
            applier = self.applier
            self._reads.serve(applier.last_applied, applier.machine, applier.state)

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
        self.turn()

    def _fetch(self, fetch: Fetch) -> None:
        def fetched(entries: Sequence[Entry]) -> None:
            if not self._is_over:
                self.raft.fetched(fetch, entries)
                self.schedule()

        self._worker.call(partial(self._read, fetch)).addCallback(fetched).addErrback(
            self._call_failed
        )

    def _read(self, fetch: Fetch) -> Sequence[Entry]:
        """Read what *fetch* asks for; nothing if it was compacted meanwhile."""
        try:
            return self._storage.entries(fetch.first, fetch.last, fetch.max_bytes)
        except CompactedError:
            return ()

    def _call_failed(self, failure: Failure) -> None:
        if isinstance(failure.value, Exception):
            self._on_error(failure.value)

    # --- time ----------------------------------------------------------------

    def _tick_later(self) -> None:
        """
        Have the next tick when it is due; those that were missed are left out.

        Due times are an interval apart: a tick that comes late does not put
        off those that follow.
        """
        interval, now = self._tick_interval, self._clock.seconds()
        self._next_tick += interval
        if self._next_tick <= now:
            self._next_tick = now + interval - (now - self._next_tick) % interval
        self._ticking = self._clock.callLater(self._next_tick - now, self._tick)

    def _tick(self) -> None:
        """
        Let one tick pass.

        One only, however late it comes: after a pause of the process, the
        messages that arrived meanwhile are heard before time runs out.
        """
        self._tick_later()
        self._ticks += 1
        try:
            self._connect()
            self._freshness.ticked()
            self.raft.tick()
            self._upkeep.look()
            self._log_time.look()
            self._reads.ask_again(self.raft, self._ticks)
            self._watch_disk()
        except Exception as error:  # noqa: BLE001 - logged; a broken server stops
            self._on_error(error)
            return
        self._writes.expire(self._ticks)
        self._reads.expire(self._ticks)
        self.turn()

    def _watch_disk(self) -> None:
        """Let another lead while this server's disk stands still, or is full."""
        stalled = self._writing and self._ticks - self._writing[0] >= self._stall
        if not (stalled or self._is_full):
            self._is_handing_over = False
            return
        state = self.raft.state
        if state.role is not Role.LEADER or state.transferee is not None:
            return
        with suppress(RaftError):
            heir = self.raft.transfer()
            # Once: the heir's disk may be no better, for hours.
            if not self._is_handing_over:
                self._is_handing_over = True
                self._warn_of_disk(heir)

    def _warn_of_disk(self, heir: ServerId) -> None:
        limit = self._stall * self._tick_interval
        _log.warn(
            "the disk of {server} {problem}; handing over to {heir}",
            server=self.name,
            problem="is full"
            if self._is_full
            else f"has not finished a write in {limit} s",
            heir=heir,
        )


def _nothing() -> None:
    """Do nothing: what is compacted is gone from the core already."""
