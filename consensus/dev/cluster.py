"""A cluster of ``raft dev``: its processes, and what they suffer."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Any

import msgspec
from twisted.internet.defer import Deferred, DeferredLock, gatherResults
from twisted.internet.utils import getProcessOutputAndValue

from consensus.dev.channel import Answer, Conditions, Question, Role
from consensus.dev.member import Checked
from consensus.dev.process import MemberProcess, environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from consensus.core.values import ServerId
    from consensus.dev.channel import News
    from consensus.dev.layout import Layout
    from consensus.dev.screen import Screen

#: Seconds that a member has to find a leader before the next one is restarted.
_ELECTION_PATIENCE = 10.0


class FaultError(Exception):
    """A fault that cannot be had, or not now."""


class Cluster:
    """
    The members, each in a process of its own.

    Args:
        layout: Where it is.
        screen: What shows what happens.
        reactor: Where to run.
        clock: What time goes by.
    """

    def __init__(
        self, layout: Layout, screen: Screen, reactor: Any, clock: Any
    ) -> None:
        self.layout = layout
        self.names: tuple[ServerId, ...] = tuple(layout.members)
        #: Answers what somebody asks a member; see :class:`.Question`.
        self.answer: Callable[[Question, ServerId], tuple[int, Any]] = _no_answer
        self._screen = screen
        self._reactor = reactor
        self._clock = clock
        self._processes: dict[ServerId, MemberProcess] = {}
        #: On which side of a cut each one is.
        self.sides: dict[ServerId, int] = dict.fromkeys(self.names, 0)
        self.sync_delays: dict[ServerId, float] = {}
        self.skews: dict[ServerId, float] = {}
        #: Who leads, as far as the members have told.
        self.leader: ServerId | None = None
        self._term = 0
        self._lock = DeferredLock()
        self._waiters: dict[Deferred[bool], Any] = {}
        self._is_closing = False

    # --- what there is -----------------------------------------------------------

    def process(self, name: ServerId) -> MemberProcess | None:
        """Return the process of *name*; ``None`` if there is none."""
        found = self._processes.get(name)
        return None if found is None or found.is_over else found

    def running(self) -> list[ServerId]:
        """Return who runs, paused ones too."""
        return [name for name in self.names if self.process(name) is not None]

    def paused(self) -> list[ServerId]:
        """Return who is paused."""
        return [name for name in self.running() if self._processes[name].is_paused]

    def cut_off(self) -> list[ServerId]:
        """Return who is not on the side of most."""
        sides = list(self.sides.values())
        largest = max(sides, key=lambda side: (sides.count(side), -side))
        return [name for name in self.names if self.sides[name] != largest]

    def conditions_of(self, name: ServerId) -> Conditions:
        """Return what *name* has to suffer."""
        return Conditions(
            tuple(each for each in self.names if self.sides[each] != self.sides[name]),
            self.sync_delays.get(name, 0.0),
            self.skews.get(name, 0.0),
        )

    # --- processes ---------------------------------------------------------------

    def start(self, names: Iterable[ServerId]) -> Deferred[bool]:
        """Start those of *names* that do not run; say whether all answer then."""
        wanted = list(names)
        return self._lock.run(lambda: self._start_all(wanted))

    def stop(
        self, names: Iterable[ServerId], *, at_once: bool = False
    ) -> Deferred[list[bool]]:
        """Stop those of *names* that run; *at_once*: kill them."""
        wanted = list(names)
        return self._lock.run(lambda: self._stop_all(wanted, at_once=at_once))

    def pause(self, name: ServerId) -> None:
        """Have the system not run *name* for a while."""
        self._needed(name).pause()

    def resume(self, name: ServerId) -> None:
        """Have the system run *name* again."""
        self._needed(name).resume()

    def _needed(self, name: ServerId) -> MemberProcess:
        found = self.process(name)
        if found is None:
            message = f"{name} does not run"
            raise FaultError(message)
        return found

    def close(self) -> Deferred[list[bool]]:
        """End everything."""
        self._is_closing = True
        self.heal()
        return self._stop_all(self.names)

    def _start_all(self, names: Sequence[ServerId]) -> Deferred[bool]:
        for name in names:
            if self.process(name) is None and not self._is_closing:
                self._spawn(name)
        waiting = [
            self._processes[name].when_started()
            for name in names
            if self.process(name) is not None
        ]
        return gatherResults(waiting).addCallback(all)

    def _stop_all(
        self, names: Sequence[ServerId], *, at_once: bool = False
    ) -> Deferred[list[bool]]:
        waiting = []
        for name in names:
            process = self.process(name)
            if process is None:
                continue
            if at_once:
                process.send(signal.SIGKILL)
                waiting.append(process.when_over())
            else:
                waiting.append(process.stop(self._clock))
        return gatherResults(waiting)

    def _spawn(self, name: ServerId) -> None:
        process = MemberProcess(
            lambda line: self._screen.line(name, line),
            lambda news: self._heard(name, news),
            lambda in_order: self._ended(name, in_order=in_order),
        )
        self._processes[name] = process
        conditions = self.conditions_of(name)
        process.spawn(self._reactor, self.layout.config, name, conditions)

    def _ended(self, name: ServerId, *, in_order: bool) -> None:
        if self.leader == name:
            self.leader = None
        if not self._is_closing:
            how = "has stopped" if in_order else "is dead"
            self._screen.say(f"{name} {how}")
        self._look()

    # --- what members tell -------------------------------------------------------

    def _heard(self, name: ServerId, news: News) -> None:
        if isinstance(news, Question):
            status, body = self.answer(news, name)
            self._processes[name].order(Answer(news.id, status, body))
        elif isinstance(news, Role):
            self._note_role(name, news)
        self._look()

    def _note_role(self, name: ServerId, news: Role) -> None:
        if news.role == "leader" and news.term > self._term:
            self._term, self.leader = news.term, name
            self._screen.say(f"{name} leads in term {news.term}", "bold green")
        elif self.leader == name and news.role != "leader":
            self.leader = None

    def when_settled(self, patience: float) -> Deferred[bool]:
        """
        Wait until all who run, and are not held up, follow one leader.

        The Deferred says whether they do; it waits for *patience* seconds.
        """
        waiter: Deferred[bool] = Deferred()
        late = self._clock.callLater(patience, self._give_up, waiter)
        self._waiters[waiter] = late
        self._look()
        return waiter

    def _give_up(self, waiter: Deferred[bool]) -> None:
        del self._waiters[waiter]
        waiter.callback(False)  # noqa: FBT003 - they do not

    def _look(self) -> None:
        if not self._is_settled():
            return
        waiters, self._waiters = self._waiters, {}
        for waiter, late in waiters.items():
            late.cancel()
            waiter.callback(True)  # noqa: FBT003 - they do

    def _is_settled(self) -> bool:
        awaited = [
            name
            for name in self.running()
            if name not in {*self.paused(), *self.cut_off()}
        ]
        roles = [self._processes[name].role for name in awaited]
        leaders = {None if role is None else role.leader for role in roles}
        terms = {None if role is None else role.term for role in roles}
        is_one = len(leaders) == len(terms) == 1 and None not in leaders
        return not awaited or (
            is_one and self.leader in leaders and self.leader in awaited
        )

    # --- faults ------------------------------------------------------------------

    def partition(self, groups: Sequence[Sequence[ServerId]]) -> None:
        """Let only the members of each of *groups* hear each other."""
        self.set_sides(
            {name: side for side, group in enumerate(groups) for name in group}
        )

    def set_sides(self, sides: Mapping[ServerId, int]) -> None:
        """Put servers on other *sides*; those on different ones do not meet."""
        self.sides |= sides
        self._tell()

    def slow(self, name: ServerId, delay: float) -> None:
        """Let each sync of *name* take so many seconds longer; 0 for none."""
        self.sync_delays[name] = delay
        self._tell()

    def skew(self, name: ServerId, seconds: float) -> None:
        """Let the wall clock of *name* be so many seconds fast; 0 for none."""
        self.skews[name] = seconds
        self._tell()

    def heal(self) -> None:
        """End what the network, disks and clocks do, and pauses."""
        for name in self.paused():
            self.resume(name)
        self.sides = dict.fromkeys(self.names, 0)
        self.sync_delays, self.skews = {}, {}
        self._tell()

    def _tell(self) -> None:
        for name in self.running():
            self._processes[name].order(self.conditions_of(name))

    # --- new code ----------------------------------------------------------------

    def reload(self) -> Deferred[bool]:
        """
        Restart who runs, one after another, the leader last.

        It ends at the first that does not start.  The Deferred says whether
        all have.
        """
        return self._lock.run(lambda: Deferred.fromCoroutine(self._restart()))

    async def _restart(self) -> bool:
        paused = self.paused()
        names = [name for name in self.running() if name not in paused]
        crashed = [name for name in self.names if self._has_failed(name)]
        await self._start_all(crashed)
        for name in sorted(names, key=lambda each: each == self.leader):
            if self._is_closing:
                return False
            await self._stop_all([name])
            if not await self._start_all([name]):
                self._screen.complain(f"{name} does not start with the new code")
                return False
            await self.when_settled(_ELECTION_PATIENCE)
        for name in paused:
            self._screen.say(f"{name} is paused, and keeps the old code")
        return True

    def _has_failed(self, name: ServerId) -> bool:
        found = self._processes.get(name)
        return found is not None and found.has_failed


async def look_at(layout: Layout) -> Checked:
    """Return what is wrong with the state machine of *layout*, in a new process."""
    out, err, status = await getProcessOutputAndValue(
        sys.executable,
        ["-m", "consensus.dev", "--check", str(layout.config)],
        env=environment(),
    )
    try:
        # What the application prints stands before it.
        return msgspec.json.decode(out.splitlines()[-1], type=Checked)
    except (IndexError, msgspec.MsgspecError):
        text = err.decode(errors="replace").strip() or f"exit status {status}"
        return Checked([f"it cannot be looked at: {text}"], [])


def _no_answer(question: Question, asked: ServerId) -> tuple[int, Any]:
    del question, asked
    return 503, {}
