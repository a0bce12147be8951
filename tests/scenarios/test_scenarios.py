"""The scenarios: what they say that the servers do is what they do."""

from __future__ import annotations

from pathlib import Path

import pytest

from consensus.testing import scenarios

FILES = sorted(Path(__file__).parent.glob("*.txt"))

#: What can be read in one go.
MOST_LINES = 80


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_scenario(path: Path, request: pytest.FixtureRequest) -> None:
    """Every message is as written; ``--rewrite-scenarios`` writes it anew."""
    rewrite = request.config.getoption("--rewrite-scenarios")
    scenarios.check(path, rewrite=rewrite)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_length(path: Path) -> None:
    """A scenario has a title, a section that it is about, and is short."""
    lines = path.read_text(encoding="utf-8").splitlines()
    prose = [line for line in lines if not line.startswith((">", " "))]
    assert len(lines) < MOST_LINES
    assert lines[0]
    assert not lines[1]
    assert any("§" in line for line in prose)
    assert max(map(len, prose)) <= 80
