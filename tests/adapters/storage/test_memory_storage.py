"""The storage in a list."""

from pathlib import Path

import pytest

from adapters.storage.memory import MemoryStorage
from consensus.core.values import Entry, EntryKind, HardState
from consensus.errors import StorageError
from consensus.testing.storage import VolatileStorageSuite


class TestMemoryStorage(VolatileStorageSuite):
    """What every storage promises while it is open."""

    def make(self, directory: Path) -> MemoryStorage:  # noqa: ARG002 - it needs none
        return MemoryStorage()


class TestForgetting:
    """What only this storage does."""

    def test_a_close_forgets_everything(self, tmp_path: Path) -> None:
        """After a close and an open it is as new, though it was synced."""
        storage = MemoryStorage()
        storage.open(tmp_path)
        storage.append([Entry(1, 1, EntryKind.COMMAND, b"gone")])
        storage.save_hard_state(HardState(1, "s1"))
        storage.sync()
        storage.close()
        storage.open(tmp_path)
        assert storage.last_index() == 0
        assert storage.hard_state() == HardState()

    def test_it_writes_no_file(self, tmp_path: Path) -> None:
        """Its directory stays empty."""
        storage = MemoryStorage()
        storage.open(tmp_path)
        storage.append([Entry(1, 1, EntryKind.COMMAND, b"x")])
        storage.sync()
        assert list(tmp_path.iterdir()) == []

    def test_it_says_what_it_is(self) -> None:
        """It is not durable, and needs no thread of its own."""
        assert not MemoryStorage.durable
        assert not MemoryStorage.blocking

    def test_what_is_read_is_a_copy_of_the_list(self, tmp_path: Path) -> None:
        """A list that was read does not grow with the log."""
        storage = MemoryStorage()
        storage.open(tmp_path)
        storage.append([Entry(1, 1, EntryKind.COMMAND, b"1")])
        read = storage.entries(1, 1, 100)
        storage.append([Entry(1, 2, EntryKind.COMMAND, b"2")])
        assert list(read) == [Entry(1, 1, EntryKind.COMMAND, b"1")]

    @pytest.mark.parametrize("first", [0, -1])
    def test_there_is_no_entry_below_1(self, tmp_path: Path, first: int) -> None:
        """An append that begins before the log is refused."""
        storage = MemoryStorage()
        storage.open(tmp_path)
        with pytest.raises(StorageError):
            storage.append([Entry(first, 1, EntryKind.COMMAND, b"")])

    def test_an_append_of_nothing_is_refused(self, tmp_path: Path) -> None:
        """Somebody who appends no entries has lost count."""
        storage = MemoryStorage()
        storage.open(tmp_path)
        with pytest.raises(StorageError, match="nothing"):
            storage.append([])
