"""Run the bench: ``python -m tests.bench --help``."""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
import tempfile
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from consensus import registry
from tests.bench import machine, plots, report
from tests.bench.against import RIVALS
from tests.bench.cluster import Cluster
from tests.bench.control import BenchError
from tests.bench.report import Results
from tests.bench.scenarios import FULL, QUICK, SCENARIOS, Plan, Run, System

if TYPE_CHECKING:
    from collections.abc import Sequence

# Those that a release can be judged by; lmdb and memory are for who asks.
_STORAGES = ("sqlite", "rocksdb", "wal")

_WIDTH = 160


def parser() -> argparse.ArgumentParser:
    """Return what understands the command line."""
    made = argparse.ArgumentParser(
        prog="python -m tests.bench", description="Measure real server processes."
    )
    made.add_argument(
        "names", nargs="*", metavar="NAME", help="of scenarios, as with --only"
    )
    made.add_argument("--list", action="store_true", help="list the scenarios")
    made.add_argument("--only", type=_names, default=[], metavar="NAME,…")
    made.add_argument("--quick", action="store_true", help="less, and less exact")
    made.add_argument("--runs", type=_positive, help="of each scenario")
    made.add_argument("--seconds", type=_seconds, help="of each load")
    made.add_argument("--storage", type=_names, default=[], metavar="ENGINE,…")
    made.add_argument("--against", type=_names, default=[], metavar="RIVAL,…")
    made.add_argument(
        "--kills", type=_positive, help="of leaders, in each run of elections"
    )
    made.add_argument("--plots", type=Path, metavar="DIR", help="draw pictures there")
    made.add_argument("--json", type=Path, metavar="FILE")
    made.add_argument(
        "--directory", type=Path, help="where the servers' data goes; a real disk"
    )
    return made


def _names(text: str) -> list[str]:
    return [each.strip() for each in text.split(",") if each.strip()]


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        message = f"{value} is not above 0"
        raise argparse.ArgumentTypeError(message)
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        message = f"{text} is no length of time"
        raise argparse.ArgumentTypeError(message)
    return value


def plan_of(options: argparse.Namespace) -> Plan:
    """Return how much *options* ask for."""
    plan = QUICK if options.quick else FULL
    changes = {
        "runs": options.runs,
        "seconds": options.seconds,
        "elections": options.kills,
    }
    plan = replace(plan, **{key: each for key, each in changes.items() if each})
    return replace(plan, warm_up=min(plan.warm_up, plan.seconds))


def scenarios_of(options: argparse.Namespace) -> list[str]:
    """
    Return the names of the scenarios that *options* ask for.

    Raises:
        BenchError: One is not known.
    """
    names = [*options.names, *options.only]
    for each in names:
        if each not in SCENARIOS:
            message = f"there is no scenario {each!r}; see --list"
            raise BenchError(message)
    return names or list(SCENARIOS)


def systems_of(options: argparse.Namespace) -> list[System]:
    """
    Return what is to be measured.

    Raises:
        BenchError: A storage is not known.
    """
    known = registry.names("storage")
    wanted = options.storage or [each for each in _STORAGES if each in known]
    for each in wanted:
        if each not in known:
            message = f"there is no storage {each!r}; there are {', '.join(known)}"
            raise BenchError(message)
    return [System(each, partial(Cluster, storage=each)) for each in wanted]


class Bench:
    """
    Runs scenarios, and shows what they find.

    Args:
        options: The command line's.
        console: Where to show it.
        place: Where directories are made.
    """

    def __init__(
        self, options: argparse.Namespace, console: Console, place: Path
    ) -> None:
        self.options = options
        self.console = console
        self.place = place
        if options.plots is not None:
            plots.require()
            options.plots.mkdir(parents=True, exist_ok=True)
        self.plan = plan_of(options)
        self.systems = systems_of(options) + self.rivals()
        self.machine = machine.describe(place)
        self.results: list[Results] = []
        self.failures = 0

    def rivals(self) -> list[System]:
        """Return those to compare with that are to be had."""
        found: list[System] = []
        for name in self.options.against:
            if name not in RIVALS:
                message = f"there is no rival {name!r}; there are {', '.join(RIVALS)}"
                raise BenchError(message)
            try:
                found.append(RIVALS[name]())
            except BenchError as error:
                self.console.print(f"without {name}: {error}", highlight=False)
        return found

    def run(self, names: Sequence[str]) -> None:
        """Run the scenarios of *names*."""
        self.console.print(report.head(self.machine), highlight=False)
        for name in names:
            self.scenario(name)
            self.save()

    def scenario(self, name: str) -> None:
        """Run one scenario on all systems, in turns."""
        scenario = SCENARIOS[name]
        results = Results(name, scenario.title)
        self.results.append(results)
        for turn in range(1, self.plan.runs + 1):
            for system in self.systems:
                if system.is_ours or scenario.for_rivals:
                    text = f"{name}: run {turn} of {self.plan.runs}, {system.name}"
                    self.once(results, system, text)
        for system in self.systems:
            if system.remark and system.name in results.runs:
                results.remark(system.remark)
        self.console.print(report.table(results, self.bases()))
        for remark in results.remarks:
            self.console.print(f"  {remark}", highlight=False)
        if self.options.plots is not None:
            for path in plots.draw(results, self.options.plots):
                self.console.print(f"  see {path}", highlight=False)

    def bases(self) -> list[str]:
        """Return whom ours are compared with: the rivals, or the first of ours."""
        rivals = [each.name for each in self.systems if not each.is_ours]
        return rivals or [self.systems[0].name]

    def once(self, results: Results, system: System, text: str) -> None:
        """Run one scenario on one system, once."""
        run = Run(system, self.plan, self.place)
        try:
            if self.console.is_terminal:
                with self.console.status(text, refresh_per_second=1):
                    SCENARIOS[results.name].run(run)
            else:
                SCENARIOS[results.name].run(run)
        except BenchError as error:
            # What another system cannot do is a remark, and no failure.
            self.failures += system.is_ours
            results.remark(f"{text} failed: {error}")
        results.add(run)

    def save(self) -> None:
        """Write what there is so far as JSON, if that was asked for."""
        if self.options.json is None:
            return
        document: dict[str, Any] = {
            "machine": self.machine,
            "plan": asdict(self.plan),
            "scenarios": {each.name: each.to_json() for each in self.results},
        }
        self.options.json.write_text(json.dumps(document, indent=1) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Do as the command line says; return the exit status."""
    options = parser().parse_args(arguments)
    # A file is as wide as it has to be.
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    if options.list:
        for name, scenario in SCENARIOS.items():
            console.print(f"{name:10} {scenario.title}", highlight=False)
        return 0
    # So that what was started is ended then, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        names = scenarios_of(options)
        with tempfile.TemporaryDirectory(
            prefix="raft-bench-", dir=options.directory
        ) as place:
            bench = Bench(options, console, Path(place))
            bench.run(names)
    except BenchError as error:
        console.print(f"bench: {error}", style="red", highlight=False)
        return 1
    except KeyboardInterrupt:
        return 130
    return 1 if bench.failures else 0


if __name__ == "__main__":
    sys.exit(main())
