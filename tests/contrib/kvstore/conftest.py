"""What tests of the key-value store have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.kv import KINDS, make_kv

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.kv import KV


@pytest.fixture(params=KINDS)
def kv(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[KV]:
    """Lend a new store of each kind."""
    made = make_kv(request.param, tmp_path)
    yield made
    made.close()
