"""The counters' state machine: what each command does, and each query is answered."""

from __future__ import annotations

from heapq import nsmallest
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from consensus.applications.command_machine import CommandMachine
from contrib.counter.commands import (
    FORMAT,
    Add,
    Allow,
    Bound,
    Compare,
    Get,
    ListCounters,
    Reserve,
    Reset,
)
from contrib.counter.state import ROWS, State

if TYPE_CHECKING:
    from collections.abc import Callable

    from contrib.counter.state import Allowed


def _add(command: Add, state: State) -> int:
    counter = state.counter(command.name)
    added = replace(counter, value=counter.value + command.amount)
    state.set(added)
    return added.value


def _reset(command: Reset, state: State) -> int:
    counter = state.counter(command.name)
    state.set(replace(counter, value=command.value))
    return counter.value


def _compare(command: Compare, state: State) -> bool:
    counter = state.counter(command.name)
    if counter.value != command.expected:
        return False
    state.set(replace(counter, value=command.value))
    return True


def _bound(command: Bound, state: State) -> None:
    floor, ceiling = command.floor, command.ceiling
    if floor is not None and ceiling is not None and floor > ceiling:
        message = f"there is nothing from {floor} to {ceiling}"
        raise ValueError(message)
    counter = state.counter(command.name)
    state.set(replace(counter, floor=floor, ceiling=ceiling))


def _reserve(command: Reserve, state: State) -> int:
    return state.reserve(command.name, command.count)


def _allow(command: Allow, state: State) -> Allowed:
    return state.allow(command)


def _get(query: Get, state: State) -> int:
    return state.counter(query.name).value


def _list_counters(query: ListCounters, state: State) -> list[str]:
    return nsmallest(
        query.limit, (each for each in state.counters if each > query.after)
    )


_WRITES: dict[type, Callable[[Any, State], Any]] = {
    Add: _add,
    Reset: _reset,
    Compare: _compare,
    Bound: _bound,
    Reserve: _reserve,
    Allow: _allow,
}

_READS: dict[type, Callable[[Any, State], Any]] = {
    Get: _get,
    ListCounters: _list_counters,
}


class Counters(CommandMachine):
    """
    Counters, sequences of ids and rates that are the same on every server.

    Its commands and queries are those of :mod:`contrib.counter.commands`.  A
    result is encoded as MessagePack.
    """

    state_type = State
    format = FORMAT
    rows = ROWS
    writes = _WRITES
    reads = _READS
