"""
A program for ``test_migration``: migrate a server, and be killed at a moment.

``python migrate_and_die.py CONFIG SERVER ENGINE MOMENT``, where MOMENT is how
much was done of the copying and comparing, or ``moved``, ``switched``: just
before ``raft.json`` is replaced, and just after.
"""

from __future__ import annotations

import os
import signal
import sys

from consensus import config, migration
from consensus.datadir import DataDirectory


def die() -> None:
    """End without a word."""
    os.kill(os.getpid(), signal.SIGKILL)


def main(path: str, server: str, engine: str, moment: str) -> None:
    """Migrate until the moment comes."""
    change_engine = DataDirectory.change_engine

    def change_and_die(self: DataDirectory, engine: config.Engine) -> None:
        if moment == "moved":
            die()
        change_engine(self, engine)
        die()

    def on_progress(done: int, _: int) -> None:
        if moment.isdigit() and done >= int(moment):
            die()

    DataDirectory.change_engine = change_and_die  # type: ignore[method-assign]
    chosen = config.load(path)
    migration.run(migration.plan(chosen, server, engine), on_progress)


if __name__ == "__main__":
    main(*sys.argv[1:])
