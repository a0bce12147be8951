"""The disk below a data directory."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from consensus.config import Timing
from consensus.doctor import disk
from consensus.doctor.advice import advise
from consensus.doctor.disk import Disk, Times
from consensus.doctor.network import Way

if TYPE_CHECKING:
    from pathlib import Path

MOUNTS = """\
21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 21 0:30 / {base} rw - nfs4 host:/export rw
31 30 0:31 / {base}/with\\040space rw - tmpfs tmpfs rw
32 21 0:32 / {base}/hidden rw - xfs /dev/sdb1 rw
33 32 0:33 / {base}/hidden rw - cifs //host/share rw
"""


def ids(findings: list[object]) -> list[str]:
    """Return the ids of *findings*."""
    return [each.id for each in findings]  # type: ignore[attr-defined]


class TimesTests:
    """Percentiles."""

    def test_percentiles(self) -> None:
        """The median, and what one in a hundred exceeds."""
        assert Times.of([3.0, 1.0, 2.0]) == Times(3, 2.0, 3.0)
        assert Times.of([float(each) for each in range(101)]) == Times(101, 50.0, 99.0)


class FileSystemTests:
    """Which file system a directory is of."""

    @pytest.mark.parametrize(
        ("place", "kind"),
        [
            ("", "nfs4"),
            ("data/s1", "nfs4"),
            ("with space/s1", "tmpfs"),
            ("with spaces", "nfs4"),
            ("hidden", "cifs"),
            ("..", "ext4"),
        ],
    )
    def test_the_nearest_mount_counts(
        self, tmp_path: Path, place: str, kind: str
    ) -> None:
        """The innermost one, and of two at one place the later."""
        mounts = tmp_path / "mountinfo"
        mounts.write_text(MOUNTS.format(base=tmp_path.resolve()))
        assert disk.file_system_of(tmp_path / place, mounts) == kind

    def test_unknown(self, tmp_path: Path) -> None:
        """Without a list of mounts nothing is known."""
        assert disk.file_system_of(tmp_path, tmp_path / "none") == ""


class ExamineTests:
    """What is said of a disk."""

    def test_a_directory_that_is_not_there_yet(self, tmp_path: Path) -> None:
        """The disk is that of what is there; nothing is made or left."""
        found, _ = disk.examine("s1", tmp_path / "data" / "s1")
        assert found is not None
        assert found.syncs is not None
        assert 0 < found.syncs.p50 <= found.syncs.p99
        assert found.free_bytes > 0
        assert list(tmp_path.iterdir()) == []

    def test_a_disk_that_cannot_be_written(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """A sync that fails is an error, and the reason is told."""

        def broken(_: int) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "fdatasync", broken)
        found, findings = disk.examine("s1", tmp_path)
        assert found is None
        assert ids([*findings]) == ["doctor.E001"]
        assert "Input/output error" in findings[0].message

    def test_shared(self, tmp_path: Path) -> None:
        """Two names for one directory are one directory."""
        (tmp_path / "s1").mkdir()
        (tmp_path / "s2").symlink_to(tmp_path / "s1")
        directories = {name: tmp_path / name for name in ("s1", "s2", "s3")}
        (found,) = disk.shared(directories)
        assert found.id == "doctor.E002"
        assert "s1 and s2" in found.message

    @pytest.mark.parametrize(
        ("kind", "expected"),
        [("nfs4", ["doctor.W002"]), ("tmpfs", ["doctor.W003"]), ("ext4", [])],
    )
    def test_kinds(self, kind: str, expected: list[str]) -> None:
        """Network and memory are no places for a log."""
        found = Disk("s1", "/data", kind, 1 << 40, -1, None)
        assert ids(list(disk._kind(found))) == expected

    @pytest.mark.parametrize(
        ("free", "files", "expected"),
        [
            (1 << 40, -1, []),
            (1 << 29, -1, ["doctor.W005"]),
            (1 << 40, 12, ["doctor.W006"]),
        ],
    )
    def test_room(self, free: int, files: int, expected: list[str]) -> None:
        """Little room and few files are told before there are none."""
        found = Disk("s1", "/data", "ext4", free, files, None)
        assert ids(list(disk._room(found, 1 << 41))) == expected

    def test_slow(self, tmp_path: Path) -> None:
        """A disk that takes longer than a heartbeat is slow."""
        assert ids(list(disk._slow(tmp_path, Times(9, 0.01, 0.2)))) == ["doctor.W001"]
        assert ids(list(disk._slow(tmp_path, Times(9, 0.01, 0.02)))) == []


class AdviceTests:
    """The timing that fits what was measured."""

    def test_a_good_host(self) -> None:
        """What is quick keeps the defaults."""
        quick = Times(9, 0.001, 0.002)
        way = Way("s1", "", quick)
        found = advise(Timing(), [Disk("", "", "", 0, 0, quick)], [way])
        assert [each.proposed for each in found] == [0.05, 0.25, 10.0]

    def test_far_hosts(self) -> None:
        """Long ways need long timeouts, and the slowest counts."""
        ways = [Way("s1", "", Times(9, 0.01, 0.01)), Way("s2", "", Times(9, 0.1, 0.15))]
        disks = [Disk("", "", "", 0, 0, Times(9, 0.01, 0.05))]
        found = {each.key: each.proposed for each in advise(Timing(), disks, ways)}
        assert found == {
            "heartbeat_interval": 0.3,
            "election_timeout": 2.0,
            "request_timeout": 40.0,
        }

    def test_no_answers(self) -> None:
        """What is not known is said."""
        found = advise(Timing(), [], [Way("s1", "", error="refused")])
        assert "the network is not known" in found[0].why
