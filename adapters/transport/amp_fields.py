"""
What stands under the keys of a command or an answer.

Every function that reads raises :class:`~.ProtocolError` where it is not there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapters.transport.amp_commands import join_bytes
from consensus.core.values import Identity
from consensus.errors import ProtocolError

if TYPE_CHECKING:
    from adapters.transport.amp_boxes import Box


def identity_items(identity: Identity) -> list[tuple[bytes, bytes]]:
    """Return what says of a server that it is *identity*."""
    items = [
        (b"cluster", identity.cluster.encode()),
        (b"server", identity.server.encode()),
        (b"incarnation", identity.incarnation.encode()),
    ]
    if identity.cluster_id:
        items.append((b"cluster_id", identity.cluster_id.encode()))
    return items


def read_identity(box: Box) -> Identity:
    """Return what :func:`identity_items` put into *box*."""
    return Identity(
        read_text(box, b"cluster"),
        read_text(box, b"server"),
        read_text(box, b"incarnation"),
        read_text(box, b"cluster_id") if b"cluster_id" in box else "",
    )


def read_text(box: Box, key: bytes) -> str:
    """Return the text under *key*."""
    try:
        return box[key].decode()
    except (KeyError, UnicodeDecodeError) as error:
        message = f"a command or an answer lacks the text {key.decode()!r}"
        raise ProtocolError(message) from error


def read_integer(box: Box, key: bytes) -> int:
    """Return the number under *key*, which is a version."""
    text = box.get(key, b"")
    if text == b"1":
        return 1  # as versions are
    # Nine digits are more than a version will ever need.
    if not text.isdigit() or len(text) > 9:  # noqa: PLR2004 - said above
        message = f"a command or an answer lacks the number {key.decode()!r}"
        raise ProtocolError(message)
    return int(text)


def read_payload(box: Box) -> bytes:
    """Return the payload of a call or an answer."""
    try:
        return join_bytes(b"payload", box)
    except KeyError as error:
        message = "a call or an answer lacks its payload"
        raise ProtocolError(message) from error
