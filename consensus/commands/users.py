"""``raft users``: the file that says who may do what; it is edited as a whole."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from consensus.access.passwords import hash_password, hash_token, new_token
from consensus.access.users import Role, User, Users, check_name, load, nobody, save
from consensus.commands.connection import EXIT_FAILED, print_findings, print_table
from consensus.errors import ConfigError

if TYPE_CHECKING:
    from consensus.commands.connection import Connection


class _Editor:
    """
    The file, as it was found.

    Args:
        path: Where it is, or is to be.
        is_new: Whether it may be made.
    """

    def __init__(self, path: Path, *, is_new: bool = False) -> None:
        self.path = path
        try:
            is_there = path.exists() or not is_new
            self.found: Users = load(path) if is_there else nobody()
        except ConfigError as error:
            print_findings(error.findings, "raft")
            sys.exit(EXIT_FAILED)

    def user(self, name: str) -> User:
        """Return the user *name*; end the command if there is none."""
        user = self.found.users.get(name)
        if user is None:
            message = f"there is no user {name!r} in {self.path}"
            raise click.ClickException(message)
        return user

    def write(self, name: str, user: User | None) -> None:
        """Let *name* be *user* from now on, or nobody."""
        users = {key: each for key, each in self.found.users.items() if key != name}
        if user is not None:
            users[name] = user
        try:
            save(self.path, Users(self.found.key, users))
        except OSError as error:
            message = f"{self.path} cannot be written: {error.strerror or error}"
            raise click.ClickException(message) from error


_json = click.option("--json", "as_json", is_flag=True, help="Print one object.")


@click.group()
@click.option(
    "--file",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The file of users; by default the one that the config names.",
)
@click.pass_context
def users(ctx: click.Context, path: Path | None) -> None:
    """Say who may do what; the file is the same on every server."""
    connection: Connection = ctx.obj
    if path is None:
        access = connection.config.access
        if access is None:
            message = "the config has no access: section; name the file with --file"
            raise click.UsageError(message)
        path = access.users
    ctx.obj = path


@users.command()
@click.argument("name")
@click.option(
    "--role",
    "roles",
    multiple=True,
    required=True,
    type=click.Choice(["read", "write", "admin"]),
    help="What the user may do; write is to read, too.  Repeatable.",
)
@click.option(
    "--prefix",
    "prefixes",
    multiple=True,
    metavar="TEXT",
    help="Only with keys that begin so; repeatable.",
)
@click.option("--certificate", is_flag=True, help="A certificate of that name will do.")
@click.option("--no-password", is_flag=True, help="Ask for none: see token.")
@_json
@click.pass_obj
def add(  # noqa: PLR0917 - click calls it by name
    path: Path,
    name: str,
    roles: tuple[str, ...],
    prefixes: tuple[str, ...],
    certificate: bool,  # noqa: FBT001 - click's flag
    no_password: bool,  # noqa: FBT001 - click's flag
    as_json: bool,  # noqa: FBT001 - click's flag
) -> None:
    """
    Add the user NAME; make the file if there is none.

    The password is asked for, or is the first line of what is piped in.
    """
    editor = _Editor(path, is_new=True)
    if name in editor.found.users:
        message = f"there is a user {name!r} already"
        raise click.ClickException(message)
    try:
        check_name(name)
        granted = tuple(
            msgspec.convert({"role": role, "prefix": prefix}, Role)
            for role in roles
            for prefix in (prefixes if role != "admin" else ()) or ("",)
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    password = "" if no_password else _asked(name)
    user = User(granted, password, (), certificate)
    editor.write(name, user)
    _tell(_object(name, user), as_json=as_json)


@users.command()
@click.argument("name")
@_json
@click.pass_obj
def passwd(path: Path, name: str, as_json: bool) -> None:  # noqa: FBT001 - click's flag
    """Give NAME another password; it is asked for, or piped in."""
    editor = _Editor(path)
    user = msgspec.structs.replace(editor.user(name), password=_asked(name))
    editor.write(name, user)
    _tell(_object(name, user), as_json=as_json)


@users.command()
@click.argument("name")
@click.option("--revoke", is_flag=True, help="Take all tokens away instead.")
@_json
@click.pass_obj
def token(
    path: Path,
    name: str,
    revoke: bool,  # noqa: FBT001 - click's flag
    as_json: bool,  # noqa: FBT001 - click's flag
) -> None:
    """Print a new token of NAME, which nobody can print again."""
    editor = _Editor(path)
    user = editor.user(name)
    made = "" if revoke else new_token()
    tokens = (*user.tokens, hash_token(made)) if made else ()
    user = msgspec.structs.replace(user, tokens=tokens)
    editor.write(name, user)
    if made and not as_json:
        click.echo(made)
    _tell(_object(name, user) | ({"token": made} if made else {}), as_json=as_json)


@users.command()
@click.argument("name")
@_json
@click.pass_obj
def remove(path: Path, name: str, as_json: bool) -> None:  # noqa: FBT001 - click's flag
    """Remove NAME; servers know it within a second."""
    editor = _Editor(path)
    editor.user(name)
    editor.write(name, None)
    _tell({"user": name}, as_json=as_json)


@users.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects.")
@click.pass_obj
def list_(path: Path, as_json: bool) -> None:  # noqa: FBT001 - click's flag
    """Show the users, and what they may do."""
    found = [_object(*each) for each in _Editor(path).found.users.items()]
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    rows = [
        (
            each["user"],
            "yes" if each["password"] else "no",
            str(each["tokens"]),
            "yes" if each["certificate"] else "no",
            ", ".join(
                f"{role['role']} {role['prefix']}".strip() for role in each["roles"]
            ),
        )
        for each in found
    ]
    print_table(("user", "password", "#tokens", "certificate", "roles"), rows)


def _tell(found: dict[str, Any], *, as_json: bool) -> None:
    """Say what was done, to a program; a person sees that nothing was wrong."""
    if as_json:
        click.echo(json.dumps(found, indent=2))


def _object(name: str, user: User) -> dict[str, Any]:
    """Return what may be seen of *user*."""
    return {
        "user": name,
        "password": bool(user.password),
        "tokens": len(user.tokens),
        "certificate": user.certificate,
        "roles": [msgspec.structs.asdict(each) for each in user.roles],
    }


def _asked(name: str) -> str:
    """Return what is kept of the password that somebody types, or pipes in."""
    if sys.stdin.isatty():
        password = click.prompt(
            f"Password of {name}", hide_input=True, confirmation_prompt=True, err=True
        )
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    try:
        return hash_password(password)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


#: What :mod:`consensus.cli` adds.
COMMANDS = (users,)
