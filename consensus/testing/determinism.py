"""
The determinism guard: a state machine has to do the same on every server.

:func:`check_deterministic` applies commands to several copies of a machine,
under conditions that differ as those of servers do: clock, dice, environment,
hash seed, addresses, timezone, locale.  What a machine must not call is
trapped; what it does otherwise is found by what differs.  Either way the
error names the line.
"""

from __future__ import annotations

import linecache
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from consensus.applying.agreements import time_of
from consensus.core.values import EntryKind
from consensus.interfaces import Tick
from consensus.sessions import Due, Sessions
from consensus.testing.determinism_run import (
    NAMES,
    Job,
    Report,
    is_portable,
    made_by,
    run,
    run_elsewhere,
    territory_of,
)
from consensus.testing.determinism_traps import Blame, Traps
from consensus.testing.logged import logged, taken

if TYPE_CHECKING:
    from consensus.core.values import Entry
    from consensus.interfaces import StateMachine
    from consensus.testing.determinism_run import Event
    from consensus.testing.logged import Logged

__all__ = [
    "Blame",
    "NondeterminismError",
    "check_deterministic",
    "check_encoded",
    "commands_in",
]

_SHOWN = 120

_GENERAL = (
    "two servers do not get the same here: sort what comes out of a set, do not"
    " use hash(), id(), the clock, dice or the environment, nor what this process"
    " keeps beside the state"
)
_NAME = "nothing may depend on the server's name: leave it out"

#: Makes a machine: a class, or a function without arguments.
Make = Callable[[], "StateMachine"]


class NondeterminismError(AssertionError):
    """
    A state machine does not do the same on every server.

    Args:
        message: What was found.
        blames: The lines to blame, if they are known.
    """

    def __init__(self, message: str, blames: Iterable[Blame] = ()) -> None:
        """Join the message, and each line with its source."""
        self.blames = tuple(blames)
        lines = [message]
        for blame in self.blames:
            lines.append(str(blame))
            source = linecache.getline(blame.file, blame.line).strip()
            if source:
                lines.append(f"    | {source}")
        super().__init__("\n".join(lines))


def check_deterministic(
    make: Make,
    commands: Iterable[Any],
    *,
    forgiven: Iterable[str] = (),
    elsewhere: bool = True,
) -> None:
    """
    See that *commands* do the same to every copy of a machine.

    Args:
        make: The machine's class, or a function that makes one.  It has to
            stand in a module, outside of any function, for a copy in another
            process; a machine that does not is compared in this one only,
            where the order of sets does not differ.
        commands: What to apply, in order, as a client writes them.
        forgiven: Functions, classes and modules of yours that may look at the
            clock and the like, since nothing of it gets into the state or a
            result: ``"shop.metrics"``, ``"shop.machine.Shop._measure"``.
        elsewhere: Whether to compare with a copy in another process, which
            takes some tenths of a second.

    Raises:
        NondeterminismError: They do not; it names the line.
    """
    make = made_by(make)
    machine = make()
    check_encoded(
        make,
        [logged(machine, command) for command in commands],
        forgiven=forgiven,
        elsewhere=elsewhere,
    )


def check_encoded(
    make: Make,
    commands: Iterable[Logged],
    *,
    forgiven: Iterable[str] = (),
    elsewhere: bool = True,
) -> None:
    """Do what :func:`check_deterministic` does with commands as the log has them."""
    machine = make()
    job = Job(make, tuple(commands), NAMES[0], tuple(forgiven))
    traps = Traps(territory_of(machine, job.forgiven))
    first = run(job, traps.set)
    if traps.guilty:
        message = f"{_name_of(machine)} is not deterministic:"
        raise NondeterminismError(message, traps.guilty.values())
    runners: list[Callable[[Job], Report]] = []
    if elsewhere and is_portable(make):
        # The items of a small set may come in the same order by chance.
        runners += [run_elsewhere, partial(run_elsewhere, seed=42)]
    # A second copy here meets what the first has left in the process.
    runners.append(run)
    for runner in runners:
        other = replace(job, name=NAMES[1])
        if _first_difference(first, runner(other)) is not None:
            raise _explain(machine, job, partial(_both, job, other, runner), traps)


