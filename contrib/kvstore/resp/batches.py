"""Commands of one Redis client that are done at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from twisted.internet.defer import Deferred

from consensus.errors import CommandFailedError, InvalidCommandError, RaftError
from contrib.kvstore.commands import Get, GetMany
from contrib.kvstore.resp.plans import Plan

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from twisted.python.failure import Failure

    from contrib.kvstore.resp.port import Port
    from contrib.kvstore.resp.replies import Reply

# Of the values that are read only references are kept here, unless they come
# from another server.
_MOST_WRITES = 1000
_MOST_READS = 250


class Batch:
    """
    Commands that follow one another: all of them writes, or all of them reads.

    Replies that need no store may stand between them.

    Args:
        port: Where they arrived.
    """

    def __init__(self, port: Port) -> None:
        self._port = port
        self._entries: list[Plan | Reply] = []
        #: Those that ask the store.
        self.plans: list[Plan] = []
        self._room = port.max_command

    @property
    def is_empty(self) -> bool:
        """Say whether there is nothing in it."""
        return not self._entries

    def add(self, entry: Plan | Reply, size: int) -> bool:
        """
        Take *entry* if it goes with the others; say whether it does.

        Args:
            entry: A plan, or a reply.
            size: How many bytes it came as.
        """
        if isinstance(entry, Plan):
            if self.plans and not self._takes(entry, size):
                return False
            self.plans.append(entry)
            self._room -= size
        self._entries.append(entry)
        return True

    def _takes(self, plan: Plan, size: int) -> bool:
        if plan.writes is not self.plans[0].writes or size > self._room:
            return False
        return len(self.plans) < (_MOST_WRITES if plan.writes else _MOST_READS)

    def answers(self, results: Sequence[Any]) -> Iterator[tuple[Plan | None, Any]]:
        """Yield what :meth:`run` gave with the plan, and the replies, in order."""
        rest = iter(results)
        for entry in self._entries:
            if isinstance(entry, Plan):
                yield entry, next(rest)
            else:
                yield None, entry

    def run(self) -> Deferred[list[Any]]:
        """Return the results of all plans; what failed has an error there."""
        if not self.plans[0].writes:
            return self._read()
        commands = [plan.command for plan in self.plans]
        if len(commands) == 1:
            return self._write(commands[0])
        done = self._port.home.write_many(commands)
        return done.addErrback(self._refused, commands)

    def _write(self, command: Any) -> Deferred[list[Any]]:
        done = self._port.home.write(command)
        return done.addCallbacks(
            lambda result: [result], lambda reason: [_error(reason)]
        )

    def _refused(self, failure: Failure, commands: list[Any]) -> Any:
        if failure.check(InvalidCommandError) is None:
            return [_error(failure)] * len(commands)
        # One of them; none was done.  The others are not to suffer for it.
        return Deferred.fromCoroutine(self._one_by_one(commands))

    async def _one_by_one(self, commands: list[Any]) -> list[Any]:
        return [(await self._write(command))[0] for command in commands]

    def _read(self) -> Deferred[list[Any]]:
        queries = [plan.command for plan in self.plans]
        keys = [query.key for query in queries if type(query) is Get]
        if not 1 < len(keys) == len(queries):
            return self._read_each()
        # One question costs less than many, above all to another server.
        asked = self._port.read(GetMany(keys))
        return asked.addErrback(self._divide)

    def _divide(self, failure: Failure) -> Any:
        if failure.check(CommandFailedError) is None:
            return [_error(failure)] * len(self.plans)
        return self._read_each()  # all of them do not fit into one answer

    def _read_each(self) -> Deferred[list[Any]]:
        plans = self.plans
        results: list[Any] = [None] * len(plans)
        done: Deferred[list[Any]] = Deferred()
        missing = len(plans)

        def found(result: Any, place: int) -> None:
            nonlocal missing
            results[place] = result
            missing -= 1
            if not missing:
                done.callback(results)

        for place, plan in enumerate(plans):
            asked = self._port.read(plan.command, plan.consistency)
            asked.addErrback(_error).addCallback(found, place)
        return done


def _error(failure: Failure) -> Exception:
    failure.trap(RaftError)
    return cast("RaftError", failure.value)
