"""
A plain annotated class as a state machine.

::

    class Accounts(Machine):
        balance: dict[str, int]

        def __init__(self) -> None:
            self.balance = {}

        @write
        def deposit(self, account: str, amount: int) -> int:
            if amount < 0:
                raise ValueError("a deposit is not negative")
            self.balance[account] = self.balance.get(account, 0) + amount
            return self.balance[account]

        @read
        def balance_of(self, account: str) -> int:
            return self.balance.get(account, 0)

``engine: mybank.Accounts`` in the YAML file runs it, and
``Accounts.client(cluster)`` has the same methods, which give Deferreds.  The
base is not needed; without it, a type checker knows :func:`client` only.

Commands are in the log by the name of their method, and their arguments by the
name of the parameter: ``docs/howto/declare-a-machine.md`` says what may change
in a class whose commands are in a log.
"""

from __future__ import annotations

from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    NoReturn,
    ParamSpec,
    Self,
    TypeVar,
    Unpack,
    cast,
    overload,
)

from consensus.declare.calls import Call, DeclarationError
from consensus.declare.client import (
    Cluster,
    DeferredClient,
    ReadKeywords,
    RemoteRead,
    RemoteWrite,
    client_of,
    remote,
)
from consensus.declare.machine import as_machine
from consensus.declare.schema import Declaration, Kind
from consensus.interfaces import LATER, Later

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = [
    "LATER",
    "Call",
    "DeclarationError",
    "DeferredClient",
    "Later",
    "Machine",
    "as_machine",
    "client",
    "read",
    "tick",
    "using",
    "write",
]

_P = ParamSpec("_P")
_R_co = TypeVar("_R_co", covariant=True)
_T = TypeVar("_T")


class _Method(Declaration):
    """A method of an object; where there is none, of a client."""

    def __set_name__(self, owner: type, attribute: str) -> None:
        super().__set_name__(owner, attribute)
        if not any("client" in vars(each) for each in owner.__mro__):
            type.__setattr__(owner, "client", classmethod(client))

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        """Say that it was not found where it was declared."""
        message = f"{self.__name__} is called on an object of its class"
        raise TypeError(message)


class WriteMethod(_Method, Generic[_P, _R_co]):
    """What :func:`write` makes of a method."""

    @overload
    def __get__(self, instance: None, owner: type) -> RemoteWrite[_P, _R_co]: ...

    @overload
    def __get__(
        self, instance: object, owner: type | None = None
    ) -> Callable[_P, _R_co]: ...

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        """Return the method of an object; of the class, what makes commands."""
        if instance is None and owner is not None:
            return remote(owner, self.attribute)
        return self.function.__get__(instance, owner)


class ReadMethod(_Method, Generic[_P, _R_co]):
    """What :func:`read` makes of a method."""

    @overload
    def __get__(self, instance: None, owner: type) -> RemoteRead[_P, _R_co]: ...

    @overload
    def __get__(
        self, instance: object, owner: type | None = None
    ) -> Callable[_P, _R_co]: ...

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        """Return the method of an object; of the class, what makes queries."""
        if instance is None and owner is not None:
            return remote(owner, self.attribute)
        return self.function.__get__(instance, owner)


class TickMethod(Declaration):
    """What :func:`tick` makes of a method."""

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        """Return the method of an object."""
        return self.function.__get__(instance, owner)


@overload
def write(
    function: Callable[Concatenate[Any, _P], _R_co], /
) -> WriteMethod[_P, _R_co]: ...


@overload
def write(
    *, name: str | None = None, aliases: Iterable[str] = (), atomic: bool = False
) -> Callable[[Callable[Concatenate[Any, _P], _R_co]], WriteMethod[_P, _R_co]]: ...


def write(
    function: Any = None,
    /,
    *,
    name: str | None = None,
    aliases: Iterable[str] = (),
    atomic: bool = False,
) -> Any:
    """
    Declare a method that changes the state: each call is a command in the log.

    What it raises, its caller gets as :class:`~.CommandFailedError`, on every
    server; so raise before you change anything.

    Args:
        function: The method.
        name: What the log calls it; by default its name.
        aliases: What the log called it before.
        atomic: Let it change a copy of the state, which counts if it does not
            raise.  That takes as long as to copy all of it.

    Raises:
        DeclarationError: It is async, lacks an annotation or the like.
    """

    def declared(function: Any) -> WriteMethod[..., Any]:
        return WriteMethod(
            function, Kind.WRITE, name=name, aliases=aliases, atomic=atomic
        )

    return declared if function is None else declared(function)


