"""A state machine that is told the time, and lets those who ask wait."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from consensus.interfaces import LATER, StateMachine, Tick

if TYPE_CHECKING:
    from collections.abc import Sequence


class Alarms(StateMachine):
    """
    Alarms that ring: ``["in", ms, name]``; ``["rung", n]`` waits for more than *n*.

    The state is the time, what is due, and what has rung, with the time at which
    it was set, was due, and rang.
    """

    timed = True

    def init(self, name: str) -> Any:
        """Begin without an alarm."""
        del name
        return {"now": 0, "due": [], "rung": []}

    def handle_write(self, command: Any, state: Any) -> tuple[Any, Any]:
        """Set an alarm, or let those ring that are due."""
        if isinstance(command, Tick):
            assert command.time >= state["now"]
            state["now"] = command.time
            due = sorted(each for each in state["due"] if each[0] <= command.time)
            state["due"] = [each for each in state["due"] if each[0] > command.time]
            state["rung"] += [[*each, command.time] for each in due]
            return None, state
        match command:
            case ["in", int(milliseconds), str(name)]:
                state["due"].append([state["now"] + milliseconds, name, state["now"]])
                return state["now"], state
        message = f"cannot do {command!r}"
        raise ValueError(message)

    def next_time(self, state: Any) -> int | None:
        """Return when the first alarm is to ring."""
        return min((each[0] for each in state["due"]), default=None)

    def handle_read(self, query: Any, state: Any) -> tuple[Any, Any]:
        """Return the names of what rang after the first *n*, if there are any."""
        if query == "broken":
            raise ValueError(query)
        names = [name for _, name, _, _ in state["rung"][query[1] :]]
        return names or LATER, state


class BatchedAlarms(Alarms):
    """The same, for commands that are applied together."""

    batches: ClassVar[list[list[Any]]] = []

    def apply_batch(
        self, batch: Sequence[tuple[int, Any]], state: Any
    ) -> tuple[Sequence[Any], Any]:
        """Note what comes together."""
        self.batches.append([command for _, command in batch])
        return super().apply_batch(batch, state)
