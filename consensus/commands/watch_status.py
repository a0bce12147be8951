"""``raft watch-status``: all members, as they are from moment to moment."""

from __future__ import annotations

import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.live import Live

from consensus import admin
from consensus.commands.connection import (
    STATUS_COLUMNS,
    Seconds,
    print_json_line,
    status_cells,
    status_object,
    table_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from consensus.admin import Report
    from consensus.client import Client
    from consensus.commands.connection import Connection


@click.command("watch-status")
@click.option(
    "--every",
    type=Seconds(0.05, 3600),
    default=0.5,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait between two looks.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print an object a line for each look."
)
@click.pass_obj
def watch_status(connection: Connection, every: float, *, as_json: bool) -> None:
    """
    Show every member, again and again, until Ctrl-C.

    On a terminal it is a table; else each change of a role, a term or a
    leader, and who comes and goes, is a line.
    """
    console = Console()
    is_live = console.is_terminal and not as_json
    live = Live(console=console, auto_refresh=False) if is_live else None
    show = _printer(live, as_json=as_json)

    async def work(cluster: Client) -> None:
        while True:
            show(admin.reports_of(await connection.count(cluster)))
            await cluster.pause(every)

    with live or nullcontext():
        connection.follow(work)


def _printer(live: Live | None, *, as_json: bool) -> Callable[[Sequence[Report]], None]:
    """Return what shows the reports of one look."""
    if as_json:
        return _print_object
    if live is None:
        return _Changes().show

    def show(reports: Sequence[Report]) -> None:
        table = table_of(STATUS_COLUMNS, map(status_cells, reports), live.console.width)
        live.update(table, refresh=True)

    return show


def _print_object(reports: Sequence[Report]) -> None:
    found: dict[str, Any] = {
        "time": time.time(),
        "leader": admin.find_leader(reports),
        "members": [status_object(each) for each in reports],
    }
    print_json_line(found)


class _Changes:
    """Prints what differs from the look before."""

    def __init__(self) -> None:
        self._before: dict[str, str] = {}

    def show(self, reports: Sequence[Report]) -> None:
        """Print a line for each member that is another now."""
        now = {each.server: _line(each) for each in reports}
        for server, line in now.items():
            if self._before.get(server) != line:
                click.echo(f"{_time_of_day()} {server} {line}")
        for server in self._before.keys() - now.keys():
            click.echo(f"{_time_of_day()} {server} is no member any more")
        self._before = now


def _line(report: Report) -> str:
    status = report.status
    if status is None:
        return f"cannot be reached: {report.error}"
    leader = f"leader {status.leader}" if status.leader else "no leader"
    return f"{status.role}, term {status.term}, {leader}, {report.standing or 'none'}"


def _time_of_day() -> str:
    return time.strftime("%H:%M:%S")


COMMANDS = (watch_status,)
