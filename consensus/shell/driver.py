"""
Driver: one Raft, from the start of its server to the end, turn by turn.

Whatever happens in one turn of the reactor (messages, writes, reads, finished
syncs) is gathered, and dealt with together at the start of the next one.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.logger import Logger

from consensus.applying.applier import Applier
from consensus.applying.log_time import LogTime
from consensus.applying.upkeep import Upkeep
from consensus.core.values import EntryKind, Role
from consensus.errors import (
    CompactedError,
    NotLeaderError,
    ProtocolError,
    RaftError,
)
from consensus.sessions import entry_of
from consensus.shell.disk_watch import DiskWatch
from consensus.shell.freshness import Freshness, lease_of
from consensus.shell.inspection import Inspection
from consensus.shell.milestones import Milestones
from consensus.shell.pace import Pace
from consensus.shell.recovery import tuning_of
from consensus.shell.requests import Reads
from consensus.shell.snapshotter import Snapshotter
from consensus.shell.writes import Writes
from consensus.telemetry.peers import leader_view
from consensus.tracing import traces_of

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
    from consensus.sessions import Operation
    from consensus.shell.parts import Parts
    from consensus.telemetry.peers import LeaderView

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
        self.raft: Raft = raft
        self.name: ServerId = raft.state.server
        self.applier: Applier = Applier(parts.machine, self.name)
        self.parts: Parts = parts
        self._worker = parts.worker
        self._transport = parts.transport
        self._reactor = parts.reactor
        self._on_event = on_event
        self._on_error = on_error
        self._events = parts.events
        self._connected: dict[ServerId, Address] = {}
        self.snapshotter = Snapshotter(
            raft,
            self.applier,
            parts.snapshots,
            parts.snapshot_worker,
            config.snapshots,
            schedule=self.schedule,
            on_error=on_error,
            note=parts.events.add,
            measured=parts.measurements,
        )
        self._is_over = False
        self._is_scheduled = False
        self._is_turning = False
        self._is_due = False
        self._clock = clock
        self._pace = Pace(config.timing, clock, self._tick)
        self.disk = DiskWatch(raft, config.data_dir / self.name, self._pace)
        self._measured = parts.measurements
        self._writes = Writes(config.limits, _largest_command(config), self._measured)
        self._freshness = Freshness(
            raft,
            clock.seconds,
            lease_of(config, raft, self._pace.interval),
            config.timing.election_timeout,
        )
        self._reads = Reads(
            config.limits,
            self._freshness,
            self._pace.ticks_per_second,
            self._measured,
        )
        self.traces = traces_of(config, self.name)
        self._log_time = LogTime(raft, self.applier, clock.seconds)
        self._milestones = Milestones(raft.state.log.commit_index)
        self.inspection = Inspection(
            raft, self._milestones, parts.events, self._worker, self.turn
        )
        self._upkeep = Upkeep(
            raft,
            self.applier,
            parts.transport,
            clock,
            cluster=config.cluster,
            digest_every=config.digest_every,
        )

    def reconfigure(self, config: Config) -> None:
        """
        Go on as *config* says, which differs in nothing but what may change.

        What is under way keeps its deadline, or has the new one if that is
        sooner; what was taken stays, however little may wait from now on.
        """
        pace, interval = self._pace, self._pace.interval
        pace.adopt(config.timing)
        self._writes.limit(config.limits, _largest_command(config))
        self._reads.limit(config.limits)
        self._writes.hasten(pace.deadline)
        self._reads.hasten(pace.deadline, pace.stretch)
        self._freshness.pause = config.timing.election_timeout
        self.snapshotter.policy = config.snapshots
        self._upkeep.digest_every = config.digest_every
        state, tuning = self.raft.state, tuning_of(config)
        state.log.cache_bytes = config.limits.log_cache_bytes
        before = (interval, state.tuning.election_ticks)
        is_paced_anew = before != (pace.interval, tuning.election_ticks)
        self.raft.retune(tuning, is_paced_anew=is_paced_anew)

    @property
    def tick(self) -> float:
        """Return the seconds of one tick."""
        return self._pace.interval

    def start(self) -> None:
        """Begin to tick."""
        self._connect()
        self._pace.start()
        self.schedule()

    def age(self) -> float | None:
        """See :meth:`.Freshness.age`."""
        return self._freshness.age()

    @property
    def waiting(self) -> tuple[int, int]:
        """Return how many writes, and how many reads, wait for their answer."""
        return self._writes.depth, self._reads.depth

    def leader_view(self) -> LeaderView:
        """
        Return what this server knows of its peers.

        Raises:
            NotLeaderError: It does not lead.
        """
        if self.raft.state.role is not Role.LEADER:
            raise self.not_leader()
        return leader_view(self.raft.state, self._pace.interval, self._measured)

    def stop(self, error: Exception) -> None:
        """Do nothing more; what is under way fails with *error*."""
        self._is_over = True
        self._pace.stop()
        if self.traces is not None:
            self.traces.stop()
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
            raise self._refused(self.not_leader())
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

    def _refused(self, error: RaftError) -> RaftError:
        """Count *error*, and return it."""
        self._measured.failed(error)
        return error

    def _require_office(self) -> None:
        """Refuse a command that this server cannot take now."""
        if self.raft.state.role is not Role.LEADER:
            raise self._refused(self.not_leader())
        self.applier.require_version()
        self.disk.require_room()

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
            if self.traces is not None:
                self.traces.look(self.raft.state)
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
                deadline = self._pace.deadline
                if self._writes.are_new:
                    self._log_time.before_writes()
                self._writes.propose(raft, deadline)
                self._reads.begin(raft, self._pace.now, deadline)
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
        self._milestones.see(ready, raft.state.log.commit_index)
        # First to the others, who have a longer way to go: as soon as storage
        # has something to do, its thread wants the interpreter's lock.
        for peer, message in ready.messages:
            self._transport.send(peer, message)
        if ready.needs_storage and not self._is_drowned(ready):
            self.disk.writing.append(self._pace.now)
            if self.traces is not None and ready.entries:
                self.traces.appended(ready.entries, raft.state)
            if ready.compact is not None:
                # Of the core it is gone already; nobody waits for the disk.
                self._worker.compact(*ready.compact, lambda: None)
                self._events.add("compacted", first_index=ready.compact[0] + 1)
            self._worker.persist(
                ready.hard_state, ready.entries, partial(self._persisted, ready)
            )
        if ready.committed:
            began = self._writes.committed_at = self._clock.seconds()
            self.applier.apply(ready.committed, self._writes.applied)
            took = self._clock.seconds() - began
            self._measured.apply_seconds.observe(took)
            self._milestones.applied(ready.committed)
            self.snapshotter.applied(ready.committed)
            self._upkeep.look()
        for event in ready.events:
            self._measured.heard(event)
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
        return only_answers and len(self.disk.writing) >= _MAX_WRITING

    def _serve(self) -> None:
        """Answer the reads for which the state machine is far enough."""
        if self.raft.state.restoring is None:
            applier = self.applier
            self._reads.serve(applier.last_applied, applier.machine, applier.state)

    def _persisted(self, ready: Ready) -> None:
        """Send what had to wait for storage, and let the core count on it."""
        if self._is_over:
            return
        self.disk.writing.popleft()
        self._milestones.stored(ready.entries)
        if self.traces is not None:
            self.traces.persisted(ready)
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
            return self.parts.storage.entries(fetch.first, fetch.last, fetch.max_bytes)
        except CompactedError:
            return ()

    def _call_failed(self, failure: Failure) -> None:
        if isinstance(failure.value, Exception):
            self._on_error(failure.value)

    # --- time ----------------------------------------------------------------

    def _tick(self) -> None:
        """Let one tick pass."""
        try:
            self._connect()
            self._freshness.ticked()
            self.raft.tick()
            self._upkeep.look()
            self._log_time.look()
            self._reads.ask_again(self.raft, self._pace.now)
            self.disk.look()
        except Exception as error:  # noqa: BLE001 - logged; a broken server stops
            self._on_error(error)
            return
        self._writes.expire(self._pace.now)
        self._reads.expire(self._pace.now)
        self.turn()


def _largest_command(config: Config) -> int:
    """Return how long a command may be: what the limits say, and the transport."""
    transport = config.transport
    largest: int = transport.cls.max_command_bytes(transport.options)
    return min(largest, config.limits.max_command_bytes)
