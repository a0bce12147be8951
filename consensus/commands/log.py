"""The commands of ``raft log`` that look at entries."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from consensus.commands.connection import EXIT_FAILED, print_table, progress
from consensus.commands.log_source import explained, source_options
from consensus.describe import MOST_OF_ALL, MOST_TEXT, cut, describe
from consensus.history import verify as verification
from consensus.history.stats import Stats

if TYPE_CHECKING:
    from collections.abc import Callable

    from consensus.commands.log_source import Source
    from consensus.core.values import Entry
    from consensus.describe import Described
    from consensus.history.stats import Count

_INDEX = click.IntRange(min=1)


@click.group()
def log() -> None:
    """Look into servers' logs, and at what the state was."""


@log.command()
@click.option("--from", "first", type=_INDEX, default=1, help="The first entry.")
@click.option("--to", "to", type=_INDEX, help="The last entry.")
@click.option("--last", "tail", type=_INDEX, help="Only the last so many of them.")
@click.option("--full", is_flag=True, help="Do not cut long commands.")
@click.option("--json", "as_json", is_flag=True, help="Print an object a line.")
@source_options(online=True)
def show(
    source: Source,
    *,
    first: int,
    to: int | None,
    tail: int | None,
    full: bool,
    as_json: bool,
) -> None:
    """Print entries: index, term, kind, and what they say."""
    machine = source.known_machine()
    most = MOST_OF_ALL if full else MOST_TEXT
    write = _as_object if as_json else _as_line

    def take(entry: Entry) -> None:
        click.echo(write(describe(entry, machine, most)))

    # A bar between the lines would be in their way.
    with progress("log", is_shown=False) as on_progress:
        source.each(take, first, to, tail, on_progress)


def _as_object(shown: Described) -> str:
    return json.dumps(asdict(shown))


def _as_line(shown: Described) -> str:
    return f"{shown.index:>8}  {shown.term:>4}  {shown.kind:<10}  {shown.text}"


@log.command()
@click.argument("pattern")
@click.option("-i", "--ignore-case", is_flag=True, help="Small letters or not.")
@click.option("--json", "as_json", is_flag=True, help="Print an object a line.")
@source_options(online=True)
def grep(source: Source, pattern: str, *, ignore_case: bool, as_json: bool) -> None:
    """
    Print the entries whose text the regular expression PATTERN finds.

    The text is that of `raft log show`, uncut; the kind stands before it.
    The exit status is 1 if there is none.
    """
    try:
        wanted = re.compile(pattern, re.IGNORECASE if ignore_case else 0)
    except re.error as error:
        message = f"{pattern!r} is no regular expression: {error}"
        raise click.UsageError(message) from error
    machine = source.known_machine()
    write, found = _as_object if as_json else _as_line, [0]

    def take(entry: Entry) -> None:
        shown = describe(entry, machine, MOST_OF_ALL)
        if wanted.search(f"{shown.kind} {shown.text}"):
            found[0] += 1
            click.echo(write(describe(entry, machine)))

    with progress("log") as on_progress:
        source.each(take, 1, None, None, on_progress)
    if not found[0]:
        sys.exit(EXIT_FAILED)


@log.command()
@click.option("--json", "as_json", is_flag=True, help="Print an object.")
@source_options(online=True)
def stats(source: Source, *, as_json: bool) -> None:
    """Count the entries by kind, by command and by term."""
    found, machine = Stats(), source.known_machine()
    with progress("log", is_shown=not as_json) as on_progress:
        source.each(lambda each: found.add(each, machine), 1, None, None, on_progress)
    if as_json:
        click.echo(json.dumps(_stats_object(found), indent=2))
        return
    click.echo(
        f"entries {found.first_index} to {found.last_index}:"
        f" {found.total.entries}, {found.total.size} bytes"
    )
    if found.largest[0]:
        click.echo("largest: entry {}, {} bytes".format(*found.largest))
    if found.undecodable:
        click.echo(f"not to be decoded: {found.undecodable}")
    if found.rate is not None:
        click.echo(f"rate: {found.rate:.1f} entries a second of the log's time")
    _print_counts("kind", found.kinds)
    if found.commands:
        _print_counts("command", found.commands)
    terms = sorted(found.terms.items())
    print_table(("#term", "#entries"), [(str(t), str(n)) for t, n in terms])


def _stats_object(found: Stats) -> dict[str, object]:
    index, size = found.largest
    return {
        "first_index": found.first_index,
        "last_index": found.last_index,
        "entries": found.total.entries,
        "bytes": found.total.size,
        "kinds": _counts(found.kinds),
        "commands": _counts(found.commands),
        "undecodable": found.undecodable,
        "largest": {"index": index, "bytes": size},
        "terms": {str(term): count for term, count in sorted(found.terms.items())},
        "times": found.times,
        "rate": found.rate,
    }


def _counts(counts: dict[str, Count]) -> dict[str, dict[str, int]]:
    return {
        name: {"entries": each.entries, "bytes": each.size}
        for name, each in _most_first(counts)
    }


def _most_first(counts: dict[str, Count]) -> list[tuple[str, Count]]:
    return sorted(counts.items(), key=lambda each: (-each[1].entries, each[0]))


def _print_counts(title: str, counts: dict[str, Count]) -> None:
    rows = [(cut(n), str(c.entries), str(c.size)) for n, c in _most_first(counts)]
    print_table((title, "#entries", "#bytes"), rows)


@log.command()
@click.option("--json", "as_json", is_flag=True, help="Print an object.")
@source_options(machine=False)
def verify(source: Source, *, as_json: bool) -> None:
    """
    Look whether a stopped server's log and snapshots are whole.

    That is: checksums, indexes without a hole, terms that never fall, the term
    and the vote.  The exit status is 1 if something is wrong.
    """
    with explained(), progress("verify", is_shown=not as_json) as on_progress:
        found = verification.verify(source.path(), source.engine(), on_progress)
    if as_json:
        click.echo(json.dumps(asdict(found), indent=2))
    else:
        _print_verdict(found, click.echo)
    if found.problems:
        sys.exit(EXIT_FAILED)


def _print_verdict(found: verification.Verdict, say: Callable[[str], None]) -> None:
    for problem in found.problems:
        say(f"{problem.where}: {problem.message}")
    entries = f"entries {found.first_index} to {found.last_index}"
    if found.last_index < found.first_index:
        entries = "no entries"
    covered = ", ".join(map(str, found.snapshots)) or "none"
    verdict = f"{len(found.problems)} problems" if found.problems else "ok"
    say(f"{found.path}: {entries}, snapshots: {covered}, term {found.term}: {verdict}")


COMMANDS = (log,)
