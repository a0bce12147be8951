"""
All that an adapter author has to read: Storage, Transport, StateMachine.

Each is an abstract base class.  A new optional ability is a method with a
default, or a flag of the class, never a second interface.  An adapter is made
with its ``Options``, a frozen dataclass that the ``options:`` of the YAML
file fill in, and may look at the world in ``check`` before anything starts.

What a user writes, :class:`StateMachine`, stands in
:mod:`consensus.state_machine`; the other two are here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from consensus.core.values import EntryKind
from consensus.errors import ConfigError, Finding
from consensus.guard import (
    Guard,
    KeyRange,
    Login,
    Touched,
    key_range,
    prefix_range,
)
from consensus.state_machine import (
    LATER,
    EncodedSnapshot,
    HomeServer,
    Later,
    NoOptions,
    Snapshot,
    StateMachine,
    Tick,
)
from consensus.tls import TLS

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
    from consensus.errors import ProtocolError

__all__ = [
    "LATER",
    "TLS",
    "EncodedSnapshot",
    "Guard",
    "HomeServer",
    "Inbox",
    "KeyRange",
    "Later",
    "Login",
    "NoOptions",
    "Snapshot",
    "StateMachine",
    "Storage",
    "Tick",
    "Touched",
    "Traffic",
    "Transport",
    "key_range",
    "prefix_range",
]


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
    Only a :class:`~consensus.errors.DiskFullError` is no end: it says that
    nothing since the last :meth:`sync` is stored, and the server makes the
    same calls again when there may be room.

    *Compaction:* entries that a snapshot covers are dropped from the front by
    :meth:`compact`.  Snapshots themselves are files in the data directory,
    which are no concern of a storage.
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
                ``last_index() + 1``.  No entry is ever changed, so they may
                be kept until the sync; the sequence is its caller's again.

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

        The term of the last dropped entry, at ``first_index() - 1``, is known
        as well.

        Raises:
            CompactedError: *index* is below ``first_index() - 1``.
            StorageError: *index* is above :meth:`last_index`.
        """

    @abstractmethod
    def first_index(self) -> LogIndex:
        """Return the index of the first kept entry; 1 for a new log."""

    @abstractmethod
    def last_index(self) -> LogIndex:
        """
        Return the index of the last entry; 0 for a new log.

        It is ``first_index() - 1`` when every entry was dropped.
        """

    @abstractmethod
    def compact(self, index: LogIndex, term: Term) -> None:
        """
        Drop the entries up to *index*, which a snapshot covers (§5.1).

        Where the entry at *index* is of another *term*, or the log ends
        before it, all entries go: the snapshot came from a leader whose log
        is another (figure 5.3).  Then ``first_index()`` is ``index + 1`` and
        ``term(index)`` is *term*.  Nothing happens when *index* is below
        ``first_index()`` already.  Atomic, and durable after a sync, like
        :meth:`append`.
        """

    def membership_indexes(self) -> Sequence[LogIndex]:
        """
        Return where in the log memberships stand, in order.

        The default reads every entry; override it where there is a shorter
        way.
        """
        found: list[LogIndex] = []
        first, last = self.first_index(), self.last_index()
        while first <= last:
            entries = self.entries(first, last, 1 << 20)
            found += [
                entry.index for entry in entries if entry.kind == EntryKind.MEMBERSHIP
            ]
            first = entries[-1].index + 1
        return found

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

    def welcome(self, peer: Identity) -> None:
        """
        Look at who a peer says it is, at either end of a new connection.

        Raises:
            ProtocolError: It is not to be talked to; the sentence says why,
                and is for its operator too.
        """

    def refused(self, peer: ServerId, error: ProtocolError) -> None:
        """Hear that *peer* does not talk to this server, because of *error*."""

    def gone(self, peer: ServerId) -> None:
        """
        Hear that the process of *peer* has ended, as far as can be told.

        For transports that can tell: no connection to it or from it is left,
        and nobody listens at its address any more.  A new leader is found
        sooner then.  A mistake does no harm, but perhaps to its office.
        """

    def deliver(self, *messages: Message) -> None:
        """
        Take messages of other servers of the cluster, in their order.

        What came together is best delivered together: the server deals with
        all of them at once, before this returns.
        """

    def answer(self, method: str, payload: bytes) -> Deferred[bytes]:
        """
        Answer a client's call.

        The Deferred fails with a :class:`~consensus.errors.RaftError` and
        nothing else; the methods and their payloads stand in
        ``docs/reference/protocol.md``.
        """


