"""The key-value store's state machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from consensus.errors import InvalidCommandError
from consensus.interfaces import StateMachine, Tick
from contrib.kvstore import answers, commands
from contrib.kvstore.changes import CHANGES, next_end, pass_time
from contrib.kvstore.commands import Command, DeleteMany, Put, Query, Set, Txn
from contrib.kvstore.digests import DigestedStore
from contrib.kvstore.lookups import LOOKUPS
from contrib.kvstore.memory import MemoryStore
from contrib.kvstore.resp import options as resp_options
from contrib.kvstore.resp.options import RespOptions
from contrib.kvstore.resp.port import Port
from contrib.kvstore.state import StoreView, fill
from contrib.kvstore.touches import touches
from contrib.kvstore.transactions import apply_txn

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from twisted.application.service import Service

    from consensus.core.values import Address, LogIndex, ServerId
    from consensus.errors import Finding
    from consensus.interfaces import HomeServer, Snapshot
    from contrib.kvstore.store import Store

_MESSAGES = (*get_args(Command), *get_args(Query))

_LONGEST_HISTORY = 1_000_000

#: Keys that a rehearsal writes, and for how long they last.
_REHEARSED = 1000
_REHEARSAL_MS = 600_000


@dataclass(frozen=True, slots=True)
class KVStoreOptions(RespOptions):
    """
    What the YAML file may set under ``state_machine.options``.

    Args:
        digest: Keep a digest of the state, so that a server whose state is
            not the leader's finds out and stops.  Each write then takes 3 to 5
            µs more on every server, beside some 10 µs.
        history: How many events are kept for those who watch, and an eighth
            more; 0 for none, and nobody can watch.
    """

    digest: bool = False
    history: int = 10_000

    def __post_init__(self) -> None:
        """Refuse what is out of range."""
        check_history(self.history)


def check_history(history: int) -> None:
    """
    Refuse what is no number of events to keep.

    Raises:
        ValueError: It is below 0, or too much for memory.
    """
    if not 0 <= history <= _LONGEST_HISTORY:
        message = f"history is 0 to {_LONGEST_HISTORY}, not {history}"
        raise ValueError(message)


def key_text(key: bytes) -> str:
    """Return *key* for people: its text, or, if it is none, how Python writes it."""
    try:
        text = key.decode()
    except UnicodeDecodeError:
        return repr(key)
    return text if text.isprintable() else repr(key)


class KVMachine(StateMachine):
    """
    What the commands mean, wherever the keys are.

    Commands and queries stand in :mod:`contrib.kvstore.commands`, answers in
    :mod:`contrib.kvstore.answers`.
    """

    timed = True

    def handle_write(self, command: Any, state: Any) -> tuple[Any, Any]:
        """
        Apply *command*.

        Raises:
            InvalidCommandError: It is a query.
        """
        kind = type(command)
        if kind is Set:
            state.set(command.key, command.value)
            return None, state
        change = CHANGES.get(kind)
        if change is not None:
            return change(command, state), state
        if kind is Tick:
            pass_time(command.time, state)
            return None, state
        if kind is Txn:
            return apply_txn(command, state), state
        message = f"{kind.__name__} changes nothing: read it, do not write it"
        raise InvalidCommandError(message)

    def handle_read(self, query: Any, state: Any) -> tuple[Any, Any]:
        """
        Answer *query*.

        Raises:
            InvalidCommandError: It is a command.
        """
        lookup = LOOKUPS.get(type(query))
        if lookup is not None:
            return lookup(query, state), state
        message = f"{type(query).__name__} changes the state: write it"
        raise InvalidCommandError(message)

    def next_time(self, state: Store) -> int | None:
        """Return when a key or a lease ends next."""
        return next_end(state)

    def encode(self, value: Any) -> bytes:
        """Return a command, a query or a result as bytes; see the base."""
        if isinstance(value, _MESSAGES):
            return commands.encode(value)
        try:
            return answers.encode(value)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            message = f"{value!r:.100} is no command of the key-value store"
            raise InvalidCommandError(message) from error

    def show(self, state: Store) -> Iterable[tuple[str, str]]:
        """Yield the keys with their values, and when they end."""
        for key, item in state.scan(b"", None):
            text = repr(item.value)
            if item.deadline is not None:
                text += f", ends at {item.deadline} ms"
            if item.lease is not None:
                text += f", of lease {item.lease}"
            yield key_text(key), text

    #: Return which keys a command or a query is about; see the base.
    touches = staticmethod(touches)

    def rehearsal(self, run: str, number: int, size: int) -> Put:
        """Return a write of one of a few keys, which end in time; see the base."""
        key = _rehearsed(run, number % _REHEARSED)
        return Put(key, bytes(size), ttl=_REHEARSAL_MS)

    def after_rehearsal(self, run: str, count: int) -> Iterable[DeleteMany]:
        """Yield what removes those keys at once; see the base."""
        keys = [_rehearsed(run, number) for number in range(min(count, _REHEARSED))]
        yield DeleteMany(keys)

    def companion(self, home: HomeServer) -> Service | None:
        """Return the port for Redis' clients, if the options ask for one."""
        address = self.options.resp_address(home.name)
        return Port(home, self.options, address) if address else None

    @classmethod
    def check(
        cls,
        options: Any,
        members: Mapping[ServerId, Address],
        serve: Collection[ServerId],
    ) -> Iterable[Finding]:
        """Yield what speaks against the port for Redis' clients; see the base."""
        return resp_options.check(options or cls.Options(), members, serve)

    #: Return a command or a query; see the base.
    decode = staticmethod(commands.decode)

    def decode_result(self, data: bytes) -> Any:
        """Return a result; see the base."""
        try:
            return answers.decode(data)
        # msgspec's own errors are ValueErrors, and so is that of bad UTF-8.
        except (ValueError, RecursionError) as error:
            message = f"not an answer of the key-value store: {error}"
            raise InvalidCommandError(message) from error


def _rehearsed(run: str, number: int) -> bytes:
    return f"raft-bench/{run}/{number}".encode()


class KVStore(KVMachine):
    """A dictionary that is the same on every server, in memory."""

    Options: ClassVar[type[Any]] = KVStoreOptions

    def init(self, name: ServerId) -> MemoryStore:  # noqa: ARG002 - the same for all
        """Return an empty store."""
        kind = DigestedStore if self.options.digest else MemoryStore
        return kind(self.options.history)

    def snapshot(self, state: MemoryStore) -> Snapshot:
        """Return a view of *state* as it is now."""
        return StoreView(state)

    def restore(self, chunks: Iterable[bytes], last_applied: LogIndex) -> MemoryStore:  # noqa: ARG002 - the state is in memory
        """
        Return the state that a snapshot has.

        Raises:
            StorageError: It is none, or of another release.
        """
        state = self.init("")
        fill(state, chunks)
        return state

    def digest(self, state: MemoryStore) -> bytes | None:
        """Return the digest that *state* keeps, if the options ask for one."""
        return state.digest if isinstance(state, DigestedStore) else None
