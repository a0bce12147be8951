"""
Leadership transfer (§3.10): the leader chooses who leads next.

The leader stops taking writes, sends the chosen server what it lacks, and asks
it to stand for election at once.  If nothing comes of it within an election
timeout, the leader goes on as before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from consensus.core.messages import TimeoutNow
from consensus.core.ready import TransferFailed

if TYPE_CHECKING:
    from consensus.core.state import State
    from consensus.core.values import ServerId

#: A new leader hands over to a preferred one after so many election timeouts,
#: so that one that cannot keep its office does not get it again at once.
_PATIENCE = 10


def begin(state: State, target: ServerId) -> None:
    """
    Hand leadership over to *target*, a peer; replaces an earlier choice.

    There is no lease from here to the end of the term: the request to stand
    may arrive long after the transfer was given up, and it breaks all pledges.
    """
    state.may_lease = False
    state.transferee = target
    state.transfer_began = state.reign
    state.has_told_transferee = False
    proceed(state, target)


def proceed(state: State, peer: ServerId) -> None:
    """Ask *peer* to stand, if it is the one, and has the whole log."""
    if peer != state.transferee or state.has_told_transferee:
        return
    progress = state.progress.get(peer)
    if progress is not None and progress.match_index == state.log.last_index:
        state.has_told_transferee = True
        state.messages.append((peer, TimeoutNow(state.server, state.term)))


def tick(state: State) -> None:
    """Give up a transfer that takes too long; think of the preferred leader."""
    elapsed = state.reign - state.transfer_began
    if state.transferee is not None:
        if elapsed >= state.tuning.election_ticks:
            state.events.append(TransferFailed(state.transferee))
            state.transferee = None
    elif elapsed >= _PATIENCE * state.tuning.election_ticks:
        better = _preferred(state)
        if better is not None:
            begin(state, better)


def successor(state: State) -> ServerId | None:
    """Return who should lead next: alive, and with as much of the log as any."""
    voters = state.membership.voters
    alive = [p for p in state.progress if p in voters and state.is_alive(p)]
    preferred = state.tuning.preferred

    def merit(peer: ServerId) -> tuple[int, int]:
        rank = preferred.index(peer) if peer in preferred else len(preferred)
        return state.progress[peer].match_index, -rank

    return max(alive, key=merit, default=None)


def _preferred(state: State) -> ServerId | None:
    """Return a peer that is preferred to this leader and has caught up."""
    for server in state.tuning.preferred:
        if server == state.server:
            return None
        progress = state.progress.get(server)
        if (
            progress is not None
            and server in state.membership.voters
            and state.is_alive(server)
            and progress.match_index >= state.log.commit_index
        ):
            return server
    return None
