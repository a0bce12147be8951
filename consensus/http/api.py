"""The API under /api/v1/: what the ``raft`` command shows and does."""

from __future__ import annotations

from dataclasses import asdict
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec
from twisted.internet.defer import gatherResults

from consensus import admin
from consensus.core.values import Status
from consensus.errors import RaftError
from consensus.http.log_view import log_part, view
from consensus.http.problems import Problem
from consensus.http.routes import Route
from consensus.http.values import (
    Addition,
    AtMember,
    Changed,
    Compacted,
    Compaction,
    Events,
    EventsQuery,
    Explained,
    Index,
    Latency,
    Leader,
    LogPart,
    LogQuery,
    Member,
    Members,
    Occurrence,
    Peers,
    Progress,
    Snapshot,
    Taken,
    Transfer,
)
from consensus.shell.events import MAX_EVENTS, EventQuery

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred
    from twisted.python.failure import Failure

    from consensus.admin import Census, Report
    from consensus.client import Client
    from consensus.http.routes import Call
    from consensus.shell.events import Happening
    from consensus.shell.inspection import Explanation, Step

#: Of the kinds of events, those that the API calls otherwise.
_KINDS = {"transfer-failed": "transfer_failed"}


async def status(call: Call) -> Status:
    """Say what this server knows of itself and its cluster."""
    return call.servant.running().status()


async def members(call: Call) -> Members:
    """Ask all members at once how they are, and say what each answered."""
    census = await call.servant.census()
    if census.newest is None:
        message = "no server can be reached"
        raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, "unreachable", message)
    return Members(
        census.newest.cluster,
        census.leader,
        census.newest.membership_index,
        max(
            (each.status.commit_index for each in census.members if each.status),
            default=0,
        ),
        [_member(each) for each in census.members],
    )


def _member(report: Report) -> Member:
    known = report.server, report.address, report.standing
    if report.status is None:
        return Member(*known, False, error=report.error)  # noqa: FBT003 - a field
    rest = asdict(report.status)
    del rest["server"]
    return Member(*known, True, **rest)  # noqa: FBT003 - a field


async def leader(call: Call) -> Leader:
    """Say who leads, as far as this server knows."""
    state = call.servant.driver.raft.state
    address = state.membership.members().get(state.leader or "", "")
    return Leader(state.leader, address, state.term)


async def peers(call: Call) -> Peers:
    """Ask the leader how far each of its peers is."""
    view = await admin.leader_view(call.servant.client)
    return Peers(view.server, view.term, view.last_index, view.commit_index, view.peers)


async def latency(call: Call) -> Latency:
    """Ask the leader how long its latest writes took."""
    view = await admin.leader_view(call.servant.client)
    return Latency(view.server, view.latencies, view.seconds)


async def log(call: Call) -> LogPart:
    """Show a part of this server's log, with the commands as text."""
    return await log_part(call.servant, call.query.first, call.query.limit)


async def events(call: Call) -> Events:
    """Say what happened to this server; wait for it if asked to."""
    known = call.servant.server.events
    query = EventQuery("", call.query.after, MAX_EVENTS, call.query.wait)
    page = await known.wait(query)
    return Events(page.run, page.next, page.lost, [_occurrence(e) for e in page.events])


def _occurrence(event: Happening) -> Occurrence:
    detail = dict(event.detail)
    for name in ("voters", "learners", "outgoing"):
        if name in detail:
            detail[name] = list(detail[name])
    what = _KINDS.get(event.kind, event.kind)
    return Occurrence(event.seq, event.time, what, **detail)


async def add(call: Call) -> Changed:
    """Add a server, which gets the log first and votes when it has caught up."""
    asked = call.body
    client = call.servant.client
    index = await admin.add(
        client, asked.server, asked.address, as_learner=asked.learner
    )
    return Changed(index)


async def remove(call: Call) -> Changed:
    """Remove a member, which may be down, or lead."""
    return Changed(await admin.remove(call.servant.client, call.names["name"]))


async def promote(call: Call) -> Changed:
    """Let a learner vote, as soon as it has caught up."""
    return Changed(await admin.promote(call.servant.client, call.names["name"]))


async def transfer(call: Call) -> Leader:
    """Hand leadership over, to the one that is named or to one that is up to date."""
    heir = await admin.transfer(call.servant.client, call.body.server)
    state = call.servant.driver.raft.state
    return Leader(heir, state.membership.members().get(heir, ""), state.term)


