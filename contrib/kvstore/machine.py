"""The key-value store's state machine: a dictionary of bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from consensus.errors import InvalidCommandError
from consensus.interfaces import StateMachine
from contrib.kvstore import commands
from contrib.kvstore.commands import Cas, Delete, Get, Set, Value

if TYPE_CHECKING:
    from consensus.core.values import ServerId

#: What the store holds: keys are bytes, values text or bytes.
State = dict[bytes, Value]

_COMMANDS = (Set, Delete, Cas, Get)

_encode_result = msgspec.msgpack.Encoder().encode


class KVStore(StateMachine):
    """
    A dictionary that is the same on every server.

    Its commands are :class:`~contrib.kvstore.commands.Set`, ``Delete`` and
    ``Cas``, its query is ``Get``.  A result is encoded as MessagePack.
    """

    def init(self, name: ServerId) -> State:  # noqa: ARG002 - the same for all
        """Return an empty store."""
        return {}

    def handle_write(self, command: Any, state: State) -> tuple[Any, State]:
        """
        Apply *command*.

        Raises:
            InvalidCommandError: It is a query.
        """
        kind = type(command)
        if kind is Set:
            state[command.key] = command.value
            return None, state
        if kind is Delete:
            return state.pop(command.key, None) is not None, state
        if kind is Cas:
            return _compare_and_set(command, state), state
        message = f"{kind.__name__} changes nothing: read it, do not write it"
        raise InvalidCommandError(message)

    def handle_read(self, query: Any, state: State) -> tuple[Value | None, State]:
        """
        Answer *query*.

        Raises:
            InvalidCommandError: It is a command.
        """
        if type(query) is Get:
            return state.get(query.key), state
        message = f"{type(query).__name__} changes the state: write it"
        raise InvalidCommandError(message)

    def encode(self, value: Any) -> bytes:
        """Return a command, a query or a result as bytes; see the base."""
        if isinstance(value, _COMMANDS):
            return commands.encode(value)
        try:
            return _encode_result(value)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            message = f"{value!r:.100} is no command of the key-value store"
            raise InvalidCommandError(message) from error

    def decode(self, data: bytes) -> Any:
        """Return a command or a query; see the base."""
        return commands.decode(data)


def _compare_and_set(command: Cas, state: State) -> bool:
    current = state.get(command.key)
    if not _is_same(current, command.expected):
        return False
    state[command.key] = command.value
    return True


def _is_same(current: Value | None, expected: Value | None) -> bool:
    """Say whether two values have the same bytes, or neither is there."""
    if current is None or expected is None:
        return current is expected
    return commands.as_bytes(current) == commands.as_bytes(expected)
