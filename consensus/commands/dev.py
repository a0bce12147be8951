"""``raft dev``: a cluster in this terminal."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from consensus.commands.connection import EXIT_FAILED
from consensus.dev.layout import MOST_MEMBERS, LayoutError


@click.command()
@click.argument("machine")
@click.option(
    "-n",
    "--members",
    default=3,
    show_default=True,
    type=click.IntRange(1, MOST_MEMBERS),
    metavar="COUNT",
    help="How many members.",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    metavar="BASE",
    help="The first port: members, then their HTTP.  Without, free ones are taken.",
)
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIRECTORY",
    help="Keep the cluster here; without, it is gone in the end.",
)
@click.option(
    "--no-reload", is_flag=True, help="Do not restart members when a file changes."
)
def dev(
    machine: str,
    members: int,
    port: int | None,
    data: Path | None,
    no_reload: bool,  # noqa: FBT001 - click's flag
) -> None:
    """
    Run a cluster of MACHINE in this terminal; no YAML is needed.

    MACHINE is MODULE:CLASS, found from this directory, or a registered name
    such as kvstore.  Type help for faults to try.
    """
    # All that a server is made of: no other command should wait until it is there.
    from consensus.dev import session  # noqa: PLC0415 - it takes a fifth of their start

    try:
        status = session.run(machine, members, port, data, watches=not no_reload)
    except LayoutError as error:
        click.echo(f"raft dev: {error}", err=True)
        sys.exit(EXIT_FAILED)
    sys.exit(status)


COMMANDS = (dev,)
