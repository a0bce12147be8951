"""
A declared machine seen from a client: the same methods, answered from afar.

Its calls give Deferreds; :mod:`.aio` and :mod:`.blocking` have faces of it for
other worlds.
"""

from __future__ import annotations

from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    ParamSpec,
    Protocol,
    TypedDict,
    TypeVar,
    Unpack,
)

from twisted.internet.defer import Deferred, fail

from consensus.declare.schema import Kind, Schema, schema_of
from consensus.errors import RaftError

if TYPE_CHECKING:
    from collections.abc import Callable

    from consensus.declare.calls import Call
    from consensus.declare.schema import Method

_P = ParamSpec("_P")
_R_co = TypeVar("_R_co", covariant=True)


class ReadKeywords(TypedDict, total=False):
    """How to read: what :meth:`.Client.read` takes beside the query."""

    consistency: str
    max_age: float | None
    at_index: int | None
    wait: float | None


class Writer(Protocol):
    """What applies commands: a client, or its session."""

    def write(self, command: bytes) -> Deferred[bytes]:
        """Apply *command* and return its result."""


class Cluster(Protocol):
    """What is needed of a :class:`.Client`."""

    def write(self, command: bytes) -> Deferred[bytes]:
        """Apply *command* and return its result."""

    @property
    def read(self) -> Callable[..., Deferred[bytes]]:
        """Answer a query, in a way that keywords say."""

    def session(self) -> Writer:
        """Return what applies each command once."""


class Remote(Generic[_P, _R_co]):
    """
    A declared method, of a client or of the class.

    Args:
        schema: What its class declares.
        attribute: Its name there.
        client: The client; ``None`` if it is the class's.
    """

    __slots__ = ("_client", "_method", "_schema")

    def __init__(
        self, schema: Schema, attribute: str, client: DeferredClient | None = None
    ) -> None:
        self._schema = schema
        self._method = schema.methods[attribute]
        self._client = client

    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> Deferred[_R_co]:
        """
        Call the method at the cluster.

        The Deferred fails, without anything being sent, with:
            InvalidCommandError: The arguments are not as annotated.

        Raises:
            TypeError: It is the class's and not a client's.
        """
        if self._client is None:
            message = (
                f"{self._method.label} is called on a client, or on an object of the"
                " class; for the command itself there is"
                f" {self._method.label}.{_VERBS[self._method.kind]}(…)"
            )
            raise TypeError(message)
        return self._client._made(self._method, args, kwargs)  # noqa: SLF001 - the two are one

    def _call(self, *args: Any, **kwargs: Any) -> Call:
        method = self._method
        return method.signature.call(method.name, args, kwargs)[0]

    def __repr__(self) -> str:
        where = "" if self._client is None else " of a client"
        return f"<{self._method.kind.value} {self._method.label}{where}>"


class RemoteWrite(Remote[_P, _R_co]):
    """A method that changes the state."""

    __slots__ = ()

    def command(self, *args: _P.args, **kwargs: _P.kwargs) -> Call:
        """
        Return the command, for a server of this process or a test.

        Raises:
            InvalidCommandError: The arguments are not as annotated.
        """
        return self._call(*args, **kwargs)


class RemoteRead(Remote[_P, _R_co]):
    """A method that does not change the state."""

    __slots__ = ()

    def query(self, *args: _P.args, **kwargs: _P.kwargs) -> Call:
        """
        Return the query, for a server of this process or a test.

        Raises:
            InvalidCommandError: The arguments are not as annotated.
        """
        return self._call(*args, **kwargs)


_VERBS = {Kind.WRITE: "command", Kind.READ: "query"}
_REMOTES = {Kind.WRITE: RemoteWrite, Kind.READ: RemoteRead}


def remote(
    owner: type, attribute: str, client: DeferredClient | None = None
) -> Remote[..., Any]:
    """
    Return the declared method *attribute* of the class *owner*.

    Raises:
        AttributeError: The class does not declare it.
        DeclarationError: What the class declares cannot be.
    """
    schema = schema_of(owner)
    if attribute not in schema.methods:
        message = f"{owner.__qualname__} declares no method {attribute!r}"
        raise AttributeError(message, name=attribute, obj=client)
    return _REMOTES[schema.methods[attribute].kind](schema, attribute, client)


class DeferredClient:
    """
    A client of a declared machine: the same methods, which give Deferreds.

    To a type checker it is the class itself, ``type[Accounts]``: so it sees the
    methods and their types.

    Args:
        machine: The class.
        read: Answers a query.
        write: Applies a command.
        options: How reads are done; see :meth:`using`.
    """

    __slots__ = ("_machine", "_options", "_read", "_write")

    def __init__(
        self,
        machine: type,
        read: Callable[..., Deferred[bytes]],
        write: Callable[[bytes], Deferred[bytes]],
        options: ReadKeywords | None = None,
    ) -> None:
        schema_of(machine)  # what is wrong with it is said now
        self._machine = machine
        self._read = read
        self._write = write
        self._options: ReadKeywords = options or {}

    def __getattr__(self, attribute: str) -> Any:
        """Return the declared method of that name."""
        return remote(self._machine, attribute, self)

    def __dir__(self) -> list[str]:
        return [*schema_of(self._machine).methods, "using"]

    def __repr__(self) -> str:
        return f"<a client of {self._machine.__qualname__}>"

    # The worlds of consensus.worlds know by this type that it needs a face.
    def using(self, **options: Unpack[ReadKeywords]) -> DeferredClient:
        """
        Return the same client with other *options* for its reads.

        They are those of :meth:`.Client.read`: ``consistency``, ``max_age``,
        ``at_index``, ``wait``.
        """
        merged: ReadKeywords = {**self._options, **options}
        return DeferredClient(self._machine, self._read, self._write, merged)

    def _made(self, method: Method, args: Any, kwargs: Any) -> Deferred[Any]:
        """Return what a call of *method* comes to."""
        try:
            _, data = method.signature.call(method.name, args, kwargs)
        except RaftError as error:
            return fail(error)
        if method.kind is Kind.WRITE:
            answer = self._write(data)
        else:
            answer = self._read(data, **self._options)
        return answer.addCallback(method.signature.result)


def client_of(machine: type, cluster: Cluster, *, session: bool) -> DeferredClient:
    """
    Return a client of *machine* that is made of *cluster*.

    Args:
        machine: A class with declared methods.
        cluster: The cluster's client.
        session: Whether writes belong to a session.
    """
    writer = cluster.session() if session else cluster
    return DeferredClient(machine, cluster.read, writer.write)
