"""What the suite of transports sends, and the inbox that receives it."""

from __future__ import annotations

from twisted.internet.defer import Deferred, fail, succeed

from consensus.core.messages import (
    AppendEntries,
    AppendEntriesResponse,
    InstallSnapshot,
    InstallSnapshotResponse,
    Message,
    RequestPreVote,
    RequestPreVoteResponse,
    RequestReadIndex,
    RequestReadIndexResponse,
    RequestVote,
    RequestVoteResponse,
    TimeoutNow,
)
from consensus.core.values import (
    Entry,
    EntryKind,
    Identity,
    ServerId,
    SnapshotMeta,
)
from consensus.errors import (
    CommandFailedError,
    InvalidCommandError,
    LeadershipLostError,
    NotLeaderError,
    OverloadedError,
    ProtocolError,
    RaftError,
)

_SNAPSHOT = SnapshotMeta(
    index=40,
    term=6,
    membership=b"who\0belongs",
    membership_index=1,
    chunks=2,
    size=65_539,
    checksum=2**32 - 1,
)

#: Messages of each class, from ``s1``.
MESSAGES: tuple[Message, ...] = (
    RequestVote("s1", term=7, last_index=41, last_term=6),
    RequestVoteResponse("s1", term=7, granted=True),
    RequestVoteResponse("s1", term=7, granted=False),
    AppendEntries("s1", 7, prev_index=41, prev_term=6, commit_index=40, round=3),
    AppendEntries(
        "s1",
        7,
        prev_index=41,
        prev_term=6,
        commit_index=40,
        round=4,
        entries=(
            Entry(42, 6, EntryKind.COMMAND, b"six"),
            Entry(43, 7, EntryKind.NOOP, b""),
            Entry(44, 7, EntryKind.MEMBERSHIP, b"\0\xff\n"),
        ),
    ),
    AppendEntriesResponse("s1", 7, success=True, index=44, round=4),
    AppendEntriesResponse(
        "s1", 7, success=False, index=41, round=5, hint_index=30, hint_term=5
    ),
    RequestVote("s1", term=7, last_index=41, last_term=6, transfer=True),
    RequestPreVote("s1", term=6, last_index=41, last_term=5),
    RequestPreVoteResponse("s1", term=6, granted=True),
    RequestPreVoteResponse("s1", term=6, granted=False),
    TimeoutNow("s1", term=7),
    AppendEntries(
        "s1",
        7,
        prev_index=44,
        prev_term=7,
        commit_index=44,
        round=5,
        entries=(
            Entry(45, 7, EntryKind.SESSION, b"\1"),
            Entry(46, 7, EntryKind.VERSION, b"\2"),
            Entry(47, 7, EntryKind.DIGEST, b""),
        ),
    ),
    InstallSnapshot("s1", 7, _SNAPSHOT, number=1, data=b"\0\xff\n"),
    InstallSnapshot("s1", 7, _SNAPSHOT, number=0, data=bytes(range(256)) * 256),
    InstallSnapshotResponse("s1", 7, index=40, checksum=2**32 - 1, next_chunk=2),
    RequestReadIndex("s1", term=7, id=3),
    RequestReadIndexResponse("s1", term=7, id=3, index=44),
    AppendEntries("s1", 7, 41, 6, 40, 3, may_lease=False),
)

#: Errors as servers answer them; what they hold crosses the wire.
ERRORS: tuple[RaftError, ...] = (
    NotLeaderError("s2", "tcp:127.0.0.1:9102"),
    NotLeaderError(None),
    OverloadedError("too much is in flight"),
    InvalidCommandError("no such command: 'fly'"),
    CommandFailedError("KeyError", "'foo'"),
    LeadershipLostError("the term ended"),
)


class RecordingInbox:
    """An :class:`~consensus.interfaces.Inbox` that keeps what it is given."""

    def __init__(self) -> None:
        #: The messages, in the order in which they came.
        self.messages: list[Message] = []
        #: The calls as ``(method, payload)``, likewise.
        self.calls: list[tuple[str, bytes]] = []
        #: The answers that :meth:`answer` keeps back, with method ``wait``.
        self.waiting: list[Deferred[bytes]] = []
        #: What calls of the method ``fail`` fail with.
        self.error: RaftError = OverloadedError("no reason given")
        #: Who was looked at, in the order in which they came.
        self.met: list[Identity] = []
        #: Whom :meth:`welcome` refuses, and with what.
        self.unwelcome: dict[ServerId, ProtocolError] = {}
        #: Who said that this server is not welcome, and why, likewise in order.
        self.refusals: list[tuple[ServerId, ProtocolError]] = []
        #: Whose process has ended, as the transport says.
        self.ended: list[ServerId] = []

    def welcome(self, peer: Identity) -> None:
        """Refuse the unwelcome; all others may talk to this server."""
        self.met.append(peer)
        if peer.server in self.unwelcome:
            raise self.unwelcome[peer.server]

    def refused(self, peer: ServerId, error: ProtocolError) -> None:
        """Keep *error*."""
        self.refusals.append((peer, error))

    def gone(self, peer: ServerId) -> None:
        """Keep *peer*."""
        self.ended.append(peer)

    def deliver(self, *messages: Message) -> None:
        """Keep *messages*."""
        self.messages += messages

    def answer(self, method: str, payload: bytes) -> Deferred[bytes]:
        """Fail, wait, or return *payload* reversed, as *method* says."""
        self.calls.append((method, payload))
        if method == "fail":
            return fail(self.error)
        if method == "wait":
            waiting: Deferred[bytes] = Deferred()
            self.waiting.append(waiting)
            return waiting
        return succeed(payload[::-1])
