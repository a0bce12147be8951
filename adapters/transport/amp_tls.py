"""
TLS under AMP: both ends of a connection prove who they are, or nothing passes.

Version 1.3 and certificates of both ends, each signed by the authority of the
other; which member a certificate stands for is looked at when one says ``Hello``.

The end that made a connection has finished its part of the handshake before
the other has looked at its certificate.  So it asks for a sign of life, and
only the answer says that it is let in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.internet.interfaces import (
    IHandshakeListener,
)
from twisted.logger import Logger
from zope.interface import implementer

from adapters.transport.amp_connection import Connection
from consensus.certificates import common_name, server_names
from consensus.errors import ProtocolError, RaftError
from consensus.tls_contexts import describe

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from adapters.transport.amp_connection import Owner
    from consensus.core.values import ServerId

_log = Logger()

#: What to say of an end that does not begin with TLS.
NO_TLS = "what it sends is not TLS; does it have tls: in its config?"


@implementer(IHandshakeListener)
class SecureConnection(Connection):
    """
    A connection over TLS, seen from either end.

    Args:
        owner: The transport.
        is_accepted: Whether the other end made it.
    """

    has_own_socket = False

    def __init__(self, owner: Owner, *, is_accepted: bool) -> None:
        super().__init__(owner, is_accepted=is_accepted)
        #: What OpenSSL found wrong with the other end's certificate: its number
        #: for that, and how far above that certificate.
        self.flaw: tuple[int, int] | None = None
        #: Why the two ends did not come together; empty if they did, or may yet.
        self.refusal = ""
        self._names: frozenset[str] = frozenset()
        self._is_encrypted = False
        self._handshake: Deferred[None] = Deferred()

    @property
    def socket(self) -> Any:
        """Return the transport below TLS."""
        return self.transport.transport

    def handshakeCompleted(self) -> None:
        """Keep in mind whom the other end's certificate names."""
        self._is_encrypted = True
        try:
            found = self.transport.getPeerCertificate().to_cryptography()
            self._names = server_names(found)
            if self.is_accepted:
                self.entrance.certified(self._names, common_name(found))
                self.opened()
        except ValueError:
            _log.warn(
                "the certificate of {origin} cannot be read; it stands for no member",
                origin=self.origin,
            )
        if not self._handshake.called:
            self._handshake.callback(None)

    def connectionLost(self, reason: Failure | None = None) -> None:
        """Find out why, as far as TLS is the reason."""
        self.refusal = self.refusal or self._explain(reason)
        if self.refusal and self.is_accepted:
            self._owner.refused(self, self.refusal)
        super().connectionLost(reason)
        if not self._handshake.called:
            self._handshake.callback(None)

    async def secured(self, deadline: float) -> None:
        """
        Wait until the ends have accepted each other's certificates.

        Args:
            deadline: Until when, by the clock.

        Raises:
            ProtocolError: They have not.
        """
        seconds = self.clock.seconds
        try:
            left = max(0.0, deadline - seconds())
            await self._handshake.addTimeout(left, self.clock)
            await self.ask(b"Ping", (), deadline - seconds())
        except (RaftError, DeferredTimeoutError, CancelledError) as error:
            reason = self.refusal or "the TLS handshake did not end in time"
            raise ProtocolError(reason) from error

    def vouch(self, server: ServerId) -> None:
        """
        See that the other end's certificate is that of *server*.

        Raises:
            ProtocolError: It is not.
        """
        if server not in self._names:
            known = ", ".join(map(repr, sorted(self._names))) or "no member"
            message = (
                f"the certificate of {self.host} names {known}, and not {server!r}:"
                f" have one made with subjectAltName DNS:{server}, or correct the"
                " addresses under members"
            )
            raise ProtocolError(message)

    def _explain(self, reason: Failure | None) -> str:
        """Return why TLS ends with *reason*; empty if that is no fault of it."""
        error = None if reason is None else reason.value
        if isinstance(error, SSL.Error):
            return describe(error, self.flaw)
        if self._is_encrypted or self.is_accepted or self._is_dropped:
            return ""
        return (
            "it hung up during the TLS handshake; perhaps it has no tls: in its"
            " config, or no room for another connection"
        )


async def secured(made: Any, deadline: float) -> Connection:
    """
    Return the connection above the TLS *made*, if both ends are content by then.

    Raises:
        ProtocolError: They are not.
    """
    connection: SecureConnection = made.wrappedProtocol
    try:
        await connection.secured(deadline)
    except BaseException:
        connection.drop()
        raise
    return connection
