"""
An application's client: what it begins with, and its calls, objects in and out.

:class:`ApplicationClient` is what its class derives from.  :class:`OnceCalls` are
for commands that are applied once each, in a session; :class:`RepeatableCalls`
for those that may be applied twice without harm: one that has no answer is made
again, with no session.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.python.failure import Failure

from consensus.calling.session import Attempts
from consensus.client import Client
from consensus.errors import (
    REFUSED_FOR_GOOD,
    CommandFailedError,
    InvalidCommandError,
    ProtocolError,
    RaftError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_T = TypeVar("_T")

#: What :meth:`RepeatableCalls.insist` waits after a failure, in seconds.
_PAUSE = 0.1


class ApplicationClient:
    """
    What an application's client begins with, and ends.

    Args:
        cluster: The cluster's client, which :meth:`close` closes too; or the
            addresses of its servers, one or more, as ``tcp:127.0.0.1:9101``.
        reactor: The reactor; needed with addresses only.
        timeout: Seconds after which a call gives up; with addresses only.

    Raises:
        TypeError: There are addresses and no reactor.
    """

    def __init__(
        self, cluster: Client | Iterable[str], reactor: Any, *, timeout: float
    ) -> None:
        if not isinstance(cluster, Client):
            if reactor is None:
                name = type(self).__name__
                message = f"with addresses, {name} needs the reactor too"
                raise TypeError(message)
            cluster = Client.connect(cluster, reactor, timeout=timeout)
        #: The cluster's client.
        self.cluster = cluster

    def close(self) -> Deferred[None]:
        """Close the connections; what is under way fails."""
        return self.cluster.close()


class _Calls:
    """
    Calls a cluster, and says what its answers are.

    Args:
        cluster: The cluster's client.
        encode: Returns a command or a query as bytes.
        errors: What the machine may raise: its callers get the same class.
    """

    def __init__(
        self,
        cluster: Client,
        encode: Callable[[Any], bytes],
        errors: Iterable[type[Exception]] = (),
    ) -> None:
        self.cluster = cluster
        self._encode = encode
        self._errors = {each.__name__: each for each in errors}

    def read(self, query: Any, kind: Any, **options: Any) -> Deferred[Any]:
        """
        Answer *query*; see :meth:`.Client.read` for *options*.

        Args:
            query: For the state machine.
            kind: The type of the answer, for msgspec.
            **options: How it is read.

        The Deferred fails as that of :meth:`.Client.read`, or with what the
        machine raised.
        """
        try:
            data = self._encode(query)
        except InvalidCommandError as error:
            return fail(error)
        return self._answered(self.cluster.read(data, **options), kind)

    def _answered(self, answer: Deferred[bytes], kind: Any) -> Deferred[Any]:
        return answer.addCallbacks(_decoded, self._failed, callbackArgs=(kind,))

    def _failed(self, failure: Failure) -> Failure:
        error = failure.value
        if isinstance(error, CommandFailedError) and error.kind in self._errors:
            raise self._errors[error.kind](error.detail) from error
        return failure


class OnceCalls(_Calls):
    """
    Calls a cluster, and says what its answers are; each write is done once.

    Args:
        cluster: The cluster's client.
        encode: Returns a command or a query as bytes.
        errors: What the machine may raise: its callers get the same class.
        session: Whether writes belong to the session of *cluster*, and are
            sent until they are answered; otherwise each is sent once.
    """

    def __init__(
        self,
        cluster: Client,
        encode: Callable[[Any], bytes],
        errors: Iterable[type[Exception]] = (),
        *,
        session: bool = True,
    ) -> None:
        super().__init__(cluster, encode, errors)
        self._session = session

    def write(self, make: Callable[[], Any], kind: Any) -> Deferred[Any]:
        """
        Apply a command, and return its result.

        Args:
            make: Returns the command; what it raises of a wrong argument is an
                :class:`.InvalidCommandError`.
            kind: The type of the result, for msgspec.

        The Deferred fails as that of :meth:`.Client.write`, or with what the
        machine raised.
        """
        try:
            data = self._encode(make())
        except InvalidCommandError as error:
            return fail(error)
        except (TypeError, ValueError, OverflowError) as error:
            return fail(InvalidCommandError(str(error)))
        answer = self.cluster.write(data, session=self._session)
        return self._answered(answer, kind)


class RepeatableCalls(_Calls):
    """
    Calls a cluster, and says what its answers are; a write may be done twice.

    Args:
        cluster: The cluster's client.
        encode: Returns a command or a query as bytes.
        errors: What the machine may raise: its callers get the same class.
    """

    def __init__(
        self,
        cluster: Client,
        encode: Callable[[Any], bytes],
        errors: Iterable[type[Exception]] = (),
    ) -> None:
        super().__init__(cluster, encode, errors)
        # A dictionary for its order.
        self._insisting: dict[Deferred[None], None] = {}

    def seconds(self) -> float:
        """Return the time, by the clock that timeouts go by."""
        return cast("float", self.cluster.clock.seconds())

    def write(self, command: Any, kind: type[_T], patience: float) -> Deferred[_T]:
        """
        Apply *command*, once or more often, and return the last result.

        Args:
            command: One that may be applied twice without harm.
            kind: The type of the result, for msgspec.
            patience: After so many seconds no further attempt begins, and the
                last one ends.

        The Deferred fails as that of :meth:`.Client.write`, or with what the
        machine raised.
        """
        try:
            data = self._encode(command)
        except InvalidCommandError as error:
            return fail(error)
        attempts = Attempts(self.seconds() + patience)
        answer = self.cluster.repeat("write", data, attempts)
        return self._answered(answer, kind)

    def insist(
        self, command: Any, patience: float, is_needed: Callable[[], bool]
    ) -> Deferred[None]:
        """
        Apply *command*, however long it takes, while *is_needed* says so.

        What the machine, or the door, refuses is not tried again.  The Deferred
        does not fail; it fires too when :meth:`stop` is called.
        """
        work = Deferred.fromCoroutine(self._insist(command, patience, is_needed))
        self._insisting[work] = None
        return work.addBoth(self._forget, work)

    def stop(self) -> None:
        """Give up whatever is insisted on."""
        for work in list(self._insisting):
            work.cancel()

    def _forget(self, result: Any, work: Deferred[None]) -> Any:
        self._insisting.pop(work, None)
        if isinstance(result, Failure):
            result.trap(CancelledError)
            return None
        return result

    async def _insist(
        self, command: Any, patience: float, is_needed: Callable[[], bool]
    ) -> None:
        while is_needed():
            try:
                await self.write(command, object, patience)
            except REFUSED_FOR_GOOD:
                return
            except RaftError:
                await self.cluster.pause(_PAUSE)
            except tuple(self._errors.values()):
                return
            else:
                return


def _decoded(data: bytes, kind: Any) -> Any:
    try:
        return msgspec.msgpack.decode(data, type=kind)
    # msgspec's own errors are ValueErrors, and so is that of bad UTF-8.
    except (ValueError, RecursionError) as error:
        message = f"this is no answer of that application: {error}"
        raise ProtocolError(message) from error
