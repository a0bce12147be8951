"""The key-value store's state machine that keeps its state on disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from consensus.errors import StorageError
from contrib.kvstore.machine import KVMachine, check_history
from contrib.kvstore.resp.options import RespOptions
from contrib.kvstore.sqlite_store import SQLiteStore, SQLiteView
from contrib.kvstore.state import fill

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from consensus.core.values import LogIndex, ServerId
    from consensus.interfaces import Snapshot


_LARGEST_CACHE = 1 << 20


@dataclass(frozen=True, slots=True)
class KVStoreOnDiskOptions(RespOptions):
    """
    What the YAML file may set under ``state_machine.options``.

    Args:
        history: How many events are kept for those who watch, and an eighth
            more; 0 for none, and nobody can watch.
        cache_mib: How much of the database is kept in memory, in MiB.
    """

    history: int = 10_000
    cache_mib: int = 64

    def __post_init__(self) -> None:
        """Refuse what is out of range."""
        check_history(self.history)
        if not 1 <= self.cache_mib <= _LARGEST_CACHE:
            message = f"cache_mib is 1 to {_LARGEST_CACHE}, not {self.cache_mib}"
            raise ValueError(message)


class KVStoreOnDisk(KVMachine):
    """
    A dictionary that is the same on every server, in a SQLite database.

    It may be larger than memory, and a restart goes on where it is.
    """

    Options: ClassVar[type[Any]] = KVStoreOnDiskOptions

    def init(self, name: ServerId) -> SQLiteStore:  # noqa: ARG002 - the same for all
        """
        Open the database, or begin one.

        Raises:
            StorageError: What is there cannot be read.
        """
        options = self.options
        return SQLiteStore(self.directory, options.history, options.cache_mib)

    def apply_batch(
        self, batch: Sequence[tuple[LogIndex, Any]], state: SQLiteStore
    ) -> tuple[Sequence[Any], SQLiteStore]:
        """Apply *batch* and store how far, in one transaction."""
        if batch[0][0] <= state.last_applied():
            message = f"command {batch[0][0]} was applied before"
            raise StorageError(message)
        with state.transaction(batch[-1][0]):
            return super().apply_batch(batch, state)

    def last_applied(self, state: SQLiteStore) -> LogIndex:
        """Return what the last transaction stored."""
        return state.last_applied()

    def snapshot(self, state: SQLiteStore) -> Snapshot:
        """Return a view of *state* as it is now."""
        return SQLiteView(state.path)

    def restore(self, chunks: Iterable[bytes], last_applied: LogIndex) -> SQLiteStore:
        """
        Replace all that is stored by what a snapshot has: all or nothing.

        Raises:
            StorageError: It is none, or of another release.
        """
        state = self.init("")
        try:
            with state.transaction(last_applied):
                state.clear()
                fill(state, chunks)
        except BaseException:
            state.close()
            raise
        return state

    def close(self, state: SQLiteStore) -> None:
        """Close the database."""
        state.close()
