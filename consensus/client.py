"""
A cluster's client: it finds the leader and retries what is safe to retry.

What a client may do after a failure depends on what the failure says.  A
command that was rejected entered no log, so it is sent again, elsewhere or
later.  A command that may have been sent is never sent again: nobody knows
whether it will be applied, and twice is worse than perhaps.  Reads change
nothing and are repeated in both cases.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import deferLater

from consensus import registry
from consensus.clock import monotonic_clock
from consensus.core.values import Status
from consensus.errors import (
    InvalidChangeError,
    InvalidCommandError,
    NotLeaderError,
    OutcomeUnknownError,
    OverloadedError,
    ProtocolError,
    RaftError,
    RejectedError,
    UnreachableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from consensus.core.values import Address, ServerId
    from consensus.interfaces import Transport

# Retries begin soon, as an election takes some hundred milliseconds, and
# become rare, as a cluster that is down may stay so.
_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 0.5

# Servers may name each other in turn while they elect; after so many hints in
# a row it is better to wait.
_MAX_HINTS = 3

# A read that hangs at one server is tried at another.
_READ_ATTEMPTS = 4

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

    def write(self, command: bytes) -> Deferred[bytes]:
        """
        Apply *command* and return its result, both as the machine encodes them.

        The Deferred fails with:
            RejectedError: It was not applied and will not be; the class says
                what kept it from being so until the timeout.
            OutcomeUnknownError: It may have been applied, or may yet be.
            CommandFailedError: The state machine raised.
        """
        return self.ask_leader("write", command)

    def read(self, query: bytes) -> Deferred[bytes]:
        """
        Answer *query* from a state that has every write acknowledged before.

        The Deferred fails as that of :meth:`write`.
        """
        return Deferred.fromCoroutine(self._call("read", query, is_repeatable=True))

    def ask_leader(self, method: str, payload: bytes) -> Deferred[bytes]:
        """
        Call a *method* that only the leader answers; see :meth:`write`.

        Args:
            method: See ``docs/reference/protocol.md``.
            payload: What it takes.
        """
        return Deferred.fromCoroutine(self._call(method, payload, is_repeatable=False))

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
        for target in self._targets:
            if target.name == server:
                patience = self._timeout if timeout is None else timeout
                asked = self._transport.ask(target.address, "status", b"", patience)
                return asked.addCallback(_read_status)
        return fail(UnreachableError(f"no server {server!r} is known"))

    def close(self) -> Deferred[None]:
        """Close the transport; what is under way fails."""
        if not self._is_closed:
            self._is_closed = True
            return self._transport.close().addCallback(self._closed)
        return self._transport.close()

    def _closed(self, _: None) -> None:
        self._when_closed()

    async def _call(self, method: str, payload: bytes, *, is_repeatable: bool) -> bytes:
        """Ask server after server until one answers or time is up."""
        deadline = self._clock.seconds() + self._timeout
        pauses = hints = 0
        while True:
            if self._is_closed:
                raise UnreachableError("the client is closed")
            target = self._leader or self._targets[self._next]
            patience = deadline - self._clock.seconds()
            if is_repeatable:
                patience = min(patience, self._timeout / _READ_ATTEMPTS)
            try:
                answer = await self._transport.ask(
                    target.address, method, payload, patience
                )
            except RaftError as error:
                if not _may_repeat(error, is_repeatable=is_repeatable):
                    raise
                pause = 0.0
                if self._follow(target, error) and hints < _MAX_HINTS:
                    hints += 1
                else:
                    hints, pause = 0, self._pause(pauses)
                    pauses += 1
                if self._clock.seconds() + pause >= deadline:
                    raise
            else:
                self._leader = target
                return answer
            if pause:
                await deferLater(self._clock, pause)

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


def _may_repeat(error: RaftError, *, is_repeatable: bool) -> bool:
    """Say whether a call that failed with *error* may be made again."""
    if isinstance(error, InvalidCommandError | InvalidChangeError):
        return False  # it would be refused again
    if isinstance(error, RejectedError):
        return True
    return is_repeatable and isinstance(error, OutcomeUnknownError)


def _read_status(payload: bytes) -> Status:
    try:
        return _decode_status(payload)
    # msgspec's own errors are ValueErrors, and so is that of bad UTF-8.
    except (ValueError, RecursionError) as error:
        message = f"what a server says of itself cannot be read: {error}"
        raise ProtocolError(message) from error
