"""The faults of ``raft dev`` on the HTTP ports of its members, and nowhere else."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec

from consensus.http.problems import Problem
from consensus.http.routes import Call, Route

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from consensus.dev.channel import Answer

    #: Asks ``raft dev``: the fault, the server, and whether it shall be on.
    Ask = Callable[[str, str, bool], Awaitable[Answer]]

_PATH = "/api/v1/faults"


class Fault(msgspec.Struct):
    """A fault: which servers may suffer it, and which do."""

    name: str
    title: str
    servers: list[str]
    active: list[str]


class Switch(msgspec.Struct, forbid_unknown_fields=True):
    """Which server shall suffer a fault, or no more."""

    server: str
    on: bool


def routes(ask: Ask) -> tuple[Route, ...]:
    """Return the routes that show and make faults by *ask*."""

    async def faults(_: Call) -> Any:
        return _body(await ask("", "", False))  # noqa: FBT003 - nothing is switched

    async def switch(call: Call) -> Any:
        return _body(await ask(call.names["name"], call.body.server, call.body.on))

    return (
        Route("GET", _PATH, "read", list[Fault], faults, "Show all faults."),
        Route(
            "POST",
            f"{_PATH}/{{name}}",
            "admin",
            Fault,
            switch,
            "Let a server suffer a fault, or no more.",
            body=Switch,
            problems=(409,),
        ),
    )


def _body(answer: Answer) -> Any:
    """
    Return what *answer* says.

    Raises:
        Problem: It says that it was not done.
    """
    if answer.status != HTTPStatus.OK:
        error = answer.body["error"]
        raise Problem(HTTPStatus(answer.status), error["code"], error["message"])
    return answer.body
