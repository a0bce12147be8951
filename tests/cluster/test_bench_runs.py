"""The bench starts real servers, measures them, and leaves none behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0


def start(directory: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start the bench."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.bench", f"--directory={directory}", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def members(directory: Path) -> list[int]:
    """Return the processes of servers whose data is in *directory*."""
    found = []
    for each in Path("/proc").iterdir():
        try:
            command = (each / "cmdline").read_bytes()
        except OSError:
            continue
        if b"tests.bench.member" in command and os.fsencode(directory) in command:
            found.append(int(each.name))
    return found


def wait_for(directory: Path, *, count: int) -> None:
    """Wait until so many servers run."""
    deadline = time.monotonic() + PATIENCE
    while len(members(directory)) != count:
        assert time.monotonic() < deadline, members(directory)
        time.sleep(0.02)


def test_core(tmp_path: Path) -> None:
    """The scenario that systems are compared by finds all of its figures."""
    file = tmp_path / "found.json"
    arguments = ("--quick", "--runs=1", "--seconds=0.2", "--storage=sqlite")
    bench = start(tmp_path, "core", *arguments, f"--json={file}")
    output, _ = bench.communicate(timeout=PATIENCE)
    assert bench.returncode == 0, output
    found = json.loads(file.read_text())
    figures = found["scenarios"]["core"]["figures"]["sqlite"]
    for name in ("puts/s, 1", "puts/s, 64", "puts/s, 1024", "reads/s, 64"):
        assert figures[name]["median"] > 0
        assert name in output
    assert figures["fail-over ms, leader killed"]["median"] > 0
    assert figures["CPU s per 10 k puts, all"]["median"] > 0
    assert found["machine"]["syncs/s"] > 0
    assert members(tmp_path) == []
    assert [each.name for each in tmp_path.iterdir()] == ["found.json"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_leaves_no_process_behind(tmp_path: Path, number: signal.Signals) -> None:
    """However the bench ends, its servers end too."""
    with start(tmp_path, "core", "--seconds=60", "--storage=sqlite") as bench:
        wait_for(tmp_path, count=3)
        bench.send_signal(number)
        wait_for(tmp_path, count=0)
        bench.wait(PATIENCE)
