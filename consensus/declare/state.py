"""
The state of a declared machine as bytes: its attributes, or what it dumps.

What comes back has to be what was there, type by type, or a server that was
restored would do something else than the others.  So each snapshot is decoded
and compared before it counts.
"""

from __future__ import annotations

import dataclasses
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Final, get_origin

import msgspec

from consensus.declare.calls import (
    ATOMS,
    DeclarationError,
    check_storable,
    encode_value,
    fields_of,
    hints_of,
)
from consensus.declare.schema import undeclared
from consensus.errors import InvalidCommandError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterable

#: The first byte of a state: how the rest came about.
ATTRIBUTES: Final = 1
DUMP: Final = 2

_MAX_SHOWN = 40
_REMEDY = (
    "annotate it in the class body with what it is made of, as balance: dict[str,"
    " int]; or write dump and load"
)

_decode = msgspec.msgpack.decode


class StateCodec:
    """
    Turns instances of a class into bytes and back.

    Args:
        cls: The class.

    Raises:
        DeclarationError: Its annotations are none, or it has half of the
            hooks.
    """

    def __init__(self, cls: type) -> None:
        self._cls = cls
        self._dump = undeclared(cls, "dump")
        self._load = undeclared(cls, "load")
        if (self._dump is None) != (self._load is None):
            message = (
                f"{cls.__qualname__} has one of dump and load: write both, def"
                " dump(self) -> … and def load(self, data) -> None, or neither"
            )
            raise DeclarationError(message)
        own = {cls.__name__: cls}
        self._types = {
            name: hint
            for name, hint in hints_of(cls, cls.__qualname__, own).items()
            if hint is not ClassVar and get_origin(hint) is not ClassVar
        }
        self._dumped: Any = Any
        if self._dump is not None:
            hints = hints_of(self._dump, f"{cls.__qualname__}.dump", own)
            self._dumped = hints.get("return", Any)
            check_storable(self._dumped, f"what {cls.__qualname__}.dump returns")
        self._has_options = undeclared(cls, "Options") is not None

    def encode(self, state: Any) -> bytes:
        """
        Return *state* as bytes that :meth:`decode` makes the same of.

        Raises:
            InvalidCommandError: There are none; the message says of which
                part, and what to write.
        """
        if self._dump is not None:
            kind, value = DUMP, self._dump(state)
        else:
            kind, value = ATTRIBUTES, self._attributes(state)
        try:
            data = encode_value(value, f"the state of {self._cls.__qualname__}")
        except InvalidCommandError as error:
            message = f"{error}: {_REMEDY}"
            raise InvalidCommandError(message) from error
        try:
            again = self._value(kind, data)
        except StorageError as error:
            raise InvalidCommandError(str(error)) from error
        found = difference(value, again, is_state=kind == ATTRIBUTES)
        if found:
            message = f"the state of {self._cls.__qualname__}: {found}: {_REMEDY}"
            raise InvalidCommandError(message)
        return bytes([kind]) + data

    def decode(self, data: bytes, state: Any) -> Any:
        """
        Return *state*, a new one, with what *data* says.

        Raises:
            StorageError: *data* is no state that this class knows.
        """
        kind = data[0] if data else 0
        if kind not in {ATTRIBUTES, DUMP} or (kind == DUMP and self._load is None):
            message = (
                f"a state begins with {data[:1]!r}, and {self._cls.__qualname__} does"
                " not know that: install the release that wrote it"
            )
            raise StorageError(message)
        value = self._value(kind, data[1:])
        if kind == DUMP and self._load is not None:
            self._load(state, value)
        else:
            vars(state).update(value)
        return state

    def _attributes(self, state: Any) -> dict[str, Any]:
        try:
            found = dict(vars(state))
        except TypeError:
            message = (
                f"{self._cls.__qualname__} keeps its attributes in slots: write dump"
                " and load"
            )
            raise InvalidCommandError(message) from None
        if self._has_options:
            found.pop("options", None)
        return found

    def _value(self, kind: int, data: bytes) -> Any:
        """
        Return the attributes, or what was dumped.

        Raises:
            StorageError: *data* is neither.
        """
        place = ""
        try:
            if kind == DUMP:
                return _decode(data, type=self._dumped)
            found = {}
            for place, raw in _decode(data, type=dict[str, msgspec.Raw]).items():
                found[place] = _decode(raw, type=self._types.get(place, Any))
        except MemoryError:
            raise
        except Exception as error:
            what = ".".join(filter(None, (self._cls.__qualname__, place)))
            message = f"the state of {what} cannot be read: {error}: {_REMEDY}"
            raise StorageError(message) from error
        return found


