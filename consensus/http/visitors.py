"""
Who sends a request, where the config says who may do what.

Everything but probes wants a password (``Basic``) or a token (``Bearer``), and a user
whose role is for all keys: what is shown here is not cut to a prefix.
"""

from __future__ import annotations

from base64 import b64decode
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred

from consensus.errors import AuthenticationError, PermissionDeniedError
from consensus.guard import Login
from consensus.http.problems import Problem

if TYPE_CHECKING:
    from consensus.http.authority import Action, Authorize


def authorizing(server: Any) -> Authorize:
    """Return what decides on every request to *server*, as its config says."""

    def authorize(request: Any, action: Action) -> Deferred[None]:
        return Deferred.fromCoroutine(_authorize(server, request, action))

    return authorize


async def _authorize(server: Any, request: Any, action: Action) -> None:
    """
    See that whoever sends *request* may do something of that *action*.

    Raises:
        Problem: Nobody knows who it is, or the user may not.
        RaftError: It could not be looked at.
    """
    if action == "probe" or server.config.access is None:
        return
    if server.guard is None:
        message = "the server has not started yet, and does not know its users"
        raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, "stopped", message)
    gate = server.guard.gate
    login = _login(request)
    try:
        if login is None:
            raise AuthenticationError("log in with a password or a token")  # noqa: TRY301 - refused like the rest
        caller = await gate.login(login, str(request.getClientAddress().host))
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
