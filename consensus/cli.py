"""
The ``raft`` command: it parses arguments and prints.

The work is done in :mod:`consensus.admin` and :mod:`consensus.checks`, and by
the commands that applications add under the entry point group
``consensus.command``: a name and a :class:`click.Command`, whose ``ctx.obj``
is a :class:`Connection`.
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from twisted.internet.defer import ensureDeferred
from twisted.internet.error import ReactorNotRunning
from twisted.python.failure import Failure

from consensus import admin, checks, config, registry
from consensus.client import Client
from consensus.clock import default_reactor, monotonic_clock
from consensus.errors import (
    ConfigError,
    InvalidChangeError,
    InvalidCommandError,
    OutcomeUnknownError,
    RaftError,
    RejectedError,
    UnreachableError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterable

    from consensus.admin import Report
    from consensus.config import Config
    from consensus.errors import Finding

_T = TypeVar("_T")

#: Seconds for the members to say how they are, asked all at once.
SURVEY_TIMEOUT = 2.0

#: Seconds until a command gives up: with the start of Python, less than five.
DEFAULT_TIMEOUT = 3.5

EXIT_FAILED = 1
EXIT_NOT_DONE = 2
EXIT_UNKNOWN = 3

_EPILOG = """\
Exit status: 0 done; 1 refused, or not found; 2 nothing was done because no server
could be reached or none leads, so try again (or the command line is wrong); 3 it is
not known whether it was done.
"""


class Connection:
    """
    What a command gets as ``ctx.obj``: the way to the cluster of the config.

    Args:
        path: The YAML file; read when it is first needed.
        timeout: Seconds for each call.
    """

    def __init__(self, path: str, timeout: float) -> None:
        self.path = path
        self.timeout = timeout
        self._config: Config | None = None

    @property
    def config(self) -> Config:
        """Return what the file says; end the program if it is wrong."""
        if self._config is None:
            try:
                self._config = config.load(self.path, needs_serve=False)
            except ConfigError as error:
                _print_findings(error.findings, self.path)
                sys.exit(EXIT_FAILED)
        return self._config

    def run(self, work: Callable[[Client], Awaitable[_T]]) -> _T:
        """
        Run the coroutine function *work* with a client; return its result.

        It runs the reactor, so it works once in a process.

        Raises:
            RaftError: As *work* raised it.  A command that lets it pass ends
                with a message and the exit status that belongs to it.
        """
        chosen, reactor = self.config, default_reactor()
        outcome: list[_T | Failure] = []

        async def connected() -> _T:
            clock = monotonic_clock(reactor)
            clock.start()
            transport = chosen.transport.cls(chosen.transport.options, reactor, clock)
            cluster = Client(chosen.members, transport, clock, timeout=self.timeout)
            try:
                return await work(cluster)
            finally:
                await cluster.close()
                clock.stop()

        def finish(result: _T | Failure) -> None:
            outcome.append(result)
            with suppress(ReactorNotRunning):  # a signal came first
                reactor.stop()

        def begin() -> None:
            ensureDeferred(connected()).addBoth(finish)

        reactor.callWhenRunning(begin)
        reactor.run()
        if not outcome:
            raise click.Abort  # by a signal
        (result,) = outcome
        if isinstance(result, Failure):
            result.raiseException()
        return result


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
    if isinstance(error, InvalidCommandError | InvalidChangeError):
        return EXIT_FAILED  # to try again is of no use
    if isinstance(error, RejectedError):
        return EXIT_NOT_DONE
    return EXIT_FAILED


@click.group(cls=_Raft, epilog=_EPILOG)
@click.option(
    "-c",
    "--config",
    "path",
    envvar="RAFT_CONFIG",
    default="config.yaml",
    show_default=True,
    show_envvar=True,
    metavar="FILE",
    help="The YAML file of the cluster.",
)
@click.option(
    "--timeout",
    default=DEFAULT_TIMEOUT,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="How long to wait for the cluster.",
)
@click.version_option(package_name=registry.DISTRIBUTION)
@click.pass_context
def raft(ctx: click.Context, path: str, timeout: float) -> None:
    """Look after a Raft cluster, and use it."""
    ctx.obj = Connection(path, timeout)


@raft.command()
@click.option(
    "--serve", multiple=True, metavar="NAME", help="As for twistd raft; repeatable."
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
        _print_findings(findings, connection.path)
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
        click.echo(json.dumps([_as_object(each) for each in reports], indent=2))
    else:
        _print_table(reports)
    _demand_an_answer(reports)


@raft.command()
@click.pass_obj
def leader(connection: Connection) -> None:
    """Print the name of the leader."""
    reports = _survey(connection)
    _demand_an_answer(reports)
    name = admin.find_leader(reports)
    if name is None:
        click.echo("raft: no server that answers leads", err=True)
        sys.exit(EXIT_FAILED)
    click.echo(name)


@raft.command()
@click.argument("server", required=False)
@click.pass_obj
def transfer(connection: Connection, server: str | None) -> None:
    """
    Hand leadership over to SERVER, or to one that is up to date.

    Nothing is lost, and no election timeout passes.
    """
    heir = connection.run(lambda cluster: admin.transfer(cluster, server))
    click.echo(f"{heir} leads now")


def _survey(connection: Connection) -> list[Report]:
    members = connection.config.members
    timeout = min(SURVEY_TIMEOUT, connection.timeout)

    async def work(cluster: Client) -> list[Report]:
        return await admin.survey(cluster, members, timeout)

    return connection.run(work)


def _demand_an_answer(reports: Iterable[Report]) -> None:
    if all(report.status is None for report in reports):
        click.echo("raft: no server can be reached", err=True)
        sys.exit(EXIT_NOT_DONE)


def _print_findings(findings: Iterable[Finding], source: str) -> None:
    for finding in findings:
        click.echo(checks.render(finding, source), err=True)


def _as_object(report: Report) -> dict[str, Any]:
    found = {"server": report.server, "address": report.address}
    if report.status is None:
        return found | {"reachable": False, "error": report.error}
    return asdict(report.status) | found | {"reachable": True}


def _print_table(reports: Iterable[Report]) -> None:
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("server", "role"):
        table.add_column(name, no_wrap=True)
    for name in ("term", "commit index", "last applied"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("address", "reachable"):
        table.add_column(name, overflow="fold")
    for report in reports:
        table.add_row(*(Text(cell) for cell in _cells(report)))
    console = Console()
    if not console.is_terminal:
        # For a pipe: no cell is broken to fit the width of a screen.
        console.width = 240
    console.print(table)


def _cells(report: Report) -> Generator[str, None, None]:
    status = report.status
    yield report.server
    yield status.role if status else "-"
    for number in ("term", "commit_index", "last_applied"):
        yield str(getattr(status, number)) if status else "-"
    yield report.address
    yield "yes" if status else f"no: {report.error}"


def main() -> None:
    """Run the ``raft`` command."""
    raft()
