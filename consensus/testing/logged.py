"""Commands as the log has them: encoded, or the framework's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from consensus.interfaces import Tick

if TYPE_CHECKING:
    from consensus.interfaces import StateMachine

#: The bytes of a command, or what time it is.
Logged = bytes | Tick


def logged(machine: StateMachine, command: Any) -> Logged:
    """
    Return *command* as it enters the log.

    Raises:
        InvalidCommandError: *machine* cannot encode it.
    """
    return command if isinstance(command, Tick) else machine.encode(command)


def taken(machine: StateMachine, command: Logged) -> Any:
    """
    Return what *machine* gets when *command* comes out of the log.

    Raises:
        InvalidCommandError: It is none.
    """
    return command if isinstance(command, Tick) else machine.decode(command)
