"""The commands of ``raft`` that show and change who belongs to the cluster."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from twisted.internet.defer import gatherResults

from consensus import admin
from consensus.commands.connection import (
    EXIT_FAILED,
    EXIT_NOT_DONE,
    member_names,
    print_findings,
    print_json,
    print_table,
)
from consensus.errors import (
    ConfigError,
    InvalidChangeError,
    RaftError,
    UnreachableError,
)
from consensus.rescue import Rescue

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from twisted.internet.defer import Deferred
    from twisted.python.failure import Failure

    from consensus.admin import Census, Report
    from consensus.client import Client
    from consensus.commands.connection import Connection
    from consensus.core.values import LogIndex, ServerId
    from consensus.rescue import Found

#: Seconds between two looks at how far a new member is.
_LOOK_EVERY = 0.2


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print an object.")
@click.pass_obj
def members(connection: Connection, as_json: bool) -> None:  # noqa: FBT001 - click's flag
    """Show who belongs to the cluster, who votes, and who has caught up."""
    counted = connection.census()
    if counted.newest is None:
        click.echo("raft: no server can be reached", err=True)
        sys.exit(EXIT_NOT_DONE)
    end = _end(counted)
    if as_json:
        found = {
            "cluster": counted.newest.cluster,
            "leader": counted.leader,
            "membership_index": counted.newest.membership_index,
            "commit_index": end,
            "members": [_as_object(each) for each in counted.members],
        }
        click.echo(json.dumps(found, indent=2))
        return
    columns = ("server", "member", "role", "#last index", "#behind")
    rows = [_cells(each, end) for each in counted.members]
    print_table((*columns, "address", "reachable"), rows)


@click.command()
@click.argument("server", metavar="NAME")
@click.argument("address")
@click.option("--learner", is_flag=True, help="It gets the log, and never votes.")
@click.option("--wait", is_flag=True, help="Return when it votes.")
@click.option("--json", "as_json", is_flag=True, help="Print an object.")
@click.pass_obj
def add(
    connection: Connection,
    *,
    server: str,
    address: str,
    learner: bool,
    wait: bool,
    as_json: bool,
) -> None:
    """
    Add the server NAME, which listens at ADDRESS.

    It gets the log first, and votes as soon as it has caught up.  It has to
    run already, or to be started soon, with a config that says `join`.
    """

    async def work(cluster: Client) -> None:
        index = await admin.add(cluster, server, address, as_learner=learner)
        if learner:
            _tell(server, index, "learner", as_json=as_json)
            return
        standing = await _vote(connection, cluster, server, wait=wait)
        _tell(server, index, standing, as_json=as_json)

    connection.run(work)


@click.command()
@click.argument("server", metavar="NAME", shell_complete=member_names)
@click.option("--wait", is_flag=True, help="Return when it votes.")
@click.option("--json", "as_json", is_flag=True, help="Print an object.")
@click.pass_obj
def promote(connection: Connection, server: str, *, wait: bool, as_json: bool) -> None:
    """Let the learner NAME vote, as soon as it has caught up."""

    async def work(cluster: Client) -> None:
        index = await admin.promote(cluster, server)
        standing = await _vote(connection, cluster, server, wait=wait)
        _tell(server, index, standing, as_json=as_json)

    connection.run(work)


@click.command()
@click.argument("server", metavar="NAME", shell_complete=member_names)
@click.option("--json", "as_json", is_flag=True, help="Print an object.")
@click.pass_obj
def remove(connection: Connection, server: str, *, as_json: bool) -> None:
    """
    Remove the member NAME, which may be down, or lead.

    Stop its process afterwards; it does not take part any more.
    """
    index = connection.run(lambda cluster: admin.remove(cluster, server))
    _tell(server, index, "none", as_json=as_json)


@click.command()
@click.argument("servers", nargs=-1, metavar="[NAME]...", shell_complete=member_names)
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects.")
@click.pass_obj
def snapshot(connection: Connection, servers: tuple[str, ...], as_json: bool) -> None:  # noqa: FBT001 - click's flag
    """
    Let the members NAME, or all that are reachable, take a snapshot.

    Each writes its own state down, and drops the part of its log that it does
    not need any more.
    """

    async def work(cluster: Client) -> list[dict[str, Any]]:
        chosen = chosen_of(await connection.count(cluster), servers)
        return await gatherResults([_take(cluster, each) for each in chosen])

    found = connection.run(work)
    print_rows(found, _TAKEN, as_json=as_json)


@click.command()
@click.option(
    "--serve",
    shell_complete=member_names,
    metavar="NAME",
    help="Whose data directory to recover.",
)
@click.option("--unsafe", is_flag=True, help="Do it; else only say what is there.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print an object.")
@click.pass_obj
def recover(
    connection: Connection,
    serve: str | None,
    unsafe: bool,  # noqa: FBT001 - click's flag
    yes: bool,  # noqa: FBT001 - click's flag
    as_json: bool,  # noqa: FBT001 - click's flag
) -> None:
    """
    Make a new cluster of one stopped survivor, when the majority is lost for good.

    What only the lost members had acknowledged is lost.  Without --unsafe it
    says what is there, and changes nothing.
    """
    chosen = connection.load(() if serve is None else (serve,))
    if len(chosen.serve) != 1:
        raise InvalidChangeError("say whose directory to recover: --serve NAME")
    (name,) = chosen.serve
    try:
        with Rescue(chosen, name) as rescue:
            _recover(rescue, unsafe=unsafe, yes=yes, as_json=as_json)
    except ConfigError as error:
        print_findings(error.findings, connection.path)
        sys.exit(EXIT_FAILED)


COMMANDS = (members, add, promote, remove, snapshot, recover)

_STANDINGS = {
    "voter": "votes now",
    "learner": "is a learner now",
    "joining": "gets the log now, and votes as soon as it has caught up",
    "none": "is no member any more",
}

_TAKEN = {"server": "server", "#index": "index", "#bytes": "size", "error": "error"}


# --- waiting for a vote -------------------------------------------------------


async def _vote(
    connection: Connection, cluster: Client, server: ServerId, *, wait: bool
) -> str:
    """Return whether *server* votes, ``voter`` or ``joining``; wait, if asked to."""
    counted = await connection.count(cluster)
    if _votes(counted, server):
        return "voter"
    if not wait:
        return "joining"
    await _watch(partial(connection.count, cluster), cluster.pause, server)
    return "voter"


def _tell(server: ServerId, index: LogIndex, standing: str, *, as_json: bool) -> None:
    """Say what *server* is now, by the membership at *index* of the log."""
    if as_json:
        print_json({"server": server, "standing": standing, "membership_index": index})
    else:
        click.echo(f"{server} {_STANDINGS[standing]}")


async def _watch(
    count: Callable[[], Any], pause: Callable[[float], Any], server: ServerId
) -> None:
    """
    Show how far *server* is until it votes.

    Raises:
        InvalidChangeError: It does not belong to the cluster any more.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[far]}"),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, auto_refresh=False) as bar:
        task = bar.add_task(f"{server} catches up", total=None, far="")
        while True:
            counted = await count()
            if _votes(counted, server):
                return
            ours = [each for each in counted.members if each.server == server]
            if counted.newest is not None and not ours:
                message = f"{server} was removed meanwhile"
                raise InvalidChangeError(message)
            end = _end(counted)
            for report in ours:
                bar.update(task, total=end, completed=_reached(report), refresh=True)
                bar.update(task, far=f"{_reached(report)} of {end}", refresh=True)
            await pause(_LOOK_EVERY)


