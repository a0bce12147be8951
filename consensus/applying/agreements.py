"""
What a leader enters into the log for all servers to act upon at the same place.

The state machine's version, digests of its state, and what time it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from struct import error as StructError  # noqa: N812 - it is a class

from consensus.errors import DivergedError, StorageError

#: The version of the bytes of these entries.
FORMAT = 1

_UPGRADE = Struct(">BI")  # format, the machine's version
_TIME = Struct(">BQ")  # format, milliseconds
_MARK = Struct(">BB")  # format, 0
_CLAIM = Struct(">BBQ")  # format, 1, the index of the mark; then the digest

_IS_CLAIM = 1


def upgrade_entry(version: int) -> bytes:
    """Return the bytes of the entry from which on *version* applies commands."""
    return _UPGRADE.pack(FORMAT, version)


def upgrade_of(index: int, data: bytes) -> int:
    """
    Return the version in the entry *data* at *index*.

    Raises:
        StorageError: It is none, or of a newer format.
    """
    try:
        known, version = _UPGRADE.unpack(data)
    except StructError as error:
        message = f"entry {index} names no version: {error}"
        raise StorageError(message) from error
    _check(index, known)
    return int(version)


def time_entry(time: int) -> bytes:
    """Return the bytes of the entry that says that it is *time*, in ms."""
    return _TIME.pack(FORMAT, time)


def time_of(index: int, data: bytes) -> int:
    """
    Return the time that the entry *data* at *index* says, in ms.

    Raises:
        StorageError: It says none, or is of a newer format.
    """
    try:
        known, time = _TIME.unpack(data)
    except StructError as error:
        message = f"entry {index} says no time: {error}"
        raise StorageError(message) from error
    _check(index, known)
    return int(time)


def mark_entry() -> bytes:
    """Return the bytes of the entry at which every server notes its digest."""
    return _MARK.pack(FORMAT, 0)


def claim_entry(index: int, digest: bytes) -> bytes:
    """Return the bytes of the entry that says what the leader's was at *index*."""
    return _CLAIM.pack(FORMAT, _IS_CLAIM, index) + digest


def claim_of(index: int, data: bytes) -> tuple[int, bytes] | None:
    """
    Return which mark the entry *data* at *index* is about, and the digest.

    Returns:
        ``None`` if it is a mark itself.

    Raises:
        StorageError: It is neither, or of a newer format.
    """
    try:
        known, operation = _MARK.unpack_from(data)
        _check(index, known)
        if operation != _IS_CLAIM:
            return None
        marked = _CLAIM.unpack_from(data)[2]
    except StructError as error:
        message = f"entry {index} is about no digest: {error}"
        raise StorageError(message) from error
    return int(marked), data[_CLAIM.size :]


def _check(index: int, known: int) -> None:
    if known != FORMAT:
        message = (
            f"entry {index} has format {known}, and this release knows {FORMAT}:"
            " install the one that wrote it"
        )
        raise StorageError(message)


@dataclass(slots=True)
class Digests:
    """
    The digest of a server's own state, for comparison with the leader's.

    Args:
        marked: The entry at which all servers noted theirs last.
        digest: What it was here; ``None`` if the machine has none, or was on
            disk already and further than that.
        is_claimed: The leader has said what its own was.
        equal: The last entry at which the two were the same.
    """

    marked: int = 0
    digest: bytes | None = None
    is_claimed: bool = True
    equal: int = 0

    def mark(self, index: int, digest: bytes | None) -> None:
        """Note that the state at *index* has this *digest*."""
        self.marked, self.digest, self.is_claimed = index, digest, False

    def compare(self, server: str, index: int, digest: bytes) -> None:
        """
        Compare with the leader's *digest* at *index*.

        Raises:
            DivergedError: It is another.
        """
        if index != self.marked:
            return  # of a leader that has been replaced since
        self.is_claimed = True
        if self.digest is None:
            return
        if self.digest != digest:
            message = (
                f"the state of {server} is not the leader's: they were the same after"
                f" entry {self.equal}, and differ after entry {index}; move the data"
                f" directory of {server} away and start it again, so that it rejoins"
                " with the others' state, and look for what in the state machine is"
                " not deterministic"
            )
            raise DivergedError(message)
        self.equal = index
