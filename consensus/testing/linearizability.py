"""
Judges whether a history is linearizable, by the machine that was to run it.

It is, if every call can be given a moment between its invocation and its
return, such that the machine alone, called at those moments, answers the same.
The judge finds such an order, or that there is none; when it may take no
longer, it says that it does not know.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consensus.testing import timeline
from consensus.testing.contradiction import Contradiction, Finder
from consensus.testing.model import Model, canonical
from consensus.testing.search import Budget, Search, UndecidedError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence

    from consensus.interfaces import StateMachine
    from consensus.testing.history import History
    from consensus.testing.operations import Operation

#: For how long a judge tries, in seconds.
TIME_LIMIT = 60.0

#: How many states it looks at; they may take half a gigabyte.
STEP_LIMIT = 2_000_000

#: How much longer it may take to make a contradiction small.
_SHRINK_TIME = 20.0

__all__ = ["Contradiction", "Outcome", "Verdict", "assert_linearizable", "judge"]


class Outcome(Enum):
    """What a judge comes to."""

    LINEARIZABLE = "linearizable"
    NOT_LINEARIZABLE = "not linearizable"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Verdict:
    """
    What a judge says of a history.

    Args:
        outcome: What it comes to.
        calls: How many calls the history has.
        partitions: Into how many parts it was cut.
        steps: How many states were looked at.
        contradiction: If it is not linearizable: the calls that show it.
        reason: If it is undecided: why.
    """

    outcome: Outcome
    calls: int
    partitions: int
    steps: int
    contradiction: Contradiction | None = None
    reason: str = ""

    @property
    def is_linearizable(self) -> bool:
        """Say whether it certainly is."""
        return self.outcome is Outcome.LINEARIZABLE

    def text(self) -> str:
        """Return it for people to read; several lines if it is not linearizable."""
        what = f"{self.calls} calls are {self.outcome.value}"
        if self.contradiction is not None:
            return f"{what}\n{timeline.text(self.contradiction)}"
        return f"{what}: {self.reason}" if self.reason else what


def judge(
    history: History,
    machine: StateMachine | type,
    *,
    partition: Callable[[Any], Hashable | None] | None = None,
    fingerprint: Callable[[Any], Hashable] = canonical,
    time_limit: float = TIME_LIMIT,
    step_limit: int = STEP_LIMIT,
    seconds: Callable[[], float] = time.monotonic,
) -> Verdict:
    """
    Say whether *history* is linearizable.

    Args:
        history: What was recorded.
        machine: What the calls should have been answered by: its ``init``,
            ``handle_write`` and ``handle_read`` are called on copies.
        partition: Returns, for a command or query, the part of the state that
            it is about, such as its key; ``None`` if it may be about more
            than one, and then nothing is cut.  Commands of one part must
            neither change nor see another.
        fingerprint: See :class:`.Model`.
        time_limit: After so many seconds, it is undecided.
        step_limit: And after so many states.
        seconds: Returns the time.

    Raises:
        TypeError: The machine's state, or an answer of it, cannot be copied.
    """
    parts = _parts(history.operations, partition)
    budget = Budget(seconds, seconds() + time_limit, step_limit)
    reason = ""
    # Where little happened, it is soon clear.
    for name, operations in sorted(parts.items(), key=lambda item: len(item[1])):
        finder = Finder(Model(machine, fingerprint), operations, history.operations)
        try:
            if _has_order(finder, budget):
                continue
        except UndecidedError as error:
            reason = reason or str(error)
            continue
        shrinking = Budget(seconds, seconds() + _SHRINK_TIME, step_limit)
        found = finder.contradiction(name, shrinking)
        return Verdict(
            Outcome.NOT_LINEARIZABLE, len(history), len(parts), budget.spent, found
        )
    outcome = Outcome.UNDECIDED if reason else Outcome.LINEARIZABLE
    return Verdict(outcome, len(history), len(parts), budget.spent, reason=reason)


def assert_linearizable(
    history: History,
    machine: StateMachine | type,
    *,
    partition: Callable[[Any], Hashable | None] | None = None,
    report: Path | str | None = None,
    **limits: Any,
) -> Verdict:
    """
    Do as :func:`judge`, and fail if *history* is not certainly linearizable.

    Args:
        history: What was recorded.
        machine: What the calls should have been answered by.
        partition: See :func:`judge`.
        report: The file for a timeline in HTML, if it is not; by default a
            new one where temporary files are.
        **limits: See :func:`judge`.

    Raises:
        AssertionError: It is not, or it is undecided.  The message has the
            calls that contradict each other, and the timeline's path.
    """
    verdict = judge(history, machine, partition=partition, **limits)
    if verdict.contradiction is not None:
        path = _report_path(report)
        path.write_text(timeline.html(verdict.contradiction), encoding="utf-8")
        message = f"{verdict.text()}\ntimeline: {path}"
        raise AssertionError(message)
    if not verdict.is_linearizable:
        raise AssertionError(verdict.text())
    return verdict


def _report_path(report: Path | str | None) -> Path:
    if report is not None:
        return Path(report)
    directory = tempfile.mkdtemp(prefix="raft-history-")
    return Path(directory, "timeline.html")


def _has_order(finder: Finder, budget: Budget) -> bool:
    search = Search(finder.model, *finder.steps(), budget)
    found = search.run()
    finder.reached = search.reached
    return found is not None


def _parts(
    operations: Iterable[Operation],
    partition: Callable[[Any], Hashable | None] | None,
) -> dict[Hashable, Sequence[Operation]]:
    """Return the calls that say something, by what they are about."""
    said = [operation for operation in operations if _says_something(operation)]
    if partition is None:
        return {None: said}
    parts: dict[Hashable, list[Operation]] = defaultdict(list)
    for operation in said:
        parts[partition(operation.call.body)].append(operation)
    return {None: said} if None in parts else dict(parts)


def _says_something(operation: Operation) -> bool:
    if operation.outcome == "returned":
        return True
    return operation.is_write and operation.outcome != "failed"