def _votes(counted: Census, server: ServerId) -> bool:
    newest = counted.newest
    return newest is not None and server in newest.membership and not newest.outgoing


def _end(counted: Census) -> LogIndex:
    """Return up to where the log is committed, as far as anybody says."""
    return max(
        (each.status.commit_index for each in counted.members if each.status),
        default=0,
    )


def _reached(report: Report) -> LogIndex:
    return report.status.last_index if report.status else 0


# --- snapshots ----------------------------------------------------------------


def chosen_of(counted: Census, servers: Sequence[ServerId]) -> list[Report]:
    """
    Return the reports of *servers*, or of all who answer.

    Raises:
        InvalidChangeError: One of them is no member.
        UnreachableError: Nobody answers.
    """
    known = {each.server: each for each in admin.reports_of(counted)}
    for name in servers:
        if name not in known:
            message = f"{name} is no member; those are: {', '.join(known)}"
            raise InvalidChangeError(message)
    chosen = [known[name] for name in servers]
    if not servers:
        chosen = [each for each in known.values() if each.status is not None]
    if not chosen:
        raise UnreachableError("none of the members answers")
    return chosen


def _take(cluster: Client, report: Report) -> Deferred[dict[str, Any]]:
    def taken(found: tuple[LogIndex, int]) -> dict[str, Any]:
        index, size = found
        return {"index": index, "size": size}

    asked = admin.snapshot(cluster, report.address)
    return row_of(report, asked.addCallback(taken))


