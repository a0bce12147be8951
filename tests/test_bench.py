"""Unit tests for the parts of ``tests/bench`` that start no process."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from consensus.errors import InvalidCommandError, OverloadedError
from tests.bench import __main__ as command
from tests.bench import plots, report
from tests.bench.cluster import Cluster
from tests.bench.control import BenchError
from tests.bench.figures import Figure, Sample, quantiles
from tests.bench.load import ClosedLoop, OpenLoop
from tests.bench.scenarios import FULL, QUICK, SCENARIOS, Run, System

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twisted.python.failure import Failure


def options(*arguments: str) -> Any:
    """Return what the command line *arguments* say."""
    return command.parser().parse_args(arguments)


class ArgumentTests(SynchronousTestCase):
    """What the command line says."""

    def test_everything_by_default(self) -> None:
        """Without a name, every scenario is run, as often as the issue wants."""
        given = options()
        assert command.scenarios_of(given) == list(SCENARIOS)
        assert command.plan_of(given) == FULL
        assert FULL.runs >= 5

    def test_names(self) -> None:
        """Names are given one by one, or with commas."""
        given = options("core", "--only", "values, members")
        assert command.scenarios_of(given) == ["core", "values", "members"]

    def test_quick_and_less(self) -> None:
        """What is said counts more than what --quick says; warm-ups are no longer."""
        plan = command.plan_of(
            options("--quick", "--runs=1", "--seconds=0.2", "--kills=7")
        )
        assert (plan.runs, plan.seconds, plan.elections) == (1, 0.2, 7)
        assert plan.warm_up == 0.2
        assert plan.entries == QUICK.entries

    def test_unknown_scenario(self) -> None:
        """A scenario that is not there is an error."""
        with pytest.raises(BenchError, match="no scenario 'sprint'; see --list"):
            command.scenarios_of(options("sprint"))

    def test_unknown_storage(self) -> None:
        """A storage that is not there is an error, which names those that are."""
        with pytest.raises(BenchError, match=r"no storage 'tape'; there are .*sqlite"):
            command.systems_of(options("--storage=tape"))

    def test_storages(self) -> None:
        """Each storage is a system of its own."""
        found = command.systems_of(options("--storage=lmdb,sqlite"))
        assert [each.name for each in found] == ["lmdb", "sqlite"]

    def test_numbers(self) -> None:
        """Numbers that make no sense are refused by the parser."""
        for bad in ("--runs=0", "--runs=x", "--seconds=0", "--seconds=inf"):
            with pytest.raises(SystemExit):
                options(bad)

    def test_list(self) -> None:
        """The list needs no disk, no port and no rival."""
        assert command.main(["--list"]) == 0

    def test_errors_are_an_exit_status(self) -> None:
        """What cannot be done is said in a line."""
        assert command.main(["sprint"]) == 1
        assert command.main(["core", "--against=zookeeper", "--runs=1"]) == 1


class FigureTests(SynchronousTestCase):
    """What many measurements amount to."""

    def test_quantiles(self) -> None:
        """Quantiles go from the smallest to the largest."""
        assert quantiles(range(101), 4) == [0, 25, 50, 75, 100]
        assert quantiles([7.0], 2) == [7.0, 7.0, 7.0]
        assert quantiles([], 4) == []

    def test_sample(self) -> None:
        """A sample has a rate, and percentiles in milliseconds."""
        sample = Sample(1000, 2.0, quantiles([each / 1000 for each in range(1001)]))
        assert sample.rate == 500
        assert round(sample.percentile(50)) == 500
        assert round(sample.percentile(99)) == 990
        assert Sample(**json.loads(json.dumps(sample.to_json()))) == sample

    def test_empty_sample(self) -> None:
        """A sample of nothing has no rate, and no percentiles."""
        assert Sample(0, 0.0).rate == 0
        assert report.number(Sample(0, 0.0).percentile(50)) == "-"

    def test_spread(self) -> None:
        """One run has no spread; several have a median, a least and a most."""
        assert report.spread(Figure((1234.5,))) == "1,234"
        assert report.spread(Figure((3.0, 0.1234, 5.0))) == "3\n0.123 - 5"


def run_of(system: str, **figures: float) -> Run:
    """Return a run that found *figures*."""
    made = Run(System(system, Cluster), QUICK, Path())
    made.figures.update(figures)
    return made


class ReportTests(SynchronousTestCase):
    """How it is shown."""

    def setUp(self) -> None:
        """Have two runs of two systems."""
        self.results = report.Results("core", "what is compared")
        for ours, theirs in ((100.0, 10.0), (120.0, 40.0)):
            self.results.add(run_of("ours", puts=ours, reads=ours * 2))
            self.results.add(run_of("theirs", puts=theirs))

    def cells(self, *bases: str) -> list[list[str]]:
        """Return the cells of each line of the table."""
        file = StringIO()
        Console(width=200, file=file).print(report.table(self.results, bases))
        lines = [line.split("│") for line in file.getvalue().splitlines()]
        return [[each.strip() for each in line[1:-1]] for line in lines if line[1:]]

    def test_table_with_ratios(self) -> None:
        """Beside each system stands how it compares with the bases."""
        puts, spread, reads, _ = self.cells("theirs")
        assert puts == ["puts", "110", "x 6.5", "25"]
        assert spread == ["", "100 - 120", "", "10 - 40"]
        assert reads == ["reads", "220", "-", "-"]

    def test_ratio_of_runs(self) -> None:
        """Each run is compared with the one beside it; drift and gaps do no harm."""
        results = report.Results("core", "what is compared")
        for ours, theirs in ((40, 10), (4, None), (None, 5), (400, 100), (1, 0)):
            results.add(run_of("ours", **({} if ours is None else {"puts": ours})))
            results.add(
                run_of("theirs", **({} if theirs is None else {"puts": theirs}))
            )
        assert results.ratio("ours", "theirs", "puts") == 4
        assert results.ratio("ours", "theirs", "reads") is None

    def test_table_without(self) -> None:
        """A base that did not take part is none."""
        assert self.cells("etcd")[0] == ["puts", "110", "25"]

    def test_json(self) -> None:
        """A program gets every run's figure."""
        found = json.loads(json.dumps(self.results.to_json()))
        puts = found["figures"]["ours"]["puts"]
        assert puts == {"median": 110, "min": 100, "max": 120, "runs": [100, 120]}
        assert "reads" not in found["figures"]["theirs"]

    def test_remarks_once(self) -> None:
        """What every run remarks is said once, with whose it is."""
        for _ in range(2):
            run = run_of("ours")
            run.remarks.append("1 MiB is refused")
            self.results.add(run)
        assert self.results.remarks == ["ours: 1 MiB is refused"]

    def test_panels(self) -> None:
        """Lines that belong together stand in one panel."""
        run = run_of("ours")
        run.samples["to a leader: 12-24 ms"] = Sample(1, 1.0, [0.1, 0.2])
        run.samples["puts 64"] = Sample(1, 1.0, [0.1, 0.2], [5.0])
        self.results.add(run)
        found = plots.panels(self.results)
        assert {panel: list(lines) for panel, lines in found.items()} == {
            "to a leader": ["ours 12-24 ms"],
            "puts 64": ["ours"],
        }