@dataclass(frozen=True, slots=True)
class Traffic:
    """
    What a transport counts, since it was made.

    Args:
        sent_bytes: Of messages and calls; those that wait to be sent, too.
        received_bytes: Likewise.
        lost_messages: Messages that could not be sent.
        violations: Connections that were dropped because the other end broke
            the protocol, or is nobody to talk to.
        connections: That are open now.
    """

    sent_bytes: int = 0
    received_bytes: int = 0
    lost_messages: int = 0
    violations: int = 0
    connections: int = 0


class Transport(ABC):
    """
    How servers reach each other, and clients reach servers.

    Used in the reactor's thread only.  It may lose, delay and repeat
    messages, and never raises for the network's sake: to Raft a message that
    was not sent is a message that was lost.
    """

    #: A frozen dataclass: what the YAML file may set under ``options:``.
    Options: ClassVar[type[Any]] = NoOptions

    #: Can it encrypt?  Then it has a :meth:`secure` of its own.
    encrypts: ClassVar[bool] = False

    #: Can it tell who calls?  Then it has a :meth:`protect` and a :meth:`identify`
    #: of its own.
    authenticates: ClassVar[bool] = False

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

    def secure(self, tls: TLS) -> None:  # noqa: ARG002 - likewise
        """
        Encrypt every connection from now on, as *tls* says.

        Called at most once, before :meth:`listen` and :meth:`ask`.  Both ends
        of a connection then prove who they are with a certificate that the
        authority of the other has signed, or nothing passes.  A server's
        certificate names the server: a DNS name of it is what it says it is.

        Raises:
            ConfigError: This transport cannot encrypt, or the files of *tls*
                cannot be used.
        """
        raise ConfigError([no_encryption(type(self).__name__)])

    def traffic(self) -> Traffic:
        """Return what this transport has counted; by default it counts nothing."""
        return Traffic()

    def protect(self, guard: Guard) -> None:  # noqa: ARG002 - likewise
        """
        Let *guard* answer every call from now on, and say who calls.

        Called at most once, before :meth:`listen`, and after :meth:`secure`.  A
        server is let in with a certificate of its name, or with the secret of the
        guard, and proves that it knows it wherever it connects to.

        Raises:
            ConfigError: This transport cannot tell who calls.
        """
        raise ConfigError([no_authentication(type(self).__name__)])

    def identify(self, login: Login) -> None:
        """
        Say *login* on every connection that is made from now on, as a client.

        Raises:
            ConfigError: This transport cannot say who calls.
        """
        del login
        raise ConfigError([no_authentication(type(self).__name__)])

    @abstractmethod
    def listen(
        self, identity: Identity, address: Address, inbox: Inbox
    ) -> Deferred[None]:
        """
        Begin to take messages and calls at *address* for *inbox*.

        Called once.  Peers that are not who this server was told
        (:meth:`connect`), and those that ``inbox.welcome`` refuses, are
        refused: nothing passes either way, the reason is logged once, and the
        other end is told (``inbox.refused``) and tries again.  The Deferred
        fails with :class:`~consensus.errors.UnreachableError` when *address*
        cannot be listened on.
        """

    def introduce(self, identity: Identity) -> None:
        """
        Say of this server, in new connections, that it is *identity*.

        Called after :meth:`listen`.  Who is connected is looked at once more:
        an adapter calls ``inbox.welcome`` again, and parts from those that are
        not welcome any more.
        """
        self.identity: Identity | None = identity

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


def no_encryption(transport: str) -> Finding:
    """Return the finding that *transport* cannot do what ``tls:`` asks for."""
    return Finding(
        "tls.E001",
        f"the transport {transport!r} cannot encrypt",
        "use the transport amp, or write tls: false",
        "tls",
    )


def no_authentication(transport: str) -> Finding:
    """Return the finding that *transport* cannot do what ``access:`` asks for."""
    return Finding(
        "access.E004",
        f"the transport {transport!r} cannot tell who calls",
        "use the transport amp, or write access: false",
        "access",
    )
