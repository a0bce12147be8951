"""
How long the judge takes: ``python -m tests.bench.linearizability``.

Each history has 10,000 calls by 16 clients, half of them writes.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from consensus.testing.linearizability import judge
from tests.support.histories import Cells, atomic_history, key_of

if TYPE_CHECKING:
    from consensus.testing.history import History, Operation

CALLS, CLIENTS = 10_000, 16


def spoil(history: History, place: int) -> History:
    """Let a read of *history*, not before *place*, answer what was long ago."""
    read = next(each for each in history.operations[place:] if _is_read(each))
    key = key_of(read.call.body)
    read.answer = next(
        each.answer
        for each in history.operations[place // 2 :]
        if _is_read(each) and key_of(each.call.body) == key
    )
    return history


def _is_read(operation: Operation) -> bool:
    return operation.outcome == "returned" and not operation.is_write


def measure(name: str, history: History) -> None:
    """Print how long the verdict on *history* takes."""
    begin, cpu = time.perf_counter(), time.process_time()
    verdict = judge(history, Cells, partition=key_of)
    spent = time.perf_counter() - begin, time.process_time() - cpu
    found = verdict.contradiction
    calls = "" if found is None else f", {len(found.operations)} calls shown"
    sys.stdout.write(
        f"{name}: {verdict.outcome.value} in {spent[0]:.1f} s,"
        f" {spent[1]:.1f} s of CPU, {verdict.steps} states{calls}\n"
    )


def main() -> None:
    """Print a line for each history."""
    for keys, unknown in ((10, 0.0), (10, 0.02), (10, 0.1), (10, 0.3), (3, 0.02)):
        name = f"{keys} keys, {unknown:.0%} unknown"
        measure(
            name,
            atomic_history(CALLS, clients=CLIENTS, keys=keys, unknown=unknown),
        )
    for unknown in (0.0, 0.02, 0.1):
        history = atomic_history(CALLS, clients=CLIENTS, keys=10, unknown=unknown)
        name = f"10 keys, {unknown:.0%} unknown, a wrong read"
        measure(name, spoil(history, CALLS * 9 // 10))


if __name__ == "__main__":
    main()
