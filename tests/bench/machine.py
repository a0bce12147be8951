"""What the machine can do, and what a process has used of it."""

from __future__ import annotations

import os
import platform
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_TICKS = os.sysconf("SC_CLK_TCK")

# One sync writes as much as a batch of a few small writes does.
_BLOCK = b"x" * 4096
_BLOCKS = 256


def cpu_seconds(pid: int) -> float:
    """Return the processor time that the process *pid* has used."""
    text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    fields = text.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def resident_bytes(pid: int) -> int:
    """Return how much memory the process *pid* takes (its RSS)."""
    return _field(Path(f"/proc/{pid}/status"), "VmRSS") * 1024


def written_bytes(pid: int) -> int:
    """Return how much the process *pid* has sent to the disk."""
    return _field(Path(f"/proc/{pid}/io"), "write_bytes")


def _field(path: Path, name: str) -> int:
    for line in path.read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0])
    return 0


def describe(directory: Path, seconds: float = 0.5) -> dict[str, str | int | float]:
    """
    Return what the figures depend on.

    Args:
        directory: On the disk that the servers will use.
        seconds: How long each measurement takes.
    """
    return {
        "cpus": os.cpu_count() or 0,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "file system": _file_system(directory),
        "syncs/s": round(sync_rate(directory, seconds)),
        "loopback round trip, µs": round(round_trip(seconds) * 1e6, 1),
    }


def sync_rate(directory: Path, seconds: float) -> float:
    """Return how often a second a block of a preallocated file can be synced."""
    path = directory / "sync-rate"
    with path.open("wb", buffering=0) as file:
        file.write(_BLOCK * _BLOCKS)
        os.fsync(file.fileno())

        def sync(number: int) -> None:
            os.pwrite(file.fileno(), _BLOCK, number % _BLOCKS * len(_BLOCK))
            os.fdatasync(file.fileno())

        rate = _repeat(sync, seconds)
    path.unlink()
    return rate


def round_trip(seconds: float) -> float:
    """Return the seconds that a byte takes to a thread and back, over loopback."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as near,
        listener.accept()[0] as far,
    ):
        for each in (near, far):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        echo = threading.Thread(target=_echo, args=(far,))
        echo.start()

        def call(_: int) -> None:
            near.sendall(b"x")
            near.recv(1)

        rate = _repeat(call, seconds)
        near.shutdown(socket.SHUT_WR)
        echo.join()
    return 1 / rate


def _echo(far: socket.socket) -> None:
    while data := far.recv(1):
        far.sendall(data)


def _repeat(call: Callable[[int], None], seconds: float) -> float:
    """Return how often a second *call* can be made."""
    began = time.perf_counter()
    number, now = 0, began
    while now < began + seconds:
        call(number)
        number += 1
        now = time.perf_counter()
    return number / (now - began)


def _file_system(directory: Path) -> str:
    """Return the type of the file system that *directory* is on."""
    lines = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    mounts = {line.split()[1]: line.split()[2] for line in lines}
    path = directory.resolve()
    for each in (path, *path.parents):
        if str(each) in mounts:
            return mounts[str(each)]
    return "unknown"


class Meter:
    """
    What processes use between two moments.

    Args:
        pids: Their numbers.
    """

    def __init__(self, pids: Iterable[int]) -> None:
        self._pids = list(pids)
        self._cpu = [cpu_seconds(pid) for pid in self._pids]
        self._written = [written_bytes(pid) for pid in self._pids]

    def cpu(self) -> list[float]:
        """Return the processor time of each, in seconds."""
        return [
            cpu_seconds(pid) - before
            for pid, before in zip(self._pids, self._cpu, strict=True)
        ]

    def written(self) -> list[int]:
        """Return the bytes that each has written."""
        return [
            written_bytes(pid) - before
            for pid, before in zip(self._pids, self._written, strict=True)
        ]
