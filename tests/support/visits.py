"""Requests to a resource without a network."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.web.server import Site

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.web.resource import Resource


@dataclass(frozen=True, slots=True)
class Answer:
    """
    What came back.

    Args:
        status: Of HTTP.
        headers: By their names in small letters.
        body: All of it.
    """

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def said(self) -> Any:
        """Return the JSON that it has."""
        return json.loads(self.body)


class Visitor:
    """
    Somebody who asks a *resource*.

    Args:
        resource: The root.
        until: Lets time pass until what it is given says that it is so.
    """

    def __init__(
        self, resource: Resource, until: Callable[[Callable[[], bool]], None]
    ) -> None:
        root: Any = resource
        self._site = Site(root, reactor=Clock(), timeout=None)
        self._until = until

    def send(self, path: str, method: str = "GET", **headers: str) -> Any:
        """Ask for *path*, and do not wait."""
        lines = [f"{method} {path} HTTP/1.0"]
        lines += [
            f"{name.replace('_', '-')}: {value}" for name, value in headers.items()
        ]
        return self._sent("\r\n".join([*lines, "", ""]).encode())

    def _sent(self, data: bytes) -> Any:
        channel: Any = self._site.buildProtocol(None)
        transport: Any = StringTransport()
        #: To be broken off by a test.
        transport.protocol = channel
        channel.makeConnection(transport)
        channel.dataReceived(data)
        return transport

    def get(self, path: str, method: str = "GET", **headers: str) -> Answer:
        """Ask for *path*, and return what came back."""
        transport = self.send(path, method, **headers)
        self._until(lambda: transport.disconnecting)
        head, _, body = transport.value().partition(b"\r\n\r\n")
        first, *rest = head.decode().split("\r\n")
        found = dict(line.lower().split(": ", 1) for line in rest)
        return Answer(int(first.split()[1]), found, body)
