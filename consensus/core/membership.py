"""
Who belongs to the cluster, which changes are legal, and the bytes of it (§4).

A server uses the latest membership in its log, committed or not (§4.1).  While
voters change, the membership is *joint*: elections and commitment need a
majority of those who leave and of those who come (§4.3).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from consensus.core.quorum import quorum_index, quorum_size
from consensus.errors import InvalidChangeError, ProtocolError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from consensus.core.values import Address, ServerId

_VERSION = 1

#: Names and addresses of this many bytes are enough for anybody; more would
#: make an entry that no message carries.
_MAX_TEXT = 1024
_MAX_MEMBERS = 100


@dataclass(frozen=True, slots=True)
class Membership:
    """
    The servers of a cluster.

    Args:
        voters: Those who vote and count for commitment, with the addresses at
            which the others reach them.  Empty: the server knows of no
            cluster yet; it answers whoever asks, and never stands for
            election.
        learners: Those who get the log and neither vote nor count (§4.2.1).
        outgoing: In a joint membership, the voters before it (§4.3).
        target: Who shall be the voters as soon as all of them have caught up;
            empty if nobody is waited for.
        incarnations: Which data directory a member must have, where that is
            laid down: it lost an earlier one.
        cluster_id: Tells clusters of one name apart.
    """

    voters: dict[ServerId, Address] = field(default_factory=dict)
    learners: dict[ServerId, Address] = field(default_factory=dict)
    outgoing: dict[ServerId, Address] = field(default_factory=dict)
    target: frozenset[ServerId] = frozenset()
    incarnations: dict[ServerId, str] = field(default_factory=dict)
    cluster_id: str = ""

    @classmethod
    def founding(cls, cluster: str, voters: Mapping[ServerId, Address]) -> Membership:
        """
        Return the first membership of the cluster called *cluster*.

        All founders come to the same id, unless they disagree on who founds;
        addresses may be written differently by each.
        """
        text = json.dumps([cluster, sorted(voters)]).encode()
        return cls(dict(voters), cluster_id=hashlib.sha256(text).hexdigest()[:32])

    # --- who belongs to it -------------------------------------------------

    @property
    def is_joint(self) -> bool:
        """Say whether voters are just being exchanged (§4.3)."""
        return bool(self.outgoing)

    def members(self) -> dict[ServerId, Address]:
        """Return everybody who gets the log, with the newest addresses."""
        return self.outgoing | self.learners | self.voters

    def electors(self) -> dict[ServerId, Address]:
        """Return everybody whose vote counts for something."""
        return self.outgoing | self.voters

    # --- majorities --------------------------------------------------------

    def is_quorum(self, servers: Collection[ServerId]) -> bool:
        """Say whether *servers* hold a majority, of both halves if joint (§4.3)."""
        return _is_majority(self.voters, servers) and (
            not self.outgoing or _is_majority(self.outgoing, servers)
        )

    def majority_index(self, reached: Mapping[ServerId, int]) -> int:
        """
        Return the highest number that a majority has reached, of both halves.

        Learners in *reached* do not count.  There have to be voters.
        """
        index = quorum_index(self.voters, reached)
        if self.outgoing:
            index = min(index, quorum_index(self.outgoing, reached))
        return index

    # --- changes -----------------------------------------------------------

    def towards(
        self,
        voters: Mapping[ServerId, Address],
        learners: Mapping[ServerId, Address],
        caught_up: Collection[ServerId] = (),
    ) -> Membership:
        """
        Return the first step from this membership to the one described.

        A change of voters passes through a joint membership; before that,
        new voters that are not among the *caught_up* are learners for a while.

        Raises:
            InvalidChangeError: There is no such membership.
        """
        _check(voters, learners)
        ours = {name: voters.get(name, old) for name, old in self.voters.items()}
        if voters.keys() == self.voters.keys():
            return self._as(voters, learners)
        fresh = {name: voters[name] for name in voters if name not in self.voters}
        if fresh.keys() <= set(caught_up):
            return self._as(voters, learners, outgoing=ours)
        return self._as(ours, {**learners, **fresh}, target=voters)

    def _as(
        self,
        voters: Mapping[ServerId, Address],
        learners: Mapping[ServerId, Address],
        *,
        outgoing: Mapping[ServerId, Address] | None = None,
        target: Collection[ServerId] = (),
    ) -> Membership:
        """Return one of these servers, with what is laid down of those who stay."""
        made = replace(
            self,
            voters=dict(voters),
            learners=dict(learners),
            outgoing=dict(outgoing or {}),
            target=frozenset(target),
        )
        members = made.members()
        known = {k: v for k, v in self.incarnations.items() if k in members}
        return replace(made, incarnations=known)

    def promoted(self) -> Membership:
        """Return the joint membership that makes the target the voters (§4.2.1)."""
        addresses = self.members()
        voters = {name: addresses[name] for name in sorted(self.target)}
        rest = {k: v for k, v in self.learners.items() if k not in self.target}
        return self.towards(voters, rest, caught_up=voters)

    def left(self) -> Membership:
        """Return the membership that follows a joint one (§4.3)."""
        return self._as(self.voters, self.learners)

    # --- bytes -------------------------------------------------------------

    def encode(self) -> bytes:
        """Return the bytes of a :attr:`~.EntryKind.MEMBERSHIP` entry."""
        document = {
            "version": _VERSION,
            "voters": self.voters,
            "learners": self.learners,
            "outgoing": self.outgoing,
            "target": sorted(self.target),
            "incarnations": self.incarnations,
            "cluster_id": self.cluster_id,
        }
        return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, data: bytes) -> Membership:
        """
        Return the membership that :meth:`encode` made *data* of.

        Raises:
            ProtocolError: *data* is not one, or of a later release.
        """
        try:
            document = json.loads(data)
            version, voters = document["version"], document["voters"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            message = f"not a membership: {error!r}"
            raise ProtocolError(message) from error
        if version != _VERSION:
            message = f"a membership of version {version!r}; this release knows 1"
            raise ProtocolError(message)
        return cls(
            _texts("voters", voters),
            _texts("learners", document.get("learners", {})),
            _texts("outgoing", document.get("outgoing", {})),
            frozenset(_names(document.get("target", []))),
            _texts("incarnations", document.get("incarnations", {})),
            _text("cluster_id", document.get("cluster_id", "")),
        )


def _is_majority(voters: Collection[ServerId], servers: Collection[ServerId]) -> bool:
    return sum(voter in servers for voter in voters) >= quorum_size(voters)


def _check(
    voters: Mapping[ServerId, Address], learners: Mapping[ServerId, Address]
) -> None:
    """
    See that such a cluster can be.

    Raises:
        InvalidChangeError: It cannot.
    """
    if not voters:
        raise InvalidChangeError("a cluster needs at least one voter")
    twice = sorted(voters.keys() & learners.keys())
    if twice:
        message = f"{twice[0]} cannot be a voter and a learner at once"
        raise InvalidChangeError(message)
    everybody = {**voters, **learners}
    if len(everybody) > _MAX_MEMBERS:
        message = f"{len(everybody)} members are too many: at most {_MAX_MEMBERS}"
        raise InvalidChangeError(message)
    taken: dict[Address, ServerId] = {}
    for name, address in everybody.items():
        if not name or max(len(name), len(address)) > _MAX_TEXT:
            message = f"no server can have the name or address {name[:64]!r}"
            raise InvalidChangeError(message)
        other = taken.setdefault(address, name)
        if other != name and address:
            message = f"{other} and {name} would have the same address, {address}"
            raise InvalidChangeError(message)


def _texts(what: str, value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        message = f"not a membership: {what} are {value!r}"
        raise ProtocolError(message)
    return {name: _text(what, text) for name, text in value.items()}


def _text(what: str, value: Any) -> str:
    if not isinstance(value, str):
        message = f"not a membership: {what} has {value!r}"
        raise ProtocolError(message)
    return value


def _names(value: Any) -> Iterable[str]:
    if not isinstance(value, list):
        message = f"not a membership: target is {value!r}"
        raise ProtocolError(message)
    return [_text("target", name) for name in value]
