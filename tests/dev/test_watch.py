"""Whether an application's files have changed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from consensus.dev.watch import Watch

if TYPE_CHECKING:
    from pathlib import Path


class WatchTests:
    """What is a change."""

    def test_changes(self, tmp_path: Path) -> None:
        """A file that is new, other or gone is told once; others are not Python."""
        first, other = tmp_path / "first.py", tmp_path / "other.py"
        first.write_text("1")
        (tmp_path / "data.txt").write_text("1")
        watch = Watch([str(tmp_path)])
        assert watch.changed() == []
        other.write_text("2")
        (tmp_path / "data.txt").write_text("22")
        assert watch.changed() == [str(other)]
        assert watch.changed() == []
        first.write_text("3")
        os.utime(first, ns=(1, 1))
        assert watch.changed() == [str(first)]
        first.unlink()
        assert watch.changed() == [str(first)]

    def test_a_directory_that_is_gone(self, tmp_path: Path) -> None:
        """Its files are gone with it; that is a change, and no error."""
        package = tmp_path / "package"
        package.mkdir()
        (package / "module.py").write_text("1")
        watch = Watch([str(package)])
        (package / "module.py").unlink()
        package.rmdir()
        assert watch.changed() == [str(package / "module.py")]

    def test_other_directories(self, tmp_path: Path) -> None:
        """What is in a directory that is new here is no change."""
        old, new = tmp_path / "old", tmp_path / "new"
        for each in (old, new):
            each.mkdir()
            (each / "module.py").write_text("1")
        watch = Watch([str(old)])
        (old / "module.py").write_text("22")
        watch.turn_to([str(old), str(new)])
        # What changed meanwhile is not forgotten.
        assert watch.changed() == [str(old / "module.py")]
