"""
A cluster's client for asyncio.

Where Twisted's asyncio reactor runs in the loop of the caller, it is used;
otherwise the reactor runs in a thread of its own, and the loop never waits for
it but to make an object.

To cancel a task is to cancel its call.  A write that was sent by then may have
been applied, or may yet be.
"""

from __future__ import annotations

import asyncio
import sys
import warnings
from collections.abc import Coroutine
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, overload

from twisted.internet.defer import maybeDeferred

from consensus.reactor_thread import reactor_thread
from consensus.world_client import WorldClient, configured, connecting
from consensus.worlds import END, Face, Own, close, next_of

if TYPE_CHECKING:
    from collections.abc import (
        AsyncIterator,
        Callable,
        Generator,
        Iterable,
        Mapping,
        Sequence,
    )
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
    from consensus.reactor_thread import ReactorThread

    _P = ParamSpec("_P")

_T = TypeVar("_T")


class AsyncioWorld:
    """
    Callers who await, in any loop of asyncio.

    The reactor is in the loop or in another thread; which of them is seen to
    when it is first needed in a process.
    """

    def __init__(self) -> None:
        self._reactor = Own(_Nowhere(), _reactor_of_loop)

    @property
    def reactor(self) -> Any:
        """Return the reactor."""
        return self._reactor.get() or reactor_thread().reactor

    def at_once(self, work: Callable[[], _T]) -> _T:
        """Do *work*, which waits for nothing, in the reactor's thread."""
        if self._reactor.get() is not None:
            return work()
        return reactor_thread().at_once(work)

    async def run(self, work: Callable[[], Any]) -> Any:
        """Do *work* in the reactor's thread, and return what it comes to."""
        loop = asyncio.get_running_loop()
        if self._reactor.get() is not None:
            return await maybeDeferred(work).asFuture(loop)
        return await asyncio.wrap_future(_thread().submit(work), loop=loop)

    def post(self, work: Callable[[], Any]) -> None:
        """Do *work* in the reactor's thread some time, if there is one."""
        reactor = self._reactor.get()
        if reactor is not None:
            reactor.callFromThread(maybeDeferred, work)
        elif reactor_thread().is_alive:
            reactor_thread().submit(work)


class _Nowhere:
    """Where things are made without going anywhere."""

    def at_once(self, work: Callable[[], _T]) -> _T:
        """Do *work*."""
        return work()


def _reactor_of_loop() -> Any:
    """Return the reactor that runs in this loop; ``None`` if there is none."""
    reactor = sys.modules.get("twisted.internet.reactor")
    if reactor is None or not getattr(reactor, "running", False):
        return None
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return None
    return reactor if getattr(reactor, "_asyncioEventloop", None) is loop else None


def _thread() -> ReactorThread:
    thread = reactor_thread()
    if thread.is_current:
        raise RuntimeError(
            "this is the reactor's own thread: use consensus.client.Client here,"
            " whose calls return Deferreds"
        )
    return thread


class Call(Coroutine[Any, Any, _T]):
    """
    What a method of an :class:`AsyncioFace` returns.

    It is awaited, iterated over or entered, each as the method that it calls is
    for; nothing is done before.  It is a coroutine, so a task may be made of it.

    Args:
        name: The method's.
        run: Calls it.
    """

    def __init__(self, name: str, run: Callable[[], Coroutine[Any, Any, _T]]) -> None:
        self._name = name
        self._run = run
        self._coroutine: Coroutine[Any, Any, _T] | None = None
        self._entered: Any = None

    def _begin(self) -> Coroutine[Any, Any, _T]:
        if self._coroutine is None:
            self._coroutine = self._run()
        return self._coroutine

    def __await__(self) -> Generator[Any, Any, _T]:
        return self._begin().__await__()

    def send(self, value: Any) -> Any:
        """Go on; see :class:`collections.abc.Coroutine`."""
        return self._begin().send(value)

    def throw(self, *error: Any) -> Any:
        """Go on with an error; see :class:`collections.abc.Coroutine`."""
        return self._begin().throw(*error)

    def close(self) -> None:
        """End it; see :class:`collections.abc.Coroutine`."""
        self._begin().close()

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._iterate()

    async def _iterate(self) -> AsyncIterator[Any]:
        found: Any = await self
        iterator = aiter(found)
        try:
            async for each in iterator:
                yield each
        finally:
            # A loop that was left has nobody else who ends it.
            if isinstance(iterator, AsyncioFace):
                await iterator.end()

    async def __aenter__(self) -> Any:
        self._entered = await self
        return await self._entered.__aenter__()

    async def __aexit__(self, *error: object) -> Any:
        return await self._entered.__aexit__(*error)

    def __del__(self) -> None:
        if self._coroutine is None:
            message = f"the call of {self._name!r} was never awaited"
            warnings.warn(message, RuntimeWarning, stacklevel=2)


