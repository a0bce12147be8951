"""What a server finds in its data directory, and the Raft that goes on from it."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from consensus.core.log import Log
from consensus.core.membership import Membership
from consensus.core.raft import Raft
from consensus.core.state import Tuning
from consensus.core.values import EntryKind, HardState, Identity
from consensus.datadir import DataDirectory
from consensus.errors import ProtocolError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from consensus.config import Config
    from consensus.core.values import Address, LogIndex, ServerId, Term
    from consensus.interfaces import Storage


#: Ticks of the core in one heartbeat interval.
TICKS_PER_HEARTBEAT = 5


@dataclass(frozen=True, slots=True)
class Recovered:
    """
    The durable part of a server, as its storage has it.

    Args:
        identity: Who the server is.
        hard_state: Its term and vote.
        last_index: The last entry of its log.
        term_starts: Where in the log each term begins.
        membership: The latest membership in the log.
        directory: Its data directory, locked; ``None`` without one.
    """

    identity: Identity
    hard_state: HardState
    last_index: LogIndex
    term_starts: list[tuple[LogIndex, Term]]
    membership: Membership
    directory: DataDirectory | None

    def mark_used(self) -> None:
        """Note that the data directory has something to remember now."""
        if self.directory is not None and not self.directory.is_used:
            self.directory.mark_used()

    def close(self) -> None:
        """Unlock the data directory."""
        if self.directory is not None:
            self.directory.close()


def make_raft(
    config: Config, recovered: Recovered, random_below: Callable[[int], int]
) -> Raft:
    """Return the Raft that goes on where *recovered* stopped."""
    limits, timing = config.limits, config.timing
    tick = timing.heartbeat_interval / TICKS_PER_HEARTBEAT
    return Raft(
        recovered.identity.server,
        random_below,
        tuning=Tuning(
            heartbeat_ticks=TICKS_PER_HEARTBEAT,
            election_ticks=max(1, round(timing.election_timeout / tick)),
            max_append_bytes=limits.max_append_bytes,
            max_inflight=limits.max_inflight_appends,
            stable_leader=True,
            preferred=tuple(config.preferred_leaders),
        ),
        hard_state=recovered.hard_state,
        log=Log(recovered.last_index, recovered.term_starts, limits.log_cache_bytes),
        membership=_moved(recovered.membership, config.members),
    )


def _moved(membership: Membership, addresses: Mapping[ServerId, Address]) -> Membership:
    """Return *membership* with the config's *addresses*, newer than the log's."""
    voters = membership.voters.items()
    return Membership({name: addresses.get(name, old) for name, old in voters})


def recover(config: Config, name: ServerId, storage: Storage) -> Recovered:
    """
    Open *storage* for *name* and read what a Raft has to know of it.

    Blocking: called on the storage's thread.

    Raises:
        ConfigError: The data directory is another's, or in use.
        StorageError: What is stored cannot be read.
    """
    path = config.directory(name)
    if not storage.durable:
        storage.open(path)
        identity = Identity(config.cluster, name, secrets.token_hex(16))
        return _read(storage, identity, None)
    directory = DataDirectory.open(path, config.cluster, name, config.storage)
    try:
        storage.open(path)
        recovered = _read(storage, directory.identity, directory)
        _check_not_lost(recovered, directory)
    except BaseException:
        directory.close()
        raise
    return recovered


def _check_not_lost(recovered: Recovered, directory: DataDirectory) -> None:
    """
    See that the storage still has what it had.

    Raises:
        StorageError: Its files are gone, and with them the server's votes.
    """
    is_empty = not recovered.last_index and recovered.hard_state == HardState()
    if not is_empty and not directory.is_used:
        directory.mark_used()
    elif is_empty and directory.is_used:
        message = (
            f"the log that was in {directory.path} is gone, and so are this server's"
            " votes: bring it back, or leave the server off; it could vote twice"
        )
        raise StorageError(message)


def _read(
    storage: Storage, identity: Identity, directory: DataDirectory | None
) -> Recovered:
    return Recovered(
        identity,
        storage.hard_state(),
        storage.last_index(),
        _term_starts(storage.term, storage.first_index(), storage.last_index()),
        _membership(storage),
        directory,
    )


def _term_starts(
    term: Callable[[LogIndex], Term], first: LogIndex, last: LogIndex
) -> list[tuple[LogIndex, Term]]:
    """
    Return where each term begins.

    Terms never decrease along a log, so a binary search for each one finds
    its end: a log of a million entries takes some twenty look-ups a term.
    """
    starts = []
    while first <= last:
        current = term(first)
        starts.append((first, current))
        low, high = first, last
        while low < high:
            middle = (low + high + 1) // 2
            if term(middle) == current:
                low = middle
            else:
                high = middle - 1
        first = low + 1
    return starts


def _membership(storage: Storage) -> Membership:
    """Return the membership, which is the first entry of every log."""
    if not storage.last_index():
        return Membership()
    entry = storage.entries(1, 1, 1)[0]
    if entry.kind != EntryKind.MEMBERSHIP:
        message = f"entry 1 is of kind {entry.kind}, and should be the membership"
        raise StorageError(message)
    try:
        return Membership.decode(entry.command)
    except ProtocolError as error:
        message = f"entry 1: {error}"
        raise StorageError(message) from error
