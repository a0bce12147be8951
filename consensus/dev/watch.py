"""Whether an application's files have changed."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: More files than this are not looked at, so that a look takes no time.
_MOST_FILES = 2000

_Stamp = tuple[int, int, int]


class Watch:
    """
    Remembers what the Python files in some directories were like.

    Args:
        directories: Whose files; not those of directories in them.
    """

    def __init__(self, directories: Iterable[str]) -> None:
        self._directories = tuple(directories)
        self._seen = self._look()

    def changed(self) -> list[str]:
        """Return which files are new, gone or other than at the last call."""
        before, self._seen = self._seen, self._look()
        names = before.keys() | self._seen.keys()
        return sorted(
            each for each in names if before.get(each) != self._seen.get(each)
        )

    def turn_to(self, directories: Iterable[str]) -> None:
        """Look at *directories* from now on; what is new there is no change."""
        wanted = tuple(directories)
        if wanted != self._directories:
            self._directories = wanted
            self._seen = {**self._look(), **self._seen}

    def _look(self) -> dict[str, _Stamp]:
        found: dict[str, _Stamp] = {}
        for directory in self._directories:
            with suppress(OSError):  # it is gone, with all its files
                for path, stamp in _files(directory):
                    if len(found) >= _MOST_FILES:
                        return found
                    found[path] = stamp
        return found


def _files(directory: str) -> Iterator[tuple[str, _Stamp]]:
    with os.scandir(directory) as entries:
        for each in entries:
            if each.name.endswith(".py"):
                with suppress(OSError):  # it is gone by now
                    at = each.stat()
                    yield each.path, (at.st_mtime_ns, at.st_size, at.st_ino)
