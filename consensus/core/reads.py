"""
Linearizable reads without a write to the log (§6.4).

A read may be answered from a leader's state machine once (1) the machine has
applied everything that was committed when the read arrived, including the
no-op of the leader's own term, and (2) a majority has answered a heartbeat
that was sent *after* the read arrived.  Many reads share one such round.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from consensus.core.quorum import quorum_index
from consensus.core.state import PendingRead, State

if TYPE_CHECKING:
    from consensus.core.values import ServerId


def begin(state: State, read_id: int) -> None:
    """Let a leader's read wait for the next round of heartbeats."""
    if not state.round_due:
        state.round += 1
        state.round_due = True
    # Every entry of earlier leaders comes before the term's no-op.
    index = max(state.log.commit_index, state.term_start)
    state.reads.append(PendingRead(read_id, index, state.round))
    release(state)


def confirm(state: State, peer: ServerId, answered: int) -> None:
    """Note that *peer* answered the round *answered* in the current term."""
    progress = state.progress[peer]
    if answered > progress.round:
        progress.round = answered
        release(state)


def release(state: State) -> None:
    """Let go the reads whose round a majority has answered."""
    if not state.reads:
        return
    reached = {peer: progress.round for peer, progress in state.progress.items()}
    reached[state.server] = state.round
    confirmed = quorum_index(state.membership.voters, reached)
    while state.reads and state.reads[0].round <= confirmed:
        read = state.reads.popleft()
        state.confirmed_reads.append((read.id, read.index))
