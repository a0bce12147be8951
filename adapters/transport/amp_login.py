"""
Who is at the other end of a connection, where not everybody may do everything.

A client says ``Login``.  A server that has no certificate to show proves that it
knows the cluster's secret: it asks for some random bytes with ``Challenge``, and
says with ``Prove`` what the secret makes of them and of some of its own.  The
answer proves that the other end knows it, too.  Neither says the secret.
"""

from __future__ import annotations

import hmac
import secrets
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, fail, succeed

from adapters.transport.amp_fields import read_text
from consensus.errors import (
    AuthenticationError,
    OutcomeUnknownError,
    OverloadedError,
    ProtocolError,
    UnreachableError,
)
from consensus.interfaces import Login

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from adapters.transport.amp_boxes import Box
    from adapters.transport.amp_connection import Connection
    from consensus.interfaces import Guard

    _Pairs = Sequence[tuple[bytes, bytes]]

#: What is said before anything else.
COMMANDS = frozenset({b"Login", b"Challenge", b"Prove"})

#: Strangers may send boxes of so many bytes.
MAX_BOX_BYTES = 8192

_NONCE_BYTES = 32
_MEMBER, _ANSWER = b"raft member 1", b"raft answer 1"


class Entrance:
    """
    Who is at the other end of one connection, as far as it has said.

    Args:
        guard: Says who that is; ``None`` if everybody may do everything.
    """

    def __init__(self, guard: Guard | None) -> None:
        self._guard = guard
        self._nonce = b""
        self._is_busy = False
        #: Who it is; ``None`` for a stranger.
        self.caller: Any = None
        #: Whether it is a server that knows the secret.
        self.is_member = False

    @property
    def is_open(self) -> bool:
        """Say whether whoever is there may call."""
        return self._guard is None or self.caller is not None

    def certified(self, names: Collection[str], subject: str) -> None:
        """Let in whom a certificate is for."""
        if self._guard is not None:
            self.caller = self._guard.certified(names, subject)

    def proven(self) -> None:
        """Let a server in that knows the secret."""
        self.is_member = True
        if self._guard is not None:
            self.caller = self._guard.member

    def vouch(self) -> None:
        """
        See that a server that introduces itself has proven that it is one.

        Raises:
            ProtocolError: It has not.
        """
        if self._guard is not None and not self.is_member:
            message = "it has not proven that it knows the secret of access"
            raise ProtocolError(message)

    def answer(self, method: str, payload: bytes) -> Deferred[bytes]:
        """Answer a call; it is known that there is a guard."""
        if self._guard is None:
            return fail(ProtocolError("nobody guards this server"))
        return self._guard.answer(self.caller, method, payload)

    def take(self, command: bytes, box: Box, host: str) -> Deferred[_Pairs]:
        """
        Return the answer to one of :data:`COMMANDS`.

        The Deferred fails with:
            AuthenticationError: It is not right.
            RaftError: It cannot be looked at.

        Raises:
            ProtocolError: The box is not complete.
        """
        if command == b"Login":
            return self._login(box, host)
        if self._guard is None or not self._guard.secret:
            message = "this server has no secret: the other's config has another access"
            return fail(ProtocolError(message))
        if command == b"Challenge":
            self._nonce = secrets.token_bytes(_NONCE_BYTES)
            return succeed([(b"nonce", self._nonce)])
        return self._prove(self._guard.secret, box)

    def _login(self, box: Box, host: str) -> Deferred[_Pairs]:
        login = Login(
            read_text(box, b"user"),
            read_text(box, b"password"),
            read_text(box, b"token"),
        )
        if self._guard is None:
            return succeed([])
        if self._is_busy:
            return fail(OverloadedError("one login at a time"))
        self._is_busy = True
        asked = self._guard.login(login, host)
        return asked.addBoth(self._looked_at).addCallback(self._enter)

    def _looked_at(self, outcome: Any) -> Any:
        self._is_busy = False
        return outcome

    def _enter(self, caller: Any) -> _Pairs:
        self.caller, self.is_member = caller, False
        return []

    def _prove(self, secret: bytes, box: Box) -> Deferred[_Pairs]:
        own, self._nonce = self._nonce, b""
        other = box.get(b"nonce", b"")
        wanted = _proof(secret, _MEMBER, own, other)
        is_right = hmac.compare_digest(box.get(b"proof", b""), wanted)
        # A nonce is good once, and both ends have their part in it.
        if not (own and len(other) == _NONCE_BYTES and is_right):
            message = "the secret of access is not the same at both ends"
            return fail(AuthenticationError(message))
        self.proven()
        return succeed([(b"proof", _proof(secret, _ANSWER, own, other))])


async def enter(
    connection: Connection, guard: Guard | None, login: Login | None, patience: float
) -> None:
    """
    Say who this end of a new *connection* is.

    Args:
        connection: The connection.
        guard: That of this server, if it is one.
        login: What to say as a client.
        patience: Seconds for each answer.

    Raises:
        UnreachableError: No answer came in time.
        AuthenticationError: This end, or the other, is not let in.
        RaftError: The other end refuses otherwise.
    """
    try:
        if guard is not None and guard.secret:
            await _prove(connection, guard.secret, patience)
        elif login is not None:
            await connection.ask(b"Login", _pairs(login), patience)
    except OutcomeUnknownError as error:
        message = f"there is no answer to the login: {error}"
        raise UnreachableError(message) from error


def _pairs(login: Login) -> _Pairs:
    return [
        (b"user", login.user.encode()),
        (b"password", login.password.encode()),
        (b"token", login.token.encode()),
    ]


async def _prove(connection: Connection, secret: bytes, patience: float) -> None:
    box = await connection.ask(b"Challenge", (), patience)
    other, own = box.get(b"nonce", b""), secrets.token_bytes(_NONCE_BYTES)
    if len(other) != _NONCE_BYTES:
        raise ProtocolError("the answer to a challenge is too short")
    proof = _proof(secret, _MEMBER, other, own)
    said = [(b"nonce", own), (b"proof", proof)]
    box = await connection.ask(b"Prove", said, patience)
    wanted = _proof(secret, _ANSWER, other, own)
    if not hmac.compare_digest(box.get(b"proof", b""), wanted):
        raise AuthenticationError("the other end does not know the secret of access")
    connection.entrance.proven()


def _proof(secret: bytes, what: bytes, first: bytes, second: bytes) -> bytes:
    return hmac.digest(secret, what + b"\0" + first + second, "sha256")
