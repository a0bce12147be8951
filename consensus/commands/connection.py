"""What the commands of ``raft`` share: the way to the cluster, and how to print."""

from __future__ import annotations

import json
import math
import sys
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text
from twisted.internet.defer import ensureDeferred
from twisted.internet.error import ReactorNotRunning
from twisted.python.failure import Failure

from consensus import admin, checks, config
from consensus.client import Client
from consensus.clock import default_reactor, monotonic_clock
from consensus.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

    from consensus.admin import Census, Report
    from consensus.config import Config
    from consensus.errors import Finding
    from consensus.guard import Login
    from consensus.interfaces import Transport

_T = TypeVar("_T")

#: Seconds for the members to say how they are, asked all at once.
SURVEY_TIMEOUT = 2.0

#: Seconds until a command gives up: with the start of Python, less than five.
DEFAULT_TIMEOUT = 3.5

#: The file that is read if none is named.
DEFAULT_CONFIG = "config.yaml"

#: How wide a table in a pipe may be.
_PIPE = 240

#: How many columns of a table may be broken, and what is beside each cell.
_BREAKABLE = 2
_BESIDE_A_CELL = 3

EXIT_FAILED = 1
EXIT_NOT_DONE = 2
EXIT_UNKNOWN = 3


def _nobody() -> None:
    return None


class Connection:
    """
    What a command gets as ``ctx.obj``: the way to the cluster of the config.

    Args:
        path: The YAML file; read when it is first needed.
        timeout: Seconds for each call.
        login: Returns who it is, where the servers want to know.
    """

    def __init__(
        self, path: str, timeout: float, login: Callable[[], Login | None] = _nobody
    ) -> None:
        self.path = path
        self.timeout = timeout
        self._login = login
        self._config: Config | None = None
        #: Whether a signal has ended it, so that connections are lost.
        self.is_ending = False

    @property
    def patience(self) -> float:
        """Return how many seconds a member has to say how it is."""
        return min(SURVEY_TIMEOUT, self.timeout)

    @property
    def config(self) -> Config:
        """Return what the file says; end the program if it is wrong."""
        if self._config is None:
            self._config = self.load(needs_serve=False)
        return self._config

    def load(self, serve: Sequence[str] = (), *, needs_serve: bool = True) -> Config:
        """Do as :func:`.config.load`; end the program if the file is wrong."""
        try:
            return config.load(self.path, serve, needs_serve=needs_serve)
        except ConfigError as error:
            print_findings(error.findings, self.path)
            sys.exit(EXIT_FAILED)

    def census(self) -> Census:
        """Ask who belongs to the cluster, and how they are."""
        return self.run(self.count)

    def follow(self, work: Callable[[Client], Awaitable[None]]) -> None:
        """Run *work* as :meth:`run` does, until a signal, which is no failure."""
        with suppress(click.Abort):
            self.run(work)

    async def count(self, cluster: Client) -> Census:
        """Do as :meth:`census` with a client that there is already."""
        chosen = self.config
        return await admin.census(cluster, chosen.members, chosen.join, self.patience)

    def run(self, work: Callable[[Client], Awaitable[_T]]) -> _T:
        """
        Run the coroutine function *work* with a client; return its result.

        It runs the reactor, so it works once in a process.

        Raises:
            SystemExit: The files of ``tls`` cannot be used.
            RaftError: As *work* raised it.  A command that lets it pass ends
                with a message and the exit status that belongs to it.
        """
        chosen, reactor = self.config, default_reactor()
        outcome: list[_T | Failure] = []

        clock = monotonic_clock(reactor)
        transport = self._transport(reactor, clock)

        async def connected() -> _T:
            clock.start()
            addresses = {each: each for each in chosen.join} | dict(chosen.members)
            cluster = Client(addresses, transport, clock, timeout=self.timeout)
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
        reactor.addSystemEventTrigger("before", "shutdown", self._end)
        reactor.run()
        if not outcome:
            raise click.Abort  # by a signal
        (result,) = outcome
        if isinstance(result, Failure):
            result.raiseException()
        return result

    def _end(self) -> None:
        self.is_ending = True

    def _transport(self, reactor: Any, clock: Any) -> Transport:
        engine, tls = self.config.transport, self.config.tls
        transport: Transport = engine.cls(engine.options, reactor, clock)
        login = self._login()
        try:
            if tls is not None:
                transport.secure(tls)
            if login is not None:
                transport.identify(login)
        except ConfigError as error:
            placed = [
                replace(each, line=self.config.line_of(each.path))
                for each in error.findings
            ]
            print_findings(placed, self.path)
            sys.exit(EXIT_FAILED)
        return transport