def row_of(report: Report, asked: Deferred[dict[str, Any]]) -> Deferred[dict[str, Any]]:
    """Return what the server of *report* answers, or its error, for a program."""
    server = {"server": report.server}

    def failed(failure: Failure) -> dict[str, Any]:
        failure.trap(RaftError)
        return server | {"error": str(failure.value)}

    return asked.addCallbacks(server.__or__, failed)


def print_rows(
    found: Sequence[dict[str, Any]], columns: Mapping[str, str], *, as_json: bool
) -> None:
    """
    Print what servers answered; end with status 1 if one of them failed.

    Args:
        found: Of each server.
        columns: The columns of the table, each with the key that it shows.
        as_json: For a program.
    """
    if as_json:
        print_json(found)
    else:
        keys = columns.values()
        rows = [[str(each.get(key, "-")) for key in keys] for each in found]
        print_table(tuple(columns), rows)
    if any("error" in each for each in found):
        sys.exit(EXIT_FAILED)


# --- recovering ---------------------------------------------------------------


def _recover(rescue: Rescue, *, unsafe: bool, yes: bool, as_json: bool) -> None:
    found = rescue.found
    if as_json:
        click.echo(json.dumps(asdict(found), indent=2))
    else:
        click.echo(_description(found))
    if found.is_alone:
        click.echo(f"{found.server} is the only voter already: start it", err=True)
        return
    if not unsafe:
        click.echo("nothing was changed; --unsafe makes a new cluster of it", err=True)
        return
    if not yes:
        click.confirm(
            f"Are the other voters lost for good, and is {found.server} the survivor"
            " with the longest log?",
            abort=True,
            err=True,
        )
    rescue.found_anew()
    click.echo(_next_steps(found), err=as_json)


def _description(found: Found) -> str:
    others = ", ".join(sorted(found.voters.keys() - {found.server}))
    return f"""\
{found.server} is in term {found.term}; its log ends with entry {found.last_index} of\
 term {found.last_term}.
Its latest snapshot covers the entries up to {found.snapshot_index}.
Voters by entry {found.membership_index}: {", ".join(sorted(found.voters))}.

A cluster that is made anew of it has all that is in this log, also what was never
acknowledged.  What the other voters ({others or "none"}) acknowledged without
{found.server} is lost.  Compare the survivors: the one with the highest term of its
last entry, and of those the one with the longest log, has most.
"""


def _next_steps(found: Found) -> str:
    return f"""\
{found.server} is the only voter of a new cluster now.  What next:
1. Start {found.server}, as always.
2. On each other host, move the data directory away: the new cluster refuses it.
3. Write `join: [the address of {found.server}]` into the config there, let `members`
   name that server alone, and start it: it gets the log, and votes by itself."""


# --- printing -----------------------------------------------------------------


def _as_object(report: Report) -> dict[str, Any]:
    status = report.status
    found: dict[str, Any] = {
        "server": report.server,
        "address": report.address,
        "standing": report.standing,
        "reachable": status is not None,
    }
    if status is None:
        return found | {"error": report.error}
    names = ("role", "commit_index", "last_applied", "last_index", "snapshot_index")
    return found | {name: getattr(status, name) for name in names}


def _cells(report: Report, end: LogIndex) -> tuple[str, ...]:
    status = report.status
    return (
        report.server,
        report.standing or "-",
        status.role if status else "-",
        str(status.last_index) if status else "-",
        str(max(0, end - status.last_index)) if status else "-",
        report.address,
        "yes" if status else f"no: {report.error}",
    )
