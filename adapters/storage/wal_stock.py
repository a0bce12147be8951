"""Segments that are ready to be used: some once more, one made ahead of need."""

from __future__ import annotations

import os
from contextlib import closing, suppress
from threading import Event, Thread
from typing import TYPE_CHECKING

from adapters.storage.wal_segment import fill, is_full

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

#: How files end that can be used as segments, and those that are not done yet.
SPARE = ".spare"
UNFINISHED = ".new"


class Stock:
    """
    The spare segments in one directory.

    Who takes one gives it a name of its own, or loses it.

    Args:
        directory: Where they are.
        most: How many segments that were used are kept to be used once more.
        least: The bytes of the smallest segment to make, however full the disk is.
    """

    def __init__(self, directory: Path, most: int, least: int) -> None:
        self._directory = directory
        self._most = most
        self._least = least
        self._spares: dict[Path, int] = {}
        self._maker: _Maker | None = None
        self._number = 0

    def find(self) -> None:
        """Take up what is there; remove what is too much, or was not finished."""
        for path in sorted(self._directory.iterdir()):
            if path.suffix == UNFINISHED:
                path.unlink()
            elif path.suffix == SPARE:
                self._keep(path)

    def give(self, path: Path, limit: int) -> None:
        """Keep *path*, a segment whose records are of no use, or remove it."""
        if path.stat().st_size > limit:
            path.unlink()
            return
        spare = path.with_suffix(SPARE)
        path.rename(spare)
        self._keep(spare)

    def prepare(self, wanted: int) -> None:
        """See that there will be a segment of some *wanted* bytes, sooner or later."""
        if self._maker is None and self._suitable(wanted // 2) is None:
            # Without a thread, who needs the segment makes it.
            with suppress(RuntimeError):
                self._maker = _Maker(self._new_path(), wanted)

    def take(self, needed: int, wanted: int) -> Path:
        """
        Return a spare segment, and forget it; make one if there is none.

        Args:
            needed: The bytes that it must have.
            wanted: Those that it should have.

        Raises:
            OSError: There is no room for it, or worse.
        """
        maker, self._maker = self._maker, None
        if maker is not None and (made := maker.wait()):
            self._spares[made] = maker.size
        found = self._suitable(max(needed, wanted // 2))
        if found is None:
            found = self._make(max(needed, self._least), wanted)
        self._spares.pop(found, None)
        return found

    def close(self) -> None:
        """Stop making segments; leave what is done, and nothing else."""
        maker, self._maker = self._maker, None
        if maker is not None:
            maker.stop()

    def _suitable(self, size: int) -> Path | None:
        """Return the smallest spare segment of at least *size* bytes."""
        suitable = [path for path, found in self._spares.items() if found >= size]
        return min(suitable, key=self._spares.__getitem__, default=None)

    def _make(self, needed: int, wanted: int) -> Path:
        """Return a new segment, or whatever there is room for."""
        size = max(needed, wanted)
        while True:
            path = self._new_path()
            try:
                for _ in _pieces(path, size):
                    pass
                return _finished(path)
            except OSError as error:
                if not is_full(error):
                    raise
                found = self._suitable(needed)
                if found is not None:
                    return found
                if size == needed:
                    raise
            size = max(needed, size // 2)

    def _keep(self, spare: Path) -> None:
        """Keep *spare*; remove the smallest one if there are too many."""
        self._spares[spare] = spare.stat().st_size
        if len(self._spares) > self._most:
            smallest = min(self._spares, key=self._spares.__getitem__)
            smallest.unlink()
            del self._spares[smallest]

    def _new_path(self) -> Path:
        while True:
            self._number += 1
            path = self._directory / f"fresh-{self._number}{UNFINISHED}"
            if not path.with_suffix(SPARE).exists():
                return path


class _Maker:
    """A segment that a thread of its own fills with zeros."""

    def __init__(self, path: Path, size: int) -> None:
        self.size = size
        self._path = path
        self._made: Path | None = None
        self._stopped = Event()
        self._thread = Thread(target=self._make, name="wal segment", daemon=True)
        self._thread.start()

    def wait(self) -> Path | None:
        """Wait for the end; return where the segment is, if it could be made."""
        self._thread.join()
        return self._made

    def stop(self) -> None:
        """Stop at the next piece."""
        self._stopped.set()
        self._thread.join()

    def _make(self) -> None:
        # A failure is met again, and told, by who needs the segment.
        with suppress(OSError), closing(_pieces(self._path, self.size)) as pieces:
            for _ in pieces:
                if self._stopped.is_set():
                    return
            self._made = _finished(self._path)


def _finished(path: Path) -> Path:
    """Give a segment that is filled the name of a spare one."""
    return path.rename(path.with_suffix(SPARE))


def _pieces(path: Path, size: int) -> Generator[int]:
    """Make a file, piece by piece; leave nothing if it fails."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        yield from fill(descriptor, size)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
