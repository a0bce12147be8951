"""Histories for tests: written down, drawn, and judged by trying everything."""

from __future__ import annotations

import random
from heapq import heapify, heappop, heappush
from itertools import chain, combinations, permutations
from typing import TYPE_CHECKING, Any

from consensus.interfaces import StateMachine
from consensus.testing.history import History, Read, Write

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from consensus.testing.operations import Operation

#: How a call ends that has no answer.
FAILED, UNKNOWN, PENDING = "FAILED", "UNKNOWN", "PENDING"

#: Client, when it called, when that ended, what for, and the answer.
Row = tuple[str, float, float, Write | Read, Any]


class Cells(StateMachine):
    """
    A dict of numbers.

    Commands are ``["set", key, value]``, ``["add", key, value]`` and
    ``["cas", key, expected, value]``; a query is ``["get", key]``.
    """

    def init(self, name: str) -> Any:
        """Begin empty."""
        del name
        return {}

    def handle_write(self, command: Any, state: Any) -> tuple[Any, Any]:
        """Do as *command* says."""
        match command:
            case ["set", key, value]:
                state[key] = value
                return None, state
            case ["add", key, value]:
                state[key] = state.get(key, 0) + value
                return state[key], state
            case ["cas", key, expected, value]:
                if state.get(key) != expected:
                    return False, state
                state[key] = value
                return True, state
        raise ValueError(command[0])

    def handle_read(self, query: Any, state: Any) -> tuple[Any, Any]:
        """Return a number."""
        return state.get(query[1]), state


def key_of(body: Any) -> Any:
    """Return the key that a command or a query of :class:`Cells` is about."""
    return body[1]


def set_(value: Any, key: str = "x") -> Write:
    """Return the write that sets *key*."""
    return Write(["set", key, value])


def add(value: int, key: str = "x") -> Write:
    """Return the write that adds to *key*."""
    return Write(["add", key, value])


def cas(expected: Any, value: Any, key: str = "x") -> Write:
    """Return the write that sets *key* if it is as *expected*."""
    return Write(["cas", key, expected, value])


def get(key: str = "x", **how: Any) -> Read:
    """Return the read of *key*."""
    return Read(["get", key], **how)


def recorded(*rows: Row, machine: StateMachine | type[StateMachine] = Cells) -> History:
    """Return the history that *rows* describe; all of its moments differ."""
    moments: list[tuple[float, bool, int]] = []
    for number, (_, began, ended, _, answer) in enumerate(rows):
        moments.append((began, False, number))
        if answer != PENDING:
            moments.append((ended, True, number))
    moments.sort()
    now = [0.0]
    history = History(machine, lambda: now[0])
    operations: dict[int, Operation] = {}
    for at, is_end, number in moments:
        now[0] = float(at)
        client, _, _, call, answer = rows[number]
        if is_end:
            end(operations[number], answer)
        else:
            operations[number] = history.invoke(client, call)
    return history


def end(operation: Operation, answer: Any) -> None:
    """Let *operation* end with *answer*, or as it says."""
    if answer == FAILED:
        operation.failed()
    elif answer == UNKNOWN:
        operation.unknown()
    else:
        operation.returned(answer)


def applied(machine: StateMachine, call: Write | Read, state: Any) -> tuple[Any, Any]:
    """Return the answer to *call* and the state after it."""
    if isinstance(call, Write):
        return machine.handle_write(call.command, state)
    return machine.handle_read(call.query, state)


def atomic_history(
    count: int, *, clients: int, keys: int, unknown: float = 0.0, seed: int = 1
) -> History:
    """
    Return the history of one machine that answers *clients* at once.

    Args:
        count: How many calls they make.
        clients: Each makes one at a time.
        keys: How many the calls are about; half of them change one.
        unknown: How many of the calls are lost, of 1; half of these before
            they take effect.
        seed: For the dice.
    """
    dice = random.Random(seed)  # noqa: S311 - reproducible, not secret
    now = [0.0]
    machine = Cells()
    state = machine.init("one")
    history = History(machine, lambda: now[0])
    due: list[tuple[float, int, str, Any, Any]] = [
        (dice.random() / 100, client, "call", None, None) for client in range(clients)
    ]
    heapify(due)
    while due:
        now[0], client, what, operation, answer = heappop(due)
        pause = 0.01
        if what == "call":
            if len(history) == count:
                continue
            call = _drawn(dice, f"k{dice.randrange(keys)}", state, len(history))
            what, operation = "apply", history.invoke(f"c{client}", call)
        elif what == "apply":
            is_lost = dice.random() < unknown
            what, answer = ("lost" if is_lost else "answer"), None
            if not is_lost or dice.random() < 0.5:
                answer, state = applied(machine, operation.call, state)
        else:
            end(operation, UNKNOWN if what == "lost" else answer)
            what, operation, pause = "call", None, 0.001
        at = now[0] + dice.expovariate(1 / pause)
        heappush(due, (at, client, what, operation, answer))
    return history


def _drawn(dice: random.Random, key: str, state: Any, value: int) -> Write | Read:
    kind = dice.random()
    if kind < 0.4:
        return set_(value, key)
    return cas(state.get(key), value, key) if kind < 0.5 else get(key)


def has_order(history: History, machine: StateMachine) -> bool:
    """Say whether *history* is linearizable, by trying all orders there are."""
    known = [each for each in history.operations if each.outcome == "returned"]
    unknown = [
        each
        for each in history.operations
        if each.outcome in {"unknown", "pending"} and each.is_write
    ]
    return any(
        _is_in_time(order) and _is_answered(order, machine)
        for chosen in _subsets(unknown)
        for order in permutations([*known, *chosen])
    )


def _subsets(operations: Sequence[Operation]) -> Iterator[tuple[Operation, ...]]:
    sizes = range(len(operations) + 1)
    return chain.from_iterable(combinations(operations, size) for size in sizes)


def _is_in_time(order: Sequence[Operation]) -> bool:
    for place, later in enumerate(order):
        if later.outcome != "returned" or later.finish is None:
            continue
        if any(later.finish < earlier.start for earlier in order[:place]):
            return False
    return True


def _is_answered(order: Iterable[Operation], machine: StateMachine) -> bool:
    state = machine.init("all")
    for operation in order:
        result: Any = None
        found: tuple[str, str] | None = None
        try:
            result, state = applied(machine, operation.call, state)
        except ValueError as error:
            found = ("ValueError", str(error))
        answer = operation.answer
        if answer is None:
            continue
        if answer.error != found:
            return False
        if found is None and answer.data != machine.encode(result):
            return False
    return True
