"""
One class for each message that servers exchange.

Every message names its sender and the sender's term.  A transport may lose,
delay, repeat and reorder them; nothing here relies on the contrary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from consensus.core.values import Entry, LogIndex, ServerId, SnapshotMeta, Term


@dataclass(frozen=True, slots=True)
class RequestPreVote:
    """
    A server asks whether it could win an election, before it begins one (§9.6).

    Args:
        sender: Who asks.
        term: Its current term; an election would be for the next one.
        last_index: The last index of its log.
        last_term: The term of the entry there.
    """

    sender: ServerId
    term: Term
    last_index: LogIndex
    last_term: Term


@dataclass(frozen=True, slots=True)
class RequestPreVoteResponse:
    """An answer to :class:`RequestPreVote`; it binds nobody (§9.6)."""

    sender: ServerId
    term: Term
    granted: bool


@dataclass(frozen=True, slots=True)
class RequestVote:
    """
    A candidate asks for a vote (§3.4).

    Args:
        sender: The candidate.
        term: The term that it wants to lead.
        last_index: The last index of its log.
        last_term: The term of the entry there.
        transfer: The leader itself has asked for this election, so that who
            hears a leader answers all the same (§4.2.3).
    """

    sender: ServerId
    term: Term
    last_index: LogIndex
    last_term: Term
    transfer: bool = False


@dataclass(frozen=True, slots=True)
class RequestVoteResponse:
    """A voter's answer to :class:`RequestVote` (§3.4)."""

    sender: ServerId
    term: Term
    granted: bool


@dataclass(frozen=True, slots=True)
class TimeoutNow:
    """A leader asks the receiver to stand for election at once (§3.10)."""

    sender: ServerId
    term: Term


@dataclass(frozen=True, slots=True)
class AppendEntries:
    """
    A leader replicates its log, or says that it is alive (§3.5).

    Args:
        sender: The leader.
        term: Its term.
        prev_index: The index before the first of *entries*.
        prev_term: The term of the entry there, for the consistency check.
        commit_index: How far the leader has committed.
        round: Counts the leader's rounds of heartbeats; the follower repeats
            it, which confirms the reads that wait for that round (§6.4).
        entries: Consecutive from ``prev_index + 1``; none in a heartbeat.
        may_lease: Whether the leader may trust in a lease, in this term: then
            who hears it keeps its pledge, whatever happens (§6.4.1).
    """

    sender: ServerId
    term: Term
    prev_index: LogIndex
    prev_term: Term
    commit_index: LogIndex
    round: int
    entries: tuple[Entry, ...] = ()
    may_lease: bool = True


@dataclass(frozen=True, slots=True)
class AppendEntriesResponse:
    """
    A follower's answer to :class:`AppendEntries` (§3.5).

    Args:
        sender: The follower.
        term: Its term; when it is newer than the leader's, the rest is void.
        success: Whether the consistency check passed.
        index: On success the last index known to be the same as the leader's
            and durable here; otherwise the ``prev_index`` that failed.
        hint_index: On failure, the highest index at which the two logs may
            still agree, so that a leader skips a term a step (§3.5).
        hint_term: The term of the follower's entry at *hint_index*.
        round: The ``round`` of the message that this answers.
    """

    sender: ServerId
    term: Term
    success: bool
    index: LogIndex
    round: int
    hint_index: LogIndex = 0
    hint_term: Term = 0


@dataclass(frozen=True, slots=True)
class InstallSnapshot:
    """
    A leader sends a chunk of its snapshot to one whose log is too short (figure 5.3).

    Args:
        sender: The leader.
        term: Its term.
        meta: The whole snapshot, complete.
        number: Which chunk this is, from 0.
        data: The chunk.
    """

    sender: ServerId
    term: Term
    meta: SnapshotMeta
    number: int
    data: bytes


@dataclass(frozen=True, slots=True)
class InstallSnapshotResponse:
    """
    A follower's answer to :class:`InstallSnapshot` (figure 5.3).

    Args:
        sender: The follower.
        term: Its term.
        index: The ``index`` of the snapshot that this is about.
        checksum: The ``checksum`` of it.
        next_chunk: The chunk that it wants next: all before are stored.  The
            number of all chunks says that the snapshot is installed, durably.
    """

    sender: ServerId
    term: Term
    index: LogIndex
    checksum: int
    next_chunk: int


@dataclass(frozen=True, slots=True)
class RequestReadIndex:
    """
    A follower asks up to where it must have applied to serve a read (§6.4).

    Args:
        sender: The follower.
        term: Its term.
        id: The follower's own number for the question.
    """

    sender: ServerId
    term: Term
    id: int


@dataclass(frozen=True, slots=True)
class RequestReadIndexResponse:
    """
    A leader's answer to :class:`RequestReadIndex` (§6.4).

    Args:
        sender: The leader.
        term: Its term.
        id: The follower's number for the question.
        index: The read index; 0 when the leader cannot say.
    """

    sender: ServerId
    term: Term
    id: int
    index: LogIndex


Message = (
    RequestPreVote
    | RequestPreVoteResponse
    | RequestVote
    | RequestVoteResponse
    | TimeoutNow
    | AppendEntries
    | AppendEntriesResponse
    | InstallSnapshot
    | InstallSnapshotResponse
    | RequestReadIndex
    | RequestReadIndexResponse
)
