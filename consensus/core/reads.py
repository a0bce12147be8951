"""
Linearizable reads without a write to the log (§6.4).

A read may be answered from a leader's state machine once (1) the machine has
applied everything that was committed when the read arrived, including the
no-op of the leader's own term, and (2) a majority has answered a heartbeat
that was sent *after* the read arrived.  Many reads share one such round.

Any other server may answer a read, too: it asks the leader for the index of
(1), which the leader tells it after (2), and applies its own log up to there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from consensus.core.messages import RequestReadIndex, RequestReadIndexResponse
from consensus.core.state import PendingRead, State
from consensus.core.values import Role

if TYPE_CHECKING:
    from consensus.core.values import ServerId

#: Reads that wait for their round; beyond it, the questions of others are
#: lost, and asked again.  This server's own are bounded by its shell.
MAX_WAITING = 1024

# --- the leader's side ---------------------------------------------------


def begin(state: State, read_id: int, asker: ServerId | None = None) -> None:
    """
    Let a leader's read wait for the next round of heartbeats.

    Args:
        state: A leader's.
        read_id: What to call it in the answer.
        asker: The server that asked; ``None`` for this one.
    """
    if not state.round_due:
        state.round += 1
        state.round_due = True
    # Every entry of earlier leaders comes before the term's no-op.
    index = max(state.log.commit_index, state.term_start)
    state.reads.append(PendingRead(read_id, index, state.round, asker))
    release(state)


def on_request_read_index(state: State, message: RequestReadIndex) -> None:
    """Let the sender's read wait for the next round, as the leader's own do."""
    if len(state.reads) < MAX_WAITING:
        begin(state, message.id, message.sender)


def confirm(state: State, peer: ServerId, answered: int) -> None:
    """Note that *peer* answered the round *answered* in the current term."""
    progress = state.progress[peer]
    if answered > progress.round:
        progress.round = answered
        release(state)


def confirmed(state: State) -> int:
    """Return the last round that a majority has answered in this term."""
    reached = {peer: progress.round for peer, progress in state.progress.items()}
    reached[state.server] = state.round
    return state.membership.majority_index(reached)


def release(state: State) -> None:
    """Let go the reads whose round a majority has answered."""
    if not state.reads:
        return
    last = confirmed(state)
    while state.reads and state.reads[0].round <= last:
        read = state.reads.popleft()
        if read.asker is None:
            state.confirmed_reads.append((read.id, read.index))
        else:
            answer = RequestReadIndexResponse(
                state.server, state.term, read.id, read.index
            )
            state.reply(read.asker, answer)


# --- the side of whoever asks --------------------------------------------


def ask(state: State, read_id: int) -> None:
    """Have the leader, which is known, say what a read needs to be applied."""
    if state.role is Role.LEADER:
        begin(state, read_id)
    elif state.leader is not None:
        question = RequestReadIndex(state.server, state.term, read_id)
        state.reply(state.leader, question)


def on_read_index(state: State, message: RequestReadIndexResponse) -> None:
    """
    Serve the read when the log is applied up to the leader's index.

    The answer is of the current term, whose leader was confirmed after the
    question arrived.  Should another lead by now, it makes no difference: all
    that was acknowledged before the question was is at or below that index.
    """
    if message.index:
        state.confirmed_reads.append((message.id, message.index))
