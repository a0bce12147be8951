"""Networks of core Rafts as the tests of the core want them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from consensus.core.state import Tuning
from consensus.testing.disk import Disk, entries_of
from consensus.testing.network import Network

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["STABLE", "Disk", "Network", "alone", "entries_of", "led"]

#: Of servers that let a leader be, in tests that count election timeouts.
STABLE = Tuning(heartbeat_ticks=2, election_ticks=6, stable_leader=True)


def led(*names: str, tuning: Tuning = STABLE, seed: int = 0) -> Network:
    """
    Return a network in which s1 leads in term 2, and everybody has heard it.

    Args:
        names: The servers; three by default.
        tuning: Theirs.
        seed: Of their dice.
    """
    network = Network(names or ("s1", "s2", "s3"), tuning=tuning, seed=seed)
    network.elect("s1")
    network.heartbeat("s1")
    return network


def alone(
    *terms: int,
    names: Iterable[str] = ("s1", "s2", "s3"),
    term: int = 0,
    vote: str | None = None,
    tuning: Tuning | None = None,
) -> Network:
    """
    Return a network in which only s1 runs; the test speaks for the others.

    Args:
        terms: Of its log, term, vote: see :meth:`Network.store`.
        names: All servers of the cluster.
        term: The term of s1.
        vote: Its vote.
        tuning: Its tuning.
    """
    network = Network(names, founders=(), tuning=tuning)
    network.store("s1", *terms, term=term, vote=vote)
    for name in network.names:
        if name != "s1":
            network.crash(name)
    return network
