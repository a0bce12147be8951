"""The figures as tables for a person, and as JSON for a program."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

from rich.table import Table

from tests.bench.figures import Figure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.bench.figures import Sample
    from tests.bench.scenarios import Run


@dataclass(slots=True)
class Results:
    """
    What one scenario found.

    Args:
        name: The scenario's.
        title: What it is about.
        runs: Of each system, in the order of the columns.
        remarks: What cannot be said in a figure.
    """

    name: str
    title: str
    runs: dict[str, list[Run]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def add(self, run: Run) -> None:
        """Keep *run*, and each remark once."""
        self.runs.setdefault(run.system.name, []).append(run)
        for remark in run.remarks:
            self.remark(f"{run.system.name}: {remark}")

    def remark(self, text: str) -> None:
        """Keep *text*, once."""
        if text not in self.remarks:
            self.remarks.append(text)

    def names(self) -> list[str]:
        """Return the names of all figures, as they came."""
        every = (run for runs in self.runs.values() for run in runs)
        return list(dict.fromkeys(name for run in every for name in run.figures))

    def figure(self, system: str, name: str) -> Figure | None:
        """Return what the runs of *system* gave for *name*, if any did."""
        found = [run.figures[name] for run in self.runs[system] if name in run.figures]
        return Figure(tuple(found)) if found else None

    def ratio(self, system: str, base: str, name: str) -> float | None:
        """
        Return how many times the *base*'s figure of *name* is that of *system*.

        Runs were made in turns and machines drift, so each is compared with the
        one beside it.  ``None`` if there is nothing to compare with.
        """
        beside = zip(self.runs[system], self.runs[base], strict=False)
        pairs = [
            ours.figures[name] / theirs.figures[name]
            for ours, theirs in beside
            if name in ours.figures and theirs.figures.get(name)
        ]
        return median(pairs) if pairs else None

    def sample(self, system: str, name: str) -> Sample | None:
        """Return the sample of *name* whose rate is the median."""
        found = [run.samples[name] for run in self.runs[system] if name in run.samples]
        found.sort(key=lambda each: each.rate)
        return found[len(found) // 2] if found else None

    def to_json(self) -> dict[str, Any]:
        """Return everything, each run's figure included."""
        systems: dict[str, Any] = {}
        for system in self.runs:
            figures = {name: self.figure(system, name) for name in self.names()}
            systems[system] = {
                name: figure.to_json() for name, figure in figures.items() if figure
            }
        return {"title": self.title, "figures": systems, "remarks": self.remarks}


def table(results: Results, bases: Sequence[str] = ()) -> Table:
    """
    Return *results* as a table: a row for each figure, a column for each system.

    Args:
        results: What was found.
        bases: The systems whose figures the others are compared with; those
            that did not take part are passed over.
    """
    made = Table(title=f"{results.name}: {results.title}", title_justify="left")
    made.add_column("median\nleast - most")
    taking_part = [each for each in bases if each in results.runs]
    for system in results.runs:
        made.add_column(system, justify="right")
        for base in taking_part if system not in bases else ():
            made.add_column(f"÷ {base}", justify="right")
    for name in results.names():
        made.add_row(name, *_cells(results, name, taking_part))
    return made


def _cells(results: Results, name: str, bases: Sequence[str]) -> list[str]:
    cells = []
    for system in results.runs:
        figure = results.figure(system, name)
        cells.append("-" if figure is None else spread(figure))
        for base in bases if system not in bases else ():
            ratio = results.ratio(system, base, name)
            cells.append("-" if ratio is None else f"x {number(ratio)}")
    return cells


def spread(figure: Figure) -> str:
    """Return *figure* as its median and, below, its least and most; or as itself."""
    if len(figure.runs) == 1:
        return number(figure.median)
    return f"{number(figure.median)}\n{number(figure.least)} - {number(figure.most)}"


def number(value: float) -> str:
    """Return *value* with three digits, or all of those before the point."""
    if math.isnan(value):
        return "-"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def head(machine: Mapping[str, Any]) -> str:
    """Return a line that says what was measured on."""
    return " · ".join(f"{name} {value}" for name, value in machine.items())
