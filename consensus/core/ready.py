"""Ready: what the shell has to do next, in the order that keeps it safe."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from consensus.core.membership import Membership
    from consensus.core.messages import Message
    from consensus.core.values import (
        Entry,
        HardState,
        LogIndex,
        Role,
        ServerId,
        SnapshotMeta,
        Term,
    )


@dataclass(frozen=True, slots=True)
class Fetch:
    """
    Entries that are no longer in memory, wanted from storage.

    Args:
        first: The first index.
        last: The last; fewer may come back, but at least one.
        max_bytes: Where to stop.
        peer: For whom; ``None`` to apply them here.
        term: The term in which the leader asked.
    """

    first: LogIndex
    last: LogIndex
    max_bytes: int
    peer: ServerId | None
    term: Term


@dataclass(frozen=True, slots=True)
class FetchChunk:
    """
    A chunk of a snapshot, wanted to be sent (figure 5.3).

    Args:
        meta: Which snapshot.
        number: Which chunk of it.
        peer: For whom.
        term: The term in which the leader asked.
    """

    meta: SnapshotMeta
    number: int
    peer: ServerId
    term: Term


@dataclass(frozen=True, slots=True)
class ReceivedChunk:
    """
    A chunk of a snapshot that a leader sends, to be stored (figure 5.3).

    Args:
        meta: Which snapshot; chunk 0 begins it, and gives up any other.
        number: Which chunk; they come in order, without gaps.
        data: The chunk.
    """

    meta: SnapshotMeta
    number: int
    data: bytes


@dataclass(frozen=True, slots=True)
class RoleChanged:
    """The role, the term or the known leader is another now."""

    role: Role
    term: Term
    leader: ServerId | None


@dataclass(frozen=True, slots=True)
class MembershipChanged:
    """The log has another membership now, committed or not (§4.1)."""

    membership: Membership


@dataclass(frozen=True, slots=True)
class MembershipCommitted:
    """*membership*, at *index* of the log, is what all will agree on (§4.1)."""

    index: LogIndex
    membership: Membership


@dataclass(frozen=True, slots=True)
class TransferFailed:
    """The leader goes on, as *target* did not take over in time (§3.10)."""

    target: ServerId


Event = RoleChanged | MembershipChanged | MembershipCommitted | TransferFailed


@dataclass(slots=True)
class Ready:
    """
    The effects of the inputs since the last one.

    The shell must, in this order:

    1. send ``messages``: they depend on nothing that is not durable, such as
       a leader's appends, which may leave beside its own write (§10.2.1);
    2. hand ``compact``, ``hard_state`` and ``entries`` to storage, in this
       order and in that in which the readies came, and go on without waiting;
    3. apply ``committed``, then look at ``events``, serve ``reads``, read
       ``fetches`` and ``chunk_fetches``, store ``received``, and replace the
       state by the snapshot ``restore``;
    4. when 2 is durable, and all that came before it: send
       ``messages_after`` and call ``advance``.

    Args:
        number: Counts the readies of one Raft.
        compact: ``(index, term)`` for storage to drop what comes up to there.
        hard_state: To persist, if it changed.
        entries: To persist; the first may replace stored ones.
        messages: ``(peer, message)`` to send at once.
        messages_after: The same, once everything so far is durable.
        committed: Entries to apply, each exactly once, in order.
        reads: ``(id, index)`` of reads that may be served when the state
            machine has applied the log up to that index (§6.4).
        failed_reads: The ids of reads that this server cannot answer.
        fetches: To read and hand to ``fetched``.
        chunk_fetches: To read and hand to ``chunk_fetched``.
        received: To store; when the last chunk is, and checked, and durable,
            call ``snapshot_stored``.
        restore: A stored snapshot to restore the state machine from; then
            call ``restored``.  Nothing is handed out to be applied until then.
        events: What happened, for whoever wants to know.
    """

    number: int
    compact: tuple[LogIndex, Term] | None = None
    hard_state: HardState | None = None
    entries: Sequence[Entry] = ()
    messages: list[tuple[ServerId, Message]] = field(default_factory=list)
    messages_after: list[tuple[ServerId, Message]] = field(default_factory=list)
    committed: Sequence[Entry] = ()
    reads: list[tuple[int, LogIndex]] = field(default_factory=list)
    failed_reads: list[int] = field(default_factory=list)
    fetches: list[Fetch] = field(default_factory=list)
    chunk_fetches: list[FetchChunk] = field(default_factory=list)
    received: list[ReceivedChunk] = field(default_factory=list)
    restore: SnapshotMeta | None = None
    events: list[Event] = field(default_factory=list)

    @property
    def needs_storage(self) -> bool:
        """Say whether step 2 or 4 has anything to do."""
        return bool(
            self.compact or self.hard_state or self.entries or self.messages_after
        )