class LoadTests(SynchronousTestCase):
    """What issues operations, on a clock of its own."""

    def setUp(self) -> None:
        """Let operations wait until they are answered by hand."""
        self.clock: Any = Clock()
        self.asked: list[Deferred[Any]] = []
        self.answers: Sequence[Exception] = ()
        self.now = self.clock.seconds

    def ask(self, number: int) -> Deferred[Any]:
        """Be the operation."""
        if number < len(self.answers) and self.answers[number] is not None:
            return fail(self.answers[number])
        self.asked.append(Deferred())
        return self.asked[-1]

    def answer(self) -> None:
        """Answer all that were asked for."""
        asked, self.asked = self.asked, []
        for each in asked:
            each.callback(None)

    def test_closed_loop(self) -> None:
        """As many as are outstanding stay so, until the time is over."""
        loop = ClosedLoop(
            self.ask, self.clock, now=self.now, outstanding=3, seconds=1.0
        )
        found = loop.run()
        for _ in range(2):
            assert len(self.asked) == 3
            self.clock.advance(0.5)
            self.answer()
        assert self.asked == []
        sample = self.successResultOf(found)
        assert (sample.count, sample.seconds) == (6, 1.0)
        assert sample.percentile(99) == 500

    def test_closed_loop_counts(self) -> None:
        """It ends after so many operations, if that is sooner."""
        loop = ClosedLoop(self.ask, self.clock, now=self.now, outstanding=3, count=4)
        found = loop.run()
        self.answer()
        assert len(self.asked) == 1
        self.answer()
        assert self.successResultOf(found).count == 4

    def test_many_begin_in_slices(self) -> None:
        """Thousands of callers do not keep the reactor from all else."""
        loop = ClosedLoop(
            self.ask, self.clock, now=self.now, outstanding=600, count=700
        )
        found = loop.run()
        assert len(self.asked) == 256
        self.answer()
        assert len(self.asked) == 256
        self.clock.pump([0.0, 0.0, 0.0])
        assert len(self.asked) == 700 - 256
        self.answer()
        assert self.successResultOf(found).count == 700

    def test_refused_is_tried_again(self) -> None:
        """Who is refused backs off; the time counts from the first attempt."""
        self.answers = [OverloadedError("full")]
        found = ClosedLoop(
            self.ask, self.clock, now=self.now, outstanding=1, seconds=5.0, count=1
        )
        result = found.run()
        assert self.asked == []
        self.answers = ()
        self.clock.pump([0.01] * 3)
        self.answer()
        sample = self.successResultOf(result)
        assert sample.errors == {"OverloadedError": 1}
        assert 10 <= sample.percentile(50) <= 30

    def test_invalid_ends_it(self) -> None:
        """What will never be taken is not tried again."""
        self.answers = [InvalidCommandError("too large")] * 3
        loop = ClosedLoop(
            self.ask, self.clock, now=self.now, outstanding=3, seconds=1.0
        )
        failures: list[Failure] = []
        loop.run().addErrback(failures.append)
        assert [each.type for each in failures] == [InvalidCommandError]
        assert self.asked == []

    def test_open_loop(self) -> None:
        """Arrivals wait for no answer; their time counts from when they were due."""
        found = OpenLoop(
            self.ask, self.clock, now=self.now, rate=1000, seconds=1.0
        ).run()
        self.clock.pump([0.1] * 12)
        assert 700 < len(self.asked) < 1300
        total = len(self.asked)
        self.clock.advance(1.0)
        self.answer()
        sample = self.successResultOf(found)
        assert sample.count == total
        assert 1000 < sample.percentile(50) < 2200
