"""
A member of ``raft dev``: ``python -m consensus.dev CONFIG NAME PARENT CONDITIONS``.

Or, with ``--check CONFIG``, a look at whether the config can be used.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from contextlib import suppress

from consensus.dev.wall_clock import WallClock

_PR_SET_PDEATHSIG = 1


def end_with(parent: int) -> None:
    """
    Have this process killed when the process *parent* ends, however it does.

    A member that is stopped by a signal could not notice by itself.
    """
    with suppress(AttributeError, OSError):  # not Linux: the end of the input tells
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def main() -> None:
    """Run the member, or look at the config."""
    clock = WallClock()
    clock.install()
    # Not before: what they import keeps the clock that it finds.
    from consensus.dev import member  # noqa: PLC0415 - see above

    first, *rest = sys.argv[1:]
    if first == "--check":
        member.check(*rest)
        return
    name, parent, conditions = rest
    end_with(int(parent))
    # Ctrl-C is for raft dev, which then stops its members.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    member.run(first, name, conditions, clock)


if __name__ == "__main__":
    main()
