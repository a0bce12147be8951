"""A member of ``raft dev``, as the process that it is."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol

from consensus.dev.channel import (
    NEWS,
    Conditions,
    Lines,
    News,
    Order,
    Role,
    Started,
    decode_news,
    encode,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from twisted.python.failure import Failure

    from consensus.core.values import ServerId

_LONGEST_LINE = 8192

#: Seconds that a member has to stop before it is killed.
PATIENCE = 10.0


class MemberProcess(ProcessProtocol):
    """
    One run of a member.

    Args:
        on_line: Called with each line that it prints.
        on_news: Called with what it tells.
        on_end: Called when it has ended, with whether it did so in order.
    """

    def __init__(
        self,
        on_line: Callable[[str], None],
        on_news: Callable[[News], None],
        on_end: Callable[[bool], None],
    ) -> None:
        self.transport: Any = None
        self._on_line = on_line
        self._on_news = on_news
        self._on_end = on_end
        self._news = Lines(self._hear)
        self._printed = {fd: Lines(self._print, _LONGEST_LINE) for fd in (1, 2)}
        self._waiting: list[Deferred[bool]] = []
        self._starting: list[Deferred[bool]] = []
        self.is_started = False
        self.is_over = False
        self.is_paused = False
        self._was_told_to_end = False
        #: What it has told of its role last.
        self.role: Role | None = None

    def spawn(
        self, reactor: Any, config: Path, name: ServerId, conditions: Conditions
    ) -> None:
        """Start the process."""
        reactor.spawnProcess(
            self,
            sys.executable,
            [
                *(sys.executable, "-m", "consensus.dev", str(config), name),
                *(str(os.getpid()), encode(conditions).decode().strip()),
            ],
            env=environment(),
            childFDs={0: "w", 1: "r", 2: "r", NEWS: "r"},
        )

    @property
    def has_failed(self) -> bool:
        """Say whether it has ended though nobody wanted it to."""
        return self.is_over and not self._was_told_to_end

    # --- what Twisted calls ---------------------------------------------------

    def childDataReceived(self, childFD: int, data: bytes) -> None:  # noqa: N803 - Twisted's name
        """Take what the process wrote."""
        (self._news if childFD == NEWS else self._printed[childFD]).feed(data)

    def processEnded(self, reason: Failure) -> None:
        """Tell who waits for the end."""
        for lines in self._printed.values():
            lines.flush()
        self.is_over = True
        self.is_started = self.is_paused = False
        waiting, self._waiting = self._waiting, []
        starting, self._starting = self._starting, []
        self._on_end(reason.check(ProcessDone) is not None)
        for each in waiting:
            each.callback(True)  # noqa: FBT003 - it has ended
        for each in starting:
            each.callback(False)  # noqa: FBT003 - it will not start

    # --- what raft dev does ---------------------------------------------------

    def when_started(self) -> Deferred[bool]:
        """Wait until it answers calls, or has ended; say whether it answers."""
        waiter: Deferred[bool] = Deferred()
        if self.is_started or self.is_over:
            waiter.callback(self.is_started)
        else:
            self._starting.append(waiter)
        return waiter

    def when_over(self) -> Deferred[bool]:
        """Wait until it has ended."""
        waiter: Deferred[bool] = Deferred()
        if self.is_over:
            waiter.callback(True)  # noqa: FBT003 - it has ended
        else:
            self._waiting.append(waiter)
        return waiter

    def order(self, order: Order) -> None:
        """Tell it what to do."""
        if not self.is_over and self.transport is not None:
            self.transport.writeToChild(0, encode(order))

    def stop(self, clock: Any) -> Deferred[bool]:
        """Have it stop in order, or kill it when that takes too long."""
        self.send(signal.SIGTERM)
        self.resume()
        impatience = clock.callLater(PATIENCE, self.send, signal.SIGKILL)

        def ended(is_over: bool) -> bool:  # noqa: FBT001 - a result
            if impatience.active():
                impatience.cancel()
            return is_over

        return self.when_over().addCallback(ended)

    def pause(self) -> None:
        """Have the system not run it for a while."""
        self.is_paused = True
        self.send(signal.SIGSTOP)

    def resume(self) -> None:
        """Have the system run it again."""
        self.is_paused = False
        self.send(signal.SIGCONT)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, if it is still there."""
        if number in {signal.SIGTERM, signal.SIGKILL}:
            self._was_told_to_end = True
        if self.transport is not None:
            with suppress(ProcessExitedAlready):
                self.transport.signalProcess(number.value)

    def _hear(self, line: bytes) -> None:
        try:
            news = decode_news(line)
        except msgspec.MsgspecError as error:
            self._on_line(f"what this member tells makes no sense: {error}")
            return
        if isinstance(news, Role):
            self.role = news
        elif isinstance(news, Started) and not self.is_over:
            self.is_started = True
            starting, self._starting = self._starting, []
            for each in starting:
                each.callback(True)  # noqa: FBT003 - it has started
        self._on_news(news)

    def _print(self, line: bytes) -> None:
        self._on_line(line.decode(errors="replace").rstrip("\r"))


def environment() -> dict[str, str]:
    """
    Return the environment of members: they find modules in this directory.

    A change within one second, of the same length, would not be noticed if
    Python kept compiled files.
    """
    paths = [str(os.getcwd()), os.environ.get("PYTHONPATH", "")]  # noqa: PTH109 - a str
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
    }