def commands_in(entries: Iterable[Entry]) -> Iterator[Logged]:
    """Yield the commands in *entries*, those of sessions once each, and the time."""
    sessions = Sessions()
    for entry in entries:
        if entry.kind == EntryKind.COMMAND:
            yield entry.command
        elif entry.kind == EntryKind.TIME:
            sessions.pass_time(time_of(entry.index, entry.command))
            yield Tick(sessions.time)
        elif entry.kind == EntryKind.SESSION:
            due = sessions.admit(entry.index, entry.command)
            if isinstance(due, Due):
                sessions.record(due, b"")
                yield due.command


def _both(
    job: Job, other: Job, runner: Callable[[Job], Report], **changes: Any
) -> tuple[Report, Report]:
    return run(replace(job, **changes), nullcontext), runner(replace(other, **changes))


def _first_difference(one: Report, other: Report) -> int | None:
    """Return the first step after which two copies differ; 0 is ``init``."""
    for step, pair in enumerate(zip(_steps(one), _steps(other), strict=True)):
        if pair[0] != pair[1]:
            return step
    return None


def _steps(report: Report) -> Iterable[tuple[str, str, str]]:
    return zip(report.results, report.states, report.digests, strict=True)


def _explain(
    machine: StateMachine,
    job: Job,
    both: Callable[..., tuple[Report, Report]],
    traps: Traps,
) -> NondeterminismError:
    """Run two copies again, looking closer and closer."""
    name = _name_of(machine)
    reports = both(is_detailed=True)
    step = _first_difference(*reports)
    if step is None:
        message = f"{name} is not deterministic: two copies differed, and then did not"
        return NondeterminismError(message, traps.suspects.values())
    when = "init()"
    if step:
        command = taken(machine, job.commands[step - 1])
        when = f"command {step}, {_shortened(repr(command))},"
    message = f"{name} is not deterministic: {when} {_difference(*reports, step)}"
    one, other = both(traced=step)
    blame = _parting(one.events, other.events, _advice(reports, step))
    if blame is None:
        return NondeterminismError(f"{message}\n  {_advice(reports, step)}")
    return NondeterminismError(
        message, [traps.suspects.get((blame.file, blame.line), blame)]
    )


def _difference(one: Report, other: Report, step: int) -> str:
    if one.results[step] != other.results[step]:
        what, texts = "gave", (one.results[step], other.results[step])
    elif one.states[step] != other.states[step]:
        what, texts = "left the state", (one.states[step], other.states[step])
    else:
        what, texts = "left the digest", (one.digests[step], other.digests[step])
    first, second = _apart(*texts)
    return f"{what}\n    {first}\n  here, and in another copy\n    {second}"


def _apart(one: str, other: str) -> tuple[str, str]:
    """Return the part of two texts in which they differ first."""
    pairs = enumerate(zip(one, other, strict=False))
    at = next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))
    start = max(0, at - _SHOWN // 3)
    return _shortened(one, start), _shortened(other, start)


def _shortened(text: str, start: int = 0) -> str:
    end = start + _SHOWN
    return "…" * (start > 0) + text[start:end] + "…" * (len(text) > end)


def _advice(reports: tuple[Report, Report], step: int) -> str:
    for name in NAMES:
        if any(name in text for each in reports for text in _texts(each, step)):
            return _NAME
    return _GENERAL


def _texts(report: Report, step: int) -> tuple[str, str]:
    return report.results[step], report.states[step]


def _parting(one: list[Event], other: list[Event], advice: str) -> Blame | None:
    """Return the line after which two copies saw something else."""
    came_from: dict[int, Event] = {}
    for mine, its in zip(one, other, strict=False):
        if mine != its:
            # What differs was done by the line before, in the same function,
            # or by the call; but what is returned, by the line itself.
            event = came_from.get(mine.frame) or came_from.get(mine.caller)
            if mine.kind in {"return", "exception"} or event is None:
                event = mine
            what = "here two copies go different ways"
            return Blame(event.file, event.line, event.function, what, advice)
        came_from[mine.frame] = mine
    return None


def _name_of(machine: StateMachine) -> str:
    return type(machine).__qualname__
