"""Tests of consensus.snapshots.format: damage in a snapshot's file is found."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from crc32c import crc32c

from consensus.errors import StorageError
from consensus.snapshots import format as snapshot_format
from consensus.snapshots.files import CHUNK_BYTES, FileSnapshots
from tests.support.markdown import Page
from tests.support.snapshots import CONTENT, META, commit, only_file

#: Where the first chunk of META's file begins, and how long its end is.
HEADER_BYTES = 16 + len(msgspec.msgpack.encode([7, 2, b"members", 3]))
FOOTER_BYTES = 36


class DamageTests:
    """Damage is found, named, and never passed on."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        """Return the file of META's snapshot with CONTENT."""
        commit(FileSnapshots(tmp_path), META, CONTENT)
        return only_file(tmp_path)

    def opened(self, path: Path) -> FileSnapshots:
        """Open the store that *path* is in."""
        return FileSnapshots(path.parent.parent)

    @pytest.mark.parametrize("place", [*range(HEADER_BYTES), *range(-FOOTER_BYTES, 0)])
    def test_both_ends_are_checked_at_once(self, path: Path, place: int) -> None:
        """A changed bit in the header or the footer keeps a server from starting."""
        data = bytearray(path.read_bytes())
        data[place] ^= 1
        path.write_bytes(data)
        with pytest.raises(StorageError, match=re.escape(str(path))):
            self.opened(path)
        assert path.exists()

    def test_the_rest_is_checked_when_it_is_read(self, path: Path) -> None:
        """A changed bit anywhere else is found in the chunk that has it."""
        data = path.read_bytes()
        record = CHUNK_BYTES + 8
        starts = [HEADER_BYTES + number * record for number in range(3)]
        end = len(data) - FOOTER_BYTES
        places = [start + add for start in starts for add in (*range(10), 9999)]
        for place in (*places, end - 1):
            path.write_bytes(
                data[:place] + bytes([data[place] ^ 0x80]) + data[place + 1 :]
            )
            store = self.opened(path)
            assert store.latest is not None
            number = (place - HEADER_BYTES) // record
            with pytest.raises(StorageError, match=f"chunk {number} of 3 is wrong"):
                store.chunk(store.latest, number)
            with pytest.raises(StorageError, match=re.escape(str(path))):
                list(store.chunks(store.latest))

    def test_chunks_in_another_order(self, path: Path) -> None:
        """A chunk is right in its own place only."""
        data = path.read_bytes()
        record = CHUNK_BYTES + 8
        one, two = HEADER_BYTES + record, HEADER_BYTES + 2 * record
        path.write_bytes(
            data[:HEADER_BYTES] + data[one:two] + data[HEADER_BYTES:one] + data[two:]
        )
        store = self.opened(path)
        assert store.latest is not None
        with pytest.raises(StorageError, match="chunk 0"):
            store.chunk(store.latest, 0)

    def test_a_chunk_of_another_snapshot(self, path: Path, tmp_path: Path) -> None:
        """It is right by itself; only the whole is not."""
        other = tmp_path / "other"
        other.mkdir()
        commit(FileSnapshots(other), META, b"x" * len(CONTENT))
        data, record = path.read_bytes(), CHUNK_BYTES + 8
        swapped = only_file(other).read_bytes()[HEADER_BYTES : HEADER_BYTES + record]
        path.write_bytes(data[:HEADER_BYTES] + swapped + data[HEADER_BYTES + record :])
        store = self.opened(path)
        assert store.latest is not None
        store.chunk(store.latest, 0)
        with pytest.raises(StorageError, match="checksum of the whole"):
            list(store.chunks(store.latest))

    def test_a_file_that_is_too_short(self, path: Path) -> None:
        """Wherever it was cut off, it does not count as a snapshot."""
        data = path.read_bytes()
        whole = len(data)
        near = range(HEADER_BYTES + 10), range(whole - FOOTER_BYTES - 9, whole)
        for length in (*near[0], 60_000, 100_000, *near[1]):
            path.write_bytes(data[:length])
            with pytest.raises(StorageError, match="is damaged"):
                self.opened(path)

    @pytest.mark.parametrize("place", [1000, 153_000, 153_714])
    def test_a_file_that_is_too_long(self, path: Path, place: int) -> None:
        """Whether in its middle or at its end."""
        data = path.read_bytes()
        path.write_bytes(data[:place] + b"\0" + data[place:])
        with pytest.raises(StorageError, match="is damaged"):
            self.opened(path)

    def test_a_file_that_grew_shorter_while_it_is_used(self, path: Path) -> None:
        store = self.opened(path)
        assert store.latest is not None
        os.truncate(path, HEADER_BYTES + 4)
        for number in range(3):
            with pytest.raises(StorageError, match=f"chunk {number}"):
                store.chunk(store.latest, number)
        path.unlink()
        with pytest.raises(StorageError, match="cannot use"):
            store.chunk(store.latest, 0)

    def test_an_older_one_does_not_stand_in(self, path: Path) -> None:
        """The log no longer has what lies between; nothing is deleted either."""
        older = path.with_name("1-1.snapshot")
        shutil.copy(path, older)
        os.truncate(path, 100)
        with pytest.raises(StorageError, match="replace this server"):
            self.opened(path)
        assert older.exists()

    def test_a_renamed_file(self, path: Path) -> None:
        """A snapshot is that of its name, or none."""
        path.rename(path.with_name("8-2.snapshot"))
        with pytest.raises(StorageError, match="name is that of another"):
            self.opened(path)

    def test_a_newer_format(self, path: Path) -> None:
        """What a later release wrote is refused with a sentence, and stays."""
        data = bytearray(path.read_bytes())
        data[11] = 2
        path.write_bytes(data)
        with pytest.raises(StorageError, match="format 2, and this release knows up"):
            self.opened(path)
        assert path.exists()

    def test_a_header_that_says_nothing(self, path: Path) -> None:
        """Right checksums over something else are not believed."""
        data = path.read_bytes()
        head = data[:16] + b"\xc0" * (HEADER_BYTES - 16)
        foot = data[-FOOTER_BYTES:-8] + crc32c(head).to_bytes(4)
        body = data[HEADER_BYTES:-FOOTER_BYTES]
        path.write_bytes(head + body + foot + crc32c(foot).to_bytes(4))
        with pytest.raises(StorageError, match="Expected `array`"):
            self.opened(path)

    def test_what_cannot_be_a_directory(self, tmp_path: Path) -> None:
        (tmp_path / "snapshots").touch()
        with pytest.raises(StorageError, match="cannot use"):
            FileSnapshots(tmp_path)


class PageTests:
    """The page about the files says what is so."""

    def test_sizes(self) -> None:
        """A change of the layout needs a new number."""
        assert snapshot_format.FORMAT == 1
        assert (snapshot_format._HEADER.size, snapshot_format._FOOTER.size) == (
            *(16, FOOTER_BYTES),
        )

    def test_the_program_there(self, tmp_path: Path) -> None:
        """It reads the format from the outside, and comes to the same verdict."""
        page = Path(__file__).parents[2] / "docs" / "reference" / "snapshot-files.md"
        (block,) = Page(page).of("python")
        commit(FileSnapshots(tmp_path), META, CONTENT)
        path = only_file(tmp_path)
        assert self.run(block.text, path) == "whole\n"
        data = path.read_bytes()
        for place in (12, 20, 200, 62_000, 153_000, len(data) - 30, len(data) - 1):
            damage = bytes([data[place] ^ 1])
            path.write_bytes(data[:place] + damage + data[place + 1 :])
            assert self.run(block.text, path) != "whole\n"

    def run(self, program: str, path: Path) -> str:
        """Return what *program* says of *path*."""
        run = [sys.executable, "-c", program, str(path)]
        return subprocess.run(run, capture_output=True, text=True, check=False).stdout
