"""The root of the port: it finds the route of a request, and sees to its answer."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from twisted.web.util import DeferredResource, Redirect

from consensus.errors import RaftError
from consensus.http.authority import check_origin
from consensus.http.problems import Problem, problem_of
from consensus.http.routes import Answer, find

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from twisted.python.failure import Failure
    from twisted.web.resource import IResource

    from consensus.http.authority import Authorize
    from consensus.http.routes import Route
    from consensus.http.servants import Servant

_log = Logger()

_SAFE = {b"GET", b"HEAD"}

#: The page that a person sees first, if it is installed.
_FRONT = "console"

#: In every answer: it is of this moment, and is what it says it is.
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
}


class Root(Resource):
    """
    Everything on the port.

    Args:
        servant: What answers.
        routes: The API's.
        pages: What applications add, by the first word of their paths.  One
            that has nothing to hide says so: ``is_public = True``.
        authorize: Decides on every request.
        is_private: Only this machine reaches the port.
    """

    def __init__(
        self,
        servant: Servant,
        routes: Sequence[Route],
        pages: Mapping[str, IResource],
        authorize: Authorize,
        *,
        is_private: bool,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._servant = servant
        self._routes = routes
        self._pages = pages
        self._authorize = authorize
        self._is_private = is_private

    def getChildWithDefault(self, path: Any, request: Any) -> Any:
        """Return the page of an application, or what finds a route."""
        if not path and not request.postpath and _FRONT in self._pages:
            return Redirect(f"/{_FRONT}/".encode())
        page = self._pages.get(path.decode("ascii", "replace"))
        return (
            _Routed(self)
            if page is None
            else DeferredResource(Deferred.fromCoroutine(self._admitted(page, request)))
        )

    async def _admitted(self, page: IResource, request: Any) -> Any:
        """Return *page*, or what refuses *request*."""
        try:
            check_origin(request, is_private=self._is_private)
            if getattr(page, "is_public", False):
                return page
            is_safe = request.method in _SAFE
            await self._authorize(request, "read" if is_safe else "write")
        except Problem as problem:
            return _Refusal(problem)
        except RaftError as error:
            return _Refusal(problem_of(error))
        return page

    def answer(self, request: Any) -> None:
        """Answer *request*, now or later; not if its connection is lost."""
        working = Deferred.fromCoroutine(self._answered(request))
        is_lost: list[bool] = []

        def lost(_: Failure) -> None:
            is_lost.append(True)
            working.cancel()

        def send(answer: Answer | Problem) -> None:
            if not is_lost:
                _write(request, answer)

        request.notifyFinish().addErrback(lost)
        working.addCallbacks(send, lambda failure: failure.trap(CancelledError))

    async def _answered(self, request: Any) -> Answer | Problem:
        try:
            return await self._do(request)
        except Problem as problem:
            return problem
        except CancelledError:
            raise  # nobody waits for the answer any more
        except RaftError as error:
            return problem_of(error)
        except Exception:  # noqa: BLE001 - logged; the others are served on
            _log.failure("a request failed for a reason that is a bug")
            message = "the server failed; its log says why"
            return Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "bug", message)

    async def _do(self, request: Any) -> Answer:
        check_origin(request, is_private=self._is_private)
        path = [*request.prepath, *request.postpath]
        words = [each.decode("utf-8", "replace") for each in path]
        method = request.method.decode("ascii", "replace")
        route, names = find(self._routes, method, words)
        await self._authorize(request, route.action)
        found = await route.act(route.read(request, names, self._servant))
        return (
            found if isinstance(found, Answer) else Answer(msgspec.json.encode(found))
        )


class _Routed(Resource):
    """Lets the root answer."""

    isLeaf = True  # noqa: N815 - Twisted's name

    def __init__(self, root: Root) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._root = root

    def render(self, request: Any) -> int:
        """Answer later, perhaps."""
        self._root.answer(request)
        return NOT_DONE_YET


class _Refusal(Resource):
    """Answers with a problem."""

    isLeaf = True  # noqa: N815 - Twisted's name

    def __init__(self, problem: Problem) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._problem = problem

    def render(self, request: Any) -> int:
        """Say it."""
        _write(request, self._problem)
        return NOT_DONE_YET


def _write(request: Any, answer: Answer | Problem) -> None:
    headers = dict(_HEADERS)
    if isinstance(answer, Problem):
        headers |= answer.headers
        body = msgspec.json.encode({"error": answer.error})
        answer = Answer(body, answer.status)
    request.setResponseCode(answer.status, answer.status.phrase.encode())
    headers["Content-Type"] = answer.content_type
    headers["Content-Length"] = str(len(answer.body))
    for name, value in headers.items():
        request.setHeader(name, value)
    request.write(answer.body)
    request.finish()
