"""
A cluster's client for blocking code: scripts, Django, Flask, Celery.

The reactor runs in a thread of its own, begun by the first call; the same
objects may be used from any number of threads.  They may be made before a
fork: each process has its own connections, and its own session.

A call is cancelled when its thread is interrupted, as by Ctrl-C, and when the
time of :func:`timeout` is over.  A write that was sent by then may have been
applied, or may yet be.
"""

from __future__ import annotations

import sys
from concurrent.futures import Future, wait
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial, wraps
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, overload

from twisted.python import threadable

from consensus.errors import TimedOutError
from consensus.reactor_thread import reactor_thread
from consensus.world_client import WorldClient, configured, connecting
from consensus.worlds import END, Face, close, next_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Concatenate, ParamSpec

    from twisted.internet.defer import Deferred

    from consensus.calling.session import ClientSession
    from consensus.client import Client
    from consensus.core.values import Address, LogIndex, ServerId, Status
    from consensus.errors import CommandFailedError
    from consensus.interfaces import TLS, Login
    from consensus.options import Consistency

    _P = ParamSpec("_P")

_T = TypeVar("_T")

_deadline: ContextVar[float | None] = ContextVar("_deadline", default=None)


@contextmanager
def timeout(seconds: float) -> Iterator[None]:
    """
    Give up each call in this block when *seconds* have passed since it began.

    The call raises :class:`~.TimedOutError`, and is cancelled.  A client's own
    timeout holds besides, and says more: whether a write was applied.
    """
    before = _deadline.get()
    end = monotonic() + seconds
    token = _deadline.set(end if before is None else min(before, end))
    try:
        yield
    finally:
        _deadline.reset(token)


class BlockingWorld:
    """Callers who wait, in any thread but a reactor's."""

    @property
    def reactor(self) -> Any:
        """Return the reactor."""
        return reactor_thread().reactor

    def at_once(self, work: Callable[[], _T]) -> _T:
        """Do *work*, which waits for nothing, in the reactor's thread."""
        return reactor_thread().at_once(work)

    def run(self, work: Callable[[], Any]) -> Any:
        """
        Do *work* in the reactor's thread, and wait for what it comes to.

        Raises:
            RuntimeError: The caller is in a reactor's thread.
            TimedOutError: The time of :func:`timeout` is over.
        """
        thread = reactor_thread()
        if thread.is_current or _is_in_reactor():
            raise RuntimeError(
                "a blocking call would stop the reactor whose thread this is:"
                " use consensus.client.Client here, whose calls return Deferreds"
            )
        future: Future[Any] = Future()
        try:
            return _result(thread.submit(work, future))
        except BaseException:
            future.cancel()
            raise

    def post(self, work: Callable[[], Any]) -> None:
        """Do *work* in the reactor's thread some time, if there is one."""
        thread = reactor_thread()
        if thread.is_alive:
            thread.submit(work)


def _is_in_reactor() -> bool:
    """Say whether this thread runs the reactor that the program has installed."""
    reactor = sys.modules.get("twisted.internet.reactor")
    is_running = getattr(reactor, "running", False)
    return bool(is_running) and threadable.isInIOThread()


def _result(future: Future[Any]) -> Any:
    end = _deadline.get()
    if end is not None:
        wait([future], max(0.0, end - monotonic()))
        if not future.done() and future.cancel():
            raise TimedOutError("no answer came in the time of the block")
    return future.result()


