"""
A program for ``test_restoring``: restore a backup, and be killed at each step.

``python restore_and_die.py CONFIG BACKUP OUT``.  A step is whatever Python asks
of the file system below the config's ``data_dir``.  For each number of steps
there is a process, killed when it is about to take the next one; what it left
is moved to ``OUT/<number>``.  The last one comes to its end.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

from consensus import config
from consensus.backup.file import BackupFile
from consensus.backup.restoring import Restoration

#: What changes something, or is just before or after what does.
EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "sqlite3.connect"}


def restore(path: str, backup: str, steps: int) -> None:
    """Restore until that many steps are done."""
    chosen = config.load(path)
    left = steps

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        if event in EVENTS and str(chosen.data_dir) in str(arguments[0]):
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1

    sys.addaudithook(hook)
    Restoration(chosen, BackupFile(Path(backup))).run()


def main(path: str, backup: str, out: str) -> None:
    """Do so with ever more steps."""
    data = config.load(path).data_dir
    steps = 0
    while True:
        child = os.fork()
        if child == 0:
            restore(path, backup, steps)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if data.exists():
            shutil.move(data, Path(out) / str(steps))
        else:
            (Path(out) / str(steps)).mkdir()
        if status == 0:
            break
        if not os.WIFSIGNALED(status):
            sys.exit(f"step {steps} failed by itself")
        steps += 1
    sys.stdout.write(f"{steps}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
