"""
How a client learns who belongs to the cluster: any member knows the membership.

So a client finds servers that it was not told of, and leaves those that are
gone.  It asks when it is first used, again every minute of use, and when a
server cannot be reached; all servers at once, as there are few, and those that
it was told of however long ago, as all others may have been replaced since.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import DeferredList

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from twisted.internet.defer import Deferred

    from consensus.calling.targets import Targets
    from consensus.core.values import Address, ServerId, Status

# Seconds between two looks when all is well, for a server to say what it knows,
# and between two looks when something is wrong: twice as many each time.
_INTERVAL = 60.0
_PATIENCE = 2.0
_FIRST_PAUSE = 1.0


class Discovery:
    """
    Keeps the *targets* of a client up to date.

    Args:
        targets: What it changes.
        ask: Asks the server at an address for its status.
        clock: What it goes by.
        dice: Returns a number from 0 to 1, so that clients do not all ask in
            the same moment.
    """

    def __init__(
        self,
        targets: Targets,
        ask: Callable[[Address, float], Deferred[Status]],
        clock: Any,
        dice: Callable[[], float],
    ) -> None:
        self._targets = targets
        self._ask = ask
        self._clock = clock
        self._dice = dice
        self._cluster: str | None = None
        self._is_looking = False
        self._due = -math.inf
        self._earliest = -math.inf
        self._pause = _FIRST_PAUSE

    def look_if_due(self) -> None:
        """Ask around if it is time to; called with each call of the client."""
        if self._clock.seconds() < self._due or self._is_looking:
            return
        self._is_looking = True
        addresses = self._targets.addresses()
        asked = [self._ask(address, _PATIENCE) for address in addresses]
        DeferredList(asked, consumeErrors=True).addCallback(self._looked, addresses)

    def doubt(self) -> None:
        """Look again soon: somebody could not be reached, or is not known."""
        self._due = min(self._due, self._earliest)

    def _looked(
        self, results: list[tuple[bool, Any]], addresses: list[Address]
    ) -> None:
        self._is_looking = False
        answered = [
            (address, result)
            for address, (is_answer, result) in zip(addresses, results, strict=True)
            if is_answer
        ]
        members = self._members(answered)
        if members:
            self._targets.learn(members)
        is_well = len(answered) >= len(members) > 0
        self._pause = _FIRST_PAUSE if is_well else min(2 * self._pause, _INTERVAL)
        spread = 0.75 + 0.5 * self._dice()
        now = self._clock.seconds()
        self._earliest = now + self._pause * spread
        # Without an answer there is no reason to wait for a failure.
        self._due = now + _INTERVAL * spread if members else self._earliest

    def _members(
        self, answered: Iterable[tuple[Address, Status]]
    ) -> dict[ServerId, Address]:
        """Return where the members are; nobody if no answer says so."""
        ours: list[tuple[Address, Status]] = []
        for address, status in answered:
            # Another cluster may have got the address of a server that is gone.
            if status.membership and self._cluster in {None, status.cluster}:
                self._cluster = status.cluster
                ours.append((address, status))
        if not ours:
            return {}
        newest = max((status for _, status in ours), key=_recency)
        members = {**newest.learners, **newest.membership, **newest.outgoing}
        # Where a server has answered it can be reached, whatever it is told
        # that its address is.
        reached = {status.server: address for address, status in ours}
        return {
            name: reached.get(name, address) or name
            for name, address in members.items()
        }


def _recency(status: Status) -> tuple[int, int, int]:
    return status.membership_index, status.term, status.commit_index
