"""
A program for ``test_storage_crash``: write, sync, say so, until killed.

``python append_forever.py ENGINE DIRECTORY [ROUNDS]``, where ENGINE is a name
such as ``adapters.storage.sqlite:SQLiteStorage``.  After each round that is
synced it writes the round's number and a newline to its standard output; 0
when the storage is open.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters.storage.sqlite import SQLiteOptions, SQLiteStorage
from consensus.core.values import Entry, EntryKind, HardState

if TYPE_CHECKING:
    from consensus.core.values import LogIndex, Term
    from consensus.interfaces import Storage


class BusySQLite(SQLiteStorage):
    """One that makes a checkpoint, beside the writing, every hundred rounds or so."""

    def __init__(self, options: Any = None) -> None:
        """Take no *options* but these."""
        super().__init__(options or SQLiteOptions(checkpoint_mib=1))


def entries_of(term: Term, last: LogIndex) -> list[Entry]:
    """Return what round *term* appends to a log that ends at *last*."""
    first = last if term % 7 == 0 else last + 1
    return [
        Entry(index, term, EntryKind.COMMAND, b"%d in %d" % (index, term) * 20)
        for index in range(first, last + 2 + term % 4)
    ]


def say(number: int) -> None:
    """Write *number* and a newline, past every buffer."""
    os.write(sys.stdout.fileno(), b"%d\n" % number)


def main(engine: str, directory: str, rounds: str = "") -> None:
    """Do *rounds* of them, or go on for ever."""
    module, _, name = engine.partition(":")
    storage: Storage = getattr(import_module(module), name)()
    storage.open(Path(directory))
    say(0)
    for term in range(1, int(rounds) + 1) if rounds else count(1):
        storage.save_hard_state(HardState(term, f"s{term}"))
        storage.append(entries_of(term, storage.last_index()))
        storage.sync()
        say(term)
    storage.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
