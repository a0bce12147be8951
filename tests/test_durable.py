"""What it takes until a file survives a power cut."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from consensus.durable import sync_path, write_durably
from tests.support.tracing import needs_strace

if TYPE_CHECKING:
    from pathlib import Path


class WriteDurablyTests:
    """A file is replaced as a whole."""

    def test_the_content_is_replaced(self, tmp_path: Path) -> None:
        """Nothing is left beside it."""
        file = tmp_path / "file"
        for content in (b"first", b"", b"second"):
            write_durably(file, content)
            assert file.read_bytes() == content
        assert list(tmp_path.iterdir()) == [file]

    def test_what_a_kill_left_is_no_obstacle(self, tmp_path: Path) -> None:
        """A draft is written anew."""
        (tmp_path / "file.new").write_bytes(b"half of something longer")
        write_durably(tmp_path / "file", b"whole")
        assert (tmp_path / "file").read_bytes() == b"whole"

    def test_a_failure_leaves_it_as_it_was(self, tmp_path: Path) -> None:
        """A draft that cannot be written never takes its place."""
        file = tmp_path / "file"
        write_durably(file, b"kept")
        (tmp_path / "file.new").mkdir()
        with pytest.raises(OSError, match="directory"):
            write_durably(file, b"lost")
        assert file.read_bytes() == b"kept"

    @needs_strace
    def test_content_then_name_then_directory(self, tmp_path: Path) -> None:
        """The name comes when the content is on the disk, and is synced last."""
        log = tmp_path / "log"
        program = (
            "import sys; from pathlib import Path;"
            " from consensus.durable import write_durably;"
            " write_durably(Path(sys.argv[1]), b'content')"
        )
        directory = tmp_path / "directory"
        directory.mkdir()
        run = ["strace", "-f", "-y", "-e", "trace=fsync,rename,renameat,renameat2"]
        subprocess.run(
            [*run, "-o", log, sys.executable, "-c", program, directory / "file"],
            check=True,
        )
        lines = [line for line in log.read_text().splitlines() if "directory" in line]
        draft, rename, name = lines
        assert "fsync" in draft
        assert "file.new>" in draft
        assert "rename" in rename
        assert "fsync" in name
        assert "directory>" in name


def test_what_is_not_there_cannot_be_synced(tmp_path: Path) -> None:
    """An error says so."""
    with pytest.raises(FileNotFoundError):
        sync_path(tmp_path / "nothing")
