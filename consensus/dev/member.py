"""One member of ``raft dev``, in a process of its own."""

from __future__ import annotations

import sys
import sysconfig
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ReactorNotRunning
from twisted.internet.stdio import StandardIO
from twisted.logger import (
    FilteringLogObserver,
    LogLevel,
    LogLevelFilterPredicate,
    eventAsText,
    globalLogBeginner,
)

from consensus import checks, config
from consensus.clock import default_reactor
from consensus.core.ready import RoleChanged
from consensus.dev.channel import (
    NEWS,
    Answer,
    Channel,
    Conditions,
    Order,
    Question,
    Role,
    Started,
    decode_order,
)
from consensus.dev.faulty import Weather, suffering
from consensus.dev.routes import routes
from consensus.errors import ConfigError
from consensus.server import RaftServer
from consensus.service import RaftService

if TYPE_CHECKING:
    from twisted.application.service import MultiService

    from consensus.core.ready import Event
    from consensus.dev.wall_clock import WallClock

#: More at once can only be somebody's mistake.
_MOST_QUESTIONS = 100
_OVERLOADED = {"error": {"code": "overloaded", "message": "too many questions"}}

#: Who says less than a developer would read: ports open and close.
_SILENT = (
    *("twisted", "log_legacy"),
    *("adapters.transport.amp_factory", "consensus.http.requests"),
)

#: Whose modules are not the user's: a change there does not reload anything.
_FRAMEWORK = {"consensus", "adapters", "twisted"}


class DevServer(RaftServer):
    """A server that tells ``raft dev`` of itself."""

    #: What it tells its news.
    tell: Any = None

    def heard(self, event: Event) -> None:
        """Hear of what the core reports; tell of roles."""
        super().heard(event)
        if isinstance(event, RoleChanged):
            self.tell(Role(event.role.value, event.term, event.leader))


class _Member:
    """
    The member of this process.

    Args:
        clock: The wall clock.
        weather: What its adapters suffer.
    """

    def __init__(self, clock: WallClock, weather: Weather) -> None:
        self._clock = clock
        self._weather = weather
        self._is_failure = False
        self._asked: dict[int, Deferred[Answer]] = {}
        self._numbers = count()
        self.channel = Channel(self.hear, self.end)

    @property
    def exit_status(self) -> int:
        """Return what the process ends with."""
        return int(self._is_failure)

    def hear(self, order: Order) -> None:
        """Do what ``raft dev`` says."""
        if isinstance(order, Conditions):
            self._clock.skew = order.skew
            self._weather.set(order)
        elif (waiter := self._asked.pop(order.id, None)) is not None:
            waiter.callback(order)

    def ask(self, fault: str, server: str, on: bool) -> Deferred[Answer]:  # noqa: FBT001 - a switch
        """Ask ``raft dev`` for its faults, or to change one."""
        number = next(self._numbers)
        if len(self._asked) >= _MOST_QUESTIONS:
            return succeed(Answer(number, 503, _OVERLOADED))
        waiter: Deferred[Answer] = Deferred(lambda _: self._forget(number))
        self._asked[number] = waiter
        self.channel.tell(Question(number, fault, server, on))
        return waiter

    def _forget(self, number: int) -> None:
        self._asked.pop(number, None)

    def end(self) -> None:
        """Stop the server, and this process."""
        with suppress(ReactorNotRunning):  # it stops already
            default_reactor().stop()

    def fail(self) -> None:
        """End, and say that it is a failure."""
        self._is_failure = True
        self.end()

    def make(self, chosen: config.Config, name: str) -> DevServer:
        """Return the server *name*."""
        server = DevServer(chosen, name)
        server.tell = self.channel.tell
        return server


def run(path: str, name: str, conditions: str, clock: WallClock) -> None:
    """
    Run the server *name* of the config *path* until this process is told to end.

    Args:
        path: The YAML file.
        name: The member.
        conditions: What to suffer from the start, as on the channel.
        clock: The wall clock.
    """
    _log_to_stdout()
    loaded = _loaded(path, name)
    weather = Weather({address: who for who, address in loaded.members.items()})
    member = _Member(clock, weather)
    member.hear(decode_order(conditions))
    reactor = default_reactor()
    pipes: Any = StandardIO  # its types are those of another system
    pipes(member.channel, stdin=0, stdout=NEWS, reactor=reactor)
    service = RaftService(
        suffering(loaded, weather), member.fail, member.make, routes(member.ask)
    )
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    reactor.callWhenRunning(_start, service, member)
    reactor.run()
    sys.exit(member.exit_status)


def _start(service: MultiService, member: _Member) -> None:
    service.startService()
    (server,) = service
    # What keeps it from starting is logged, and ends the process.
    server.when_started().addCallbacks(
        lambda _: member.channel.tell(Started()), lambda _: None
    )


def _loaded(path: str, name: str) -> config.Config:
    try:
        loaded = config.load(path, (name,))
        findings = checks.run(loaded)
    except ConfigError as error:
        findings = list(error.findings)
    for finding in findings:
        print(checks.render(finding, path), flush=True)  # noqa: T201 - raft dev shows it
    if not all(finding.is_warning for finding in findings):
        sys.exit(1)
    return loaded


def _log_to_stdout() -> None:
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]

    def show(event: Any) -> None:
        text = eventAsText(event, includeTimestamp=False, includeSystem=False)
        level = event.get("log_level", LogLevel.info)
        mark = "" if level is LogLevel.info else f"{level.name}: "
        print(f"{mark}{text}")  # noqa: T201 - raft dev shows it

    chosen: Any = LogLevelFilterPredicate(defaultLogLevel=LogLevel.info)
    for others in _SILENT:
        chosen.setLogLevelForNamespace(others, LogLevel.warn)
    observer: Any = FilteringLogObserver(cast("Any", show), [chosen])
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False)


class Checked(msgspec.Struct, frozen=True):
    """
    What a look at a config has found.

    Args:
        problems: What is wrong with it; empty if it can be used.
        directories: Where the application's modules are.
    """

    problems: list[str]
    directories: list[str]


def check(path: str) -> None:
    """Print what is :class:`Checked` of the config *path*, as JSON."""
    problems: list[str] = []
    try:
        loaded = config.load(path, needs_serve=False)
        loaded.state_machine.cls(loaded.state_machine.options)
    except ConfigError as error:
        problems = [_words(each.message, each.hint) for each in error.findings]
    except Exception as error:  # noqa: BLE001 - the application's own
        problems = [_words(f"{type(error).__name__}: {error}", "")]
    found = Checked(problems, _directories())
    sys.stdout.write(msgspec.json.encode(found).decode())


def _words(message: str, hint: str) -> str:
    return f"{message} ({hint})" if hint else message


def _directories() -> list[str]:
    """Return where modules are that belong to neither Python nor an installation."""
    installed = [Path(sysconfig.get_path(each)) for each in ("stdlib", "purelib")]
    installed += [Path(sysconfig.get_path("platlib"))]
    found = set()
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file is None or name.partition(".")[0] in {*_FRAMEWORK, "__main__"}:
            continue
        directory = Path(file).absolute().parent
        if not any(directory.is_relative_to(each) for each in installed):
            found.add(str(directory))
    return sorted(found)
