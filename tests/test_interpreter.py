"""What a process sets for itself when it is there for its servers."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import gc, sys
from consensus.interpreter import tune_interpreter
before = gc.get_threshold()[0], sys.getswitchinterval()
tune_interpreter()
assert gc.isenabled()
assert gc.get_freeze_count() > 0
assert gc.get_threshold()[0] > before[0]
assert 0 < sys.getswitchinterval() < before[1]
"""


def test_the_collector_and_the_switching_of_threads() -> None:
    """In a process of its own: the settings hold for all of it."""
    subprocess.run([sys.executable, "-c", _PROGRAM], check=True, timeout=60)
