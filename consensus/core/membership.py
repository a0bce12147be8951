"""
Who belongs to the cluster, and the bytes of it in the log (§4).

A server uses the latest membership in its log, committed or not (§4.1).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from consensus.errors import ProtocolError

if TYPE_CHECKING:
    from consensus.core.values import Address, ServerId

_VERSION = 1


@dataclass(frozen=True, slots=True)
class Membership:
    """
    The servers of a cluster.

    Args:
        voters: Those who vote and count for commitment, with the addresses at
            which the others reach them.  Empty: the server knows of no
            cluster yet; it answers whoever asks, and never stands for
            election.
    """

    voters: dict[ServerId, Address] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Return the bytes of a :attr:`~.EntryKind.MEMBERSHIP` entry."""
        document = {"version": _VERSION, "voters": self.voters}
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
        if not isinstance(voters, dict) or not all(
            isinstance(address, str) for address in voters.values()
        ):
            message = f"not a membership: voters are {voters!r}"
            raise ProtocolError(message)
        return cls(voters)
