"""
Traps for what two servers do not have in common: clocks, dice, addresses.

While they are set, the interpreter reports every call (``sys.setprofile``), so
that ``from time import time`` is no way around them.  A call counts when it
comes from the user's code, and is forgiven on its way through a module that
needs it for itself, as ``logging`` needs the time.
"""

from __future__ import annotations

import builtins
import locale
import os
import platform
import random
import socket
import sys
import sysconfig
import threading
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from types import CodeType, FrameType

_CLOCK = "put the time into the command, where it is written"
_DICE = "draw the number where the command is written, and put it in there"
_PLACE = "read it once where the server starts, as one of the machine's Options"
_PROCESS = "it is another number on every server: leave it out"
_HASH = "it differs from process to process: use the value itself, or hashlib"
_ADDRESS = "it is an address: give the object a number of its own"
_LOCAL_TIME = "say which timezone and which time: no default is the same everywhere"
_LOCALE = "format it where it is shown"
_MEASURE = "measure where the machine is called, not in it"

#: Modules that may look at the clock, the process and the dice for themselves.
FORGIVEN = (
    *("logging", "twisted.logger", "twisted.python", "structlog", "loguru"),
    *("warnings", "traceback", "linecache", "tempfile", "threading"),
    *("importlib", "_frozen_importlib", "_frozen_importlib_external", "zipimport"),
)


@dataclass(frozen=True, slots=True)
class Blame:
    """
    A line that is to blame.

    Args:
        file: Its file.
        line: Its number.
        function: What it is in.
        what: What it does that no two servers do alike.
        advice: What to do instead.
    """

    file: str
    line: int
    function: str
    what: str
    advice: str

    def __str__(self) -> str:
        """Return it as lines for a person."""
        return (
            f"  {self.file}:{self.line}, in {self.function}: {self.what}\n"
            f"    instead: {self.advice}"
        )


def _named(module: Any, names: str, what: str, advice: str) -> dict[Any, Any]:
    """Return those of *names* that this platform has, each with what to say."""
    return {
        getattr(module, name): (f"{module.__name__}.{name}() {what}", advice)
        for name in names.split()
        if hasattr(module, name)
    }


#: Calls of builtins that are wrong whatever comes of them.
_GUILTY: dict[Any, tuple[str, str]] = {
    **_named(time, "time time_ns", "reads the clock", _CLOCK),
    **_named(time, "clock_gettime clock_gettime_ns", "reads the clock", _CLOCK),
    os.urandom: ("os.urandom() draws random bytes", _DICE),
    **_named(os, "getrandom", "draws random bytes", _DICE),
    **_named(os, "getpid getppid getuid getlogin", "knows the process", _PROCESS),
    **_named(os, "getcwd getcwdb uname getloadavg", "knows the host", _PLACE),
    **_named(os, "cpu_count sched_getaffinity", "knows the host", _PLACE),
    **_named(threading, "get_ident get_native_id", "knows the process", _PROCESS),
    **_named(socket, "gethostname", "knows the host", _PLACE),
    # These are other objects than those of `locale`, which wraps them.
    **_named(sys.modules["_locale"], "strcoll strxfrm", "follows the locale", _LOCALE),
    **_named(sys.modules["_locale"], "localeconv", "follows the locale", _LOCALE),
    **_named(locale, "setlocale", "changes the whole process", _LOCALE),
}

#: Calls of builtins that may be harmless; they explain a difference.
_SUSPECT: dict[Any, tuple[str, str]] = {
    **_named(time, "localtime mktime", "follows the timezone", _LOCAL_TIME),
    **_named(time, "gmtime ctime asctime strftime", "may read the clock", _LOCAL_TIME),
    **_named(time, "monotonic monotonic_ns", "reads a clock", _MEASURE),
    **_named(time, "perf_counter perf_counter_ns", "reads a clock", _MEASURE),
    **_named(time, "process_time process_time_ns", "reads a clock", _MEASURE),
    **_named(time, "thread_time thread_time_ns", "reads a clock", _MEASURE),
    builtins.hash: ("hash() depends on the process", _HASH),
    builtins.id: ("id() depends on the process", _ADDRESS),
}

#: The same, of methods of ``date`` and ``datetime``.
_GUILTY_DATES = frozenset({"now", "utcnow", "today"})
_SUSPECT_DATES = frozenset({"fromtimestamp", "timestamp", "astimezone"})

#: Python functions: what their frame has to look like.
_PYTHON: dict[CodeType, tuple[Callable[[Any], bool], str, str]] = {
    random.Random.seed.__code__: (
        lambda names: names.get("a") is None,
        "random.Random() without a seed draws one",
        "give it a seed that stands in the command",
    ),
    type(os.environ).__getitem__.__code__: (
        lambda names: names.get("self") is os.environ,
        "os.environ is another one on every server",
        _PLACE,
    ),
    platform.uname.__code__: (lambda _: True, "platform knows the host", _PLACE),
    uuid.getnode.__code__: (lambda _: True, "uuid.getnode() knows the host", _DICE),
    **{
        function.__code__: (
            lambda _: True,
            f"uuid.{function.__name__}() draws one",
            "make it where the command is written, or use uuid5()",
        )
        for function in (uuid.uuid1, uuid.uuid4)
    },
}


