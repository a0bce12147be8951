"""
The console's page and what belongs to it, as files that never change.

Everything else happens in the browser, which asks the HTTP API: so who may look
or do something is decided there, and nothing here knows a cluster.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from twisted.web.pages import notFound
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

if TYPE_CHECKING:
    from twisted.web.server import Request

    from consensus.interfaces import HomeServer

_TYPES = {
    "html": b"text/html; charset=utf-8",
    "css": b"text/css; charset=utf-8",
    "js": b"text/javascript; charset=utf-8",
    "svg": b"image/svg+xml",
}

_INDEX = "index.html"

# No script but our own files, nothing from elsewhere, no frame around it, and no
# way to make HTML or a script of text.
_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
    b" connect-src 'self'; base-uri 'none'; form-action 'none';"
    b" frame-ancestors 'none'; require-trusted-types-for 'script';"
    b" trusted-types 'none'"
)

_HEADERS = {
    b"Content-Security-Policy": _POLICY,
    b"X-Content-Type-Options": b"nosniff",
    b"X-Frame-Options": b"DENY",
    b"Referrer-Policy": b"no-referrer",
    b"Cross-Origin-Opener-Policy": b"same-origin",
    b"Cross-Origin-Resource-Policy": b"same-origin",
    # After an upgrade, the files of the page fit together at once.
    b"Cache-Control": b"no-cache",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """
    A file of the page.

    Args:
        content: Its bytes.
        media_type: What they are.
        etag: Another one for each content.
    """

    content: bytes
    media_type: bytes
    etag: bytes


def console(home: HomeServer) -> Console:  # noqa: ARG001 - the page is the same beside any server
    """Return the console, to be mounted as ``/console/``."""
    return Console()


@cache
def assets() -> dict[bytes, Asset]:
    """Return the files of the page by their names."""
    found = {}
    for path in files("contrib.admin").joinpath("static").iterdir():
        media_type = _TYPES.get(path.name.rpartition(".")[2])
        if media_type is not None:
            content = path.read_bytes()
            etag = f'"{sha256(content).hexdigest()[:32]}"'.encode()
            found[path.name.encode()] = Asset(content, media_type, etag)
    return found


class Console(Resource):
    """The console: its page, and beside it the files that the page names."""

    #: Everybody may have it: its dialog is where one says who one is.
    is_public = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        for name, asset in assets().items():
            self._have(name, asset)
        self._have(b"", assets()[_INDEX.encode()])

    def _have(self, name: bytes, asset: Asset) -> None:
        child: Any = _File(asset)
        self.putChild(name, child)

    def getChild(self, path: bytes, request: Request) -> Any:  # noqa: ARG002 - there is none
        """Return what says that there is no such file."""
        return notFound()

    def render_GET(self, request: Request) -> bytes:
        """Lead to the page: its files are named from there."""
        request.redirect((request.prepath or [b"console"])[-1] + b"/")
        return b""


class _File(Resource):
    """One of the files."""

    def __init__(self, asset: Asset) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._asset = asset

    def getChild(self, path: bytes, request: Request) -> Any:  # noqa: ARG002 - there is none
        """Return what says that nothing is below a file."""
        return notFound()

    def render_GET(self, request: Request) -> bytes | int:
        """Send it, unless the browser has it."""
        for name, value in _HEADERS.items():
            request.setHeader(name, value)
        if request.setETag(self._asset.etag):
            request.finish()
            return NOT_DONE_YET
        request.setHeader(b"Content-Type", self._asset.media_type)
        return self._asset.content
