"""
The state machine: the class that a user of the framework writes.

It is one of the three interfaces of :mod:`consensus.interfaces`, which is
where to import it from.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol

import msgspec

from consensus.errors import InvalidCommandError, StorageError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from twisted.application.service import Service
    from twisted.internet.defer import Deferred

    from consensus.core.values import Address, LogIndex, ServerId, Status
    from consensus.errors import Finding
    from consensus.guard import Touched
    from consensus.tls import TLS


@dataclass(frozen=True, slots=True)
class NoOptions:
    """The options of an adapter that has none."""


@dataclass(frozen=True, slots=True)
class Tick:
    """
    A command of the framework's own: the log's time is now *time*.

    It is the leader's time, in the log, so it is the same for every server.  It
    never goes back, and does not pass while nobody leads: what a machine ends
    by it may end late, never early.

    Args:
        time: In milliseconds, from the cluster's beginning.
    """

    time: int


class Later(Enum):
    """The type of :data:`LATER`."""

    LATER = "later"


#: What ``handle_read`` answers to a query that has no answer yet.
LATER: Final = Later.LATER


class Snapshot(Protocol):
    """A consistent view of a state, while the state goes on."""

    def chunks(self) -> Iterator[bytes]:
        """
        Yield the view as bytes, in pieces of any size.

        Called once, on a thread of its own; when it ends, or is closed, the
        view is no longer needed.
        """


@dataclass(frozen=True, slots=True)
class EncodedSnapshot:
    """
    A state that was encoded in one go.

    Args:
        data: The whole of it.
    """

    data: bytes

    def chunks(self) -> Iterator[bytes]:
        """Yield all of it."""
        yield self.data


class HomeServer(Protocol):
    """
    The server that a companion runs beside; see :meth:`StateMachine.companion`.

    Its calls are those of :class:`~consensus.server.RaftServer`, with two
    differences: they are passed on to the leader whatever ``forward`` says, and
    what enters no log because nobody leads is tried again for a while.
    """

    #: The server's name.
    name: ServerId
    #: Where it runs.
    reactor: Any
    #: An ``IReactorTime`` for everything that times out.
    clock: Any
    #: Who may do what, a :class:`~consensus.access.gate.Gate`; ``None`` if everybody
    #: may do everything.  The calls here do not look at it: whoever makes them for
    #: somebody else has to.
    gate: Any
    #: What connections are encrypted with; ``None`` for nothing.
    tls: TLS | None

    @property
    def machine(self) -> StateMachine:
        """Return the state machine of the version that applies commands now."""

    @property
    def max_command_bytes(self) -> int:
        """Return how long a command, or a query, may be; the config may change it."""

    def write(self, command: Any) -> Deferred[Any]:
        """Apply *command* on every server; return the machine's result."""

    def write_many(self, commands: Sequence[Any]) -> Deferred[list[Any]]:
        """Apply *commands*, one after another with nothing in between."""

    def read(self, query: Any, **options: Any) -> Deferred[Any]:
        """Answer *query*; the options are those of the server's ``read``."""

    def status(self) -> Status:
        """Return what this server knows right now."""

    def leader(self) -> ServerId | None:
        """Return who leads as far as this server knows."""


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

    #: Where a machine that keeps its state on disk has its files: a directory
    #: of its own in the server's, which the server makes and sets before
    #: :meth:`init`; ``None`` where the storage is not durable.
    directory: Path | None = None

    def __init__(self, options: Any = None) -> None:
        """Keep *options*, an instance of ``Options``, for the methods."""
        self.options = self.Options() if options is None else options

    @abstractmethod
    def init(self, name: ServerId) -> Any:
        """
        Return the state before the first command.

        A machine on disk returns the state that it finds in
        :attr:`directory`.  Nothing may depend on *name*, the server's, which
        is here for logging.
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

        The result :data:`LATER` says that there is no answer yet.  A caller
        who has said how long to wait is kept, and the query is answered anew
        after later commands; any other gets :class:`~consensus.errors.NotYetError`.
        """

    # --- abilities with a default -----------------------------------------

    #: Which version of the commands' meaning this class is.  An upgraded
    #: cluster applies commands by the old one until every voter has the new.
    version: ClassVar[int] = 1

    def for_version(self, version: int) -> StateMachine:
        """
        Return the machine that applies commands as *version* says.

        A class that raises its ``version`` overrides this to return an
        instance of what it was before, as long as logs and rolling upgrades
        may ask for it.

        Raises:
            StorageError: This release does not know *version*; its server
                stops.
        """
        if version == self.version:
            return self
        message = (
            f"{type(self).__name__} is version {self.version}, and the log asks for"
            f" {version}: install the release that has it, or override for_version"
        )
        raise StorageError(message)

    def upgrade(self, state: Any, version: int) -> Any:  # noqa: ARG002 - for those who do
        """
        Return *state*, which *version* left behind, as this version wants it.

        Called on every server at the same place of the log.  A machine on disk
        may be called again after a crash, with a state that it has upgraded.
        """
        return state

    #: Is this machine told the time?  Then some of its commands are a
    #: :class:`Tick`: one before all that enter the log later than the last
    #: said, by the millisecond, and one when :meth:`next_time` asks for it.
    timed: ClassVar[bool] = False

    def next_time(self, state: Any) -> int | None:  # noqa: ARG002 - for those who wait
        """
        Return when, in the log's time, something is due; ``None`` for never.

        Asked of a machine that is :attr:`timed` and leads, often, so it must be
        quick.  A :class:`Tick` follows as soon as that time has come, whether
        anybody writes or not.
        """
        return None

    def validate(self, command: Any) -> None:  # noqa: B027 - it need not be overridden
        """
        Raise to refuse *command* before it enters the log.

        Only the server that was asked calls this, without a state: it is a
        check of the form.  The caller gets
        :class:`~consensus.errors.InvalidCommandError` with what was raised.
        """

    def touches(self, message: Any) -> Touched | None:  # noqa: ARG002 - for those with keys
        """
        Return which keys *message*, a command or a query, is about.

        Asked for users whose roles are for some keys only.  ``None``, which is the
        default, stands for all: only who may touch all keys may send it then.
        Everything counts that the result, or its absence, tells of.
        """
        return None

    def companion(self, home: HomeServer) -> Service | None:  # noqa: ARG002 - for those who have one
        """
        Return what runs beside the server *home*, such as a port of its own.

        It is started once the server has started, and stopped with it.  What
        its ``startService`` raises, or the Deferred that this returns fails
        with, keeps the server from starting.  It knows no state: it asks
        *home*, as a client would.
        """
        return None

    @classmethod
    def check(
        cls,
        options: Any,  # noqa: ARG003 - for those who check
        members: Mapping[ServerId, Address],  # noqa: ARG003
        serve: Collection[ServerId],  # noqa: ARG003
    ) -> Iterable[Finding]:
        """
        Yield what speaks against a start with *options*.

        Args:
            options: Those of the YAML file, or ``None``.
            members: All, with their addresses.
            serve: Those that this process runs.
        """
        return ()

    def apply_batch(
        self, batch: Sequence[tuple[LogIndex, Any]], state: Any
    ) -> tuple[Sequence[Any], Any]:
        """
        Apply the commands of *batch* in order; return ``(results, state)``.

        Override it in a machine that keeps its state on disk, to store the
        index of the last command in the same transaction: it is what
        :meth:`last_applied` has to return.  A result may be an exception,
        which its caller gets as :class:`~consensus.errors.CommandFailedError`.
        An exception that is raised is none of a command: the server stops.

        Args:
            batch: ``(log index, command)`` of each; not empty.
            state: Before the first.
        """
        results: list[Any] = []
        handle_write = self.handle_write
        for _, command in batch:
            try:
                result, state = handle_write(command, state)
            except (MemoryError, StorageError):
                # Not every server meets it: this one must not go on.
                raise
            except Exception as error:  # noqa: BLE001 - it is the result
                result = error
            results.append(result)
        return results, state

    def last_applied(self, state: Any) -> LogIndex:  # noqa: ARG002 - for those on disk
        """
        Return the index of the last command whose effect *state* survives with.

        0 for a state in memory.  A machine on disk returns what
        :meth:`apply_batch` or :meth:`restore` stored last; the server applies
        what follows.  A crash may take the last batches with it, if all of
        each: they are still in the log, or in a snapshot.
        """
        return 0

    def snapshot(self, state: Any) -> Snapshot:
        """
        Return a view of *state* that later commands do not change (§5.1).

        The default encodes the whole state here and now, which holds up the
        server for as long; and only what :meth:`decode` gives back equal.

        Raises:
            InvalidCommandError: *state* cannot be encoded: override this and
                :meth:`restore`.
        """
        data = self.encode(state)
        if self.decode(data) != state:
            message = (
                f"the state of {type(self).__name__} does not survive encode and"
                " decode: override snapshot and restore"
            )
            raise InvalidCommandError(message)
        return EncodedSnapshot(data)

    def restore(self, chunks: Iterable[bytes], last_applied: LogIndex) -> Any:  # noqa: ARG002 - for those on disk
        """
        Return the state that :meth:`snapshot` made *chunks* of.

        They replace whatever state there was.  A machine on disk stores
        *last_applied* with them, and keeps the old state until the new one is
        durable; the snapshot may be one that this server took itself.

        Args:
            chunks: Cut into other pieces than they were given.  To be read to
                the end before anything counts: at the end their checksum is
                compared, and an error of the disk may come in between.
            last_applied: The index of the last entry that they cover, which
                :meth:`last_applied` has to return from now on.

        Raises:
            StorageError: They are not what this release knows; the server
                stops.
        """
        return self.decode(b"".join(chunks))

    def close(self, state: Any) -> None:  # noqa: B027 - most hold nothing
        """
        Release what *state* holds, such as an open file.

        Called with the state of a server that has stopped, and with the one
        that :meth:`restore` has replaced.
        """

    def digest(self, state: Any) -> bytes | None:  # noqa: ARG002 - for those that can
        """
        Return a few bytes that differ when states do; ``None`` if there are none.

        Servers compare theirs every so many entries, and one that is not the
        leader's stops.
        """
        return None

    def show(self, state: Any) -> Iterable[tuple[str, str]] | None:  # noqa: ARG002 - for those that can
        """
        Yield what people look for in *state*: names, and what they stand for.

        For ``raft log state`` and the like.  ``None``, the default, lets them
        look into *state* as Python does; override it where that says little,
        as of a database.  A name must not come twice.
        """
        return None

    def rehearsal(self, run: str, number: int, size: int) -> Any:  # noqa: ARG002 - for those that can
        """
        Return a write that does no harm, for ``raft bench``; ``None`` if there is none.

        Args:
            run: Drawn for each run: what is written belongs to it alone.
            number: Which write of the run; some may do the same.
            size: How many bytes it should have, about.
        """
        return None

    def after_rehearsal(self, run: str, count: int) -> Iterable[Any]:  # noqa: ARG002 - for those that can
        """Return writes that undo the first *count* rehearsals of *run*."""
        return ()

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

    def decode_result(self, data: bytes) -> Any:
        """
        Return the result that :meth:`encode` made *data* of.

        For a server that passed a call on (``forward: true``).  The default
        is :meth:`decode`; override it where that knows commands only.

        Raises:
            InvalidCommandError: *data* is not one.
        """
        return self.decode(data)
