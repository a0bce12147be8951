"""Whom a client asks: the servers of a cluster, as far as the client knows them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from consensus.errors import NotLeaderError, OverloadedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from consensus.core.values import Address, ServerId
    from consensus.errors import RaftError


class Target(NamedTuple):
    """A server to be asked."""

    name: ServerId
    address: Address


class Targets:
    """
    The servers of a cluster.

    Args:
        addresses: Where they listen, as the client was told.
        dice: Returns a number from 0 to 1, so that clients begin at different
            servers.
    """

    def __init__(
        self, addresses: Mapping[ServerId, Address], dice: Callable[[], float]
    ) -> None:
        self._told = [Target(*item) for item in addresses.items()]
        if not self._told:
            raise ValueError("a client needs the address of at least one server")
        self._known = self._told
        self._next = int(dice() * len(self._known))
        #: Who led when it was last seen.
        self.leader: Target | None = None

    def choose(self, *, is_for_leader: bool) -> Target:
        """Return whom to ask now."""
        if is_for_leader:
            return self.leader or self._known[self._next]
        self._next = (self._next + 1) % len(self._known)
        return self._known[self._next]

    def answered(self, target: Target) -> None:
        """Ask *target* first from now on: it leads, or knows who does."""
        if target != self.leader:
            # What was learnt meanwhile has better names.
            here = [each for each in self._known if each.address == target.address]
            self.leader = here[0] if here else target

    def follow(self, asked: Target, error: RaftError) -> bool:
        """Choose whom to ask next; say whether *error* named somebody."""
        if isinstance(error, NotLeaderError) and error.leader is not None:
            address = error.address or self.address(error.leader)
            if address and address != asked.address:
                self.leader = Target(error.leader, address)
                return True
        if isinstance(error, OverloadedError):
            # Whoever is overloaded leads, or will say next time who does.
            return False
        if self.leader == asked:
            self.leader = None
        if self._known[self._next].address == asked.address:
            self._next = (self._next + 1) % len(self._known)
        return False

    def address(self, server: ServerId) -> Address:
        """Return where *server* listens; ``""`` if it is not known."""
        for target in (*self._known, *self._told):
            if target.name == server:
                return target.address
        return ""

    def addresses(self) -> list[Address]:
        """Return all addresses that may be of use, each once."""
        targets = (*self._known, *self._told)
        return list(dict.fromkeys(target.address for target in targets))

    def learn(self, members: Mapping[ServerId, Address]) -> None:
        """Ask *members* from now on, and no others; there are some."""
        asked = self._known[self._next].address
        self._known = [Target(*item) for item in members.items()]
        places = [target.address for target in self._known]
        self._next = (
            places.index(asked) if asked in places else self._next % len(places)
        )
        if self.leader is not None:
            # By its name, where it was known by its address only.
            here = [each for each in self._known if each.address == self.leader.address]
            self.leader = here[0] if here else None
