"""What a leader knows of its peers, for whoever looks after a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from consensus.core.values import Role
from consensus.telemetry.measurements import Second  # noqa: TC001 - msgspec looks the types up

if TYPE_CHECKING:
    from consensus.core.state import State
    from consensus.telemetry.measurements import Measurements


class PeerView(msgspec.Struct, frozen=True):
    """
    A leader's view of one peer.

    Args:
        server: The peer.
        address: Where it listens.
        phase: ``probe``, ``replicate`` or ``snapshot``: how it is sent entries.
        next_index: The next entry to send it.
        match_index: The last entry that it is known to have, durably.
        in_flight: Messages with entries that it has not answered yet.
        lag: How many entries of the leader's log it is not known to have.
        silent_for: Seconds since it answered last.
        snapshot_index: The snapshot that it is being sent; 0 if none is.
        snapshot_chunk: The next chunk of it.
        snapshot_chunks: How many it has.
    """

    server: str
    address: str
    phase: str
    next_index: int
    match_index: int
    in_flight: int
    lag: int
    silent_for: float
    snapshot_index: int = 0
    snapshot_chunk: int = 0
    snapshot_chunks: int = 0


class LeaderView(msgspec.Struct, frozen=True):
    """
    What a leader tells of its peers and its writes.

    Args:
        server: The leader.
        term: Its term.
        last_index: The last entry of its log.
        commit_index: The last one that is committed.
        peers: Its view of each of them.
        latencies: How long the latest batches of writes took, in seconds.
        seconds: The writes of the last minutes, second by second.
    """

    server: str
    term: int
    last_index: int
    commit_index: int
    peers: list[PeerView]
    latencies: list[float]
    seconds: list[Second]


def leader_view(state: State, tick: float, measured: Measurements) -> LeaderView:
    """Return what the leader of *state*, with *tick* seconds a tick, can tell."""
    return LeaderView(
        state.server,
        state.term,
        state.log.last_index,
        state.log.commit_index,
        peers_of(state, tick),
        list(measured.latencies),
        measured.recent(),
    )


def peers_of(state: State, tick: float) -> list[PeerView]:
    """
    Return what the server of *state* knows of its peers: nothing, unless it leads.

    Args:
        state: Of its Raft.
        tick: The seconds of one tick.
    """
    if state.role is not Role.LEADER:
        return []
    addresses = state.membership.members()
    views = []
    for name, progress in sorted(state.progress.items()):
        if name == state.server:
            continue
        sending = progress.sending
        views.append(
            PeerView(
                name,
                addresses.get(name, ""),
                progress.phase.value,
                progress.next_index,
                progress.match_index,
                len(progress.inflight),
                max(0, state.log.last_index - progress.match_index),
                (state.reign - progress.heard) * tick,
                0 if sending is None else sending.index,
                0 if sending is None else progress.next_chunk,
                0 if sending is None else sending.chunks,
            )
        )
    return views
