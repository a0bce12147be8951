"""
What happened at one server lately: a bounded memory, and waiting for more.

Roles, terms, leaders, memberships, snapshots: each has a number, one more than
the one before, and the time of day.  It is in memory, so a server that starts
anew begins again with 1, in another *run*.
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec
from twisted.internet.defer import Deferred, succeed

from consensus.core.ready import MembershipCommitted, RoleChanged, TransferFailed
from consensus.core.values import Role
from consensus.errors import InvalidCommandError, OverloadedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from consensus.core.ready import Event
    from consensus.core.values import ServerId, Term

#: Events that a server remembers.
REMEMBERED = 1024

#: Events in one answer, and seconds that an answer may wait for the next one.
MAX_EVENTS = 256
MAX_WAIT = 30.0

#: Callers that may wait at once.
_MAX_WAITING = 64


@dataclass(frozen=True, slots=True)
class Happening:
    """
    One thing that happened at a server.

    Args:
        seq: Its number within the run of the server.
        time: When, in seconds since 1970, by the server's clock.
        kind: ``started``, ``role``, ``membership``, ``transfer-failed``,
            ``snapshot`` (taken), ``restored`` (from one), ``compacted``,
            ``disk-full`` or ``disk-has-room``.
        detail: What more there is to say, by name; see
            ``docs/reference/look-commands.md``.
    """

    seq: int
    time: float
    kind: str
    detail: dict[str, Any]


@dataclass(frozen=True, slots=True)
class EventPage:
    """
    What a server answers when it is asked for its events.

    Args:
        run: Drawn when the server's process made it; the numbers count within.
        next: Ask for what comes after this number.
        lost: So many were asked for and are forgotten.
        events: In their order.
    """

    run: str
    next: int
    lost: int
    events: list[Happening]


class EventQuery(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """
    What is asked for.

    Args:
        run: Of the last answer; another one, or none, asks for all.
        after: The ``next`` of the last answer; 0 for all that is remembered.
        limit: So many at most.
        wait: Seconds to wait for one, if there is none yet.
    """

    run: str = ""
    after: int = 0
    limit: int = MAX_EVENTS
    wait: float = 0.0

    def check(self) -> None:
        """
        See that this makes sense.

        Raises:
            InvalidCommandError: It does not.
        """
        if self.after < 0:
            raise InvalidCommandError("events are counted from 0 on")
        if not 1 <= self.limit <= MAX_EVENTS:
            message = f"between 1 and {MAX_EVENTS} events may be asked for"
            raise InvalidCommandError(message)
        if not 0.0 <= self.wait <= MAX_WAIT:
            message = f"a call may wait between 0 and {MAX_WAIT:g} seconds for events"
            raise InvalidCommandError(message)


class Events:
    """
    Remembers the latest events of a server.

    Args:
        clock: An ``IReactorTime``, for those who wait.
        wall: Tells the time of day.
        remembered: So many are kept.
    """

    def __init__(
        self,
        clock: Any,
        wall: Callable[[], float] = time.time,
        remembered: int = REMEMBERED,
    ) -> None:
        self.run = secrets.token_hex(8)
        self._clock = clock
        self._wall = wall
        self._kept: deque[Happening] = deque(maxlen=remembered)
        self._last = 0
        self._waiting: dict[Deferred[EventPage], tuple[EventQuery, Any]] = {}

    def add(self, kind: str, **detail: Any) -> None:
        """Remember that something happened; tell those who wait for it."""
        self._last += 1
        self._kept.append(Happening(self._last, self._wall(), kind, detail))
        self._answer_all()

    def heard(self, event: Event) -> None:
        """Remember what the core reports; of memberships, those that are committed."""
        if isinstance(event, RoleChanged):
            self.add(
                "role", role=event.role.value, term=event.term, leader=event.leader
            )
        elif isinstance(event, MembershipCommitted):
            membership = event.membership
            self.add(
                "membership",
                index=event.index,
                voters=dict(membership.voters),
                learners=dict(membership.learners),
                outgoing=dict(membership.outgoing),
            )
        elif isinstance(event, TransferFailed):
            self.add("transfer-failed", target=event.target)

    def after(
        self, seq: int = 0, limit: int = MAX_EVENTS, *, run: str = ""
    ) -> EventPage:
        """
        Return what happened after the event *seq*, at once.

        Args:
            seq: The last one that is known; one that there is not yet, or that
                is of another *run*, asks for all that is remembered.
            limit: So many at most.
            run: In which the events were counted; none: in this one.
        """
        if (run and run != self.run) or seq > self._last:
            seq = 0
        first = self._last - len(self._kept) + 1
        skipped = max(0, seq + 1 - first)
        found = list(islice(self._kept, skipped, skipped + limit))
        lost = max(0, first - seq - 1)
        return EventPage(self.run, found[-1].seq if found else self._last, lost, found)

    def leader_of(self, term: Term) -> ServerId | None:
        """Return who led in *term*, if that is remembered."""
        for each in reversed(self._kept):
            found = each.detail
            if each.kind == "role" and found["term"] == term and found["leader"]:
                leader: ServerId = found["leader"]
                return leader
        return None

    def wait(self, query: EventQuery) -> Deferred[EventPage]:
        """
        Do as :meth:`after`; without any event, wait for the next one.

        After ``query.wait`` seconds the Deferred gives a page without events;
        it never fails, and may be cancelled.

        Raises:
            InvalidCommandError: The query makes no sense.
            OverloadedError: Too many wait already.
        """
        query.check()
        found = self.after(query.after, query.limit, run=query.run)
        if found.events or not query.wait:
            return succeed(found)
        if len(self._waiting) >= _MAX_WAITING:
            raise OverloadedError("too many wait for events already")
        answer: Deferred[EventPage] = Deferred(self._forget)
        timer = self._clock.callLater(query.wait, self._answer, answer)
        self._waiting[answer] = query, timer
        return answer

    def stop(self) -> None:
        """Let nobody wait any longer."""
        self._answer_all()

    def _answer_all(self) -> None:
        for answer in list(self._waiting):
            if answer in self._waiting:  # one of the others may have cancelled it
                self._answer(answer)

    def _answer(self, answer: Deferred[EventPage]) -> None:
        query, _ = self._waiting[answer]
        self._forget(answer)
        answer.callback(self.after(query.after, query.limit, run=query.run))

    def _forget(self, answer: Deferred[EventPage]) -> None:
        """Let *answer* wait no longer."""
        _, timer = self._waiting.pop(answer)
        if timer.active():
            timer.cancel()


def role_line(event: RoleChanged) -> str:
    """Return the line of a program's log that tells of *event*."""
    if event.role is Role.LEADER:
        return "{server} became leader in term {term}"
    if event.role is Role.PRE_CANDIDATE:
        return "{server} hears no leader in term {term}, and asks around"
    if event.role is Role.CANDIDATE:
        return "{server} stands for election in term {term}"
    if event.leader is not None:
        return "{server} follows {leader} in term {term}"
    return "{server} knows no leader in term {term} yet"
