"""
Checkpoints of a SQLite database, beside the thread that writes to it.

Left alone, SQLite moves its WAL to the database file within a commit that finds
it large enough, which then takes tens of milliseconds.  Here another thread, with
a connection of its own, does most of that, and a commit only what came meanwhile.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from threading import Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# With PASSIVE nobody has to wait, neither who writes nor who reads.
_CHECKPOINT = "PRAGMA wal_checkpoint(PASSIVE)"

#: The part of the WAL that a commit may move itself.
_REST = 1 / 8

#: A WAL that is so many times too large is waited for.
_TOO_LARGE = 4

#: What a row takes in the WAL beside its bytes, and a commit: pages, about.
_PAGE = 4096
_PAGES = 2


class Checkpointer:
    """
    Has the WAL moved to the database file when it has grown enough.

    It is used by the thread that writes.

    Args:
        path: Of the database.
        limit: How many bytes are enough.
    """

    def __init__(self, path: Path, limit: int) -> None:
        self._path = path
        self._limit = limit
        #: How large the WAL is, about.
        self._size = 0
        #: How large it was when the thread began.
        self._covered = 0
        self._thread: Thread | None = None
        self._error: sqlite3.Error | OSError | None = None
        # To close any descriptor of the file would release the locks that
        # SQLite has on it: this one stays open for as long as the connection.
        self._file = os.open(path, os.O_RDONLY)

    def wrote(self, size: int) -> None:
        """Note that a row of *size* bytes is in the WAL, or will be."""
        # Which is near enough: only SQLite knows, and does not say.
        self._size += (size // _PAGE + _PAGES) * _PAGE

    def committed(self, connection: sqlite3.Connection) -> None:
        """
        Look what there is to do, after a commit on *connection*.

        Raises:
            sqlite3.Error: A checkpoint has failed.
            OSError: Likewise.
        """
        if self._thread is None:
            if self._size >= self._limit:
                self._begin()
            return
        if self._thread.is_alive() and self._size < _TOO_LARGE * self._limit:
            return
        self.wait()
        rest = self._size - self._covered
        if rest > _REST * self._limit and self._size < _TOO_LARGE * self._limit:
            self._begin()
            return
        # With all of it moved, the next commit begins the WAL anew.
        self._size = 0
        connection.execute(_CHECKPOINT)

    def wait(self) -> None:
        """
        Wait until no checkpoint is under way.

        Raises:
            sqlite3.Error: It has failed.
            OSError: Likewise.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            # A full disk may have room when there is as much again.
            self._size = 0
            raise error

    def _begin(self) -> None:
        self._covered = self._size
        self._thread = Thread(target=self._run, name="raft-checkpoint", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            connection = sqlite3.connect(self._path, isolation_level=None)
            with closing(connection):
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute(_CHECKPOINT)
            # SQLite itself syncs it only if nothing came meanwhile.
            os.fsync(self._file)
        except (sqlite3.Error, OSError) as error:
            self._error = error

    def close(self) -> None:
        """End, after the connection that writes is closed."""
        os.close(self._file)
