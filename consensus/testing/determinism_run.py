"""
One copy of a state machine applying commands, in this or another process.

``python -m consensus.testing.determinism_run`` is that other process: it has
another hash seed, timezone, locale, environment and clock.
"""

from __future__ import annotations

import builtins
import importlib
import importlib.util
import itertools
import os
import pickle
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from consensus.declare import as_machine
from consensus.errors import StorageError
from consensus.fingerprint import fingerprint, state_text
from consensus.testing.determinism_traps import Territory
from consensus.testing.logged import Logged, taken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from types import FrameType, ModuleType

    from consensus.interfaces import StateMachine

#: What a copy is called; a text that has it is none of the machine's own.
NAMES = ("server-of-the-first-copy", "server-of-the-second-copy")

_MOST_EVENTS = 200_000


@dataclass(frozen=True, slots=True)
class Event:
    """
    A place that one copy came through, and what its variables were.

    Args:
        frame: Its number, counted from 1.
        caller: The number of the one that called it; 0 if it is not the user's.
        kind: ``call``, ``line``, ``return`` or ``exception``.
        file: The file.
        line: The line.
        function: What it is in.
        seen: A digest of all local variables, or of what is returned.
    """

    frame: int
    caller: int
    kind: str
    file: str
    line: int
    function: str
    seen: bytes


@dataclass
class Report:
    """What one copy did: after ``init``, and after each command."""

    results: list[str] = field(default_factory=list)
    states: list[str] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)


@dataclass(frozen=True)
class Job:
    """
    What a copy has to do.

    Args:
        make: Makes the machine.
        commands: As the log has them.
        name: The server's.
        forgiven: As of :class:`~.determinism_traps.Territory`.
        is_detailed: Whether the state is looked at after every command, and
            not only at the end.
        traced: The step whose lines are to be recorded: 0 is ``init``, and
            then come the commands.
    """

    make: Callable[[], StateMachine]
    commands: tuple[Logged, ...]
    name: str
    forgiven: tuple[str, ...] = ()
    is_detailed: bool = False
    traced: int | None = None


def made_by(make: Callable[[], Any]) -> Callable[[], StateMachine]:
    """Return what makes a state machine, also where *make* is a declared class."""
    return as_machine(make) if isinstance(make, type) else make


def territory_of(machine: StateMachine, forgiven: tuple[str, ...]) -> Territory:
    """Return which code is that of *machine*."""
    classes = [each for each in type(machine).__mro__ if each is not object]
    own = [each for each in classes if not each.__module__.startswith("consensus.")]
    return Territory(own, forgiven)


def run(
    job: Job, around: Callable[[], AbstractContextManager[Any]] | None = None
) -> Report:
    """
    Apply the commands of *job* to a new copy.

    Args:
        job: What to do.
        around: Is entered for each call of the machine.
    """
    with TemporaryDirectory(prefix="determinism-") as place, ExitStack() as stack:
        machine = job.make()
        machine.directory = Path(place)
        copy = _Copy(job, machine, around or ExitStack)
        stack.callback(copy.close)
        copy.begin()
        for number, command in enumerate(job.commands, 1):
            copy.apply(number, command)
        return copy.finish()


