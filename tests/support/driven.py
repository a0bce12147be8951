"""A state machine by itself, to which a test gives commands and time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from consensus.applications.lease_commands import OpenLease
from consensus.interfaces import Tick

if TYPE_CHECKING:
    from consensus.interfaces import StateMachine


class Driven:
    """
    A machine with its state, and the log's time.

    Args:
        machine: Which.
    """

    def __init__(self, machine: StateMachine) -> None:
        self.machine = machine
        self.state = machine.init("s1")
        self.time = 0

    def write(self, command: Any) -> Any:
        """Apply *command* as a server would, and return or raise its result."""
        if not isinstance(command, Tick):
            command = self.machine.decode(self.machine.encode(command))
        result, self.state = self.machine.handle_write(command, self.state)
        return result

    def read(self, query: Any) -> Any:
        """Return the answer to *query*."""
        query = self.machine.decode(self.machine.encode(query))
        return self.machine.handle_read(query, self.state)[0]

    def tick(self, milliseconds: int) -> None:
        """Let so much time pass, as a leader does: it says what is due when it is."""
        end = self.time + milliseconds
        while (due := self.machine.next_time(self.state)) is not None and due <= end:
            self.time = max(self.time, due)
            self._tell()
        self.time = end
        self._tell()

    def leap(self, milliseconds: int) -> None:
        """Let so much time pass while nobody leads."""
        self.time += milliseconds
        self._tell()

    def _tell(self) -> None:
        _, self.state = self.machine.handle_write(Tick(self.time), self.state)

    def renewed(self) -> Driven:
        """Return one whose state is that of a snapshot."""
        other = type(self)(self.machine)
        other.time = self.time
        other.state = self._kept()
        return other

    def restart(self) -> None:
        """Go on with what a snapshot keeps."""
        self.state = self._kept()

    def _kept(self) -> Any:
        chunks = b"".join(self.machine.snapshot(self.state).chunks())
        return self.machine.restore([chunks], 1)


class DrivenWithLeases(Driven):
    """One whose clients have leases."""

    def open(self, count: int, ttl: int = 1000) -> None:
        """Open so many leases, numbered from 1."""
        for _ in range(count):
            self.write(OpenLease(ttl))