def difference(value: Any, again: Any, *, is_state: bool = True) -> str:
    """
    Return in what *again*, which was decoded, is not *value*; empty if it is.

    Args:
        value: What was encoded.
        again: What came back.
        is_state: *value* is a dict of attributes that live on, so that one
            thing in two places counts as a difference.
    """
    comparison = _Comparison(counts_sharing=is_state)
    if is_state:
        return comparison.attributes(value, again)
    return comparison.of(value, again)


class _Name(str):
    """The name of an attribute, where others are keys."""

    __slots__ = ()


class _Comparison:
    """
    Compares a value with what it came back as.

    Args:
        counts_sharing: What is in two places would be two things afterwards.
    """

    def __init__(self, *, counts_sharing: bool) -> None:
        self._counts_sharing = counts_sharing
        #: The names and keys that lead to what is looked at.
        self._path: list[Any] = []
        #: Where each thing was seen that can change.
        self._seen: dict[int, tuple[Any, ...]] = {}

    def attributes(self, value: dict[str, Any], again: dict[str, Any]) -> str:
        """Return in what the attributes of a state differ."""
        pairs = ((_Name(name), each, again[name]) for name, each in value.items())
        return self._each(pairs)

    def of(self, value: Any, again: Any) -> str:
        """Return in what they differ, with the place; empty if in nothing."""
        kind = type(value)
        if kind is not type(again):
            return self._said(
                f"is a {kind.__name__} and came back as a {type(again).__name__}"
            )
        if kind in ATOMS or isinstance(value, Enum):
            # What is not equal to itself is no number, here as there.
            same = value == again or (value != value and again != again)  # noqa: PLR0124 - as is said
            return "" if same else self._differs(again)
        return self._parts(kind, value, again)

    def _said(self, words: str) -> str:
        return f"{_place(self._path)} {words}"

    def _differs(self, again: Any) -> str:
        return self._said(f"came back as {again!r:.{_MAX_SHOWN}}")

    def _parts(self, kind: type, value: Any, again: Any) -> str:
        if self._counts_sharing and _can_change(kind):
            if id(value) in self._seen:
                other = _place(self._seen[id(value)])
                return self._said(
                    f"and {other} are one thing, and would be two afterwards"
                )
            self._seen[id(value)] = tuple(self._path)
        if isinstance(value, dict):
            return self._items(value, again)
        if isinstance(value, list | tuple):
            return self._sequence(value, again)
        if isinstance(value, set | frozenset):
            same = value == again and set(map(type, value)) == set(map(type, again))
            return "" if same else self._differs(again)
        names = _names_of(kind)
        if names:
            return self._fields(value, again, names)
        return "" if value == again else self._differs(again)

    def _items(self, value: dict[Any, Any], again: dict[Any, Any]) -> str:
        found = self._sequence(tuple(value), tuple(again))
        if found:
            return f"a key of {_place(self._path)} is another: {found}"
        if _is_flat(value.values(), again.values()):
            return ""
        return self._each((key, each, again[key]) for key, each in value.items())

    def _sequence(self, value: list[Any] | tuple[Any, ...], again: Any) -> str:
        if len(value) != len(again):
            return self._said("came back with another length")
        if _is_flat(value, again):
            return ""
        return self._each(zip(range(len(value)), value, again, strict=True))

    def _fields(self, value: Any, again: Any, names: tuple[_Name, ...]) -> str:
        lost = getattr(value, "__dict__", {}).keys() - names
        if lost:
            self._path.append(_Name(min(lost)))
            return self._said("is no field, and would be lost")
        return self._each(
            (name, getattr(value, name), getattr(again, name)) for name in names
        )

    def _each(self, parts: Iterable[tuple[Any, Any, Any]]) -> str:
        """Compare parts: the key, the value, and what it came back as."""
        for key, value, again in parts:
            self._path.append(key)
            found = self.of(value, again)
            if found:
                return found
            self._path.pop()
        return ""


def _place(path: Iterable[Any]) -> str:
    """Return *path* as Python has it."""
    text = "".join(
        f".{each}" if isinstance(each, _Name) else f"[{each!r:.{_MAX_SHOWN}}]"
        for each in path
    )
    return text.removeprefix(".") or "what dump returns"


def _is_flat(values: Iterable[Any], others: Iterable[Any]) -> bool:
    """Say, fast, that both have the same atoms; otherwise look closer."""
    kinds = list(map(type, values))
    return (
        ATOMS.issuperset(kinds)
        and kinds == list(map(type, others))
        and list(values) == list(others)
    )


@cache
def _names_of(kind: type) -> tuple[_Name, ...]:
    return tuple(map(_Name, fields_of(kind)))


@cache
def _can_change(kind: type) -> bool:
    """Say whether it matters if a thing of this *kind* is one or two."""
    if issubclass(kind, list | dict | set | bytearray):
        return True
    if dataclasses.is_dataclass(kind):
        params: Any = getattr(kind, "__dataclass_params__", None)
        return not params.frozen
    config: Any = getattr(kind, "__struct_config__", None)
    return config is not None and not config.frozen
