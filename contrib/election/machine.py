"""The state machine of elections and of service discovery."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from consensus.applications.command_machine import CommandMachine
from consensus.applications.lease_commands import LEASE_WRITES
from contrib.election.commands import (
    FORMAT,
    Campaign,
    Discover,
    Elected,
    Observe,
    Register,
)
from contrib.election.rows import ROWS
from contrib.election.state import State

if TYPE_CHECKING:
    from collections.abc import Callable


_WRITES: dict[type, Callable[[Any, State], Any]] = {
    **LEASE_WRITES,
    Campaign: lambda asked, state: state.campaign(
        asked.lease, asked.name, asked.candidate
    ),
    Register: lambda asked, state: state.register(asked),
}

_READS: dict[type, Callable[[Any, State], Any]] = {
    Elected: lambda asked, state: state.term_of(asked.lease, asked.name),
    Observe: lambda asked, state: state.leader(asked.name, asked.known),
    Discover: lambda asked, state: state.instances(asked.service, asked.after),
}


class ElectionMachine(CommandMachine):
    """
    Leaders of names and instances of services, for as long as their leases live.

    Its commands and queries are those of :mod:`contrib.election.commands`; a
    result is encoded as MessagePack.  What a command is refused for is an
    :class:`~contrib.election.state.ElectionError`.
    """

    state_type = State
    format = FORMAT
    rows = ROWS
    writes = _WRITES
    reads = _READS
