"""
The connections that a process makes: to its peers, and to the servers it calls.

A link to a peer is made at once and made again whenever it is lost; one for
calls when somebody calls, and closed when nobody does any more.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionRefusedError as NobodyListensError
from twisted.logger import Logger

from consensus.errors import (
    OverloadedError,
    ProtocolError,
    RaftError,
    UnreachableError,
)

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from adapters.transport.amp_connection import AMPOptions, Connection
    from consensus.core.values import Address, ServerId

_log = Logger()

# A server that comes back should be found within a second; its peers should
# not all try in the same moment.  The first try comes soon: where a process was
# killed, nobody listens any more, and the sooner that is known, the sooner
# another leads.  It comes not at once, as a dying process may listen a moment.
_FIRST_DELAY = 0.01
_LONGEST_DELAY = 1.0

# Who calls a server waits for less: mostly there is another one to call.
_LONGEST_CALL_DELAY = 0.5

# Who drops each connection soon after it was made is tried less and less often.
_LASTING = 0.05

# After so many failures, about three seconds, it is worth a line in the log.
_FAILURES_TO_REPORT = 10


class Dialler(Protocol):
    """What the connections here need of the transport that they belong to."""

    options: AMPOptions
    clock: Any

    async def dial(self, address: Address) -> Connection:
        """
        Connect to *address*.

        Raises:
            UnreachableError: It did not work, or not in time.
            AuthenticationError: This end is not let in.
        """

    def look_for(self, peer: ServerId) -> None:
        """See whether there is anything left of *peer*."""


class PeerLink:
    """The connection that this server makes to a peer, again and again."""

    def __init__(self, owner: Dialler, peer: ServerId, address: Address) -> None:
        self.address = address
        #: The connection, once the peer has answered Hello.
        self.connection: Connection | None = None
        #: Whether nobody listened at the address when it was tried last.
        self.is_refused = False
        self._owner = owner
        self._peer = peer
        self._attempt: Deferred[None] | None = None
        self._timer: Any = None
        self._failures = 0
        self._opened_at = 0.0
        self._reported = ""
        self._is_stopped = False

    def start(self) -> None:
        """Begin to connect."""
        self._timer = None
        self._attempt = Deferred.fromCoroutine(self._open())
        self._attempt.addErrback(self._failed)

    def stop(self) -> None:
        """Part from the peer for good."""
        self._is_stopped = True
        if self._timer is not None:
            self._timer.cancel()
        if self._attempt is not None:
            self._attempt.cancel()
        if self.connection is not None:
            connection, self.connection = self.connection, None
            connection.finish()

    def lost(self) -> None:
        """Connect again: the connection is gone."""
        self.connection = None
        lifetime = self._owner.clock.seconds() - self._opened_at
        if lifetime > _LASTING:
            self._failures = 0
        self._retry()

    async def _open(self) -> None:
        connection = await self._owner.dial(self.address)
        try:
            await connection.greet(self._peer)
        except Exception:
            connection.drop()
            raise
        self.connection = connection
        self.is_refused = False
        self._opened_at = self._owner.clock.seconds()
        if self._reported:
            _log.info("server {peer} is reachable again", peer=self._peer)
            self._reported = ""

    def _failed(self, failure: Failure) -> None:
        if self._is_stopped:
            return
        if failure.check(RaftError) is None:
            _log.failure(
                "connecting to a peer failed for a reason that is a bug", failure
            )
        self._report(failure.value)
        self._retry()
        cause = getattr(failure.value, "__cause__", None)
        self.is_refused = isinstance(cause, NobodyListensError)
        if self.is_refused:
            self._owner.look_for(self._peer)

    def _retry(self) -> None:
        if self._is_stopped:
            return
        delay = min(_LONGEST_DELAY, _FIRST_DELAY * 2.0**self._failures)
        self._failures = min(self._failures + 1, 1 + _FAILURES_TO_REPORT)
        delay *= random.uniform(0.5, 1.0)  # noqa: S311 - it is no secret
        self._timer = self._owner.clock.callLater(delay, self.start)

    def _report(self, error: BaseException | None) -> None:
        """Log a mismatch at once and silence after a while, each of them once."""
        # One of TLS is the cause of an unreachable server.
        cause = getattr(error, "__cause__", None)
        is_mismatch = isinstance(error, ProtocolError) or isinstance(
            cause, ProtocolError
        )
        sentence = str(error) if is_mismatch else "unreachable"
        if self._reported == sentence:
            return
        if is_mismatch or self._failures >= _FAILURES_TO_REPORT:
            self._reported = sentence
            _log.warn(
                "cannot talk to server {peer} at {address}: {error}; still trying",
                peer=self._peer,
                address=self.address,
                error=error,
            )


class Caller:
    """
    The connection over which this process calls one server.

    When it cannot be made it is not tried again at once, however many calls
    there are: until then they fail, as nothing was sent.
    """

    def __init__(self, owner: Dialler, address: Address) -> None:
        self.address = address
        self._owner = owner
        self._connection: Connection | None = None
        self._attempt: Deferred[None] | None = None
        self._is_dialling = False
        # A dictionary for its order: calls go out as they were made.
        self._waiting: dict[Deferred[Connection], None] = {}
        self._used_at = 0.0
        self._opened_at = 0.0
        self._failures = 0
        self._next_try = 0.0
        # What came of the last attempt, if nothing good.
        self._why = ""
        self._kind: type[RaftError] = UnreachableError

    def ask(self, method: str, payload: bytes, timeout: float) -> Deferred[bytes]:
        """Call *method*, connecting first where need be."""
        self._used_at = self._owner.clock.seconds()
        connection = self._connection
        if connection is not None and connection.is_open:
            return connection.call(method, payload, timeout)
        if len(self._waiting) >= self._owner.options.max_calls:
            raise OverloadedError("too many calls wait for a connection")
        if connection is not None:
            self._lost()
        if self._used_at < self._next_try:
            message = f"{self._why}; that was a moment ago"
            raise self._kind(message)
        deadline = self._used_at + timeout

        def call(made: Connection) -> Deferred[bytes]:
            left = deadline - self._owner.clock.seconds()
            return made.call(method, payload, left)

        return self._connected(timeout).addCallback(call)

    def _lost(self) -> None:
        """See whether the connection, which is gone, has lasted."""
        self._connection = None
        if self._used_at - self._opened_at > _LASTING:
            self._failures = 0
        elif self._failures:
            self._wait(f"the connection to {self.address!r} was lost at once")
        else:
            self._failures = 1  # once may be chance

    def _wait(self, why: str, kind: type[RaftError] = UnreachableError) -> None:
        """Let some time pass before the next attempt: more each time."""
        self._why, self._kind = why, kind
        delay = min(_LONGEST_CALL_DELAY, _FIRST_DELAY * 2.0**self._failures)
        self._failures = min(self._failures + 1, _FAILURES_TO_REPORT)
        delay *= random.uniform(0.5, 1.0)  # noqa: S311 - it is no secret
        self._next_try = self._owner.clock.seconds() + delay

    def _connected(self, timeout: float) -> Deferred[Connection]:
        """Return the connection, once there is one."""
        waiting: Deferred[Connection] = Deferred(self._give_up)
        self._waiting[waiting] = None
        if timeout < self._owner.options.connect_timeout:
            waiting.addTimeout(timeout, self._owner.clock, self._timed_out)
        if not self._is_dialling:
            self._is_dialling = True
            self._attempt = Deferred.fromCoroutine(self._open())
        return waiting

    def _give_up(self, waiting: Deferred[Connection]) -> None:
        self._waiting.pop(waiting, None)

    def _timed_out(self, _: object, timeout: float) -> Any:
        message = f"no connection to {self.address!r} within {timeout} seconds"
        raise UnreachableError(message)

    async def _open(self) -> None:
        try:
            self._connection = await self._owner.dial(self.address)
        except RaftError as error:
            self._is_dialling = False
            self._wait(str(error), type(error))
            self._fail(str(error), type(error))
            return
        self._is_dialling = False
        self._opened_at = self._owner.clock.seconds()
        waiting, self._waiting = self._waiting, {}
        for one in waiting:
            # One that goes on may have cancelled another.
            if not one.called:
                one.callback(self._connection)

    def _fail(self, message: str, kind: type[RaftError] = UnreachableError) -> None:
        waiting, self._waiting = self._waiting, {}
        for one in waiting:
            if not one.called:
                one.errback(kind(message))

    def is_idle(self, now: float) -> bool:
        """Say whether nobody has used the connection for long."""
        connection = self._connection
        if self._waiting or (connection is not None and connection.asked):
            return False
        return now - self._used_at > self._owner.options.idle_timeout

    def stop(self) -> None:
        """Close the connection, and fail who waits for one."""
        if self._attempt is not None:
            self._attempt.cancel()
        if self._connection is not None:
            self._connection.finish()
        self._fail("the transport is closed")
