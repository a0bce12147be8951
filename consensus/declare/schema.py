"""
What a class declares: which methods are commands and queries, and their names.

The names are what the log has, so they are looked at with suspicion: two
methods must not answer to the same one, now or formerly.
"""

from __future__ import annotations

import inspect
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from consensus.declare.calls import (
    Call,
    DeclarationError,
    Signature,
    decode_call,
    encode_call,
    parameters_of,
)
from consensus.errors import UnknownCommandError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

#: What a client has beside the declared methods.
RESERVED: Final = frozenset({"client", "using"})

_MAX_NAME = 255
_MAX_SHOWN = 60


class Kind(Enum):
    """What a declared method is for."""

    WRITE = "write"
    READ = "read"
    TICK = "tick"


class Declaration:
    """
    A method that was declared; the decorators of :mod:`consensus.declare` make it.

    Args:
        function: The method as it was written.
        kind: What it is for.
        name: In the log; the method's own if ``None``.
        aliases: Names that it had before.
        atomic: If it raises, the state is as before, whatever it has changed.

    Raises:
        DeclarationError: It cannot be declared; the message says what to write.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        kind: Kind,
        *,
        name: str | None = None,
        aliases: Iterable[str] = (),
        atomic: bool = False,
    ) -> None:
        label = getattr(function, "__qualname__", repr(function))
        if not inspect.isfunction(function):
            message = (
                f"@{kind.value} is for a method, and not for a"
                f" {type(function).__name__}: write it directly above def"
            )
            raise DeclarationError(message)
        if (
            inspect.iscoroutinefunction(function)
            or inspect.isgeneratorfunction(function)
            or inspect.isasyncgenfunction(function)
        ):
            message = (
                f"{label} is async or a generator: a state machine waits for nothing;"
                " write a plain def that returns its result"
            )
            raise DeclarationError(message)
        self.parameters = parameters_of(function, label)
        self.function = function
        self.kind = kind
        self.attribute = ""
        self.is_atomic = atomic
        self._name = name
        self._aliases = (aliases,) if isinstance(aliases, str) else tuple(aliases)
        self.__name__ = function.__name__
        self.__doc__ = function.__doc__
        self.__wrapped__ = function
        for each in (*self._aliases, *((name,) if name is not None else ())):
            _check_name(each, label)

    def __set_name__(self, owner: type, attribute: str) -> None:
        if self.attribute not in {"", attribute}:
            message = (
                f"{owner.__qualname__}.{self.attribute} is also called {attribute}: for"
                f" a name that it had before, write @{self.kind.value}(aliases=[…])"
            )
            raise DeclarationError(message)
        self.attribute = attribute

    @property
    def name(self) -> str:
        """Return its name in the log."""
        return self.attribute if self._name is None else self._name

    @property
    def names(self) -> tuple[str, ...]:
        """Return all names that it may have in a log."""
        return (self.name, *self._aliases)


def _check_name(name: object, label: str) -> None:
    if not isinstance(name, str) or not 1 <= len(name) <= _MAX_NAME:
        message = f"{label}: a name has 1 to {_MAX_NAME} characters, not {name!r:.99}"
        raise DeclarationError(message)


class Method:
    """
    A declared method of a class, ready to be called.

    Args:
        declaration: What was declared.
        owner: The class.

    Raises:
        DeclarationError: Its types cannot be stored.
    """

    def __init__(self, declaration: Declaration, owner: type) -> None:
        self.attribute = declaration.attribute
        self.name = declaration.name
        self.kind = declaration.kind
        self.function = declaration.function
        self.is_atomic = declaration.is_atomic
        self.label = f"{owner.__qualname__}.{self.attribute}"
        own = {owner.__name__: owner}
        self.signature = Signature(self.function, self.label, own)


class Schema:
    """
    All that a class declares.

    Args:
        cls: The class.

    Raises:
        DeclarationError: It declares nothing, or something that cannot be.
    """

    def __init__(self, cls: type) -> None:
        self.cls = cls
        #: The methods by their names in Python.
        self.methods: dict[str, Method] = {}
        #: The method that is told the time, if there is one.
        self.on_time: Callable[[Any, int], None] | None = None
        self._by_name: dict[str, Method] = {}
        for attribute, declaration in declarations(cls).items():
            if declaration.kind is Kind.TICK:
                self._add_tick(declaration)
            else:
                self._add(attribute, declaration)
        if not self.methods:
            message = (
                f"{cls.__qualname__} declares no method: write @write above those that"
                " change it and @read above those that do not, both of"
                " consensus.declare; or inherit consensus.StateMachine"
            )
            raise DeclarationError(message)

    def _add(self, attribute: str, declaration: Declaration) -> None:
        if attribute in RESERVED or attribute.startswith("_"):
            message = (
                f"{self.cls.__qualname__}.{attribute}: a client has, or may have,"
                " something else of that name: call the method otherwise; with"
                f" name={attribute!r} its commands keep the name"
            )
            raise DeclarationError(message)
        method = self.methods[attribute] = Method(declaration, self.cls)
        for name in declaration.names:
            other = self._by_name.setdefault(name, method)
            if other is not method:
                message = (
                    f"{other.label} and {method.label} both have the name {name!r} in"
                    " the log: give one of them another, with name= or aliases="
                )
                raise DeclarationError(message)

    def _add_tick(self, declaration: Declaration) -> None:
        if self.on_time is not None or len(declaration.parameters) != 1:
            message = (
                f"{self.cls.__qualname__}.{declaration.attribute}: one method is told"
                " the time: write @tick above def on_time(self, now: int) -> None"
            )
            raise DeclarationError(message)
        self.on_time = declaration.function

    def find(self, name: str) -> Method:
        """
        Return the method that has, or had, *name* in the log.

        Raises:
            UnknownCommandError: There is none.
        """
        method = self._by_name.get(name)
        if method is None:
            message = f"{self.cls.__name__} has no method {name[:_MAX_SHOWN]!r}"
            raise UnknownCommandError(message)
        return method

    def encode(self, call: Call) -> bytes:
        """
        Return *call* as bytes.

        Raises:
            InvalidCommandError: It does not fit the method it names.
        """
        data = encode_call(call)
        self.decode(data)
        return data

    def decode(self, data: bytes) -> Call:
        """
        Return the call that *data* is.

        Raises:
            InvalidCommandError: It is none of this class.
        """
        return decode_call(data, self._signature)

    def _signature(self, name: str) -> Signature:
        return self.find(name).signature


def declarations(cls: type) -> dict[str, Declaration]:
    """
    Return what *cls* and what it inherits declare, by attribute.

    Raises:
        DeclarationError: A declared method is overridden by one that is not.
    """
    found: dict[str, Declaration] = {}
    for base in reversed(cls.__mro__):
        for attribute, value in vars(base).items():
            if isinstance(value, Declaration):
                found[attribute] = value
            elif attribute in found:
                kind = found.pop(attribute).kind.value
                if value is not None:
                    message = (
                        f"{base.__qualname__}.{attribute} overrides a method that is"
                        f" declared: write @{kind} above it too, or set it to None"
                    )
                    raise DeclarationError(message)
    return found


def undeclared(cls: type, name: str, default: Any = None) -> Any:
    """Return the attribute *name* of *cls*; *default* if it is a declared method."""
    for base in cls.__mro__:
        if name in vars(base):
            is_declared = isinstance(vars(base)[name], Declaration)
            return default if is_declared else getattr(cls, name)
    return default


@cache
def schema_of(cls: type) -> Schema:
    """
    Return what *cls* declares.

    Raises:
        DeclarationError: Nothing, or something that cannot be.
    """
    return Schema(cls)
