"""Which log a command is about: a stopped server's, or a running one's."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from consensus import admin, registry
from consensus.commands.connection import EXIT_FAILED, print_findings
from consensus.errors import ConfigError, InvalidChangeError, UnreachableError
from consensus.history.source import opened
from consensus.shell.log_pages import MAX_ENTRIES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from consensus.client import Client
    from consensus.commands.connection import Connection
    from consensus.config import Config
    from consensus.core.values import Address, Entry, LogIndex
    from consensus.history.source import History, Progress
    from consensus.interfaces import StateMachine
    from consensus.settings.values import Engine

#: Behind the end of every log.
_BEHIND = (1 << 63) - 1


def _fail(message: str) -> None:
    click.echo(f"raft: {message}", err=True)
    sys.exit(EXIT_FAILED)


@dataclass(frozen=True, slots=True)
class Source:
    """
    Where a log is, and who knows its commands.

    Args:
        connection: The way to the config, and to the cluster.
        serve: A member of the config whose directory it is.
        directory: A data directory.
        server: A member that is running, and to be asked.
        machine: The name of a state machine instead of the config's.
    """

    connection: Connection
    serve: str | None = None
    directory: Path | None = None
    server: str | None = None
    machine: str | None = None

    @property
    def is_online(self) -> bool:
        """Say whether a running server is asked."""
        return self.server is not None

    def _config(self) -> Config | None:
        """Return the config; ``None`` if there is no such file, and no need of it."""
        if self.directory is not None and not Path(self.connection.path).exists():
            return None
        return self.connection.config

    def path(self) -> Path:
        """Return the data directory; end the program if none is named."""
        if self.directory is not None:
            return self.directory
        chosen = self.connection.config
        names = [self.serve] if self.serve is not None else list(chosen.serve)
        if len(names) != 1:
            _fail("say whose log: --serve NAME, --directory DIR or --server NAME")
        if names[0] not in chosen.members:
            _fail(f"there is no member {names[0]!r}")
        return chosen.directory(names[0])

    def engine(self) -> Engine | None:
        """Return the storage engine of the config, if there is one."""
        chosen = self._config()
        return None if chosen is None else chosen.storage

    @contextmanager
    def opened(self) -> Iterator[History]:
        """Lend the log of the stopped server; end the program if it runs."""
        with explained(), opened(self.path(), self.engine()) as history:
            yield history

    def make_machine(self) -> StateMachine:
        """Make a state machine; end the program if none is known."""
        made = self.known_machine()
        if made is None:
            _fail("say what the log's state machine is: --machine NAME, or a config")
        assert made is not None  # noqa: S101 - for mypy: the line before ends it
        return made

    def known_machine(self) -> StateMachine | None:
        """Return a state machine; ``None`` if none is known."""
        if self.machine is not None:
            try:
                cls = registry.resolve("state_machine", self.machine)
            except registry.EngineError as error:
                raise click.ClickException(str(error)) from error
            return self._with_options(cls)
        chosen = self._config()
        if chosen is None:
            return None
        engine = chosen.state_machine
        machine: StateMachine = engine.cls(engine.options)
        return machine

    def _with_options(self, cls: type[Any]) -> StateMachine:
        """Make a *cls*, with the options of the config if it is the same."""
        chosen = self._config()
        is_same = chosen is not None and chosen.state_machine.cls is cls
        machine: StateMachine = cls(
            chosen.state_machine.options if chosen and is_same else None
        )
        return machine

    def each(
        self,
        take: Callable[[Entry], object],
        first: LogIndex,
        last: LogIndex | None,
        tail: int | None,
        on_progress: Progress,
    ) -> None:
        """
        Call *take* with each entry of a part of the log.

        Args:
            take: Of one entry.
            first: The first one; those that are gone are left out.
            last: The last one; to the end if ``None``.
            tail: The last so many of these.
            on_progress: Called now and then.
        """
        if self.is_online:
            self.connection.run(
                lambda cluster: self._ask(cluster, take, first, last, tail)
            )
            return
        with self.opened() as history:
            end = history.last_index if last is None else min(last, history.last_index)
            begin = max(first, end - tail + 1) if tail is not None else first
            for entry in history.entries(begin, end, on_progress):
                take(entry)

    async def _ask(
        self,
        cluster: Client,
        take: Callable[[Entry], object],
        first: LogIndex,
        last: LogIndex | None,
        tail: int | None,
    ) -> None:
        address = await self._address(cluster)
        page = await admin.log_page(cluster, address, _BEHIND, 1)
        end = page.last_index if last is None else min(last, page.last_index)
        if tail is not None:
            first = max(first, end - tail + 1)
        while first <= end:
            wanted = min(end - first + 1, MAX_ENTRIES)
            page = await admin.log_page(cluster, address, first, wanted)
            if not page.entries:
                return  # cut off meanwhile
            for entry in page.as_entries():
                if entry.index <= end:
                    take(entry)
            first = page.entries[-1][0] + 1

    async def _address(self, cluster: Client) -> Address:
        known = self.connection.config.members.get(self.server or "")
        if known is not None:
            return known
        counted = await self.connection.count(cluster)
        found = {each.server: each.address for each in admin.reports_of(counted)}
        if self.server in found:
            return found[self.server]
        if counted.newest is None:
            raise UnreachableError("none of the members answers")
        message = f"{self.server} is no member; those are: {', '.join(found)}"
        raise InvalidChangeError(message)


@contextmanager
def explained() -> Iterator[None]:
    """End the program, with what to do, where a directory cannot be looked at."""
    try:
        yield
    except ConfigError as error:
        print_findings(error.findings, "")
        if any(each.id == "datadir.E008" for each in error.findings):
            click.echo("raft: or ask the running server: --server NAME", err=True)
        sys.exit(EXIT_FAILED)
    except InvalidChangeError as error:
        _fail(str(error))


_OFFLINE = (
    click.option("--serve", metavar="NAME", help="The log of this stopped member."),
    click.option(
        "--directory",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        metavar="DIR",
        help="The log in this data directory, or in a copy of one.",
    ),
)
_ONLINE = (click.option("--server", metavar="NAME", help="Ask this running member."),)
_MACHINE = (
    click.option(
        "--machine",
        metavar="MACHINE",
        help="The state machine, as in a config; by default the config's.",
    ),
)


def source_options(*, online: bool = False, machine: bool = True) -> Callable[..., Any]:
    """
    Return a decorator that gives a command a :class:`Source` as its first argument.

    Args:
        online: Whether a running server may be asked.
        machine: Whether commands are decoded.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @click.pass_obj
        @wraps(command)
        def run(
            connection: Connection,
            /,
            *arguments: Any,
            serve: str | None,
            directory: Path | None,
            **options: Any,
        ) -> Any:
            server, name = options.pop("server", None), options.pop("machine", None)
            if sum(each is not None for each in (serve, directory, server)) > 1:
                message = "only one of --serve, --directory and --server"
                raise click.UsageError(message)
            source = Source(connection, serve, directory, server, name)
            return command(source, *arguments, **options)

        for option in (*_OFFLINE, *_ONLINE * online, *_MACHINE * machine):
            run = option(run)
        return run

    return decorate
