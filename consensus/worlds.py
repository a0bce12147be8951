"""
One client for three worlds: what the faces of :mod:`.aio` and :mod:`.blocking` share.

An application's client is written once, for Twisted: its methods return
Deferreds, or are coroutines, asynchronous iterators and context managers.  A
*face* of it has the same methods in another world.  It needs to know nothing of
the application: what a call came to says what it is.

Whatever is behind a face is used in the reactor's thread only, and made anew in
each process that uses it, so that a face may be made before a fork.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Awaitable
from inspect import isasyncgenfunction, iscoroutinefunction
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar
from weakref import WeakKeyDictionary

from twisted.internet.defer import Deferred

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")

#: What :func:`next_of` returns when there is nothing more.
END = object()

_ASYNCHRONOUS = ("__aiter__", "__anext__", "__aenter__")


class World(Protocol):
    """Where the callers of a face are, seen from the reactor."""

    def at_once(self, work: Callable[[], _T]) -> _T:
        """Do *work*, which waits for nothing, in the reactor's thread."""


class Own(Generic[_T]):
    """
    What each process has its own of.

    Args:
        world: Where it is made.
        make: Makes it, in the reactor's thread.
    """

    def __init__(self, world: World, make: Callable[[], _T]) -> None:
        self._world = world
        self._make = make
        self._made: tuple[int, _T] | None = None

    def get(self) -> _T:
        """Return this process's; make it if it is not there yet."""
        made = self._made
        if made is None or made[0] != os.getpid():
            made = self._world.at_once(self._make_here)
        return made[1]

    def peek(self) -> _T | None:
        """Return this process's if it is there."""
        made = self._made
        return None if made is None or made[0] != os.getpid() else made[1]

    def _make_here(self) -> tuple[int, _T]:
        # Threads that ask at the same time come here one after the other.
        process = os.getpid()
        if self._made is None or self._made[0] != process:
            self._made = process, self._make()
        return self._made


class Given(Own[_T]):
    """
    What a call has given, and only the process that made the call can use.

    Args:
        world: Where it came from.
        value: What it is.
    """

    def __init__(self, world: World, value: _T) -> None:
        super().__init__(world, lambda: value)
        self._made = os.getpid(), value

    def get(self) -> _T:
        """
        Return it.

        Raises:
            RuntimeError: This is another process.
        """
        found = self.peek()
        if found is None:
            raise RuntimeError(
                "what a call has given belongs to the process that made the call;"
                " a forked one has to make the call again"
            )
        return found


class Face(ABC, Generic[_T]):
    """
    An application's object as another world sees it.

    Its attributes are those of the object.  What can be called is called in
    the reactor's thread, and what it comes to gets a face too if it needs one.

    Args:
        world: Where the callers are.
        own: The object.
    """

    def __init__(self, world: Any, own: Own[_T]) -> None:
        self._world = world
        self._own = own

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._own.get()!r}>"

    def __dir__(self) -> list[str]:
        return [name for name in dir(self._own.get()) if not name.startswith("_")]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            message = f"a face has no {name!r}"
            raise AttributeError(message)
        value = getattr(self._own.get(), name)
        return self._method(name, value) if callable(value) else self._faced(value)

    @abstractmethod
    def _method(self, name: str, value: Callable[..., Any]) -> Callable[..., Any]:
        """Return what calls the method *name*, which is *value* now."""

    def _faced(self, value: Any) -> Any:
        """Return *value*, or what this world has in its place."""
        if type(value) in {list, tuple}:
            return type(value)(map(self._faced, value))
        if not needs_face(type(value)):
            return value
        if value is self._own.peek():
            return self
        return type(self)(self._world, Given(self._world, value))

    def _work(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Callable[[], Any]:
        """Return what calls the method *name*, in the reactor's thread."""
        target = self._own.get()
        args = tuple(map(bare, args))
        kwargs = {key: bare(value) for key, value in kwargs.items()}
        # Special methods are those of the class.
        owner: Any = type(target) if name.startswith("__") else None
        if owner is not None:
            return lambda: waited_for(getattr(owner, name)(target, *args, **kwargs))
        return lambda: waited_for(getattr(target, name)(*args, **kwargs))


def bare(value: Any) -> Any:
    """Return what *value* is a face of; itself if it is none."""
    return value._own.get() if isinstance(value, Face) else value  # noqa: SLF001 - a function of the class's own


def waited_for(result: Any) -> Any:
    """Return *result*, or the Deferred of it if it is awaitable in another way."""
    if isinstance(result, Deferred) or not isinstance(result, Awaitable):
        return result
    return Deferred.fromCoroutine(_awaited(result))


async def _awaited(result: Awaitable[Any]) -> Any:
    return await result


def close(iterator: Any) -> Any:
    """Let *iterator* end, if it is one that has to."""
    return waited_for(iterator.aclose()) if hasattr(iterator, "aclose") else None


async def next_of(iterator: Any) -> Any:
    """Return what *iterator* has next; :data:`END` if nothing."""
    try:
        return await anext(iterator)
    except StopAsyncIteration:
        return END


_needed: WeakKeyDictionary[type, bool] = WeakKeyDictionary()


def needs_face(kind: type) -> bool:
    """
    Say whether objects of this *kind* do anything that one has to wait for.

    They do if they can be iterated over or entered asynchronously, or have a
    method that is asynchronous or said to return a Deferred.
    """
    known = _needed.get(kind)
    if known is None:
        known = _needed[kind] = _has_calls(kind)
    return known


def _has_calls(kind: type) -> bool:
    if any(hasattr(kind, name) for name in _ASYNCHRONOUS):
        return True
    return any(
        _is_waited_for(value)
        for base in kind.__mro__
        for name, value in vars(base).items()
        if not name.startswith("_")
    )


def _is_waited_for(value: Any) -> bool:
    if iscoroutinefunction(value) or isasyncgenfunction(value):
        return True
    returned = getattr(value, "__annotations__", {}).get("return", "")
    return "Deferred" in (returned if isinstance(returned, str) else repr(returned))
