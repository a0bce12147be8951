"""
How the bench talks to the processes that it starts: a JSON line each way.

A request is ``[number, action, arguments]`` on the process's standard input,
an answer ``[number, error or null, result]`` on its standard output.  Several
may be under way.  A process whose input ends, as it does when the bench dies,
ends as well.
"""

from __future__ import annotations

import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.stdio import StandardIO
from twisted.protocols.basic import LineOnlyReceiver

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from twisted.python.failure import Failure

    Actions = Mapping[str, Callable[..., Awaitable[Any]]]

#: Where ``tests`` is a package.
ROOT = Path(__file__).parents[2]

#: Seconds to wait for what takes a moment, on a machine that is busy.
PATIENCE = 60.0

#: Output without an end of line is no answer.
_MAX_LINE = 1 << 24


class BenchError(Exception):
    """A measurement could not be made; the message says why."""


class RefusedError(BenchError):
    """What was asked for is refused by design, as a value that is too large."""


def leash() -> list[str]:
    """Return a command before a command, which ties it to the life of this process."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL"] if setpriv else []


class Child:
    """
    A process, and its end of the line.

    Args:
        name: What to call it in an error.
        command: Its arguments.
        log: Where its standard error goes.
    """

    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        self.name = name
        self.log = log
        self._numbers = count()
        self._answers: dict[int, tuple[str | None, Any]] = {}
        self._buffer = b""
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [*leash(), *command],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,  # Ctrl-C is for the bench, which ends them
            )

    @classmethod
    def python(
        cls, name: str, module: str, log: Path, arguments: Mapping[str, Any]
    ) -> Child:
        """Start a module of ours with *arguments*, as JSON."""
        return cls(name, [sys.executable, "-m", module, json.dumps(arguments)], log)

    @property
    def pid(self) -> int:
        """Return the number of the process."""
        return self.process.pid

    def send(self, action: str, **arguments: Any) -> int:
        """Ask for *action*; return what :meth:`wait` takes."""
        number = next(self._numbers)
        line = json.dumps([number, action, arguments]).encode() + b"\n"
        pipe = self.process.stdin
        try:
            if pipe is not None:
                pipe.write(line)
                pipe.flush()
        except OSError as error:
            raise self._ended() from error
        return number

    def wait(self, number: int, timeout: float = PATIENCE) -> Any:
        """
        Return the answer to request *number*.

        Raises:
            BenchError: It says why there is none, or none came in time.
        """
        deadline = time.monotonic() + timeout
        while number not in self._answers:
            self._read(deadline)
        error, result = self._answers.pop(number)
        if error is None:
            return result
        kind, _, message = error.partition(": ")
        if kind == "InvalidCommandError":
            raise RefusedError(message)
        said = f"{self.name}: {error}"
        raise BenchError(said)

    def ask(self, action: str, *, timeout: float = PATIENCE, **arguments: Any) -> Any:
        """Ask for *action* and wait; see :meth:`wait`."""
        return self.wait(self.send(action, **arguments), timeout)

    def check(self) -> None:
        """
        See that the process runs.

        Raises:
            BenchError: It does not.
        """
        if self.process.poll() is not None:
            raise self._ended()

    def stop(self) -> None:
        """Let the process stand still (SIGSTOP)."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it run again."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill it, whatever state it is in."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:  # what was not written is not read any more
                    continue

    def _read(self, deadline: float) -> None:
        pipe = self.process.stdout
        if pipe is None:
            raise self._ended()
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            if not selector.select(max(0.0, deadline - time.monotonic())):
                message = f"{self.name} does not answer{self._last_words()}"
                raise BenchError(message)
        data = os.read(pipe.fileno(), 1 << 16)
        if not data:
            raise self._ended()
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            number, error, result = json.loads(line)
            self._answers[number] = (error, result)

    def _ended(self) -> BenchError:
        try:
            status: int | str = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            status = "unknown"
        return BenchError(
            f"{self.name} has ended with status {status}{self._last_words()}"
        )

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()
        return ": " + " | ".join(lines[-5:]) if lines else ""


def act(line: bytes, actions: Actions, send: Callable[[bytes], Any]) -> None:
    """Do what *line* asks for, and *send* the line that answers it."""
    number, action, arguments = json.loads(line)

    def answer(result: Any) -> None:
        send(json.dumps([number, None, result]).encode() + b"\n")

    def excuse(failure: Failure) -> None:
        error = f"{type(failure.value).__name__}: {failure.value}"
        send(json.dumps([number, error, None]).encode() + b"\n")

    async def answered() -> Any:
        return await actions[action](**arguments)

    Deferred.fromCoroutine(answered()).addCallbacks(answer, excuse)


class _Line(LineOnlyReceiver):
    """The other end, in a process with a reactor."""

    delimiter = b"\n"
    MAX_LENGTH = _MAX_LINE

    def __init__(self, actions: Actions) -> None:
        self._actions = actions

    def lineReceived(self, line: bytes) -> None:
        pipe: Any = self.transport
        act(line, self._actions, pipe.write)

    def connectionLost(self, reason: object = None) -> None:  # noqa: ARG002 - as Twisted calls it
        # Nothing that this process does is of any use to anybody now.
        os._exit(0)


def own_output() -> int:
    """Return where answers go; what anything else prints goes to the errors."""
    output = os.dup(1)
    os.dup2(2, 1)
    return output


def answer_requests(actions: Actions, reactor: Any) -> None:
    """Run *actions* as they are asked for, until the input ends."""
    connect: Any = StandardIO  # whose arguments are others on each platform
    connect(_Line(actions), stdin=0, stdout=own_output(), reactor=reactor)
    reactor.run()
