"""Whether a server lives, and whether it can serve."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec

from consensus.http.routes import Answer, Route
from consensus.http.values import Live, Readiness

if TYPE_CHECKING:
    from consensus.http.routes import Call
    from consensus.http.servants import Subject

# A server that heard from no leader for so many election timeouts may be cut
# off, and its state old.
_FRESH = 4


async def live(call: Call) -> Answer:
    """Say whether the server has not failed."""
    server = call.servant.server
    missing = [] if server.running else [f"{server.name} has failed; see its log"]
    return _answer(Live(server.name, not missing, missing), missing)


async def ready(call: Call) -> Answer:
    """Say whether the server knows a leader, and has caught up."""
    server = call.servant.server
    missing = list(_missing(server))
    found = Readiness(server.name, not missing, missing, server.leader())
    if server.driver is not None:
        log = server.driver.raft.state.log
        found.commit_index, found.last_applied = log.commit_index, log.last_applied
    return _answer(found, missing)


def _missing(server: Subject) -> list[str]:
    """Return what keeps *server* from serving."""
    driver = server.driver
    if driver is None:
        return [f"{server.name} has not started"]
    missing = []
    log = driver.raft.state.log
    if server.leader() is None:
        missing.append("no leader is known")
    if log.last_applied < log.commit_index:
        behind = log.commit_index - log.last_applied
        missing.append(f"{behind} committed entries are not applied yet")
    age, limit = driver.age(), _FRESH * server.config.timing.election_timeout
    if age is None:
        missing.append("it has not caught up with the leader since it started")
    elif age > limit:
        missing.append(f"its state was the newest {age:.1f} s ago")
    return missing


def _answer(value: object, missing: list[str]) -> Answer:
    status = HTTPStatus.SERVICE_UNAVAILABLE if missing else HTTPStatus.OK
    return Answer(msgspec.json.encode(value), status)


ROUTES = (
    Route("GET", "/livez", "probe", Live, live, live.__doc__ or "", problems=(503,)),
    Route(
        "GET",
        "/readyz",
        "probe",
        Readiness,
        ready,
        ready.__doc__ or "",
        problems=(503,),
    ),
)
