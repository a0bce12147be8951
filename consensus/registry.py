"""
A name in the YAML becomes a class: the framework's only dynamic import.

An engine is looked for among what :func:`register` was told, then among the
entry points of the installed distributions, and is taken for the dotted path
of a class when neither knows it.
"""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from consensus.declare import DeclarationError, as_machine
from consensus.errors import Finding
from consensus.interfaces import StateMachine, Storage, Transport

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from importlib.metadata import EntryPoint

#: What can be named in the YAML, and what its class has to inherit.
KINDS: Mapping[str, type] = {
    "storage": Storage,
    "transport": Transport,
    "state_machine": StateMachine,
}

#: The name under which the framework itself is installed.
DISTRIBUTION = "twisted-raft"

_COMMANDS = "consensus.command"
_PAGES = "consensus.http"

_registered: dict[tuple[str, str], type[Any]] = {}


class EngineError(LookupError):
    """
    An engine cannot be had.

    Args:
        message: What is wrong.
        hint: What to write or do instead.
    """

    def __init__(self, message: str, hint: str) -> None:
        """Keep both parts: a finding shows them apart."""
        super().__init__(f"{message} ({hint})")
        self.message = message
        self.hint = hint


def register(kind: str, name: str, cls: type) -> None:
    """
    Let *name* stand for *cls* in this process; a later call replaces it.

    For tests and programs; a distribution uses an entry point instead.

    Raises:
        EngineError: *cls* does not inherit the interface of *kind*, or is a
            state machine whose declarations are wrong.
    """
    _registered[kind, name] = _checked(kind, name, cls)


def names(kind: str) -> tuple[str, ...]:
    """Return the names that :func:`resolve` knows for *kind*, sorted."""
    known = {name for of_kind, name in _registered if of_kind == kind}
    known.update(entry_points(group=_group(kind)).names)
    return tuple(sorted(known))


def resolve(kind: str, engine: str | type) -> type[Any]:
    """
    Return the class that *engine* names: a name, a dotted path or a class.

    A state machine may also be a class with declared methods; what it declares
    is returned then (:func:`consensus.declare.as_machine`).

    Raises:
        EngineError: There is none; the message says what to do about it.
    """
    if isinstance(engine, type):
        return _checked(kind, name_of(engine), engine)
    if (kind, engine) in _registered:
        return _registered[kind, engine]
    found = _find(_group(kind), engine)
    if found is not None:
        return _checked(kind, engine, _load(found))
    if "." in engine:
        return _checked(kind, engine, _import(engine))
    message = f"no {kind.replace('_', ' ')} engine is called {engine!r}"
    raise EngineError(
        message,
        suggest(engine, names(kind))
        or "no engine is installed at all: install the distribution with pip",
    )


def name_of(engine: str | type) -> str:
    """Return what to call *engine*: its name, or the dotted path of a class."""
    if isinstance(engine, str):
        return engine
    return f"{engine.__module__}.{engine.__qualname__}"


