"""
The disk below a data directory: how fast it syncs, and what else is to be known.

============ ==========================================================
doctor.E001 the disk cannot be written, or a sync fails
doctor.E002 two members have one directory
doctor.W001 a synced write takes long
doctor.W002 the directory is on a network file system
doctor.W003 the directory is in memory
doctor.W004 the directory is another user's
doctor.W005 little room is left
doctor.W006 few files more can be made
============ ==========================================================
"""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from consensus.errors import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from consensus.core.values import ServerId

#: A small entry, as most are.
_WRITE_BYTES = 512

#: A measurement ends with the first of the two.
_MOST_WRITES = 300
_LONGEST = 2.0

#: Seconds; beyond it, a heartbeat interval passes in one sync.
_SLOW = 0.05

_LEAST_BYTES = 1 << 30
_LEAST_PART = 0.05
_LEAST_FILES = 10_000

_NETWORKS = {
    *("nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "9p", "ceph", "glusterfs"),
    *("fuse.sshfs", "fuse.glusterfs", "lustre", "ncpfs", "virtiofs"),
}
_MEMORY = {"tmpfs", "ramfs"}

_MOUNTS = Path("/proc/self/mountinfo")


@dataclass(frozen=True, slots=True)
class Times:
    """
    How long something took.

    Args:
        count: How often it was done.
        p50: Half of the time it was done in so many seconds.
        p99: 99 times in a hundred.
    """

    count: int
    p50: float
    p99: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Times:
        """Return what *seconds*, at least one of them, say."""
        ordered = sorted(seconds)
        last = len(ordered) - 1
        return cls(len(ordered), ordered[last // 2], ordered[round(last * 0.99)])


@dataclass(frozen=True, slots=True)
class Disk:
    """
    What is known of the disk below a directory.

    Args:
        server: Whose the directory is; empty if it is everybody's.
        directory: The directory.
        file_system: Its type, as the system calls it; empty if unknown.
        free_bytes: How many bytes this user may still write.
        free_files: How many files this user may still make; -1 if unlimited.
        syncs: How long a synced write takes; ``None`` if it does not work.
    """

    server: ServerId
    directory: str
    file_system: str
    free_bytes: int
    free_files: int
    syncs: Times | None


def examine(server: ServerId, directory: Path) -> tuple[Disk | None, list[Finding]]:
    """Return what is known of the disk of *server*, and what is wrong with it."""
    existing = directory.absolute()
    while not existing.is_dir() and existing != existing.parent:
        existing = existing.parent
    try:
        room = os.statvfs(existing)
        syncs = measure(existing)
    except OSError as error:
        return None, [_broken(existing, error)]
    disk = Disk(
        server,
        str(directory),
        file_system_of(existing),
        room.f_bavail * room.f_frsize,
        room.f_favail if room.f_files else -1,
        syncs,
    )
    findings = [
        *_slow(existing, syncs),
        *_kind(disk),
        *_owner(existing),
        *_room(disk, room.f_blocks * room.f_frsize),
    ]
    return disk, findings


def measure(directory: Path) -> Times:
    """
    Return how long a synced write of a few bytes takes in *directory*.

    Raises:
        OSError: It does not work there.
    """
    data = b"\0" * _WRITE_BYTES
    seconds: list[float] = []
    begun = perf_counter()
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        while len(seconds) < _MOST_WRITES and perf_counter() < begun + _LONGEST:
            before = perf_counter()
            file.write(data)
            os.fdatasync(file.fileno())
            seconds.append(perf_counter() - before)
    return Times.of(seconds)


def shared(directories: Mapping[ServerId, Path]) -> Iterator[Finding]:
    """Yield a finding for each two members whose directory is the same."""
    seen: dict[Path, ServerId] = {}
    for server, directory in directories.items():
        other = seen.setdefault(directory.resolve(), server)
        if other != server:
            yield Finding(
                "doctor.E002",
                f"{other} and {server} both have the directory {directory.resolve()}",
                "give each a directory of its own",
                "data_dir",
            )


def file_system_of(directory: Path, mounts: Path = _MOUNTS) -> str:
    """Return the type of the file system of *directory*; empty if unknown."""
    try:
        lines = mounts.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return ""
    place, best, found = directory.resolve(), -1, ""
    for line in lines:
        before, _, after = line.partition(" - ")
        point = Path(_unescaped(before.split()[4]))
        # The later of two at one place hides the earlier.
        if place.is_relative_to(point) and len(point.parts) >= best:
            best, found = len(point.parts), after.split()[0]
    return found


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def _broken(directory: Path, error: OSError) -> Finding:
    return Finding(
        "doctor.E001",
        f"no file can be written and synced in {directory}: {error.strerror or error}",
        "look at the disk and its mount, or let data_dir name another directory",
        "data_dir",
    )


def _slow(directory: Path, syncs: Times) -> Iterator[Finding]:
    if syncs.p99 > _SLOW:
        yield Finding(
            "doctor.W001",
            f"one synced write in a hundred takes {syncs.p99 * 1000:.0f} ms or more in"
            f" {directory}",
            "see what else uses this disk; an SSD with a write cache that survives a"
            " power cut takes less than a millisecond",
            "data_dir",
        )


def _kind(disk: Disk) -> Iterator[Finding]:
    if disk.file_system in _NETWORKS:
        yield Finding(
            "doctor.W002",
            f"{disk.directory} is on the network file system {disk.file_system}, where"
            " locks and syncs may not mean much",
            "let data_dir name a directory of a local disk",
            "data_dir",
        )
    elif disk.file_system in _MEMORY:
        yield Finding(
            "doctor.W003",
            f"{disk.directory} is in memory ({disk.file_system}): all is gone when this"
            " host starts anew, votes too",
            "let data_dir name a directory of a disk",
            "data_dir",
        )


def _owner(directory: Path) -> Iterator[Finding]:
    owner, user = directory.stat().st_uid, os.geteuid()
    if owner != user:
        yield Finding(
            "doctor.W004",
            f"{directory} belongs to user {owner}, and this is user {user}",
            "run raft doctor as the user that runs the server, and give it its"
            " directory",
            "data_dir",
        )


def _room(disk: Disk, total: int) -> Iterator[Finding]:
    if disk.free_bytes < max(_LEAST_BYTES, _LEAST_PART * total):
        yield Finding(
            "doctor.W005",
            f"{disk.free_bytes / (1 << 20):,.0f} MiB are left for {disk.directory}",
            "make room: a server whose disk is full takes no writes",
            "data_dir",
        )
    if 0 <= disk.free_files < _LEAST_FILES:
        yield Finding(
            "doctor.W006",
            f"{disk.free_files} files more can be made in {disk.directory}",
            "remove files that nobody needs: each segment and each snapshot is one",
            "data_dir",
        )
