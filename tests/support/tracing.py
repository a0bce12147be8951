"""Whether tests may look at what programs ask of the kernel."""

from __future__ import annotations

import shutil
import subprocess

import pytest


def can_trace() -> bool:
    """Say whether there is an strace that may trace."""
    if shutil.which("strace") is None:
        return False
    done = subprocess.run(["strace", "-qq", "true"], capture_output=True, check=False)
    return done.returncode == 0


#: Skips a test, or a class of them, where nobody may trace.
needs_strace = pytest.mark.skipif(
    not can_trace(), reason="needs strace, and leave to use it"
)
