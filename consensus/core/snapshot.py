"""
Snapshots: when the log is cut, how one is sent, how one is installed (§5).

A leader sends its snapshot to a follower that needs entries which the log no
longer has: chunk by chunk, a few at a time, each asked from the shell.  The
follower says which one it wants next, so that a broken transfer goes on where
it stopped, and heartbeats go their own way beside it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from consensus.core import state as roles
from consensus.core.membership import Membership
from consensus.core.messages import InstallSnapshot, InstallSnapshotResponse
from consensus.core.progress import Phase
from consensus.core.ready import FetchChunk, MembershipChanged, ReceivedChunk
from consensus.core.state import Receiving
from consensus.core.values import Role
from consensus.errors import ProtocolError

if TYPE_CHECKING:
    from consensus.core.progress import Progress
    from consensus.core.state import State
    from consensus.core.values import LogIndex, ServerId, SnapshotMeta

#: Chunks under way to one peer.
_WINDOW = 16

# --- compaction ----------------------------------------------------------


def taken(state: State, meta: SnapshotMeta) -> None:
    """Cut the log, now that *meta* is durable; a tail stays (§5.1)."""
    if state.snapshot is not None and meta.index <= state.snapshot.index:
        return
    state.snapshot = meta
    cut(state, state.tuning.log_tail)


def cut(state: State, tail: int) -> None:
    """
    Drop what the latest snapshot covers, but for *tail* entries (§5.1).

    What is being sent to a peer has to be followed by the log, so the log
    waits for those who get an earlier snapshot just now.
    """
    if state.snapshot is None:
        return
    last = min(state.snapshot.index, state.log.last_applied) - tail
    for peer, progress in state.progress.items():
        if progress.sending is not None and state.is_alive(peer):
            last = min(last, progress.sending.index)
    _compact(state, min(last, state.log.stable_index))


def _compact(state: State, index: LogIndex) -> None:
    log = state.log
    if index > log.base_index:
        log.compact(index)
        state.compact = (index, log.base_term)


# --- the leader's side ---------------------------------------------------


def send(state: State, peer: ServerId, progress: Progress) -> None:
    """Ask for as many chunks for *peer* as the window allows."""
    meta = progress.sending or state.snapshot
    if meta is None:
        return
    if progress.phase is not Phase.SNAPSHOT:
        progress.send_snapshot(meta, state.reign)
    if state.reign - progress.moved >= state.tuning.election_ticks:
        # Something was lost: begin again where the peer is, gently.
        progress.next_chunk = progress.stored_chunks = progress.wanted_chunk
        progress.window = 1
        progress.moved = state.reign
    last = min(progress.stored_chunks + progress.window, meta.chunks)
    for number in range(progress.next_chunk, last):
        state.chunk_fetches.append(FetchChunk(meta, number, peer, state.term))
    progress.next_chunk = max(progress.next_chunk, last)


def fetched(state: State, fetch: FetchChunk, data: bytes | None) -> None:
    """Send a chunk that was read; ``None``: that snapshot is gone, take another."""
    progress = state.progress.get(fetch.peer)
    if progress is None or state.term != fetch.term or progress.sending != fetch.meta:
        return
    if data is None:
        # There may be a newer one; if not, this one is asked for again later.
        if fetch.meta != state.snapshot:
            progress.probe(progress.match_index + 1)
        return
    message = InstallSnapshot(state.server, state.term, fetch.meta, fetch.number, data)
    state.messages.append((fetch.peer, message))


def on_response(state: State, message: InstallSnapshotResponse) -> None:
    """Move the window; after the last chunk, go on with the log (figure 5.3)."""
    progress = state.progress.get(message.sender)
    if progress is None:
        return
    progress.heard = state.reign
    meta = progress.sending
    if meta is None or (meta.index, meta.checksum) != (message.index, message.checksum):
        return
    if not 0 <= message.next_chunk <= meta.chunks:
        raise ProtocolError("an answer about a chunk that there is not")
    if message.next_chunk == meta.chunks:
        progress.probe(meta.index + 1)
        progress.matched(meta.index)
        return
    # It may have restarted, and want less than it had; or the answer is old.
    progress.wanted_chunk = message.next_chunk
    if message.next_chunk > progress.stored_chunks:
        progress.stored_chunks = message.next_chunk
        progress.next_chunk = max(progress.next_chunk, message.next_chunk)
        progress.window = min(2 * progress.window, _WINDOW)
        progress.moved = state.reign


# --- the follower's side -------------------------------------------------


def on_install(state: State, message: InstallSnapshot) -> None:
    """Take a chunk, if it is the next one; say which one is (figure 5.3)."""
    meta = message.meta
    if not 0 <= message.number < meta.chunks:
        raise ProtocolError("a chunk that its snapshot cannot have")
    if not 0 < meta.term <= message.term or meta.membership_index > meta.index:
        raise ProtocolError("a snapshot that its leader cannot have")
    Membership.decode(meta.membership)
    if state.leader != message.sender:
        # Its heartbeats will say.
        state.is_lease_possible = True
    roles.become_follower(state, message.term, message.sender)
    if meta.index <= state.log.commit_index:
        # The log has it all, but perhaps not durably yet.
        _answer(state, message.sender, meta, meta.chunks, durable_to=meta.index)
        return
    receiving = state.receiving
    if receiving is None or receiving.meta != meta:
        receiving = state.receiving = Receiving(meta, message.sender)
    receiving.sender = message.sender
    if message.number == receiving.chunks:
        state.received.append(ReceivedChunk(meta, message.number, message.data))
        receiving.chunks += 1
    # That it has the last one is said when the whole is durable.
    _answer(state, message.sender, meta, min(receiving.chunks, meta.chunks - 1))


def stored(state: State, meta: SnapshotMeta, *, is_whole: bool) -> None:
    """
    Install *meta*, whose chunks are durable (figure 5.3).

    Args:
        state: Of whoever received it.
        meta: The snapshot.
        is_whole: It is what was announced; else it is received again.
    """
    sender: ServerId | None = None
    if state.receiving is not None and state.receiving.meta == meta:
        sender, state.receiving = state.receiving.sender, None
    if not is_whole:
        return
    # Another may be coming in by now; but this one is there, and is as good.
    if state.snapshot is None or meta.index > state.snapshot.index:
        state.snapshot = meta
        _install(state, meta)
    if sender is not None:
        _answer(state, sender, meta, meta.chunks)


def _install(state: State, meta: SnapshotMeta) -> None:
    log = state.log
    if meta.index <= log.commit_index or log.term(meta.index) == meta.term:
        # The log has it all, and more; only that it is committed is news.
        log.commit_index = max(log.commit_index, meta.index)
        if state.restoring is not None:
            # The older one may be gone before it is restored.
            state.restore = state.restoring = meta
        return
    if state.role is not Role.FOLLOWER:
        # It stands for election with the log that goes.
        roles.become_follower(state, state.term, None)
    log.reset(meta.index, meta.term)
    membership = Membership.decode(meta.membership)
    state.memberships = [(meta.membership_index, membership)]
    state.events.append(MembershipChanged(membership))
    state.compact = (meta.index, meta.term)
    state.restore = state.restoring = meta


def restored(state: State, meta: SnapshotMeta) -> None:
    """Go on applying behind *meta*, which the state machine has now."""
    if state.restoring == meta:
        state.restoring = None
        state.log.last_applied = meta.index


def _answer(
    state: State,
    leader: ServerId,
    meta: SnapshotMeta,
    next_chunk: int,
    durable_to: LogIndex = 0,
) -> None:
    answer = InstallSnapshotResponse(
        state.server, state.term, meta.index, meta.checksum, next_chunk
    )
    state.reply(leader, answer, index=durable_to)


def on_install_as_leader(state: State, message: InstallSnapshot) -> None:
    """Refuse a second leader of the same term, which cannot be (§3.6.3)."""
    text = f"{message.sender} claims to lead term {state.term}, which this server leads"
    raise ProtocolError(text)
