"""The Redis port says what Redis says: a table that Redis itself has filled in."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.redis import Ports, scripts

TABLE = Path(__file__).with_name("redis_replies.txt")

SCRIPTS = scripts(TABLE.read_text())


@pytest.mark.parametrize("title", SCRIPTS)
def test_replies(title: str) -> None:
    """Each command of a script is answered as Redis does."""
    client = Ports().client()
    said = [(line, client.do(line)) for line, _ in SCRIPTS[title]]
    compared = [
        (line, heard if expected is not None else None)
        for (line, heard), (_, expected) in zip(said, SCRIPTS[title], strict=True)
    ]
    assert compared == SCRIPTS[title]
