"""
Settings of the Python interpreter for a process that is there for its servers.

They hold for a whole process, so that ``twistd raft`` makes them, and a
program that runs a server beside other things may, if it likes.
"""

from __future__ import annotations

import gc
import sys

# Thousands of writes under way are thousands of objects, which all go soon and
# by themselves; with Python's own threshold of 700, the collector looks at them
# again and again.  Entries of the log stay longer, and are looked at seldom.
_THRESHOLDS = 20_000, 20, 100

# How long the reactor may go on while the thread of a storage, back from the
# disk, waits for the interpreter's lock; Python's own 5 ms are many syncs.
_SWITCH_SECONDS = 0.0005


def tune_interpreter() -> None:
    """
    Let the garbage collector and the switching of threads suit a server.

    What exists by now is exempt from collections: call it when all that the
    process needs is imported, before its servers start.  What it gives stands
    in ``docs/design/performance.md``.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
    sys.setswitchinterval(_SWITCH_SECONDS)
