"""The commands of ``raft log`` that travel in time, and ``raft check-upgrade``."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from consensus.commands.connection import EXIT_FAILED, progress
from consensus.commands.log import log
from consensus.commands.log_source import explained, source_options
from consensus.datadir import kept_from_servers
from consensus.describe import MOST_OF_ALL, MOST_TEXT, cut, describe
from consensus.errors import InvalidChangeError, RaftError
from consensus.fingerprint import fingerprint
from consensus.history import bisect as search
from consensus.history.rows import differences, rows_of
from consensus.history.source import engine_of, opened
from consensus.history.states import earliest, state_at
from consensus.history.upgrade import Rehearsal, Version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from consensus.commands.log_source import Source
    from consensus.core.values import Entry
    from consensus.history.bisect import Change, Question
    from consensus.history.rows import Difference
    from consensus.history.source import History, Progress
    from consensus.history.upgrade import Comparison
    from consensus.interfaces import StateMachine

_INDEX = click.IntRange(min=0)

#: Of so many rows it is said how two versions' states differ.
_MOST_ROWS = 20


@log.command()
@click.option("--at", "index", type=_INDEX, help="After this entry; else the last.")
@click.option("--query", metavar="JSON", help="Ask the state instead of printing it.")
@click.option("--full", is_flag=True, help="Do not cut long values.")
@click.option("--json", "as_json", is_flag=True, help="Print an object.")
@source_options()
def state(
    source: Source,
    *,
    index: int | None,
    query: str | None,
    full: bool,
    as_json: bool,
) -> None:
    """
    Print the state after an entry of a stopped server's log.

    The newest snapshot before it and the log behind that make it; the log says
    nothing of which of its last entries were committed.
    """
    with source.opened() as history, progress("replay") as on_progress:
        at = history.last_index if index is None else index
        with state_at(history, source.make_machine, at, on_progress) as replay:
            if query is not None:
                answer = search.ask(_asked(query), replay)
                click.echo(
                    json.dumps({"index": at, "answer": answer})
                    if as_json
                    else cut(answer, MOST_OF_ALL)
                )
                return
            rows = rows_of(replay.machine, replay.state)
    if as_json:
        click.echo(json.dumps({"index": at, "state": rows}, indent=2))
        return
    most = MOST_OF_ALL if full else MOST_TEXT
    for name, value in rows.items():
        click.echo(f"{cut(name, most)}: {cut(value, most)}")


@log.command()
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@click.option("--json", "as_json", is_flag=True, help="Print an object a line.")
@source_options()
def diff(source: Source, before: str, after: str, *, as_json: bool) -> None:
    """
    Print in what the states after entries A and B differ.

    Or, if A and B are data directories, which entry is the first that is not
    the same in both logs.  The exit status is 1 if anything differs.
    """
    if before.isdecimal() and after.isdecimal():
        found = _diff_states(source, int(before), int(after))
        printed = _print_differences(found, as_json=as_json)
    elif Path(before).is_dir() and Path(after).is_dir():
        printed = _diff_logs(source, Path(before), Path(after), as_json=as_json)
    else:
        raise click.UsageError("A and B are two indexes, or two data directories")
    if printed:
        sys.exit(EXIT_FAILED)


def _diff_states(source: Source, before: int, after: int) -> Iterator[Difference]:
    rows = {}
    with source.opened() as history, progress("replay") as on_progress:
        for index in (before, after):
            with state_at(history, source.make_machine, index, on_progress) as replay:
                rows[index] = rows_of(replay.machine, replay.state)
    return differences(rows[before], rows[after])


def _print_differences(found: Iterable[Difference], *, as_json: bool) -> int:
    count = 0
    for each in found:
        count += 1
        if as_json:
            click.echo(json.dumps({**asdict(each), "change": each.change}))
            continue
        for line in each.lines():
            click.echo(line)
    return count


def _diff_logs(source: Source, one: Path, other: Path, *, as_json: bool) -> int:
    source = replace(source, directory=one)
    machine, engine = source.known_machine(), source.engine()
    with (
        explained(),
        opened(one, engine) as first,
        opened(other, engine) as second,
        progress("compare") as on_progress,
    ):
        found = _first_difference(first, second, on_progress)
        common = min(first.last_index, second.last_index)
        ends = (first.last_index, second.last_index)
    if found is None:
        same = {"same_until": common, "last_indexes": ends}
        text = f"the same up to {common}; they end at {ends[0]} and {ends[1]}"
        click.echo(json.dumps(same) if as_json else text)
        return 0
    shown = [describe(each, machine) for each in found]
    for path, each in zip((one, other), shown, strict=True):
        if as_json:
            told = {"directory": str(path), "index": each.index, "term": each.term}
            click.echo(json.dumps({**told, "kind": each.kind, "text": each.text}))
        else:
            click.echo(
                f"{path}: entry {each.index} of term {each.term},"
                f" {each.kind}: {each.text}"
            )
    return 1


def _first_difference(
    one: History, other: History, on_progress: Progress
) -> tuple[Entry, Entry] | None:
    first = max(one.first_index, other.first_index)
    last = min(one.last_index, other.last_index)
    if first > last:
        message = (
            f"the logs have no entry in common: they are {one.first_index} to"
            f" {one.last_index} and {other.first_index} to {other.last_index}"
        )
        raise InvalidChangeError(message)
    pairs = zip(
        one.entries(first, last, on_progress),
        other.entries(first, last),
        strict=True,
    )
    return next((pair for pair in pairs if pair[0] != pair[1]), None)


# --- bisect -------------------------------------------------------------------


@log.command()
@click.argument("key", required=False)
@click.option("--query", metavar="JSON", help="Ask the state this instead.")
@click.option("--when", metavar="MODULE:FUNCTION", help="Call this with the state.")
@click.option("--from", "first", type=_INDEX, help="After this entry.")
@click.option("--to", "to", type=_INDEX, help="Up to this entry.")
@click.option("--all", "is_all", is_flag=True, help="Ask after each entry.")
@click.option("--json", "as_json", is_flag=True, help="Print an object a line.")
@source_options()
def bisect(
    source: Source,
    key: str | None,
    *,
    query: str | None,
    when: str | None,
    first: int | None,
    to: int | None,
    is_all: bool,
    as_json: bool,
) -> None:
    """
    Find the entry that changed KEY, as `raft log state` names it.

    Or the answer to a query, or what a Python function makes of the state.  A
    binary search finds one such entry, if the values at the ends are not the
    same; --all replays the log once, and finds every one.  The exit status is 1
    if there is none.
    """
    question = _question(key, query, when)
    count = 0
    with source.opened() as history, progress("bisect") as on_progress:
        begin = earliest(history) if first is None else first
        end = history.last_index if to is None else to
        if end < begin:
            raise click.UsageError("--from is behind --to")
        make = source.make_machine
        look = search.find_all if is_all else _one
        found = look(
            history, make, question, first=begin, last=end, on_progress=on_progress
        )
        machine = make()
        for change in found:
            count += 1
            _print_change(change, machine, as_json=as_json)
    if not count:
        if not as_json:
            click.echo(f"the same after {begin} and after {end}", err=True)
        sys.exit(EXIT_FAILED)


def _one(*arguments: Any, **options: Any) -> Iterator[Change]:
    found = search.find(*arguments, **options)
    if found is not None:
        yield found


def _print_change(change: Change, machine: StateMachine, *, as_json: bool) -> None:
    shown = describe(change.entry, machine)
    if as_json:
        told = {"index": shown.index, "term": shown.term, "kind": shown.kind}
        values = {"before": change.before, "after": change.after}
        click.echo(json.dumps({**told, "text": shown.text, **values}))
        return
    click.echo(f"entry {shown.index} of term {shown.term}, {shown.kind}: {shown.text}")
    click.echo(f"- {cut(change.before)}")
    click.echo(f"+ {cut(change.after)}")


def _question(key: str | None, query: str | None, when: str | None) -> Question:
    """Return what one of the three asks."""
    if sum(each is not None for each in (key, query, when)) != 1:
        raise click.UsageError("give a KEY, or --query, or --when")
    if key is not None:
        return _row(key)
    if query is not None:
        return _asked(query)
    return _called(when or "")


def _row(key: str) -> Question:
    def ask(machine: StateMachine, state: Any) -> str:
        return rows_of(machine, state).get(key, "(not there)")

    return ask


def _called(path: str) -> Question:
    module, _, name = path.partition(":")
    try:
        function: Callable[[Any], Any] = getattr(import_module(module), name)
    except Exception as error:
        message = f"{path!r} is no module:function: {type(error).__name__}: {error}"
        raise click.UsageError(message) from error

    def ask(_: StateMachine, state: Any) -> str:
        return fingerprint(function(state))

    return ask


def _asked(text: str) -> Question:
    """Return what puts the query *text*, in JSON, to a state."""
    try:
        value = json.loads(text)
    except ValueError as error:
        message = f"{text!r} is no JSON: {error}"
        raise click.UsageError(message) from error

    def ask(machine: StateMachine, state: Any) -> str:
        answer, _ = machine.handle_read(_query(machine, value), state)
        return fingerprint(answer)

    return ask


def _query(machine: StateMachine, value: Any) -> Any:
    """
    Return the query that JSON's *value* stands for.

    Raises:
        InvalidChangeError: None of *machine*'s is written so.
    """
    # A machine whose messages are its own reads those of MessagePack, too.
    try:
        return machine.decode(machine.encode(value))
    except RaftError:
        try:
            return machine.decode(msgspec.msgpack.encode(value))
        except RaftError as error:
            message = f"this state machine has no such query in JSON: {error}"
            raise InvalidChangeError(message) from error


# --- check-upgrade ------------------------------------------------------------


@click.command("check-upgrade")
@click.argument("old")
@click.argument("new")
@click.argument("directory", metavar="LOG", type=click.Path(path_type=Path))
@click.option(
    "--every",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    help="Compare the states after so many entries, and at the end.",
)
@click.option("--json", "as_json", is_flag=True, help="Print an object.")
def check_upgrade(
    old: str, new: str, directory: Path, *, every: int, as_json: bool
) -> None:
    """
    Replay a log on two versions of a machine, and compare.

    OLD and NEW are state machines as in a config; a directory before each, and
    a colon, is where its modules are looked for first: old/:bank.Accounts.
    LOG is the data directory of a stopped server, or a copy of it.  The exit
    status is 1 if a result or a state differs.
    """
    rehearsal = Rehearsal(Version.parse(old), Version.parse(new), directory, every)
    with (
        explained(),
        kept_from_servers(directory),
        progress("replay") as on_progress,
    ):
        engine_of(directory)
        done = rehearsal.compare(on_progress)
    if as_json:
        click.echo(json.dumps(asdict(done), indent=2))
    else:
        _print_comparison(done)
    if done.divergence is not None:
        sys.exit(EXIT_FAILED)


def _print_comparison(done: Comparison) -> None:
    found = done.divergence
    if found is None:
        click.echo(f"the same: {done.entries} entries, their results and the states")
        return
    click.echo(f"entry {found.index}: another {found.what}")
    if found.old or found.new:
        click.echo(f"- {cut(found.old)}")
        click.echo(f"+ {cut(found.new)}")
    _print_differences(found.rows[:_MOST_ROWS], as_json=False)


COMMANDS = (check_upgrade,)
