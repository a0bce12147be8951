"""
A program for ``test_sqlite_machine``: apply commands, say so, until killed.

``python ledger_forever.py DIRECTORY``.  It begins after the last command whose
effect it finds, and says after each batch how far it is.
"""

from __future__ import annotations

import os
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from consensus.core.values import LogIndex
    from consensus.interfaces import StateMachine

SOURCE = Path(__file__).parents[2] / "docs/howto/sqlite-machine/raft_ledger.py"


def make(directory: Path | None) -> StateMachine:
    """Return the ledger of the howto, from the file itself."""
    spec = spec_from_file_location("raft_ledger", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    machine: StateMachine = module.Ledger()
    machine.directory = directory
    return machine


def command_at(index: LogIndex) -> list[Any]:
    """Return the command at *index* of a log; every third one fails."""
    if index % 3 == 0:
        return ["transfer", "nobody", "ann", 1]
    if index % 3 == 1:
        return ["deposit", "ann", index]
    return ["transfer", "ann", f"account {index % 7}", index - 1]


def main(directory: str) -> None:
    """Apply for ever."""
    machine = make(Path(directory))
    state = machine.init("s1")
    index = machine.last_applied(state)
    os.write(sys.stdout.fileno(), b"%d\n" % index)
    while True:
        batch = [(each, command_at(each)) for each in range(index + 1, index + 6)]
        _, state = machine.apply_batch(batch, state)
        index += 5
        os.write(sys.stdout.fileno(), b"%d\n" % index)


if __name__ == "__main__":
    main(*sys.argv[1:])