def suggest(word: str, known: Iterable[str]) -> str:
    """Return a hint that names the nearest of *known*, or all of them."""
    known = list(known)
    near = get_close_matches(word, known, n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"known are {', '.join(known)}" if known else ""


def command_names() -> tuple[str, ...]:
    """Return the names of the commands that applications add to ``raft``."""
    return tuple(sorted(entry_points(group=_COMMANDS).names))


def load_command(name: str) -> object:
    """
    Return what the application command *name* stands for.

    Raises:
        EngineError: There is none, or it cannot be imported.
    """
    found = _find(_COMMANDS, name)
    if found is None:
        message = f"no command is called {name!r}"
        raise EngineError(message, suggest(name, command_names()))
    return _load(found)


def page_names() -> tuple[str, ...]:
    """Return the names of what applications add to servers' HTTP ports."""
    return tuple(sorted(entry_points(group=_PAGES).names))


def load_page(name: str) -> Any:
    """
    Return what makes the HTTP resource *name*, given a home server.

    Raises:
        EngineError: There is none, or it cannot be imported.
    """
    found = _find(_PAGES, name)
    if found is None:
        message = f"no page is called {name!r}"
        raise EngineError(message, suggest(name, page_names()))
    return _load(found)


def unavailable() -> Iterator[Finding]:
    """
    Yield a warning for each engine of ours that another distribution hides.

    ``adapters`` and ``contrib`` are common names, and a regular package of
    that name keeps Python from looking for ours.
    """
    for kind in KINDS:
        ours = {
            point.name: point.module
            for point in entry_points(group=_group(kind))
            if point.dist and point.dist.name == DISTRIBUTION
        }
        for name, module in ours.items():
            hidden = _hidden_by(module)
            if hidden:
                yield Finding(
                    "registry.W001",
                    f"the {kind.replace('_', ' ')} engine {name!r} cannot be"
                    f" imported: {hidden}",
                    "give this program an environment of its own",
                )


def _group(kind: str) -> str:
    return f"consensus.{kind}"


def _find(group: str, name: str) -> EntryPoint | None:
    """
    Return the entry point *name* of *group*, if there is one.

    One that is there twice with the same value is one: an editable install
    is often seen along with the metadata in its source directory.

    Raises:
        EngineError: Two distributions give the name to different things.
    """
    found = {point.value: point for point in entry_points(group=group, name=name)}
    if len(found) > 1:
        owners = " and ".join(sorted(map(_owner, found.values())))
        message = f"{owners} both register {name!r} for {group}"
        raise EngineError(message, "uninstall one of them, or write a dotted path")
    return next(iter(found.values()), None)


def _owner(point: EntryPoint) -> str:
    return f"the distribution {point.dist.name!r}" if point.dist else "a program"


def _load(point: EntryPoint) -> object:
    try:
        return point.load()
    except Exception as error:
        missing = isinstance(error, ModuleNotFoundError)
        reason = (missing and _hidden_by(point.module)) or _words(error)
        message = (
            f"{_owner(point)} registers {point.name!r} as {point.value!r}, which"
            f" cannot be imported: {reason}"
        )
        hint = "reinstall that distribution with what it depends on"
        raise EngineError(message, hint) from error


def _import(path: str) -> object:
    module_name, _, name = path.rpartition(".")
    try:
        module = import_module(module_name)
    except Exception as error:
        message = f"{module_name!r} cannot be imported: {_words(error)}"
        hint = (
            "write package.module.Class; the package has to be installed, or its"
            " directory to be in PYTHONPATH"
        )
        raise EngineError(message, hint) from error
    if not hasattr(module, name):
        message = f"the module {module_name!r} has no {name!r}"
        raise EngineError(message, "write package.module.Class, as the source has it")
    return getattr(module, name)


def _checked(kind: str, name: str, cls: object) -> type[Any]:
    base = KINDS[kind]
    if not isinstance(cls, type):
        message = f"{name!r} is not a class but a {type(cls).__name__}"
        raise EngineError(message, "write package.module.Class")
    if base is StateMachine:
        cls = _as_machine(name, cls)
    if not issubclass(cls, base):
        message = (
            f"{name!r} is no {kind.replace('_', ' ')} engine: it does not inherit"
            f" {base.__module__}.{base.__qualname__}"
        )
        raise EngineError(message, suggest(name, names(kind)))
    missing = sorted(getattr(cls, "__abstractmethods__", ()))
    if missing:
        message = f"{name!r} lacks {', '.join(missing)}"
        raise EngineError(message, f"implement what {base.__qualname__} asks for")
    return cls


def _as_machine(name: str, cls: type) -> type:
    """Return the state machine that *cls* declares, if it is none itself."""
    try:
        return as_machine(cls)
    except DeclarationError as error:
        message = f"{name!r} is no state machine engine"
        raise EngineError(message, str(error)) from error


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _hidden_by(module: str) -> str:
    """Return what Python finds in the place of *module*; empty if it is there."""
    top = module.partition(".")[0]
    try:
        if find_spec(module) is not None:
            return ""
    except (ImportError, AttributeError, ValueError):
        pass  # a parent that is missing, or that is no package
    except Exception:  # noqa: BLE001 - a parent is there, and broken: not hidden
        return ""
    spec = find_spec(top)
    if spec is None:
        return f"there is no package {top!r}"
    if spec.origin is None:
        return f"the package {top!r} has no {module!r}"
    return f"the package {top!r} that Python finds is {spec.origin}, of somebody else"
