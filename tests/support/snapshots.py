"""Snapshots to be written and read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from consensus.core.values import SnapshotMeta
from consensus.snapshots.files import SnapshotStore, SnapshotWriter, split

if TYPE_CHECKING:
    from pathlib import Path

META = SnapshotMeta(7, 2, b"members", 3)
#: Two whole chunks and a part of a third.
CONTENT = bytes(range(256)) * 600


def fill(writer: SnapshotWriter, content: bytes) -> None:
    """Write *content* to *writer*."""
    for chunk in split([content]):
        writer.write(chunk)


def finish(writer: SnapshotWriter, content: bytes) -> None:
    """Write *content* to *writer*, to its end."""
    fill(writer, content)
    writer.finish()


def write(store: SnapshotStore, meta: SnapshotMeta, content: bytes) -> SnapshotWriter:
    """Write a snapshot, but for its end."""
    writer = store.begin(meta)
    fill(writer, content)
    return writer


def commit(store: SnapshotStore, meta: SnapshotMeta, content: bytes) -> SnapshotMeta:
    """Write a snapshot; return its whole meta."""
    writer = write(store, meta, content)
    finished = writer.finish()
    writer.commit()
    return finished


def content_in(store: SnapshotStore, meta: SnapshotMeta | None) -> bytes:
    """Return all bytes of a snapshot."""
    assert meta is not None
    return b"".join(store.chunks(meta))


def files(directory: Path) -> list[str]:
    """Return the names of what is there of snapshots."""
    return sorted(path.name for path in (directory / "snapshots").iterdir())


def only_file(directory: Path) -> Path:
    """Return the only snapshot of *directory*."""
    (path,) = (directory / "snapshots").iterdir()
    return path