class _Copy:
    def __init__(
        self,
        job: Job,
        machine: StateMachine,
        around: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self._job = job
        self._machine = machine
        self._around = around
        self._state: Any = None
        self._has_state = False
        self._report = Report()

    @contextmanager
    def _watched(self, step: int) -> Iterator[None]:
        with ExitStack() as stack:
            if step == self._job.traced:
                territory = territory_of(self._machine, self._job.forgiven)
                trace = _Trace(territory, self._job.name, self._report.events)
                stack.enter_context(trace.set())
            stack.enter_context(self._around())
            yield

    def begin(self) -> None:
        """Make the first state."""
        with self._watched(0):
            self._state = self._machine.init(self._job.name)
        self._has_state = True
        self._note("None", is_last=not self._job.commands)

    def apply(self, number: int, data: Logged) -> None:
        """Apply one command, as a server does."""
        _disturb(number)
        with self._watched(number):
            try:
                command = taken(self._machine, data)
                results, self._state = self._machine.apply_batch(
                    [(number, command)], self._state
                )
                result = results[0]
            except (MemoryError, StorageError):
                raise
            except Exception as error:  # noqa: BLE001 - it is the result
                result = error
        self._note(result_text(result), is_last=number == len(self._job.commands))

    def _note(self, result: str, *, is_last: bool) -> None:
        self._report.results.append(result)
        state, digest = "", ""
        if is_last or self._job.is_detailed:
            state = state_text(self._machine, self._state)
            with self._around():
                digest = repr(self._machine.digest(self._state))
        self._report.states.append(state)
        self._report.digests.append(digest)

    def finish(self) -> Report:
        """Return what was seen."""
        return self._report

    def close(self) -> None:
        """Let go of the state."""
        if self._has_state:
            self._machine.close(self._state)


def result_text(result: Any) -> str:
    """Return what a command came to as text: an exception is a result too."""
    if isinstance(result, Exception):
        return f"{type(result).__name__}: {result}"
    return fingerprint(result)


class _Trace:
    """
    Records each line of the user's code, and what its variables are there.

    Args:
        territory: Which code is the user's.
        name: The server's, which differs and is not to be seen.
        events: To be filled.
    """

    def __init__(self, territory: Territory, name: str, events: list[Event]) -> None:
        self._territory = territory
        self._name = name
        self._events = events
        self._numbers: dict[FrameType, int] = {}
        self._next = itertools.count(1)

    @contextmanager
    def set(self) -> Iterator[None]:
        """Record what is called from here."""
        before = sys.gettrace()
        sys.settrace(self._called)
        try:
            yield
        finally:
            sys.settrace(before)

    def _called(self, frame: FrameType, event: str, _: Any) -> Any:
        if not self._territory.has(frame) or len(self._events) > _MOST_EVENTS:
            return None
        self._numbers[frame] = next(self._next)
        self._record(frame, event, frame.f_locals)
        return self._went_on

    def _went_on(self, frame: FrameType, event: str, given: Any) -> Any:
        if event == "line":
            self._record(frame, event, frame.f_locals)
        elif event == "return":
            self._record(frame, event, given)
            del self._numbers[frame]
        else:
            self._record(frame, event, result_text(given[1]))
        return self._went_on

    def _record(self, frame: FrameType, kind: str, value: Any) -> None:
        caller, above = 0, frame.f_back
        while above is not None and not caller:
            caller, above = self._numbers.get(above, 0), above.f_back
        text = fingerprint(value).replace(self._name, "")
        code = frame.f_code
        self._events.append(
            Event(
                self._numbers[frame],
                caller,
                kind,
                code.co_filename,
                frame.f_lineno,
                code.co_qualname,
                blake2b(text.encode(errors="replace"), digest_size=8).digest(),
            )
        )


# --- another process -----------------------------------------------------------

_kept: list[object] = []


def _disturb(number: int) -> None:
    """Take memory, so that addresses are not those of the other copy."""
    if _is_child:
        _kept.extend(object() for _ in range(7 * number % 101))


_is_child = False


def is_portable(make: Callable[[], StateMachine]) -> bool:
    """Say whether another process can call *make*: it stands in a module."""
    try:
        pickle.dumps(make)
    except Exception:  # noqa: BLE001 - whatever cannot be pickled says so in its own way
        return False
    return True


def run_elsewhere(job: Job, seed: int = 4711) -> Report:
    """
    Do what :func:`run` does in a process that has as little as may be in common.

    Args:
        job: What to do.
        seed: Of its hashes.

    Raises:
        RuntimeError: That process failed; the message is what it said.
    """
    inner = getattr(job.make, "func", job.make)  # of a functools.partial
    module = sys.modules[getattr(inner, "__module__", None) or type(inner).__module__]
    place = (module.__name__, getattr(module, "__file__", None))
    request = pickle.dumps((sys.path, place, pickle.dumps(job)))
    done = subprocess.run(
        [sys.executable, "-m", "consensus.testing.determinism_run"],
        input=request,
        capture_output=True,
        env=_environment(seed),
        check=False,
    )
    if done.returncode:
        message = "the copy in another process failed:\n" + done.stderr.decode(
            errors="replace"
        )
        raise RuntimeError(message)
    report = pickle.loads(done.stdout)  # noqa: S301 - our own process wrote it
    assert isinstance(report, Report)
    return report


def _environment(seed: int) -> dict[str, str]:
    """Return an environment that differs in all that may differ."""
    environment = dict(os.environ)
    for name in (
        "HOSTNAME",
        "HOME",
        "USER",
        "LOGNAME",
        "LANGUAGE",
        "COVERAGE_PROCESS_START",
    ):
        environment.pop(name, None)
    own = environment.get("PYTHONHASHSEED")
    environment.update(
        PYTHONHASHSEED=str(seed + 1 if own == str(seed) else seed),
        PYTHONPATH=os.pathsep.join(path for path in sys.path if path),
        PYTHONUTF8="1",
        TZ="XYZ-9:30",
        LC_ALL="tr_TR.UTF-8",
    )
    return environment


def _shift_clocks() -> None:
    """Let clocks be off that can be, so that it shows who looks at them."""
    year = 400 * 86_400.0
    for name in ("gmtime", "localtime", "ctime"):
        setattr(time, name, _with_default(getattr(time, name), 0, year))
    setattr(time, "strftime", _strftime_with_default(time.strftime, year))  # noqa: B010 - mypy knows it as a function
    for name, step in (
        ("perf_counter", 100.0),
        ("process_time", 100.0),
        ("thread_time", 100.0),
        ("perf_counter_ns", 10**11),
        ("process_time_ns", 10**11),
        ("thread_time_ns", 10**11),
    ):
        setattr(time, name, _jumping(getattr(time, name), step))
    for name, ahead in (("monotonic", 1e7), ("monotonic_ns", 10**16)):
        setattr(time, name, _ahead(getattr(time, name), ahead))
    real = id
    builtins.id = lambda obj: real(obj) * 0x9E3779B97F4A7C15 % (1 << 64)


def _with_default(function: Any, position: int, ahead: float) -> Any:
    real = time.time

    def shifted(*args: Any) -> Any:
        given = args[position] if len(args) > position else None
        return function(real() + ahead if given is None else given)

    return shifted


def _strftime_with_default(function: Any, ahead: float) -> Any:
    real, local = time.time, time.localtime

    def shifted(shape: str, *args: Any) -> str:
        made: str = function(shape, *(args or (local(real() + ahead),)))
        return made

    return shifted


def _jumping(function: Any, step: float) -> Any:
    jumps = itertools.count(1)
    return lambda: function() + step * next(jumps)


def _ahead(function: Any, by: float) -> Any:
    return lambda: function() + by


def _load(name: str, file: str | None) -> None:
    """Import the module that the other process has under *name*."""
    if file is None:
        return
    if name == "__main__":
        # As multiprocessing does: its last lines must not run again.
        module = _load_file("__mp_main__", file)
        sys.modules["__main__"] = module
        return
    try:
        found = importlib.import_module(name)
    except ImportError:
        found = None
    is_it = found is not None and getattr(found, "__file__", None) == file
    if not is_it:
        _load_file(name, file)


def _load_file(name: str, file: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _main() -> None:
    global _is_child  # noqa: PLW0603 - it is so from here to the end
    _is_child = True
    request = sys.stdin.buffer.read()
    answer = os.dup(1)
    os.dup2(2, 1)  # so that what the machine prints is no answer
    path, place, data = pickle.loads(request)  # noqa: S301 - our own process wrote it
    sys.path[:] = path
    _shift_clocks()
    _load(*place)
    job = pickle.loads(data)  # noqa: S301 - likewise
    with os.fdopen(answer, "wb") as stream:
        stream.write(pickle.dumps(run(job)))


if __name__ == "__main__":
    # Under its own name, so that both processes mean the same classes.
    importlib.import_module("consensus.testing.determinism_run")._main()  # noqa: SLF001 - this very module
