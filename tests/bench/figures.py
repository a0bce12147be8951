"""What many measurements amount to: percentiles, and the median of runs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

#: A sample keeps this many quantiles of its latencies, and the smallest.
QUANTILES = 1000


def quantiles(values: Sequence[float], parts: int = QUANTILES) -> list[float]:
    """
    Return ``parts + 1`` quantiles of *values*, from the smallest to the largest.

    None come back if there are no values.
    """
    ordered = sorted(values)
    last = len(ordered) - 1
    return [
        ordered[round(last * each / parts)]
        for each in range(parts + 1 if ordered else 0)
    ]


@dataclass(slots=True)
class Sample:
    """
    What one load measured.

    Args:
        count: Operations that were done.
        seconds: From the first one's beginning to the last one's end.
        latencies: Quantiles of what they took, in seconds.
        rates: Operations a second, for each tenth of a second.
        errors: How many failed, by the name of the error.
    """

    count: int
    seconds: float
    latencies: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Return the operations a second."""
        return self.count / self.seconds if self.seconds else 0.0

    def percentile(self, percent: float) -> float:
        """Return what *percent* of the operations took at most, in milliseconds."""
        if not self.latencies:
            return float("nan")
        last = len(self.latencies) - 1
        return self.latencies[round(last * percent / 100)] * 1000

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Figure:
    """
    What several runs gave for one thing.

    Args:
        runs: One number for each run, in their order.
    """

    runs: tuple[float, ...]

    @property
    def median(self) -> float:
        """Return the median."""
        return median(self.runs)

    @property
    def least(self) -> float:
        """Return the smallest."""
        return min(self.runs)

    @property
    def most(self) -> float:
        """Return the largest."""
        return max(self.runs)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "median": self.median,
            "min": self.least,
            "max": self.most,
            "runs": list(self.runs),
        }
