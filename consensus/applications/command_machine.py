"""
A state machine of typed commands, whose state is in memory and told the time.

What applications of many commands have in common: which function a command or a
query goes to, their bytes, and snapshots made of rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from consensus.errors import InvalidCommandError
from consensus.state_machine import StateMachine, Tick

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from consensus.applications.command_format import CommandFormat
    from consensus.applications.state_rows import RowsFormat
    from consensus.core.values import LogIndex, ServerId
    from consensus.state_machine import Snapshot

_encode_result = msgspec.msgpack.Encoder().encode


class CommandMachine(StateMachine):
    """
    The base of such machines.

    A state has ``pass_time(time)``, which does what is due, and ``next_time()``;
    see :class:`~consensus.interfaces.StateMachine`.  A result is encoded as
    MessagePack.
    """

    timed: ClassVar[bool] = True

    #: What makes the state before the first command.
    state_type: ClassVar[type[Any]]

    #: The bytes of commands and queries.
    format: ClassVar[CommandFormat[Any]]

    #: The rows of a snapshot.
    rows: ClassVar[RowsFormat[Any]]

    #: For each kind of command what applies it to a state, and returns the result.
    writes: ClassVar[Mapping[type, Callable[[Any, Any], Any]]]

    #: For each kind of query what answers it from a state.
    reads: ClassVar[Mapping[type, Callable[[Any, Any], Any]]]

    def init(self, name: ServerId) -> Any:  # noqa: ARG002 - the same for all
        """Return an empty state."""
        return self.state_type()

    def handle_write(self, command: Any, state: Any) -> tuple[Any, Any]:
        """
        Apply *command*.

        Raises:
            InvalidCommandError: It is a query.
            Exception: It is refused; the application says what for.
        """
        handle = self.writes.get(type(command))
        if handle is not None:
            return handle(command, state), state
        if type(command) is Tick:
            state.pass_time(command.time)
            return None, state
        message = f"{type(command).__name__} changes nothing: read it, do not write it"
        raise InvalidCommandError(message)

    def handle_read(self, query: Any, state: Any) -> tuple[Any, Any]:
        """
        Answer *query*.

        Raises:
            InvalidCommandError: It is a command.
            Exception: There is no answer; the application says why.
        """
        handle = self.reads.get(type(query))
        if handle is None:
            message = f"{type(query).__name__} changes the state: write it"
            raise InvalidCommandError(message)
        return handle(query, state), state

    def next_time(self, state: Any) -> int | None:
        """Return when something is due in *state*."""
        due: int | None = state.next_time()
        return due

    def snapshot(self, state: Any) -> Snapshot:
        """Return a view of *state* as it is now."""
        return self.rows.snapshot(state)

    def restore(self, chunks: Iterable[bytes], last_applied: LogIndex) -> Any:  # noqa: ARG002 - the state is in memory
        """
        Return the state that a snapshot has.

        Raises:
            StorageError: It is none, or of a later release.
        """
        return self.rows.restore(chunks)

    def encode(self, value: Any) -> bytes:
        """Return a command, a query or a result as bytes; see the base."""
        kind = type(value)
        if kind in self.writes or kind in self.reads or kind is Tick:
            return self.format.encode(value)
        try:
            return _encode_result(value)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            message = f"{value!r:.100} is no command of {self.format.what}"
            raise InvalidCommandError(message) from error

    def decode(self, data: bytes) -> Any:
        """Return a command or a query; see the base."""
        return self.format.decode(data)

    def decode_result(self, data: bytes) -> Any:
        """Return a result, of lists where there are Structs; see the base."""
        return super().decode(data)