def _paths(*names: str) -> tuple[str, ...]:
    found = sysconfig.get_paths()
    return tuple({os.path.realpath(found[name]) + os.sep for name in names})


_LIBRARY = _paths("stdlib", "platstdlib")
_PACKAGES = _paths("purelib", "platlib")


class Territory:
    """
    Which code is the user's.

    Args:
        classes: Whose packages are, wherever they are installed.
        forgiven: Modules and functions, as ``package.module.function``, on
            whose way nothing counts.
    """

    def __init__(
        self, classes: Collection[type], forgiven: Collection[str] = ()
    ) -> None:
        self._own = {each.__module__.partition(".")[0] for each in classes}
        self._own -= {"builtins", "abc"}
        self._forgiven = (*FORGIVEN, *forgiven)
        self._known: dict[tuple[str, str], bool] = {}

    def has(self, frame: FrameType) -> bool:
        """Say whether *frame* runs code of the user's."""
        file, module = frame.f_code.co_filename, frame.f_globals.get("__name__", "")
        known = self._known.get((file, module))
        if known is None:
            known = self._known[file, module] = self._is_own(file, str(module))
        return known

    def _is_own(self, file: str, module: str) -> bool:
        if file.startswith("<") or module.startswith("consensus."):
            return False
        if module.partition(".")[0] in self._own:
            return True
        return not os.path.realpath(file).startswith((*_LIBRARY, *_PACKAGES))

    def forgives(self, frame: FrameType) -> bool:
        """Say whether nothing counts that *frame* does."""
        module = str(frame.f_globals.get("__name__", ""))
        # co_qualname is the same on every Python from 3.11 on.
        name = f"{module}.{frame.f_code.co_qualname}"
        return any(
            name == each or name.startswith(each + ".") for each in self._forgiven
        )

    def responsible(self, frame: FrameType | None, end: FrameType) -> FrameType | None:
        """Return the user's frame that called *frame*, if it is to blame at all."""
        found = None
        while frame is not None and frame is not end:
            if self.forgives(frame):
                return None
            if found is None and self.has(frame):
                found = frame
            frame = frame.f_back
        return found


class Traps:
    """
    Notes who calls what while they are set.

    Args:
        territory: Whose calls count.
    """

    def __init__(self, territory: Territory) -> None:
        self._territory = territory
        self._end: FrameType = sys._getframe()  # noqa: SLF001 - inspect's costs more
        #: What is wrong, whatever comes of it, in order.
        self.guilty: dict[tuple[str, int, str], Blame] = {}
        #: What may be.
        self.suspects: dict[tuple[str, int], Blame] = {}

    @contextmanager
    def set(self) -> Iterator[None]:
        """Note calls of what is called from here."""
        # Ours, contextlib's, and then the one in which the block stands.
        self._end = sys._getframe(2)  # noqa: SLF001 - likewise
        before = sys.getprofile()
        sys.setprofile(self._profile)
        try:
            yield
        finally:
            sys.setprofile(before)

    def _profile(self, frame: FrameType, event: str, called: Any) -> None:
        if event == "c_call":
            self._look_at_builtin(frame, called)
        elif event == "call" and frame.f_code in _PYTHON:
            is_it, what, advice = _PYTHON[frame.f_code]
            if is_it(frame.f_locals):
                self._note_guilty(frame, what, advice)

    def _look_at_builtin(self, frame: FrameType, called: Any) -> None:
        owner = getattr(called, "__self__", None)
        if called in _GUILTY:
            self._note_guilty(frame, *_GUILTY[called])
        elif called in _SUSPECT:
            self._note_suspect(frame, *_SUSPECT[called])
        elif owner is _SHARED_DICE:
            self._note_guilty(frame, "random draws from the process's own dice", _DICE)
        elif isinstance(owner, type) and issubclass(owner, date):
            name = f"{owner.__name__}.{called.__name__}()"
            if called.__name__ in _GUILTY_DATES:
                self._note_guilty(frame, f"{name} reads the clock", _CLOCK)
            elif called.__name__ in _SUSPECT_DATES:
                self._note_suspect(frame, f"{name} follows the timezone", _LOCAL_TIME)
        elif isinstance(owner, date) and called.__name__ in _SUSPECT_DATES:
            name = f"{type(owner).__name__}.{called.__name__}()"
            self._note_suspect(frame, f"{name} follows the timezone", _LOCAL_TIME)

    def _note_guilty(self, frame: FrameType, what: str, advice: str) -> None:
        blame = self._blame(frame, what, advice)
        if blame is not None:
            # One call of uuid4() draws bytes too: the first word counts.
            known = any(key[:2] == (blame.file, blame.line) for key in self.guilty)
            if not known:
                self.guilty[blame.file, blame.line, what] = blame

    def _note_suspect(self, frame: FrameType, what: str, advice: str) -> None:
        blame = self._blame(frame, what, advice)
        if blame is not None:
            self.suspects.setdefault((blame.file, blame.line), blame)

    def _blame(self, frame: FrameType, what: str, advice: str) -> Blame | None:
        user = self._territory.responsible(frame, self._end)
        if user is None:
            return None
        code = user.f_code
        return Blame(code.co_filename, user.f_lineno, code.co_qualname, what, advice)


#: What ``random.random()`` and its like share; seeding it is no crime by itself.
_SHARED_DICE = random.random.__self__  # type: ignore[attr-defined] # a bound builtin
