"""
A plugin of mypy: it sees ``client`` in classes that declare methods without a base.

Add it to mypy's settings, as ``plugins = ["consensus.mypy_plugin"]``.  Classes
that inherit :class:`consensus.declare.Machine` need none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mypy.nodes import CallExpr, Decorator, RefExpr, TypeInfo
from mypy.plugin import ClassDefContext, Plugin
from mypy.types import Instance

if TYPE_CHECKING:
    from collections.abc import Callable

_DECORATORS = {"consensus.declare.write", "consensus.declare.read"}
_BASE = "consensus.declare.Machine"


class DeclarePlugin(Plugin):
    """Gives classes with declared methods the base that has ``client``."""

    def get_customize_class_mro_hook(
        self, fullname: str
    ) -> Callable[[ClassDefContext], None] | None:
        """Return what looks at a class; at none of the framework's own."""
        return None if fullname.startswith("consensus.") else _add_base


def _add_base(context: ClassDefContext) -> None:
    info = context.cls.info
    if info.has_base(_BASE) or not _declares(context):
        return
    found = context.api.lookup_fully_qualified_or_none(_BASE)
    if found is None or not isinstance(found.node, TypeInfo):
        return
    base = found.node
    # Python looks there last, as it finds the method of that name now.
    info.mro.insert(len(info.mro) - 1, base)
    plain = [each for each in info.bases if each.type.fullname != "builtins.object"]
    info.bases = [*plain, Instance(base, [])]


def _declares(context: ClassDefContext) -> bool:
    """Say whether a method of the class has one of our decorators."""
    for item in context.cls.defs.body:
        if not isinstance(item, Decorator):
            continue
        for decorator in item.original_decorators:
            used = decorator.callee if isinstance(decorator, CallExpr) else decorator
            if isinstance(used, RefExpr) and _name(context, used) in _DECORATORS:
                return True
    return False


def _name(context: ClassDefContext, used: RefExpr) -> str:
    """Return the full name of what a decorator refers to."""
    written = getattr(used, "name", "")
    parts = [written]
    inner = getattr(used, "expr", None)
    while isinstance(inner, RefExpr):
        parts.append(getattr(inner, "name", ""))
        inner = getattr(inner, "expr", None)
    found = context.api.lookup_qualified(
        ".".join(reversed(parts)), used, suppress_errors=True
    )
    return "" if found is None or found.node is None else found.node.fullname


def plugin(version: str) -> type[Plugin]:
    """Return the plugin, whichever *version* mypy is."""
    del version
    return DeclarePlugin