class Seconds(click.FloatRange):
    """A number of seconds in a range; what is no number is in none."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        """Return the number."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is no number of seconds", param, ctx)
        return number


def member_names(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem[Any]]:
    """Complete the name of a member of the config; none if it cannot be read."""
    del param
    path = ctx.find_root().params.get("path")
    try:
        chosen = config.load(path or DEFAULT_CONFIG, needs_serve=False)
    except (ConfigError, OSError):
        return []
    names = (name for name in chosen.members if name.startswith(incomplete))
    return [CompletionItem(name) for name in names]


def print_json(found: Any) -> None:
    """Print *found* for a program."""
    click.echo(json.dumps(found, indent=2))


def print_json_line(found: Any) -> None:
    """Print *found* as one line, at once."""
    click.echo(json.dumps(found))


def print_findings(findings: Iterable[Finding], source: str) -> None:
    """Print each of *findings*, of the file *source*, on standard error."""
    for finding in findings:
        click.echo(checks.render(finding, source), err=True)


def table_of(
    columns: Sequence[str], rows: Iterable[Sequence[str]], width: int
) -> Table | Text:
    """
    Return *rows* as a table, or, where *width* is too little, one below the other.

    A column whose name begins with ``#`` has numbers.  The last two columns may
    be broken, between words, to fit a screen.
    """
    names, rows = [name.removeprefix("#") for name in columns], list(rows)
    if rows and _width_of(names, rows) > width:
        return _listed(names, rows)
    table = Table(box=box.SIMPLE_HEAD)
    for number, name in enumerate(columns, 1):
        table.add_column(
            name.removeprefix("#"),
            justify="right" if name.startswith("#") else "left",
            no_wrap=number <= len(columns) - _BREAKABLE,
            overflow="fold",
        )
    for row in rows:
        # As text: brackets in an address are no markup.
        table.add_row(*(Text(cell) for cell in row))
    return table


def _width_of(names: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """Return how wide a screen has to be for a table of *rows*."""
    width = 1
    for number, column in enumerate(zip(names, *rows, strict=True), 1):
        is_whole = number <= len(names) - _BREAKABLE
        words = column if is_whole else [w for cell in column for w in cell.split()]
        width += max(map(cell_len, words), default=0) + _BESIDE_A_CELL
    return width


def _listed(names: Sequence[str], rows: Sequence[Sequence[str]]) -> Text:
    """Return a line for each cell, and an empty one between two rows."""
    longest = max(map(cell_len, names))
    blocks = (
        "\n".join(
            f"{name:<{longest}}  {cell}" for name, cell in zip(names, row, strict=True)
        )
        for row in rows
    )
    return Text("\n\n".join(blocks))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print what :func:`table_of` makes of them; in a pipe it is always a table."""
    console = Console()
    width = console.width
    if not console.is_terminal:
        console.width, width = _PIPE, sys.maxsize
    console.print(table_of(columns, rows, width))


#: The columns of :func:`status_cells`.
STATUS_COLUMNS = (
    *("server", "role", "#term", "#commit index", "#last applied"),
    *("member", "address", "reachable"),
)


def status_object(report: Report) -> dict[str, Any]:
    """Return *report* for a program."""
    found = {
        "server": report.server,
        "address": report.address,
        "standing": report.standing,
    }
    if report.status is None:
        return found | {"reachable": False, "error": report.error}
    return asdict(report.status) | found | {"reachable": True}


def status_cells(report: Report) -> tuple[str, ...]:
    """Return *report* as a row of a table."""
    status = report.status
    numbers = ("term", "commit_index", "last_applied")
    return (
        report.server,
        status.role if status else "-",
        *(str(getattr(status, each)) if status else "-" for each in numbers),
        report.standing or "-",
        report.address,
        "yes" if status else f"no: {report.error}",
    )


@contextmanager
def progress(
    title: str, *, is_shown: bool = True
) -> Iterator[Callable[[int, int], None]]:
    """
    Lend what is called with what is done and how much there is.

    A bar shows it, on standard error, and only if that is a terminal.

    Args:
        title: What is going on.
        is_shown: Whether there is a bar at all.
    """
    console = Console(stderr=True)
    if not (is_shown and console.is_terminal):
        # A bar that is disabled leaves an empty line, by older releases of rich.
        yield lambda _done, _total: None
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(title, total=None)

        def on_progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total or None)

        yield on_progress
