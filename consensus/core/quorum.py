"""
Majority arithmetic: pure functions over voters and indexes (§3.5).

The same count serves commitment (over match indexes) and reads (over rounds
of heartbeats, §6.4).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from consensus.core.values import ServerId


def quorum_size(voters: Collection[ServerId]) -> int:
    """Return how many of *voters* make a majority."""
    return len(voters) // 2 + 1


def quorum_index(voters: Collection[ServerId], reached: Mapping[ServerId, int]) -> int:
    """
    Return the highest number that a majority of *voters* has reached.

    A voter that is not in *reached* counts as zero.  Over match indexes this
    is not yet the commit index: the caller has to see that the entry there is
    of the leader's own term (§3.6.2).  *voters* is never empty.
    """
    numbers = sorted((reached.get(voter, 0) for voter in voters), reverse=True)
    return numbers[quorum_size(voters) - 1]
