"""The options that these tests add to pytest."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from hypothesis import settings

if TYPE_CHECKING:
    import pytest

# How long an example takes depends on what else the machine does.
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")

# A shell lets what it starts with "&" ignore SIGINT, and so do its children, but
# some tests interrupt processes that they started.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    parser.addoption(
        "--rewrite-scenarios",
        action="store_true",
        help="write into tests/scenarios what the servers do now",
    )