@overload
def read(
    function: Callable[Concatenate[Any, _P], _R_co], /
) -> ReadMethod[_P, _R_co]: ...


@overload
def read(
    *, name: str | None = None, aliases: Iterable[str] = ()
) -> Callable[[Callable[Concatenate[Any, _P], _R_co]], ReadMethod[_P, _R_co]]: ...


def read(
    function: Any = None,
    /,
    *,
    name: str | None = None,
    aliases: Iterable[str] = (),
) -> Any:
    """
    Declare a method that answers from the state, and does not change it.

    If it raises :class:`~.NotYetError`, there is no answer yet: a caller who
    waits (``wait=`` of :func:`using`) is answered when there is one.

    Args:
        function: The method.
        name: What servers and clients call it; by default its name.
        aliases: What they called it before.

    Raises:
        DeclarationError: It is async, lacks an annotation or the like.
    """

    def declared(function: Any) -> ReadMethod[..., Any]:
        return ReadMethod(function, Kind.READ, name=name, aliases=aliases)

    return declared if function is None else declared(function)


def tick(function: Callable[[Any, int], None]) -> TickMethod:
    """
    Declare the method that is told the log's time, in milliseconds.

    It is called before the commands of every later millisecond, and when the
    time comes that ``next_time(self)`` of the class asks for.  It has to keep
    the time in the state, and to do what is due; it must not raise.

    Raises:
        DeclarationError: It is async, lacks an annotation or the like.
    """
    return TickMethod(function, Kind.TICK)


def client(machine: type[_T], cluster: Cluster, *, session: bool = True) -> type[_T]:
    """
    Return a client of *machine*: its methods, each of which gives a Deferred.

    To a type checker it is the class, as whose methods it has.

    Args:
        machine: A class with declared methods.
        cluster: The cluster's :class:`.Client`.
        session: Whether writes belong to a session: one that has no answer is
            sent again, and applied once all the same.

    Raises:
        DeclarationError: What the class declares cannot be.
    """
    return cast("type[_T]", client_of(machine, cluster, session=session))


def using(client: type[_T], **options: Unpack[ReadKeywords]) -> type[_T]:
    """
    Return *client* with other *options* for its reads.

    They are those of :meth:`.Client.read`: ``consistency``, ``max_age``,
    ``at_index``, ``wait``.
    """
    found: Any = client
    if not isinstance(found, DeferredClient):
        message = "using() is for what client() returned, as Accounts.client(cluster)"
        raise TypeError(message)
    return cast("type[_T]", found.using(**options))


class Using(Generic[_T]):
    """
    A client's method of that name.

    Args:
        client: What has it.
    """

    def __init__(self, client: Any) -> None:
        self._client = client

    def __call__(self, **options: Unpack[ReadKeywords]) -> _T:
        """Do as :func:`using`."""
        return cast("_T", using(self._client, **options))


class _UsingMethod:
    """Gives the client's own type back, that of the class or of an object."""

    @overload
    def __get__(self, instance: None, owner: type[_T]) -> Using[type[_T]]: ...

    @overload
    def __get__(self, instance: _T, owner: type[_T]) -> Using[_T]: ...

    def __get__(self, instance: Any, owner: type) -> Any:
        """Return what says that this is no client."""
        return Using(owner if instance is None else instance)


class Machine:
    """
    A base for classes with declared methods; a type checker sees ``client`` by it.

    Beside its declared methods, a class may have:

    * ``version`` and ``former``, as ``version = 2`` and ``former = {1: Old}``;
      and ``upgrade(old, version)``, a class method that returns an instance
      made of a former version's; by default it gets the same attributes.
    * ``dump(self)`` and ``load(self, data)``: what a snapshot has of it, and
      how a new instance gets that; by default its attributes.
    * ``next_time(self)``, beside a method with ``@tick``: when it wants to be
      told the time though nobody writes.
    * ``Options``, a frozen dataclass: what the YAML file may set; then
      ``__init__`` gets one.
    """

    @classmethod
    def client(cls, cluster: Cluster, *, session: bool = True) -> type[Self]:
        """Do as :func:`client` with this class."""
        return client(cls, cluster, session=session)

    #: Do as :func:`using`; it is there for a client, and not for the class.
    using = _UsingMethod()
