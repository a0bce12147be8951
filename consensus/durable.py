"""
What it takes until a file, or its name, survives a power cut.

Standard library only; adapters may use it, too.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

#: What the name of a file ends with that may be written in part only.
NEW = ".new"


def sync_path(path: Path) -> None:
    """
    Make durable what *path*, a file, has, or which names are in it, a directory.

    Raises:
        OSError: It may not be.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(path: Path) -> None:
    """
    Make durable what the directory *path* has, at any depth.

    Raises:
        OSError: It may not be.
    """
    for each in path.rglob("*"):
        sync_path(each)
    sync_path(path)


def write_durably(file: Path, content: bytes) -> None:
    """
    Replace *file* by one with *content*, as a whole or not at all.

    Raises:
        OSError: It is as it was; or its new name is not durable.
    """
    new = file.with_name(file.name + NEW)
    new.write_bytes(content)
    sync_path(new)
    new.replace(file)
    sync_path(file.parent)
