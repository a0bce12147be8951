"""Log replication (§3.5), commitment (§3.6.2) and heartbeats (§3.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from consensus.core import changes, reads, snapshot, transfer
from consensus.core import state as roles
from consensus.core.log import MAX_BATCH
from consensus.core.membership import Membership
from consensus.core.messages import AppendEntries, AppendEntriesResponse
from consensus.core.progress import Phase, Progress
from consensus.core.ready import Fetch
from consensus.core.values import EntryKind
from consensus.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from consensus.core.state import State
    from consensus.core.values import Entry, LogIndex, ServerId

_MEMBERSHIP = int(EntryKind.MEMBERSHIP)

# --- the leader's side ---------------------------------------------------


def tick(state: State) -> None:
    """Let a tick pass for a leader: it speaks once a heartbeat interval."""
    state.elapsed += 1
    if state.elapsed >= state.tuning.heartbeat_ticks:
        state.elapsed = 0
        state.heartbeat_due = True
        # Its answers show that this server leads, should a read want to know.
        state.round += 1
    state.reign += 1
    transfer.tick(state)
    changes.tick(state)
    if state.tuning.stable_leader:
        _check_quorum(state)


def _check_quorum(state: State) -> None:
    """Step down if no majority has answered for an election timeout (§6.2)."""
    alive = {peer for peer in state.progress if state.is_alive(peer)}
    if not state.membership.is_quorum(alive | {state.server}):
        roles.become_follower(state, state.term, None)


def send_due(state: State, *, tell_commit: bool) -> None:
    """
    Send each peer what it lacks: entries, a heartbeat, a round, the commit index.

    Called once for each Ready, so that all that was proposed meanwhile goes
    out together.

    Args:
        state: A leader's.
        tell_commit: Tell idle peers of a new commit index in a message of its
            own; pointless when entries are about to carry it.
    """
    is_due = state.round_due or state.heartbeat_due
    last_index, commit_index = state.log.last_index, state.log.commit_index
    for peer, progress in state.progress.items():
        if (
            progress.next_index > last_index
            and progress.phase is Phase.REPLICATE
            and (progress.inflight or progress.sent_commit >= commit_index)
            and not is_due
        ):
            # Most of the time there is nothing to say.
            continue
        is_told = _send_entries(state, peer, progress)
        if state.round_due:
            # It asks about what the peer is known to have, so that the answer
            # need not wait for the peer's disk.
            _send(state, peer, _anchor(state, progress.match_index), ())
        if is_told:
            continue
        if state.heartbeat_due:
            # It asks about the end of what was sent, so that a loss shows.
            _send(state, peer, _anchor(state, progress.next_index - 1), ())
        elif tell_commit and _is_idle_and_behind(state, progress):
            _send(state, peer, progress.match_index, ())
    state.round_due = state.heartbeat_due = False


def _anchor(state: State, index: LogIndex) -> LogIndex:
    """Return *index* if its term is known, or where all logs agree: before them."""
    return index if index >= state.log.base_index else 0


def _is_idle_and_behind(state: State, progress: Progress) -> bool:
    return (
        progress.phase is Phase.REPLICATE
        and not progress.inflight
        and progress.match_index >= state.log.base_index
        and progress.sent_commit < min(state.log.commit_index, progress.match_index)
    )


def _send_entries(state: State, peer: ServerId, progress: Progress) -> bool:
    """Send as much as the window allows; return whether anything was."""
    if progress.next_index <= state.log.base_index:
        snapshot.send(state, peer, progress)
        return False
    if progress.phase is Phase.SNAPSHOT:
        # The log is long enough after all.
        progress.probe(progress.next_index)
    if progress.phase is Phase.PROBE:
        if progress.probing and not state.heartbeat_due:
            return False
        return _send_chunk(state, peer, progress)
    sent = False
    while progress.next_index <= state.log.last_index:
        if len(progress.inflight) >= state.tuning.max_inflight:
            break
        if not _send_chunk(state, peer, progress):
            break
        sent = True
    return sent


def _send_chunk(state: State, peer: ServerId, progress: Progress) -> bool:
    """Send one message from the next index on, or have it read from storage."""
    log = state.log
    first, limit = progress.next_index, state.tuning.max_append_bytes
    if first > log.last_index:
        entries: Sequence[Entry] = ()
    elif first > log.offset:
        entries = log.slice(first, log.last_index, limit)
    else:
        if not progress.fetching:
            progress.fetching = True
            last = min(log.offset, first + MAX_BATCH - 1)
            state.fetches.append(Fetch(first, last, limit, peer, state.term))
        return False
    _send_from(state, peer, progress, entries)
    return True


def _send_from(
    state: State, peer: ServerId, progress: Progress, entries: Sequence[Entry]
) -> None:
    _send(state, peer, progress.next_index - 1, entries)
    if entries:
        progress.sent(entries[-1].index)
    progress.probing = True


def _send(
    state: State, peer: ServerId, prev_index: LogIndex, entries: Sequence[Entry]
) -> None:
    log, progress = state.log, state.progress[peer]
    # The peer will commit no more than what this message checks.
    told = min(log.commit_index, prev_index + len(entries))
    progress.sent_commit = max(progress.sent_commit, told)
    message = AppendEntries(
        sender=state.server,
        term=state.term,
        prev_index=prev_index,
        prev_term=log.term(prev_index),
        commit_index=log.commit_index,
        round=state.round,
        entries=tuple(entries),
        may_lease=state.tuning.may_lease,
    )
    # A leader's term is durable since before its election, and its own write
    # of the entries may go on beside the sending (§10.2.1).
    state.messages.append((peer, message))


def fetched(state: State, fetch: Fetch, entries: Sequence[Entry]) -> None:
    """Send the entries that were read for a peer, if it still waits for them."""
    progress = state.progress.get(fetch.peer or "")
    if progress is None or state.term != fetch.term:
        return
    progress.fetching = False
    is_wanted = progress.next_index == fetch.first > state.log.base_index and (
        progress.phase is Phase.REPLICATE
        or (progress.phase is Phase.PROBE and not progress.probing)
    )
    if is_wanted:
        _send_from(state, fetch.peer or "", progress, entries)


def on_response(state: State, message: AppendEntriesResponse) -> None:
    """Move a peer's progress, and with it the commit index and the reads."""
    progress = state.progress.get(message.sender)
    if progress is None:
        return
    if message.index > state.log.last_index or message.round > state.round:
        raise ProtocolError("an answer to what was never sent")
    progress.heard = state.reign
    reads.confirm(state, message.sender, message.round)
    if message.success:
        if message.index > progress.match_index:
            progress.matched_round = state.round
        progress.matched(message.index)
        if message.index > state.log.commit_index:
            maybe_commit(state)
        transfer.proceed(state, message.sender)
    else:
        _on_rejection(state, progress, message)


