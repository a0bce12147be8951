"""What `raft bench` makes of what it measures."""

from __future__ import annotations

from typing import Any

import pytest
from click.testing import CliRunner

from consensus import cli, registry
from consensus.commands.bench import Bucket, Run, summary
from consensus.errors import InvalidCommandError
from contrib.kvstore.commands import DeleteMany, Put
from contrib.kvstore.machine import KVStore
from tests.support.servers import Register

registry.register("state_machine", "bench-register", Register)


class SummaryTests:
    """Numbers of one load."""

    def test_percentiles(self) -> None:
        """They are of those that were measured, not between them."""
        found = summary(2, 2.0, [each / 1000 for each in range(1000, 0, -1)], {})
        assert (found.writes, found.writes_per_second) == (1000, 500.0)
        assert (found.p50, found.p90, found.p99) == (500.0, 900.0, 990.0)
        assert (found.p999, found.slowest) == (999.0, 1000.0)

    def test_one(self) -> None:
        """One write is every percentile."""
        found = summary(1, 1.0, [0.003], {"timed_out": 2})
        assert found.p50 == found.p999 == found.slowest == 3.0
        assert found.histogram == [Bucket(4.0, 1)]
        assert found.failed == {"timed_out": 2}

    def test_none(self) -> None:
        """Without writes there is nothing to tell."""
        found = summary(1, 1.0, [], {})
        assert (found.writes, found.slowest, found.histogram) == (0, 0.0, [])

    def test_histogram(self) -> None:
        """Each bucket ends at twice the time; empty ones between are there."""
        found = summary(1, 1.0, [0.001, 0.0011, 0.002, 0.007, 0.0], {})
        counts = {each.up_to_ms: each.count for each in found.histogram}
        assert counts[1.0] == 1
        assert counts[2.0] == 2
        assert counts[4.0] == 0
        assert counts[8.0] == 1
        assert sum(counts.values()) == 5


class RunTests:
    """What is written."""

    def test_nothing_harmless(self) -> None:
        """A machine that has no such write is left alone."""
        with pytest.raises(InvalidCommandError, match="no write that does no harm"):
            Run(Register(), 10).check("register")

    def test_kvstore(self) -> None:
        """The key-value store's keys are of the run, end, and are removed."""
        machine = KVStore()
        Run(machine, 10).check("kvstore")
        puts = [machine.rehearsal("r1", number, 7) for number in range(2500)]
        keys = {each.key for each in puts}
        assert len(keys) == 1000
        assert all(key.startswith(b"raft-bench/r1/") for key in keys)
        assert all(isinstance(e, Put) and e.ttl and len(e.value) == 7 for e in puts)
        (delete,) = machine.after_rehearsal("r1", 2500)
        assert isinstance(delete, DeleteMany)
        assert set(delete.keys) == keys
        (few,) = machine.after_rehearsal("r1", 2)
        assert len(few.keys) == 2


class OptionTests:
    """Rubbish is refused before anything is written."""

    @pytest.mark.parametrize(
        "words",
        [
            ("--outstanding", ""),
            ("--outstanding", "1,x"),
            ("--outstanding", "0"),
            ("--outstanding", "1025"),
            ("--seconds", "0"),
            ("--seconds", "nan"),
            ("--seconds", "61"),
            ("--size", "-1"),
        ],
    )
    def test_refused(self, words: tuple[str, ...]) -> None:
        """It is status 2, and a sentence."""
        result: Any = CliRunner().invoke(cli.raft, ["bench", *words])
        assert result.exit_code == 2
        assert "Invalid value" in result.stderr
