"""
The log's time, told to the state machine while this server leads.

An entry says what time it is: before the writes of each later millisecond, and
when the machine asks for it, so that what it has to end ends though nobody
writes.  Machines that are not told the time cost nothing.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from twisted.logger import Logger

from consensus.applying.agreements import time_entry
from consensus.core.values import EntryKind, Role
from consensus.errors import NotLeaderError
from consensus.sessions import LogClock

if TYPE_CHECKING:
    from collections.abc import Callable

    from consensus.applying.applier import Applier
    from consensus.core.raft import Raft
    from consensus.core.values import LogIndex

_log = Logger()

#: A machine that goes on asking for the same time is told again after so many ms.
_PAUSE = 1000


class LogTime:
    """
    Tells the time.

    Args:
        raft: Of this server.
        applier: Of this server.
        seconds: A clock that never goes back.
    """

    def __init__(
        self, raft: Raft, applier: Applier, seconds: Callable[[], float]
    ) -> None:
        self._raft = raft
        self._applier = applier
        self._clock = LogClock(seconds)
        self._term = 0
        # In this term: what was told last, where, and what was due then.
        self._told = 0
        self._index: LogIndex = 0
        self._due: int | None = None

    def now(self) -> int:
        """Return the log's time in ms, as this leader has it (§6.3)."""
        return self._clock.now(self._raft.state.term, self._applier.sessions.time)

    def before_writes(self) -> None:
        """Tell the time to a machine that wants it, ahead of new writes."""
        if not self._applier.machine.timed or not self._leads():
            return
        now = self.now()
        if now > self._told:
            self._tell(now)

    def look(self) -> None:
        """Tell the time if the machine wants to know it now; called often."""
        if not self._applier.machine.timed or not self._leads():
            return
        # An entry that is on its way may be what it is waiting for.
        if self._index > self._applier.last_applied:
            return
        due, now = self._next_time(), self.now()
        if due is None or now < due:
            return
        if due != self._due or now >= self._told + _PAUSE:
            self._due = due
            self._tell(now)

    def _leads(self) -> bool:
        """Say whether this server leads, and begin anew with each term."""
        state = self._raft.state
        if state.role is not Role.LEADER:
            return False
        if state.term != self._term:
            self._term, self._told, self._index, self._due = state.term, 0, 0, None
        return True

    def _next_time(self) -> int | None:
        try:
            return self._applier.next_time()
        except Exception as error:  # noqa: BLE001 - the next leader would meet it, too
            _log.error(
                "{server}: {machine} raised when it was asked for its next time:"
                " {error!r}",
                server=self._raft.state.server,
                machine=type(self._applier.machine).__name__,
                error=error,
            )
            return None

    def _tell(self, now: int) -> None:
        # While it hands over, a leader enters nothing.
        with suppress(NotLeaderError):
            self._index = self._raft.propose([time_entry(now)], [EntryKind.TIME])
            self._told = now
