"""Tests of consensus.testing.simulation: failures are shrunk, and doubts are told."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from consensus.testing.history import Write
from consensus.testing.simulation import (
    Scenario,
    ScenarioError,
    UndecidedHistoryError,
    check,
    soak,
)
from tests.support.simulations import Tally, scenario_of

if TYPE_CHECKING:
    from collections.abc import Callable


def ticking() -> Callable[[], float]:
    """Return a clock that goes on by a second whenever it is read."""
    return itertools.count().__next__


class ShrinkTests:
    """What a failing scenario says."""

    def test_a_failure_is_shrunk(self) -> None:
        """The faults without which it fails as well are left out."""

        class Fragile(Tally):
            """Its state is another after a restore."""

            def restore(self, chunks: Any, last_applied: int) -> Any:
                return {**super().restore(chunks, last_applied), "restored": 1}

        scenario = Scenario(
            Fragile,
            lambda dice: Write(["set", "x", dice.randrange(9)]),
            config={"snapshots": {"every_entries": 10, "keep_entries": 1}},
            every=0.5,
        )
        with pytest.raises(ScenarioError, match="state machine safety") as caught:
            check(scenario, 1, shrinking=20.0)
        assert 1 <= len(caught.value.plan) <= 2
        assert "seed 1" in str(caught.value)

    def test_soaking_ends(self) -> None:
        """It says how many seeds it ran, and which failed."""
        said: list[str] = []
        assert (
            soak(
                lambda seed: scenario_of(seed, 1.0),
                0.05,
                say=said.append,
                clock=ticking(),
            )
            == []
        )
        assert said == ["2 seeds from 0 on; failing: none"]


class UndecidedTests:
    """A history that nobody can judge is no success."""

    def hopeless(self, seed: int) -> Scenario:
        """Return a scenario whose judge gives up at once."""
        return replace(scenario_of(seed, 2.0), step_limit=1)

    def test_a_check_says_that_it_knows_nothing(self) -> None:
        """And what to do about it; nothing is shrunk, as nothing has failed."""
        with pytest.raises(UndecidedHistoryError, match="raise step_limit=") as caught:
            check(self.hopeless(1), 1)
        assert not isinstance(caught.value, ScenarioError)
        assert caught.value.seed == 1

    def test_soaking_counts_them(self) -> None:
        """They are named at the end, and are no failures."""
        said: list[str] = []

        def make(seed: int) -> Scenario:
            return scenario_of(1, 1.0) if seed % 2 else self.hopeless(1)

        assert soak(make, 0.1, say=said.append, clock=ticking()) == []
        assert said == ["5 seeds from 0 on; failing: none; undecided: 3, [0, 2, 4]"]

    def test_soaking_fails_if_nothing_was_decided(self) -> None:
        """All of its seeds are returned: there is no success to report."""
        said: list[str] = []
        assert soak(self.hopeless, 0.05, say=said.append, clock=ticking()) == [0, 1]
        assert "not one history was decided" in said[-1]
