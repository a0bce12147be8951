"""
Addresses of servers: ``tcp:host:port`` and ``unix:path``.

One description, Twisted's for clients, serves both ends: a server listens at
the very address that the others connect to.
"""

from __future__ import annotations

import os
import socket
from contextlib import closing
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP4ServerEndpoint,
    UNIXClientEndpoint,
    UNIXServerEndpoint,
)

from consensus.errors import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from consensus.core.values import Address

_LARGEST_PORT = 65_535
_HINT = "write tcp:HOST:PORT, as tcp:127.0.0.1:9101, or unix:PATH"


class AddressError(ValueError):
    """
    An address means nothing to us.

    Args:
        message: What is wrong with it.
        hint: What to write instead.
    """

    def __init__(self, message: str, hint: str = _HINT) -> None:
        """Keep both parts: a finding shows them apart."""
        super().__init__(f"{message} ({hint})")
        self.message = message
        self.hint = hint


@dataclass(frozen=True, slots=True)
class TCPAddress:
    """A host, by name or number, and a port."""

    host: str
    port: int

    def client(self, reactor: Any) -> Any:
        """Return the endpoint that connects to it."""
        if isIPAddress(self.host) or isIPv6Address(self.host):
            return TCP4ClientEndpoint(reactor, self.host, self.port)
        return HostnameEndpoint(reactor, self.host, self.port)

    def server(self, reactor: Any) -> Any:
        """
        Return the endpoint that listens on it.

        A name is looked up at once; servers start once, so it may block.

        Raises:
            OSError: The name has no address.
        """
        _, host = self._resolve()
        return TCP4ServerEndpoint(reactor, self.port, interface=host)

    def _resolve(self) -> tuple[socket.AddressFamily, str]:
        if isIPAddress(self.host):
            return socket.AF_INET, self.host
        found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        family, _, _, _, address = found[0]
        return family, str(address[0])

    def probe(self) -> None:
        """
        Listen here for a moment, as Twisted would.

        Raises:
            OSError: It is not possible.
        """
        family, host = self._resolve()
        with closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, self.port))
            probe.listen()


@dataclass(frozen=True, slots=True)
class UNIXAddress:
    """The path of a socket in the file system."""

    path: str

    def client(self, reactor: Any) -> Any:
        """Return the endpoint that connects to it."""
        return UNIXClientEndpoint(reactor, self.path)

    def server(self, reactor: Any) -> Any:
        """Return the endpoint that listens on it, and removes a stale socket."""
        return UNIXServerEndpoint(reactor, self.path, wantPID=True)

    def probe(self) -> None:
        """
        See whether somebody listens here, and whether we could.

        Raises:
            OSError: It is not possible.
        """
        directory = Path(self.path).absolute().parent
        if not os.access(directory, os.W_OK | os.X_OK):
            message = f"the directory {directory} does not exist or is not writable"
            raise OSError(message)
        with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
            try:
                probe.connect(self.path)
            except (ConnectionRefusedError, FileNotFoundError):
                return
        message = "another program listens there"
        raise OSError(message)


def parse(address: Address) -> TCPAddress | UNIXAddress:
    """
    Return what *address* describes.

    Raises:
        AddressError: Nothing that this transport knows.
    """
    words, named = _split(address)
    kind = words.pop(0) if words else ""
    match kind:
        case "tcp":
            return _parse_tcp(address, words, named)
        case "unix":
            path = words.pop(0) if words else named.pop("path", "")
            if not path or words or named:
                raise AddressError(f"{address!r} is not unix:PATH")  # noqa: EM102 - short
            return UNIXAddress(path)
    raise AddressError(f"{address!r} is neither a tcp: nor a unix: address")  # noqa: EM102 - short


def is_private(address: Address) -> bool:
    """Say whether only programs of this machine can reach *address*."""
    try:
        parsed = parse(address)
    except AddressError:
        return True  # it is complained of elsewhere, and cannot be listened on
    if not isinstance(parsed, TCPAddress) or parsed.host == "localhost":
        return True
    try:
        return ip_address(parsed.host).is_loopback
    except ValueError:
        return False


def _parse_tcp(address: Address, words: list[str], named: dict[str, str]) -> TCPAddress:
    if any(word.startswith("[") for word in words):
        message = f"the colons of the host in {address!r} separate its parts"
        hint = r"write a backslash before each of them, as in tcp:\:\:1:9101"
        raise AddressError(message, hint)
    host = named.pop("host", None) or (words.pop(0) if words else "")
    port = named.pop("port", None) or (words.pop(0) if words else "")
    if not host or not port or words or named:
        raise AddressError(f"{address!r} is not tcp:HOST:PORT")  # noqa: EM102 - short
    if not port.isdecimal() or int(port) > _LARGEST_PORT:
        message = f"{port!r} in {address!r} is not a port"
        raise AddressError(message)
    return TCPAddress(host, int(port))


def _split(address: Address) -> tuple[list[str], dict[str, str]]:
    r"""
    Return the parts of *address* between its colons, and those with a name.

    A backslash takes the meaning from the character after it, as in Twisted:
    ``tcp:\:\:1:9101``.
    """
    words: list[str] = []
    named: dict[str, str] = {}
    name, word = "", ""
    characters = iter(address + ":")
    for character in characters:
        if character == "\\":
            word += next(characters, "")
        elif character == "=" and not name:
            name, word = word, ""
        elif character != ":":
            word += character
        elif name:
            named[name] = word
            name, word = "", ""
        else:
            words.append(word)
            word = ""
    return words, named


def check_address(
    path: str, address: Address, ids: tuple[str, str], *, is_served: bool
) -> Iterator[Finding]:
    """
    Yield what is wrong with *address*, which stands at *path* in the YAML.

    Args:
        path: As ``members.s1``.
        address: What stands there.
        ids: Of the findings: it means nothing; it cannot be listened on.
        is_served: Whether this process is about to listen on it.
    """
    try:
        parsed = parse(address)
    except AddressError as error:
        yield Finding(ids[0], error.message, error.hint, path)
        return
    if isinstance(parsed, TCPAddress) and not parsed.port:
        message = f"{address!r} has the port 0, which nobody could connect to"
        yield Finding(ids[0], message, "write a port from 1 to 65535", path)
        return
    if is_served:
        try:
            parsed.probe()
        except OSError as error:
            message = f"cannot listen on {address!r}: {error.strerror or error}"
            hint = (
                "stop the program that listens there, perhaps this server itself, or"
                " write an address of this host that is free"
            )
            yield Finding(ids[1], message, hint, path)
