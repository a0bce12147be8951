"""Requests whose size is bounded, and the site that takes them."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any

from twisted.web.server import Request, Site

if TYPE_CHECKING:
    from twisted.web.resource import Resource

#: The longest body of a request.
MAX_BODY = 64 * 1024

_TOO_LARGE = (
    b"HTTP/1.1 413 Content Too Large\r\n"
    b"Content-Type: application/json\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%b"
)
_TOO_LARGE_BODY = (
    b'{"error":{"code":"too_large","message":"the body has more than %d bytes"}}'
    % MAX_BODY
)


class BoundedRequest(Request):
    """A request; one with a larger body is refused before it is there."""

    channel: Any
    _is_refused = False

    def gotLength(self, length: int | None) -> None:
        """Make room for the body, if it is not too large."""
        self.content = BytesIO()
        if length is not None and length > MAX_BODY:
            self._refuse()

    def handleContentChunk(self, data: bytes) -> None:
        """Keep *data*."""
        if self._is_refused or self.content is None:
            return
        if self.content.tell() + len(data) > MAX_BODY:
            self._refuse()
        else:
            self.content.write(data)

    def _refuse(self) -> None:
        self._is_refused = True
        body = _TOO_LARGE_BODY
        self.channel.transport.write(_TOO_LARGE % (len(body), body))
        self.channel.loseConnection()

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """Answer; this may take longer than the request did to come."""
        if not self._is_refused:
            self.channel.transport.stop_waiting()
            super().requestReceived(command, path, version)  # type: ignore[no-untyped-call]

    def finish(self) -> None:
        """Have no more to say; the next request may come."""
        if not self._disconnected:
            # Before: the next one may be here already, and be answered now.
            self.channel.transport.wait()
        super().finish()  # type: ignore[no-untyped-call]


class QuietSite(Site):
    """
    A site that keeps no log of its requests: what they ask for is not its to tell.

    Args:
        resource: The root.
        clock: What everything that times out goes by.
    """

    noisy = False

    def __init__(self, resource: Resource, clock: Any) -> None:
        # The door sees to timeouts.
        super().__init__(  # type: ignore[no-untyped-call]
            resource, requestFactory=BoundedRequest, timeout=None, reactor=clock
        )

    def startFactory(self) -> None:
        """Open no log."""

    def stopFactory(self) -> None:
        """Close none."""

    def log(self, request: Any) -> None:
        """Write nothing."""
