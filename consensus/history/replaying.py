"""
A process that replays a log on one version of a state machine, and tells.

:mod:`consensus.history.upgrade` starts two of them.  Each has modules of its
own, so that both may have the same names.  It is told what to do in JSON, as
its only argument, and writes a JSON object a line.
"""

from __future__ import annotations

import sys
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from twisted.python.failure import Failure

from consensus import registry
from consensus.describe import cut
from consensus.errors import RaftError
from consensus.fingerprint import fingerprint, state_text
from consensus.history.rows import rows_of
from consensus.history.source import opened
from consensus.history.states import begun, earliest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from consensus.core.values import Entry
    from consensus.history.source import History
    from consensus.history.states import Replay


class Task(msgspec.Struct, frozen=True):
    """
    What to do.

    Args:
        directory: The data directory.
        machine: A registered name, or a dotted path.
        site: A directory that its modules are looked for in first; or empty.
        first: Tell of the entries from here on.
        last: And up to here; 0 for the log's end.
        every: Tell of the state after so many entries, and at the end.
        rows: Tell, at the end, what the state is.
    """

    directory: str
    machine: str
    site: str = ""
    first: int = 0
    last: int = 0
    every: int = 1000
    rows: bool = False


class Step(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    What became of an entry, or is the state after it.

    Args:
        index: The entry.
        result: What it came to, in short.
        result_sum: A checksum of all of that; empty for a state.
        state_sum: A checksum of the state; empty for a result.
        rows: The state.
        error: Why it goes no further.
        missing: Why there is no such state machine at all.
    """

    index: int
    result: str = ""
    result_sum: str = ""
    state_sum: str = ""
    rows: dict[str, str] | None = None
    error: str = ""
    missing: str = ""


def _sum(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def result_text(result: Any) -> str:
    """Return what an entry came to as text."""
    return str(result.value) if isinstance(result, Failure) else fingerprint(result)


def steps(task: Task) -> Iterator[Step]:
    """Do *task*; yield what is to be told, in order."""
    if task.site:
        sys.path.insert(0, task.site)
    cls = registry.resolve("state_machine", task.machine)
    with opened(Path(task.directory)) as history:
        begin = max(earliest(history), 0)
        with begun(history, cls, begin) as replay:
            yield from _replayed(task, history, replay)


def _replayed(task: Task, history: History, replay: Replay) -> Iterator[Step]:
    last = task.last or history.last_index
    replay.go_to(max(task.first - 1, replay.index))
    told: list[Step] = []

    def applied(entries: Sequence[Entry], results: Sequence[Any]) -> None:
        for entry, result in zip(entries, results, strict=True):
            text = result_text(result)
            told.append(Step(entry.index, cut(text), _sum(text)))

    while replay.index < last:
        try:
            replay.go_to(min(replay.index + task.every, last), applied)
        finally:
            yield from told
            told.clear()
        text = state_text(replay.machine, replay.state)
        yield Step(replay.index, state_sum=_sum(text))
    if task.rows:
        yield Step(replay.index, rows=rows_of(replay.machine, replay.state))


def main() -> None:
    """Do what the argument says; the last line may be an error."""
    encode = msgspec.json.encode
    out = sys.stdout.buffer
    index = 0
    try:
        for step in steps(msgspec.json.decode(sys.argv[1], type=Task)):
            index = step.index
            out.write(encode(step) + b"\n")
    except registry.EngineError as error:
        out.write(encode(Step(index, missing=str(error))) + b"\n")
    except RaftError as error:
        out.write(encode(Step(index, error=str(error))) + b"\n")
    out.flush()


if __name__ == "__main__":
    main()
