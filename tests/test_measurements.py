"""Tests of consensus.telemetry: what is counted, and how little that is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from consensus.core.ready import RoleChanged
from consensus.core.values import Role
from consensus.errors import OverloadedError
from consensus.telemetry.histogram import SECONDS, Histogram
from consensus.telemetry.measurements import Measurements


class HistogramTests:
    """How often something was how large."""

    @given(st.lists(st.tuples(st.floats(0, 20), st.integers(1, 5))))
    def test_buckets(self, observed: list[tuple[float, int]]) -> None:
        """Each bucket counts what is no larger than its bound."""
        histogram = Histogram()
        for value, count in observed:
            histogram.observe(value, count)
        for bound, found in histogram.cumulative():
            assert found == sum(count for value, count in observed if value <= bound)
        total = sum(value * count for value, count in observed)
        assert histogram.total == pytest.approx(total)

    def test_bounds(self) -> None:
        """They grow, and the last bucket has no end."""
        assert list(SECONDS) == sorted(set(SECONDS))
        assert [bound for bound, _ in Histogram().cumulative()][-1] == float("inf")


class MeasurementsTests:
    """What a server counts."""

    def test_failures(self) -> None:
        """By code; what is no error of ours is a bug."""
        measured = Measurements(lambda: 0.0)
        measured.failed(OverloadedError("x"), 3)
        measured.failed(KeyError("x"))
        assert measured.failures == {"overloaded": 3, "bug": 1}

    def test_leaders(self) -> None:
        """The same leader is no change, nor is it to know of none for a while."""
        measured = Measurements(lambda: 0.0)
        for leader in ("s1", None, "s1", "s2", "s2", "s1"):
            measured.heard(RoleChanged(Role.FOLLOWER, 1, leader))
        assert measured.leader_changes == 3

    def test_seconds(self) -> None:
        """Writes are gathered second by second; old ones are forgotten."""
        clock = Clock()
        measured = Measurements(clock.seconds)
        for moment in (0.25, 0.5, 2.0):
            clock.advance(moment - clock.seconds())
            measured.wrote(moment - 0.25, 2)
        first, second = measured.recent()
        assert (first.writes, first.mean, first.worst) == (4, 0.25, 0.25)
        assert (second.writes, second.at) == (2, 0.0)
        assert list(measured.latencies) == [0.25] * 3
        clock.advance(1000)
        assert not measured.recent()

    def test_memory(self) -> None:
        """However much is written, what is remembered is bounded."""
        clock = Clock()
        measured = Measurements(clock.seconds)
        for _ in range(1000):
            clock.advance(1.5)
            measured.wrote(clock.seconds(), 1)
        assert len(measured.latencies) == 300
        assert len(measured._recent) == 300
