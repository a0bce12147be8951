"""What happened in a simulation, for people to read after a failure."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from consensus.core.messages import AppendEntries, AppendEntriesResponse
from consensus.core.ready import RoleChanged

if TYPE_CHECKING:
    from consensus.core.messages import Message
    from consensus.core.ready import Event
    from consensus.core.values import ServerId
    from consensus.testing.sim_time import VirtualTime

#: Events that are remembered.
_MOST = 2000

_LONGEST = 160


class Trace:
    """
    The last events; they become text only when somebody reads them.

    Heartbeats and what answers them are left out: they would be most of it.

    Args:
        time: Whose.
    """

    def __init__(self, time: VirtualTime) -> None:
        self._time = time
        self._events: deque[tuple[float, str, tuple[Any, ...]]] = deque(maxlen=_MOST)
        self._answered: dict[tuple[ServerId, ServerId], Any] = {}

    def note(self, text: str, *args: Any) -> None:
        """Remember that *text*, a format for *args*, happened now."""
        self._events.append((self._time.now, text, args))

    def message(
        self, what: str, sender: ServerId, receiver: ServerId, message: Message
    ) -> None:
        """Remember a message that arrived, or was lost."""
        kind = type(message)
        if kind is AppendEntries and not message.entries:  # type: ignore[union-attr]
            return
        if kind is AppendEntriesResponse:
            said = (message.success, message.index, message.term)  # type: ignore[union-attr]
            if self._answered.get((sender, receiver)) == said:
                return
            self._answered[sender, receiver] = said
        arrow = "->" if what == "got" else "-x"
        self.note("{} {} {}: {}", sender, arrow, receiver, message)

    def event(self, server: ServerId, event: Event) -> None:
        """Remember what a core has reported."""
        if isinstance(event, RoleChanged):
            leader = f", leader {event.leader}" if event.leader else ""
            self.note(
                "{} is {} in term {}{}", server, event.role.value, event.term, leader
            )
        else:
            self.note("{}: {}", server, event)

    def digest(self) -> str:
        """Return all of it, whole: two runs of a seed have the same."""
        return "\n".join(_line(*each) for each in self._events)

    def text(self, last: int = 60) -> str:
        """Return the *last* events, a line for each."""
        lines = [_line(*each) for each in list(self._events)[-last:]]
        return "\n".join(
            line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…" for line in lines
        )


def _line(at: float, text: str, args: tuple[Any, ...]) -> str:
    return f"{at:10.4f}  {text.format(*args)}"
