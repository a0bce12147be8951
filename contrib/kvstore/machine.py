"""The key-value store's state machine: a dictionary of bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from consensus.errors import InvalidCommandError
from consensus.interfaces import StateMachine
from contrib.kvstore import commands
from contrib.kvstore.commands import Cas, Delete, Get, Set, Value
from contrib.kvstore.state import DigestedState, State, StateSnapshot, fill

if TYPE_CHECKING:
    from collections.abc import Iterable

    from consensus.core.values import LogIndex, ServerId
    from consensus.interfaces import Snapshot


_encode_result = msgspec.msgpack.Encoder().encode


@dataclass(frozen=True, slots=True)
class KVStoreOptions:
    """
    What the YAML file may set under ``state_machine.options``.

    Args:
        digest: Keep a digest of the state, so that a server whose state is
            not the leader's finds out and stops.  Each write then takes 1.5
            to 2.5 µs more on every server, beside some 10 µs.
    """

    digest: bool = False


class KVStore(StateMachine):
    """
    A dictionary that is the same on every server.

    Its commands are :class:`~contrib.kvstore.commands.Set`, ``Delete`` and
    ``Cas``, its query is ``Get``.  A result is encoded as MessagePack.
    """

    Options: ClassVar[type[Any]] = KVStoreOptions

    def init(self, name: ServerId) -> State:  # noqa: ARG002 - the same for all
        """Return an empty store."""
        return DigestedState() if self.options.digest else {}

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
            if command.key not in state:
                return False, state
            del state[command.key]
            return True, state
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

    def snapshot(self, state: State) -> Snapshot:
        """Return a view of *state* as it is now."""
        return StateSnapshot(state)

    def restore(self, chunks: Iterable[bytes], last_applied: LogIndex) -> State:  # noqa: ARG002 - the state is in memory
        """
        Return the state that a snapshot has.

        Raises:
            StorageError: It is none, or of a later release.
        """
        state = self.init("")
        fill(state, chunks)
        return state

    def digest(self, state: State) -> bytes | None:
        """Return the digest that *state* keeps, if the options ask for one."""
        return state.digest if isinstance(state, DigestedState) else None

    def encode(self, value: Any) -> bytes:
        """Return a command, a query or a result as bytes; see the base."""
        # Commands and queries are, and results are not.
        if isinstance(value, msgspec.Struct):
            return commands.encode(value)
        try:
            return _encode_result(value)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            message = f"{value!r:.100} is no command of the key-value store"
            raise InvalidCommandError(message) from error

    #: Return a command or a query; see the base.
    decode = staticmethod(commands.decode)

    def decode_result(self, data: bytes) -> Any:
        """Return a result; see the base."""
        return super().decode(data)


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
