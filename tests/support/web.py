"""The HTTP port of servers in virtual time, and a client of its bytes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from twisted.internet.address import IPv4Address
from twisted.internet.testing import StringTransport

from consensus.http.door import Door
from consensus.http.port import ROUTES
from consensus.http.requests import QuietSite
from consensus.http.servants import Servant
from consensus.http.site import Root
from consensus.http.visitors import authorizing

if TYPE_CHECKING:
    from consensus.http.authority import Authorize
    from consensus.server import RaftServer
    from tests.support.servers import Servers


@dataclass
class Reply:
    """What the port answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """Return the body as what it says."""
        return json.loads(self.body)


class Wire(StringTransport):
    """A connection whose end is noticed."""

    def abortConnection(self) -> None:
        """Be cut."""
        self.aborting = True
        self.disconnected = True

    def loseConnection(self) -> None:
        """Be closed."""
        super().loseConnection()  # type: ignore[no-untyped-call]
        self.disconnected = True


class Browser:
    """One connection to a server's port."""

    def __init__(self, servers: Servers, door: Door) -> None:
        self.servers = servers
        self.wire: Any = Wire(  # type: ignore[no-untyped-call]
            IPv4Address("TCP", "127.0.0.1", 9201),
            IPv4Address("TCP", "127.0.0.1", 50000),
        )
        self.wire.aborting = False
        self.protocol = door.buildProtocol(None)
        if self.protocol is not None:
            self.protocol.makeConnection(self.wire)

    def send(self, data: bytes) -> None:
        """Send *data* as it is."""
        self.protocol.dataReceived(data)

    def begin(self, method: str, path: str, body: Any = None, **headers: str) -> None:
        """Send a request, and do not wait for the answer."""
        content = b"" if body is None else json.dumps(body).encode()
        lines = {
            "host": "localhost:9201",
            **{k.replace("_", "-"): v for k, v in headers.items()},
        }
        if method == "POST":
            lines.setdefault("content-type", "application/json")
        if content:
            lines["content-length"] = str(len(content))
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self.send(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + content)

    def reply(self) -> Reply | None:
        """Return the next answer if it is whole."""
        data = self.wire.value()
        head, found, rest = data.partition(b"\r\n\r\n")
        if not found:
            return None
        first, *lines = head.decode().split("\r\n")
        headers = {
            name.lower(): value
            for name, _, value in (line.partition(": ") for line in lines)
        }
        size = int(headers.get("content-length", "0"))
        if headers.get("transfer-encoding") == "chunked":
            size = len(rest)
        if len(rest) < size:
            return None
        self.wire.clear()
        self.wire.write(rest[size:])
        return Reply(int(first.split()[1]), headers, rest[:size])

    def wait(self) -> Reply:
        """Let time pass until there is an answer."""
        found: list[Reply] = []

        def is_there() -> bool:
            reply = self.reply()
            if reply is not None:
                found.append(reply)
            return bool(found)

        self.servers.until(is_there)
        return found[0]

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        """Send a request; return the answer."""
        self.begin(method, path, body, **headers)
        return self.wait()

    def get(self, path: str, **headers: str) -> Reply:
        """Ask for *path*."""
        return self.ask("GET", path, **headers)


def door_of(
    servers: Servers,
    server: RaftServer,
    *,
    authorize: Authorize | None = None,
    pages: Any = (),
    is_private: bool = True,
) -> Door:
    """Return what lets connections in to *server*."""
    root = Root(
        Servant(server, servers.reactor, ROUTES),
        ROUTES,
        dict(pages),
        authorize or authorizing(server),
        is_private=is_private,
    )
    return Door(QuietSite(root, servers.reactor), servers.reactor, server.name)


def browser_of(servers: Servers, server: RaftServer, **options: Any) -> Browser:
    """Return a connection to the port of *server*."""
    return Browser(servers, door_of(servers, server, **options))