async def snapshot(call: Call) -> list[Taken]:
    """Let members write their state down, and drop the log before."""
    census = await call.servant.census()
    chosen = _chosen(census, call.body.servers)
    client = call.servant.client
    return await gatherResults([_take(client, each) for each in chosen])


async def compact(call: Call) -> list[Compacted]:
    """Let members drop from their logs what their snapshots cover."""
    census = await call.servant.census()
    chosen = _chosen(census, call.body.servers)
    client, keep = call.servant.client, call.body.keep
    return await gatherResults([_cut(client, each, keep) for each in chosen])


def _cut(client: Client, report: Report, keep: int) -> Deferred[Compacted]:
    def failed(failure: Failure) -> Compacted:
        failure.trap(RaftError)
        return Compacted(report.server, error=str(failure.value))

    cut = admin.compact(client, report.address, keep)
    return cut.addCallbacks(lambda first: Compacted(report.server, first), failed)


async def explain(call: Call) -> Explained:
    """Tell what an entry is, who proposed it, and which member had it when."""
    index = _index(call.names["index"])
    census = await call.servant.census()
    asked = [each for each in census.members if each.status is not None]
    story = await admin.tell(call.servant.client, asked, index)
    entry = None
    if story.entry is not None:
        entry = view(story.entry, call.servant.server.machine)
    return Explained(
        story.index,
        entry.term if entry else None,
        story.leader,
        story.is_compacted,
        entry,
        [_at(*each) for each in story.members],
    )


def _index(text: str) -> int:
    try:
        return msgspec.convert(text, Index, strict=False)
    except ValueError:
        message = f"{text!r} is no index of an entry"
        raise Problem(HTTPStatus.BAD_REQUEST, "invalid_request", message) from None


def _at(report: Report, found: Explanation | str) -> AtMember:
    if isinstance(found, str):
        return AtMember(report.server, error=found)
    return AtMember(
        report.server,
        found.term,
        found.is_compacted,
        _progress(found.appended),
        _progress(found.stored),
        _progress(found.committed),
        _progress(found.applied),
    )


def _progress(step: Step) -> Progress:
    return Progress(step.is_done, step.time)


def _chosen(census: Census, names: list[str]) -> list[Report]:
    known = {each.server: each for each in census.members}
    strangers = [name for name in names if name not in known]
    if strangers:
        message = f"no member is called {strangers[0]!r}"
        raise Problem(HTTPStatus.NOT_FOUND, "unknown_server", message)
    if names:
        return [known[name] for name in dict.fromkeys(names)]
    return [each for each in census.members if each.status is not None]


def _take(client: Client, report: Report) -> Deferred[Taken]:
    def failed(failure: Failure) -> Taken:
        failure.trap(RaftError)
        return Taken(report.server, error=str(failure.value))

    taken = admin.snapshot(client, report.address)
    return taken.addCallbacks(lambda found: Taken(report.server, *found), failed)


def _route(
    method: str, path: str, action: Any, answer: Any, act: Any, **rest: Any
) -> Route:
    problems = (503, *rest.pop("problems", ()))
    summary = act.__doc__ or ""
    return Route(
        method,
        f"/api/v1/{path}",
        action,
        answer,
        act,
        summary,
        problems=problems,
        **rest,
    )


_CHANGE = (409, 504)
_EXPLAIN = (400, 504)

ROUTES = (
    _route("GET", "status", "read", Status, status),
    _route("GET", "members", "read", Members, members),
    _route("GET", "leader", "read", Leader, leader),
    _route("GET", "peers", "read", Peers, peers, problems=(504,)),
    _route("GET", "log", "read", LogPart, log, query=LogQuery, problems=(410,)),
    _route("GET", "events", "read", Events, events, query=EventsQuery),
    _route("GET", "latency", "read", Latency, latency, problems=(504,)),
    _route("POST", "members", "admin", Changed, add, body=Addition, problems=_CHANGE),
    _route("DELETE", "members/{name}", "admin", Changed, remove, problems=_CHANGE),
    _route(
        "POST", "members/{name}/promote", "admin", Changed, promote, problems=_CHANGE
    ),
    _route(
        "POST", "transfer", "admin", Leader, transfer, body=Transfer, problems=_CHANGE
    ),
    _route(
        "POST",
        "snapshot",
        "admin",
        list[Taken],
        snapshot,
        body=Snapshot,
        problems=(404,),
    ),
    _route(
        "POST",
        "compact",
        "admin",
        list[Compacted],
        compact,
        body=Compaction,
        problems=(404,),
    ),
    _route("GET", "explain/{index}", "read", Explained, explain, problems=_EXPLAIN),
)
