"""
Who sends a request, where the config says who may do what.

Everything but probes wants a password (``Basic``), a token (``Bearer``) or a user's
certificate, and a user whose role is for all keys: what is shown here is not cut to a
prefix.  Without users, HTTPS wants a certificate, as every other port does.
"""

from __future__ import annotations

from base64 import b64decode
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, fail, succeed

from consensus.certificates import user_name
from consensus.errors import AuthenticationError, PermissionDeniedError
from consensus.guard import Login
from consensus.http.problems import Problem

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from consensus.access.gate import Caller
    from consensus.http.authority import Action, Authorize


def authorizing(server: Any, *, is_encrypted: bool = False) -> Authorize:
    """
    Return what decides on every request to *server*, as its config says.

    Args:
        server: Whose users count.
        is_encrypted: Whether whoever asks may have shown a certificate.
    """

    def authorize(request: Any, action: Action) -> Deferred[None]:
        certificate = _certificate(request) if is_encrypted else None
        if server.config.access is not None:
            work = _authorize(server, request, action, certificate)
            return Deferred.fromCoroutine(work)
        if action == "probe" or not is_encrypted or certificate is not None:
            return succeed(None)
        message = (
            "show a certificate that the authority of this cluster has signed, or"
            " write access: in the config and log in"
        )
        code = AuthenticationError.code
        return fail(Problem(HTTPStatus.UNAUTHORIZED, code, message))

    return authorize


async def _authorize(
    server: Any, request: Any, action: Action, certificate: Certificate | None
) -> None:
    """
    See that whoever sends *request* may do something of that *action*.

    Raises:
        Problem: Nobody knows who it is, or the user may not.
        RaftError: It could not be looked at.
    """
    if action == "probe":
        return
    if server.guard is None:
        message = "the server has not started yet, and does not know its users"
        raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, "stopped", message)
    gate = server.guard.gate
    try:
        caller = await _caller(gate, request, certificate)
        gate.permit(caller, action, [None])
    except AuthenticationError as error:
        raise Problem(
            HTTPStatus.UNAUTHORIZED,
            error.code,
            str(error),
            headers={"WWW-Authenticate": 'Basic realm="raft", charset="UTF-8"'},
        ) from None
    except PermissionDeniedError as error:
        raise Problem(HTTPStatus.FORBIDDEN, error.code, str(error)) from None


async def _caller(gate: Any, request: Any, certificate: Certificate | None) -> Caller:
    """
    Return who sends *request*: what it says counts before what was shown.

    Raises:
        AuthenticationError: Nobody knows.
        OverloadedError: Too many passwords wait to be looked at.
    """
    login = _login(request)
    if login is not None:
        host = str(request.getClientAddress().host)
        known: Caller = await gate.login(login, host)
        return known
    if certificate is not None:
        shown: Caller | None = gate.certified(user_name(certificate))
        if shown is not None:
            return shown
    raise AuthenticationError("log in with a password or a token")


def _certificate(request: Any) -> Certificate | None:
    """Return the certificate that was shown with the connection of *request*."""
    shown = request.channel.transport.getPeerCertificate()
    return None if shown is None else shown.to_cryptography()


def _login(request: Any) -> Login | None:
    """Return what *request* says of its sender; ``None`` for nothing."""
    header: str = request.getHeader("authorization") or ""
    kind, _, words = header.partition(" ")
    match kind.lower():
        case "bearer":
            return Login(token=words.strip())
        case "basic":
            try:
                text = b64decode(words.strip(), validate=True).decode()
            except ValueError:
                return None
            user, _, password = text.partition(":")
            return Login(user, password)
    return None
