"""What a route is: a path, what it takes, what it does, and what it answers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl

import msgspec

from consensus.http.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from consensus.http.authority import Action
    from consensus.http.servants import Servant

_T = TypeVar("_T")

_MOST_PARAMETERS = 20
_NAME = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Answer:
    """
    An answer that is not JSON with status 200.

    Args:
        body: What it says.
        status: Of HTTP.
        content_type: What the body is.
    """

    body: bytes
    status: HTTPStatus = HTTPStatus.OK
    content_type: str = "application/json"


class Nothing(msgspec.Struct, forbid_unknown_fields=True):
    """No parameters, or an empty object."""


@dataclass(frozen=True, slots=True)
class Call:
    """
    One request, taken apart.

    Args:
        servant: What answers it.
        names: What stands in the path for each name.
        query: The parameters, as the route's ``query``.
        body: The body, as the route's ``body``.
    """

    servant: Servant
    names: Mapping[str, str]
    query: Any
    body: Any


@dataclass(frozen=True, slots=True)
class Route:
    """
    One path and method.

    Args:
        method: As ``GET``.
        path: As ``/api/v1/members/{name}``.
        action: What one has to be allowed to.
        answer: What it answers: a type for JSON, or a content type.
        act: Does it.
        summary: What it does, in a sentence.
        query: Which parameters it takes.
        body: What its body is.
        problems: With which other statuses it may answer.
    """

    method: str
    path: str
    action: Action
    answer: Any
    act: Callable[[Call], Awaitable[Any]]
    summary: str
    query: type[msgspec.Struct] = Nothing
    body: type[msgspec.Struct] = Nothing
    problems: tuple[int, ...] = ()

    @property
    def takes_body(self) -> bool:
        """Say whether there may be a body."""
        return self.method == "POST"

    @property
    def names(self) -> list[str]:
        """Return the names in the path."""
        return _NAME.findall(self.path)

    def match(self, words: Sequence[str]) -> dict[str, str] | None:
        """Return what stands for each name if the path is of *words*."""
        own = self.path[1:].split("/")
        if len(own) != len(words):
            return None
        found = {}
        for mine, word in zip(own, words, strict=True):
            name = _NAME.fullmatch(mine)
            if name is not None and word:
                found[name[1]] = word
            elif mine != word:
                return None
        return found

    def read(self, request: Any, names: Mapping[str, str], servant: Servant) -> Call:
        """
        Take *request* apart.

        Raises:
            Problem: It is not what this route takes.
        """
        query = _read_query(request.uri, self.query)
        return Call(servant, names, query, self._read_body(request))

    def _read_body(self, request: Any) -> Any:
        content = request.content.read()
        if not self.takes_body:
            if content:
                message = f"{self.method} takes no body"
                raise Problem(HTTPStatus.BAD_REQUEST, "invalid_request", message)
            return Nothing()
        kind = (request.getHeader("content-type") or "").partition(";")[0].strip()
        if kind.lower() != "application/json":
            message = "send application/json"
            raise Problem(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message
            )
        try:
            return msgspec.json.decode(content or b"{}", type=self.body)
        except (ValueError, RecursionError) as error:
            message = f"the body: {error}"
            raise _invalid(message) from error


def find(
    routes: Sequence[Route], method: str, words: Sequence[str]
) -> tuple[Route, dict[str, str]]:
    """
    Return the route of *method* and the path of *words*, and its names' words.

    Raises:
        Problem: There is none.
    """
    others = []
    for route in routes:
        names = route.match(words)
        if names is None:
            continue
        if route.method == method or (route.method, method) == ("GET", "HEAD"):
            return route, names
        others.append(route.method)
    if others:
        allowed = ", ".join(sorted(others))
        message = f"this path takes {allowed}"
        raise Problem(
            HTTPStatus.METHOD_NOT_ALLOWED,
            "method_not_allowed",
            message,
            headers={"Allow": allowed},
        )
    raise Problem(HTTPStatus.NOT_FOUND, "not_found", "there is nothing here")


def _read_query(uri: bytes, kind: type[_T]) -> _T:
    """Return the parameters of *uri*; each may be there once."""
    text = uri.partition(b"?")[2].decode("ascii", "replace")
    try:
        pairs = parse_qsl(
            text,
            keep_blank_values=True,
            strict_parsing=bool(text),
            errors="strict",
            max_num_fields=_MOST_PARAMETERS,
        )
        found = dict(pairs)
        if len(found) < len(pairs):
            raise _invalid("a parameter is there twice")
        return msgspec.convert(found, kind, strict=False)
    except ValueError as error:
        message = f"the parameters: {error}"
        raise _invalid(message) from error


def _invalid(message: str) -> Problem:
    return Problem(HTTPStatus.BAD_REQUEST, "invalid_request", message)