class BlockingFace(Face[_T]):
    """
    An application's object whose methods wait; see :class:`.Face`.

    An asynchronous iterator is a plain one here, and a context manager too.
    """

    def __getattr__(self, name: str) -> Any:
        if name == "close" and hasattr(self._own.get(), "aclose"):
            name = "aclose"
        return super().__getattr__(name)

    def _method(self, name: str, value: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(value)
        def call(*args: Any, **kwargs: Any) -> Any:
            return self._call(name, *args, **kwargs)

        return call

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return self._faced(self._world.run(self._work(name, args, kwargs)))

    def __iter__(self) -> Self:
        found: Self = self._call("__aiter__")
        found.__dict__["_is_begun"] = True
        return found

    def __next__(self) -> Any:
        found = self._world.run(partial(next_of, self._own.get()))
        if found is END:
            self.__dict__["_is_begun"] = False
            raise StopIteration
        return self._faced(found)

    def __enter__(self) -> Any:
        return self._call("__aenter__")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        done: bool | None = self._call("__aexit__", kind, error, traceback)
        return done

    def __del__(self) -> None:
        # A loop that was left has nobody else who ends what it went through.
        if not self.__dict__.get("_is_begun"):
            return
        target = self._own.peek()
        if target is not None:
            self._world.post(partial(close, target))


class BlockingClient(WorldClient):
    """
    A cluster's client whose calls wait; made by :func:`connect`.

    Its methods are those of :class:`~.Client`, and raise what their Deferreds
    fail with.

    Args:
        make: Makes the client with a reactor.
    """

    def __init__(self, make: Callable[[Any], Client]) -> None:
        super().__init__(BlockingWorld(), make)

    @overload
    def use(  # type: ignore[overload-overlap] # a type here is a declared machine's
        self,
        application: Callable[Concatenate[Client, _P], type[_T]],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _T: ...

    @overload
    def use(
        self,
        application: Callable[Concatenate[Client, _P], _T],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> BlockingFace[_T]: ...

    def use(
        self,
        application: Callable[Concatenate[Client, _P], Any],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> Any:
        """
        Return an application's client whose calls wait.

        Args:
            application: Its class, such as ``KVClient``; or what else makes
                one of a :class:`~.Client`, as ``Accounts.client`` of a declared
                machine: a type checker then takes it for an ``Accounts``.
            args: Given to it too.
            kwargs: Likewise.
        """
        return BlockingFace(self._world, self._own_of(application, *args, **kwargs))

    def call(
        self,
        function: Callable[Concatenate[Client, _P], Deferred[_T]],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _T:
        """
        Return what *function* gives in the end, which gets the client first.

        A coroutine function will do as well.
        """
        done: _T = self._world.run(lambda: function(self._own.get(), *args, **kwargs))
        return done

    @overload
    def write(
        self,
        command: bytes,
        *,
        with_index: Literal[False] = False,
        session: bool | None = None,
        timeout: float | None = None,
    ) -> bytes: ...

    @overload
    def write(
        self,
        command: bytes,
        *,
        with_index: Literal[True],
        session: bool | None = None,
        timeout: float | None = None,
    ) -> tuple[bytes, LogIndex]: ...

    def write(
        self,
        command: bytes,
        *,
        with_index: bool = False,
        session: bool | None = None,
        timeout: float | None = None,
    ) -> bytes | tuple[bytes, LogIndex]:
        """Apply *command*; see :meth:`.Client.write`."""
        if with_index:
            return self.call(
                lambda client: client.write(
                    command, with_index=True, session=session, timeout=timeout
                )
            )
        return self.call(
            lambda client: client.write(command, session=session, timeout=timeout)
        )

    def write_many(
        self, commands: Sequence[bytes], *, timeout: float | None = None
    ) -> list[bytes | CommandFailedError]:
        """Apply *commands*, one after another; see :meth:`.Client.write_many`."""
        return self.call(lambda client: client.write_many(commands, timeout=timeout))

    def read(
        self,
        query: bytes,
        *,
        consistency: Consistency = "linearizable",
        max_age: float | None = None,
        at_index: LogIndex | None = None,
        wait: float | None = None,
        timeout: float | None = None,
    ) -> bytes:
        """Answer *query*; see :meth:`.Client.read`."""
        return self.call(
            lambda client: client.read(
                query,
                consistency=consistency,
                max_age=max_age,
                at_index=at_index,
                wait=wait,
                timeout=timeout,
            )
        )

    def session(self, ttl: float = 60.0) -> BlockingFace[ClientSession]:
        """Return a session; see :meth:`.Client.session`."""
        own = self._own_of(lambda client: client.session(ttl))
        return BlockingFace(self._world, own)

    def status(self, server: ServerId, timeout: float | None = None) -> Status:
        """Return what *server* knows of itself; see :meth:`.Client.status`."""
        return self.call(lambda client: client.status(server, timeout))

    def status_at(self, address: Address, timeout: float | None = None) -> Status:
        """Do as :meth:`status` with the server at *address*."""
        return self.call(lambda client: client.status_at(address, timeout))

    def ask_leader(
        self, method: str, payload: bytes, timeout: float | None = None
    ) -> bytes:
        """Call a *method* of the leader; see :meth:`.Client.ask_leader`."""
        return self.call(lambda client: client.ask_leader(method, payload, timeout))

    def ask_server(
        self,
        address: Address,
        method: str,
        payload: bytes,
        timeout: float | None = None,
    ) -> bytes:
        """Call *method* of one server; see :meth:`.Client.ask_server`."""
        return self.call(
            lambda client: client.ask_server(address, method, payload, timeout)
        )

    def pause(self, seconds: float) -> None:
        """Wait for *seconds*."""
        return self.call(lambda client: client.pause(seconds))

    def close(self) -> None:
        """Close the connections; what is under way in other threads fails."""
        self._is_closed = True
        if self._own.peek() is not None:
            self.call(lambda client: client.close())

    def __enter__(self) -> Self:
        """Return itself; connections are made when they are needed."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self.close()


def connect(
    endpoints: Iterable[Address] | Mapping[ServerId, Address],
    *,
    timeout: float = 10.0,
    session: bool = True,
    engine: str = "amp",
    options: Any = None,
    tls: TLS | None = None,
    user: str = "",
    password: str = "",
    token: str = "",
) -> BlockingClient:
    """
    Return a client whose calls wait; see :meth:`.Client.connect`.

    Nothing happens before the first call.
    """
    return BlockingClient(
        connecting(
            endpoints,
            timeout=timeout,
            session=session,
            engine=engine,
            options=options,
            tls=tls,
            user=user,
            password=password,
            token=token,
        )
    )


def from_config(
    path: str | Path,
    *,
    timeout: float = 10.0,
    session: bool = True,
    login: Login | None = None,
) -> BlockingClient:
    """
    Return a client of the cluster of a YAML file, which is read at once.

    Raises:
        ConfigError: The file is wrong.
    """
    make = configured(path, timeout=timeout, session=session, login=login)
    return BlockingClient(make)
