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


#: Skips a test, or a class of them, where nobody may trace: only the kernel's own
#: word says that a sync came before an answer.  ``.ci/run`` installs strace, so
#: that there they run; elsewhere, macOS has none, and containers often forbid it.
needs_strace = pytest.mark.skipif(
    not can_trace(),
    reason="this system has no strace, or forbids it; nothing else sees system calls",
)
