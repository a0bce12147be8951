"""The description of the API: of every route, and of nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from consensus.http.port import ROUTES
from tests.support.servers import Servers
from tests.support.web import browser_of

_ADDS = ("POST", "/api/v1/members")


@pytest.fixture(scope="module")
def servers() -> Servers:
    """Return a cluster."""
    made = Servers()
    made.leader()
    made.run(0.5)
    return made


@pytest.fixture(scope="module")
def described(servers: Servers) -> Any:
    """Return what the port says of itself."""
    return browser_of(servers, servers.leader()).get("/openapi.json").json


def test_it_is_one(described: Any) -> None:
    """It keeps the rules of OpenAPI 3.1."""
    OpenAPIV31SpecValidator(described).validate()


def test_routes(described: Any) -> None:
    """It has each route once."""
    listed = {
        (method.upper(), path)
        for path, methods in described["paths"].items()
        for method in methods
    }
    assert listed == {(each.method, each.path) for each in ROUTES}
    assert len(listed) == len(ROUTES)


def test_answers(servers: Servers, described: Any) -> None:
    """What is answered, and what is refused, is as it says."""
    browser = browser_of(servers, servers.leader())
    for route in ROUTES:
        if isinstance(route.answer, str) or route.method == "DELETE":
            continue
        if "{" in route.path or (route.method, route.path) == _ADDS:
            continue
        body: Any = {} if route.takes_body else None
        replies = [browser.ask(route.method, route.path, body)]
        assert replies[0].status == 200, replies[0].body
        replies.append(browser.ask(route.method, f"{route.path}?nope=1", body))
        assert replies[1].status == 400
        operation = described["paths"][route.path][route.method.lower()]
        for reply in replies:
            said = operation["responses"][str(reply.status)]
            schema = said["content"]["application/json"]["schema"]
            whole = {**schema, "components": described["components"]}
            Draft202012Validator(whole).validate(reply.json)
