"""
The immutable nouns of Raft: entries, hard state, roles.

Everything here is plain data; standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, IntEnum

#: The name of a server, unique in its cluster: ``"s1"``.
ServerId = str

#: A Twisted endpoint description, or whatever the cluster's transport takes.
Address = str

#: A position in the log; the first entry is 1, and 0 stands for "before it".
LogIndex = int

#: An election's number; 0 stands for "before the first".
Term = int


class Role(Enum):
    """What a server is in its current term (§3.3)."""

    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


class EntryKind(IntEnum):
    """What an entry's bytes mean; the numbers are on disk and on the wire."""

    #: Begins a leader's term, so that earlier entries commit with it (§3.6.2).
    NOOP = 0
    #: Bytes of the application.
    COMMAND = 1
    #: An encoded :class:`~consensus.core.membership.Membership`.
    MEMBERSHIP = 2
    #: A command of a client's session, or what begins or ends one (§6.3).
    SESSION = 3
    #: From here on, commands are applied as this version of the machine says.
    VERSION = 4
    #: What the leader's state amounts to at an index, for comparison.
    DIGEST = 5
    #: What time it is in the log, for a machine that is told.
    TIME = 6


# Not frozen, though nobody changes one: a leader makes one for each write and a
# follower another, and a frozen one costs three times as much to make (see the
# table of costs in docs/design/performance.md).
@dataclass(slots=True)
class Entry:
    """
    One record of the log (§3.5).

    Args:
        index: Its position.
        term: The term of the leader that made it.
        kind: One of :class:`EntryKind`; a plain int of the same value will do.
        command: The application's bytes, or those of the kind.
    """

    index: LogIndex
    term: Term
    kind: int
    command: bytes


@dataclass(frozen=True, slots=True)
class HardState:
    """
    What a server must remember over a crash, besides its log (figure 3.1).

    Args:
        term: The latest term that it has seen.
        vote: For whom it voted in that term; ``None`` if for nobody.
    """

    term: Term = 0
    vote: ServerId | None = None


@dataclass(frozen=True, slots=True)
class SnapshotMeta:
    """
    What a snapshot is, without its bytes (§5.1).

    Args:
        index: The last entry that it covers.
        term: The term of that entry.
        membership: The latest membership up to there, encoded.
        membership_index: Where in the log that stood.
        chunks: How many chunks it has; 0 while it is being written.
        size: Their bytes, together.
        checksum: The CRC-32C of those bytes.
    """

    index: LogIndex
    term: Term
    membership: bytes
    membership_index: LogIndex
    chunks: int = 0
    size: int = 0
    checksum: int = 0


@dataclass(frozen=True, slots=True)
class Identity:
    """
    Who a server is, as it stands in its data directory and in handshakes.

    Args:
        cluster: The name of its cluster.
        server: Its name within.
        incarnation: Drawn when its data directory was made, so that a server
            which lost its disk is not taken for the one that had it.
        cluster_id: Tells clusters of one name apart; empty while the server
            belongs to none.
    """

    cluster: str
    server: ServerId
    incarnation: str
    cluster_id: str = ""


@dataclass(frozen=True, slots=True)
class Status:
    """
    What one server knows of itself and its cluster at one moment.

    Args:
        server: Its name.
        cluster: The name of its cluster.
        role: ``follower``, ``pre-candidate``, ``candidate`` or ``leader``.
        term: Its current term.
        leader: Whom it takes for the leader of that term, if anybody.
        membership: The voters and their addresses; empty before the bootstrap.
        commit_index: The last entry that it knows to be committed.
        last_applied: The last entry that its state machine has seen.
        last_index: The last entry of its log.
        learners: Those who get the log and do not vote, with their addresses.
        outgoing: While voters are being exchanged, those of before (§4.3).
        target: Who shall vote when all of them have caught up; empty if
            nobody is waited for.
        membership_index: Where in the log all this stands.
        first_index: The first entry of its log.
        snapshot_index: The last entry that its latest snapshot covers.
        machine_version: The newest version of the state machine that it has.
    """

    server: ServerId
    cluster: str
    role: str
    term: Term
    leader: ServerId | None
    membership: dict[ServerId, Address]
    commit_index: LogIndex
    last_applied: LogIndex
    last_index: LogIndex
    learners: dict[ServerId, Address] = field(default_factory=dict)
    outgoing: dict[ServerId, Address] = field(default_factory=dict)
    target: list[ServerId] = field(default_factory=list)
    membership_index: LogIndex = 0
    first_index: LogIndex = 1
    snapshot_index: LogIndex = 0
    machine_version: int = 1
