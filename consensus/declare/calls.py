"""
The calls of a declared machine as bytes: by name, with their arguments by name.

A command is a version byte and a MessagePack array: the method's name in the
log, a map of the arguments that the caller gave, and one of the defaults that
stood in for the others, if there are any::

    01  ["deposit", {"account": "ann"}, {"amount": 1}]

Defaults are written down so that a command means the same when the class has
another default later; and apart from the rest, so that it means the same when
the class has dropped a parameter that the caller did not use.
"""

from __future__ import annotations

import dataclasses
import inspect
from copy import copy
from functools import cache
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec
from msgspec import UNSET, UnsetType

from consensus.errors import InvalidCommandError, ProtocolError
from consensus.interfaces import Later

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

#: The first byte of every command and query.
VERSION: Final = 1

_VERSION_BYTE = bytes([VERSION])
_NOTHING = b"\x80"

#: Types whose values have no parts, and cannot be changed.
ATOMS: Final = frozenset({type(None), bool, int, float, str, bytes})

_encode = msgspec.msgpack.Encoder().encode


class DeclarationError(TypeError):
    """A class cannot be made a state machine; the message says what to write."""


class Call(msgspec.Struct, frozen=True):
    """
    A command or a query of a declared machine.

    ``Accounts.deposit.command("ann", 5)`` makes one, and
    ``Accounts.balance_of.query("ann")``, checked like those of a client.

    Args:
        name: The method's, as the log has it.
        given: The arguments that the caller gave, by the parameters' names.
        filled: The defaults of the other parameters.
    """

    name: str
    given: dict[str, Any]
    filled: dict[str, Any] = {}

    @property
    def arguments(self) -> dict[str, Any]:
        """Return all arguments by name."""
        return {**self.given, **self.filled}

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
        return f"{self.name}({shown})"


