"""
The keys over HTTP, to be looked at: ``GET /kv/keys`` and ``GET /kv/key``.

Keys and values are bytes, which JSON has not.  Those that are text stand as
such; others are Base64, under a name that says so.
"""

from __future__ import annotations

import base64
import binascii
import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NoReturn, get_args

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.web.pages import notFound
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from consensus.errors import RaftError
from consensus.http.problems import Problem, problem_of
from consensus.options import Consistency
from contrib.kvstore.machine import KVMachine
from contrib.kvstore.queries import GetItem, Scan, Ttl
from contrib.kvstore.values import MAX_KEY_BYTES, Value, as_bytes, as_key

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from twisted.python.failure import Failure
    from twisted.web.server import Request

    from consensus.interfaces import HomeServer

_log = Logger()

#: A page has so many keys at most.
MAX_PAGE = 500

#: Of a value, a page shows so many characters or bytes at most.
SHOWN = 512


def keys(home: HomeServer) -> Resource:
    """Return what is mounted as ``/kv/`` beside a server."""
    root = _Root()  # type: ignore[no-untyped-call]
    pages: dict[bytes, Any] = {
        b"keys": _Answer(home, _scan),
        b"key": _Answer(home, _get),
    }
    for name, page in pages.items():
        root.putChild(name, page)
    return root


class _Root(Resource):
    """What is nothing itself."""

    def getChild(self, path: bytes, request: Request) -> Any:  # noqa: ARG002 - there is none
        """Return what says that there is nothing."""
        return notFound()


class _Answer(Resource):
    """Answers a question about the store with an object."""

    isLeaf = True  # noqa: N815 - Twisted's name

    def __init__(
        self,
        home: HomeServer,
        answer: Callable[[HomeServer, _Query], Coroutine[Any, Any, dict[str, Any]]],
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._home = home
        self._answer = answer

    def render_GET(self, request: Request) -> int:
        """Answer *request* as soon as the cluster has answered."""
        found = Deferred.fromCoroutine(self._found(_Query(request)))
        request.notifyFinish().addErrback(lambda _: found.cancel())
        found.addCallbacks(
            lambda answer: _send(request, HTTPStatus.OK, answer),
            _failed,
            errbackArgs=(request,),
        )
        return NOT_DONE_YET

    async def _found(self, query: _Query) -> dict[str, Any]:
        if not isinstance(self._home.machine, KVMachine):
            message = "the application of this cluster is not the key-value store"
            raise Problem(HTTPStatus.NOT_FOUND, "no_kvstore", message)
        return await self._answer(self._home, query)


class _Query:
    """What stands behind the question mark of a request."""

    def __init__(self, request: Request) -> None:
        self._args: dict[bytes, list[bytes]] = request.args or {}

    def get(self, name: bytes) -> bytes | None:
        """Return the value of *name*; ``None`` if it is not there."""
        return self._args.get(name, [None])[0]

    def number(self, name: bytes, most: int) -> int:
        """Return a whole number of 1 to *most*, which it is if it is not there."""
        given = self.get(name)
        if given is None:
            return most
        if not given.isdigit() or not 1 <= int(given[:9]) <= most:
            _refuse(f"{name.decode()} is a number from 1 to {most}")
        return int(given[:9])

    def key(self, name: bytes) -> bytes | None:
        """Return the key of which *name* is the id."""
        given = self.get(name)
        if given is None:
            return None
        try:
            return base64.b64decode(given, b"-_", validate=True)
        except (binascii.Error, ValueError):
            _refuse(f"{name.decode()} is no id of a key")

    def options(self) -> dict[str, Any]:
        """Return the options of the read."""
        wanted = (self.get(b"consistency") or b"linearizable").decode(errors="replace")
        if wanted not in get_args(Consistency):
            _refuse(f"consistency is one of {', '.join(get_args(Consistency))}")
        return {"consistency": wanted}


def _refuse(message: str) -> NoReturn:
    raise Problem(HTTPStatus.BAD_REQUEST, "invalid_request", message)


async def _scan(home: HomeServer, query: _Query) -> dict[str, Any]:
    prefix, after = query.get(b"prefix") or b"", query.key(b"after")
    limit = query.number(b"limit", MAX_PAGE)
    if max(len(prefix), len(after or b"")) > MAX_KEY_BYTES:
        _refuse(f"a key has at most {MAX_KEY_BYTES} bytes")
    scan = Scan(prefix=prefix, after=after, limit=limit)
    page = await home.read(scan, **query.options())
    items = [
        {
            "id": _id_of(key),
            **_member("key", key),
            **_cut(value),
            "revision": revision,
        }
        for key, value, revision in page.items
    ]
    following = items[-1]["id"] if page.more and items else None
    return {"items": items, "next": following, "revision": page.revision}


async def _get(home: HomeServer, query: _Query) -> dict[str, Any]:
    key, options = query.key(b"id") or query.get(b"key"), query.options()
    if key is None:
        _refuse("say which key: its id, or key")
    item = await home.read(GetItem(as_key(key)), **options)
    if item is None:
        raise Problem(HTTPStatus.NOT_FOUND, "no_key", "there is no such key")
    left = await home.read(Ttl(key), **options)
    return {
        "id": _id_of(key),
        **_member("key", key),
        **_member("value", item.value),
        "bytes": len(as_bytes(item.value)),
        "created": item.created,
        "modified": item.modified,
        "version": item.version,
        "lease": item.lease,
        "milliseconds_left": left if left >= 0 else None,
    }


def _id_of(key: bytes) -> str:
    return base64.urlsafe_b64encode(key).decode()


def _cut(value: Value) -> dict[str, Any]:
    """Return *value*, or the beginning of a long one, and how long it is."""
    shown = value[:SHOWN]
    if isinstance(shown, bytes) and len(value) > SHOWN:
        # A character may be cut in two; the rest is text all the same.
        shown = _whole_characters(shown)
    size = len(as_bytes(value))
    return {**_member("value", shown), "bytes": size, "is_cut": len(value) > SHOWN}


def _whole_characters(raw: bytes) -> bytes:
    for size in range(len(raw), len(raw) - 4, -1):
        try:
            raw[:size].decode()
        except UnicodeDecodeError:
            continue
        return raw[:size]
    return raw


def _member(name: str, value: Value) -> dict[str, str]:
    """Return *value* for JSON, which has no bytes: those go as Base64."""
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            return {f"{name}_base64": base64.b64encode(as_bytes(value)).decode()}
    return {name: str(value)}


def _failed(failure: Failure, request: Request) -> None:
    if failure.check(CancelledError):
        return  # nobody is there any more
    error = failure.value
    if isinstance(error, RaftError):
        problem = problem_of(error)
    elif isinstance(error, Problem):
        problem = error
    else:
        _log.failure("a question about keys failed for a reason that is a bug", failure)
        message = "the server failed; its log says why"
        problem = Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "bug", message)
    for name, value in problem.headers.items():
        request.setHeader(name, value)
    _send(request, problem.status, {"error": problem.error})


def _send(request: Request, status: int, answer: dict[str, Any]) -> None:
    request.setResponseCode(status)
    request.setHeader(b"Content-Type", b"application/json")
    request.setHeader(b"Cache-Control", b"no-store")
    request.setHeader(b"X-Content-Type-Options", b"nosniff")
    request.write(json.dumps(answer).encode())
    request.finish()
