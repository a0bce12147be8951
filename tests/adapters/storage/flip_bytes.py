"""
A program for ``test_storage_damage``: flip bytes of a storage's file, and read.

``python flip_bytes.py ENGINE DIRECTORY FILE SCRATCH POSITION...``: for
each position, a copy of DIRECTORY with that byte of FILE flipped is opened in
SCRATCH, and read.  It prints what came of it: ``same`` when all was found as
it is in DIRECTORY, or ``noticed`` when there was a StorageError that names the
file; anything else is a fault, which is printed, too.
"""

from __future__ import annotations

import shutil
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from consensus.errors import StorageError
from consensus.testing.storage_model import Kept, kept

if TYPE_CHECKING:
    from consensus.interfaces import Storage


def look(make: type[Storage], directory: Path) -> Kept | str:
    """Return all that is in *directory*, or the reason why it is not trusted."""
    storage = make()
    for finding in storage.check(storage.options, directory):
        return str(finding)
    try:
        storage.open(directory)
        return kept(storage)
    except StorageError as error:
        return str(error)
    finally:
        storage.close()


def main(engine: str, source: str, file: str, scratch: str, *positions: str) -> None:
    """Flip one byte after the other, each in a fresh copy."""
    module, _, name = engine.partition(":")
    make: type[Storage] = getattr(import_module(module), name)
    expected = look(make, Path(shutil.copytree(source, f"{scratch}/whole")))
    assert isinstance(expected, Kept), expected
    for position in positions:
        directory = Path(scratch, position)
        shutil.copytree(source, directory)
        with (directory / file).open("r+b") as opened:
            opened.seek(int(position))
            byte = opened.read(1)[0]
            opened.seek(int(position))
            opened.write(bytes([byte ^ 0x55]))
        found = look(make, directory)
        if found == expected:
            verdict = "same"
        elif isinstance(found, str) and str(directory) in found:
            verdict = "noticed"
        else:
            verdict = f"fault {found!r:.300}"
        print(position, verdict, flush=True)  # noqa: T201 - for the test
        shutil.rmtree(directory)


if __name__ == "__main__":
    main(*sys.argv[1:])