class _Envelope(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """A call of which only the name is looked at yet."""

    name: str
    given: msgspec.Raw
    filled: msgspec.Raw = msgspec.Raw(_NOTHING)


_open = msgspec.msgpack.Decoder(_Envelope).decode


def encode_call(call: Call) -> bytes:
    """
    Return *call* as bytes, unchecked.

    Raises:
        InvalidCommandError: An argument cannot be encoded.
    """
    parts = [call.name, call.given]
    if call.filled:
        parts.append(call.filled)
    return _VERSION_BYTE + encode_value(parts, f"the arguments of {call.name}")


def encode_value(value: Any, what: str) -> bytes:
    """
    Return *value* as MessagePack; sets in an order that all servers give them.

    Args:
        value: Made of what msgspec encodes.
        what: What to call it in the error.

    Raises:
        InvalidCommandError: It is made of something else.
    """
    try:
        return _encode(_ordered(value))
    except MemoryError:
        raise
    except Exception as error:
        message = f"{what} cannot be encoded: {error}"
        raise InvalidCommandError(message) from error


def _ordered(value: Any) -> Any:
    """
    Return *value* with the members of sets in an order of their own.

    So its bytes are the same on every server, however the sets came about.
    """
    kind = type(value)
    if kind in {set, frozenset}:
        return sorted(map(_ordered, value), key=_encode)
    if kind is dict:
        if not _has_parts(value.values()):
            return value
        return {key: _ordered(each) for key, each in value.items()}
    if kind in {list, tuple}:
        return [_ordered(each) for each in value] if _has_parts(value) else value
    return value if kind in ATOMS else _ordered_fields(value)


def _ordered_fields(value: Any) -> Any:
    """Return *value*, or a copy whose fields are ordered, if it has any."""
    changed = {}
    kind: type = type(value)
    for name in fields_of(kind):
        before = getattr(value, name, None)
        if type(before) not in ATOMS:
            after = _ordered(before)
            if after is not before:
                changed[name] = after
    if not changed:
        return value
    value = copy(value)
    change: Callable[[Any, str, Any], None] = object.__setattr__
    if isinstance(value, msgspec.Struct):
        change = msgspec.structs.force_setattr
    for name, after in changed.items():
        change(value, name, after)
    return value


@cache
def fields_of(kind: type) -> tuple[str, ...]:
    """Return the names of the fields of a dataclass or a struct."""
    if dataclasses.is_dataclass(kind):
        return tuple(each.name for each in dataclasses.fields(kind))
    return getattr(kind, "__struct_fields__", ())


def _has_parts(values: Iterable[Any]) -> bool:
    return not ATOMS.issuperset(map(type, values))


def decode_call(data: bytes, find: Callable[[str], Signature]) -> Call:
    """
    Return the call that *data* is, its arguments as the annotations say.

    Args:
        data: Anything.
        find: Returns the signature that a name in the log stands for.

    Raises:
        InvalidCommandError: It is none, or *find* does not know the name, or
            the arguments do not fit.
    """
    if data[:1] != _VERSION_BYTE:
        message = (
            f"a command begins with {data[:1]!r}, but this release knows version"
            f" {VERSION} of declared commands only"
        )
        raise InvalidCommandError(message)
    try:
        envelope = _open(memoryview(data)[1:])
    except MemoryError:
        raise
    except Exception as error:
        message = f"this is no command of a declared machine: {error}"
        raise InvalidCommandError(message) from error
    return find(envelope.name).checked(envelope.name, envelope.given, envelope.filled)


class Signature:
    """
    What a declared method takes and returns.

    Args:
        function: The method, as it was written.
        label: What to call it in errors, as ``Accounts.deposit``.
        names: What its annotations may name beside its module's.

    Raises:
        DeclarationError: It cannot be called by name with checked arguments.
    """

    def __init__(
        self, function: Callable[..., Any], label: str, names: Mapping[str, Any]
    ) -> None:
        hints = hints_of(function, label, names)
        parameters = parameters_of(function, label)
        self._label = label
        self._signature = inspect.Signature(list(parameters.values()))
        self._defaults = {
            name: each.default
            for name, each in parameters.items()
            if each.default is not each.empty
        }
        for name in parameters:
            check_storable(hints[name], f"{name} of {label}")
        result = _without_later(hints["return"])
        check_storable(result, f"the result of {label}")
        self._result: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(result)
        # What was a default once may be needed now, and the other way round.
        fields = [
            (name, Union[hints[name], UnsetType], UNSET)  # noqa: UP007 - of values, and some know no |
            for name in parameters
        ]
        given = msgspec.defstruct("Given", fields, forbid_unknown_fields=True)
        filled = msgspec.defstruct("Filled", fields)
        self._required = [each for each in parameters if each not in self._defaults]
        self._given: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(given)
        self._filled: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(filled)
        self._check_defaults()

    def _check_defaults(self) -> None:
        try:
            data = encode_value(self._defaults, "they")
            _present(self._filled.decode(data))
        except (InvalidCommandError, ValueError) as error:
            message = f"the defaults of {self._label} are not as annotated: {error}"
            raise DeclarationError(message) from error

    def call(
        self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[Call, bytes]:
        """
        Return a call of the method with these arguments, and its bytes.

        Args:
            name: The method's, in the log.
            args: As Python passes them.
            kwargs: Likewise.

        Raises:
            InvalidCommandError: They do not fit.
        """
        try:
            given = self._signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            message = f"{self._label}: {error}"
            raise InvalidCommandError(message) from error
        filled = {
            each: value for each, value in self._defaults.items() if each not in given
        }
        data = encode_call(Call(name, given, filled))
        # What the servers will see is looked at, with the eyes of a server.
        return decode_call(data, lambda _: self), data

    def checked(self, name: str, given: msgspec.Raw, filled: msgspec.Raw) -> Call:
        """
        Return a call of the method whose arguments are as annotated.

        Args:
            name: The method's, in the log.
            given: Encoded.
            filled: Likewise; those of parameters that are no more are dropped.

        Raises:
            InvalidCommandError: They do not fit.
        """
        try:
            found = _present(self._given.decode(given))
            defaults = _present(self._filled.decode(filled))
        except MemoryError:
            raise
        except Exception as error:
            message = f"{self._label}: {error}"
            raise InvalidCommandError(message) from error
        for each in found.keys() & defaults.keys():
            del defaults[each]
        for each in self._required:
            if each not in found and each not in defaults:
                message = f"{self._label}: the argument {each!r} is missing"
                raise InvalidCommandError(message)
        return Call(name, found, defaults)

    def result(self, data: bytes) -> Any:
        """
        Return the result that *data* is.

        Raises:
            ProtocolError: It is not what is annotated.
        """
        try:
            return self._result.decode(data)
        except MemoryError:
            raise
        except Exception as error:
            message = (
                f"the result of {self._label} is not what its annotation says: {error}"
            )
            raise ProtocolError(message) from error


def _present(found: msgspec.Struct) -> dict[str, Any]:
    """Return the fields that are there."""
    fields = msgspec.structs.asdict(found)
    return {name: value for name, value in fields.items() if value is not UNSET}


def parameters_of(
    function: Callable[..., Any], label: str
) -> dict[str, inspect.Parameter]:
    """
    Return the parameters of a method but ``self``, by name.

    Raises:
        DeclarationError: One of them cannot be given by name.
    """
    first, others = None, list(inspect.signature(function).parameters.values())
    if others:
        first = others.pop(0)
    if first is None or first.kind in {first.VAR_POSITIONAL, first.KEYWORD_ONLY}:
        message = f"{label} has no self: write def {function.__name__}(self, …)"
        raise DeclarationError(message)
    for each in others:
        if each.kind in {each.VAR_POSITIONAL, each.VAR_KEYWORD, each.POSITIONAL_ONLY}:
            message = (
                f"{label} does not take {each.name} by name, as the log has it: write"
                " parameters with names, or one that is a list or a dict"
            )
            raise DeclarationError(message)
        if each.annotation is each.empty:
            message = f"{label}: {each.name} has no type: write {each.name}: int, say"
            raise DeclarationError(message)
    if "return" not in function.__annotations__:
        message = f"{label} does not say what it returns: write -> int, say, or -> None"
        raise DeclarationError(message)
    return {each.name: each for each in others}


def hints_of(thing: Any, label: str, names: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return the types that the annotations of *thing* stand for.

    Args:
        thing: A function or a class.
        label: What to call it in errors.
        names: What they may name beside what its module has.

    Raises:
        DeclarationError: They name what is not there at run time.
    """
    try:
        return get_type_hints(thing, localns=dict(names), include_extras=True)
    except Exception as error:
        message = (
            f"a type in the annotations of {label} is not known at run time ({error}):"
            " import it outside of 'if TYPE_CHECKING', or define it in the module"
        )
        raise DeclarationError(message) from error


def check_storable(annotation: Any, what: str) -> None:
    """
    See that values of the type *annotation* can be stored.

    Raises:
        DeclarationError: They cannot.
    """
    try:
        known = msgspec.inspect.type_info(annotation)
    except Exception as error:
        message = f"{what} cannot be stored: {error}"
        raise DeclarationError(message) from error
    for cls in _customs(known, set()):
        message = (
            f"{what} is a {getattr(cls, '__qualname__', cls)}, which cannot be stored:"
            " make that a dataclass or a msgspec.Struct; or write Any for what"
            " MessagePack knows"
        )
        raise DeclarationError(message)


def _customs(known: Any, seen: set[int]) -> Iterator[Any]:
    """Yield the classes within a type that msgspec knows nothing about."""
    if isinstance(known, msgspec.inspect.CustomType):
        yield known.cls
    elif isinstance(known, tuple | list):
        for each in known:
            yield from _customs(each, seen)
    elif (
        isinstance(known, msgspec.inspect.Type | msgspec.inspect.Field)
        and id(known) not in seen
    ):
        seen.add(id(known))
        for name in known.__struct_fields__:
            yield from _customs(getattr(known, name), seen)


def _without_later(annotation: Any) -> Any:
    """Return what a client gets: that there is no answer yet is no answer."""
    if get_origin(annotation) is None or Later not in get_args(annotation):
        return annotation
    rest = tuple(each for each in get_args(annotation) if each is not Later)
    return Union[rest]  # noqa: UP007 - of values
