"""``raft explain``: what became of one entry, at every member."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from consensus import admin
from consensus.commands.connection import print_json, print_table
from consensus.commands.members import chosen_of
from consensus.describe import MOST_OF_ALL, describe

if TYPE_CHECKING:
    from consensus.admin import Report, Story
    from consensus.client import Client
    from consensus.commands.connection import Connection
    from consensus.shell.inspection import Explanation

_STEPS = ("appended", "stored", "committed", "applied")


@click.command()
@click.argument("index", type=click.IntRange(1, (1 << 63) - 1))
@click.option("--json", "as_json", is_flag=True, help="Print an object.")
@click.pass_obj
def explain(connection: Connection, index: int, *, as_json: bool) -> None:
    """
    Tell what the entry INDEX is, who proposed it, and who had it when.

    Each member tells by its own clock when it appended, stored, committed and
    applied the entry; it remembers the latest few thousand batches, since its
    start.
    """

    async def work(cluster: Client) -> Story:
        chosen = chosen_of(await connection.count(cluster), ())
        return await admin.tell(cluster, chosen, index)

    found = _found(connection, connection.run(work))
    if as_json:
        print_json(found)
    else:
        _print(found)


def _found(connection: Connection, story: Story) -> dict[str, Any]:
    """Return all that is known of the entry, for a program."""
    entry = story.entry
    found: dict[str, Any] = {
        "index": story.index,
        "term": entry.term if entry else None,
        "leader": story.leader,
        "is_compacted": story.is_compacted,
    }
    if entry is not None:
        engine = connection.config.state_machine
        described = describe(entry, engine.cls(engine.options), MOST_OF_ALL)
        names = ("kind", "size", "name", "text", "decoded")
        found |= {name: getattr(described, name) for name in names}
    return found | {"servers": [_server(*each) for each in story.members]}


def _server(report: Report, found: Explanation | str) -> dict[str, Any]:
    if isinstance(found, str):
        return {"server": report.server, "error": found}
    steps = {name: asdict(getattr(found, name)) for name in _STEPS}
    return {
        "server": report.server,
        "term": found.term or None,
        "is_compacted": found.is_compacted,
        **steps,
    }


def _print(found: dict[str, Any]) -> None:
    index, term = found["index"], found["term"]
    if found["is_compacted"]:
        click.echo(f"entry {index} is in no log any more: snapshots cover it")
    elif term is None:
        click.echo(f"entry {index} cannot be read just now")
    else:
        leader = found["leader"] or "a leader that nobody remembers"
        click.echo(f"entry {index}, {found['kind']}, {found['size']} bytes")
        click.echo(f"proposed by {leader} in term {term}")
        click.echo(found["text"])
    columns = ("server", "#term", *_STEPS, "error")
    print_table(columns, [_cells(each) for each in found["servers"]])


def _cells(found: dict[str, Any]) -> tuple[str, ...]:
    error = found.get("error", "")
    if error:
        return (found["server"], *"-----", error)
    term = str(found["term"] or "-")
    return (found["server"], term, *(_when(found[step]) for step in _STEPS), "")


def _when(step: dict[str, Any]) -> str:
    if not step["is_done"]:
        return "not yet"
    if step["time"] is None:
        return "yes, long ago"
    when = datetime.fromtimestamp(step["time"], UTC)
    return when.strftime("%H:%M:%S.%fZ")


COMMANDS = (explain,)
