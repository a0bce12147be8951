"""
``twistd raft``: a config becomes a tree of Twisted services.

Everything that can be refused is refused before ``twistd`` leaves the
terminal: the config is read and checked when the service is made, and no file
is opened and no thread begun before it is started.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from twisted.application.service import MultiService
from twisted.internet.defer import inlineCallbacks, maybeDeferred
from twisted.internet.error import ReactorNotRunning
from twisted.logger import Logger
from twisted.python import usage

from consensus import checks, config, logs, reload
from consensus.clock import default_reactor
from consensus.errors import ConfigError
from consensus.http.port import HTTPPort
from consensus.interpreter import tune_interpreter
from consensus.server import RaftServer

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence

    from twisted.internet.defer import Deferred
    from twisted.python.failure import Failure

    from consensus.config import Config
    from consensus.core.values import ServerId
    from consensus.errors import Finding
    from consensus.http.routes import Route

_log = Logger()


class Options(usage.Options):
    """What follows ``twistd raft``."""

    synopsis = "[options] raft --config FILE [--serve NAME]..."

    longdesc = (
        "Runs the members of a Raft cluster that FILE, or --serve, names."
        " With --nodaemon no pidfile is written unless --pidfile names one:"
        " the servers of several processes may run from one directory."
    )

    optParameters: ClassVar[list[list[str | None]]] = [  # noqa: N815 - Twisted's name
        ["config", "c", None, "the YAML file; see config.example.yaml"]
    ]

    def opt_serve(self, name: str) -> None:
        """Host this member, and not those in the file; may be repeated."""
        self.setdefault("serve", []).append(name)

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """
        Take *options*, or end with one line on what is wrong.

        Twisted would print the whole of its own help before it.
        """
        try:
            super().parseOptions(options)  # type: ignore[no-untyped-call]
        except usage.UsageError as error:
            message = f"twistd raft: {error}; see twistd raft --help"
            raise SystemExit(message) from None

    def postOptions(self) -> None:
        """Ask for a config; see to the pidfile."""
        if self["config"] is None:
            raise usage.UsageError("say which YAML file to use: --config FILE")
        self._skip_pidfile()
        if self.parent is not None:
            logs.ask_twistd(self.parent)

    def _skip_pidfile(self) -> None:
        # Twisted writes twistd.pid into the current directory even in the
        # foreground, and the next process there would refuse to start.
        parent = self.parent
        if (
            parent is not None
            and parent.get("nodaemon")
            and parent.get("pidfile") == parent.defaults.get("pidfile")
        ):
            parent["pidfile"] = ""


class RaftService(MultiService):
    """
    The servers of one process.

    Args:
        config: What they run; one server is made for each of ``serve``.
        give_up: Called once when the last of them has failed.
        make: Makes a server.
        routes: What the servers answer on HTTP besides.
        load: Reads the config again, when the process gets SIGHUP.
    """

    def __init__(
        self,
        config: Config,
        give_up: Callable[[], None],
        make: Callable[[Config, ServerId], Any] = RaftServer,
        routes: Sequence[Route] = (),
        load: Callable[[], Config] | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._load = load
        self._servers: list[Any] = []
        self._config = config
        self._give_up = give_up
        self._alive = set(config.serve)
        self._ports: list[HTTPPort] = []
        for name in config.serve:
            server = make(config, name)
            server.on_failure = self._failed
            self._servers.append(server)
            server.setServiceParent(self)
            address = config.http_address_of(name)
            if address:
                self._ports.append(HTTPPort(server, address, more=routes))

    def startService(self) -> None:
        """Start every server; say what each of them uses."""
        for name in self._config.serve:
            self._announce(name)
        super().startService()  # type: ignore[no-untyped-call]
        for port in self._ports:
            port.startService().addErrback(self._has_no_port)

        if self._load is not None:
            signal.signal(signal.SIGHUP, self._hang_up)

    def _hang_up(self, *_: object) -> None:
        """Read the config again, in a turn of the reactor's own."""
        default_reactor().callFromThread(self.reload)

    def reload(self) -> None:
        """Read the config again; see :mod:`consensus.reload`."""
        if self._load is not None and self.running:
            self._config = reload.read_again(
                self._config, self._load, self._servers, logs.adopt
            )

    @inlineCallbacks
    def stopService(self) -> Generator[Deferred[Any], Any, None]:
        """Stop every server, and then answer HTTP no more."""
        yield maybeDeferred(super().stopService)
        for port in self._ports:
            yield port.stopService()

    def _has_no_port(self, failure: Failure) -> None:
        """End: who watches this process could not tell what is wrong."""
        _log.critical("{error}", error=failure.value)
        self._give_up()

    def _announce(self, name: ServerId) -> None:
        chosen, durable = self._config, self._config.storage.cls.durable
        _log.info(
            "starting {server} of {cluster} at {address}, data in {directory}:"
            " {state_machine} over {transport} and {storage}",
            server=name,
            cluster=chosen.cluster,
            address=chosen.address_of(name),
            directory=chosen.data_dir / name if durable else "memory",
            state_machine=chosen.state_machine.name,
            transport=chosen.transport.name,
            storage=chosen.storage.name,
        )

    def _failed(self, server: Any, error: Exception) -> None:
        """Note that *server* stopped by itself; it has logged why."""
        if server.name not in self._alive:
            return
        self._alive.remove(server.name)
        if self._alive:
            _log.warn(
                "{server} is down; this process still runs {others}",
                server=server.name,
                others=", ".join(sorted(self._alive)),
            )
            return
        _log.critical(
            "no server is left in this process; it ends: {error}", error=error
        )
        self._give_up()


class _ExitStatus:
    """
    Lets a process end with status 1 after its reactor has stopped in order.

    ``twistd`` returns normally then, which means 0, and nothing that it calls
    can change that: an exception out of the reactor is printed and dropped.
    So the last word is spoken at the exit of the interpreter.
    """

    def __init__(self) -> None:
        self._is_failure = False
        # What is registered later, by adapters for instance, runs earlier.
        atexit.register(self._leave)

    def fail(self) -> None:
        """Stop the reactor, and let the process end with status 1."""
        self._is_failure = True
        with suppress(ReactorNotRunning):  # it is about to stop already
            default_reactor().stop()

    def _leave(self) -> None:
        if self._is_failure:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)


def makeService(options: Options) -> MultiService:
    """
    Return the service of the servers that *options* ask for.

    Findings go to stderr, one a line; with an error among them the process
    ends here, with status 1.
    """
    status = _ExitStatus()
    path, serve = options["config"], options.get("serve", ())
    loaded = _load(path, serve)
    logs.adopt(loaded.log)
    # All that the servers need is imported by now.
    tune_interpreter()
    # With another working directory, as a daemon has, the file is the same.
    load = partial(config.load, Path(path).absolute(), serve)
    return RaftService(loaded, status.fail, load=load)


def _load(path: str, serve: Sequence[ServerId]) -> Config:
    try:
        loaded = config.load(path, serve)
    except ConfigError as error:
        _print(error.findings, path)
        raise SystemExit(1) from None
    findings = checks.run(loaded)
    _print(findings, path)
    if not all(finding.is_warning for finding in findings):
        raise SystemExit(1)
    return loaded


def _print(findings: Iterable[Finding], source: str) -> None:
    for finding in findings:
        sys.stderr.write(checks.render(finding, source) + "\n")
