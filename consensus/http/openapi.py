"""The description of the HTTP API, made of its routes."""

from __future__ import annotations

from functools import cache
from http import HTTPStatus
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import msgspec

from consensus import registry
from consensus.http.routes import Answer, Nothing, Route
from consensus.http.values import Failed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from consensus.http.routes import Call

_REF = "#/components/schemas/{name}"

# What any route may answer.
_ALWAYS = (400, 401, 403, 404, 421, 500)


def describe(routes: Sequence[Route]) -> dict[str, Any]:
    """Return the OpenAPI 3.1 description of *routes*."""
    answers = [each.answer for each in routes if not isinstance(each.answer, str)]
    bodies = [each.body for each in routes if each.takes_body]
    kinds = list(dict.fromkeys([*answers, *bodies, Failed]))
    schemas, components = msgspec.json.schema_components(kinds, ref_template=_REF)
    known = dict(zip(kinds, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(
            route, known
        )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "A server of a Raft cluster",
            "version": version(registry.DISTRIBUTION),
        },
        "paths": paths,
        "components": {"schemas": components},
    }


def _operation(route: Route, known: dict[Any, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {
        "operationId": route.act.__name__,
        "summary": " ".join(route.summary.split()),
        "parameters": [*_names(route), *_parameters(route)],
        "responses": _responses(route, known),
        "x-action": route.action,
    }
    if route.takes_body:
        content = {"application/json": {"schema": known[route.body]}}
        made["requestBody"] = {
            "required": route.body is not Nothing,
            "content": content,
        }
    return made


def _names(route: Route) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in route.names
    ]


def _parameters(route: Route) -> list[dict[str, Any]]:
    _, components = msgspec.json.schema_components([route.query], ref_template=_REF)
    fields = components[route.query.__name__]["properties"]
    return [
        {"name": name, "in": "query", "required": False, "schema": schema}
        for name, schema in fields.items()
    ]


def _responses(route: Route, known: dict[Any, Any]) -> dict[str, Any]:
    is_text = isinstance(route.answer, str)
    kind = route.answer if is_text else "application/json"
    schema = {"type": "string"} if is_text else known[route.answer]
    found = {"200": _response(HTTPStatus.OK, kind, schema)}
    statuses = {*_ALWAYS, *route.problems}
    if route.takes_body:
        statuses |= {413, 415}
    for status in sorted(statuses):
        # What a probe says is missing is an answer too.
        is_probe = status == HTTPStatus.SERVICE_UNAVAILABLE and route.action == "probe"
        said = schema if is_probe else known[Failed]
        found[str(status)] = _response(HTTPStatus(status), "application/json", said)
    return found


def _response(status: HTTPStatus, kind: str, schema: Any) -> dict[str, Any]:
    return {"description": status.phrase, "content": {kind: {"schema": schema}}}


async def openapi(call: Call) -> Answer:
    """Describe this API, in the format of OpenAPI 3.1."""
    return Answer(_described(call.servant.routes))


@cache
def _described(routes: tuple[Route, ...]) -> bytes:
    return msgspec.json.encode(describe(routes))


ROUTES = (
    Route(
        "GET", "/openapi.json", "read", dict[str, Any], openapi, openapi.__doc__ or ""
    ),
)
