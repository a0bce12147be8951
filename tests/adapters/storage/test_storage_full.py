"""The durable storages on a real disk that is full: a small tmpfs of their own."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

import pytest

from adapters.storage.lmdb import LMDBStorage
from adapters.storage.rocksdb import RocksDBStorage
from adapters.storage.sqlite import SQLiteStorage
from adapters.storage.wal import WALStorage
from tests.adapters.storage import fill_disk

if TYPE_CHECKING:
    from pathlib import Path

    from consensus.interfaces import Storage

#: Mounts where no other process sees it, and goes with the shell.
SCRIPT = 'mount -t tmpfs -o size=64m none "$0" && exec "$@"'
ON_A_DISK_OF_ITS_OWN = ("unshare", "-rm", "sh", "-c", SCRIPT)


def can_mount() -> bool:
    """Say whether a file system may be mounted that only a child sees."""
    if shutil.which("unshare") is None:
        return False
    with tempfile.TemporaryDirectory() as disk:
        program = [*ON_A_DISK_OF_ITS_OWN, disk, "true"]
        return not subprocess.run(program, capture_output=True, check=False).returncode


# Only a file system of its own can be filled without harm to others.  Where none
# may be mounted, errors that are put in the place of a full disk's have to do: see
# tests/test_disk_full.py and the engines' own tests.
@pytest.mark.skipif(
    not can_mount(),
    reason="this system lets nobody mount a tmpfs to fill (unshare -rm, mount)",
)
@pytest.mark.parametrize(
    "engine", [SQLiteStorage, RocksDBStorage, LMDBStorage, WALStorage]
)
def test_a_full_disk_keeps_what_was_synced(
    engine: type[Storage], tmp_path: Path
) -> None:
    """Reads go on, a crash loses nothing, and with room again writes work."""
    disk = tmp_path / "disk"
    disk.mkdir()
    name = f"{engine.__module__}:{engine.__qualname__}"
    program = [sys.executable, fill_disk.__file__, name, str(disk)]
    done = subprocess.run(
        [*ON_A_DISK_OF_ITS_OWN, disk, *program, tmp_path / "copy"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) > 0
