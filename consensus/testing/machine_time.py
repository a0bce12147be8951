"""What state machines promise that are told the time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from consensus.interfaces import Tick

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from hypothesis.strategies import SearchStrategy

    from consensus.interfaces import StateMachine
    from consensus.testing.machine_copy import Copy

#: How long nothing may happen, in milliseconds.
_LONGEST = 100_000


class _Pause(int):
    """A number of milliseconds."""


def _told(row: list[Any]) -> list[Any]:
    """Return *row* with the time in the place of each pause."""
    time = 0
    told: list[Any] = []
    for each in row:
        if isinstance(each, _Pause):
            time += each
            told.append(Tick(time))
        else:
            told.append(each)
    return told


class TimeTests(ABC):
    """Part of :class:`.StateMachineSuite`."""

    make: Callable[[], StateMachine]
    each: Callable[..., Callable[[Callable[..., None]], None]]
    copies: Callable[..., AbstractContextManager[list[Copy]]]

    @property
    @abstractmethod
    def runs(self) -> SearchStrategy[list[Any]]:
        """Return a strategy for commands in a row."""

    def some_of(
        self, commands: SearchStrategy[Any], least: int = 0, most: int = 20
    ) -> SearchStrategy[list[Any]]:
        """
        Return a strategy for some *commands* in a row.

        Between those of a machine that is told the time, time passes.
        """
        if not self.make().timed:
            return st.lists(commands, min_size=least, max_size=most)
        pauses = st.integers(0, _LONGEST).map(_Pause)
        rows = st.lists(commands | pauses, min_size=least, max_size=most)
        return rows.map(_told)

    def test_what_is_due_is_done(self) -> None:
        """A machine that was told the time wants to be told a later one, if any."""

        @self.each(self.runs)
        def check(commands: list[Any]) -> None:
            with self.copies() as [one]:
                for command in commands:
                    one.write(command)
                    due = one.machine.next_time(one.state)
                    if isinstance(command, Tick) and due is not None:
                        assert due > command.time, "it would be told the time for ever"
