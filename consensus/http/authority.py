"""
Whether a request may do what it asks for: one place for all routes.

First it is seen that no page of somebody else's, open in the browser of one
who may, has sent it: such a page can send requests, though not read answers.
A name that an attacker lets point to this machine reaches a loopback port,
too; so there only names of this machine are answered to.
"""

from __future__ import annotations

from http import HTTPStatus
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from twisted.internet.defer import Deferred, succeed

from consensus.http.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Callable

    #: What a route does: tells whether a server lives, reads, writes, or
    #: changes who belongs to the cluster and the like.
    Action = Literal["probe", "read", "write", "admin"]

    #: Called with each request, before anything is done for it.  Its Deferred
    #: fails with a :class:`.Problem` if the request may not.
    Authorize = Callable[[Any, Action], Deferred[None]]

_SAFE = {b"GET", b"HEAD"}


def permit(request: Any, action: Action) -> Deferred[None]:
    """Let everybody do everything."""
    del request, action
    return succeed(None)


def check_origin(request: Any, *, is_private: bool) -> None:
    """
    See that *request* is not another site's.

    Args:
        request: With its headers.
        is_private: Only this machine reaches the port.

    Raises:
        Problem: It is.
    """
    host = _host(_header(request, "host"))
    if is_private and host and not _is_local(host):
        message = f"{host!r} is no name of this machine"
        raise Problem(HTTPStatus.MISDIRECTED_REQUEST, "wrong_host", message)
    if request.method in _SAFE:
        return
    site = _header(request, "sec-fetch-site")
    origin = _header(request, "origin")
    own = _header(request, "host")
    is_foreign = site not in {"", "same-origin", "none"}
    if is_foreign or (origin and urlsplit(origin).netloc != own):
        message = "a page of another site may not ask for this"
        raise Problem(HTTPStatus.FORBIDDEN, "cross_site", message)


def _header(request: Any, name: str) -> str:
    value: str | None = request.getHeader(name)
    return (value or "").strip().lower()


def _host(header: str) -> str:
    """Return the host of a header, without its port."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0]


def _is_local(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
