"""What the timing of a config should be, by what was measured."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from consensus.config import Timing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from consensus.doctor.disk import Disk
    from consensus.doctor.network import Way

_STEP = 0.05


@dataclass(frozen=True, slots=True)
class Advice:
    """
    What one key of ``timing`` should say.

    Args:
        key: The key.
        now: What it says.
        proposed: What it should say.
        why: The reason, in a line.
    """

    key: str
    now: float
    proposed: float
    why: str


def advise(timing: Timing, disks: Sequence[Disk], ways: Sequence[Way]) -> list[Advice]:
    """Return what *timing* should be with these *disks* and *ways*."""
    default = Timing()
    trip = max((way.round_trips.p99 for way in ways if way.round_trips), default=0.0)
    sync = max((disk.syncs.p99 for disk in disks if disk.syncs), default=0.0)
    heartbeat = _at_least(default.heartbeat_interval, 2 * trip)
    election = _at_least(default.election_timeout, 10 * (trip + sync), 5 * heartbeat)
    request = _at_least(default.request_timeout, 20 * election)
    measured = f"{_ms(trip)} a round trip"
    if not any(way.round_trips for way in ways):
        measured = "no member answers, so the network is not known"
    return [
        Advice(
            "heartbeat_interval",
            timing.heartbeat_interval,
            heartbeat,
            f"two round trips, and not below {default.heartbeat_interval:g} s:"
            f" {measured}",
        ),
        Advice(
            "election_timeout",
            timing.election_timeout,
            election,
            f"ten times a round trip and a sync ({measured}; {_ms(sync)} a sync), and"
            " five heartbeats",
        ),
        Advice(
            "request_timeout",
            timing.request_timeout,
            request,
            "twenty election timeouts, so that calls outlive a change of leaders, and"
            f" not below {default.request_timeout:g} s",
        ),
    ]


def _at_least(*seconds: float) -> float:
    """Return the largest of *seconds*, rounded up to a number one would write."""
    # The tolerance: a twentieth is not exact in binary.
    return round(math.ceil(max(seconds) / _STEP - 1e-9) * _STEP, 2)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"
