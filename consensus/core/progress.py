"""What a leader knows of one other server's log (§3.5, §10.2.1)."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from consensus.core.values import LogIndex, SnapshotMeta


class Phase(Enum):
    """How entries are sent to a peer."""

    #: Its log is unknown: one message, then wait for the answer.
    PROBE = "probe"
    #: The logs agree up to somewhere: several messages ahead of the answers.
    REPLICATE = "replicate"
    #: It lacks entries that are gone from the log: a snapshot is sent (figure 5.3).
    SNAPSHOT = "snapshot"


@dataclass(slots=True)
class Progress:
    """
    A leader's view of one peer.

    Args:
        next_index: The next entry to send it.
        match_index: The last entry that it is known to have, durably.
        phase: See :class:`Phase`.
        probing: In ``PROBE``: a message is out; wait for the answer or for
            the next heartbeat.
        fetching: Entries for it are being read from storage.
        round: The latest round of heartbeats that it answered (§6.4).
        matched_round: The leader's round when it was last found to have more.
        sent_commit: The highest commit index that a message let it know.
        heard: At which tick of the leader's reign it answered last (§6.2).
        inflight: The last index of each message with entries under way.
        goal: A learner: where the leader's log ended when the current round
            of catching up began (§4.2.1).
        goal_set: At which tick of the reign that was.
        keeps_up: The last round took less than an election timeout.
        leaving: At which tick it was left out of the membership; 0 if it was
            not.  It is told so for a while (§4.2.2).
        sending: In ``SNAPSHOT``: which.
        next_chunk: The next chunk of it to send.
        stored_chunks: How many of them the peer has.
        wanted_chunk: Which one the peer asked for last.
        window: How many may be under way.
        moved: At which tick of the reign a chunk was last known to arrive.
    """

    next_index: LogIndex
    match_index: LogIndex = 0
    phase: Phase = Phase.PROBE
    probing: bool = False
    fetching: bool = False
    round: int = 0
    matched_round: int = 0
    sent_commit: LogIndex = 0
    heard: int = 0
    inflight: deque[LogIndex] = field(default_factory=deque)
    goal: LogIndex = 0
    goal_set: int = 0
    keeps_up: bool = False
    leaving: int = 0
    sending: SnapshotMeta | None = None
    next_chunk: int = 0
    stored_chunks: int = 0
    wanted_chunk: int = 0
    window: int = 1
    moved: int = 0

    def probe(self, next_index: LogIndex) -> None:
        """Send from *next_index* and see; what is under way is written off."""
        self.phase = Phase.PROBE
        self.next_index = max(next_index, self.match_index + 1)
        self.probing = False
        self.sending = None
        self.inflight.clear()

    def send_snapshot(self, meta: SnapshotMeta, now: int) -> None:
        """Send *meta* from its first chunk on; *now* is the tick of the reign."""
        self.phase = Phase.SNAPSHOT
        self.inflight.clear()
        self.sending = meta
        self.next_chunk = self.stored_chunks = self.wanted_chunk = 0
        self.window = 1
        self.moved = now

    def matched(self, index: LogIndex) -> None:
        """Note that the peer has the log up to *index*."""
        self.match_index = max(self.match_index, index)
        while self.inflight and self.inflight[0] <= index:
            self.inflight.popleft()
        if self.phase is not Phase.PROBE:
            self.next_index = max(self.next_index, self.match_index + 1)
        elif index >= self.next_index - 1:
            self.phase = Phase.REPLICATE
            self.next_index = self.match_index + 1

    def sent(self, last_index: LogIndex) -> None:
        """Note that entries up to *last_index* are on their way."""
        if self.phase is Phase.REPLICATE:
            self.next_index = last_index + 1
            self.inflight.append(last_index)
