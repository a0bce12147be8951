"""
What connections are encrypted with: made of the files, and made anew with them.

Version 1.3, and certificates of both ends, each signed by the authority of the other.
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
from zope.interface import implementer

from consensus.certificates import load
from consensus.errors import ConfigError

if TYPE_CHECKING:
    from consensus.certificates import Credentials
    from consensus.tls import TLS

_log = Logger()


@implementer(IOpenSSLClientConnectionCreator, IOpenSSLServerConnectionCreator)
class Contexts:
    """
    What new connections are encrypted with; looks at the files for each.

    Files that have changed are read again.  If they cannot be used, as when
    one is there and the other not yet, what was read before stays in use.

    Args:
        tls: Where the files are.

    Raises:
        ConfigError: They cannot be used.
    """

    def __init__(self, tls: TLS) -> None:
        self._tls = tls
        self._stamps = _stamps(tls)
        self._context = _context(load(tls))

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
            self._context = _context(load(self._tls))
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


def _context(credentials: Credentials) -> SSL.Context:
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
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _verified)
    return context


def _verified(
    connection: SSL.Connection, _: object, flaw: int, depth: int, is_good: int
) -> bool:
    """Note what is wrong with a certificate; OpenSSL's own judgement stands."""
    if not is_good:
        connection.get_app_data().wrappedProtocol.flaw = flaw, depth
    return bool(is_good)
