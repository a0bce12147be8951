"""A declared class as a state machine: what the framework sees of it."""

from __future__ import annotations

import copyreg
import inspect
from abc import ABCMeta
from collections.abc import Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any, ClassVar

from consensus.declare.calls import ATOMS, Call, DeclarationError, encode_value
from consensus.declare.schema import Kind, Schema, schema_of, undeclared
from consensus.declare.state import StateCodec
from consensus.errors import InvalidCommandError, NotYetError, StorageError
from consensus.interfaces import (
    LATER,
    EncodedSnapshot,
    NoOptions,
    StateMachine,
    Tick,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from consensus.core.values import LogIndex, ServerId
    from consensus.interfaces import Snapshot


class Adapted(ABCMeta):
    """The class of :func:`as_machine`'s classes: they are pickled as their user's."""


class DeclaredMachine(StateMachine, metaclass=Adapted):
    """
    The state machine of a class with declared methods.

    Its state is an instance of that class; its commands and queries are
    :class:`.Call`.  :func:`as_machine` makes a subclass for each class.
    """

    #: What the class declares.
    schema: ClassVar[Schema]

    #: How its instances become bytes.
    codec: ClassVar[StateCodec]

    #: The class of each former version.
    former: ClassVar[Mapping[int, type]] = {}

    def init(self, name: ServerId) -> Any:  # noqa: ARG002 - the same for all
        """Return a new instance."""
        cls = self.schema.cls
        return cls(self.options) if self._has_options else cls()

    @property
    def _has_options(self) -> bool:
        """Say whether the class is made with options."""
        return self.Options is not NoOptions

    def validate(self, command: Any) -> None:
        """Refuse a query; all else was looked at by :meth:`decode`."""
        self._method(command, Kind.WRITE)

    def handle_write(self, command: Any, state: Any) -> tuple[Any, Any]:
        """Call the method that *command* names; tell the time for a Tick."""
        if type(command) is Tick:
            if self.schema.on_time is not None:
                self.schema.on_time(state, command.time)
            return None, state
        method = self._method(command, Kind.WRITE)
        if method.is_atomic:
            state = deepcopy(state)
        result = method.function(state, **command.arguments)
        return _detached(result), state

    def handle_read(self, query: Any, state: Any) -> tuple[Any, Any]:
        """Call the method that *query* names."""
        method = self._method(query, Kind.READ)
        try:
            result = method.function(state, **query.arguments)
        except NotYetError:
            return LATER, state
        return (result if result is LATER else _detached(result)), state

    def _method(self, call: Any, kind: Kind) -> Any:
        if type(call) is not Call:
            message = (
                f"{call!r:.100} is no command of {self.schema.cls.__name__}: write"
                f" {self.schema.cls.__name__}.<method>.command(…), or .query(…)"
            )
            raise InvalidCommandError(message)
        method = self.schema.find(call.name)
        if method.kind is not kind:
            verb = "write" if method.kind is Kind.WRITE else "read"
            message = f"{method.label} is a {method.kind.value} method: {verb} it"
            raise InvalidCommandError(message)
        return method

    def next_time(self, state: Any) -> int | None:
        """Return what the class's own ``next_time`` says, if it has one."""
        ask = undeclared(self.schema.cls, "next_time")
        found: int | None = None if ask is None else ask(state)
        return found

    def for_version(self, version: int) -> StateMachine:
        """Return the machine of the class that ``former`` has for *version*."""
        if version in self.former and version != self.version:
            return as_machine(self.former[version])(self.options)
        return super().for_version(version)

    def upgrade(self, state: Any, version: int) -> Any:
        """Return what the class's ``upgrade`` makes of *state*; by default a copy."""
        cls = self.schema.cls
        convert = undeclared(cls, "upgrade")
        if convert is not None:
            return convert(state, version)
        new = self.init("")
        kept = dict(vars(state))
        if self._has_options:
            kept.pop("options", None)
        vars(new).update(kept)
        return new

    def snapshot(self, state: Any) -> Snapshot:
        """
        Return *state* as bytes.

        Raises:
            InvalidCommandError: Some of it would not come back as it is; the
                message says what, and what to write.
        """
        return EncodedSnapshot(self.codec.encode(state))

    def restore(self, chunks: Iterable[bytes], last_applied: LogIndex) -> Any:  # noqa: ARG002 - the state is in memory
        """
        Return the instance that :meth:`snapshot` made *chunks* of.

        Raises:
            StorageError: They are not what the class knows.
        """
        data = b"".join(chunks)
        try:
            return self.codec.decode(data, self.init(""))
        except (MemoryError, StorageError):
            raise
        except Exception as error:
            message = f"load of {self.schema.cls.__qualname__} failed: {error!r}"
            raise StorageError(message) from error

    def encode(self, value: Any) -> bytes:
        """Return a command, a query or a result as bytes; see the base."""
        if type(value) is Call:
            return self.schema.encode(value)
        return encode_value(value, f"{value!r:.100}")

    def decode(self, data: bytes) -> Call:
        """Return a command or a query; see the base."""
        return self.schema.decode(data)

    def decode_result(self, data: bytes) -> Any:
        """Return a result, without its method's types; see the base."""
        return super().decode(data)


def _reduced(machine: Any) -> tuple[Any, tuple[type]]:
    return as_machine, (machine.schema.cls,)


copyreg.pickle(Adapted, _reduced)


def as_machine(cls: type) -> type[StateMachine]:
    """
    Return the state machine that *cls* is: itself, or what it declares.

    Raises:
        DeclarationError: It is none, and declares nothing that makes it one;
            the message says what to write.
    """
    if issubclass(cls, StateMachine):
        return cls
    if cls not in _machines:
        _machines[cls] = _adapted(cls)
    return _machines[cls]


_machines: dict[type, type[DeclaredMachine]] = {}


def _adapted(cls: type) -> type[DeclaredMachine]:
    schema = schema_of(cls)
    names: dict[str, Any] = {
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        "schema": schema,
        "codec": StateCodec(cls),
        "timed": schema.on_time is not None,
        "Options": undeclared(cls, "Options", NoOptions),
        "version": _version(cls),
        "former": _former(cls),
    }
    if schema.on_time is None and callable(undeclared(cls, "next_time")):
        message = (
            f"{cls.__qualname__}.next_time is asked where a method is told the time:"
            " write @tick above def on_time(self, now: int) -> None"
        )
        raise DeclarationError(message)
    made: Any = Adapted(cls.__name__, (DeclaredMachine,), names)
    _try(made)
    return made  # type: ignore[no-any-return]


def _version(cls: type) -> int:
    found = undeclared(cls, "version", 1)
    if type(found) is not int or found < 1:
        message = f"{cls.__qualname__}.version is a number from 1 on, not {found!r:.40}"
        raise DeclarationError(message)
    return found


def _former(cls: type) -> Mapping[int, type]:
    found = undeclared(cls, "former", {})
    if not isinstance(found, Mapping) or not all(
        isinstance(each, type) for each in found.values()
    ):
        message = (
            f"{cls.__qualname__}.former says what the class was before: write"
            " former = {1: FirstAccounts}, say"
        )
        raise DeclarationError(message)
    return found


def _try(made: type[DeclaredMachine]) -> None:
    """See that a first state can be made, written down and read again."""
    label = made.schema.cls.__qualname__
    try:
        machine = made()
    except Exception:  # noqa: BLE001 - options without defaults come from the file
        return
    try:
        state = machine.init("")
    except Exception as error:
        what = "nothing" if made.Options is NoOptions else "its Options"
        message = (
            f"{label} cannot be made: __init__ gets {what} and raised a"
            f" {type(error).__name__}: {error}"
        )
        raise DeclarationError(message) from error
    _check_shared(made.schema.cls, state)
    try:
        data = b"".join(machine.snapshot(state).chunks())
        again = b"".join(machine.snapshot(machine.restore([data], 0)).chunks())
    except (InvalidCommandError, StorageError) as error:
        raise DeclarationError(str(error)) from error
    if again != data:
        message = f"{label} dumps something else when it has loaded what it dumped"
        raise DeclarationError(message)


def _check_shared(cls: type, state: Any) -> None:
    """
    See that no part of the state is the class's: all servers would share it.

    Raises:
        DeclarationError: One is, by its looks.
    """
    for base in cls.__mro__:
        written = inspect.get_annotations(base)
        for name, value in vars(base).items():
            if (
                isinstance(value, list | dict | set | bytearray)
                and not (name == "former" or name.startswith("__") or name.isupper())
                and "ClassVar" not in str(written.get(name, ""))
                and name not in getattr(state, "__dict__", ())
            ):
                message = (
                    f"{base.__qualname__}.{name} is the same for all objects of the"
                    f" class, and in no snapshot: write self.{name} = … in __init__, or"
                    f" {name}: ClassVar[…] if it never changes"
                )
                raise DeclarationError(message)


def _detached(result: Any) -> Any:
    """Return *result* as what its caller may change."""
    return result if type(result) in ATOMS else deepcopy(result)
