"""Rubbish after the commands that look at a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from consensus import cli

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    "words",
    [
        ("explain",),
        ("explain", "x"),
        ("explain", "0"),
        ("explain", "-1"),
        ("explain", str(1 << 63)),
        ("compact", "--keep", "-1"),
        ("compact", "--keep", "x"),
        ("watch-status", "--every", "0"),
        ("watch-status", "s1"),
        ("watch-status", "--every", "nan"),
        ("--timeout", "nan", "leader"),
        ("--timeout", "inf", "leader"),
        ("events", "--since", "yesterday"),
        ("events", "--since", "10x"),
        ("events", "--since", ""),
        ("events", "--since", "9999-99-99"),
        ("events", "--since", "0001-01-01"),
        ("leader", "s1"),
    ],
)
def test_refused(words: tuple[str, ...]) -> None:
    """It is status 2 and a sentence, before any file is read."""
    result = CliRunner().invoke(cli.raft, words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Usage: raft" in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        *(("leader", "--json"), ("transfer", "--json"), ("compact", "--json")),
        *(("watch-status",), ("events",), ("explain", "1"), ("bench",)),
        *(("remove", "s1", "--json"), ("promote", "s1", "--json")),
    ],
)
def test_no_config(tmp_path: Path, words: tuple[str, ...]) -> None:
    """Without a config it is status 1 and one line."""
    missing = tmp_path / "nothing.yaml"
    result = CliRunner().invoke(cli.raft, ["-c", str(missing), *words])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.count("\n") == 1
