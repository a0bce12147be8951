"""What the port does with requests, good ones and rubbish."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure
from twisted.web.resource import Resource

from consensus.errors import OverloadedError
from consensus.http.door import MAX_CONNECTIONS, PATIENCE
from consensus.http.problems import Problem
from consensus.http.requests import MAX_BODY
from tests.support.servers import Servers
from tests.support.web import Browser, browser_of, door_of


@pytest.fixture(scope="module")
def servers() -> Servers:
    """Return a cluster that all tests here may ask."""
    made = Servers()
    made.leader()
    made.run(0.5)
    return made


@pytest.fixture
def browser(servers: Servers) -> Browser:
    """Return a connection to the leader's port."""
    return browser_of(servers, servers.leader())


class RoutingTests:
    """Which request is answered by what."""

    def test_unknown(self, browser: Browser) -> None:
        """A path that is none is 404, as an object."""
        for path in ("/", "/nope", "/api/v1", "/api/v2/status", "/api/v1/status/"):
            reply = browser.get(path)
            assert reply.status == 404
            assert reply.json["error"]["code"] == "not_found"

    def test_other_method(self, browser: Browser) -> None:
        """A method that the path does not take is 405, with those that it does."""
        reply = browser.ask("PUT", "/api/v1/members")
        assert reply.status == 405
        assert reply.headers["allow"] == "GET, POST"

    def test_head(self, browser: Browser) -> None:
        """HEAD is GET without the body."""
        browser.send(b"HEAD /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        data = browser.wire.value()
        assert data.startswith(b"HTTP/1.1 200")
        assert data.endswith(b"\r\n\r\n")

    def test_headers(self, browser: Browser) -> None:
        """An answer is not kept, and is taken for nothing but what it is."""
        headers = browser.get("/livez").headers
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-type"] == "application/json"

    def test_pipelined(self, browser: Browser) -> None:
        """Requests that come together are answered in order."""
        line = b" HTTP/1.1\r\nHost: localhost\r\n\r\n"
        browser.send(b"GET /livez" + line + b"GET /nope" + line + b"GET /readyz" + line)
        assert [browser.wait().status for _ in range(3)] == [200, 404, 200]


class StrictTests:
    """Bad input gets an error that says what is wrong."""

    @pytest.mark.parametrize(
        "query",
        [
            *("limit=x", "limit=0", "limit=1001", "limit=1&limit=2", "nope=1"),
            *("from=-1", "from=99999999999999999999", "limit", "=", "&", "%ff=1"),
            "&".join(f"a{n}=1" for n in range(100)),
        ],
    )
    def test_parameters(self, browser: Browser, query: str) -> None:
        """Parameters are known, there once, and in range."""
        reply = browser.get(f"/api/v1/log?{query}")
        assert reply.status == 400
        assert reply.json["error"]["code"] == "invalid_request"

    @pytest.mark.parametrize(
        "body",
        [
            *(b"", b"{", b"[]", b"null", b'{"server":"s9"}', b"\xff"),
            b'{"server":"s9","address":"a","more":1}',
            b'{"server":"s 9","address":"a"}',
            b'{"server":"s9","address":"a","learner":1}',
            b'{"server":1,"address":"a"}',
            b"[" * 20_000,
        ],
    )
    def test_body(self, servers: Servers, browser: Browser, body: bytes) -> None:
        """A body is exactly what the route takes, and changes nothing if not."""
        before = servers.leader().status().last_index
        browser.send(
            b"POST /api/v1/members HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            % len(body)
            + body
        )
        reply = browser.wait()
        assert reply.status == 400
        assert reply.json["error"]["code"] == "invalid_request"
        assert servers.leader().status().last_index == before

    def test_body_of_a_get(self, browser: Browser) -> None:
        """Who only asks sends no body."""
        assert browser.ask("GET", "/livez", {}).status == 400

    def test_content_type(self, browser: Browser) -> None:
        """A form of a browser is no JSON, and is refused."""
        for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
            reply = browser.ask("POST", "/api/v1/snapshot", {}, content_type=kind)
            assert reply.status == 415

    @pytest.mark.parametrize("length", [MAX_BODY + 1, 10**15])
    def test_large(self, browser: Browser, length: int) -> None:
        """A body that would be too large is refused before it comes."""
        browser.send(
            b"POST /api/v1/transfer HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n{" % length
        )
        assert browser.wait().status == 413
        assert browser.wire.disconnecting

    def test_large_in_chunks(self, browser: Browser) -> None:
        """One that does not say its length is refused when there is too much."""
        browser.send(
            b"POST /api/v1/transfer HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for _ in range(MAX_BODY // 1024 + 1):
            browser.send(b"400\r\n" + b" " * 1024 + b"\r\n")
        browser.send(b"0\r\n\r\n")
        assert browser.wait().status == 413
        assert not browser.wire.value()

    @given(st.binary(min_size=1, max_size=300))
    @settings(max_examples=100, deadline=None)
    def test_rubbish(self, data: bytes) -> None:
        """Whatever comes, the port answers the next one."""
        browser = browser_of(_QUIET, _QUIET.leader())
        browser.send(data)
        browser.send(b"\r\n\r\n")
        other = browser_of(_QUIET, _QUIET.leader())
        assert other.get("/livez").status == 200


_QUIET = Servers(("s1",))


class PlaceTests:
    """Who may be connected, and for how long."""

    @pytest.mark.parametrize(
        "begin",
        [
            b"",
            b"GET /livez HTTP/1.1\r\nHost: loc",
            (
                b"POST /api/v1/transfer HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
            ),
        ],
    )
    def test_slow(self, begin: bytes) -> None:
        """A request that takes too long is cut off, though bytes keep coming."""
        browser = browser_of(_QUIET, _QUIET.leader())
        for byte in begin:
            browser.send(bytes([byte]))
        _QUIET.run(PATIENCE / 2)
        if begin:
            browser.send(b"a")
        assert not browser.wire.aborting
        _QUIET.run(PATIENCE / 2 + 0.1)
        assert browser.wire.aborting

    def test_idle(self) -> None:
        """One that asks nothing more is cut off, too; while it asks, it is not."""
        browser = browser_of(_QUIET, _QUIET.leader())
        for _ in range(3):
            _QUIET.run(PATIENCE * 0.7)
            assert browser.get("/livez").status == 200
        _QUIET.run(PATIENCE + 0.1)
        assert browser.wire.aborting

    def test_many(self) -> None:
        """There is room for so many; who leaves makes room."""
        door = door_of(_QUIET, _QUIET.leader())
        browsers = [Browser(_QUIET, door) for _ in range(MAX_CONNECTIONS)]
        assert Browser(_QUIET, door).protocol is None
        browsers[0].protocol.connectionLost(Failure(ConnectionDone()))
        assert Browser(_QUIET, door).get("/livez").status == 200

    def test_who_hangs_up(self, servers: Servers) -> None:
        """An answer that nobody waits for any more is not sought further."""
        browser = browser_of(servers, servers.leader())
        last = browser.get("/api/v1/events").json["last"]
        browser.begin("GET", f"/api/v1/events?after={last}&wait=30")
        assert len(servers.leader().events._waiting) == 1
        browser.protocol.connectionLost(Failure(ConnectionDone()))
        assert not servers.leader().events._waiting


class OriginTests:
    """Pages of other sites."""

    def test_other_origin(self, browser: Browser) -> None:
        """What would change something is refused if another site asks for it."""
        for headers in (
            {"origin": "http://evil.example"},
            {"origin": "null"},
            {"origin": "http://localhost:9999"},
            {"sec_fetch_site": "cross-site"},
            {"sec_fetch_site": "same-site"},
        ):
            reply = browser.ask("POST", "/api/v1/snapshot", {}, **headers)
            assert reply.status == 403
            assert browser.ask("DELETE", "/api/v1/members/s1", **headers).status == 403
            assert reply.json["error"]["code"] == "cross_site"

    def test_own_origin(self, browser: Browser) -> None:
        """The console's own page may ask."""
        own = {"origin": "http://localhost:9201", "sec_fetch_site": "same-origin"}
        assert browser.ask("POST", "/api/v1/snapshot", {}, **own).status == 200

    def test_other_name(self, servers: Servers) -> None:
        """A loopback port is not reached by a name that somebody else gave it."""
        browser = browser_of(servers, servers.leader())
        assert browser.get("/livez", host="evil.example").status == 421
        for host in ("localhost", "127.0.0.1:9201", "[::1]:9201"):
            assert browser.get("/livez", host=host).status == 200
        public = browser_of(servers, servers.leader(), is_private=False)
        assert public.get("/livez", host="raft-0.example").status == 200


class AuthorityTests:
    """Every request is decided on, before anything else is done for it."""

    def test_each_route(self, servers: Servers) -> None:
        """Nothing is done without; the action is told."""
        asked: list[tuple[str, str]] = []

        def refuse(request: Any, action: str) -> Deferred[None]:
            asked.append((request.path.decode(), action))
            return fail(Problem(HTTPStatus.UNAUTHORIZED, "unauthorized", "say who"))

        browser = browser_of(
            servers,
            servers.leader(),
            authorize=refuse,
            pages={"page": _Page()},
        )
        for method, path in (
            *(("GET", "/livez"), ("GET", "/metrics"), ("POST", "/api/v1/snapshot")),
            *(("GET", "/page/"), ("POST", "/page/"), ("DELETE", "/api/v1/members/s1")),
        ):
            reply = browser.ask(method, path, None)
            assert reply.status == 401
            assert reply.json["error"]["code"] == "unauthorized"
        assert asked == [
            *(("/livez", "probe"), ("/metrics", "read"), ("/api/v1/snapshot", "admin")),
            *(("/page/", "read"), ("/page/", "write")),
            ("/api/v1/members/s1", "admin"),
        ]

    def test_page(self, servers: Servers) -> None:
        """An application's page is mounted under its name."""
        browser = browser_of(servers, servers.leader(), pages={"page": _Page()})
        assert browser.get("/page/").body == b"hello"
        assert browser.get("/other/").status == 404

    def test_public_page(self, servers: Servers) -> None:
        """A page that says that it is public is for everybody, of this site only."""

        def refuse(_: Any, __: str) -> Deferred[None]:
            return fail(Problem(HTTPStatus.UNAUTHORIZED, "unauthorized", "say who"))

        page = _Page()
        page.is_public = True
        browser = browser_of(
            servers, servers.leader(), authorize=refuse, pages={"page": page}
        )
        assert browser.get("/page/").body == b"hello"
        assert browser.get("/page/", host="evil.example").status == 421

    def test_too_many_logins(self, servers: Servers) -> None:
        """Whoever asks for a page meanwhile is told to try again: it is no bug."""

        def refuse(_: Any, __: str) -> Deferred[None]:
            return fail(OverloadedError("too many logins at once"))

        browser = browser_of(
            servers, servers.leader(), authorize=refuse, pages={"page": _Page()}
        )
        reply = browser.get("/page/")
        assert reply.status == 503
        assert reply.json["error"]["code"] == "overloaded"

    def test_front(self, servers: Servers) -> None:
        """The port's first page is the console, if there is one."""
        browser = browser_of(servers, servers.leader(), pages={"console": _Page()})
        reply = browser.get("/")
        assert (reply.status, reply.headers["location"]) == (302, "/console/")
        assert browser_of(servers, servers.leader()).get("/").status == 404


class _Page(Resource):
    """Says hello."""

    isLeaf = True  # noqa: N815 - Twisted's name
    is_public = False

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def render_GET(self, request: Any) -> bytes:
        """Say it."""
        request.setHeader("content-length", "5")
        return b"hello"
