"""What a server remembers of what happened to it, and who waits for more."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock

from consensus.errors import InvalidCommandError, OverloadedError
from consensus.shell.events import MAX_EVENTS, MAX_WAIT, EventPage, EventQuery, Events
from tests.shell.test_members import established, failing
from tests.support.servers import Servers

encode = msgspec.msgpack.encode


def remembering(count: int, remembered: int = 4) -> Events:
    """Return the events of a server at which as much happened."""
    events = Events(Clock(), lambda: 7.5, remembered)
    for number in range(1, count + 1):
        events.add("role", term=number)
    return events


def numbers(page: EventPage) -> list[int]:
    """Return which events are on *page*."""
    return [each.seq for each in page.events]


class EventsTests:
    """The memory of one server."""

    def test_in_order(self) -> None:
        """Events have numbers and times, and follow where the caller is."""
        events = remembering(3)
        page = events.after()
        assert numbers(page) == [1, 2, 3]
        assert (page.next, page.lost, page.run) == (3, 0, events.run)
        assert [each.detail for each in page.events][-1] == {"term": 3}
        assert page.events[0].time == 7.5
        assert numbers(events.after(2)) == [3]
        assert numbers(events.after(3)) == []
        assert events.after(3).next == 3

    def test_limit(self) -> None:
        """Pages follow one another without a gap."""
        events = remembering(3)
        first = events.after(0, 2)
        assert numbers(first) == [1, 2]
        assert numbers(events.after(first.next, 2)) == [3]

    def test_lost(self) -> None:
        """What is forgotten is counted."""
        events = remembering(10)
        assert numbers(events.after()) == [7, 8, 9, 10]
        assert events.after().lost == 6
        assert events.after(6).lost == 0
        assert events.after(4).lost == 2
        assert numbers(events.after(8)) == [9, 10]

    def test_another_run(self) -> None:
        """Who counts in another run, or ahead, is told everything."""
        events = remembering(3)
        assert numbers(events.after(2, run="other")) == [1, 2, 3]
        assert numbers(events.after(9)) == [1, 2, 3]
        assert numbers(events.after(2, run=events.run)) == [3]

    def test_wait(self) -> None:
        """Who has seen all waits for the next event, or for the end of the wait."""
        clock = Clock()
        events = Events(clock)
        events.add("started")
        answers: list[Any] = []
        events.wait(EventQuery(after=0, wait=5)).addCallback(answers.append)
        assert numbers(answers.pop()) == [1]
        events.wait(EventQuery(after=1, wait=5)).addCallback(answers.append)
        clock.advance(4)
        assert not answers
        events.add("role")
        assert numbers(answers.pop()) == [2]
        events.wait(EventQuery(after=2, wait=5)).addCallback(answers.append)
        clock.advance(5)
        assert numbers(answers.pop()) == []
        assert not clock.getDelayedCalls()

    def test_does_not_wait(self) -> None:
        """Without a wait the answer is there at once."""
        answers: list[Any] = []
        remembering(0).wait(EventQuery()).addCallback(answers.append)
        assert numbers(answers.pop()) == []

    def test_stop(self) -> None:
        """When the server stops, nobody waits any longer."""
        events = remembering(0)
        answers: list[Any] = []
        events.wait(EventQuery(wait=5)).addCallback(answers.append)
        events.stop()
        assert numbers(answers.pop()) == []

    def test_cancel(self) -> None:
        """Who gives up is forgotten, and its timer with it."""
        clock = Clock()
        events = Events(clock)
        failures: list[Any] = []
        waiting = events.wait(EventQuery(wait=5)).addErrback(failures.append)
        waiting.cancel()
        assert failures.pop().check(CancelledError)
        assert not clock.getDelayedCalls()
        events.add("role")

    def test_too_many(self) -> None:
        """A flood of callers is refused, and those who wait are answered."""
        events = remembering(0)
        answers: list[Any] = []
        for _ in range(64):
            events.wait(EventQuery(wait=5)).addCallback(answers.append)
        with pytest.raises(OverloadedError):
            events.wait(EventQuery(wait=5))
        events.add("role")
        assert len(answers) == 64

    @pytest.mark.parametrize(
        "query",
        [
            EventQuery(after=-1),
            EventQuery(limit=0),
            EventQuery(limit=MAX_EVENTS + 1),
            EventQuery(wait=-1.0),
            EventQuery(wait=MAX_WAIT + 1),
            EventQuery(wait=float("nan")),
        ],
    )
    def test_nonsense(self, query: EventQuery) -> None:
        """A query out of range is refused."""
        with pytest.raises(InvalidCommandError):
            remembering(1).wait(query)


class ServerTests:
    """What a server remembers."""

    def test_life(self) -> None:
        """Its start, its roles, its members, its snapshots."""
        servers = Servers()
        chief = established(servers)
        servers.run(0.5)
        servers.result(chief.snapshot())
        servers.run(0.1)
        kinds = [each.kind for each in chief.events.after().events]
        assert {"started", "role", "membership", "snapshot"} <= set(kinds)
        roles = [each.detail for each in chief.events.after().events]
        leading = {"role": "leader", "term": chief.status().term, "leader": chief.name}
        assert leading in roles

    def test_call(self) -> None:
        """Clients ask for them, and wait for the next one."""
        servers = Servers()
        chief = established(servers)
        found = self.ask(servers, chief, EventQuery())
        assert found == chief.events.after()
        later = EventQuery(found.run, found.next, 10, 5.0)
        waiting = chief.answer("events", encode(later))
        assert not waiting.called
        servers.result(chief.snapshot())
        page = msgspec.msgpack.decode(servers.result(waiting), type=EventPage)
        assert page.events[0].kind == "snapshot"

    @staticmethod
    def ask(servers: Servers, chief: Any, query: EventQuery) -> EventPage:
        answer = servers.result(chief.answer("events", encode(query)))
        return msgspec.msgpack.decode(answer, type=EventPage)

    @pytest.mark.parametrize(
        "payload",
        [b"", b"\xc1", encode(["", "x"]), encode(["", -1]), encode([1]), encode(5)],
    )
    def test_nonsense(self, payload: bytes) -> None:
        """What cannot be read is refused with a sentence."""
        servers = Servers()
        chief = established(servers)
        assert failing(servers, chief.answer("events", payload), InvalidCommandError)
