"""``raft compact``: members drop from their logs what their snapshots cover."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from twisted.internet.defer import gatherResults

from consensus import admin
from consensus.commands.connection import member_names
from consensus.commands.members import chosen_of, print_rows, row_of

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from consensus.admin import Report
    from consensus.client import Client
    from consensus.commands.connection import Connection

_COLUMNS = {"server": "server", "#first index": "first_index", "error": "error"}

#: Servers keep the numbers of entries with a sign.
_MOST = (1 << 63) - 1


@click.command()
@click.argument("servers", nargs=-1, metavar="[NAME]...", shell_complete=member_names)
@click.option(
    "--keep",
    type=click.IntRange(0, _MOST),
    default=0,
    show_default=True,
    metavar="N",
    help="So many of the entries that the snapshot covers stay in the log.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects.")
@click.pass_obj
def compact(
    connection: Connection, servers: tuple[str, ...], keep: int, *, as_json: bool
) -> None:
    """
    Let the members NAME, or all that are reachable, cut their logs.

    Each drops the entries that its latest snapshot covers.  A follower that
    needs one of those is sent the snapshot instead.
    """

    async def work(cluster: Client) -> list[dict[str, Any]]:
        chosen = chosen_of(await connection.count(cluster), servers)
        return await gatherResults([_cut(cluster, each, keep) for each in chosen])

    print_rows(connection.run(work), _COLUMNS, as_json=as_json)


def _cut(cluster: Client, report: Report, keep: int) -> Deferred[dict[str, Any]]:
    asked = admin.compact(cluster, report.address, keep)
    return row_of(report, asked.addCallback(lambda first: {"first_index": first}))


COMMANDS = (compact,)
