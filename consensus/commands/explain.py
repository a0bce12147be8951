"""``raft explain``: what became of one entry, at every member."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
from twisted.internet.defer import gatherResults

from consensus import admin
from consensus.commands.connection import print_json, print_table
from consensus.commands.members import chosen_of
from consensus.errors import InvalidCommandError, RaftError, UnreachableError
from consensus.history.describe import MOST_OF_ALL, describe
from consensus.shell.inspection import Explanation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twisted.internet.defer import Deferred
    from twisted.python.failure import Failure

    from consensus.admin import Report
    from consensus.client import Client
    from consensus.commands.connection import Connection
    from consensus.core.values import Entry, LogIndex

    #: What a member answered, or why it did not.
    Answer = tuple[Report, Explanation | str]

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

    async def work(cluster: Client) -> tuple[list[Answer], Entry | None]:
        chosen = chosen_of(await connection.count(cluster), ())
        answers = await gatherResults([_ask(cluster, each, index) for each in chosen])
        return answers, await _entry(cluster, answers, index)

    answers, entry = connection.run(work)
    found = _found(connection, answers, entry, index)
    if as_json:
        print_json(found)
    else:
        _print(found)


def _ask(cluster: Client, report: Report, index: LogIndex) -> Deferred[Answer]:
    def answered(found: Explanation) -> Answer:
        return report, found

    def failed(failure: Failure) -> Answer:
        failure.trap(RaftError)
        return report, str(failure.value)

    return admin.explain(cluster, report.address, index).addCallbacks(answered, failed)


async def _entry(
    cluster: Client, answers: Sequence[Answer], index: LogIndex
) -> Entry | None:
    """Return the entry from a log that has it, a committed one first."""
    holders = [
        (report, found)
        for report, found in answers
        if isinstance(found, Explanation) and found.term
    ]
    holders.sort(key=lambda each: not each[1].committed.is_done)
    for report, _ in holders:
        try:
            page = await admin.log_page(cluster, report.address, index, 1)
        except RaftError:
            continue
        for entry in page.as_entries():
            if entry.index == index:
                return entry
    return None


def _found(
    connection: Connection,
    answers: Sequence[Answer],
    entry: Entry | None,
    index: LogIndex,
) -> dict[str, Any]:
    """
    Return all that is known of the entry, for a program.

    Raises:
        InvalidCommandError: No log reaches so far.
        UnreachableError: No member has answered.
    """
    explained = [found for _, found in answers if isinstance(found, Explanation)]
    if not explained:
        message = "; ".join(str(found) for _, found in answers)
        raise UnreachableError(message)
    if not any(each.appended.is_done for each in explained):
        message = f"no log has an entry {index} yet"
        raise InvalidCommandError(message)
    term = entry.term if entry else 0
    leaders = [each.leader for each in explained if term and each.term == term]
    found: dict[str, Any] = {
        "index": index,
        "term": term or None,
        "leader": next(filter(None, leaders), None),
        "is_compacted": entry is None and any(each.is_compacted for each in explained),
    }
    if entry is not None:
        engine = connection.config.state_machine
        described = describe(entry, engine.cls(engine.options), MOST_OF_ALL)
        names = ("kind", "size", "name", "text", "decoded")
        found |= {name: getattr(described, name) for name in names}
    return found | {"servers": [_server(*each) for each in answers]}


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
