"""``raft events``: what happens at all members, as it happens."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from twisted.internet.defer import Deferred, ensureDeferred, gatherResults

from consensus import admin
from consensus.commands.connection import print_json_line
from consensus.errors import RaftError, UnreachableError
from consensus.shell.events import MAX_EVENTS, EventQuery

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from consensus.client import Client
    from consensus.commands.connection import Connection
    from consensus.core.values import Address, ServerId
    from consensus.shell.events import EventPage, Happening

#: Seconds that a server may wait with its answer; and until a member that
#: did not answer is asked again.
_WAIT = 10.0
_PAUSE = 1.0

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def _since(
    ctx: click.Context, param: click.Parameter, value: str | None
) -> float | None:
    """Return the time that *value* names, in seconds since 1970."""
    if value is None or value == "all":
        return None if value is None else 0.0
    ago = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([smhd])", value)
    if ago is not None:
        return time.time() - float(ago[1]) * _UNITS[ago[2]]
    try:
        return datetime.fromisoformat(value).astimezone().timestamp()
    except (ValueError, OverflowError, OSError) as error:
        message = (
            f"{value!r} is neither all, nor as 90s, 10m, 2h or 1d, nor a time as"
            " 2026-01-31T12:00:00"
        )
        raise click.BadParameter(message, ctx, param) from error


@click.command()
@click.option(
    "--since",
    callback=_since,
    metavar="WHEN",
    help="Begin with what is remembered since then: all, 10m, or an ISO time.",
)
@click.option("--no-wait", is_flag=True, help="End after what is remembered.")
@click.option("--json", "as_json", is_flag=True, help="Print an object a line.")
@click.pass_obj
def events(
    connection: Connection, *, since: float | None, no_wait: bool, as_json: bool
) -> None:
    """
    Print roles, leaders, members and snapshots as they change, until Ctrl-C.

    They come from every member; one that goes away is asked again until it is
    back.
    """
    if no_wait:
        connection.run(lambda cluster: _remembered(connection, cluster, since, as_json))
        return

    async def work(cluster: Client) -> None:
        members = await _members(connection, cluster)
        await _Followers(connection, cluster, since, as_json).follow(members)

    connection.follow(work)


async def _members(
    connection: Connection, cluster: Client
) -> Mapping[ServerId, Address]:
    """Return who is to be asked."""
    counted = await connection.count(cluster)
    reports = admin.reports_of(counted)
    if all(each.status is None for each in reports):
        raise UnreachableError("none of the members answers")
    return {each.server: each.address for each in reports}


class _Line(NamedTuple):
    """One thing that happened somewhere."""

    time: float
    server: ServerId
    seq: int | None
    kind: str
    detail: dict[str, Any]

    def show(self, *, as_json: bool) -> None:
        """Print it."""
        if as_json:
            print_json_line({**self._asdict(), "detail": self.detail})
            return
        when = datetime.fromtimestamp(self.time, UTC).isoformat(" ", "milliseconds")
        text = _TEXTS.get(self.kind, _plain)(self.detail)
        click.echo(f"{when.removesuffix('+00:00')}Z {self.server} {text}")


def _line_of(server: ServerId, event: Happening) -> _Line:
    return _Line(event.time, server, event.seq, event.kind, event.detail)


def _note(server: ServerId, kind: str, **detail: Any) -> _Line:
    """Return what this command has to say of *server* itself."""
    return _Line(time.time(), server, None, kind, detail)


# --- what is remembered --------------------------------------------------------


async def _remembered(
    connection: Connection,
    cluster: Client,
    since: float | None,
    as_json: bool,  # noqa: FBT001 - handed on
) -> None:
    members = await _members(connection, cluster)
    found = await gatherResults(
        [
            ensureDeferred(_all_of(cluster, name, address, connection.patience))
            for name, address in members.items()
        ]
    )
    lines = [line for lines in found for line in lines]
    for line in sorted(lines, key=lambda each: each.time):
        if line.time >= (since or 0.0):
            line.show(as_json=as_json)


async def _all_of(
    cluster: Client, server: ServerId, address: Address, patience: float
) -> list[_Line]:
    """Return all that *server* remembers, or why it does not say."""
    lines: list[_Line] = []
    query = EventQuery()
    try:
        while True:
            page = await admin.events(cluster, address, query, patience)
            if page.lost:
                lines.append(_note(server, "lost", count=page.lost))
            lines += [_line_of(server, each) for each in page.events]
            if len(page.events) < MAX_EVENTS:
                return lines
            query = EventQuery(page.run, page.next)
    except RaftError as error:
        return [*lines, _note(server, "unreachable", error=str(error))]


# --- what happens from now on -----------------------------------------------------


class _Followers:
    """
    Asks every member again and again.

    Args:
        connection: How long to wait for an answer, beside the time that it may
            wait; and whether all connections are lost because the command ends.
        cluster: The way to them.
        since: What happened before is not printed; ``None``: before now.
        as_json: How to print.
    """

    def __init__(
        self,
        connection: Connection,
        cluster: Client,
        since: float | None,
        as_json: bool,  # noqa: FBT001 - handed on
    ) -> None:
        self._connection = connection
        self._cluster = cluster
        self._since = since
        self._as_json = as_json
        self._followed: set[tuple[ServerId, Address]] = set()
        self._failed: Deferred[None] = Deferred()

    def follow(self, members: Mapping[ServerId, Address]) -> Deferred[None]:
        """Follow *members*, and who joins them; the Deferred can only fail."""
        self._add(members)
        return self._failed

    def _add(self, members: Mapping[ServerId, Address]) -> None:
        for member in members.items():
            if member not in self._followed:
                self._followed.add(member)
                following = ensureDeferred(self._follow(*member))
                following.addErrback(self._fail)

    def _fail(self, failure: Any) -> None:
        if not self._failed.called:
            self._failed.errback(failure)

    async def _follow(self, server: ServerId, address: Address) -> None:
        query = EventQuery()
        is_back, is_first = True, True
        while True:
            try:
                page = await admin.events(
                    self._cluster, address, query, self._connection.patience
                )
            except RaftError as error:
                if is_back and not self._connection.is_ending:
                    self._show(_note(server, "unreachable", error=str(error)))
                is_back = False
                await self._cluster.pause(_PAUSE)
                continue
            if not is_back:
                self._show(_note(server, "reachable"))
            is_back = True
            self._tell(server, query, page, is_first=is_first)
            is_first = is_first and len(page.events) == MAX_EVENTS
            query = EventQuery(page.run, page.next, wait=0.0 if is_first else _WAIT)

    def _tell(
        self, server: ServerId, query: EventQuery, page: EventPage, *, is_first: bool
    ) -> None:
        """Print what is on *page*, and what was lost before it."""
        if query.run and query.run != page.run:
            self._show(_note(server, "restarted"))
        elif page.lost and (query.run or self._since is not None):
            self._show(_note(server, "lost", count=page.lost))
        for event in page.events:
            # What was there when this command came is printed if it was asked for.
            is_old = is_first and (self._since is None or event.time < self._since)
            if not is_old:
                self._show(_line_of(server, event))
            if event.kind == "membership":
                self._add(event.detail["voters"] | event.detail["learners"])

    def _show(self, line: _Line) -> None:
        line.show(as_json=self._as_json)


# --- sentences -----------------------------------------------------------------


def _plain(detail: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in detail.items())


def _role(detail: Mapping[str, Any]) -> str:
    leader = detail["leader"]
    known = "" if detail["role"] == "leader" else f", leader {leader or 'unknown'}"
    return f"is {detail['role']} in term {detail['term']}{known}"


def _membership(detail: Mapping[str, Any]) -> str:
    parts = [
        f"{name} {', '.join(detail[name])}"
        for name in ("voters", "learners", "outgoing")
        if detail[name]
    ]
    return f"members by entry {detail['index']}: {'; '.join(parts)}"


_TEXTS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "role": _role,
    "membership": _membership,
    "started": lambda it: f"started in term {it['term']}, log up to {it['last_index']}",
    "transfer-failed": lambda it: f"leads on: {it['target']} did not take over",
    "snapshot": lambda it: (
        f"took a snapshot of entry {it['index']}: {it['bytes']} bytes"
    ),
    "restored": lambda it: (
        f"restored its state from the snapshot of entry {it['index']}"
    ),
    "compacted": lambda it: f"cut its log, which begins with entry {it['first_index']}",
    "disk-full": lambda _: "has no room on its disk, and refuses writes",
    "disk-has-room": lambda _: "has room on its disk again",
    "unreachable": lambda it: f"cannot be asked: {it['error']}",
    "reachable": lambda _: "answers again",
    "restarted": lambda _: "was started anew; its last events before may be missing",
    "lost": lambda it: f"has forgotten {it['count']} events that were not printed",
}

COMMANDS = (events,)
