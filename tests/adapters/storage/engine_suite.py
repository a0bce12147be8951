"""
What the tests of SQLite, RocksDB, LMDB and the log of our own have in common.

A test class of an engine inherits the suites below beside an :class:`Engine`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import closing, contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import pytest

from consensus.core.values import Entry, EntryKind, HardState
from consensus.errors import StorageError
from consensus.testing.storage import run_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from consensus.interfaces import Storage

PLENTY = 1 << 30
MIB = 1 << 20


@contextmanager
def opened(
    cls: type[Storage], directory: Path, options: object = None
) -> Iterator[Any]:
    """Lend the storage in *directory*."""
    storage = cls(options)
    storage.open(directory)
    with closing(storage):
        yield storage


def write(cls: type[Storage], directory: Path, last: int) -> None:
    """Leave *last* batches, of an entry each, and a vote in *directory*."""
    with opened(cls, directory) as storage:
        for index in range(1, last + 1):
            storage.append(run_of(index, index))
        storage.save_hard_state(HardState(1, "s1"))
        storage.sync()


class Engine(ABC):
    """One of the engines, and where it keeps its things."""

    cls: ClassVar[type[Storage]]
    #: The file or directory that it makes.
    file: ClassVar[str]

    def ids(self, directory: Path) -> list[str]:
        """Return the ids of what a check finds."""
        found = self.cls.check(self.cls.Options(), directory)
        return [finding.id for finding in found]

    def check_refused(self, directory: Path, identifier: str, match: str) -> None:
        """See that check and open refuse *directory*."""
        assert self.ids(directory) == [identifier]
        with pytest.raises(StorageError, match=match):
            self.cls().open(directory)

    def check_damaged(self, directory: Path) -> None:
        """See that the second of three batches is refused by name, and no other."""
        with opened(self.cls, directory) as storage:
            calls: list[Callable[[], object]] = [
                lambda: storage.entries(1, 3, PLENTY),
                lambda: storage.entries(2, 2, 0),
                lambda: storage.term(2),
            ]
            for call in calls:
                with pytest.raises(
                    StorageError,
                    match=rf"^\S+{self.file}: the batch of entries from 2 on is"
                    " damaged; .*replace",
                ):
                    call()
            assert list(storage.entries(3, 3, PLENTY)) == run_of(3, 3)


class FailureSuite(Engine):
    """What happens when a call fails."""

    def test_a_number_too_large_is_refused(self, tmp_path: Path) -> None:
        """A term beyond 63 bits becomes our error and changes nothing."""
        with opened(self.cls, tmp_path) as storage:
            storage.append(run_of(1, 1))
            with pytest.raises(StorageError, match="cannot append"):
                storage.append([*run_of(2, 2), Entry(3, 1 << 63, 1, b"")])
            with pytest.raises(StorageError, match="cannot append"):
                storage.append([Entry(2, 1 << 64, 1, b"")])
            with pytest.raises(StorageError):
                storage.save_hard_state(HardState(1 << 63, None))
            assert storage.last_index() == 1
            assert storage.hard_state() == HardState()

    @pytest.mark.parametrize(
        "bad",
        [
            [Entry(2, 1, 7, b"")],
            [Entry(2, 1, 300, b"")],
            [Entry(2, 1, -1, b"")],
            [Entry(2, -1, 1, b"")],
            [Entry(2, 5, 1, b""), Entry(3, 4, 1, b"")],
        ],
    )
    def test_what_could_not_be_read_is_not_written(
        self, tmp_path: Path, bad: list[Entry]
    ) -> None:
        """Neither an unknown kind nor terms that fall get to the disk."""
        with opened(self.cls, tmp_path) as storage:
            storage.append(run_of(1, 1))
            with pytest.raises(StorageError, match="cannot append"):
                storage.append(bad)
            storage.append(run_of(2, 2))
            assert list(storage.entries(1, 2, PLENTY)) == run_of(1, 2)

    def test_nothing_works_on_a_closed_storage(self, tmp_path: Path) -> None:
        """Every call that needs the disk says that it is not open."""
        with opened(self.cls, tmp_path) as storage:
            storage.append(run_of(1, 1))
            storage.sync()
        calls: list[Callable[[], object]] = [
            storage.sync,
            storage.hard_state,
            lambda: storage.save_hard_state(HardState(1, None)),
            lambda: storage.append(run_of(2, 2)),
            lambda: storage.entries(1, 1, PLENTY),
            lambda: storage.term(1),
            lambda: storage.compact(1, 1),
        ]
        for call in calls:
            with pytest.raises(StorageError, match="not open"):
                call()

    @pytest.mark.parametrize("first", [0, -1])
    def test_there_is_no_entry_below_1(self, tmp_path: Path, first: int) -> None:
        """An append that begins before the log is refused."""
        with opened(self.cls, tmp_path) as storage, pytest.raises(StorageError):
            storage.append([Entry(first, 1, EntryKind.COMMAND, b"")])

    def test_an_append_of_nothing_is_refused(self, tmp_path: Path) -> None:
        """Somebody who appends no entries has lost count."""
        with (
            opened(self.cls, tmp_path) as storage,
            pytest.raises(StorageError, match="nothing"),
        ):
            storage.append([])


class CheckSuite(Engine):
    """What is noticed before a start."""

    @abstractmethod
    def set_format(self, directory: Path, found: int) -> None:
        """Make what is in *directory* say that it has the format *found*."""

    def test_a_newer_format_is_found(self, tmp_path: Path) -> None:
        """What a later release wrote is left to it."""
        write(self.cls, tmp_path, 1)
        self.set_format(tmp_path, 4)
        match = "has format 4; this release reads 3"
        self.check_refused(tmp_path, "storage.E103", match)

    @pytest.mark.parametrize("found", [1, 2])
    def test_the_format_of_a_pre_release_is_refused(
        self, tmp_path: Path, found: int
    ) -> None:
        """One sentence says what to do."""
        write(self.cls, tmp_path, 1)
        self.set_format(tmp_path, found)
        match = "a pre-release wrote it: begin with an empty directory"
        self.check_refused(tmp_path, "storage.E103", match)

    def test_an_option_out_of_range_is_found(self, tmp_path: Path) -> None:
        """The finding says which option it is."""
        for field in fields(self.cls.Options):
            options: Any = self.cls.Options(**{field.name: 0})
            (finding,) = self.cls.check(options, tmp_path)
            assert finding.id == "storage.E105"
            assert finding.path == f"storage.options.{field.name}"


class Values(Protocol):
    """What a database has, by key; of a batch, the key is its first index."""

    def get(self, name: int | str) -> bytes:
        """Return a value."""

    def put(self, name: int | str, value: bytes) -> None:
        """Put a value in the place of another, or of none."""

    def delete(self, name: int | str) -> None:
        """Take it out."""


class ValuesSuite(CheckSuite):
    """What damage does to engines with keys, values, and a file ``FORMAT``."""

    @abstractmethod
    def values(self, directory: Path) -> AbstractContextManager[Values]:
        """Lend what is in *directory*, behind the storage's back."""

    @pytest.mark.parametrize("position", [*range(0, 36, 3), -1])
    def test_a_changed_batch_is_not_returned(
        self, tmp_path: Path, position: int
    ) -> None:
        """The error names the file, the batch and the way out."""
        write(self.cls, tmp_path, 3)
        with self.values(tmp_path) as values:
            value = bytearray(values.get(2))
            value[position] ^= 1
            values.put(2, bytes(value))
        self.check_damaged(tmp_path)

    @pytest.mark.parametrize("value", [b"", b"abc", b"short", bytes(12), bytes(20)])
    def test_a_short_value_is_noticed(self, tmp_path: Path, value: bytes) -> None:
        """A value too short for its numbers is damaged, too."""
        write(self.cls, tmp_path, 3)
        with self.values(tmp_path) as values:
            values.put(2, value)
        with (
            opened(self.cls, tmp_path) as storage,
            pytest.raises(StorageError, match="from 2 on is damaged"),
        ):
            storage.entries(1, 3, PLENTY)

    def test_a_batch_in_a_wrong_place_is_noticed(self, tmp_path: Path) -> None:
        """The CRC covers the index."""
        write(self.cls, tmp_path, 3)
        with self.values(tmp_path) as values:
            values.put(2, values.get(3))
        with (
            opened(self.cls, tmp_path) as storage,
            pytest.raises(StorageError, match="from 2 on is damaged"),
        ):
            storage.entries(1, 3, PLENTY)

    def test_damage_is_noticed_by_an_append_that_keeps_a_part(
        self, tmp_path: Path
    ) -> None:
        """What it would have to write once more is not trusted unseen."""
        with opened(self.cls, tmp_path) as storage:
            for first in (1, 4, 7):
                storage.append(run_of(first, first + 2))
            storage.sync()
        with self.values(tmp_path) as values:
            value = values.get(4)
            values.put(4, value[:-1] + b"?")
        with opened(self.cls, tmp_path) as storage:
            with pytest.raises(StorageError, match="from 4 on is damaged"):
                storage.append(run_of(6, 6, term=2))
            assert storage.last_index() == 9
            assert list(storage.entries(7, 9, PLENTY)) == run_of(7, 9)
            storage.append(run_of(4, 5, term=2))
            assert list(storage.entries(1, 5, PLENTY)) == [
                *run_of(1, 3),
                *run_of(4, 5, term=2),
            ]

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            (1, None, "entry 1 is missing"),
            (1, b"short", "from 1 on is damaged"),
            (3, b"short", "from 3 on is damaged"),
            ("hard_state", b"", "term and vote are damaged"),
            ("hard_state", bytes(13), "term and vote are damaged"),
            ("hard_state", None, "term and vote are damaged"),
            ("extent", None, "where the log begins is damaged"),
            ("extent", b"", "where the log begins is damaged"),
            ("extent", bytes(20), "where the log begins is damaged"),
        ],
    )
    def test_a_damaged_end_is_noticed_by_the_open(
        self, tmp_path: Path, name: int | str, value: bytes | None, message: str
    ) -> None:
        """What a first vote depends on is checked; the database is closed."""
        write(self.cls, tmp_path, 3)
        with self.values(tmp_path) as values:
            if value is None:
                values.delete(name)
            else:
                values.put(name, value)
        with pytest.raises(StorageError, match=message):
            self.cls().open(tmp_path)
        with self.values(tmp_path):
            pass

    def set_format(self, directory: Path, found: int) -> None:
        """Write the number to the file."""
        (directory / self.file / "FORMAT").write_text(f"{found}\n")

    def test_the_format_is_a_file(self, tmp_path: Path) -> None:
        """Its version can be read without the engine."""
        write(self.cls, tmp_path, 1)
        assert (tmp_path / self.file / "FORMAT").read_text() == "3\n"

    @pytest.mark.parametrize("version", ["", "one", "33"])
    def test_another_format_is_found(self, tmp_path: Path, version: str) -> None:
        """What says nothing that this release knows is refused."""
        write(self.cls, tmp_path, 1)
        (tmp_path / self.file / "FORMAT").write_text(version)
        match = r"has format .*; this release reads 3"
        self.check_refused(tmp_path, "storage.E103", match)

    def test_a_format_that_is_no_text_is_found(self, tmp_path: Path) -> None:
        """Bytes that are no text are refused, not guessed at."""
        write(self.cls, tmp_path, 1)
        (tmp_path / self.file / "FORMAT").write_bytes(b"\xff\xfe")
        assert self.ids(tmp_path) == ["storage.E101"]

    def test_a_file_in_its_place_is_found(self, tmp_path: Path) -> None:
        """What is no directory is refused by check and open."""
        (tmp_path / self.file).write_text("a file")
        self.check_refused(tmp_path, "storage.E101", "cannot be read")

    def test_a_second_opening_is_refused(self, tmp_path: Path) -> None:
        """The engine's own lock speaks with our error, and the first goes on."""
        with opened(self.cls, tmp_path) as storage:
            with pytest.raises(
                StorageError, match=r"cannot open: .*([Ll]ock|already open)"
            ):
                self.cls().open(tmp_path)
            storage.append(run_of(1, 1))
            storage.sync()
