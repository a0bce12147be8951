"""
What connections are encrypted with: made of the files, and made anew with them.

Version 1.3, and certificates of both ends, each signed by the authority of the other;
only who asks over HTTP may come without one.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from OpenSSL import SSL, crypto
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IOpenSSLServerConnectionCreator,
)
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from zope.interface import implementer

from consensus.certificates import load
from consensus.errors import ConfigError

if TYPE_CHECKING:
    from twisted.internet.interfaces import IAddress
    from twisted.python.failure import Failure

    from consensus.certificates import Credentials
    from consensus.tls import TLS

_log = Logger()

# What OpenSSL finds wrong with a certificate, by its numbers.  One that
# another authority of the same name has signed has a wrong signature (7).
_FLAWS = {
    9: "is not valid yet",
    10: "has expired",
    26: "may not be used for that end of a connection; see its extendedKeyUsage",
} | dict.fromkeys((2, 7, 18, 19, 20, 21), "is not signed by the authority here")

# What the other end finds wrong, as alerts are called in OpenSSL's messages.
_ALERTS = {
    "unknown ca": "is not signed by the authority there",
    "decrypt error": "is not signed by the authority there",
    "certificate expired": "has expired",
    "bad certificate": "is not valid, or not yet",
    "unsupported certificate": (
        "may not be used for this end of a connection; see its extendedKeyUsage"
    ),
}

# So many refusals are remembered, to log each once.
_MOST_REFUSALS = 100


@implementer(IOpenSSLClientConnectionCreator, IOpenSSLServerConnectionCreator)
class Contexts:
    """
    What new connections are encrypted with; looks at the files for each.

    Files that have changed are read again.  If they cannot be used, as when
    one is there and the other not yet, what was read before stays in use.

    Args:
        tls: Where the files are.
        needs_certificate: Whether the other end has to have a certificate.  One
            that it does have counts in any case.

    Raises:
        ConfigError: They cannot be used.
    """

    def __init__(self, tls: TLS, *, needs_certificate: bool = True) -> None:
        self._tls = tls
        self._mode = SSL.VERIFY_PEER
        if needs_certificate:
            self._mode |= SSL.VERIFY_FAIL_IF_NO_PEER_CERT
        self._stamps = _stamps(tls)
        self._context = _context(load(tls), self._mode)

    def clientConnectionForTLS(self, protocol: Any) -> SSL.Connection:
        """Return the end of a connection that this process makes."""
        return self._connection(protocol)

    def serverConnectionForTLS(self, protocol: Any) -> SSL.Connection:
        """Return the end of a connection that this process accepts."""
        return self._connection(protocol)

    def _connection(self, protocol: Any) -> SSL.Connection:
        self._renew()
        connection = SSL.Connection(self._context, None)
        connection.set_app_data(protocol)  # as Twisted itself does
        return connection

    def _renew(self) -> None:
        stamps = _stamps(self._tls)
        if stamps == self._stamps:
            return
        self._stamps = stamps
        try:
            self._context = _context(load(self._tls), self._mode)
        except ConfigError as error:
            _log.warn(
                "the files of tls have changed and cannot be used; new connections"
                " use what they held before: {error}",
                error=error,
            )
        else:
            _log.info("the files of tls have changed; new connections use them")


def _stamps(tls: TLS) -> list[tuple[int, int, int] | None]:
    """Return what tells that a file has changed; ``None`` for one that is gone."""
    found: list[tuple[int, int, int] | None] = []
    for each in fields(tls):
        try:
            status = getattr(tls, each.name).stat()
        except OSError:
            found.append(None)
        else:
            found.append((status.st_mtime_ns, status.st_size, status.st_ino))
    return found


def _context(credentials: Credentials, mode: int) -> SSL.Context:
    """
    Return what OpenSSL makes connections of.

    Raises:
        ConfigError: OpenSSL does not take the *credentials*.
    """
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_TICKET)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    # A resumed session would be one whose certificates are not looked at.
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.use_certificate(credentials.certificate)
    for each in credentials.chain[1:]:
        context.add_extra_chain_cert(each)
    context.use_privatekey(credentials.key)
    context.check_privatekey()
    store = context.get_cert_store()
    if store is not None:
        for each in credentials.authorities:
            store.add_cert(crypto.X509.from_cryptography(each))
    context.set_verify(mode, _verified)
    return context


def _verified(
    connection: SSL.Connection, _: object, flaw: int, depth: int, is_good: int
) -> bool:
    """Note what is wrong with a certificate; OpenSSL's own judgement stands."""
    if not is_good:
        connection.get_app_data().wrappedProtocol.flaw = flaw, depth
    return bool(is_good)


def describe(error: SSL.Error, flaw: tuple[int, int] | None) -> str:
    """
    Return what OpenSSL's *error* means, to be said of the other end.

    Args:
        error: Why a connection ends.
        flaw: What OpenSSL found wrong with the other end's certificate: its number
            for that, and how far above that certificate.
    """
    if flaw is not None:
        number, depth = flaw
        what = _FLAWS.get(number, f"is refused by OpenSSL (verify error {number})")
        whose = f"a certificate {depth} above its own" if depth else "its certificate"
        return f"{whose} {what}"
    entries = error.args[0] if error.args else ()
    texts = [str(entry[-1]).lower() for entry in entries] or ["it is broken off"]
    text = texts[-1]
    if "did not return a certificate" in text:
        return "it has no certificate"
    if "http request" in text or "wrong version number" in text:
        return "what it sends is not TLS"
    if "unsupported protocol" in text or "alert protocol version" in text:
        return "it does not speak TLS 1.3"
    if "alert" in text:
        for words, what in _ALERTS.items():
            if words in text:
                return f"it refuses this end's certificate, which {what}"
    return f"TLS failed: {text}"


class _Encrypted(TLSMemoryBIOProtocol):
    """The TLS of one connection; it says why there is none."""

    factory: Encrypting

    def connectionLost(self, reason: Failure | None = None) -> None:
        """Log why, as far as TLS is the reason."""
        why = self._reason or reason
        error = None if why is None else why.value
        if isinstance(error, SSL.Error):
            flaw = getattr(self.wrappedProtocol, "flaw", None)
            self.factory.refused(self.transport, describe(error, flaw))
        super().connectionLost(reason)  # type: ignore[no-untyped-call]


class Encrypting(TLSMemoryBIOFactory):
    """
    Encrypts the connections that are made to this process.

    Args:
        contexts: With what.
        factory: Makes the protocols within.  It may have no room.
        what: What the connections are, for the log.
    """

    noisy = False
    protocol = _Encrypted

    def __init__(self, contexts: Contexts, factory: Any, what: str) -> None:
        # Twisted's annotations know of its own contexts only.
        made: Any = contexts
        super().__init__(made, False, factory)  # noqa: FBT003 - Twisted's signature
        self._what = what
        self._refusals: set[str] = set()

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Return the protocol of a new connection, if there is room for it."""
        make: Any = self.wrappedFactory.buildProtocol
        within = make(addr)
        protocol: Any = self.protocol
        return None if within is None else protocol(self, within)

    def refused(self, transport: Any, reason: str) -> None:
        """Log that nothing passes on a connection, once for each host and *reason*."""
        host = getattr(transport.getPeer(), "host", "this machine")
        sentence = f"refused {self._what} with {host}: {reason}"
        if sentence in self._refusals:
            return
        if len(self._refusals) >= _MOST_REFUSALS:
            self._refusals.clear()
        self._refusals.add(sentence)
        _log.warn("{sentence}", sentence=sentence)
