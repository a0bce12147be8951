"""One ``raft dev``, from its first line to its last."""

from __future__ import annotations

import shlex
import sys
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.error import ReactorNotRunning
from twisted.internet.task import LoopingCall
from twisted.logger import globalLogBeginner

from consensus.clock import default_reactor, monotonic_clock
from consensus.dev.cluster import Cluster, look_at
from consensus.dev.faults import Faults
from consensus.dev.keyboard import Keyboard, terminal
from consensus.dev.layout import Layout, lay_out, machine_name
from consensus.dev.screen import Screen
from consensus.dev.shell import Shell
from consensus.dev.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

#: Seconds between two looks at the application's files.
_LOOK_INTERVAL = 0.5

#: Seconds that the first election may take before commands are taken all the same.
_PATIENCE = 10.0


class Session:
    """
    A cluster, what is typed, and what changes.

    Args:
        layout: Where the cluster is.
        watches: Whether a changed file restarts the members.
    """

    def __init__(self, layout: Layout, *, watches: bool) -> None:
        self._reactor = default_reactor()
        self._clock = cast("Any", monotonic_clock(self._reactor))
        self._layout = layout
        self._watches = watches
        self._screen = Screen(list(layout.members))
        self._cluster = Cluster(layout, self._screen, self._reactor, self._clock)
        self._cluster.answer = Faults(self._cluster, self._clock).answer
        self._shell = Shell(self._cluster, self._screen, self._reload, self._leave)
        self._keyboard = Keyboard(self._reactor, self._do, self._no_more_lines)
        self._watch = Watch(())
        self._looking: Any = LoopingCall(self._look)
        self._looking.clock = self._clock
        self._exit_status = 0

    def run(self) -> int:
        """Run until it is told to end; return the exit status."""
        # Else Twisted keeps what it has to say in memory.
        globalLogBeginner.beginLoggingTo([], redirectStandardIO=False)
        reactor = self._reactor
        self._clock.start()
        reactor.callWhenRunning(self._begin)
        reactor.addSystemEventTrigger("before", "shutdown", self._cluster.close)
        with terminal(self._shell.words):
            reactor.run()
        self._clock.stop()
        return self._exit_status

    @inlineCallbacks
    def _begin(self) -> Generator[Deferred[Any], Any, None]:
        found = yield Deferred.fromCoroutine(look_at(self._layout))
        if found.problems:
            for each in found.problems:
                self._screen.complain(f"raft dev: {each}")
            self._fail()
            return
        self._watch.turn_to(found.directories)
        self._introduce()
        is_up = yield self._cluster.start(self._cluster.names)
        if not is_up and not self._cluster.running():
            self._screen.complain("raft dev: no member could be started")
            self._fail()
            return
        if self._watches:
            self._looking.start(_LOOK_INTERVAL, now=False)
        yield self._cluster.when_settled(_PATIENCE)
        self._explain()
        self._keyboard.start()

    def _introduce(self) -> None:
        for name, address in self._layout.members.items():
            page = self._layout.page_of(name)
            self._screen.say(f"{name} is to listen at {address}", "default")
            if page:
                self._screen.say(f"{name} shows itself at {page}", "default")

    def _explain(self) -> None:
        """Say how to use what runs."""
        config = shlex.quote(str(self._layout.config))
        path = "PYTHONPATH=. " if "." in self._layout.machine else ""
        addresses = list(self._layout.members.values())
        for line in (
            "ready; from another terminal, here:",
            f"  {path}raft -c {config} status",
            "  python: from consensus.blocking import connect",
            f"          cluster = connect({addresses!r})",
            "type help for faults to try, Ctrl-C to end it all",
        ):
            self._screen.say(line, "default")

    def _fail(self) -> None:
        self._exit_status = 1
        self._leave()

    def _leave(self) -> None:
        with suppress(ReactorNotRunning):
            self._reactor.stop()

    # --- what is typed -------------------------------------------------------------

    def _do(self, line: str, done: Callable[[], None]) -> None:
        self._shell.do(line).addErrback(self._bug).addCallback(lambda _: done())

    def _bug(self, failure: Any) -> None:
        self._screen.complain(f"raft dev: {failure.getTraceback()}")

    def _no_more_lines(self) -> None:
        if sys.stdin.isatty():  # Ctrl-D; the end of a script ends nothing
            self._leave()

    # --- what changes --------------------------------------------------------------

    def _look(self) -> Deferred[Any] | None:
        changed = self._watch.changed()
        if not changed:
            return None
        names = ", ".join(Path(each).name for each in changed[:3])
        self._screen.say(f"{names} changed")
        return self._reload().addErrback(self._bug)

    @inlineCallbacks
    def _reload(self) -> Generator[Deferred[Any], Any, None]:
        found = yield Deferred.fromCoroutine(look_at(self._layout))
        if found.problems:
            for each in found.problems:
                self._screen.complain(each)
            self._screen.complain("the members go on with the code that they have")
            return
        self._watch.turn_to(found.directories)
        if (yield self._cluster.reload()):
            self._screen.say("all members have the new code", "bold green")


def run(
    asked: str, count: int, base: int | None, data: Path | None, *, watches: bool
) -> int:
    """
    Run a cluster of *count* members of the state machine *asked*.

    Args:
        asked: ``app:Machine``, a dotted path, or a registered name.
        count: How many members.
        base: The first port; without, free ones are taken.
        data: Where the cluster is kept; without, it is gone in the end.
        watches: Whether a changed file restarts the members.

    Returns:
        The exit status.

    Raises:
        LayoutError: It cannot be laid out so.
    """
    machine = machine_name(asked)
    with ExitStack() as stack:
        if data is None:
            made = tempfile.TemporaryDirectory(prefix="raft-dev-")
            data = Path(stack.enter_context(made))
        layout = lay_out(data, machine, count, base)
        return Session(layout, watches=watches).run()
