"""
The reads that users wait for.

Everything is bounded, everything has a deadline, and every Deferred fires.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from heapq import heapify, heappop, heappush
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure

from consensus.core.values import Role
from consensus.errors import (
    CommandFailedError,
    NotLeaderError,
    NotYetError,
    OverloadedError,
    StaleError,
    TimedOutError,
)
from consensus.interfaces import LATER
from consensus.shell.waiting import BARRIER, Query, WaitingQueries

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from consensus.config import Limits
    from consensus.core.raft import Raft
    from consensus.core.ready import Ready
    from consensus.core.values import LogIndex
    from consensus.interfaces import StateMachine
    from consensus.options import ReadOptions
    from consensus.shell.freshness import Freshness
    from consensus.telemetry.measurements import Measurements

#: Numbers of questions begin somewhere below, by lot.
_MANY = 1 << 62


def command_failed(error: Exception) -> Failure:
    """Return what a caller gets when the state machine raised *error*."""
    return Failure(CommandFailedError(type(error).__name__, str(error)))


_size = attrgetter("size")


class _Batch(NamedTuple):
    """Reads that share a round, or wait for the same index."""

    deadline: float
    queries: list[Query]

    def hastened(self, deadline: float) -> _Batch:
        """Return the same with *deadline*, unless it has an earlier one."""
        return self._replace(deadline=min(self.deadline, deadline))


class Reads:
    """
    Reads: of this turn, then in a round, then until their index is applied.

    Args:
        limits: What bounds them.
        freshness: Of this server's state.
        ticks_per_second: What deadlines are counted in.
        measured: Where it is counted what becomes of them.
    """

    def __init__(
        self,
        limits: Limits,
        freshness: Freshness,
        ticks_per_second: float,
        measured: Measurements,
    ) -> None:
        self._measured = measured
        self.limit(limits)
        self._freshness = freshness
        self._stretch = 1.0
        self._new: dict[str, list[Query]] = {}
        # Batches by the numbers that the core knows them by.
        self._rounds: dict[int, _Batch] = {}
        # The same of those that may be another leader's to confirm.
        self._asked: dict[int, _Batch] = {}
        # A heap of batches whose index is known, by that index.
        self._waiting: list[tuple[LogIndex, int, _Batch]] = []
        self._next_deadline = 0.0
        # Those that have no answer yet, though their index is applied.
        self._later = WaitingQueries(ticks_per_second)
        self._number = 0
        self._has_drawn = False
        self._order = 0
        self._asked_at = 0.0
        self._count = 0
        self._bytes = 0

    def limit(self, limits: Limits) -> None:
        """Be bounded by these from now on; what has been taken stays."""
        self._max_pending_bytes = limits.max_pending_bytes
        self._max_pending_requests = limits.max_pending_requests

    def hasten(self, deadline: float, stretch: float) -> None:
        """
        Let nobody wait for longer than until *deadline*.

        Args:
            deadline: But for those who said how long they can wait.
            stretch: How long a tick is now, counted in those at the start.
        """
        self._stretch = stretch
        for batches in (self._rounds, self._asked):
            for number, batch in batches.items():
                batches[number] = batch.hastened(deadline)
        self._waiting = [
            (index, order, batch.hastened(deadline))
            for index, order, batch in self._waiting
        ]
        self._next_deadline = min(self._next_deadline, deadline)

    def add(self, query: Any, options: ReadOptions, size: int) -> Deferred[Any]:
        """
        Keep *query* for :meth:`begin`; return the Deferred of its answer.

        Args:
            query: For the state machine.
            options: How to read.
            size: The bytes that it came as; 0 if it is the caller's object.

        The Deferred fails with:
            OverloadedError: Too many are waiting, or too large ones.
        """
        if (
            self._count >= self._max_pending_requests
            or self._bytes + size > self._max_pending_bytes
        ):
            # Not raised: there is much of it under load, and this costs less.
            error = OverloadedError("too many reads are waiting; back off")
            self._measured.failed(error)
            return fail(error)
        self._count += 1
        self._bytes += size
        answer: Deferred[Any] = Deferred()
        read = Query(query, options, size, answer)
        self._new.setdefault(options.consistency, []).append(read)
        return answer

    def begin(self, raft: Raft, now: float, deadline: float) -> None:
        """Let the reads of this turn share what they need (§6.4)."""
        if not self._new:
            return
        new, self._new = self._new, {}
        for consistency, reads in new.items():
            self._measured.reads[consistency] += len(reads)
        for read in new.get("stale", ()):
            self._wait(read.options.at_index or 0, _Batch(deadline, [read]))
        at_leader = new.get("linearizable", [])
        leased = new.get("lease", [])
        if leased and self._freshness.has_lease():
            index = max(raft.state.log.commit_index, raft.state.term_start)
            self._confirmed(index, _Batch(deadline, leased))
        else:
            at_leader += leased
        if at_leader:
            self._begin_round(raft, _Batch(deadline, at_leader))
        if "follower" in new:
            self._ask(raft, now, _Batch(deadline, new["follower"]))

    def _begin_round(self, raft: Raft, batch: _Batch) -> None:
        self._number += 1
        try:
            raft.read(self._number)
        except NotLeaderError as error:
            self._refuse(batch, error)
            return
        self._rounds[self._number] = batch

    def _ask(self, raft: Raft, now: float, batch: _Batch) -> None:
        if not self._has_drawn:
            # An answer to a question of before a restart must not be taken
            # for one to a question of now.
            self._has_drawn = True
            self._number += raft.state.random_below(_MANY)
        self._number += 1
        try:
            raft.read_index(self._number)
        except NotLeaderError as error:
            self._refuse(batch, error)
            return
        self._asked[self._number] = batch
        self._asked_at = now

    def ask_again(self, raft: Raft, now: float) -> None:
        """
        Repeat the last question after a heartbeat interval: it may be lost.

        Its answer does for those before it, too.
        """
        pause = raft.state.tuning.heartbeat_ticks * self._stretch
        is_due = now - self._asked_at >= pause
        if self._asked and is_due:
            self._asked_at = now
            with suppress(NotLeaderError):
                raft.read_index(next(reversed(self._asked)))

    def settle(self, ready: Ready, error: Callable[[], NotLeaderError]) -> None:
        """Note which rounds *ready* confirms, and fail with *error* the others."""
        for number in ready.failed_reads:
            lost = self._rounds.pop(number, None)
            if lost is not None:
                self._refuse(lost, error())
        for number, index in ready.reads:
            batch = self._rounds.pop(number, None)
            if batch is not None:
                self._confirmed(index, batch)
            elif number in self._asked:
                # Whoever asked before waits for no more than this.
                for earlier in [each for each in self._asked if each <= number]:
                    self._confirmed(index, self._asked.pop(earlier))

    def _confirmed(self, index: LogIndex, batch: _Batch) -> None:
        """Let *batch* wait for *index*, and who wants more for that."""
        in_time: list[Query] = []
        for read in batch.queries:
            wanted = read.options.at_index
            if wanted is None or wanted <= index:
                in_time.append(read)
            else:
                self._wait(wanted, _Batch(batch.deadline, [read]))
        self._wait(index, _Batch(batch.deadline, in_time))

    def _wait(self, index: LogIndex, batch: _Batch) -> None:
        if not self._waiting or batch.deadline < self._next_deadline:
            self._next_deadline = batch.deadline
        self._order += 1
        heappush(self._waiting, (index, self._order, batch))

    def serve(self, last_applied: LogIndex, machine: StateMachine, state: Any) -> None:
        """Answer the reads for which *state* is recent enough."""
        waiting = self._waiting
        while waiting and waiting[0][0] <= last_applied:
            batch = heappop(waiting)[2]
            for read in batch.queries:
                answer = self._answer(read, machine, state)
                if answer is LATER and read.options.wait:
                    self._later.add(read, last_applied)
                    continue
                self._release([read])
                self._give(read, _not_yet() if answer is LATER else answer)
        if self._later:
            ask = partial(self._answer, machine=machine, state=state)
            for read, answer in self._later.look(last_applied, ask):
                self._release([read])
                self._give(read, answer)

    def _answer(self, read: Query, machine: StateMachine, state: Any) -> Any:
        max_age = read.options.max_age
        if max_age is not None:
            age = self._freshness.age()
            if age is None or age > max_age:
                return Failure(StaleError(_too_old(age, max_age)))
        if read.query is BARRIER:
            return None
        try:
            result, _ = machine.handle_read(read.query, state)
        except Exception as error:  # noqa: BLE001 - the caller's to deal with
            return command_failed(error)
        return result

    def expire(self, now: float) -> None:
        """Fail the reads whose deadline has passed; called with each tick."""
        for read in self._later.tick(now):
            self._release([read])
            self._give(read, _not_yet())
        for batches in (self._rounds, self._asked):
            # They are in the order of their deadlines.
            while batches and next(iter(batches.values())).deadline <= now:
                late = batches.pop(next(iter(batches)))
                self._refuse(late, TimedOutError("not confirmed in time"))
        if self._waiting and self._next_deadline <= now:
            self._expire_waiting(now)

    def _expire_waiting(self, now: float) -> None:
        waiting, self._waiting = self._waiting, []
        late = [item for item in waiting if item[2].deadline <= now]
        self._waiting = [item for item in waiting if item[2].deadline > now]
        heapify(self._waiting)
        if self._waiting:
            self._next_deadline = min(item[2].deadline for item in self._waiting)
        for index, _, batch in late:
            message = f"this server had not applied entry {index} in time"
            self._refuse(batch, TimedOutError(message))

    def drop_lost(self, raft: Raft, error: Callable[[], NotLeaderError]) -> None:
        """Fail with *error* those that wait for an answer of a leader no more."""
        if self._later and raft.state.role is not Role.LEADER:
            lost = self._later.remove(lambda read: read.options.needs_leader)
            self._refuse(_Batch(0, lost), error())

    @property
    def depth(self) -> int:
        """Return how many wait for their answer."""
        return self._count

    def fail(self, error: Exception) -> None:
        """Fail all of them."""
        batches = [*self._rounds.values(), *self._asked.values()]
        batches += [batch for _, _, batch in self._waiting]
        batches += [_Batch(0, queries) for queries in self._new.values()]
        batches.append(_Batch(0, self._later.remove(lambda _: True)))
        self._new = {}
        self._rounds.clear()
        self._asked.clear()
        self._waiting.clear()
        for batch in batches:
            self._refuse(batch, error)

    def _give(self, read: Query, answer: Any) -> None:
        """Answer *read*, and count it if that is a failure."""
        if type(answer) is Failure and isinstance(answer.value, Exception):
            self._measured.failed(answer.value)
        read.answer.callback(answer)

    def _refuse(self, batch: _Batch, error: Exception) -> None:
        self._release(batch.queries)
        self._measured.failed(error, len(batch.queries))
        for read in batch.queries:
            read.answer.errback(error)

    def _release(self, queries: Sequence[Query]) -> None:
        self._count -= len(queries)
        if self._bytes:
            self._bytes -= sum(map(_size, queries))


def _not_yet() -> Failure:
    return Failure(NotYetError("there is no answer to this yet"))


def _too_old(age: float | None, max_age: float) -> str:
    if age is None:
        return "this server has not heard a leader since it started"
    return (
        f"what this server has was the newest {age:.3f} s ago, which is more than"
        f" {max_age:g} s"
    )
