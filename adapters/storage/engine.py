"""
What storages have in common that keep their records with a database's driver.

How they open and report, what they say of options and of a directory that they
may not touch.  An adapter of yours may use this module, too.
"""

from __future__ import annotations

import struct
from abc import abstractmethod
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from adapters.storage import records
from adapters.storage.records import FORMAT, REMEDY
from consensus.durable import write_durably
from consensus.errors import DiskFullError, Finding, StorageError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from _typeshed import DataclassInstance

#: Where an engine with a directory of its own says which format it has.
FORMAT_FILE = "FORMAT"

#: What else an engine can meet: the system's errors, and what cannot be packed.
_OTHER_ERRORS = (OSError, ValueError, struct.error)

_D = TypeVar("_D")


class EngineStorage(records.RecordStorage, Generic[_D]):
    """A log that a driver keeps, whose connection (or the like) is a ``_D``."""

    #: The file or directory that the engine makes.
    name: ClassVar[str]
    #: What the driver raises.
    driver_errors: ClassVar[tuple[type[Exception], ...]]

    def __init__(self, options: Any = None) -> None:
        """Keep *options*; everything else is done by ``open``, on its thread."""
        super().__init__(options)
        self._driver: _D | None = None
        self._path = Path(self.name)

    @staticmethod
    @abstractmethod
    def is_full(error: BaseException) -> bool:
        """Say whether *error* means that the disk is full, and nothing worse."""

    @abstractmethod
    def _prepare(self, driver: _D) -> None:
        """Find the log in what *driver* has just opened, or make a new one."""

    def _begin(self, driver: _D) -> None:
        """
        Begin to work with *driver*; close it again if what it has is no good.

        Raises:
            StorageError: It is not.
        """
        self._driver = driver
        try:
            with self._using("open"):
                self._prepare(driver)
            self._check_ends()
        except BaseException:
            self.close()
            raise

    @contextmanager
    def _using(self, doing: str) -> Iterator[_D]:
        """
        Lend the driver; turn what it raises into our errors.

        Raises:
            StorageError: It is not open, or failed.
        """
        if self._driver is None:
            message = f"{self._path}: cannot {doing}: it is not open"
            raise StorageError(message)
        # Not inside of _reporting: an append alone would pay for both.
        try:
            yield self._driver
        except Exception as error:
            self._report(doing, error)
            raise

    @contextmanager
    def _reporting(self, doing: str) -> Iterator[None]:
        """Turn what the driver, the system and a number too large raise into ours."""
        try:
            yield
        except Exception as error:
            self._report(doing, error)
            raise

    def _report(self, doing: str, error: Exception) -> None:
        """
        Raise ours for *error*; return if it is not to be turned into one.

        Raises:
            StorageError: The driver or the system has failed.
        """
        if isinstance(error, StorageError):
            return
        if isinstance(error, (*_OTHER_ERRORS, *self.driver_errors)):
            message = f"{self._path}: cannot {doing}: {error}"
            if self.is_full(error):
                raise DiskFullError(message) from error
            raise StorageError(message) from error


def refuse(findings: Iterable[Finding]) -> None:
    """
    Raise the first of *findings*, if there is one.

    Raises:
        StorageError: There is.
    """
    for finding in findings:
        raise StorageError(str(finding))


def look_at_options(options: DataclassInstance) -> Iterator[Finding]:
    """Yield which of *options*, all of them numbers, are less than 1."""
    for field in fields(options):
        value = getattr(options, field.name)
        if value < 1:
            yield bad_option(field.name, value, "write 1 or more")


def bad_option(name: str, value: object, hint: str) -> Finding:
    """Return what to say of an option that is out of range."""
    where = f"storage.options.{name}"
    return Finding("storage.E105", f"{name} is {value}", hint, where)


def unreadable(message: str) -> Finding:
    """Return what to say of files that cannot be read, or are something else."""
    return Finding("storage.E101", message, REMEDY, "data_dir")


def of_another_program(message: str) -> Finding:
    """Return what to say of files that no server of ours has made."""
    hint = "give the server a data directory of its own"
    return Finding("storage.E102", message, hint, "data_dir")


def lost(message: str) -> Finding:
    """Return what to say where files are gone that others need."""
    return Finding("storage.E104", message, REMEDY, "data_dir")


def look_at_directory(
    path: Path, half_made: Collection[str] | None = None
) -> Iterator[Finding]:
    """
    Yield why an engine may not have the directory *path*, if it is there.

    Args:
        path: It has a file ``FORMAT``.
        half_made: What may be there without that file, if a server was killed
            while it made the directory; ``None`` if that is made in one step.
    """
    version = None
    try:
        names = {file.name for file in path.iterdir()}
        if FORMAT_FILE in names:
            version = (path / FORMAT_FILE).read_text().strip()
    except FileNotFoundError:
        return
    except (OSError, UnicodeError) as error:
        yield unreadable(f"{path} cannot be read: {error}")
        return
    if version is not None:
        yield from records.look_at_format(path, version)
    elif half_made is None or names - set(half_made):
        message = f"{path} has no {FORMAT_FILE}: it belongs to another program"
        yield of_another_program(message)


def write_format(file: Path) -> None:
    """Write the number of our format to *file*, durably."""
    write_durably(file, b"%d\n" % FORMAT)
