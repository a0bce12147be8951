"""Tests of consensus.snapshots.files: crashes while a snapshot is written."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from consensus.snapshots.files import FileSnapshots, split
from tests import snapshot_forever
from tests.snapshot_forever import content_of
from tests.support.snapshots import CONTENT, META, commit, content_in, files, write
from tests.support.tracing import needs_strace

if TYPE_CHECKING:
    from pathlib import Path

    from consensus.core.values import SnapshotMeta


class CrashTests:
    """A crash leaves the snapshot of before, or the new one, whole."""

    def test_between_any_two_steps(self, tmp_path: Path) -> None:
        """A copy of the directory after each step opens as one of the two."""
        live = tmp_path / "live"
        live.mkdir()
        store = FileSnapshots(live)
        old = commit(store, META, b"old")
        found: list[tuple[SnapshotMeta | None, bytes]] = []

        def crash() -> None:
            copy = tmp_path / str(len(found))
            shutil.copytree(live, copy)
            again = FileSnapshots(copy)
            assert len(files(copy)) == 1
            found.append((again.latest, content_in(again, again.latest)))

        writer = store.begin(replace(META, index=8))
        crash()
        for chunk in split([CONTENT]):
            writer.write(chunk)
            crash()
        new = writer.finish()
        crash()
        writer.commit()
        crash()
        assert found == [(old, b"old")] * 5 + [(new, CONTENT)]

    def test_in_the_middle_of_any_write(self, tmp_path: Path) -> None:
        """However much of it is there, an unfinished file is deleted."""
        store = FileSnapshots(tmp_path)
        old = commit(store, META, b"old")
        writer = write(store, replace(META, index=8), CONTENT)
        writer.finish()
        (path,) = (tmp_path / "snapshots").glob("*.new")
        data = path.read_bytes()
        for length in (*range(60), 61_000, 100_000, len(data) - 1, len(data)):
            path.write_bytes(data[:length])
            again = FileSnapshots(tmp_path)
            assert again.latest == old
            assert not path.exists()
            assert content_in(again, old) == b"old"

    @pytest.mark.parametrize("snapshots", [0, 1, 7, 40])
    def test_a_killed_process(self, snapshots: int, tmp_path: Path) -> None:
        """What it said is committed is there, or what it wrote after that."""
        with subprocess.Popen(
            [sys.executable, snapshot_forever.__file__, str(tmp_path)],
            stdout=subprocess.PIPE,
        ) as program:
            assert program.stdout is not None
            said = [program.stdout.readline() for _ in range(snapshots + 1)]
            program.kill()
            said += program.stdout.readlines()
        committed = int([line for line in said if line.endswith(b"\n")][-1])
        assert committed >= snapshots
        store = FileSnapshots(tmp_path)
        index = store.latest.index if store.latest else 0
        assert index in {committed, committed + 1}
        if index:
            assert content_in(store, store.latest) == content_of(index)
        assert len(files(tmp_path)) == min(index, 1)

    @needs_strace
    def test_the_disk_is_asked_in_order(self, tmp_path: Path) -> None:
        """The file is synced, then renamed, then its directory is synced."""
        log = tmp_path / "log"
        directory = tmp_path / "server"
        directory.mkdir()
        calls = "trace=fsync,fdatasync,rename,write"
        program = [sys.executable, snapshot_forever.__file__, str(directory), "3"]
        run = ["strace", "-f", "-y", "-e", calls, "-o", str(log), *program]
        subprocess.run(run, capture_output=True, check=True)
        steps = {
            r"fdatasync\(\d+<.*\.snapshot\.\d+\.new>\) += 0": "s",
            r"rename\(.*\.new\", \".*\.snapshot\"\) += 0": "r",
            r"fsync\(\d+<.*/snapshots>\) += 0": "d",
            r'write\(1<[^>]*>, "[1-9]\\n"': "!",
            r"write\(\d+<.*\.snapshot\.\d+\.new>": "w",
        }
        trace = "".join(
            step
            for line in log.read_text(errors="replace").splitlines()
            for pattern, step in steps.items()
            if re.search(pattern, line)
        )
        assert re.fullmatch(r"(w+srd!){3}", trace), trace
