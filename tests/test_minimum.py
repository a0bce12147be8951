"""The oldest dependencies that are promised, and those that are tried."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]

_BOUND = re.compile(r"([\w-]+(?:\[\w+\])?)(?:>=|==)([\d.]+)")


def bound(text: str) -> tuple[str, str]:
    """Return the name and the lowest version of the requirement *text*."""
    found = _BOUND.match(text)
    assert found is not None, text
    return found[1].lower(), re.sub(r"(\.0)+$", "", found[2])


class MinimumTests:
    """What `tox -e minimum` installs."""

    def test_every_bound(self) -> None:
        """It is the lowest version of all that a user or a test may need."""
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        extras = project["optional-dependencies"]
        promised = project["dependencies"] + extras["test"] + extras["otel"]
        lines = (ROOT / "tests/minimum.txt").read_text().splitlines()
        pinned = [bound(line) for line in lines if not line.startswith("#")]
        assert pinned == sorted({bound(each) for each in promised})
