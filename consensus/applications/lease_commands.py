"""
The commands about leases that applications have among theirs.

:class:`~consensus.applications.lease_table.LeaseState` has what they do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

#: None of these can be set: a log has to mean the same on every server and in
#: every later release.
MAX_OWNER = 255
MIN_TTL_MS = 100
MAX_TTL_MS = 24 * 3600 * 1000

_Number = Annotated[int, msgspec.Meta(ge=1, le=(1 << 63) - 1)]


class _Stored(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """What is in the log; subclasses have its options."""


class OpenLease(_Stored, tag="open", frozen=True):
    """
    Begin a lease; the result is its number.

    Args:
        ttl: It ends when it has not been renewed for so many ms of log time.
        owner: Whose it is, for people.
    """

    ttl: Annotated[int, msgspec.Meta(ge=MIN_TTL_MS, le=MAX_TTL_MS)]
    owner: Annotated[str, msgspec.Meta(max_length=MAX_OWNER)] = ""


class RenewLease(_Stored, tag="renew", frozen=True):
    """Keep *lease* for another ttl; the result says whether it was there."""

    lease: _Number


class EndLease(_Stored, tag="end", frozen=True):
    """
    End *lease*, and with it all that it has.

    The result says whether it was there.
    """

    lease: _Number


#: What applies each of them to a state.
LEASE_WRITES: Final[dict[type, Callable[[Any, Any], Any]]] = {
    OpenLease: lambda asked, state: state.open_lease(asked.ttl, asked.owner),
    RenewLease: lambda asked, state: state.leases.renew(asked.lease),
    EndLease: lambda asked, state: state.end_lease(asked.lease),
}
