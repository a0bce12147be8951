"""What the API takes and answers, besides what servers tell each other."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from consensus.telemetry.measurements import Second  # noqa: TC001 - msgspec looks the types up
from consensus.telemetry.peers import PeerView  # noqa: TC001 - likewise

_Name = Annotated[
    str, Meta(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="A name.")
]
_Address = Annotated[str, Meta(min_length=1, max_length=300)]
#: That of an entry, or of an event.
Index = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class Live(Struct):
    """The process answers, and the server has not failed."""

    server: str
    is_live: bool = msgspec.field(name="live")
    missing: list[str]


class Readiness(Struct):
    """Whether the server can serve; *missing* says what keeps it from that."""

    server: str
    is_ready: bool = msgspec.field(name="ready")
    missing: list[str]
    leader: str | None = None
    commit_index: int = 0
    last_applied: int = 0


class Leader(Struct):
    """Who leads, as far as is known."""

    leader: str | None
    address: str
    term: int


class Member(Struct, omit_defaults=True):
    """
    One member, as ``raft status --json`` has it.

    All but the first four are there if it answered, and *error* if not.
    """

    server: str
    address: str
    standing: str
    is_reachable: bool = msgspec.field(name="reachable")
    error: str | UnsetType = UNSET
    cluster: str | UnsetType = UNSET
    role: str | UnsetType = UNSET
    term: int | UnsetType = UNSET
    leader: str | UnsetType | None = UNSET
    membership: dict[str, str] | UnsetType = UNSET
    learners: dict[str, str] | UnsetType = UNSET
    outgoing: dict[str, str] | UnsetType = UNSET
    target: list[str] | UnsetType = UNSET
    membership_index: int | UnsetType = UNSET
    commit_index: int | UnsetType = UNSET
    last_applied: int | UnsetType = UNSET
    last_index: int | UnsetType = UNSET
    first_index: int | UnsetType = UNSET
    snapshot_index: int | UnsetType = UNSET
    machine_version: int | UnsetType = UNSET


class Members(Struct):
    """Who belongs to the cluster, as ``raft members --json`` has it."""

    cluster: str
    leader: str | None
    membership_index: int
    commit_index: int
    members: list[Member]


class Peers(Struct):
    """The leader's view of each peer."""

    leader: str
    term: int
    last_index: int
    commit_index: int
    peers: list[PeerView]


class LogEntry(Struct):
    """
    One entry.

    *command* is what it says, as text, cut where it is long: what the state machine
    makes of its bytes, or what the entry is for.  *size* is how many bytes it has.
    """

    index: int
    term: int
    kind: str
    size: int
    command: str


class LogPart(Struct):
    """A part of this server's log."""

    first_index: int
    last_index: int
    commit_index: int
    last_applied: int
    entries: list[LogEntry]


class Occurrence(Struct, omit_defaults=True):
    """
    One thing that happened: a *role*, a *membership*, *transfer_failed*, and so on.

    The rest is there where it belongs to that; see docs/reference/http.md.
    """

    seq: int
    time: float
    what: str
    role: str | UnsetType = UNSET
    term: int | UnsetType = UNSET
    leader: str | UnsetType | None = UNSET
    index: int | UnsetType = UNSET
    first_index: int | UnsetType = UNSET
    last_index: int | UnsetType = UNSET
    bytes: int | UnsetType = UNSET
    voters: list[str] | UnsetType = UNSET
    learners: list[str] | UnsetType = UNSET
    outgoing: list[str] | UnsetType = UNSET
    target: str | UnsetType = UNSET


class Events(Struct):
    """
    What happened to this server.

    Give *last* as ``after`` to be told of what comes next.  *run* is another
    one after a restart, when the numbers begin anew; *lost* are forgotten.
    """

    run: str
    last: int
    lost: int
    events: list[Occurrence]


class Latency(Struct):
    """How long the leader's latest batches of writes took; the newest last."""

    server: str
    latencies: list[float]
    seconds: list[Second]


class Changed(Struct):
    """The membership was changed by the entry at *index*."""

    index: int


class Taken(Struct, omit_defaults=True):
    """The snapshot of one member, or why there is none."""

    server: str
    index: int | UnsetType = UNSET
    size: int | UnsetType = msgspec.field(name="bytes", default=UNSET)
    error: str | UnsetType = UNSET


class Compaction(Struct, forbid_unknown_fields=True):
    """Who shall cut the log; by default all that are reachable."""

    servers: Annotated[list[_Name], Meta(max_length=100)] = []
    keep: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)] = 0


class Compacted(Struct, omit_defaults=True):
    """Where the log of one member begins now, or why it was not cut."""

    server: str
    first_index: int | UnsetType = UNSET
    error: str | UnsetType = UNSET


class Progress(Struct):
    """Whether an entry came so far at a member, and when, if it remembers."""

    is_done: bool
    time: float | None


class AtMember(Struct, omit_defaults=True):
    """What became of an entry at one member, or why it did not say."""

    server: str
    term: int | UnsetType = UNSET
    is_compacted: bool | UnsetType = UNSET
    appended: Progress | UnsetType = UNSET
    stored: Progress | UnsetType = UNSET
    committed: Progress | UnsetType = UNSET
    applied: Progress | UnsetType = UNSET
    error: str | UnsetType = UNSET


class Explained(Struct):
    """What became of an entry; null is what nobody knows any more."""

    index: int
    term: int | None
    leader: str | None
    is_compacted: bool
    entry: LogEntry | None
    servers: list[AtMember]


class LogQuery(Struct, forbid_unknown_fields=True):
    """Which entries: *limit* of them, from one index or up to the end."""

    first: Index | None = msgspec.field(name="from", default=None)
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


class EventsQuery(Struct, forbid_unknown_fields=True):
    """What happened after number *after*; *wait* seconds for something to."""

    after: Index = 0
    wait: Annotated[float, Meta(ge=0, le=30)] = 0.0


class Addition(Struct, forbid_unknown_fields=True):
    """Whom to add."""

    server: _Name
    address: _Address
    learner: bool = False


class Transfer(Struct, forbid_unknown_fields=True):
    """Who shall lead; by default one that is up to date."""

    server: _Name | None = None


class Snapshot(Struct, forbid_unknown_fields=True):
    """Who shall take a snapshot; by default all that are reachable."""

    servers: Annotated[list[_Name], Meta(max_length=100)] = []


class Error(Struct):
    """What went wrong; some codes say more, as ``leader``."""

    code: str
    message: str
    leader: str | UnsetType | None = UNSET
    address: str | UnsetType = UNSET


class Failed(Struct):
    """Every answer whose status is 400 or above."""

    error: Error
