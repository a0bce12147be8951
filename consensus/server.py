"""
RaftServer: what users call of one server of a cluster.

How it starts and stops is :mod:`consensus.shell.lifecycle`'s, and what it does in
between the :mod:`~consensus.shell.driver`'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import msgspec
from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure

from consensus.core.ready import RoleChanged, TransferFailed
from consensus.core.values import Role
from consensus.errors import (
    NotLeaderError,
    ProtocolError,
    RaftError,
    StoppedError,
    TimedOutError,
)
from consensus.interfaces import StateMachine
from consensus.options import ManyOptions, ReadOptions, WriteOptions, pack
from consensus.shell import calls, log_pages
from consensus.shell.companion import Home
from consensus.shell.forwarding import Forwarding
from consensus.shell.leadership import LeaderWaiters, Transfers
from consensus.shell.lifecycle import ServerLife
from consensus.shell.loans import Loans

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from twisted.application.service import Service

    from consensus.config import Config
    from consensus.core.messages import Message
    from consensus.core.ready import Event
    from consensus.core.values import (
        Address,
        Entry,
        Identity,
        LogIndex,
        ServerId,
        SnapshotMeta,
        Status,
    )
    from consensus.options import Consistency
    from consensus.sessions import Operation
    from consensus.shell.driver import Driver
    from consensus.shell.log_pages import LogPage, PageRequest
    from consensus.shell.members import Members


# What most reads are: made once, as a read takes a few microseconds.
_PLAIN = ("linearizable", None, None, None)
_PLAIN_READ = ReadOptions()


class RaftServer(ServerLife):
    """One server of a cluster, as a Twisted service; see :class:`.ServerLife`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._leader_waiters = LeaderWaiters(self._clock)
        self._transfers = Transfers(self._clock)
        self.loans = Loans(self._running, self._clock)

    def startService(self) -> None:
        """Begin to open the storage and to listen; see :meth:`when_started`."""
        super().startService()
        self._forwarding = Forwarding(self._transport, self.config)

    def reconfigure(self, config: Config) -> None:
        """Go on as *config* says; see the base."""
        super().reconfigure(config)
        self._forwarding.reconfigure(config)

    # --- what users call -------------------------------------------------

    def write(self, command: Any, *, with_index: bool = False) -> Deferred[Any]:
        """
        Apply *command* on every server; return this machine's result.

        Args:
            command: For the state machine.
            with_index: Return ``(result, log index)`` instead: a server that
                has applied that index has seen the command.

        The Deferred fires once the command is durable on a majority of the
        voters and applied here; or, passed on (``forward: true``), at the
        leader.  It fails with:
            RejectedError: It entered no log; :class:`~.NotLeaderError` says
                who leads.
            OutcomeUnknownError: It may yet be applied.
            CommandFailedError: It was applied, and the machine raised.
        """
        driver = self._driver
        try:
            encoded = self.encoded(command)
            if driver is not None and driver.raft.state.role is Role.LEADER:
                return driver.write(encoded, with_index=with_index)
            passed_on = self.forward(WriteOptions(with_index=with_index), encoded)
            if passed_on is None:
                return self.write_encoded(encoded, with_index=with_index)
        except RaftError as error:
            return fail(error)
        decoded = calls.decoded_with_index if with_index else calls.decoded
        return passed_on.addCallback(lambda answer: decoded(answer, self.machine))

    def write_many(self, commands: Sequence[Any]) -> Deferred[list[Any]]:
        """
        Apply *commands*, one after another with nothing in between.

        Returns:
            The Deferred of their results; where the machine raised, there is
            the :class:`~.CommandFailedError` instead.  It fails as that of
            :meth:`write`: if one is refused, all are, but of those whose
            outcome is unknown the first few may be applied and the rest not.
        """
        try:
            encoded = [self.encoded(command) for command in commands]
            passed_on = self.forward(ManyOptions(), encoded) if encoded else None
            if passed_on is None:
                return self.write_many_encoded(encoded)
        except RaftError as error:
            return fail(error)
        return passed_on.addCallback(
            lambda answer: calls.decoded_results(answer, self.machine)
        )

    def encoded(self, command: Any) -> bytes:
        """
        Return *command* as bytes that may enter the log.

        Raises:
            InvalidCommandError: It may not.
        """
        machine = self.machine
        encoded = machine.encode(command)
        if type(machine).validate is not StateMachine.validate:
            calls.check_command(machine, encoded)
        return encoded

    @property
    def _leads(self) -> bool:
        driver = self._driver
        return driver is not None and driver.raft.state.role is Role.LEADER

    def write_encoded(
        self, command: bytes, *, with_index: bool = False
    ) -> Deferred[Any]:
        """
        Do as :meth:`write` with what the machine's ``encode`` made of a command.

        It is never passed on.

        Raises:
            RejectedError: It entered no log.
        """
        return self._serving().write(command, with_index=with_index)

    def write_many_encoded(
        self, commands: list[bytes], *, with_index: bool = False
    ) -> Deferred[Any]:
        """Do as :meth:`write_many`; see :meth:`write_encoded`."""
        if not commands:
            return succeed(([], 0) if with_index else [])
        return self._serving().write_many(commands, with_index=with_index)

    def write_session(
        self,
        operation: Operation,
        call: bytes,
        *,
        with_index: bool = False,
        is_forwarded: bool = False,
    ) -> Deferred[bytes]:
        """
        Do what a client's session asks for (§6.3); see ``sessions.py``.

        Args:
            operation: What.
            call: The bytes that say more.
            with_index: Of a command: give the log index, too.
            is_forwarded: Another server passed it on; it goes no further.

        Raises:
            RejectedError: It entered no log.

        The Deferred gives the encoded result, and fails as that of
        :meth:`write`, and with:
            SessionExpiredError: The session is not known (any more).
        """
        calls.check_session(self.machine, operation, call)
        leader = "" if is_forwarded else self._leader_elsewhere(WriteOptions())
        driver = self._serving()
        if leader:
            driver.check_size(len(call))
            payload = calls.forwarded_session(operation, call, with_index=with_index)
            return self._forwarding.ask(leader, "session_forwarded", payload)
        answer = driver.write_session(operation, call, with_index=with_index)
        return answer.addCallback(calls.packed) if with_index else answer

    @property
    def machine(self) -> StateMachine:
        """Return the state machine of the version that applies commands now."""
        return self._machine if self._driver is None else self._driver.applier.machine

    def read(
        self,
        query: Any,
        *,
        consistency: Consistency = "linearizable",
        max_age: float | None = None,
        at_index: LogIndex | None = None,
        wait: float | None = None,
    ) -> Deferred[Any]:
        """
        Answer *query*, by default with every write acknowledged before.

        Args:
            query: For the state machine.
            consistency: See :data:`.Consistency`; all but ``stale`` are
                linearizable (§6.4), and only ``follower`` and ``stale`` are
                served by a server that does not lead.  Without
                ``reads.lease`` in the config, ``lease`` is ``linearizable``.
            max_age: Of a stale read: how old the state may be, in seconds.
            at_index: Wait until this server has applied the log up to here.
            wait: Seconds to wait if the machine says ``LATER``; at most 30.

        The Deferred fails with:
            NotLeaderError: Ask ``.leader``; with ``follower``, ``.leader`` is
                ``None``, as nobody is known to lead.
            StaleError: The state is older than *max_age*.
            NotYetError: There is no answer yet, and *wait* is over.
            InvalidCommandError: The arguments make no sense.
            TimedOutError: No majority confirmed who leads, or this server has
                not applied *at_index*, in time.
            CommandFailedError: The machine raised.
        """
        options = _PLAIN_READ
        try:
            if (consistency, max_age, at_index, wait) != _PLAIN:
                options = ReadOptions(consistency, max_age, at_index, wait=wait)
                options.check()
            if not self._leads and self._leader_elsewhere(options):
                passed_on = self.forward(options, self.machine.encode(query))
                if passed_on is not None:
                    return passed_on.addCallback(
                        lambda answer: calls.decoded(answer, self.machine)
                    )
            return self.read_as(query, options)
        except RaftError as error:
            return fail(error)

    def read_as(self, query: Any, options: ReadOptions, size: int = 0) -> Deferred[Any]:
        """
        Do as :meth:`read` says for *options*; it is never passed on.

        Args:
            query: For the state machine.
            options: How to read.
            size: The bytes that it came as; 0 if it did not.

        Raises:
            RejectedError: It cannot be taken.
        """
        return self._serving().read(query, options, size)

    def forward(
        self,
        options: WriteOptions | ManyOptions | ReadOptions,
        body: bytes | list[bytes],
        *,
        always: bool = False,
    ) -> Deferred[bytes] | None:
        """
        Pass a call on to the leader; ``None`` if it is to be dealt with here.

        Args:
            options: What is asked for besides.
            body: The command, the commands or the query.
            always: Even without ``forward`` in the config.

        The Deferred gives the leader's answer as it is on the wire, and fails
        with the leader's error, or as :meth:`.Transport.ask` says.

        Raises:
            RejectedError: It cannot be taken; nothing was sent.
        """
        leader = self._leader_elsewhere(options, always=always)
        if self._driver is None or not leader:
            return None
        for each in [body] if isinstance(body, bytes) else body:
            self._driver.check_size(len(each))
        marked = msgspec.structs.replace(options, forwarded=True)
        wait = options.wait if isinstance(options, ReadOptions) else None
        return self._forwarding.ask(leader, options.method, pack(marked, body), wait)

    def _leader_elsewhere(
        self, options: WriteOptions | ManyOptions | ReadOptions, *, always: bool = False
    ) -> Address:
        """Return the address of the leader that *options* are for, if another."""
        if self._driver is None or self._leads:
            return ""
        if not (always or self.config.forward):
            return ""
        if options.forwarded or not options.needs_leader:
            return ""
        state = self._driver.raft.state
        return state.membership.members().get(state.leader or "", "")

    def status(self) -> Status:
        """
        Return what this server knows right now.

        Raises:
            StoppedError: It does not run.
        """
        state = self._running().raft.state
        return state.status(self.config.cluster, self._machine.version)

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
        try:
            return self._leader_waiters.add(timeout, frozenset(other_than))
        except RaftError as error:
            return fail(error)

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
            self._transfers.check()
            driver.turn()  # what was asked for before is still done here
            driver.raft.transfer(target)
        except RaftError as error:
            return fail(error)
        # The core gives up after one election timeout; but it may have stepped
        # down by then, and nobody else may lead.
        timeout = 3 * self.config.timing.election_timeout
        driver.schedule()
        return self._transfers.add(timeout)

    def get_entry(self, index: LogIndex) -> Deferred[Entry | None]:
        """Return the entry at *index* of this server's log; ``None`` past its end."""
        log = self._running().raft.state.log
        return log_pages.entry(log, self._storage, self._worker.call, index)

    def log_page(self, asked: PageRequest) -> Deferred[LogPage]:
        """Return some entries of this server's log; see :class:`.LogPage`."""
        log = self._running().raft.state.log
        return log_pages.page(self.name, log, self._storage, self._worker.call, asked)

    def set_configuration(self, members: Mapping[ServerId, Address]) -> Deferred[None]:
        """
        Found a cluster of *members*, of which this server is one.

        The others must be new; they learn of it from this one.  The Deferred
        fires when the membership is durable here; it fails with
        :class:`~.AlreadyConfiguredError` when this server has one already.
        """
        try:
            driver = self._running()
            driver.raft.bootstrap(self.founding(members))
        except RaftError as error:
            return fail(error)
        driver.turn()
        return self._worker.call(lambda: None)

    @property
    def members(self) -> Members:
        """
        Return what changes the membership (§4): only a leader's does.

        Raises:
            StoppedError: This server does not run.
        """
        self._running()
        return cast("Members", self._members)

    def snapshot(self) -> Deferred[SnapshotMeta]:
        """
        Write this server's state down now, and let its log be cut (§5.1).

        The Deferred fires when the snapshot is durable.  It fails with:
            InvalidCommandError: The machine's state cannot be encoded.
            DiskFullError: There is no room.
            RejectedError: Nothing is applied yet.
        """
        try:
            return self._running().snapshotter.take()
        except RaftError as error:
            return fail(error)

    def _serving(self) -> Driver:
        if self._driver is None:
            raise NotLeaderError
        return self._driver

    def _running(self) -> Driver:
        if self._driver is None:
            message = f"{self.name} does not run"
            raise StoppedError(message)
        return self._driver

    # --- what the transport calls (Inbox) ----------------------------------

    def welcome(self, peer: Identity) -> None:
        """
        Look at who a peer says it is; see :class:`.Acquaintances`.

        Raises:
            ProtocolError: It is not to be talked to.
        """
        if self._acquaintances is None or self._is_over:
            message = f"{self.name} is stopping"
            raise ProtocolError(message)
        self._acquaintances.welcome(peer)

    def refused(self, peer: ServerId, error: ProtocolError) -> None:
        """Hear that *peer* does not talk to this server, because of *error*."""
        if self._acquaintances is not None:
            self._acquaintances.refused(peer, error)

    def gone(self, peer: ServerId) -> None:
        """Hear that the process of *peer* has ended."""
        if self._driver is not None:
            self._driver.gone(peer)

    def deliver(self, *messages: Message) -> None:
        """Take messages of other servers of the cluster, and deal with them."""
        if self._driver is not None:
            self._driver.deliver(messages)

    def answer(self, method: str, payload: bytes) -> Deferred[bytes]:
        """Answer a client's call; see ``docs/reference/protocol.md``."""
        return calls.answer(self, self.machine, method, payload)

    # --- what its life asks for (ServerLife) ----------------------------------

    def inbox(self) -> RaftServer:
        """Return this server: it takes what arrives."""
        return self

    def companion(self) -> Service | None:
        """Return what the machine wants to run beside this server."""
        home = Home(self, self._reactor, self._clock)
        made: Service | None = self._machine.companion(home)
        return made

    def hand_over(self) -> Deferred[ServerId]:
        """Let another lead, before this server stops."""
        return self.transfer()

    def heard(self, event: Event) -> None:
        """Tell those who wait for a leader, or for another one."""
        if isinstance(event, TransferFailed):
            message = f"{event.target} did not take over in time; {self.name} leads on"
            self._transfers.end(Failure(TimedOutError(message)))
        elif isinstance(event, RoleChanged) and event.leader is not None:
            self._leader_waiters.known(event.leader)
            if event.leader != self.name:
                self._transfers.end(event.leader)

    def ended(self, error: Exception) -> None:
        """Tell those who wait that nothing will come of it, because of *error*."""
        self._leader_waiters.fail(error)
        self.loans.close()
        self._transfers.end(Failure(error))
