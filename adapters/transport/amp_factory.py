"""What Twisted makes the protocols of new connections with, plain or over TLS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from twisted.internet.protocol import Factory
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory

from adapters.transport.amp_tls import NO_TLS

# How TLS begins, and the alert that tells a plain end what is spoken here.
_RECORDS = (b"\x16", b"\x15")
_ALERT = b"\x15\x03\x03\x00\x02\x02\x46"

if TYPE_CHECKING:
    from twisted.internet.interfaces import IAddress

    from adapters.transport.amp_connection import Connection
    from consensus.tls_contexts import Contexts


class Maker(Protocol):
    """What a factory needs of the transport that it belongs to."""

    reactor: Any

    def make(self, *, is_accepted: bool) -> Connection | None:
        """Return a connection's protocol, or ``None`` if there is no room for it."""


def make_factory(owner: Maker, contexts: Contexts | None, *, is_accepting: bool) -> Any:
    """Return what makes connections, encrypted with *contexts* if there are any."""
    plain = _PlainFactory(owner, is_accepting=is_accepting)
    if contexts is None:
        return plain
    # Twisted's annotations know of its own factories only.
    secure: Any = _SecureFactory
    return secure(contexts, not is_accepting, plain, owner.reactor)


class _PlainFactory(Factory):
    """Makes protocols that use a socket directly."""

    noisy = False

    def __init__(self, owner: Maker, *, is_accepting: bool) -> None:
        self._owner = owner
        self._is_accepting = is_accepting

    def logPrefix(self) -> str:
        """Return what Twisted calls this in its log."""
        return "AMP"

    def buildProtocol(self, addr: IAddress | None) -> Connection | None:  # noqa: ARG002 - Twisted's signature
        """Return a connection, or ``None`` if there is no room for it."""
        return self._owner.make(is_accepted=self._is_accepting)


class _Tunnel(BufferingTLSTransport):
    """
    TLS, as long as the other end speaks it too.

    OpenSSL has many words for bytes that are no TLS, and answers nothing.
    """

    _has_begun = False
    _is_foreign = False

    def dataReceived(self, bytes: bytes) -> None:  # noqa: A002 - Twisted's name
        """Look at the first byte; hang up if it is not one of TLS."""
        if not self._has_begun:
            self._has_begun = True
            self._is_foreign = not bytes.startswith(_RECORDS)
            if self._is_foreign:
                connection: Any = self.wrappedProtocol
                connection.refusal = NO_TLS
                socket: Any = self.transport
                socket.write(_ALERT)
                socket.loseConnection()
        if not self._is_foreign:
            super().dataReceived(bytes)  # type: ignore[no-untyped-call]


class _SecureFactory(TLSMemoryBIOFactory):
    """Puts TLS between a connection and its socket."""

    protocol = _Tunnel

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Return a connection under TLS, or ``None`` if there is no room for it."""
        made = self.wrappedFactory.buildProtocol(addr)
        return None if made is None else self.protocol(self, made)
