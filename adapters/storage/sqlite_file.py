"""The file of the SQLite storage, as one sees it without SQLite."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from adapters.storage import engine, records

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from consensus.errors import Finding

#: Its name.
FILE = "raft.sqlite"

#: What its header says that it is for.
APPLICATION_ID = int.from_bytes(b"RAFT")

# The parts of a SQLite file's header that say what it is: the magic, how often
# the schema was changed, the user_version and the application_id.
_MAGIC = b"SQLite format 3\x00"
_HEADER = struct.Struct(">16s24xI16xI4xI")


def sync_wal(path: Path) -> None:
    """
    Make durable what the last process may have left unsynced in the WAL.

    Killed in the middle of a sync, it leaves a transaction that SQLite will
    find whole, but that a power cut could still take away.
    """
    wal = path.with_name(f"{path.name}-wal")
    if wal.exists():
        records.sync_file(wal)


def look_at_format(path: Path, application: int, version: int) -> Iterator[Finding]:
    """Yield why a database with this in its header is not for this release."""
    if application != APPLICATION_ID:
        yield engine.of_another_program(f"{path} is a database of another program")
    else:
        yield from records.look_at_format(path, version)


def look_for_lost_file(path: Path) -> Iterator[Finding]:
    """Yield that *path* is gone, if only its WAL is there."""
    wal = path.with_name(f"{path.name}-wal")
    if wal.exists() and not path.exists():
        yield engine.lost(f"{path} is gone, but its WAL is still there")


def look_at_file(path: Path) -> Iterator[Finding]:
    """
    Yield what forbids to open *path*, changing nothing.

    Only the header is looked at, and not through SQLite, which would recover
    the WAL first, or, told to leave it alone, take a file that was killed
    during a checkpoint for a damaged one.
    """
    yield from look_for_lost_file(path)
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER.size)
    except FileNotFoundError:
        return
    except OSError as error:
        yield engine.unreadable(f"{path} cannot be read: {error}")
        return
    if not header:
        return
    if len(header) < _HEADER.size or not header.startswith(_MAGIC):
        yield engine.unreadable(f"{path} is not a SQLite database")
        return
    _, schema_changes, version, application = _HEADER.unpack(header)
    # No schema yet: the server that began to make the file was killed.
    if schema_changes:
        yield from look_at_format(path, application, version)
