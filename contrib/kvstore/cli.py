"""The commands that ``raft kv`` adds: keys are set, read, listed and watched."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, get_args

import click

from consensus.options import Consistency
from contrib.kvstore.client import KVClient
from contrib.kvstore.failures import CompactedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from consensus.client import Client
    from contrib.kvstore.answers import Event
    from contrib.kvstore.commands import Value

_T = TypeVar("_T")

_EXIT_MISSING = 1

_PAGE = 1000


class Connection(Protocol):
    """What ``raft`` hands to a command as ``ctx.obj``."""

    def run(self, work: Callable[[Client], Awaitable[_T]]) -> _T:
        """Run *work* with a client of the cluster; return its result."""

    def follow(self, work: Callable[[Client], Awaitable[None]]) -> None:
        """Run *work* as :meth:`run` does, until a signal, which is no failure."""


@click.group()
def kv() -> None:
    """Set, get, list and watch keys of the key-value store."""


@kv.command("set")
@click.argument("key")
@click.argument("value")
@click.option("--json", "as_json", is_flag=True, help="Print an object.")
@click.option(
    "--ttl",
    type=click.FloatRange(min=0.0, min_open=True),
    help="Seconds after which the key ends.",
)
@click.option(
    "--if-absent", is_flag=True, help="Only if there is no such key; else status 1."
)
@click.pass_context
def set_key(
    ctx: click.Context,
    *,
    key: str,
    value: str,
    ttl: float | None,
    if_absent: bool,
    as_json: bool,
) -> None:
    """Give KEY the VALUE."""
    connection: Connection = ctx.obj
    raw_key, given = _raw(key), _text_or_bytes(_raw(value))
    result = connection.run(
        lambda cluster: _client(cluster).put(
            raw_key, given, ttl=ttl, only_if="absent" if if_absent else None
        )
    )
    if as_json:
        done = {"set": result.done} if if_absent else {}
        _print_object(_member("key", raw_key), _member("value", given), done)
    if not result.done:
        click.echo(f"raft: there is a key {key!r}", err=True)
        ctx.exit(_EXIT_MISSING)


@kv.command("get")
@click.argument("key")
@click.option("--json", "as_json", is_flag=True, help="Print an object.")
@click.option(
    "--consistency",
    type=click.Choice(get_args(Consistency)),
    default="linearizable",
    help="Who may answer, and how old the answer may be.",
)
@click.option(
    "--max-age",
    type=click.FloatRange(min=0.0),
    help="Of a stale read: seconds that the state may be behind.",
)
@click.pass_context
def get_key(
    ctx: click.Context,
    key: str,
    consistency: Consistency,
    max_age: float | None,
    as_json: bool,  # noqa: FBT001 - click's flag
) -> None:
    """Print the value of KEY; exit with status 1 if it is not there."""
    connection: Connection = ctx.obj
    raw_key = _raw(key)
    value = connection.run(
        lambda cluster: KVClient(cluster).get(
            raw_key, consistency=consistency, max_age=max_age
        )
    )
    if as_json:
        _print_object(_member("key", raw_key), _member("value", value))
    if value is None:
        _miss(ctx, key)
    elif not as_json:
        shown = _text_or_bytes(value) if isinstance(value, bytes) else value
        # Bytes that are no text go out as they are, without a newline.
        click.echo(shown, nl=isinstance(shown, str))


@kv.command("delete")
@click.argument("key")
@click.option("--json", "as_json", is_flag=True, help="Print an object.")
@click.pass_context
def delete_key(ctx: click.Context, key: str, as_json: bool) -> None:  # noqa: FBT001 - click's flag
    """Remove KEY; exit with status 1 if it was not there."""
    connection: Connection = ctx.obj
    raw_key = _raw(key)
    was_there = connection.run(lambda cluster: _client(cluster).delete(raw_key))
    if as_json:
        _print_object(_member("key", raw_key), {"deleted": was_there})
    if not was_there:
        _miss(ctx, key)


@kv.command("incr")
@click.argument("key")
@click.argument("by", type=int, default=1)
@click.option("--json", "as_json", is_flag=True, help="Print an object.")
@click.pass_obj
def increment(connection: Connection, key: str, by: int, as_json: bool) -> None:  # noqa: FBT001 - click's flag
    """Add BY, 1 by default, to the number that KEY has, and print the sum."""
    raw_key = _raw(key)
    total = connection.run(lambda cluster: _client(cluster).incr(raw_key, by))
    if as_json:
        _print_object(_member("key", raw_key), {"value": total})
    else:
        click.echo(total)


@kv.command("ls")
@click.argument("prefix", default="")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    help="So many keys at most; all if not given.",
)
@click.option("--values", is_flag=True, help="Print a tab and the value after a key.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print an object with the value for each."
)
@click.pass_obj
def list_keys(
    connection: Connection,
    prefix: str,
    limit: int | None,
    values: bool,  # noqa: FBT001 - click's flag
    as_json: bool,  # noqa: FBT001 - click's flag
) -> None:
    """Print the keys that begin with PREFIX, or all, in their order."""

    async def listing(cluster: Client) -> None:
        left, after, more = limit, None, True
        while more and left != 0:
            page = await KVClient(cluster).page(
                _raw(prefix),
                after=after,
                limit=min(left or _PAGE, _PAGE),
                keys_only=not (values or as_json),
            )
            for key, value, _ in page.items:
                if as_json:
                    _print_object(_member("key", key), _member("value", value))
                else:
                    shown = f"{_shown(key)}\t{_shown(value)}" if values else _shown(key)
                    click.echo(shown)
                after = key
            more = page.more
            left = None if left is None else left - len(page.items)

    connection.run(listing)


@kv.command("watch")
@click.argument("prefix", default="")
@click.option(
    "--from-revision",
    type=click.IntRange(min=1),
    help="The first revision to hear of; by default what comes from now on.",
)
@click.option("--count", type=click.IntRange(min=1), help="End after so many changes.")
@click.option("--json", "as_json", is_flag=True, help="Print an object for each.")
@click.pass_context
def watch_keys(
    ctx: click.Context,
    prefix: str,
    from_revision: int | None,
    count: int | None,
    as_json: bool,  # noqa: FBT001 - click's flag
) -> None:
    """
    Print each change of the keys that begin with PREFIX, or of all, until Ctrl-C.

    A line has the revision, set, delete or expire, the key, and the value that
    was set, with tabs in between.
    """

    async def watching(cluster: Client) -> None:
        left = count
        watched = KVClient(cluster).watch(_raw(prefix), from_revision)
        async for event in watched:
            _print_event(event, as_json=as_json)
            left = None if left is None else left - 1
            if left == 0:
                break
        watched.close()

    connection: Connection = ctx.obj
    try:
        # Whoever asks for so many changes has to know that there were fewer.
        (connection.follow if count is None else connection.run)(watching)
    except CompactedError as error:
        click.echo(f"raft: {error}", err=True)
        ctx.exit(_EXIT_MISSING)


def _print_event(event: Event, *, as_json: bool) -> None:
    if as_json:
        head = {"revision": event.revision, "kind": event.kind}
        _print_object(head, _member("key", event.key), _member("value", event.value))
        return
    words = [str(event.revision), event.kind, _shown(event.key)]
    if event.kind == "set":
        words.append(_shown(event.value))
    click.echo("\t".join(words))


def _shown(value: Value | None) -> str:
    """Return *value* for a line; what is no text is shown by its numbers."""
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    return value or ""


def _client(cluster: Client) -> KVClient:
    """Return a client for one write: not worth a session, and a person looks on."""
    return KVClient(cluster, session=False)


def _miss(ctx: click.Context, key: str) -> None:
    click.echo(f"raft: there is no key {key!r}", err=True)
    ctx.exit(_EXIT_MISSING)


def _raw(word: str) -> bytes:
    """Return the bytes that were typed; Python hides those that are no text."""
    return word.encode("utf-8", "surrogateescape")


def _text_or_bytes(raw: bytes) -> Value:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def _member(name: str, value: Value | None) -> dict[str, Any]:
    """Return *value* for JSON, which has no bytes: those go as Base64."""
    if isinstance(value, bytes):
        value = _text_or_bytes(value)
    if isinstance(value, bytes):
        return {f"{name}_base64": base64.b64encode(value).decode("ascii")}
    return {name: value}


def _print_object(*members: dict[str, Any]) -> None:
    printed: dict[str, Any] = {}
    for member in members:
        printed |= member
    click.echo(json.dumps(printed))
