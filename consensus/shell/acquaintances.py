"""
Who may talk to a server: those of its own cluster, with the disks they had.

A server that comes back without its data directory has forgotten for whom it
voted and what it stored.  It could vote twice in a term, so two could lead;
and entries that it had acknowledged may be on a minority now.  So a server
remembers the incarnation of every member, which is drawn with each new data
directory, and refuses another one under the same name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from consensus.errors import ProtocolError, ReplacedError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from consensus.core.values import Identity, ServerId


class Memory(Protocol):
    """What remembers the incarnations of servers; a data directory does."""

    def acquaintances(self) -> dict[ServerId, str]:
        """Return all that are remembered, by server."""

    def remember(self, peer: ServerId, incarnation: str) -> None:
        """
        Remember, durably, that *peer* has *incarnation*.

        Raises:
            StorageError: It could not be noted.
        """

    def forget(self, peer: ServerId) -> None:
        """
        Undo :meth:`remember`, durably.

        Raises:
            StorageError: It is still noted.
        """


class Acquaintances:
    """
    Whom one server has met, and whom it talks to.

    Args:
        own: Who the server is.
        is_member: Says whether a name is in the membership.  Other servers'
            incarnations do not matter: they have no vote to cast twice.
        incarnation_of: Returns the incarnation that the membership gives a
            name, ``None`` if it gives none; it counts before all that is
            remembered.
        directory: Where members that were met are remembered, durably.
            Without one, as with a storage that is not durable, members come
            back with new incarnations by nature, so none is refused for that.

    Raises:
        ConfigError: What *directory* remembers cannot be read.
    """

    def __init__(
        self,
        own: Identity,
        is_member: Callable[[ServerId], bool],
        incarnation_of: Callable[[ServerId], str | None],
        directory: Memory | None,
    ) -> None:
        #: Who the server is; its cluster id may become known later.
        self.own = own
        self._is_member = is_member
        self._incarnation_of = incarnation_of
        self._directory = directory
        self._met = {} if directory is None else directory.acquaintances()
        self._replaced: dict[ServerId, str] = {}
        self._cluster_ids: dict[ServerId, str] = {}
        self._refusals: dict[ServerId, ProtocolError] = {}

    def welcome(self, peer: Identity) -> None:
        """
        See that *peer* may be talked to; remember it if it is a member.

        Blocks for a sync when a member is met for the first time: were it
        forgotten after a crash, its vote could be counted twice.

        Raises:
            ReplacedError: It has another data directory than before.
            ProtocolError: It belongs to another cluster, has this server's
                name, or cannot be remembered because of the disk.
        """
        _check_cluster(peer, self.own)
        name = peer.server
        if self._directory is not None and self._is_member(name):
            self._recognise(name, peer.incarnation)
        self._replaced.pop(name, None)
        self._cluster_ids[name] = peer.cluster_id

    def cluster_of(self, name: ServerId | None) -> str:
        """Return the cluster id that *name* had when it was welcome last."""
        return self._cluster_ids.get(name or "", "")

    def _recognise(self, name: ServerId, incarnation: str) -> None:
        """Compare a member's *incarnation* with the one that it had before."""
        known = self.known(name)
        if known is None:
            self._remember(name, incarnation)
        elif known != incarnation:
            self._replaced[name] = incarnation
            message = (
                f"{name!r} has another data directory than before; without the old"
                " one it could vote twice in a term: bring that back, or leave the"
                " server off"
            )
            raise ReplacedError(message)

    def known(self, name: ServerId) -> str | None:
        """Return the incarnation that *name* has to have; ``None`` for any."""
        if name == self.own.server:
            return self.own.incarnation
        if self._directory is None:
            return None
        named = self._incarnation_of(name)
        return self._met.get(name) if named is None else named

    def keep_only(self, members: Collection[ServerId]) -> None:
        """
        Forget all but *members*, the committed membership.

        Raises:
            StorageError: The disk failed.
        """
        for name in self._met.keys() - set(members):
            self.forget(name)

    def _remember(self, name: ServerId, incarnation: str) -> None:
        if self._directory is not None:
            try:
                self._directory.remember(name, incarnation)
            except StorageError as error:
                message = f"{self.own.server!r} cannot note who {name!r} is: {error}"
                raise ProtocolError(message) from error
        self._met[name] = incarnation

    def forget(self, name: ServerId) -> None:
        """
        Let *name* come back with any data directory, as if it were new.

        Only for one that has no vote any more, for good: its removal has to
        be committed.

        Raises:
            StorageError: It is still remembered.
        """
        if self._directory is not None and name in self._met:
            self._directory.forget(name)
        self._met.pop(name, None)
        self._replaced.pop(name, None)
        self._refusals.pop(name, None)

    def was_replaced(self, name: ServerId) -> str | None:
        """
        Return the incarnation for which *name*, a member, was refused last.

        ``None`` if it was not, or if one that is welcome has come since: as
        long as the old one is alive, the other is just a namesake.
        """
        return self._replaced.get(name)

    # --- what others think of this server -------------------------------------

    def refused(self, peer: ServerId, error: ProtocolError) -> None:
        """Note that *peer* does not talk to this server, because of *error*."""
        self._refusals[peer] = error

    @property
    def is_taken_for_another(self) -> bool:
        """Say whether a peer refuses this server for its data directory."""
        return any(isinstance(each, ReplacedError) for each in self._refusals.values())

    @property
    def refusals(self) -> dict[ServerId, ProtocolError]:
        """
        Return who has refused this server since it was started, and why.

        The last reason of each; it may have changed its mind since.
        """
        return dict(self._refusals)


def _check_cluster(other: Identity, own: Identity) -> None:
    """
    Compare where *other* belongs with where this server does.

    Raises:
        ProtocolError: They do not belong together.
    """
    if other.cluster != own.cluster:
        message = (
            f"{other.server!r} belongs to the cluster {other.cluster!r}, and"
            f" {own.server!r} to {own.cluster!r}: correct the address under members,"
            " or give both the same cluster name"
        )
        raise ProtocolError(message)
    if other.cluster_id and own.cluster_id and other.cluster_id != own.cluster_id:
        message = (
            f"{other.server!r} belongs to another cluster that is also called"
            f" {own.cluster!r} (founded with other members, or recovered) than"
            f" {own.server!r}: correct the address under members, or let the one"
            " that is wrong there begin anew with an empty data directory"
        )
        raise ProtocolError(message)
    if other.server == own.server:
        message = (
            f"two servers are called {own.server!r}: stop one of them, and serve"
            " each member in one place only"
        )
        raise ProtocolError(message)
