"""The commands of ``raft`` that back a cluster up, and make a new one of that."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from consensus.backup.file import BackupFile
from consensus.backup.restoring import Restoration
from consensus.backup.taking import Backup
from consensus.commands.connection import EXIT_FAILED, print_findings
from consensus.errors import ConfigError, InvalidChangeError
from consensus.snapshots.header import read_header

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from consensus.backup.file import Description
    from consensus.backup.restoring import Restored
    from consensus.backup.taking import Taken
    from consensus.client import Client
    from consensus.commands.connection import Connection

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("file", type=_FILE)
@click.option("--server", metavar="NAME", help="Whose snapshot to copy.")
@click.option(
    "--check", is_flag=True, help="Read FILE instead, and see if it is whole."
)
@click.option("--show", is_flag=True, help="Say what FILE is of; only look at it.")
@click.option("--json", "as_json", is_flag=True, help="Print an object.")
@click.pass_obj
def backup(  # noqa: PLR0917 - click passes them by name
    connection: Connection,
    file: Path,
    server: str | None,
    check: bool,  # noqa: FBT001 - click's flag
    show: bool,  # noqa: FBT001 - click's flag
    as_json: bool,  # noqa: FBT001 - click's flag
) -> None:
    """
    Copy the state of the running cluster into FILE.

    It has every write that was acknowledged before, and none in part.  The
    cluster goes on meanwhile; a member that does not lead is asked, if one
    answers.
    """
    if check and show:
        raise InvalidChangeError("say --check or --show, not both")
    if (check or show) and server is not None:
        raise InvalidChangeError("--server is for taking a backup")
    if check:
        _check(file, as_json=as_json)
    elif show:
        found = BackupFile(file)
        _print(_as_object(found.description, found.bytes), as_json=as_json)
    else:
        _take(connection, file, server, as_json=as_json)


@click.command()
@click.argument("file", type=_FILE)
@click.option(
    "--serve", multiple=True, metavar="NAME", help="As for twistd raft; repeatable."
)
@click.option("--alone", is_flag=True, help="It is the only voter; others join it.")
@click.option(
    "--identity", metavar="TEXT", help="What the restore at another host printed."
)
@click.option("--json", "as_json", is_flag=True, help="Print an object.")
@click.pass_obj
def restore(  # noqa: PLR0917 - click passes them by name
    connection: Connection,
    file: Path,
    serve: tuple[str, ...],
    alone: bool,  # noqa: FBT001 - click's flag
    identity: str | None,
    as_json: bool,  # noqa: FBT001 - click's flag
) -> None:
    """
    Make a new cluster from the backup FILE.

    It makes the data directories of stopped servers, which must be empty.  All
    members of the config belong to the new cluster; restore each of them.
    """
    chosen = connection.load(serve)
    try:
        work = Restoration(chosen, BackupFile(file), alone=alone, identity=identity)
        with _progress("restore", is_shown=not as_json) as on_progress:
            done = work.run(on_progress)
    except ConfigError as error:
        print_findings(error.findings, connection.path)
        sys.exit(EXIT_FAILED)
    if as_json:
        click.echo(json.dumps(asdict(done), indent=2))
    else:
        click.echo(_next_steps(done))


COMMANDS = (backup, restore)


def _take(
    connection: Connection, file: Path, server: str | None, *, as_json: bool
) -> None:
    with _progress("backup", is_shown=not as_json) as on_progress:

        async def work(cluster: Client) -> Taken:
            count = partial(connection.count, cluster)
            return await Backup(cluster, count, file, server, on_progress).take()

        done = connection.run(work)
    found = _as_object(done.description, done.bytes)
    if as_json:
        _print({"file": str(file), **found}, as_json=True)
        return
    said = done.description
    click.echo(
        f"{file}: {done.bytes} bytes, all up to entry {said.index} of {said.cluster},"
        f" from {said.server}"
    )


def _check(file: Path, *, as_json: bool) -> None:
    found = BackupFile(file)
    with _progress("check", is_shown=not as_json) as on_progress:
        done = 0

        def add(count: int) -> None:
            nonlocal done
            done += count
            on_progress(done, found.description.size)

        header, rest = read_header(found.chunks(add))
        for _ in rest:
            pass
    inside = {"machine_version": header.version, "log_time": header.time / 1000}
    shown = {**_as_object(found.description, found.bytes), **inside}
    _print(shown, as_json=as_json)
    if not as_json:
        click.echo(f"{file}: whole")


def _as_object(said: Description, size: int) -> dict[str, Any]:
    members = said.members
    return {
        "cluster": said.cluster,
        "index": said.index,
        "term": said.term,
        "taken": datetime.fromtimestamp(said.taken, UTC).isoformat(),
        "server": said.server,
        "application": said.application,
        "application_class": said.application_class,
        "release": said.release,
        "voters": members.voters,
        "learners": members.learners,
        "cluster_id": members.cluster_id,
        "bytes": size,
    }


def _print(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for name, value in found.items():
        shown = ", ".join(value) or "none" if isinstance(value, dict) else value
        click.echo(f"{name.replace('_', ' ')}: {shown}")


def _next_steps(done: Restored) -> str:
    servers = ", ".join(done.servers)
    what = f"{servers} of {done.cluster}: restored, as of entry {done.index}"
    lines = [
        f"{what} of the old cluster.",
        "Stop the old servers for good: clients must not meet them any more.",
    ]
    others = [name for name in done.voters if name not in done.servers]
    if others:
        lines.append(
            f"Restore {', '.join(others)} from the same file before you start anything,"
            f" with:\n  --identity {done.identity}"
        )
    elif len(done.voters) == 1:
        lines.append(f"Start {servers}; others join it, with empty directories.")
    else:
        lines.append("Start them, as always.")
    return "\n".join(lines)


@contextmanager
def _progress(
    name: str, *, is_shown: bool
) -> Generator[Callable[[int, int], None], None, None]:
    """Lend what is called with the bytes done and all bytes; a bar shows it."""
    console = Console(stderr=True)
    if not (is_shown and console.is_terminal):
        # A bar that is disabled leaves an empty line, by older releases of rich.
        yield lambda _done, _total: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(name, total=None)

        def on_progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield on_progress
