"""Time that the wall clock cannot disturb."""

from __future__ import annotations

import subprocess
import sys
import time
from queue import Empty, Queue
from typing import TYPE_CHECKING

import pytest

from consensus.clock import MonotonicClock, monotonic_clock

if TYPE_CHECKING:
    from collections.abc import Callable


FORKING = """
import os
from queue import Queue
from consensus.clock import monotonic_clock

class Reactor:
    def __init__(self):
        self.calls = Queue()
    def callFromThread(self, function):
        self.calls.put(function)

reactor = Reactor()
clock = monotonic_clock(reactor)
clock.start()
child = os.fork()
if child:
    os.waitpid(child, 0)
else:
    fired = []
    clock.callLater(0.02, fired.append, 1)
    while not fired:
        reactor.calls.get(timeout=30)()
    print("ticked", flush=True)
"""


class QueueReactor:
    """Runs in the test's thread what the clock's thread hands over."""

    def __init__(self) -> None:
        self.calls: Queue[Callable[[], object]] = Queue()

    def callFromThread(self, function: Callable[[], object]) -> None:
        """Keep the call for :meth:`turn`."""
        self.calls.put(function)

    def turn(self) -> None:
        """Wait for a call and run it."""
        self.calls.get(timeout=30)()


class MonotonicClockTests:
    """A clock on a thread."""

    def test_timers_fire_in_order_and_not_early(self) -> None:
        """Timers go by the monotonic clock."""
        reactor = QueueReactor()
        clock = MonotonicClock(reactor)
        began = time.monotonic()
        fired: list[tuple[str, float]] = []
        clock.callLater(0.03, lambda: fired.append(("second", time.monotonic())))
        clock.callLater(0.01, lambda: fired.append(("first", time.monotonic())))
        clock.start()
        while len(fired) < 2:
            reactor.turn()
        clock.stop()
        assert [name for name, _ in fired] == ["first", "second"]
        assert fired[0][1] >= began + 0.01
        assert fired[1][1] >= began + 0.03

    def test_a_step_of_the_wall_clock_changes_nothing(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With the wall clock an hour back or ahead, a timer fires as ever."""
        reactor = QueueReactor()
        clock = MonotonicClock(reactor)
        clock.start()
        real = time.time
        for step in (-3600, 3600):
            monkeypatch.setattr(time, "time", lambda step=step: real() + step)
            fired: list[int] = []
            clock.callLater(0.01, fired.append, step)
            assert not fired
            while not fired:
                reactor.turn()
        clock.stop()

    def test_a_late_reactor_is_woken_once(self) -> None:
        """Wake-ups do not pile up before a reactor that is busy."""
        reactor = QueueReactor()
        clock = MonotonicClock(reactor)
        clock.start()
        fired: list[int] = []
        for number in range(3):
            clock.callLater(0.01 * number, fired.append, number)
        call = reactor.calls.get(timeout=30)
        with pytest.raises(Empty):
            reactor.calls.get(timeout=0.05)
        call()
        clock.stop()
        assert fired == [0, 1, 2]

    def test_nobody_is_woken_for_nothing(self) -> None:
        """The thread sleeps until a timer is due, not for a while."""
        reactor = QueueReactor()
        clock = MonotonicClock(reactor)
        clock.start()
        clock.callLater(3600, int)
        with pytest.raises(Empty):
            reactor.calls.get(timeout=0.05)
        clock.stop()

    def test_an_earlier_timer_ends_the_sleep(self) -> None:
        """One that comes later but is due before, and one that is put forward."""
        reactor = QueueReactor()
        clock = MonotonicClock(reactor)
        clock.start()
        fired: list[str] = []
        last = clock.callLater(3600, fired.append, "last")
        clock.callLater(0.01, fired.append, "first")
        while fired != ["first"]:
            reactor.turn()
        last.reset(0.01)
        while fired != ["first", "last"]:
            reactor.turn()
        clock.stop()

    def test_a_timer_may_begin_another(self) -> None:
        """As every tick does."""
        reactor = QueueReactor()
        clock = MonotonicClock(reactor)
        fired: list[int] = []

        def again() -> None:
            fired.append(len(fired))
            if len(fired) < 3:
                clock.callLater(0.001, again)

        clock.callLater(0.001, again)
        clock.start()
        while len(fired) < 3:
            reactor.turn()
        clock.stop()

    def test_a_timer_that_fails_stops_no_other(self) -> None:
        """Whoever comes after it is woken once more."""
        reactor = QueueReactor()
        clock = MonotonicClock(reactor)
        fired: list[int] = []
        clock.callLater(0, lambda: fired[0])
        clock.callLater(0, fired.append, 1)
        clock.start()
        with pytest.raises(IndexError):
            reactor.turn()
        reactor.turn()
        clock.stop()
        assert fired == [1]

    def test_it_stands_still_without_users(self) -> None:
        """The thread ends with the last user, and begins with the next."""
        reactor = QueueReactor()
        clock = MonotonicClock(reactor)
        fired: list[int] = []
        clock.start()
        clock.start()
        clock.stop()
        clock.callLater(0, fired.append, 1)
        while not fired:
            reactor.turn()
        clock.stop()
        clock.callLater(0, fired.append, 2)
        with pytest.raises(Empty):
            reactor.calls.get(timeout=0.05)
        clock.start()
        while fired != [1, 2]:
            reactor.turn()
        clock.stop()

    def test_it_ticks_on_in_a_forked_process(self) -> None:
        """A daemon forks after its clock was started; threads stay behind."""
        # Python warns of what Twisted does when it makes a daemon.
        done = subprocess.run(
            [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKING],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.stdout, done.stderr) == ("ticked\n", "")

    def test_servers_share_the_clock_of_their_reactor(self) -> None:
        """One thread wakes one reactor, however many servers it runs."""
        one, other = QueueReactor(), QueueReactor()
        assert monotonic_clock(one) is monotonic_clock(one)
        assert monotonic_clock(one) is not monotonic_clock(other)
