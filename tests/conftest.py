"""The options that these tests add to pytest."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    parser.addoption(
        "--rewrite-scenarios",
        action="store_true",
        help="write into tests/scenarios what the servers do now",
    )
