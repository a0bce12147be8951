"""What servers say of themselves when they meet, and whether it fits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from adapters.transport.amp_commands import MAX_VERSION, MIN_VERSION
from adapters.transport.amp_fields import identity_items
from consensus.errors import ProtocolError

if TYPE_CHECKING:
    from consensus.core.values import Identity, ServerId


@dataclass(frozen=True, slots=True)
class Introduction:
    """
    What a ``Hello`` says.

    Args:
        min_version: The lowest version of the protocol that the peer speaks.
        max_version: The highest.
        identity: Who it is.
        to: Whom it takes this server for.
    """

    min_version: int
    max_version: int
    identity: Identity
    to: ServerId


def check_introduction(introduction: Introduction, own: Identity) -> None:
    """
    See that a peer means this server, and speaks as it does.

    Raises:
        ProtocolError: It does not.
    """
    other = introduction.identity
    low, high = introduction.min_version, introduction.max_version
    if low > MAX_VERSION or high < MIN_VERSION:
        raise ProtocolError(versions_differ(other.server, low, high))
    if introduction.to != own.server:
        message = (
            f"{other.server!r} takes this server for {introduction.to!r}, but it is"
            f" {own.server!r}: correct the addresses under members of"
            f" {other.server!r}"
        )
        raise ProtocolError(message)


def versions_differ(who: str, low: int, high: int) -> str:
    """Return what is said of *who*, which speaks other versions than this end."""
    return (
        f"{who} speaks versions {low} to {high} of the protocol, this server"
        f" {MIN_VERSION} to {MAX_VERSION}: update the older one to a release that"
        " speaks both"
    )


def introduction_pairs(own: Identity, to: ServerId) -> list[tuple[bytes, bytes]]:
    """Return what *own* says to *to* in a ``Hello``."""
    return [
        (b"min_version", b"%d" % MIN_VERSION),
        (b"max_version", b"%d" % MAX_VERSION),
        (b"to", to.encode()),
        *identity_items(own),
    ]
