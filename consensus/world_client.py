"""What the clients of :mod:`.aio` and of :mod:`.blocking` begin with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from consensus.client import Client
from consensus.config import load
from consensus.errors import UnreachableError
from consensus.worlds import Own

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path
    from typing import Concatenate, ParamSpec

    from consensus.core.values import Address, ServerId

    _P = ParamSpec("_P")

_T = TypeVar("_T")


class WorldClient:
    """
    A cluster's client, which each process that uses it makes for itself.

    Args:
        world: Where its callers are.
        make: Makes the client with a reactor.
    """

    def __init__(self, world: Any, make: Callable[[Any], Client]) -> None:
        self._world = world
        self._make = make
        self._own = Own(world, self._begin)
        self._is_closed = False

    def _begin(self) -> Client:
        if self._is_closed:
            raise UnreachableError("the client is closed")
        return self._make(self._world.reactor)

    def _own_of(
        self,
        application: Callable[Concatenate[Client, _P], _T],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> Own[_T]:
        """Return what *application* makes of the client, in each process."""
        return Own(self._world, lambda: application(self._own.get(), *args, **kwargs))

    @property
    def leader(self) -> ServerId | None:
        """Return who led when it was last seen; ``None`` if nobody is known."""
        return self._own.get().leader


def connecting(
    endpoints: Iterable[Address] | Mapping[ServerId, Address], **options: Any
) -> Callable[[Any], Client]:
    """Return what makes a client of *endpoints*; see :meth:`.Client.connect`."""
    addresses = endpoints if isinstance(endpoints, Mapping) else tuple(endpoints)
    return lambda reactor: Client.connect(addresses, reactor, **options)


def configured(path: str | Path, **options: Any) -> Callable[[Any], Client]:
    """
    Return what makes a client of the cluster of a file, which is read at once.

    Raises:
        ConfigError: The file is wrong.
    """
    chosen = load(path, needs_serve=False)
    return lambda reactor: Client.from_config(chosen, reactor, **options)
