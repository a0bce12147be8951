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

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

import msgspec
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import deferLater

from consensus import registry
from consensus.client_call import Call, may_repeat
from consensus.client_session import Attempts, ClientSession
from consensus.clock import monotonic_clock
from consensus.core.values import Status
from consensus.errors import (
    CommandFailedError,
    NotLeaderError,
    OverloadedError,
    ProtocolError,
    RaftError,
    UnreachableError,
)
from consensus.options import (
    ManyOptions,
    ReadOptions,
    WriteOptions,
    pack,
    unpack_result,
    unpack_results,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from twisted.python.failure import Failure

    from consensus.core.values import Address, LogIndex, ServerId
    from consensus.interfaces import Transport
    from consensus.options import Consistency

# Retries begin soon, as an election takes some hundred milliseconds, and
# become rare, as a cluster that is down may stay so.
_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 0.5

# Servers may name each other in turn while they elect; after so many hints in
# a row it is better to wait.
_MAX_HINTS = 3

# A read that hangs at one server is tried at another.
_READ_ATTEMPTS = 4

# What most reads ask for.
_PLAIN = ("linearizable", None, None, None)

_decode_status = msgspec.msgpack.Decoder(Status).decode


class _Target(NamedTuple):
    """A server to be asked."""

    name: ServerId
    address: Address


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
    """

    def __init__(
        self,
        addresses: Mapping[ServerId, Address],
        transport: Transport,
        clock: Any,
        *,
        timeout: float = 10.0,
        dice: Callable[[], float] = random.random,
    ) -> None:
        self._targets = [_Target(*item) for item in addresses.items()]
        if not self._targets:
            raise ValueError("a client needs the address of at least one server")
        self._transport = transport
        self._clock = clock
        self._timeout = timeout
        self._dice = dice
        self._next = int(dice() * len(self._targets))
        self._leader: _Target | None = None
        self._is_closed = False
        self._when_closed: Callable[[], None] = lambda: None

    @classmethod
    def connect(
        cls,
        endpoints: Iterable[Address] | Mapping[ServerId, Address],
        reactor: Any,
        *,
        timeout: float = 10.0,
        engine: str = "amp",
        options: Any = None,
    ) -> Client:
        """
        Return a client of the servers at *endpoints*.

        Args:
            endpoints: One address or more, as ``tcp:127.0.0.1:9101``, or a
                mapping of names to them; servers that are missing are found
                when one of them leads.
            reactor: The reactor.
            timeout: Seconds after which a call gives up.
            engine: The transport's name in the YAML file of the cluster.
            options: The transport's options, if not the defaults.
        """
        clock = monotonic_clock(reactor)
        transport = registry.resolve("transport", engine)(options, reactor, clock)
        if isinstance(endpoints, Mapping):
            addresses = dict(endpoints)
        else:
            addresses = {address: address for address in endpoints}
        client = cls(addresses, transport, clock, timeout=timeout)
        clock.start()
        client._when_closed = clock.stop
        return client

    @property
    def leader(self) -> ServerId | None:
        """Return who led when it was last seen; ``None`` if nobody is known."""
        return None if self._leader is None else self._leader.name

    @overload
    def write(
        self, command: bytes, *, with_index: Literal[False] = False
    ) -> Deferred[bytes]: ...

    @overload
    def write(
        self, command: bytes, *, with_index: Literal[True]
    ) -> Deferred[tuple[bytes, LogIndex]]: ...

    def write(self, command: bytes, *, with_index: bool = False) -> Deferred[Any]:
        """
        Apply *command* and return its result, both as the machine encodes them.

        Args:
            command: For the state machine.
            with_index: Return ``(result, log index)``; see :meth:`read`.

        The Deferred fails with:
            RejectedError: It was not applied and will not be; the class says
                what kept it from being so until the timeout.
            OutcomeUnknownError: It may have been applied, or may yet be.
            CommandFailedError: The state machine raised.
        """
        if not with_index:
            return self.ask_leader("write", command)
        payload = pack(WriteOptions(with_index=True), command)
        return self.ask_leader("write_with", payload).addCallback(_read_result)

    def write_many(
        self, commands: Sequence[bytes]
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
        payload = pack(ManyOptions(), commands)
        return self.ask_leader("write_many", payload).addCallback(_read_results)

    def read(
        self,
        query: bytes,
        *,
        consistency: Consistency = "linearizable",
        max_age: float | None = None,
        at_index: LogIndex | None = None,
        wait: float | None = None,
    ) -> Deferred[bytes]:
        """
        Answer *query*, by default with every write acknowledged before.

        Args:
            query: For the state machine.
            consistency: See :data:`.Consistency`.  Reads that any server may
                serve go to one after the other.
            max_age: Of a stale read: how old the state may be, in seconds.
            at_index: Wait until the server has applied the log up to here, as
                it has when it knows the write that was answered with it.

            wait: Seconds for which a server keeps the query, if the state
                machine has no answer yet; at most 30, beside the timeout.

        The Deferred fails as that of :meth:`write`, and with:
            StaleError: No server has a state of that age.
            NotYetError: There is no answer yet, and *wait* is over.
        """
        if (consistency, max_age, at_index, wait) == _PLAIN:
            return self._call("read", query, is_repeatable=True)
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
        return ClientSession(self.repeat, self._clock, self._timeout, ttl)

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

    def ask_leader(self, method: str, payload: bytes) -> Deferred[bytes]:
        """
        Call a *method* that only the leader answers; see :meth:`write`.

        Args:
            method: See ``docs/reference/protocol.md``.
            payload: What it takes.
        """
        return self._call(method, payload, is_repeatable=False)

    def status(
        self, server: ServerId, timeout: float | None = None
    ) -> Deferred[Status]:
        """
        Return what *server* knows of itself; it is asked once.

        Args:
            server: One of those that the client was made with.
            timeout: Seconds to wait; the client's own if ``None``.

        The Deferred fails with:
            UnreachableError: It cannot be reached, or is not known.
            OutcomeUnknownError: It does not answer.
            ProtocolError: Its answer is none.
        """
        address = self._address(server)
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
            self._is_closed = True
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
    ) -> Deferred[bytes]:
        """
        Ask server after server until one answers or time is up.

        Mostly the first one answers, so what others would need is made later.

        Args:
            method: See ``docs/reference/protocol.md``.
            payload: What it takes.
            is_repeatable: To do it twice does no harm.
            is_for_leader: Ask whoever is taken for the leader first.
            attempts: Learns what became of each; it may have begun earlier.
            wait: Seconds that a server may take because there is no answer yet.
        """
        if self._is_closed:
            return fail(UnreachableError("the client is closed"))
        if attempts is None:
            attempts = Attempts(self._clock.seconds() + self._timeout + wait)
        call = Call(method, payload, attempts, is_repeatable, is_for_leader, wait)
        target = self._choose(is_for_leader=is_for_leader)
        answer = self._ask(target, call)
        answer.addErrback(self._ask_others, target, call)
        return answer

    def _ask(self, target: _Target, call: Call) -> Deferred[bytes]:
        """Make *call* to *target*, once."""
        patience = call.attempts.deadline - self._clock.seconds()
        if call.is_repeatable:
            patience = min(patience, self._timeout / _READ_ATTEMPTS + call.wait)
        asked = self._transport.ask(target.address, call.method, call.payload, patience)
        if call.is_for_leader:
            asked.addCallback(self._answered, target)
        return asked

    def _ask_others(self, failure: Failure, target: _Target, call: Call) -> Any:
        """Go on after *target* was asked in vain, if that is of use."""
        error = failure.value
        if not isinstance(error, RaftError):
            return failure
        pause = self._pause_after(error, target, call)
        if pause is None:
            return failure
        return Deferred.fromCoroutine(self._repeat(call, pause))

    async def _repeat(self, call: Call, pause: float) -> bytes:
        """Ask again and again, for the first time after *pause*."""
        while True:
            if pause:
                await deferLater(self._clock, pause)
            if self._is_closed:
                raise UnreachableError("the client is closed")
            target = self._choose(is_for_leader=call.is_for_leader)
            try:
                return await self._ask(target, call)
            except RaftError as error:
                after = self._pause_after(error, target, call)
                if after is None:
                    raise
                pause = after

    def _pause_after(
        self, error: RaftError, target: _Target, call: Call
    ) -> float | None:
        """Return how long to wait after *error*; ``None`` to give up with it."""
        call.attempts.failed(error)
        if not may_repeat(error, is_repeatable=call.is_repeatable):
            return None
        pause = 0.0
        if self._follow(target, error) and call.hints < _MAX_HINTS:
            call.hints += 1
        else:
            call.hints, pause = 0, self._pause(call.pauses)
            call.pauses += 1
        if self._clock.seconds() + pause >= call.attempts.deadline:
            return None
        return pause

    def _choose(self, *, is_for_leader: bool) -> _Target:
        """Return whom to ask now."""
        if is_for_leader:
            return self._leader or self._targets[self._next]
        self._next = (self._next + 1) % len(self._targets)
        return self._targets[self._next]

    def _answered(self, answer: bytes, target: _Target) -> bytes:
        """Ask *target* again next time: it leads, or knows who does."""
        self._leader = target
        return answer

    def _follow(self, asked: _Target, error: RaftError) -> bool:
        """Choose whom to ask next; say whether *error* named somebody."""
        if isinstance(error, NotLeaderError) and error.leader is not None:
            named = _Target(error.leader, error.address or self._address(error.leader))
            if named.address and named.address != asked.address:
                self._leader = named
                return True
        if isinstance(error, OverloadedError):
            # Whoever is overloaded leads, or will say next time who does.
            return False
        if self._leader == asked:
            self._leader = None
        if self._targets[self._next].address == asked.address:
            self._next = (self._next + 1) % len(self._targets)
        return False

    def _address(self, server: ServerId) -> Address:
        found = [target.address for target in self._targets if target.name == server]
        return found[0] if found else ""

    def _pause(self, before: int) -> float:
        """Return how long to wait after as many pauses *before*."""
        longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(before, 10))
        return longest * (0.5 + 0.5 * self._dice())


def _read_result(payload: bytes) -> tuple[bytes, LogIndex]:
    try:
        return unpack_result(payload)
    except ValueError as error:
        message = f"this is no result with its index: {error}"
        raise ProtocolError(message) from error


def _read_results(payload: bytes) -> list[bytes | CommandFailedError]:
    try:
        return unpack_results(payload)
    except ValueError as error:
        message = f"these are no results: {error}"
        raise ProtocolError(message) from error


def _read_status(payload: bytes) -> Status:
    try:
        return _decode_status(payload)
    # msgspec's own errors are ValueErrors, and so is that of bad UTF-8.
    except (ValueError, RecursionError) as error:
        message = f"what a server says of itself cannot be read: {error}"
        raise ProtocolError(message) from error
