"""
A state as rows: names, and what they stand for, as text.

A machine may say itself what people look for (``show``).  Else it is what
Python finds in the state: ``['colour']`` is an item of a mapping or a list, and
``.balance`` an attribute; what is not a container is one row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from consensus.describe import cut
from consensus.fingerprint import attributes, fingerprint, state_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from consensus.interfaces import StateMachine

#: Deeper than this, all is one row.
_MOST_DEPTH = 8

#: The name of the row of a state that is no container.
ALL = "state"

_TEXTS = (str, bytes, bytearray, memoryview)


def rows_of(machine: StateMachine, state: Any) -> dict[str, str]:
    """Return *state* of *machine* as rows, sorted by their names."""
    shown = machine.show(state)
    if shown is not None:
        return dict(sorted(shown))
    rows = dict(_rows("", state, 0))
    if not rows or list(rows) == [""]:
        rows = {ALL: state_text(machine, state)} if state else {}
    return dict(sorted(rows.items()))


def _rows(path: str, value: Any, depth: int) -> Iterator[tuple[str, str]]:
    children = None if depth >= _MOST_DEPTH else _children(value)
    if children is None or (not children and path):
        yield path, fingerprint(value)
        return
    for name, child in children:
        yield from _rows(path + name, child, depth + 1)


def _children(value: Any) -> list[tuple[str, Any]] | None:
    """Return what *value* contains by name; ``None`` if it is no container."""
    if isinstance(value, _TEXTS):
        return None
    if isinstance(value, Mapping):
        return [(f"[{fingerprint(key)}]", each) for key, each in value.items()]
    if isinstance(value, AbstractSet):
        return [(f"[{fingerprint(each)}]", True) for each in value]
    if isinstance(value, Sequence):
        return [(f"[{place}]", each) for place, each in enumerate(value)]
    if isinstance(value, msgspec.Struct):
        return [(f".{k}", getattr(value, k)) for k in value.__struct_fields__]
    found = [(f".{name}", each) for name, each in attributes(value)]
    return found or None


@dataclass(frozen=True, slots=True)
class Difference:
    """
    A row that two states do not have alike.

    Args:
        name: Its name.
        before: What stands in the one; ``None`` if it has no such row.
        after: In the other.
    """

    name: str
    before: str | None
    after: str | None

    @property
    def change(self) -> str:
        """Return ``added``, ``removed`` or ``changed``."""
        if self.before is None:
            return "added"
        return "removed" if self.after is None else "changed"

    def lines(self) -> Iterator[str]:
        """Yield it as lines, as ``diff`` writes them."""
        name = cut(self.name)
        if self.before is not None:
            yield f"- {name}: {cut(self.before)}"
        if self.after is not None:
            yield f"+ {name}: {cut(self.after)}"


def differences(before: dict[str, str], after: dict[str, str]) -> Iterator[Difference]:
    """Yield in which rows two states differ, by name."""
    for name in sorted(before.keys() | after.keys()):
        found = Difference(name, before.get(name), after.get(name))
        if found.before != found.after:
            yield found
