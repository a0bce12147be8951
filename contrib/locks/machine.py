"""The locks' state machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from consensus.applications.command_machine import CommandMachine
from consensus.applications.lease_commands import LEASE_WRITES
from contrib.locks.commands import FORMAT, Acquire, Inspect, Release, Wait, Withdraw
from contrib.locks.rows import ROWS
from contrib.locks.state import State

if TYPE_CHECKING:
    from collections.abc import Callable


_WRITES: dict[type, Callable[[Any, State], Any]] = {
    **LEASE_WRITES,
    Acquire: lambda asked, state: state.acquire(asked),
    Withdraw: lambda asked, state: state.withdraw(asked.lease, asked.ticket),
    Release: lambda asked, state: state.release(asked.name, asked.token),
}

_READS: dict[type, Callable[[Any, State], Any]] = {
    Wait: lambda asked, state: state.token_of(asked.lease, asked.ticket),
    Inspect: lambda asked, state: state.status(asked.name),
}


class LocksMachine(CommandMachine):
    """
    Mutexes, read-write locks and semaphores, held by leases in log time.

    Its commands and queries are those of :mod:`contrib.locks.commands`; a
    result is encoded as MessagePack.  What a command is refused for is a
    :class:`~contrib.locks.state.LocksError`.
    """

    state_type = State
    format = FORMAT
    rows = ROWS
    writes = _WRITES
    reads = _READS
