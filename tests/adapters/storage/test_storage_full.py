"""The durable storages on a real disk that is full: a small tmpfs of their own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from adapters.storage.lmdb import LMDBStorage
from adapters.storage.rocksdb import RocksDBStorage
from adapters.storage.sqlite import SQLiteStorage
from tests.adapters.storage import fill_disk

if TYPE_CHECKING:
    from pathlib import Path

    from consensus.interfaces import Storage

#: Mounts where no other process sees it, and goes with the shell.
SCRIPT = 'mount -t tmpfs -o size=64m none "$0" || exit 77; exec "$@"'
NO_MOUNT = 77


@pytest.mark.parametrize("engine", [SQLiteStorage, RocksDBStorage, LMDBStorage])
def test_a_full_disk_keeps_what_was_synced(
    engine: type[Storage], tmp_path: Path
) -> None:
    """Reads go on, a crash loses nothing, and with room again writes work."""
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("needs unshare")
    disk = tmp_path / "disk"
    disk.mkdir()
    name = f"{engine.__module__}:{engine.__qualname__}"
    program = [sys.executable, fill_disk.__file__, name, str(disk)]
    done = subprocess.run(
        [*(unshare, "-rm", "sh", "-c", SCRIPT, disk), *program, tmp_path / "copy"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == NO_MOUNT or "unshare failed" in done.stderr:
        pytest.skip(f"may not mount a small disk: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) > 0
