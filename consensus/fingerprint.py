"""
Any Python value as text that is the same wherever the value is.

The order of a set, the address of an object and the order in which a dict was
filled do not show; what two values differ in does.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from enum import Enum
from os import PathLike
from types import FunctionType, GeneratorType, ModuleType
from typing import TYPE_CHECKING, Any

from consensus.interfaces import StateMachine

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: Types whose ``repr`` says all, by the modules that have them.
_PLAIN_MODULES = frozenset(
    {"datetime", "decimal", "fractions", "uuid", "ipaddress", "zoneinfo", "re"}
)
_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...), range)
_MAX_DEPTH = 40


class _Writer:
    """Writes one value, and notes whether it saw all of it."""

    def __init__(self) -> None:
        self.has_opaque = False
        self._above: list[int] = []

    def text(self, value: Any) -> str:
        """Return *value* as text."""
        if type(value) in _PLAIN:
            return repr(value)
        if id(value) in self._above:
            return f"<{len(self._above) - self._above.index(id(value))} above>"
        if len(self._above) >= _MAX_DEPTH:
            return self._opaque(value)
        self._above.append(id(value))
        try:
            return self._compound(value)
        finally:
            self._above.pop()

    def _compound(self, value: Any) -> str:  # noqa: PLR0911 - a case for each kind
        kind = type(value)
        if isinstance(value, type | FunctionType | ModuleType):
            return f"<{value.__name__}>"
        if isinstance(value, Enum):
            return str(value)
        if isinstance(value, PathLike | GeneratorType):
            return self._opaque(value)
        if kind.__module__ in _PLAIN_MODULES:
            return repr(value)
        items = self._items(value)
        if items is None:
            return self._object(value)
        if kind in {list, tuple, dict, set}:
            return items
        return f"{kind.__qualname__}({items}{self._attributes(value)})"

    def _items(self, value: Any) -> str | None:  # noqa: PLR0911 - likewise
        """Return what *value* contains, if it is a container."""
        if isinstance(value, _PLAIN):
            return kind_repr(value)
        if isinstance(value, dict | Mapping):
            pairs = (f"{self.text(k)}: {self.text(v)}" for k, v in value.items())
            in_order = isinstance(value, OrderedDict)
            return f"{{{', '.join(pairs if in_order else sorted(pairs))}}}"
        if isinstance(value, set | frozenset | AbstractSet):
            return f"{{{', '.join(sorted(map(self.text, value)))}}}"
        if isinstance(value, tuple):
            return f"({', '.join(map(self.text, value))})"
        if isinstance(value, bytearray | memoryview):
            return repr(bytes(value))
        if isinstance(value, list | deque | array | Sequence):
            return f"[{', '.join(map(self.text, value))}]"
        return None

    def _attributes(self, value: Any) -> str:
        return "".join(
            f", {name}={self.text(each)}" for name, each in sorted(attributes(value))
        )

    def _object(self, value: Any) -> str:
        found = self._attributes(value)
        if found or hasattr(value, "__dict__"):
            return f"{type(value).__qualname__}({found[2:]})"
        try:
            parts = value.__reduce_ex__(4)
        except Exception:  # noqa: BLE001 - a type may refuse in any way
            return self._opaque(value)
        if isinstance(parts, str):
            return parts
        return f"{type(value).__qualname__}{self._reduced(parts)}"

    def _reduced(self, parts: tuple[Any, ...]) -> str:
        """Return what ``pickle`` would store of an object of an extension."""
        made = [list(part) if hasattr(part, "__next__") else part for part in parts[1:]]
        return self.text(tuple(made))

    def _opaque(self, value: Any) -> str:
        self.has_opaque = True
        return f"<{type(value).__module__}.{type(value).__qualname__}>"


def kind_repr(value: Any) -> str:
    """Return what *value*, of a subclass of a plain type, is as a plain one."""
    base: Any = next(each for each in _PLAIN if isinstance(value, each))
    text: str = base.__repr__(value)
    return text


def attributes(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the name and the value of each attribute that *value* has itself."""
    yield from getattr(value, "__dict__", {}).items()
    for kind in type(value).__mro__:
        slots: str | Iterable[str] = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in {"__dict__", "__weakref__"} and hasattr(value, name):
                yield name, getattr(value, name)


def fingerprint(value: Any) -> str:
    """
    Return *value* as text; equal values give equal texts, in every process.

    What Python code cannot look into, such as an open file, is shown as its
    class's name alone.
    """
    return _Writer().text(value)


def state_text(machine: StateMachine, state: Any) -> str:
    """
    Return a text that differs when *state* does.

    Where Python code cannot look into a state, it is what *machine* puts into
    a snapshot of it; also for a machine on disk, whose state has an index too.
    """
    if type(machine).last_applied is not StateMachine.last_applied:
        return repr(b"".join(machine.snapshot(state).chunks()))
    writer = _Writer()
    text = writer.text(state)
    if writer.has_opaque:
        text += repr(b"".join(machine.snapshot(state).chunks()))
    return text
