"""
The ``raft`` command: it parses arguments and prints.

The work is done in :mod:`consensus.admin`, :mod:`consensus.checks` and
:mod:`consensus.migration`, and by the commands that applications add under the
entry point group ``consensus.command``: a name and a :class:`click.Command`,
whose ``ctx.obj`` is a :class:`Connection`.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from consensus import admin, checks, config, migration, registry
from consensus.commands import (
    backup,
    bench,
    certs,
    compact,
    completion,
    dev,
    doctor,
    events,
    explain,
    log,
    log_states,
    users,
    watch_status,
)
from consensus.commands import members as member_commands
from consensus.commands.connection import (
    DEFAULT_CONFIG,
    DEFAULT_TIMEOUT,
    EXIT_FAILED,
    EXIT_NOT_DONE,
    EXIT_UNKNOWN,
    STATUS_COLUMNS,
    Connection,
    Seconds,
    member_names,
    print_findings,
    print_json,
    print_table,
    progress,
    status_cells,
    status_object,
)
from consensus.errors import (
    AuthenticationError,
    ConfigError,
    InvalidChangeError,
    InvalidCommandError,
    MembershipPendingError,
    OutcomeUnknownError,
    PermissionDeniedError,
    RaftError,
    RejectedError,
    UnreachableError,
)
from consensus.guard import Login

if TYPE_CHECKING:
    from collections.abc import Iterable

    from consensus.admin import Report

_EPILOG = """\
Exit status: 0 done; 1 refused, or not found; 2 nothing was done because no server
could be reached or none leads, so try again (or the command line is wrong); 3 it is
not known whether it was done.
"""


class _Raft(click.Group):
    """Our own commands, those of the applications, and what errors mean."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return all names: ours, then those that were installed."""
        ours = super().list_commands(ctx)
        return [*ours, *(each for each in registry.command_names() if each not in ours)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command; one of an application is imported only now."""
        ours = super().get_command(ctx, cmd_name)
        if ours is not None or cmd_name not in registry.command_names():
            return ours
        try:
            found = registry.load_command(cmd_name)
        except registry.EngineError as error:
            return _broken(cmd_name, str(error))
        if isinstance(found, click.Command):
            return found
        return _broken(cmd_name, f"{cmd_name!r} is no click command")

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; end with its error's message and exit status."""
        try:
            return super().invoke(ctx)
        except RaftError as error:
            click.echo(f"raft: {_explain(error)}", err=True)
            ctx.exit(_exit_status(error))
        except click.UsageError:
            raise  # click shows how it is used
        except click.ClickException as error:
            click.echo(f"raft: {error.format_message()}", err=True)
            ctx.exit(error.exit_code)


def _broken(name: str, reason: str) -> click.Command:
    def fail() -> None:
        raise click.ClickException(reason)

    return click.Command(
        name,
        callback=fail,
        short_help=f"(cannot be used: {reason})",
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )


def _explain(error: RaftError) -> str:
    if isinstance(error, UnreachableError):
        return f"no server can be reached: {error}"
    if isinstance(error, OutcomeUnknownError):
        return f"it is not known whether this was done: {error}"
    if isinstance(error, RejectedError):
        return f"nothing was done: {error}"
    return str(error)


def _exit_status(error: RaftError) -> int:
    if isinstance(error, OutcomeUnknownError):
        return EXIT_UNKNOWN
    if isinstance(
        error,
        InvalidCommandError
        | InvalidChangeError
        | MembershipPendingError
        | AuthenticationError
        | PermissionDeniedError,
    ):
        return EXIT_FAILED  # to try again at once is of no use
    if isinstance(error, RejectedError):
        return EXIT_NOT_DONE
    return EXIT_FAILED


@click.group(cls=_Raft, epilog=_EPILOG)
@click.option(
    "-c",
    "--config",
    "path",
    envvar="RAFT_CONFIG",
    default=DEFAULT_CONFIG,
    show_default=True,
    show_envvar=True,
    metavar="FILE",
    help="The YAML file of the cluster.",
)
@click.option(
    "--timeout",
    default=DEFAULT_TIMEOUT,
    show_default=True,
    type=Seconds(min=0, min_open=True),
    metavar="SECONDS",
    help="How long to wait for the cluster.",
)
@click.option(
    "--user",
    envvar="RAFT_USER",
    show_envvar=True,
    metavar="NAME",
    help="Who you are, where servers want to know.  RAFT_PASSWORD is the password, "
    "asked for if it is not set; RAFT_TOKEN a token instead of both.",
)
@click.version_option(package_name=registry.DISTRIBUTION)
@click.pass_context
def raft(ctx: click.Context, path: str, timeout: float, user: str | None) -> None:
    """Look after a Raft cluster, and use it."""
    ctx.obj = Connection(path, timeout, lambda: _login(user or ""))


def _login(user: str) -> Login | None:
    """Return what to say to servers that want to know who calls."""
    token = os.environ.get("RAFT_TOKEN", "")
    if not user:
        return Login(token=token) if token else None
    password = os.environ.get("RAFT_PASSWORD", "")
    if not (password or token):
        password = click.prompt(f"Password of {user}", hide_input=True, err=True)
    return Login(user, password, token)


@raft.command()
@click.option(
    "--serve",
    multiple=True,
    shell_complete=member_names,
    metavar="NAME",
    help="As for twistd raft; repeatable.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects.")
@click.pass_obj
def check(connection: Connection, serve: tuple[str, ...], as_json: bool) -> None:  # noqa: FBT001 - click's flag
    """
    Say what speaks against a start.

    For the moment before one: a server that runs already holds its port and
    its data directory, and both are then reported.
    """
    try:
        chosen = config.load(connection.path, serve)
        findings = checks.run(chosen)
    except ConfigError as error:
        findings = list(error.findings)
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        print_findings(findings, connection.path)
    if not all(finding.is_warning for finding in findings):
        sys.exit(EXIT_FAILED)
    if not as_json:
        click.echo(f"{connection.path}: ok")


@raft.command()
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects.")
@click.pass_obj
def status(connection: Connection, as_json: bool) -> None:  # noqa: FBT001 - click's flag
    """Show every member: its role, its term, and how far its log is."""
    reports = _survey(connection)
    if as_json:
        print_json([status_object(each) for each in reports])
    else:
        print_table(STATUS_COLUMNS, map(status_cells, reports))
    _demand_an_answer(reports)


@raft.command()
@click.option("--json", "as_json", is_flag=True, help="Print an object.")
@click.pass_obj
def leader(connection: Connection, *, as_json: bool) -> None:
    """Print the name of the leader."""
    reports = _survey(connection)
    _demand_an_answer(reports)
    name = admin.find_leader(reports)
    if as_json:
        ours = [each for each in reports if each.server == name and each.status]
        terms = [each.status.term for each in ours if each.status]
        print_json(
            {
                "leader": name,
                "address": ours[0].address if ours else None,
                "term": terms[0] if terms else None,
            }
        )
    if name is None:
        click.echo("raft: no server that answers leads", err=True)
        sys.exit(EXIT_FAILED)
    if not as_json:
        click.echo(name)


@raft.command()
@click.argument("server", required=False, shell_complete=member_names)
@click.option("--json", "as_json", is_flag=True, help="Print an object.")
@click.pass_obj
def transfer(connection: Connection, server: str | None, *, as_json: bool) -> None:
    """
    Hand leadership over to SERVER, or to one that is up to date.

    Nothing is lost, and no election timeout passes.
    """
    heir = connection.run(lambda cluster: admin.transfer(cluster, server))
    if as_json:
        print_json({"leader": heir})
    else:
        click.echo(f"{heir} leads now")


@raft.group()
def storage() -> None:
    """Look after what servers keep on disk."""


@storage.command()
@click.option(
    "--to", required=True, metavar="ENGINE", help="The engine that takes over."
)
@click.option(
    "--serve",
    multiple=True,
    shell_complete=member_names,
    metavar="NAME",
    help="As for twistd raft; repeatable.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects.")
@click.pass_obj
def migrate(
    connection: Connection,
    to: str,
    serve: tuple[str, ...],
    as_json: bool,  # noqa: FBT001 - click's flag
) -> None:
    """
    Move stopped servers' logs to another storage engine.

    All is read back and compared before the old engine's files go.
    """
    chosen = config.load(connection.path, serve)
    done = []
    for server in chosen.serve:
        with progress(server, is_shown=not as_json) as on_progress:
            moved = migration.run(migration.plan(chosen, server, to), on_progress)
        done.append(moved)
        if not as_json:
            click.echo(
                f"{server}: entries {moved.first_index} to {moved.last_index} moved"
                f" from {moved.source} to {moved.target}"
            )
    if as_json:
        click.echo(json.dumps([asdict(each) for each in done], indent=2))
    elif chosen.storage.name != to:
        click.echo(f"now let {connection.path} say: storage: {to}")


def _survey(connection: Connection) -> list[Report]:
    return admin.reports_of(connection.census())


def _demand_an_answer(reports: Iterable[Report]) -> None:
    if all(report.status is None for report in reports):
        click.echo("raft: no server can be reached", err=True)
        sys.exit(EXIT_NOT_DONE)


for _module in (
    *(member_commands, compact, watch_status, events, explain, bench, completion),
    *(log, log_states, backup, certs, users, dev, doctor),
):
    for _command in _module.COMMANDS:
        raft.add_command(_command)


def main() -> None:
    """Run the ``raft`` command."""
    raft()
