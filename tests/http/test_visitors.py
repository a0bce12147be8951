"""Who may send requests, where there are users."""

from __future__ import annotations

from base64 import b64encode
from http import HTTPStatus
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.defer import maybeDeferred
from twisted.internet.task import Clock

from consensus.access.gate import Gate
from consensus.access.passwords import hash_password, hash_token
from consensus.access.users import Role, User, UserFile, Users, nobody, save
from consensus.http.problems import Problem
from consensus.http.visitors import authorizing
from tests.support.deferreds import error_of, result_of

if TYPE_CHECKING:
    from pathlib import Path

    from consensus.http.authority import Action, Authorize

USERS = {
    "root": User((Role("admin"),), hash_password("open:sesame")),
    "reader": User((Role("read"),), tokens=(hash_token("r"),)),
    "shop": User((Role("write", "shop/"),), tokens=(hash_token("s"),)),
}


class Request:
    """A request with one header, if any."""

    def __init__(self, header: str | None) -> None:
        self._header = header

    def getHeader(self, name: str) -> str | None:
        """Return the header."""
        assert name == "authorization"
        return self._header

    def getClientAddress(self) -> Any:
        """Return where it comes from."""
        return IPv4Address("TCP", "127.0.0.1", 5)


def basic(user: str, word: str) -> str:
    """Return the header of a user and a password."""
    return "Basic " + b64encode(f"{user}:{word}".encode()).decode()


@pytest.fixture
def authorize(tmp_path: Path) -> Authorize:
    """Return what decides, with three users."""
    path = tmp_path / "users"
    save(path, Users(nobody().key, USERS))
    gate = Gate(UserFile(path), Clock(), maybeDeferred)
    config, guard = SimpleNamespace(access=path), SimpleNamespace(gate=gate)
    return authorizing(SimpleNamespace(config=config, guard=guard))


@pytest.mark.parametrize(
    ("header", "action"),
    [
        (None, "probe"),
        (basic("root", "open:sesame"), "admin"),
        ("Bearer r", "read"),
        (basic("reader", "r"), "read"),
    ],
)
def test_let_in(authorize: Authorize, header: str | None, action: Action) -> None:
    """A password, a token, and a token for a password; anybody for a probe."""
    result_of(authorize(Request(header), action))


@pytest.mark.parametrize(
    ("header", "action", "status"),
    [
        (None, "read", HTTPStatus.UNAUTHORIZED),
        ("Basic !", "read", HTTPStatus.UNAUTHORIZED),
        ("Digest r", "read", HTTPStatus.UNAUTHORIZED),
        ("Bearer x", "read", HTTPStatus.UNAUTHORIZED),
        (basic("root", "no"), "read", HTTPStatus.UNAUTHORIZED),
        ("Bearer r", "write", HTTPStatus.FORBIDDEN),
        ("Bearer r", "admin", HTTPStatus.FORBIDDEN),
        ("Bearer s", "read", HTTPStatus.FORBIDDEN),
        ("Bearer s", "write", HTTPStatus.FORBIDDEN),
    ],
)
def test_refused(
    authorize: Authorize, header: str | None, action: Action, status: HTTPStatus
) -> None:
    """Strangers are asked who they are; a role with a prefix shows nothing here."""
    problem = error_of(authorize(Request(header), action))
    assert isinstance(problem, Problem)
    assert problem.status == status


def test_a_server_that_has_not_started() -> None:
    """Where there are to be users, nobody is let in before they are known."""
    config = SimpleNamespace(access=object())
    authorize = authorizing(SimpleNamespace(config=config, guard=None))
    problem = error_of(authorize(Request("Bearer r"), "read"))
    assert isinstance(problem, Problem)
    assert problem.status == HTTPStatus.SERVICE_UNAVAILABLE
