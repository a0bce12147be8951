"""
Records what clients asked of a cluster, and what they were answered.

A :class:`History` has an order and times.  The order of its events is that in
which this process saw them, and is what a judgement goes by
(:mod:`consensus.testing.linearizability`); the times are for people, and for
reads with a ``max_age``.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from twisted.python.failure import Failure

from consensus.declare import as_machine
from consensus.errors import CommandFailedError, RejectedError
from consensus.testing import history_file
from consensus.testing.operations import Answer, Operation, Read, Write

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.defer import Deferred

    from consensus.interfaces import StateMachine

__all__ = ["Answer", "History", "Operation", "Read", "Write"]

_T = TypeVar("_T")


class History:
    """
    All calls of some clients.

    Args:
        machine: The state machine's class, or an instance: its ``encode``
            keeps commands, queries and results as they are now.
        seconds: Returns the time; ``reactor.seconds`` in virtual time.
    """

    def __init__(
        self,
        machine: StateMachine | type,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self.machine = as_machine(machine)() if isinstance(machine, type) else machine
        self.operations: list[Operation] = []
        self._seconds = seconds
        self._events = 0

    def __len__(self) -> int:
        return len(self.operations)

    def tick(self) -> tuple[float, int]:
        """Return time and number of an event that happens now."""
        self._events += 1
        return self._seconds(), self._events - 1

    def invoke(self, client: str, call: Write | Read) -> Operation:
        """
        Note that *client* makes *call* now, before it does.

        A call that is never said to have ended is as one whose outcome is
        unknown.

        Raises:
            InvalidCommandError: The machine cannot encode what it would get.
        """
        data = self.machine.encode(call.body)
        operation = Operation(
            machine=self.machine,
            tick=self.tick,
            number=len(self.operations),
            client=client,
            call=call,
            data=data,
        )
        operation.began, operation.start = self.tick()
        self.operations.append(operation)
        return operation

    def watch(
        self, client: str, call: Write | Read, deferred: Deferred[_T]
    ) -> Deferred[_T]:
        """
        Record *call*, whose answer *deferred* is going to give.

        To be called in the same turn of the reactor as made the call.  What
        *deferred* gives, or fails with, is passed on.  It gives the machine's
        result, as a :class:`.RaftServer` does: what a
        :class:`~consensus.client.Client` gives has to be decoded before.

        A read that failed says nothing, so it counts as failed.
        """
        operation = self.invoke(client, call)

        def ended(result: Any) -> Any:
            if isinstance(result, Failure):
                _classify(operation, result)
            else:
                operation.returned(result)
            return result

        return deferred.addBoth(ended)

    def save(self, path: Path | str) -> None:
        """Write it to the file *path*, as JSON lines."""
        Path(path).write_bytes(history_file.dump(self.machine, self.operations))

    @classmethod
    def load(cls, machine: StateMachine | type, *paths: Path | str) -> History:
        """
        Return the history that was saved to a file, or to several.

        Several are of the same time, on clocks that agree, such as
        ``time.monotonic`` of processes of one host: events of the same moment
        count as concurrent.

        Raises:
            ValueError: A file is no history; the message names the line.
        """
        history = cls(machine)
        found = history_file.read(
            history.machine, history.tick, [Path(path) for path in paths]
        )
        history.operations = found
        history._events = 2 * len(found) + 2  # the numbers of a file end before
        return history


def _classify(operation: Operation, failure: Failure) -> None:
    """Note what the framework's error says of a call."""
    error = failure.value
    if isinstance(error, CommandFailedError):
        operation.returned(error)
    elif isinstance(error, RejectedError) or not operation.is_write:
        operation.failed()
    else:
        operation.unknown()
