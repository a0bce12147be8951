"""The commands that are typed into ``raft dev``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from twisted.internet.defer import Deferred, maybeDeferred

from consensus.dev.cluster import Cluster, FaultError
from consensus.registry import suggest

if TYPE_CHECKING:
    from collections.abc import Callable

    from consensus.core.values import ServerId
    from consensus.dev.screen import Screen

#: A disk that takes longer would be taken for dead, and is hard to stop.
LONGEST_DELAY = 10.0

#: Seconds that `wait` waits.
_PATIENCE = 30.0

_SECONDS = re.compile(r"([+-]?\d+(?:\.\d+)?)(ms|s|m|h)?")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class _Command(NamedTuple):
    usage: str
    help: str
    run: Callable[[list[str]], object]


class Shell:
    """
    Does what is typed.

    Args:
        cluster: To whom.
        screen: What shows what comes of it.
        reload: Reads the application's files again.
        leave: Ends all.
    """

    def __init__(
        self,
        cluster: Cluster,
        screen: Screen,
        reload: Callable[[], object],
        leave: Callable[[], object],
    ) -> None:
        self._cluster = cluster
        self._screen = screen
        commands = (
            _Command("status", "say who runs, leads and suffers what", self._status),
            _Command("stop SERVER…", "stop servers in order", self._stop),
            _Command("kill SERVER…", "kill servers: no goodbye", self._kill),
            _Command("start SERVER…", "start servers again", self._start),
            _Command("pause SERVER…", "freeze servers", self._pause),
            _Command("resume SERVER…", "let them go on", self._resume),
            _Command(
                "partition SERVER… | SERVER…",
                "let only those on one side hear each other",
                self._partition,
            ),
            _Command(
                "slow SERVER TIME",
                "let a sync take longer, as 200ms; 0: no more",
                self._slow,
            ),
            _Command(
                "skew SERVER TIME",
                "set a wall clock, as +5s or -1h; 0: no more",
                self._skew,
            ),
            _Command("heal", "end all faults, and start who is stopped", self._heal),
            _Command("wait", "wait until who runs follows one leader", self._wait),
            _Command("reload", "restart servers, as after a change", _bare(reload)),
            _Command("help", "show this", self._help),
            _Command("quit", "end everything; so does Ctrl-C", _bare(leave)),
        )
        self._commands = {each.usage.split()[0]: each for each in commands}

    @property
    def words(self) -> list[str]:
        """Return what may be typed, for completion."""
        return [*self._commands, *self._cluster.names]

    def do(self, line: str) -> Deferred[Any]:
        """Do what *line* says; the Deferred fires when it is done."""
        name, *arguments = line.replace("|", " | ").split() or [""]
        if not name or name.startswith("#"):
            return maybeDeferred(lambda: None)
        command = self._commands.get(name)
        if command is None:
            hint = suggest(name, self._commands)
            self._screen.complain(f"there is no command {name!r} ({hint})")
            return maybeDeferred(lambda: None)
        done = maybeDeferred(command.run, arguments)
        return done.addErrback(self._failed, command)

    def _failed(self, failure: Any, command: _Command) -> None:
        failure.trap(FaultError)
        self._screen.complain(f"{failure.value}; it is: {command.usage}")

    def _servers(self, arguments: list[str]) -> list[ServerId]:
        """Return the servers that *arguments* name; it needs at least one."""
        known = self._cluster.names
        for each in arguments:
            if each not in known:
                message = f"there is no server {each!r} ({suggest(each, known)})"
                raise FaultError(message)
        if not arguments:
            raise FaultError("say which servers")
        return arguments

    def _status(self, arguments: list[str]) -> None:
        _none(arguments)
        cluster = self._cluster
        for name in cluster.names:
            process = cluster.process(name)
            role = None if process is None else process.role
            words = [
                "stopped" if process is None else role.role if role else "starting",
                f"term {role.term}" if role else "",
                "paused" if name in cluster.paused() else "",
                "cut off" if name in cluster.cut_off() else "",
                _amount("syncs", cluster.sync_delays.get(name, 0.0)),
                _amount("clock", cluster.skews.get(name, 0.0)),
            ]
            said = ", ".join(filter(None, words))
            self._screen.say(f"{name} at {cluster.layout.members[name]}: {said}")

    def _stop(self, arguments: list[str]) -> Deferred[list[bool]]:
        return self._cluster.stop(self._servers(arguments))

    def _kill(self, arguments: list[str]) -> Deferred[list[bool]]:
        return self._cluster.stop(self._servers(arguments), at_once=True)

    def _start(self, arguments: list[str]) -> Deferred[bool]:
        return self._cluster.start(self._servers(arguments))

    def _pause(self, arguments: list[str]) -> None:
        for name in self._servers(arguments):
            self._cluster.pause(name)

    def _resume(self, arguments: list[str]) -> None:
        for name in self._servers(arguments):
            self._cluster.resume(name)

    def _partition(self, arguments: list[str]) -> None:
        groups: list[list[str]] = [[]]
        for each in arguments:
            if each == "|":
                groups.append([])
            else:
                groups[-1] += self._servers([each])
        named = [name for group in groups for name in group]
        if sorted(named) != sorted(self._cluster.names) or not all(groups):
            raise FaultError("put each server on one side, and someone on each side")
        self._cluster.partition(groups)

    def _slow(self, arguments: list[str]) -> None:
        name, seconds = self._timed(arguments)
        if not 0 <= seconds <= LONGEST_DELAY:
            message = f"a disk may be from 0 to {LONGEST_DELAY:g} seconds slow"
            raise FaultError(message)
        self._cluster.slow(name, seconds)

    def _skew(self, arguments: list[str]) -> None:
        self._cluster.skew(*self._timed(arguments))

    def _timed(self, arguments: list[str]) -> tuple[ServerId, float]:
        if len(arguments) != 2:  # noqa: PLR2004 - as it says
            raise FaultError("say one server, and how long")
        (name,) = self._servers(arguments[:1])
        found = _SECONDS.fullmatch(arguments[1])
        if found is None:
            message = f"{arguments[1]!r} is no time: write 200ms, 5s, +5s, -1h or 0"
            raise FaultError(message)
        return name, float(found[1]) * _UNITS[found[2] or "s"]

    def _heal(self, arguments: list[str]) -> Deferred[bool]:
        _none(arguments)
        self._cluster.heal()
        return self._cluster.start(self._cluster.names)

    async def _settled(self) -> None:
        if not await self._cluster.when_settled(_PATIENCE):
            message = f"in {_PATIENCE:g} seconds, they did not find a leader"
            raise FaultError(message)

    def _wait(self, arguments: list[str]) -> Deferred[None]:
        _none(arguments)
        return Deferred.fromCoroutine(self._settled())

    def _help(self, arguments: list[str]) -> None:
        _none(arguments)
        width = max(len(each.usage) for each in self._commands.values())
        for each in self._commands.values():
            self._screen.say(f"  {each.usage:{width}}  {each.help}", "default")


def _none(arguments: list[str]) -> None:
    if arguments:
        raise FaultError("nothing comes after it")


def _bare(function: Callable[[], object]) -> Callable[[list[str]], object]:
    def run(arguments: list[str]) -> object:
        _none(arguments)
        return function()

    return run


def _amount(what: str, seconds: float) -> str:
    return f"{what} {seconds:+g} s" if seconds else ""
