"""
What the config says of where servers answer HTTP.

As ``tls:HOST:PORT`` they answer HTTPS; HTTP as ``tcp:HOST:PORT`` and ``unix:PATH``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from consensus.addresses import is_private
from consensus.registry import suggest

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from consensus.core.values import Address, ServerId
    from consensus.settings.document import Filler, Value

_HINT = "write a port, as 9201, or an address, as tcp:127.0.0.1:9201"

_ENCRYPTED = "tls:"


def is_encrypted(address: Address) -> bool:
    """Say whether HTTPS is spoken at *address*."""
    return address.startswith(_ENCRYPTED)


def beneath(address: Address) -> Address:
    """Return where to listen for what is answered at *address*: without the TLS."""
    return f"tcp:{address[len(_ENCRYPTED) :]}" if is_encrypted(address) else address


def read_http(
    value: Value | None,
    filler: Filler,
    members: Mapping[ServerId, Address],
    serve: Collection[ServerId],
    *,
    is_insecure: bool,
    has_tls: bool,
) -> dict[ServerId, Address]:
    """
    Return where servers answer HTTP; see :class:`.Config`.

    Args:
        value: What stands there, if anything does.
        filler: Gathers what is wrong with it.
        members: Who may be named.
        serve: Who is hosted here.
        is_insecure: Other machines may reach it, though nothing is encrypted.
        has_tls: There is something to encrypt with.
    """
    if value is None or value.content is False:
        return {}
    found = _read(value, filler, members, serve)
    for name in (*serve, ""):
        _check(found.get(name, ""), value, filler, is_insecure, has_tls)
    return found


def _check(
    address: Address,
    value: Value,
    filler: Filler,
    is_insecure: bool,  # noqa: FBT001 - as above
    has_tls: bool,  # noqa: FBT001 - as above
) -> None:
    """Complain if *address* cannot be encrypted, or is not and should be."""
    if is_encrypted(address):
        if not has_tls:
            message = f"{address!r} wants a certificate, and there is no tls: section"
            hint = "add tls: (raft certs init makes what it needs)"
            filler.complain("config.E014", message, hint, value)
    elif not (is_insecure or is_private(address)):
        filler.complain(
            "config.E014",
            f"other machines can reach {address!r}, and nothing is encrypted",
            "write tls:HOST:PORT, which takes the certificate of the tls: section, or"
            " a port alone, which only this machine reaches, or insecure: true if"
            " only machines that you trust reach it",
            value,
        )


def _read(
    value: Value,
    filler: Filler,
    members: Mapping[ServerId, Address],
    serve: Collection[ServerId],
) -> dict[ServerId, Address]:
    if isinstance(value.content, dict):
        return _read_each(value, filler, members)
    if len(serve) > 1:
        names = ", ".join(serve)
        hint = "write one for each, as http: {s1: 9201, s2: 9202}"
        message = f"one address cannot do for {names}"
        filler.complain("config.E009", message, hint, value)
    return {"": _read_address(value, filler)}


def _read_each(
    value: Value, filler: Filler, members: Mapping[ServerId, Address]
) -> dict[ServerId, Address]:
    found: dict[ServerId, Address] = {}
    for name, child in value.content.items():
        address = _read_address(child, filler)
        if members and name not in members:
            message = f"{name!r} is not among the members"
            hint = suggest(name, members)
            filler.complain("config.E010", message, hint, child)
        elif address and address in found.values():
            message = f"{address!r} is there already"
            filler.complain("config.E009", message, "give each its own", child)
        found[name] = address
    return found


def _read_address(value: Value, filler: Filler) -> Address:
    """Return the address; at a port alone, only this machine can reach it."""
    content = value.content
    if isinstance(content, int) and not isinstance(content, bool):
        return f"tcp:127.0.0.1:{content}"
    if isinstance(content, str) and content.strip():
        return content.strip()
    filler.expected("an address", value, _HINT)
    return ""
