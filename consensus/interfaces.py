"""
All that an adapter author has to read: Storage, Transport, StateMachine.

Each is an abstract base class.  A new optional ability is a method with a
default, or a flag of the class, never a second interface.  An adapter is made
with its ``Options``, a frozen dataclass that the ``options:`` of the YAML
file fill in, and may look at the world in ``check`` before anything starts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import msgspec

from consensus.errors import InvalidCommandError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from pathlib import Path

    from twisted.internet.defer import Deferred

    from consensus.core.messages import Message
    from consensus.core.values import (
        Address,
        Entry,
        HardState,
        Identity,
        LogIndex,
        ServerId,
        Term,
    )
    from consensus.errors import Finding


@dataclass(frozen=True, slots=True)
class NoOptions:
    """The options of an adapter that has none."""


class StateMachine(ABC):
    """
    What commands are applied to; this is the class a user writes.

    Every server of a cluster applies the same commands in the same order, so
    a state machine must be deterministic: no clock, no randomness, no I/O, no
    iteration over a set.  All its methods are called in the reactor's thread,
    one at a time; a slow one holds up its server.
    """

    #: A frozen dataclass: what the YAML file may set under ``options:``.
    Options: ClassVar[type[Any]] = NoOptions

    def __init__(self, options: Any = None) -> None:
        """Keep *options*, an instance of ``Options``, for the methods."""
        self.options = self.Options() if options is None else options

    @abstractmethod
    def init(self, name: ServerId) -> Any:
        """
        Return the state before the first command.

        It must not depend on *name*, the server's, which is here for logging.
        """

    @abstractmethod
    def handle_write(self, command: Any, state: Any) -> tuple[Any, Any]:
        """
        Apply *command* and return ``(result, state)``.

        *state* may be changed in place and returned.  An exception is a
        result too: every server meets the same one, the caller gets it as
        :class:`~consensus.errors.CommandFailedError`, and the state stays the
        one given here, so raise before you change it.
        """

    @abstractmethod
    def handle_read(self, query: Any, state: Any) -> tuple[Any, Any]:
        """
        Answer *query*: return ``(result, state)``, without changing *state*.

        The pair is that of :meth:`handle_write`, so that both read alike; the
        state in it is ignored, because only one server sees a read.  Callers
        in this process get the very result, so return a copy of what they
        must not change.
        """

    def encode(self, value: Any) -> bytes:
        """
        Return a command, a query or a result as bytes.

        The default is MessagePack: ``None``, booleans, numbers up to 64 bits,
        text, bytes, lists and mappings; a tuple arrives as a list.

        Raises:
            InvalidCommandError: *value* is made of something else.
        """
        try:
            return msgspec.msgpack.encode(value)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            message = f"cannot encode {type(value).__name__}: {error}"
            raise InvalidCommandError(message) from error

    def decode(self, data: bytes) -> Any:
        """
        Return the command or query that :meth:`encode` made *data* of.

        It is called when a command arrives and again when it is applied, and
        must give the same value on every server and in every later release:
        commands stay in the log.

        Raises:
            InvalidCommandError: *data* is not one.
        """
        try:
            return msgspec.msgpack.decode(data)
        # msgspec's own errors are ValueErrors, and so is that of bad UTF-8.
        except (ValueError, RecursionError) as error:
            message = f"not a MessagePack value: {error}"
            raise InvalidCommandError(message) from error


class Storage(ABC):
    """
    Where one server keeps its log and its hard state.

    Plain blocking code: one call at a time, all of them on one thread that
    the server chooses, from :meth:`open` to :meth:`close`.

    *Order:* what :meth:`append` and :meth:`save_hard_state` wrote between two
    calls of :meth:`sync` becomes durable in the order of the calls, or all at
    once, never out of order; a crash leaves a prefix of it.  Reads see what
    was written, synced or not.

    *Failure:* a driver's exceptions become
    :class:`~consensus.errors.StorageError`; the server stops on the first.
    """

    #: A frozen dataclass: what the YAML file may set under ``options:``.
    Options: ClassVar[type[Any]] = NoOptions

    #: Does :meth:`sync` survive a power cut?
    durable: ClassVar[bool] = True

    #: Do calls take long enough to deserve a thread of their own?
    blocking: ClassVar[bool] = True

    def __init__(self, options: Any = None) -> None:
        """Keep *options*, an instance of ``Options``; open nothing yet."""
        self.options = self.Options() if options is None else options

    @classmethod
    def check(cls, options: Any, directory: Path) -> Iterable[Finding]:  # noqa: ARG003 - for the adapters that look
        """
        Yield what forbids :meth:`open` with *options* in *directory*.

        Called before a start, when no server runs here; it changes nothing.
        *directory* need not exist yet; that it can be written is checked.
        """
        return ()

    @abstractmethod
    def open(self, directory: Path) -> None:
        """
        Open what is stored in *directory*, or begin anew there.

        The server has made *directory* and holds its lock; it is this
        server's alone.  Whose data it is has been checked.  All that is found
        is durable before this returns: a process that was killed during a
        sync leaves writes that can be read, and yet be lost.

        Raises:
            StorageError: What is there cannot be read.
        """

    @abstractmethod
    def hard_state(self) -> HardState:
        """Return what :meth:`save_hard_state` wrote last, or the default."""

    @abstractmethod
    def save_hard_state(self, hard_state: HardState) -> None:
        """Replace the term and the vote, atomically; durable after a sync."""

    @abstractmethod
    def append(self, entries: Sequence[Entry]) -> None:
        """
        Write *entries* after the last kept entry, replacing any conflict.

        Stored entries at or above the first new index go in the same atomic
        step.  Nothing is durable until :meth:`sync` returns; after a crash
        the log holds a prefix of what was appended, never a hole.

        Args:
            entries: Consecutive, not empty; the first index is at most
                ``last_index() + 1``.

        Raises:
            StorageError: Nothing of this call is visible to a later read.
        """

    @abstractmethod
    def entries(
        self, first: LogIndex, last: LogIndex, max_bytes: int
    ) -> Sequence[Entry]:
        """
        Return the entries from *first* to *last*, both included.

        Fewer come back when their commands exceed *max_bytes*, but always at
        least the first.

        Raises:
            CompactedError: *first* is below :meth:`first_index`.
            StorageError: *last* is above :meth:`last_index`, or a stored
                entry is damaged.
        """

    @abstractmethod
    def term(self, index: LogIndex) -> Term:
        """
        Return the term of the entry at *index*; 0 for index 0.

        Raises:
            CompactedError: *index* is below :meth:`first_index`.
            StorageError: *index* is above :meth:`last_index`.
        """

    @abstractmethod
    def first_index(self) -> LogIndex:
        """Return the index of the first kept entry; 1 for a new log."""

    @abstractmethod
    def last_index(self) -> LogIndex:
        """Return the index of the last entry; 0 for a new log."""

    @abstractmethod
    def sync(self) -> None:
        """
        Return when all that was written before is durable.

        Raises:
            StorageError: It may not be.  The server never calls again: after
                a failed sync the data is gone, even if a second one succeeds.
        """

    @abstractmethod
    def close(self) -> None:
        """Release everything; what was not synced may be lost."""


class Inbox(Protocol):
    """What a server offers to its transport; called in the reactor's thread."""

    def deliver(self, message: Message) -> None:
        """Take a message of another server of the cluster."""

    def answer(self, method: str, payload: bytes) -> Deferred[bytes]:
        """
        Answer a client's call.

        The Deferred fails with a :class:`~consensus.errors.RaftError` and
        nothing else; the methods and their payloads stand in
        ``docs/reference/protocol.md``.
        """


