"""What a server finds in its data directory, and the Raft that goes on from it."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from consensus.core.log import Log
from consensus.core.membership import Membership
from consensus.core.raft import Raft
from consensus.core.state import Tuning
from consensus.core.values import HardState, Identity
from consensus.datadir import DataDirectory
from consensus.errors import ProtocolError, StorageError
from consensus.shell.pace import TICKS_PER_HEARTBEAT
from consensus.snapshots.files import FileSnapshots, MemorySnapshots

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from consensus.config import Config
    from consensus.core.values import (
        Address,
        LogIndex,
        ServerId,
        SnapshotMeta,
        Term,
    )
    from consensus.interfaces import Storage
    from consensus.snapshots.files import SnapshotStore


class Directory(Protocol):
    """What a server needs of its data directory; see :class:`.DataDirectory`."""

    path: Path
    identity: Identity

    @property
    def is_used(self) -> bool:
        """Say whether the storage in here has had something to remember."""

    def mark_used(self) -> None:
        """Note, durably, that it has."""

    def acquaintances(self) -> dict[ServerId, str]:
        """Return the incarnation of each server that is remembered."""

    def remember(self, peer: ServerId, incarnation: str) -> None:
        """Note, durably, that *peer* has *incarnation*."""

    def forget(self, peer: ServerId) -> None:
        """Undo :meth:`remember`, durably."""

    def forget_all(self) -> None:
        """Forget, durably, every other server."""

    def for_machine(self) -> Path | None:
        """Return where a state machine has its own files, if it can have any."""

    def close(self) -> None:
        """Unlock it."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """
    The durable part of a server, as its storage has it.

    Args:
        identity: Who the server is.
        hard_state: Its term and vote.
        last_index: The last entry of its log.
        base: Index and term of the last entry that the log has dropped.
        term_starts: Where in the log each term begins.
        memberships: Those of the log with their indexes, after the snapshot's.
        snapshots: Where its snapshots are.
        directory: Its data directory, locked; ``None`` without one.
    """

    identity: Identity
    hard_state: HardState
    last_index: LogIndex
    base: tuple[LogIndex, Term]
    term_starts: list[tuple[LogIndex, Term]]
    memberships: list[tuple[LogIndex, Membership]]
    snapshots: SnapshotStore
    directory: Directory | None

    def mark_used(self) -> None:
        """Note that the data directory has something to remember now."""
        if self.directory is not None and not self.directory.is_used:
            self.directory.mark_used()

    def close(self) -> None:
        """Unlock the data directory."""
        if self.directory is not None:
            self.directory.close()


def tuning_of(config: Config) -> Tuning:
    """Return how patient the Raft of a server with *config* is."""
    limits, timing = config.limits, config.timing
    tick = timing.heartbeat_interval / TICKS_PER_HEARTBEAT
    return Tuning(
        heartbeat_ticks=TICKS_PER_HEARTBEAT,
        election_ticks=max(1, round(timing.election_timeout / tick)),
        max_append_bytes=limits.max_append_bytes,
        max_inflight=limits.max_inflight_appends,
        stable_leader=True,
        preferred=tuple(config.preferred_leaders),
        log_tail=config.snapshots.keep_entries,
        keeps_pledges=True,
        may_lease=config.reads.lease,
    )


def make_raft(
    config: Config, recovered: Recovered, random_below: Callable[[int], int]
) -> Raft:
    """Return the Raft that goes on where *recovered* stopped."""
    limits = config.limits
    snapshot = recovered.snapshots.latest
    return Raft(
        recovered.identity.server,
        random_below,
        tuning=tuning_of(config),
        hard_state=recovered.hard_state,
        log=Log(
            recovered.last_index,
            recovered.term_starts,
            limits.log_cache_bytes,
            base_index=recovered.base[0],
            base_term=recovered.base[1],
            applied=0 if snapshot is None else snapshot.index,
        ),
        memberships=_moved(recovered.memberships, config.members),
        snapshot=snapshot,
    )


def _moved(
    memberships: list[tuple[LogIndex, Membership]],
    addresses: Mapping[ServerId, Address],
) -> list[tuple[LogIndex, Membership]]:
    """
    Return *memberships*, the founding one with the config's *addresses*.

    Founders may have moved, all of them at once, while they were stopped.  As
    soon as the membership has changed once, the cluster itself keeps the
    addresses, and a config may be out of date.
    """
    index, last = memberships[-1]
    if index > 1:
        return memberships
    voters = {name: addresses.get(name, old) for name, old in last.voters.items()}
    return [*memberships[:-1], (index, replace(last, voters=voters))]


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
        return _read(storage, MemorySnapshots(), identity, None)
    directory = DataDirectory.open(path, config.cluster, name, config.storage)
    return recover_in(directory, storage, lambda: FileSnapshots(path))


def recover_in(
    directory: Directory, storage: Storage, open_snapshots: Callable[[], SnapshotStore]
) -> Recovered:
    """
    Open *storage* in *directory*, which is closed if that fails.

    Args:
        directory: Locked.
        storage: Not yet open.
        open_snapshots: Returns the snapshots that are there.

    Raises:
        ConfigError: What is remembered cannot be read.
        StorageError: What is stored cannot be read.
    """
    try:
        storage.open(directory.path)
        recovered = _read(storage, open_snapshots(), directory.identity, directory)
        _check_not_lost(recovered, directory)
    except BaseException:
        directory.close()
        raise
    return recovered


def _check_not_lost(recovered: Recovered, directory: Directory) -> None:
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
    storage: Storage,
    snapshots: SnapshotStore,
    identity: Identity,
    directory: Directory | None,
) -> Recovered:
    hard_state = storage.hard_state()
    if storage.last_index() or hard_state != HardState():
        # An empty storage beside a snapshot is one that has lost its files.
        fit(storage, snapshots.latest)
    first, last = storage.first_index(), storage.last_index()
    return Recovered(
        identity,
        hard_state,
        last,
        (first - 1, storage.term(first - 1)),
        _term_starts(storage.term, first, last),
        _memberships(storage, snapshots.latest),
        snapshots,
        directory,
    )


def fit(storage: Storage, snapshot: SnapshotMeta | None) -> None:
    """
    Let the log follow *snapshot*, where a crash came between the two (figure 5.3).

    A snapshot that was received is durable before the log begins anew behind
    it.  A log that reaches no farther than the snapshot, or has another entry
    there, is the old one.

    Raises:
        StorageError: The log begins behind the end of the snapshot.
    """
    first, last = storage.first_index(), storage.last_index()
    covered = 0 if snapshot is None else snapshot.index
    if first > covered + 1:
        message = (
            f"the log begins at {first}, and the latest snapshot ends at {covered}:"
            " entries are missing in between; restore the directory as a whole, or"
            " move it away and let the server join again"
        )
        raise StorageError(message)
    if snapshot is None or first > snapshot.index:
        return
    if last < snapshot.index or storage.term(snapshot.index) != snapshot.term:
        storage.compact(snapshot.index, snapshot.term)
        storage.sync()


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


def _memberships(
    storage: Storage, snapshot: SnapshotMeta | None
) -> list[tuple[LogIndex, Membership]]:
    """Return the membership of *snapshot*, and those of the log behind it."""
    found = [(0, Membership())]
    if snapshot is not None:
        membership = _decode(snapshot.membership, "the latest snapshot")
        found = [(snapshot.membership_index, membership)]
    for index in storage.membership_indexes():
        if index > found[0][0]:
            entry = storage.entries(index, index, 1)[0]
            found.append((index, _decode(entry.command, f"entry {index}")))
    return found


def _decode(data: bytes, where: str) -> Membership:
    try:
        return Membership.decode(data)
    except ProtocolError as error:
        message = f"{where}: {error}"
        raise StorageError(message) from error
