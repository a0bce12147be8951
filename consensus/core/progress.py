"""What a leader knows of one other server's log (§3.5, §10.2.1)."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from consensus.core.values import LogIndex


class Phase(Enum):
    """How entries are sent to a peer."""

    #: Its log is unknown: one message, then wait for the answer.
    PROBE = "probe"
    #: The logs agree up to somewhere: several messages ahead of the answers.
    REPLICATE = "replicate"


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
        sent_commit: The highest commit index that a message let it know.
        heard: At which tick of the leader's reign it answered last (§6.2).
        inflight: The last index of each message with entries under way.
    """

    next_index: LogIndex
    match_index: LogIndex = 0
    phase: Phase = Phase.PROBE
    probing: bool = False
    fetching: bool = False
    round: int = 0
    sent_commit: LogIndex = 0
    heard: int = 0
    inflight: deque[LogIndex] = field(default_factory=deque)

    def probe(self, next_index: LogIndex) -> None:
        """Send from *next_index* and see; what is under way is written off."""
        self.phase = Phase.PROBE
        self.next_index = max(next_index, self.match_index + 1)
        self.probing = False
        self.inflight.clear()

    def matched(self, index: LogIndex) -> None:
        """Note that the peer has the log up to *index*."""
        self.match_index = max(self.match_index, index)
        while self.inflight and self.inflight[0] <= index:
            self.inflight.popleft()
        if self.phase is Phase.REPLICATE:
            self.next_index = max(self.next_index, self.match_index + 1)
        elif index >= self.next_index - 1:
            self.phase = Phase.REPLICATE
            self.next_index = self.match_index + 1

    def sent(self, last_index: LogIndex) -> None:
        """Note that entries up to *last_index* are on their way."""
        if self.phase is Phase.REPLICATE:
            self.next_index = last_index + 1
            self.inflight.append(last_index)