class AsyncioFace(Face[_T]):
    """
    An application's object whose methods are awaited; see :class:`.Face`.

    All of them are, but those that give an asynchronous iterator or context
    manager, which are used as ever.
    """

    def _method(self, name: str, value: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(value)
        def call(*args: Any, **kwargs: Any) -> Call[Any]:
            return Call(name, partial(self._call, name, *args, **kwargs))

        return call

    async def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return self._faced(await self._world.run(self._work(name, args, kwargs)))

    def __aiter__(self) -> AsyncIterator[Any]:
        target: Any = self._own.get()
        found: AsyncIterator[Any] = self._faced(self._world.at_once(target.__aiter__))
        return found

    async def __anext__(self) -> Any:
        found = await self._world.run(partial(next_of, self._own.get()))
        if found is END:
            raise StopAsyncIteration
        return self._faced(found)

    async def end(self) -> None:
        """Let an iterator end that was left."""
        await self._world.run(partial(close, self._own.get()))

    async def __aenter__(self) -> Any:
        return await self._call("__aenter__")

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> Any:
        return await self._call("__aexit__", kind, error, traceback)


class AsyncioClient(WorldClient):
    """
    A cluster's client whose calls are awaited; made by :func:`connect`.

    Its methods are those of :class:`~.Client`, and raise what their Deferreds
    fail with.

    Args:
        make: Makes the client with a reactor.
    """

    def __init__(self, make: Callable[[Any], Client]) -> None:
        super().__init__(AsyncioWorld(), make)

    def use(
        self,
        application: Callable[Concatenate[Client, _P], _T],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> AsyncioFace[_T]:
        """
        Return an application's client whose calls are awaited.

        Args:
            application: Its class, such as ``KVClient``; or what else makes
                one of a :class:`~.Client`.
            args: Given to it too.
            kwargs: Likewise.
        """
        return AsyncioFace(self._world, self._own_of(application, *args, **kwargs))

    async def call(
        self,
        function: Callable[Concatenate[Client, _P], Deferred[_T]],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _T:
        """
        Return what *function* gives in the end, which gets the client first.

        A coroutine function will do as well.
        """
        done: _T = await self._world.run(
            lambda: function(self._own.get(), *args, **kwargs)
        )
        return done

    @overload
    async def write(
        self,
        command: bytes,
        *,
        with_index: Literal[False] = False,
        session: bool | None = None,
        timeout: float | None = None,
    ) -> bytes: ...

    @overload
    async def write(
        self,
        command: bytes,
        *,
        with_index: Literal[True],
        session: bool | None = None,
        timeout: float | None = None,
    ) -> tuple[bytes, LogIndex]: ...

    async def write(
        self,
        command: bytes,
        *,
        with_index: bool = False,
        session: bool | None = None,
        timeout: float | None = None,
    ) -> bytes | tuple[bytes, LogIndex]:
        """Apply *command*; see :meth:`.Client.write`."""
        if with_index:
            return await self.call(
                lambda client: client.write(
                    command, with_index=True, session=session, timeout=timeout
                )
            )
        return await self.call(
            lambda client: client.write(command, session=session, timeout=timeout)
        )

    async def write_many(
        self, commands: Sequence[bytes], *, timeout: float | None = None
    ) -> list[bytes | CommandFailedError]:
        """Apply *commands*, one after another; see :meth:`.Client.write_many`."""
        return await self.call(
            lambda client: client.write_many(commands, timeout=timeout)
        )

    async def read(
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
        return await self.call(
            lambda client: client.read(
                query,
                consistency=consistency,
                max_age=max_age,
                at_index=at_index,
                wait=wait,
                timeout=timeout,
            )
        )

    def session(self, ttl: float = 60.0) -> AsyncioFace[ClientSession]:
        """Return a session; see :meth:`.Client.session`."""
        own = self._own_of(lambda client: client.session(ttl))
        return AsyncioFace(self._world, own)

    async def status(self, server: ServerId, timeout: float | None = None) -> Status:
        """Return what *server* knows of itself; see :meth:`.Client.status`."""
        return await self.call(lambda client: client.status(server, timeout))

    async def status_at(self, address: Address, timeout: float | None = None) -> Status:
        """Do as :meth:`status` with the server at *address*."""
        return await self.call(lambda client: client.status_at(address, timeout))

    async def ask_leader(
        self, method: str, payload: bytes, timeout: float | None = None
    ) -> bytes:
        """Call a *method* of the leader; see :meth:`.Client.ask_leader`."""
        return await self.call(
            lambda client: client.ask_leader(method, payload, timeout)
        )

    async def ask_server(
        self,
        address: Address,
        method: str,
        payload: bytes,
        timeout: float | None = None,
    ) -> bytes:
        """Call *method* of one server; see :meth:`.Client.ask_server`."""
        return await self.call(
            lambda client: client.ask_server(address, method, payload, timeout)
        )

    async def pause(self, seconds: float) -> None:
        """Wait for *seconds*."""
        return await self.call(lambda client: client.pause(seconds))

    async def close(self) -> None:
        """Close the connections; what is under way fails."""
        self._is_closed = True
        if self._own.peek() is not None:
            await self.call(lambda client: client.close())

    async def __aenter__(self) -> Self:
        """Return itself; connections are made when they are needed."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections."""
        await self.close()


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
) -> AsyncioClient:
    """
    Return a client whose calls are awaited; see :meth:`.Client.connect`.

    Nothing happens before the first call.
    """
    return AsyncioClient(
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
) -> AsyncioClient:
    """
    Return a client of the cluster of a YAML file, which is read at once.

    Raises:
        ConfigError: The file is wrong.
    """
    make = configured(path, timeout=timeout, session=session, login=login)
    return AsyncioClient(make)