def _on_rejection(
    state: State, progress: Progress, message: AppendEntriesResponse
) -> None:
    """
    Step back to where the logs may agree, skipping whole terms (§3.5).

    One that lacks what it has acknowledged, as after a restart with a storage
    that is not durable, is counted with what it has from now on.  But only if
    it answers what was sent after it had more: else this may be an old answer.
    """
    is_news = message.round > progress.matched_round
    if progress.phase is Phase.PROBE:
        is_stale = message.index != progress.next_index - 1
    elif progress.phase is Phase.REPLICATE:
        is_stale = message.index <= progress.match_index and not is_news
    else:
        is_stale = True
    if is_stale:
        return
    agreed = state.log.agreement_hint(message.hint_index, message.hint_term)
    next_index = min(agreed + 1, message.index)
    if is_news:
        progress.match_index = min(progress.match_index, next_index - 1)
    elif progress.phase is Phase.PROBE and next_index <= progress.match_index:
        # The same question would get the same answer; the next round's not.
        return
    progress.probe(next_index)


def maybe_commit(state: State) -> None:
    """
    Commit what a majority has stored, if it is of the leader's own term.

    Entries of earlier terms are never committed by counting; they are with
    the first of the current term that follows them (§3.6.2).  The leader
    counts itself only as far as its own disk is.
    """
    log = state.log
    reached = {peer: progress.match_index for peer, progress in state.progress.items()}
    reached[state.server] = log.stable_index
    index = state.membership.majority_index(reached)
    if index > log.commit_index and log.term(index) == state.term:
        log.commit_index = index
        changes.committed(state)


# --- the follower's side -------------------------------------------------


def on_append(state: State, message: AppendEntries) -> None:
    """
    Check that the logs agree before the new entries, then take them (§3.5).

    What precedes the commit index agrees in any case, by Leader Completeness.
    """
    log, entries = state.log, message.entries
    if entries and not 0 < entries[0].term <= entries[-1].term <= message.term:
        raise ProtocolError("an entry of a term that its leader cannot have")
    memberships = _memberships(entries)
    roles.become_follower(state, message.term, message.sender)
    state.is_lease_possible = message.may_lease
    if not _agrees(state, message):
        _reject(state, message)
        return
    last = message.prev_index + len(entries)
    skip = max(0, log.commit_index - message.prev_index)
    entries = entries[skip:]
    if entries:
        first = log.merge(entries[0].index - 1, entries)
        if first <= last:
            fresh = [each for each in memberships if each[0] >= first]
            state.replace_memberships(first, fresh)
    log.commit_index = max(log.commit_index, min(message.commit_index, last))
    _accept(state, message, last)
    if not message.entries and last > log.stable_index:
        # A slow disk is no silence: the leader hears of what is durable already.
        _accept(state, message, log.stable_index)


def _accept(state: State, message: AppendEntries, index: LogIndex) -> None:
    """Answer that the logs agree up to *index*, once it is durable here."""
    answer = AppendEntriesResponse(
        state.server, state.term, success=True, index=index, round=message.round
    )
    state.reply(message.sender, answer, index=index)


def _memberships(entries: Sequence[Entry]) -> list[tuple[LogIndex, Membership]]:
    """Return the memberships among *entries*, read before anything changes."""
    if _MEMBERSHIP not in [entry.kind for entry in entries]:
        return []
    return [
        (entry.index, Membership.decode(entry.command))
        for entry in entries
        if entry.kind == _MEMBERSHIP
    ]


def _agrees(state: State, message: AppendEntries) -> bool:
    prev_index, log = message.prev_index, state.log
    if prev_index <= log.commit_index:
        return True
    return prev_index <= log.last_index and log.term(prev_index) == message.prev_term


def _reject(state: State, message: AppendEntries) -> None:
    hint = state.log.agreement_hint(message.prev_index, message.prev_term)
    answer = AppendEntriesResponse(
        sender=state.server,
        term=state.term,
        success=False,
        index=message.prev_index,
        round=message.round,
        hint_index=hint,
        hint_term=state.log.term(hint),
    )
    state.reply(message.sender, answer)


def on_append_as_leader(state: State, message: AppendEntries) -> None:
    """Refuse a second leader of the same term, which cannot be (§3.6.3)."""
    text = f"{message.sender} claims to lead term {state.term}, which this server leads"
    raise ProtocolError(text)
