"""Whole clusters under random faults, with clients whose answers are judged."""

from __future__ import annotations

import pytest

from consensus.testing.simulation import check
from tests.support.simulations import scenario_of


class RandomClusterTests:
    """Every seed keeps every promise."""

    @pytest.mark.raft_seeds(200)
    def test_promises_are_kept(self, raft_seed: int) -> None:
        """Invariants at every step, linearizable answers, and life at the end."""
        check(scenario_of(raft_seed), raft_seed)
