"""What goes wrong, as a status of HTTP and an object that says it."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from consensus.errors import (
    AuthenticationError,
    CommandFailedError,
    CompactedError,
    DiskFullError,
    InvalidCommandError,
    NotLeaderError,
    OutcomeUnknownError,
    OverloadedError,
    PermissionDeniedError,
    ProtocolError,
    RaftError,
    RejectedError,
    StaleError,
    UnknownServerError,
    UnreachableError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

# The first that fits counts: subclasses come first.
_STATUSES: tuple[tuple[type[RaftError], HTTPStatus], ...] = (
    (InvalidCommandError, HTTPStatus.BAD_REQUEST),
    (AuthenticationError, HTTPStatus.UNAUTHORIZED),
    (PermissionDeniedError, HTTPStatus.FORBIDDEN),
    (OverloadedError, HTTPStatus.SERVICE_UNAVAILABLE),
    (UnreachableError, HTTPStatus.SERVICE_UNAVAILABLE),
    (StaleError, HTTPStatus.SERVICE_UNAVAILABLE),
    (UnknownServerError, HTTPStatus.NOT_FOUND),
    (RejectedError, HTTPStatus.CONFLICT),
    (OutcomeUnknownError, HTTPStatus.GATEWAY_TIMEOUT),
    (CommandFailedError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (CompactedError, HTTPStatus.GONE),
    (DiskFullError, HTTPStatus.INSUFFICIENT_STORAGE),
    (ProtocolError, HTTPStatus.BAD_GATEWAY),
    (RaftError, HTTPStatus.INTERNAL_SERVER_ERROR),
)


class Problem(Exception):  # noqa: N818 - it is an answer rather than an error
    """
    A request gets this answer instead of the one that it hoped for.

    Args:
        status: Of HTTP.
        code: A stable name.
        message: What is wrong, for a person.
        headers: Further ones of the answer.
        rest: What else the object says.
    """

    def __init__(
        self,
        status: HTTPStatus,
        code: str,
        message: str,
        *,
        headers: Mapping[str, str] | None = None,
        **rest: Any,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        self.error = {"code": code, "message": message, **rest}


def status_of(error: RaftError) -> HTTPStatus:
    """
    Return the status that *error* is answered with.

    One that names the leader is a misdirected request: ask there.
    """
    if isinstance(error, NotLeaderError):
        known = error.leader is not None
        return (
            HTTPStatus.MISDIRECTED_REQUEST if known else HTTPStatus.SERVICE_UNAVAILABLE
        )
    return next(status for cls, status in _STATUSES if isinstance(error, cls))


def problem_of(error: RaftError) -> Problem:
    """Return *error* as an answer; it says whether the outcome is unknown."""
    message = str(error)
    if isinstance(error, OutcomeUnknownError):
        message = f"it is not known whether this was done: {message}"
    rest = {name: getattr(error, name) for name in error.fields}
    status = status_of(error)
    headers = {}
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = "1"
    return Problem(status, error.code, message, headers=headers, **rest)
