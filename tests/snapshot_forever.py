"""
A program for ``test_snapshots_crash``: write snapshots, say so, until killed.

``python snapshot_forever.py DIRECTORY [SNAPSHOTS]``.  After each snapshot that
is committed it writes its index and a newline to its standard output; 0 when
the store is open.
"""

from __future__ import annotations

import os
import sys
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from consensus.core.values import SnapshotMeta
from consensus.snapshots.files import CHUNK_BYTES, FileSnapshots, split

if TYPE_CHECKING:
    from consensus.core.values import LogIndex


def content_of(index: LogIndex) -> bytes:
    """Return the bytes of the snapshot at *index*: a few chunks."""
    return b"%d." % index * (CHUNK_BYTES // 2 * (index % 3 + 1))


def meta_of(index: LogIndex) -> SnapshotMeta:
    """Return what is known of that snapshot before it is written."""
    return SnapshotMeta(index, index // 10 + 1, b"members", 1)


def main(directory: str, snapshots: str = "") -> None:
    """Write as many *snapshots*, or go on for ever."""
    store = FileSnapshots(Path(directory))
    os.write(sys.stdout.fileno(), b"0\n")
    for index in range(1, int(snapshots) + 1) if snapshots else count(1):
        writer = store.begin(meta_of(index))
        for chunk in split([content_of(index)]):
            writer.write(chunk)
        writer.finish()
        writer.commit()
        os.write(sys.stdout.fileno(), b"%d\n" % index)
    store.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
