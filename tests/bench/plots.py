"""What a load took and gave, as pictures; needs matplotlib (the extra ``bench``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.bench.control import BenchError
from tests.bench.load import TICK

if TYPE_CHECKING:
    from pathlib import Path

    from tests.bench.figures import Sample
    from tests.bench.report import Results

_WIDTH, _HEIGHT = 7.0, 3.5


def require() -> None:
    """
    See that pictures can be drawn, before hours go by.

    Raises:
        BenchError: They cannot.
    """
    try:
        import matplotlib as mpl  # noqa: PLC0415 - only who wants pictures has it
    except ImportError as error:
        message = "pictures need matplotlib: pip install twisted-raft[bench]"
        raise BenchError(message) from error
    mpl.use("agg")


def panels(results: Results) -> dict[str, dict[str, Sample]]:
    """
    Return the samples of *results* by panel and label.

    What stands before a colon in a sample's name is the panel, and what stands
    behind it is a line of its own, beside the system's name.
    """
    found: dict[str, dict[str, Sample]] = {}
    for system, runs in results.runs.items():
        for name in dict.fromkeys(name for run in runs for name in run.samples):
            sample = results.sample(system, name)
            panel, _, line = name.partition(": ")
            if sample is not None:
                found.setdefault(panel, {})[f"{system} {line}".strip()] = sample
    return found


def draw(results: Results, directory: Path) -> list[Path]:
    """
    Draw the latencies and the throughput of *results* into *directory*.

    Returns:
        The files; none if there is nothing to draw.
    """
    found = panels(results)
    made = [(found, _distribution, "latency")] if found else []
    steady = {
        panel: lines
        for panel, lines in found.items()
        if all(sample.rates for sample in lines.values())
    }
    if steady:
        made.append((steady, _throughput, "throughput"))
    paths = []
    for each, line, what in made:
        path = directory / f"{results.name}-{what}.png"
        _save(each, line, f"{results.name}: {results.title}", path)
        paths.append(path)
    return paths


def _save(
    found: dict[str, dict[str, Sample]], line: Any, title: str, path: Path
) -> None:
    from matplotlib.figure import Figure  # noqa: PLC0415 - see above

    figure = Figure(figsize=(_WIDTH, _HEIGHT * len(found)), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(len(found), 1, squeeze=False)
    for (panel, lines), (each,) in zip(found.items(), axes, strict=True):
        for label, sample in lines.items():
            line(each, sample, label)
        each.set_title(panel)
        each.grid(visible=True, alpha=0.3)
        each.legend()
    figure.savefig(path)


def _distribution(axes: Any, sample: Sample, label: str) -> None:
    """Draw which part of the operations took how long at most."""
    last = len(sample.latencies) - 1
    times = [1000 * each for each in sample.latencies]
    axes.step(times, [each / max(1, last) for each in range(last + 1)], label=label)
    axes.set_xscale("log")
    axes.set_xlabel("ms")
    axes.set_ylabel("part done by then")


def _throughput(axes: Any, sample: Sample, label: str) -> None:
    """Draw the operations a second over time."""
    moments = [TICK * (each + 1) for each in range(len(sample.rates))]
    axes.plot(moments, sample.rates, label=label)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("s")
    axes.set_ylabel("a second")
