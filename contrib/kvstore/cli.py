"""The commands that ``raft kv`` adds: set, get and delete a key."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, get_args

import click

from consensus.options import Consistency
from contrib.kvstore.client import KVClient

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from consensus.client import Client
    from contrib.kvstore.commands import Value

_T = TypeVar("_T")

_EXIT_MISSING = 1


class Connection(Protocol):
    """What ``raft`` hands to a command as ``ctx.obj``."""

    def run(self, work: Callable[[Client], Awaitable[_T]]) -> _T:
        """Run *work* with a client of the cluster; return its result."""


@click.group()
def kv() -> None:
    """Set, get and delete keys of the key-value store."""


@kv.command("set")
@click.argument("key")
@click.argument("value")
@click.option("--json", "as_json", is_flag=True, help="Print an object.")
@click.pass_obj
def set_key(connection: Connection, key: str, value: str, as_json: bool) -> None:  # noqa: FBT001 - click's flag
    """Give KEY the VALUE."""
    raw_key, given = _raw(key), _text_or_bytes(_raw(value))
    connection.run(lambda cluster: _client(cluster).set(raw_key, given))
    if as_json:
        _print_object(_member("key", raw_key), _member("value", given))


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
