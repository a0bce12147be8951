"""
A cluster's client: it finds the leader and retries what is safe to retry.

What a client may do after a failure depends on what the failure says.  A
command that was rejected entered no log, so it is sent again, elsewhere or
later.  A command that may have been sent is never sent again: nobody knows
whether it will be applied, and twice is worse than perhaps.  Reads change
nothing and are repeated in both cases; so are the writes of a session, whose
servers know what they have applied.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import msgspec
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import deferLater

from consensus import registry
from consensus.calling.call import Call, Caller
from consensus.calling.discovery import Discovery
from consensus.calling.session import Attempts, ClientSession
from consensus.calling.targets import Targets
from consensus.clock import monotonic_clock
from consensus.config import Config, load
from consensus.core.values import Status
from consensus.errors import (
    CommandFailedError,
    InvalidCommandError,
    ProtocolError,
    RaftError,
    UnreachableError,
)
from consensus.guard import Login
from consensus.options import (
    ManyOptions,
    ReadOptions,
    WriteOptions,
    pack,
    unpack_indexed,
    unpack_result,
    unpack_results,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from consensus.core.values import Address, LogIndex, ServerId
    from consensus.interfaces import TLS, Transport
    from consensus.options import Consistency

_T = TypeVar("_T")

# What most reads ask for.
_PLAIN = ("linearizable", None, None, None)

_decode_status = msgspec.msgpack.Decoder(Status).decode


class Client:
    """
    Calls a cluster's leader, wherever it is.

    It is used in the reactor's thread, by any number of callers at once.  It
    owns *transport*: :meth:`close` closes it.

    Args:
        addresses: Where the servers listen.
        transport: One that reaches them; it need not listen.
        clock: What timeouts go by, as for the transport.
        timeout: Seconds after which a call gives up.
        dice: Returns a number from 0 to 1, so that clients do not all retry
            in the same moment.
        session: Whether writes belong to the client's session, which the first
            of them opens: see :meth:`session`.
        is_bare: It keeps to *addresses*, and its stale reads may not see its
            own writes.
    """

    def __init__(
        self,
        addresses: Mapping[ServerId, Address],
        transport: Transport,
        clock: Any,
        *,
        timeout: float = 10.0,
        dice: Callable[[], float] = random.random,
        session: bool = False,
        is_bare: bool = True,
    ) -> None:
        targets = self._targets = Targets(addresses, dice)
        self._transport = transport
        self._clock = clock
        self._timeout = timeout
        self._is_closed = False
        self._when_closed: Callable[[], None] = lambda: None
        self._in_session = session
        self._session: ClientSession | None = None
        # Up to where the log has what this client has written.
        self._seen: LogIndex = 0
        self._is_bare = is_bare
        discovery = None if is_bare else Discovery(targets, self.status_at, clock, dice)
        self._caller = Caller(
            targets,
            transport,
            clock,
            timeout=timeout,
            dice=dice,
            discovery=discovery,
        )

    @classmethod
    def connect(
        cls,
        endpoints: Iterable[Address] | Mapping[ServerId, Address],
        reactor: Any,
        *,
        timeout: float = 10.0,
        session: bool = True,
        engine: str = "amp",
        options: Any = None,
        tls: TLS | None = None,
        user: str = "",
        password: str = "",
        token: str = "",
    ) -> Client:
        """
        Return a client of the servers at *endpoints*.

        Args:
            endpoints: One address or more, as ``tcp:127.0.0.1:9101``, or a
                mapping of names to them; the other members are found.
            reactor: The reactor.
            timeout: Seconds after which a call gives up.
            session: Whether a write is applied once however often it has to be
                sent; otherwise it is sent once.
            engine: The transport's name in the YAML file of the cluster.
            options: The transport's options, if not the defaults.
            tls: The client's certificate, where the servers want one.
            user: Who it is, where the servers want to know.
            password: The user's.
            token: One of the user's, instead of a password.

        Raises:
            ConfigError: *tls* cannot be used.
        """
        if isinstance(endpoints, Mapping):
            addresses = dict(endpoints)
        else:
            addresses = {address: address for address in endpoints}
        clock = monotonic_clock(reactor)
        transport = registry.resolve("transport", engine)(options, reactor, clock)
        if user or token:
            transport.identify(Login(user, password, token))
        return cls._begin(addresses, transport, tls, timeout=timeout, session=session)

    @classmethod
    def from_config(
        cls,
        source: str | Path | Config,
        reactor: Any,
        *,
        timeout: float = 10.0,
        session: bool = True,
        login: Login | None = None,
    ) -> Client:
        """
        Return a client of the cluster of a YAML file; see :meth:`connect`.

        Args:
            source: The path of the file, or what is in it.
            reactor: The reactor.
            timeout: Seconds after which a call gives up.
            session: Whether a write is applied once.
            login: Who it is, where the servers want to know.

        Raises:
            ConfigError: The file is wrong.
        """
        chosen = source
        if not isinstance(chosen, Config):
            chosen = load(chosen, needs_serve=False)
        addresses = {each: each for each in chosen.join} | dict(chosen.members)
        engine, clock = chosen.transport, monotonic_clock(reactor)
        transport = engine.cls(engine.options, reactor, clock)
        if login is not None:
            transport.identify(login)
        return cls._begin(
            addresses, transport, chosen.tls, timeout=timeout, session=session
        )

    @classmethod
    def _begin(
        cls,
        addresses: Mapping[ServerId, Address],
        transport: Transport,
        tls: TLS | None,
        **options: Any,
    ) -> Client:
        """Return a client for a program, on a clock that ticks for it."""
        if tls is not None:
            transport.secure(tls)
        clock = transport.clock
        client = cls(addresses, transport, clock, is_bare=False, **options)
        clock.start()
        client._when_closed = clock.stop
        return client

    @property
    def clock(self) -> Any:
        """Return the clock that all timeouts go by."""
        return self._clock

    @property
    def leader(self) -> ServerId | None:
        """Return who led when it was last seen; ``None`` if nobody is known."""
        leader = self._targets.leader
        return None if leader is None else leader.name

    @overload
    def write(
        self,
        command: bytes,
        *,
        with_index: Literal[False] = False,
        session: bool | None = None,
        timeout: float | None = None,
    ) -> Deferred[bytes]: ...

    @overload
    def write(
        self,
        command: bytes,
        *,
        with_index: Literal[True],
        session: bool | None = None,
        timeout: float | None = None,
    ) -> Deferred[tuple[bytes, LogIndex]]: ...

    def write(
        self,
        command: bytes,
        *,
        with_index: bool = False,
        session: bool | None = None,
        timeout: float | None = None,
    ) -> Deferred[Any]:
        """
        Apply *command* and return its result, both as the machine encodes them.

        Args:
            command: For the state machine.
            with_index: Return ``(result, log index)``; see :meth:`read`.
            session: Whether it belongs to the client's session, and is sent
                until it is answered; the client's own choice if ``None``.
            timeout: Seconds after which it gives up; the client's if ``None``.

        The Deferred fails with:
            RejectedError: It was not applied and will not be; the class says
                what kept it from being so until the timeout.
            OutcomeUnknownError: It may have been applied, or may yet be.
            CommandFailedError: The state machine raised.
        """
        if self._in_session if session is None else session:
            if self._session is None:
                self._session = self.session()
            return self._session.write(command, with_index=with_index, timeout=timeout)
        if self._is_bare and not with_index:
            return self.ask_leader("write", command, timeout)
        payload = pack(WriteOptions(with_index=True), command)
        answer = self.ask_leader("write_with", payload, timeout)
        return answer.addCallback(self._wrote, with_index)

    def _wrote(self, payload: bytes, with_index: bool) -> Any:  # noqa: FBT001 - a callback's
        outcome = _read_as(unpack_result, payload)
        self._saw(outcome[1])
        return outcome if with_index else outcome[0]

    def _saw(self, index: LogIndex) -> None:
        """Let later reads of this client have the log up to *index*."""
        self._seen = max(self._seen, index)

    def write_many(
        self, commands: Sequence[bytes], *, timeout: float | None = None
    ) -> Deferred[list[bytes | CommandFailedError]]:
        """
        Apply *commands*, one after another with nothing in between.

        Returns:
            The Deferred of their results; where the state machine raised,
            there is the error instead.  It fails as that of :meth:`write`: if
            one is refused, all are, but of those whose outcome is unknown the
            first few may be applied and the rest not.
        """
        if not commands:
            return succeed([])
        payload = pack(ManyOptions(with_index=not self._is_bare), commands)
        answer = self.ask_leader("write_many", payload, timeout)
        return answer.addCallback(self._wrote_many)

    def _wrote_many(self, payload: bytes) -> list[bytes | CommandFailedError]:
        if self._is_bare:
            return _read_as(unpack_results, payload)
        results, index = _read_as(unpack_indexed, payload)
        self._saw(index)
        return results

    def read(
        self,
        query: bytes,
        *,
        consistency: Consistency = "linearizable",
        max_age: float | None = None,
        at_index: LogIndex | None = None,
        wait: float | None = None,
        timeout: float | None = None,
    ) -> Deferred[bytes]:
        """
        Answer *query*, by default with every write acknowledged before.

        Args:
            query: For the state machine.
            consistency: See :data:`.Consistency`.  Reads that any server may
                serve go to one after the other.
            max_age: Of a stale read: how old the state may be, in seconds.
            at_index: Wait until the server has applied the log up to here, as
                it has when it knows the write that was answered with it.  By
                default a client's reads know what the client has written.
            wait: Seconds for which a server keeps the query, if the state
                machine has no answer yet; at most 30, beside the timeout.
            timeout: Seconds after which it gives up; the client's if ``None``.

        The Deferred fails as that of :meth:`write`, and with:
            StaleError: No server has a state of that age.
            NotYetError: There is no answer yet, and *wait* is over.
        """
        if (consistency, max_age, at_index, wait) == _PLAIN:
            return self._call("read", query, is_repeatable=True, timeout=timeout)
        if consistency == "stale" and at_index is None:
            # All others see every write that was acknowledged before.
            at_index = self._seen or None
        options = ReadOptions(consistency, max_age, at_index, wait=wait)
        try:
            options.check()
        except RaftError as error:
            return fail(error)
        payload = pack(options, query)
        return self._call(
            "read_with",
            payload,
            is_repeatable=True,
            is_for_leader=options.needs_leader,
            wait=wait or 0.0,
            timeout=timeout,
        )

    def session(self, ttl: float = 60.0) -> ClientSession:
        """
        Return a session, whose writes are applied once each (§6.3).

        Args:
            ttl: The servers forget it when it has written nothing for so many
                seconds; 1 to 86,400.

        Raises:
            InvalidCommandError: *ttl* is out of its range.
        """
        note = None if self._is_bare else self._saw
        return ClientSession(self.repeat, self._clock, self._timeout, ttl, note)

    def repeat(
        self, method: str, payload: bytes, attempts: Attempts
    ) -> Deferred[bytes]:
        """
        Call a *method* of the leader that may be repeated without harm.

        Args:
            method: See ``docs/reference/protocol.md``.
            payload: What it takes.
            attempts: Says until when, and learns what became of each attempt.
        """
        return self._call(method, payload, is_repeatable=True, attempts=attempts)

    def ask_leader(
        self, method: str, payload: bytes, timeout: float | None = None
    ) -> Deferred[bytes]:
        """
        Call a *method* that only the leader answers; see :meth:`write`.

        Args:
            method: See ``docs/reference/protocol.md``.
            payload: What it takes.
            timeout: Seconds after which it gives up; the client's if ``None``.
        """
        return self._call(method, payload, is_repeatable=False, timeout=timeout)

    def status(
        self, server: ServerId, timeout: float | None = None
    ) -> Deferred[Status]:
        """
        Return what *server* knows of itself; it is asked once.

        Args:
            server: A member, or one of those that the client was made with.
            timeout: Seconds to wait; the client's own if ``None``.

        The Deferred fails with:
            UnreachableError: It cannot be reached, or is not known.
            OutcomeUnknownError: It does not answer.
            ProtocolError: Its answer is none.
        """
        address = self._targets.address(server)
        if not address:
            return fail(UnreachableError(f"no server {server!r} is known"))
        return self.status_at(address, timeout)

    def status_at(
        self, address: Address, timeout: float | None = None
    ) -> Deferred[Status]:
        """Do as :meth:`status` with the server at *address*."""
        asked = self.ask_server(address, "status", b"", timeout)
        return asked.addCallback(_read_status)

    def ask_server(
        self,
        address: Address,
        method: str,
        payload: bytes,
        timeout: float | None = None,
    ) -> Deferred[bytes]:
        """
        Call *method* of the server at *address*, once, whoever leads.

        Args:
            address: Where it listens.
            method: See ``docs/reference/protocol.md``.
            payload: What it takes.
            timeout: Seconds to wait; the client's own if ``None``.

        The Deferred fails as that of :meth:`.Transport.ask`.
        """
        patience = self._timeout if timeout is None else timeout
        return self._transport.ask(address, method, payload, patience)

    def pause(self, seconds: float) -> Deferred[None]:
        """Wait for *seconds*, by the clock that all timeouts go by."""
        return deferLater(self._clock, seconds)

    def close(self) -> Deferred[None]:
        """Close the transport; what is under way fails."""
        if not self._is_closed:
            self._is_closed = self._caller.is_closed = True
            return self._transport.close().addCallback(self._closed)
        return self._transport.close()

    def _closed(self, _: None) -> None:
        self._when_closed()

    def _call(
        self,
        method: str,
        payload: bytes,
        *,
        is_repeatable: bool,
        is_for_leader: bool = True,
        attempts: Attempts | None = None,
        wait: float = 0.0,
        timeout: float | None = None,
    ) -> Deferred[bytes]:
        """
        Ask server after server until one answers or time is up.

        Args:
            method: See ``docs/reference/protocol.md``.
            payload: What it takes.
            is_repeatable: To do it twice does no harm.
            is_for_leader: Ask whoever is taken for the leader first.
            attempts: Learns what became of each; it may have begun earlier.
            wait: Seconds that a server may take because there is no answer yet.
            timeout: Seconds after which to give up; the client's if ``None``.
        """
        if attempts is None:
            patience = self._timeout if timeout is None else timeout
            if not 0 < patience < math.inf:
                message = f"a timeout is a number of seconds above 0, not {timeout!r}"
                return fail(InvalidCommandError(message))
            attempts = Attempts(self._clock.seconds() + patience + wait)
        call = Call(method, payload, attempts, is_repeatable, is_for_leader, wait)
        return self._caller.make(call)


def _read_as(unpack: Callable[[bytes], _T], payload: bytes) -> _T:
    try:
        return unpack(payload)
    except ValueError as error:
        message = f"this is no result of a write: {error}"
        raise ProtocolError(message) from error


def _read_status(payload: bytes) -> Status:
    try:
        return _decode_status(payload)
    # msgspec's own errors are ValueErrors, and so is that of bad UTF-8.
    except (ValueError, RecursionError) as error:
        message = f"what a server says of itself cannot be read: {error}"
        raise ProtocolError(message) from error
