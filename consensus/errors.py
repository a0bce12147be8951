"""
Every exception that the framework raises.

The class answers the question a caller has: *may I simply try again?*  The
``code`` of a class is its stable name on the wire, in metrics and in the
``raft`` command; :func:`error_from_code` finds the class again at the other
end of a connection.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


class RaftError(Exception):
    """Everything that goes wrong in here."""

    #: The stable name of the class, unique among all of them.
    code: ClassVar[str] = "raft"

    #: The constructor's arguments, where it takes other than a message; each
    #: is kept in an attribute of the same name and crosses the wire.
    fields: ClassVar[tuple[str, ...]] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """
    One thing that is wrong with a config or with what it points to.

    Args:
        id: A stable name such as ``storage.E001``; the letter is ``E`` for
            what forbids a start and ``W`` for what only deserves a warning.
        message: What is wrong.
        hint: What to write or do instead.
        path: Where in the YAML, as ``storage.engine``; empty for the file.
        line: The line of the file, counted from 1; 0 where there is none.
    """

    id: str
    message: str
    hint: str = ""
    path: str = ""
    line: int = 0

    @property
    def is_warning(self) -> bool:
        """Say whether a server may start all the same."""
        return self.id.partition(".")[2].startswith("W")

    def __str__(self) -> str:
        """Return the finding as one line for a person."""
        where = f"line {self.line}: " if self.line else ""
        what = f"{self.path}: {self.message}" if self.path else self.message
        hint = f" ({self.hint})" if self.hint else ""
        return f"{where}{what}{hint} [{self.id}]"


class ConfigError(RaftError):
    """
    The config is wrong; raised only before a start.

    Args:
        findings: All that is wrong, not just the first.
    """

    code = "config"

    def __init__(self, findings: Iterable[Finding]) -> None:
        """Keep *findings* and join them for the message."""
        self.findings = tuple(findings)
        super().__init__("\n".join(str(finding) for finding in self.findings))


class RejectedError(RaftError):
    """The command entered no log: retry freely."""

    code = "rejected"


class NotLeaderError(RejectedError):
    """
    Somebody else leads.

    Args:
        leader: Who, or ``None`` while an election is going on.
        address: Where that server listens, or ``""`` if that is unknown.
    """

    code = "not_leader"
    fields = ("leader", "address")

    def __init__(self, leader: str | None = None, address: str = "") -> None:
        """Remember whom to ask instead."""
        self.leader = leader
        self.address = address
        super().__init__(
            f"not the leader; ask {leader}" if leader else "no leader is known"
        )


class AuthenticationError(RejectedError):
    """It is not known who calls: log in, or see what was wrong with the login."""

    code = "authentication"


class PermissionDeniedError(RejectedError):
    """The user may not do that."""

    code = "permission_denied"


class OverloadedError(RejectedError):
    """Too much is in flight: back off, then retry."""

    code = "overloaded"


class InvalidCommandError(RejectedError):
    """The command or query cannot be encoded, is too large, or is not one."""

    code = "invalid_command"


class UnknownCommandError(InvalidCommandError):
    """The command or query has a name that this machine does not know."""

    code = "unknown_command"


class UnreachableError(RejectedError):
    """No connection could be made, so nothing was sent."""

    code = "unreachable"


class MembershipPendingError(RejectedError):
    """One change of the membership at a time."""

    code = "membership_pending"


class InvalidChangeError(RejectedError):
    """The cluster cannot be changed as asked; the message says why."""

    code = "invalid_change"


class AlreadyConfiguredError(RejectedError):
    """The server has a membership already; bootstrapping is for new ones."""

    code = "already_configured"


class StaleError(RejectedError):
    """What this server knows is older than the read allows."""

    code = "stale"


class NotYetError(RejectedError):
    """The state machine has no answer to this query yet."""

    code = "not_yet"


class AlreadyRunningError(RejectedError):
    """A server of that name runs in this process."""

    code = "already_running"


class UnknownServerError(RejectedError):
    """No server of that name runs in this process."""

    code = "unknown_server"


class OutcomeUnknownError(RaftError):
    """The command may yet be applied: retry only what is idempotent."""

    code = "outcome_unknown"


class LeadershipLostError(OutcomeUnknownError):
    """The leader stepped down before it knew that the command is committed."""

    code = "leadership_lost"


class TimedOutError(OutcomeUnknownError):
    """No answer came in time."""

    code = "timed_out"


class StoppedError(OutcomeUnknownError):
    """The server was stopped with the command under way."""

    code = "stopped"


class SessionExpiredError(OutcomeUnknownError):
    """
    The session is not known any more, so this attempt was not applied.

    An earlier attempt of the same command may have been.
    """

    code = "session_expired"


class CommandFailedError(RaftError):
    """
    The state machine raised; every replica records the same failure.

    Args:
        kind: The name of the exception's class, as ``KeyError``.
        detail: What the exception said.
    """

    code = "command_failed"
    fields = ("kind", "detail")

    def __init__(self, kind: str, detail: str = "") -> None:
        """Remember what the machine raised."""
        self.kind = kind
        self.detail = detail
        super().__init__(f"{kind}: {detail}" if detail else kind)


class CompactedError(RaftError):
    """
    The entry is gone from the log: a snapshot covers it.

    Args:
        first_index: The first index that the log still has.
    """

    code = "compacted"
    fields = ("first_index",)

    def __init__(self, first_index: int) -> None:
        """Remember where the log begins."""
        self.first_index = first_index
        super().__init__(f"the log begins at {first_index}")


class StorageError(RaftError):
    """The disk failed, or holds what cannot be: this server stops."""

    code = "storage"


class DiskFullError(StorageError):
    """There is no room: nothing since the last sync is stored; try again later."""

    code = "disk_full"


class DivergedError(StorageError):
    """The state here is not the leader's: this server stops, and says from where."""

    code = "diverged"


class ProtocolError(RaftError):
    """A peer broke the protocol: its connection is dropped and counted."""

    code = "protocol"


class ReplacedError(ProtocolError):
    """
    A peer has another data directory than before, and so has forgotten its votes.

    Who gets this from a peer has lost its own.
    """

    code = "replaced"


class InvariantError(RaftError):
    """A bug of ours: this server stops before it spreads."""

    code = "invariant"


def _all_classes(root: type[RaftError]) -> Iterator[type[RaftError]]:
    yield root
    for child in root.__subclasses__():
        yield from _all_classes(child)


def error_from_code(code: str, message: str, fields: Mapping[str, object]) -> RaftError:
    """
    Return the error that another server reported, to be raised here.

    A *code* that this release does not know becomes an
    :class:`OutcomeUnknownError`: the only class that promises nothing.
    """
    for cls in _all_classes(RaftError):
        if cls.code != code or cls is ConfigError:
            continue
        if cls.fields:
            return cls(**{name: fields[name] for name in cls.fields if name in fields})
        return cls(message)
    return OutcomeUnknownError(f"{code}: {message}")


#: What would be refused again: who tries for ever tells nobody so.
REFUSED_FOR_GOOD = (InvalidCommandError, AuthenticationError, PermissionDeniedError)
