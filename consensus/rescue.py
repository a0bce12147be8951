"""
A new cluster from one survivor, when the majority of the old one is lost for good.

For ``raft recover``, while the server is stopped.  All that is still in the
survivor's log becomes committed when it starts; what only the lost servers had
acknowledged is gone.  The new cluster has an id of its own, so that servers of
the old one are refused: they could not be made to agree with it.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from consensus.core.membership import Membership
from consensus.core.values import Entry, EntryKind, HardState
from consensus.datadir import DataDirectory
from consensus.errors import ConfigError, InvalidChangeError
from consensus.shell.recovery import recover

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from consensus.config import Config
    from consensus.core.values import Address, LogIndex, ServerId, Term
    from consensus.interfaces import Storage
    from consensus.shell.recovery import Recovered


@dataclass(frozen=True, slots=True)
class Found:
    """
    What is left at the survivor.

    Args:
        server: Who it is.
        cluster_id: Of the cluster that it belongs to.
        term: Its term.
        last_index: The last entry of its log.
        last_term: The term of that entry.
        snapshot_index: What its latest snapshot covers; 0 without one.
        membership_index: Where in the log its membership stands.
        voters: Who votes in that, with their addresses.
        learners: Who else belongs to it.
    """

    server: ServerId
    cluster_id: str
    term: Term
    last_index: LogIndex
    last_term: Term
    snapshot_index: LogIndex
    membership_index: LogIndex
    voters: dict[ServerId, Address]
    learners: dict[ServerId, Address]

    @property
    def is_alone(self) -> bool:
        """Say whether it is the only voter already, so that nothing is to be done."""
        return list(self.voters) == [self.server]


class Rescue:
    """
    The stopped survivor, its data directory locked until the end of the ``with``.

    Args:
        config: As for a start.
        name: Whose directory.

    Raises:
        InvalidChangeError: It never belonged to a cluster, or keeps nothing.
        ConfigError: The directory is another's, or in use.
        StorageError: What is stored cannot be read.
    """

    def __init__(self, config: Config, name: ServerId) -> None:
        self._address = config.address_of(name)
        self._check_directory(config, name)
        self._storage: Storage = config.storage.cls(config.storage.options)
        self._recovered: Recovered = recover(config, name, self._storage)
        try:
            self.found = self._look(name)
        except BaseException:
            self._close()
            raise

    def __enter__(self) -> Self:
        """Return this."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Unlock the directory."""
        self._close()

    @staticmethod
    def _check_directory(config: Config, name: ServerId) -> None:
        """See that there is one: to look must not make it."""
        path, engine = config.directory(name), config.storage
        if not engine.cls.durable:
            message = f"the storage engine {engine.name!r} keeps nothing to recover"
            raise InvalidChangeError(message)
        if not DataDirectory.exists(path):
            message = f"{path} is no data directory: {name} never belonged to a cluster"
            raise InvalidChangeError(message)
        findings = list(DataDirectory.inspect(path, config.cluster, name, engine))
        if findings:
            raise ConfigError(findings)

    def _look(self, name: ServerId) -> Found:
        recovered, storage = self._recovered, self._storage
        index, membership = recovered.memberships[-1]
        snapshot = recovered.snapshots.latest
        if not membership.voters:
            message = f"{name} never belonged to a cluster: there is nothing to recover"
            raise InvalidChangeError(message)
        # An election raises the term to 2 at least, and its winner adds an entry.
        if recovered.last_index <= 1:
            message = (
                f"{name} has never heard of another member since its data directory"
                " was made: there is nothing to recover; take another survivor"
            )
            raise InvalidChangeError(message)
        return Found(
            name,
            membership.cluster_id,
            recovered.hard_state.term,
            recovered.last_index,
            storage.term(recovered.last_index),
            0 if snapshot is None else snapshot.index,
            index,
            dict(membership.electors()),
            dict(membership.learners),
        )

    def found_anew(self) -> Membership:
        """
        Make the survivor the only voter of a new cluster; return its membership.

        Durable when it returns.  It is one write: a crash leaves the old
        cluster or the new one.

        Raises:
            InvalidChangeError: It is the only voter already.
            StorageError: The disk failed; look again before you go on.
        """
        found, storage = self.found, self._storage
        if found.is_alone:
            message = f"{found.server} is the only voter already"
            raise InvalidChangeError(message)
        membership = Membership(
            {found.server: self._address}, cluster_id=secrets.token_hex(16)
        )
        term = max(found.term, found.last_term) + 1
        index, kind = found.last_index + 1, EntryKind.MEMBERSHIP
        storage.save_hard_state(HardState(term))
        storage.append([Entry(index, term, kind, membership.encode())])
        storage.sync()
        if self._recovered.directory is not None:
            self._recovered.directory.forget_all()
        return membership

    def _close(self) -> None:
        try:
            self._recovered.snapshots.close()
            self._storage.close()
        finally:
            self._recovered.close()
