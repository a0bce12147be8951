"""Backups to be read, checked and restored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crc32c import crc32c

from consensus.backup.file import BackupFile, BackupWriter, Description
from consensus.core.membership import Membership
from consensus.snapshots.format import split
from consensus.snapshots.header import Header, encode_header, read_header

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from consensus.core.values import Entry, LogIndex
    from consensus.interfaces import Storage

MEMBERSHIP = Membership({"s1": "a1", "s2": "a2"}, cluster_id="old")

HEADER = Header(
    last_applied=7,
    version=1,
    time=5000,
    sessions=[],
    marked=4,
    digest=b"x",
    is_claimed=False,
    equal=2,
)


def description_of(chunks: list[bytes], **keys: object) -> Description:
    """Return what describes a backup that has *chunks*."""
    whole = b"".join(chunks)
    said = {
        "cluster": "shop",
        "index": 7,
        "term": 2,
        "membership": MEMBERSHIP.encode(),
        "membership_index": 1,
        "application": "register",
        "application_class": "tests.support.servers.Register",
        "server": "s2",
        "taken": 1_700_000_000,
        "release": "0.1.0",
        "chunks": len(chunks),
        "size": len(whole),
        "checksum": crc32c(whole),
    }
    return Description(**{**said, **keys})  # type: ignore[arg-type]


def write_backup(
    path: Path, state: Iterable[bytes], header: Header = HEADER, **keys: object
) -> Description:
    """Write a backup of a machine's *state*, as its snapshot has it."""
    chunks = list(split([encode_header(header), *state]))
    said = description_of(chunks, **{"index": header.last_applied, **keys})
    with BackupWriter(path, said) as writer:
        for chunk in chunks:
            writer.write(chunk)
        writer.commit()
    return said


def read_backup(path: Path) -> tuple[Header, bytes]:
    """Return what is in a backup: the framework's state, and the machine's."""
    header, rest = read_header(BackupFile(path).chunks())
    return header, b"".join(rest)


def log_of(storage: Storage, up_to: LogIndex) -> list[Entry]:
    """Return the entries of an open *storage* from the first one to *up_to*."""
    found: list[Entry] = []
    while len(found) < up_to:
        found += storage.entries(len(found) + 1, up_to, 1 << 30)
    assert [each.index for each in found] == list(range(1, up_to + 1))
    return found
