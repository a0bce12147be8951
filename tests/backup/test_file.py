"""Tests of consensus.backup.file: whole, or refused."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.backup import file
from consensus.backup.file import BackupFile, BackupWriter
from consensus.errors import (
    DiskFullError,
    InvalidChangeError,
    ProtocolError,
    StorageError,
)
from consensus.snapshots.format import CHUNK_BYTES
from tests.support.backups import HEADER, description_of, read_backup, write_backup

if TYPE_CHECKING:
    from pathlib import Path

STATE = bytes(range(256)) * 600


def no_room(*_: object) -> NoReturn:
    """Fail as a full disk does."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def read_all(path: Path) -> None:
    """Read a backup from its first byte to its last."""
    for _ in BackupFile(path).chunks():
        pass


class WholeTests:
    """What is written is read."""

    @pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, 3 * CHUNK_BYTES, 200_000])
    def test_round_trip(self, size: int, tmp_path: Path) -> None:
        """Description, the framework's state and the machine's come back."""
        path, state = tmp_path / "b", (STATE * 2)[:size]
        said = write_backup(path, [state])
        assert BackupFile(path).description == said
        assert read_backup(path) == (HEADER, state)
        assert [each.name for each in tmp_path.iterdir()] == ["b"]
        assert path.stat().st_mode & 0o777 == 0o600

    def test_an_empty_chunk(self, tmp_path: Path) -> None:
        """A snapshot without a byte has one chunk."""
        path = tmp_path / "b"
        with BackupWriter(path, description_of([b""])) as writer:
            writer.write(b"")
            writer.commit()
        assert list(BackupFile(path).chunks()) == [b""]

    def test_progress(self, tmp_path: Path) -> None:
        """All bytes of the chunks are counted."""
        said = write_backup(tmp_path / "b", [STATE])
        counted: list[int] = []
        for _ in BackupFile(tmp_path / "b").chunks(counted.append):
            pass
        assert sum(counted) == said.size


class DamageTests:
    """Every other sequence of bytes is refused."""

    def test_every_bit_counts(self, tmp_path: Path) -> None:
        """A flipped bit is found, wherever it is."""
        path = tmp_path / "b"
        write_backup(path, [b"state"])
        data = path.read_bytes()
        for position in range(len(data)):
            for bit in (0, 3, 7):
                wrong = bytearray(data)
                wrong[position] ^= 1 << bit
                path.write_bytes(wrong)
                with pytest.raises(StorageError):
                    read_all(path)

    def test_every_length_counts(self, tmp_path: Path) -> None:
        """A file that is cut off anywhere, or goes on, is refused at once."""
        path = tmp_path / "b"
        write_backup(path, [b"state"])
        data = path.read_bytes()
        for length in range(len(data)):
            path.write_bytes(data[:length])
            with pytest.raises(StorageError):
                BackupFile(path)
        path.write_bytes(data + b"\0")
        with pytest.raises(StorageError, match="bytes"):
            BackupFile(path)

    def test_exchanged_chunks(self, tmp_path: Path) -> None:
        """A chunk belongs to its place."""
        path = tmp_path / "b"
        write_backup(path, [b"a" * (3 * CHUNK_BYTES)])
        data = path.read_bytes()
        size = 8 + CHUNK_BYTES
        first = len(data) - 12 - sum(8 + len(c) for c in BackupFile(path).chunks())
        wrong = (
            data[:first]
            + data[first + size : first + 2 * size]
            + data[first : first + size]
            + data[first + 2 * size :]
        )
        assert len(wrong) == len(data)
        path.write_bytes(wrong)
        with pytest.raises(StorageError, match="chunk 0 of 4 is wrong"):
            read_all(path)

    @given(st.binary(max_size=300))
    def test_anything_else(self, data: bytes) -> None:
        """What is no backup is refused with a sentence."""
        path = self.path
        path.write_bytes(data)
        with pytest.raises(StorageError):
            read_all(path)

    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.path = tmp_path / "anything"

    def test_a_newer_format(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A file of a later release says so."""
        with monkeypatch.context() as patch:
            patch.setattr(file, "FORMAT", 2)
            write_backup(tmp_path / "b", [b"state"])
        with pytest.raises(StorageError, match="has format 2"):
            BackupFile(tmp_path / "b")

    def test_no_file(self, tmp_path: Path) -> None:
        """A file that is not there is an error of ours."""
        with pytest.raises(StorageError, match="No such file"):
            BackupFile(tmp_path / "b")


class WritingTests:
    """There is a complete file, or none."""

    def test_an_existing_file_stays(self, tmp_path: Path) -> None:
        """Nothing is written over."""
        (tmp_path / "b").write_text("precious")
        with pytest.raises(InvalidChangeError, match="exists"):
            write_backup(tmp_path / "b", [b"state"])
        assert (tmp_path / "b").read_text() == "precious"
        assert len(list(tmp_path.iterdir())) == 1

    def test_leftovers_go(self, tmp_path: Path) -> None:
        """What a backup that was killed has left is written over."""
        (tmp_path / "b.part").write_bytes(b"x" * 10_000)
        write_backup(tmp_path / "b", [b"state"])
        assert read_backup(tmp_path / "b") == (HEADER, b"state")

    def test_given_up(self, tmp_path: Path) -> None:
        """What is not committed is deleted."""
        with BackupWriter(tmp_path / "b", description_of([b"a"])) as writer:
            writer.write(b"a")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("chunks", [[], [b"a"], [b"a", b"c"], [b"a", b"b", b""]])
    def test_not_what_was_announced(self, chunks: list[bytes], tmp_path: Path) -> None:
        """Other chunks than the description's make no backup."""
        with BackupWriter(tmp_path / "b", description_of([b"a", b"b"])) as writer:
            for chunk in chunks:
                writer.write(chunk)
            with pytest.raises(ProtocolError, match="announced"):
                writer.commit()
        assert not list(tmp_path.iterdir())

    def test_no_room(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A full disk leaves nothing behind, and says which."""
        monkeypatch.setattr(os, "fsync", no_room)
        with pytest.raises(DiskFullError, match="no room for"):
            write_backup(tmp_path / "b", [STATE])
        assert not list(tmp_path.iterdir())

    def test_no_directory(self, tmp_path: Path) -> None:
        """A place that is not there is an error of ours."""
        with pytest.raises(StorageError, match="No such file"):
            write_backup(tmp_path / "none" / "b", [b"state"])
