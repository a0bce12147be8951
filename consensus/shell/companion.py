"""
The server as its machine's companion sees it: calls that any server takes.

A port of another protocol has clients that know of no leader.  So what only the
leader can do is passed on to it, whatever ``forward`` says, and what entered no
log because nobody leads is tried again for as long as an election may take.
What may have been done is never tried again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.internet.task import deferLater

from consensus.errors import NotLeaderError, RaftError, UnreachableError
from consensus.options import ManyOptions, ReadOptions, WriteOptions
from consensus.shell import calls

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from twisted.python.failure import Failure

    from consensus.config import Config
    from consensus.core.values import ServerId, Status
    from consensus.shell.permits import ServerGuard
    from consensus.state_machine import StateMachine

_T = TypeVar("_T")

# How many election timeouts a call waits for a leader: the first may find out
# that there is none, and votes may be split.
_ELECTIONS = 10

# A leader that does not answer may be known for one until an election timeout
# is over: how often one asks again within that time.
_ATTEMPTS = 8


class OwnServer(Protocol):
    """What is asked of the server; see :class:`.RaftServer`."""

    name: ServerId
    config: Config
    guard: ServerGuard | None

    @property
    def machine(self) -> StateMachine:
        """See :class:`.RaftServer`."""

    def encoded(self, command: Any) -> bytes:
        """See :class:`.RaftServer`."""

    def write(self, command: Any) -> Deferred[Any]:
        """See :class:`.RaftServer`."""

    def write_many(self, commands: Sequence[Any]) -> Deferred[list[Any]]:
        """See :class:`.RaftServer`."""

    @property
    def read(self) -> Callable[..., Deferred[Any]]:
        """See :class:`.RaftServer`."""

    def forward(
        self,
        options: WriteOptions | ManyOptions | ReadOptions,
        body: bytes | list[bytes],
        *,
        always: bool,
    ) -> Deferred[bytes] | None:
        """See :class:`.RaftServer`."""

    def status(self) -> Status:
        """See :class:`.RaftServer`."""

    def leader(self) -> ServerId | None:
        """See :class:`.RaftServer`."""


class Home:
    """
    A :class:`~consensus.interfaces.HomeServer`.

    Args:
        server: The server.
        reactor: Where it runs.
        clock: What it goes by.
    """

    def __init__(self, server: OwnServer, reactor: Any, clock: Any) -> None:
        self._server = server
        self.name: ServerId = server.name
        self.reactor = reactor
        self.clock = clock
        self.gate = None if server.guard is None else server.guard.gate
        self.tls = server.config.tls

    @property
    def max_command_bytes(self) -> int:
        """Return how long a command may be."""
        limits, transport = self._server.config.limits, self._server.config.transport
        largest: int = transport.cls.max_command_bytes(transport.options)
        return min(limits.max_command_bytes, largest)

    @property
    def _pause(self) -> float:
        return self._server.config.timing.election_timeout / _ATTEMPTS

    @property
    def _patience(self) -> float:
        timing = self._server.config.timing
        return min(timing.request_timeout, _ELECTIONS * timing.election_timeout)

    def write(self, command: Any) -> Deferred[Any]:
        """Apply *command* on every server; return the machine's result."""
        return self._in_office(lambda: self._write(command))

    def write_many(self, commands: Sequence[Any]) -> Deferred[list[Any]]:
        """Apply *commands*, one after another with nothing in between."""
        return self._in_office(lambda: self._write_many(commands))

    def read(self, query: Any, **options: Any) -> Deferred[Any]:
        """Answer *query*; the options are those of the server's ``read``."""
        return self._in_office(lambda: self._read(query, options))

    def status(self) -> Status:
        """Return what this server knows right now."""
        return self._server.status()

    def leader(self) -> ServerId | None:
        """Return who leads as far as this server knows."""
        return self._server.leader()

    def _write(self, command: Any) -> Deferred[Any]:
        server = self._server
        if server.leader() == self.name:
            return server.write(command)
        body = server.encoded(command)
        passed_on = server.forward(WriteOptions(), body, always=True)
        if passed_on is None:
            return server.write(command)
        return passed_on.addCallback(lambda answer: calls.decoded(answer, self.machine))

    def _write_many(self, commands: Sequence[Any]) -> Deferred[list[Any]]:
        server = self._server
        if not commands or server.leader() == self.name:
            return server.write_many(commands)
        body = [server.encoded(command) for command in commands]
        passed_on = server.forward(ManyOptions(), body, always=True)
        if passed_on is None:
            return server.write_many(commands)
        return passed_on.addCallback(
            lambda answer: calls.decoded_results(answer, self.machine)
        )

    def _read(self, query: Any, asked: dict[str, Any]) -> Deferred[Any]:
        server = self._server
        if server.leader() == self.name:
            return server.read(query, **asked)
        options = ReadOptions(**asked)
        options.check()
        passed_on = None
        if options.needs_leader:
            body = self.machine.encode(query)
            passed_on = server.forward(options, body, always=True)
        if passed_on is None:
            return server.read(query, **asked)
        return passed_on.addCallback(lambda answer: calls.decoded(answer, self.machine))

    @property
    def machine(self) -> StateMachine:
        """Return the state machine of the version that applies commands now."""
        return self._server.machine

    def _in_office(self, call: Callable[[], Deferred[_T]]) -> Deferred[_T]:
        """Return what *call* gives as soon as there is a leader to ask."""
        return _tried(call).addErrback(self._again, call)

    def _again(self, failure: Failure, call: Callable[[], Deferred[_T]]) -> Any:
        if failure.check(NotLeaderError, UnreachableError) is None:
            return failure
        return Deferred.fromCoroutine(self._retry(failure, call))

    async def _retry(self, failure: Failure, call: Callable[[], Deferred[_T]]) -> _T:
        """Try *call* until somebody takes it, or patience is over."""
        deadline = self.clock.seconds() + self._patience
        while True:
            if self.clock.seconds() + self._pause > deadline:
                failure.raiseException()
            await deferLater(self.clock, self._pause)
            try:
                return await _tried(call)
            except (NotLeaderError, UnreachableError):
                continue


def _tried(call: Callable[[], Deferred[_T]]) -> Deferred[_T]:
    """Return what *call* returns; what it raises, as a failure."""
    try:
        return call()
    except RaftError as error:
        return fail(error)