class Transport(ABC):
    """
    How servers reach each other, and clients reach servers.

    Used in the reactor's thread only.  It may lose, delay and repeat
    messages, and never raises for the network's sake: to Raft a message that
    was not sent is a message that was lost.
    """

    #: A frozen dataclass: what the YAML file may set under ``options:``.
    Options: ClassVar[type[Any]] = NoOptions

    def __init__(self, options: Any, reactor: Any, clock: Any) -> None:
        """
        Keep what is given; open nothing yet.

        Args:
            options: An instance of ``Options``, or ``None`` for the defaults.
            reactor: The reactor, for connections and, with ``callFromThread``,
                for "on the next turn".
            clock: An ``IReactorTime`` that no change of the wall clock
                disturbs; everything that times out goes by it.
        """
        self.options = self.Options() if options is None else options
        self.reactor = reactor
        self.clock = clock

    @classmethod
    def check(
        cls,
        options: Any,  # noqa: ARG003 - for the adapters that look
        members: Mapping[ServerId, Address],  # noqa: ARG003 - likewise
        serve: Collection[ServerId],  # noqa: ARG003 - likewise
    ) -> Iterable[Finding]:
        """
        Yield what forbids a start: addresses that mean nothing, ports in use.

        A finding's ``path`` names the place in the YAML, as ``members.s1``.

        Args:
            options: An instance of ``Options``.
            members: All addresses of the config.
            serve: Whose addresses this process is about to listen on.
        """
        return ()

    @classmethod
    def max_command_bytes(cls, options: Any) -> int:  # noqa: ARG003 - likewise
        """
        Return the size of the largest command that fits into a message.

        A larger one is refused at the door: in the log, it would stop all
        replication, since :meth:`send` could only lose it.
        """
        return 1 << 62

    @abstractmethod
    def listen(
        self, identity: Identity, address: Address, inbox: Inbox
    ) -> Deferred[None]:
        """
        Begin to take messages and calls at *address* for *inbox*.

        Called once.  Peers of another cluster, and peers that are not who
        this server was told (:meth:`connect`), are refused.  The Deferred
        fails with :class:`~consensus.errors.UnreachableError` when *address*
        cannot be listened on.
        """

    @abstractmethod
    def connect(self, peer: ServerId, address: Address) -> None:
        """
        Let :meth:`send` reach *peer* at *address* from now on.

        The connection is made, and made again whenever it is lost, without
        being asked.  A second call with another address moves it.
        """

    @abstractmethod
    def disconnect(self, peer: ServerId) -> None:
        """Forget *peer*; messages to it are dropped."""

    @abstractmethod
    def send(self, peer: ServerId, message: Message) -> None:
        """
        Send *message* to *peer*, or lose it.

        Messages of one sender to one peer usually arrive in order.  The
        memory that waiting messages take is bounded: beyond it, they are lost.
        """

    @abstractmethod
    def ask(
        self, address: Address, method: str, payload: bytes, timeout: float
    ) -> Deferred[bytes]:
        """
        Call *method* of the server at *address*, as a client.

        Needs no :meth:`listen`.  Connections are kept and shared.

        Args:
            address: Where the server listens.
            method: See ``docs/reference/protocol.md``.
            payload: The method's argument.
            timeout: Seconds to wait for a connection and the answer.

        The Deferred fails with:
            UnreachableError: Nothing was sent.
            OutcomeUnknownError: It was sent, but no answer came.
            RaftError: The error of that server, as it was raised there.
        """

    @abstractmethod
    def close(self) -> Deferred[None]:
        """Stop listening, drop every connection; then nothing arrives."""
