"""Tests of contrib.queue.machine."""

from __future__ import annotations

from contextlib import suppress
from copy import deepcopy
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.errors import InvalidCommandError
from consensus.interfaces import LATER, Tick
from consensus.testing.machine import StateMachineSuite
from contrib.queue.commands import (
    Ack,
    Configure,
    Delivered,
    Extend,
    Item,
    Leave,
    Limit,
    ListQueues,
    Nack,
    Peek,
    Purge,
    Put,
    QueueFullError,
    ReceiptExpiredError,
    Receive,
    Redrive,
    Release,
    Stats,
)
from contrib.queue.machine import Queues
from contrib.queue.records import QueueStats
from tests.support.driven import Driven

if TYPE_CHECKING:
    from contrib.queue.records import Delivery


NAMES = st.sampled_from(["a", "b", "a.dead"])
NUMBERS = st.integers(1, 8)
SHORT = st.sampled_from([1, 5, 40])
ITEMS = st.builds(
    Item,
    st.sampled_from([b"", b"x", b"yy"]),
    priority=st.integers(-1, 1),
    delay=st.sampled_from([0, 0, 5]),
    key=st.sampled_from([None, None, "k", "l"]),
    window=st.sampled_from([3, 30]),
    max_attempts=st.sampled_from([None, 0, 1, 2]),
)
COMMANDS = st.one_of(
    st.builds(Put, NAMES, st.lists(ITEMS, min_size=1, max_size=3).map(tuple)),
    st.builds(Receive, NAMES, st.integers(1, 3), SHORT, st.sampled_from([0, 4, 40])),
    st.builds(Leave, NUMBERS),
    st.builds(Ack, NUMBERS),
    st.builds(Nack, NUMBERS, st.sampled_from([0, 3]), st.sampled_from(["", "bad"])),
    st.builds(Release, NUMBERS),
    st.builds(Extend, NUMBERS, SHORT),
    st.builds(Purge, NAMES, st.integers(1, 3)),
    st.builds(Redrive, NAMES, st.integers(1, 3)),
    st.builds(
        Configure, st.sampled_from(["a", "b"]), dead=st.sampled_from([None, "a"])
    ),
    st.builds(Configure, st.sampled_from(["a", "b"]), st.integers(0, 3)),
    st.builds(Limit, st.integers(0, 6), max_keys=st.integers(0, 2)),
)
QUERIES = st.one_of(
    st.builds(Delivered, NUMBERS),
    st.builds(Peek, NAMES, st.integers(1, 3)),
    st.builds(Stats, NAMES),
    st.builds(ListQueues, st.sampled_from(["", "a"])),
)


class TestQueues(StateMachineSuite):
    """The promises of state machines."""

    machine: ClassVar[Any] = Queues
    commands = COMMANDS
    queries = QUERIES

    def state_of(self, machine: Any, state: Any) -> Any:
        """Return the tables: in which order the dead lie in a heap is no matter."""
        return b"".join(machine.snapshot(state).chunks())


class Line(Driven):
    """Queues, and short ways to call them."""

    def __init__(self, machine: Any = None) -> None:
        super().__init__(Queues() if machine is None else machine)

    def put(self, *bodies: bytes, queue: str = "q", **how: Any) -> list[int]:
        """Put messages with these *bodies*, all in the same way."""
        items = tuple(Item(body, **how) for body in bodies)
        numbers: list[int] = self.write(Put(queue, items))
        return numbers

    def take(self, count: int = 1, queue: str = "q", **how: Any) -> list[Delivery]:
        """Receive up to *count* messages."""
        return list(self.write(Receive(queue, count, **how)).deliveries)

    def bodies(self, count: int = 10, queue: str = "q") -> list[bytes]:
        """Receive messages, and return what they say."""
        return [each.body for each in self.take(count, queue)]

    def one(self, queue: str = "q", **how: Any) -> Delivery:
        """Receive one message, which is there."""
        (found,) = self.take(1, queue, **how)
        return found

    def wait(self, queue: str = "q", wait: int = 1000, **how: Any) -> int:
        """Wait for messages; return the ticket."""
        received = self.write(Receive(queue, wait=wait, **how))
        assert received.deliveries == ()
        assert received.ticket
        ticket: int = received.ticket
        return ticket

    def handed(self, ticket: int) -> Any:
        """Return the bodies of what *ticket* was handed, or that it waits."""
        found = self.read(Delivered(ticket))
        return found if found is LATER else [each.body for each in found]

    def stats(self, queue: str = "q") -> QueueStats:
        """Return how the queue is."""
        found = self.read(Stats(queue))
        assert isinstance(found, QueueStats)
        return found

    def counts(self, queue: str = "q") -> tuple[int, int, int]:
        """Return how many are ready, delayed and handed out."""
        stats = self.stats(queue)
        return stats.ready, stats.delayed, stats.in_flight


@pytest.fixture
def line() -> Line:
    """Return empty queues."""
    return Line()


class OrderTests:
    """Who comes first."""

    def test_first_come_first_served(self, line: Line) -> None:
        assert line.put(b"1", b"2") == [1, 2]
        assert line.put(b"3") == [3]
        assert line.bodies() == [b"1", b"2", b"3"]
        assert line.bodies() == []

    def test_a_higher_priority_comes_first(self, line: Line) -> None:
        line.put(b"low", priority=-1)
        line.put(b"1", b"2")
        line.put(b"high", priority=7)
        assert line.bodies() == [b"high", b"1", b"2", b"low"]

    def test_queues_are_apart(self, line: Line) -> None:
        line.put(b"a", queue="a")
        line.put(b"b", queue="b")
        assert line.bodies(queue="b") == [b"b"]
        assert line.bodies(queue="a") == [b"a"]

    def test_what_came_back_has_its_old_place(self, line: Line) -> None:
        line.put(b"1", b"2")
        line.write(Nack(line.one().receipt))
        assert line.bodies() == [b"1", b"2"]

    def test_a_delay(self, line: Line) -> None:
        """Late, never early: at its millisecond."""
        line.put(b"later", delay=100)
        line.put(b"now")
        line.tick(99)
        assert line.bodies() == [b"now"]
        line.tick(1)
        assert line.bodies() == [b"later"]


class DeliveryTests:
    """What becomes of a message that was handed out."""

    def test_what_is_acknowledged_is_gone(self, line: Line) -> None:
        line.put(b"x")
        line.write(Ack(line.one(visibility=10).receipt))
        line.tick(100)
        assert line.bodies() == []
        assert line.read(ListQueues()) == []

    def test_what_is_not_comes_again(self, line: Line) -> None:
        line.put(b"x")
        first = line.one(visibility=10)
        assert (first.attempt, first.due) == (1, 10)
        line.tick(9)
        assert line.take() == []
        line.tick(1)
        again = line.one()
        assert (again.id, again.attempt) == (first.id, 2)
        assert [each.reason for each in again.history] == ["expired"]
        assert (again.history[0].begin, again.history[0].end) == (0, 10)

    @pytest.mark.parametrize("command", [Ack, Nack, lambda receipt: Extend(receipt, 9)])
    def test_a_receipt_is_good_for_one_delivery(self, line: Line, command: Any) -> None:
        """Not after its time, nor a second time, nor for the next delivery."""
        line.put(b"x")
        first = line.one(visibility=10)
        line.tick(10)
        with pytest.raises(ReceiptExpiredError):
            line.write(command(first.receipt))
        second = line.one()
        with pytest.raises(ReceiptExpiredError):
            line.write(command(first.receipt))
        line.write(Ack(second.receipt))
        with pytest.raises(ReceiptExpiredError):
            line.write(command(second.receipt))

    def test_nack(self, line: Line) -> None:
        line.put(b"x")
        assert line.write(Nack(line.one().receipt, 50, "no luck")) is False
        assert line.counts() == (0, 1, 0)
        line.tick(49)
        assert line.take() == []
        line.tick(1)
        assert [each.reason for each in line.one().history] == ["no luck"]

    def test_extend(self, line: Line) -> None:
        """From now on, whether that is longer or shorter."""
        line.put(b"x")
        receipt = line.one(visibility=10).receipt
        line.tick(5)
        assert line.write(Extend(receipt, 20)) == 25
        line.tick(19)
        assert line.counts() == (0, 0, 1)
        assert line.write(Extend(receipt, 1)) == 25
        line.tick(1)
        assert line.counts() == (1, 0, 0)

    def test_release(self, line: Line) -> None:
        """It goes to the next, and was never handed out."""
        line.put(b"x", max_attempts=1)
        receipt = line.one().receipt
        line.write(Release(receipt))
        with pytest.raises(ReceiptExpiredError):
            line.write(Release(receipt))
        found = line.one()
        assert (found.attempt, found.history) == (1, ())
        ticket = line.wait()
        line.write(Release(found.receipt))
        assert line.handed(ticket) == [b"x"]

    def test_a_long_silence(self, line: Line) -> None:
        """All that came due while nobody led happens when somebody does."""
        line.put(b"late", delay=20)
        line.put(b"x")
        line.one(visibility=10)
        line.leap(1000)
        assert line.bodies() == [b"late", b"x"]

    def test_the_history_is_bounded(self, line: Line) -> None:
        line.put(b"x", max_attempts=0)
        for number in range(15):
            line.write(Nack(line.one().receipt, 0, str(number)))
        found = line.one()
        assert found.attempt == 16
        assert [each.reason for each in found.history] == list(map(str, range(5, 15)))


class DeadLetterTests:
    """What becomes of a message that fails again and again."""

    def die(self, line: Line, queue: str = "q") -> None:
        """Let the first message fail until it is dead."""
        while not line.write(Nack(line.one(queue).receipt, 0, "bad")):
            pass

    def test_it_is_put_aside_with_its_history(self, line: Line) -> None:
        line.put(b"x", max_attempts=2)
        line.one(visibility=10)
        line.tick(10)
        assert line.write(Nack(line.one().receipt, 5, "bad")) is True
        assert line.bodies() == []
        assert line.stats().dead == 1
        (dead,) = line.read(Peek("q.dead"))
        assert (dead.body, dead.origin, dead.attempt) == (b"x", "q", 2)
        assert [each.reason for each in dead.history] == ["expired", "bad"]

    def test_a_dead_letter_never_dies_again(self, line: Line) -> None:
        line.put(b"x", max_attempts=1)
        self.die(line)
        for _ in range(20):
            assert line.write(Nack(line.one("q.dead").receipt)) is False
        line.write(Ack(line.one("q.dead").receipt))
        assert line.read(ListQueues()) == []

    def test_redrive(self, line: Line) -> None:
        """Back to where they died, with all attempts before them."""
        line.put(b"1", b"2", max_attempts=2)
        line.put(b"own", queue="q.dead")
        self.die(line)
        self.die(line)
        assert line.write(Redrive("q.dead", 1)) == 1
        assert line.write(Redrive("q.dead", 9)) == 1
        assert line.write(Redrive("q.dead", 9)) == 0
        assert [each.attempt for each in line.take(9)] == [1, 1]
        assert line.bodies(queue="q.dead") == [b"own"]
        assert line.stats().dead == 0

    def test_those_who_wait_get_what_is_redriven(self, line: Line) -> None:
        line.put(b"x", max_attempts=1)
        self.die(line)
        ticket = line.wait()
        line.write(Redrive("q.dead"))
        assert line.handed(ticket) == [b"x"]

    def test_another_place(self, line: Line) -> None:
        line.write(Configure("q", max_attempts=1, dead="graves"))
        line.put(b"x")
        self.die(line)
        assert line.bodies(queue="graves") == [b"x"]

    def test_not_its_own_place(self, line: Line) -> None:
        with pytest.raises(ValueError, match="its own dead letters"):
            line.write(Configure("q", dead="q"))

    def test_the_queues_own_attempts(self, line: Line) -> None:
        line.write(Configure("q", max_attempts=1))
        line.put(b"1", max_attempts=None)
        line.write(Configure("q"))
        line.put(b"5")
        self.die(line)
        assert line.stats().dead == 1
        for _ in range(4):
            assert line.write(Nack(line.one().receipt)) is False
        assert line.write(Nack(line.one().receipt)) is True

    def test_dead_letters_have_room(self, line: Line) -> None:
        """A limit of the place where they go keeps nobody alive."""
        line.write(Configure("q.dead", max_messages=1))
        line.put(b"1", b"2", max_attempts=1)
        self.die(line)
        self.die(line)
        assert line.counts("q.dead") == (2, 0, 0)


class KeyTests:
    """One message for each key."""

    def test_a_key_is_put_once(self, line: Line) -> None:
        assert line.put(b"1", b"2", key="k") == [1, 1]
        assert line.put(b"3", key="k") == [1]
        assert line.put(b"4", key="other") == [2]
        assert line.bodies() == [b"1", b"4"]

    def test_it_is_remembered_when_the_message_is_gone(self, line: Line) -> None:
        line.put(b"1", key="k", window=50)
        line.write(Ack(line.one().receipt))
        line.tick(49)
        assert line.put(b"2", key="k", window=50) == [1]
        line.tick(1)
        assert line.put(b"3", key="k", window=50) == [2]

    def test_keys_of_queues_are_apart(self, line: Line) -> None:
        assert line.put(b"1", key="k", queue="a") == [1]
        assert line.put(b"2", key="k", queue="b") == [2]


class WaitingTests:
    """Receivers stand in line, and are handed what comes."""

    def test_who_waits_is_handed_what_comes(self, line: Line) -> None:
        first, second = line.wait(), line.wait()
        assert line.handed(first) is LATER
        line.put(b"1")
        assert line.handed(first) == [b"1"]
        assert line.handed(second) is LATER
        line.put(b"2")
        assert line.handed(second) == [b"2"]
        assert line.stats().waiting == 0

    def test_as_many_as_are_wanted(self, line: Line) -> None:
        first, second = line.wait(count=2), line.wait(count=2)
        line.put(b"1", b"2", b"3")
        assert line.handed(first) == [b"1", b"2"]
        assert line.handed(second) == [b"3"]

    def test_asking_again_gets_the_same(self, line: Line) -> None:
        """An answer that was lost costs nothing; what is done with is not in it."""
        ticket = line.wait(count=2)
        line.put(b"1", b"2")
        one, _ = line.read(Delivered(ticket))
        assert line.handed(ticket) == [b"1", b"2"]
        line.write(Extend(one.receipt, 60_000))
        line.write(Ack(one.receipt))
        assert line.handed(ticket) == [b"2"]
        line.tick(30_000)
        assert line.handed(ticket) == []
        assert line.state.tickets == {}

    def test_a_place_is_kept_for_a_time(self, line: Line) -> None:
        ticket = line.wait(wait=100)
        line.tick(99)
        assert line.handed(ticket) is LATER
        line.tick(1)
        assert line.handed(ticket) == []
        line.put(b"x")
        assert line.handed(ticket) == []
        assert line.bodies() == [b"x"]

    def test_who_waited_too_long_gets_nothing_at_the_same_moment(
        self, line: Line
    ) -> None:
        ticket = line.wait(wait=100)
        line.put(b"x", delay=100)
        line.tick(100)
        assert line.handed(ticket) == []
        assert line.counts() == (1, 0, 0)

    def test_what_comes_back_goes_to_who_waits(self, line: Line) -> None:
        """Be it given back, expired, or no longer delayed."""
        line.put(b"x")
        held = line.one()
        ticket = line.wait(visibility=10)
        line.write(Nack(held.receipt))
        assert line.handed(ticket) == [b"x"]
        ticket = line.wait(visibility=10)
        line.tick(10)
        assert line.handed(ticket) == [b"x"]
        line.put(b"y", delay=5)
        ticket = line.wait()
        line.tick(5)
        assert line.handed(ticket) == [b"y"]

    def test_leaving_the_line(self, line: Line) -> None:
        first, second = line.wait(), line.wait()
        line.write(Leave(first))
        line.write(Leave(first))
        line.put(b"x")
        assert line.handed(first) == []
        assert line.handed(second) == [b"x"]

    def test_leaving_too_late(self, line: Line) -> None:
        """What was handed goes to the next, and was never handed out."""
        first, second = line.wait(), line.wait()
        line.put(b"x", max_attempts=1)
        line.write(Leave(first))
        assert line.handed(first) == []
        (found,) = line.read(Delivered(second))
        assert (found.attempt, found.history) == (1, ())

    def test_a_server_that_is_behind(self, line: Line) -> None:
        """It says nothing of tickets that it has not heard of."""
        assert line.handed(1) is LATER


class LimitTests:
    """Memory is bounded."""

    def test_all_or_nothing(self, line: Line) -> None:
        line.write(Limit(max_messages=2))
        line.put(b"1")
        with pytest.raises(QueueFullError, match="2 at most, and this would make 3"):
            line.put(b"2", b"3")
        assert line.counts() == (1, 0, 0)
        line.put(b"2", queue="other")
        with pytest.raises(QueueFullError):
            line.put(b"3")
        line.write(Ack(line.one().receipt))
        line.put(b"3")

    def test_bytes(self, line: Line) -> None:
        line.write(Limit(max_bytes=10))
        line.put(b"x" * 6)
        with pytest.raises(QueueFullError, match="bytes"):
            line.put(b"x" * 5)
        line.put(b"x" * 4)
        assert line.stats().bytes == 10

    def test_of_one_queue(self, line: Line) -> None:
        line.write(Configure("q", max_messages=2, max_bytes=10))
        line.put(b"1", b"2")
        with pytest.raises(QueueFullError, match="'q'"):
            line.put(b"3")
        line.put(b"3", queue="other")
        line.write(Purge("q"))
        with pytest.raises(QueueFullError, match="'q'"):
            line.put(b"x" * 11)

    def test_keys(self, line: Line) -> None:
        line.write(Limit(max_keys=1))
        line.put(b"1", key="k")
        with pytest.raises(QueueFullError, match="keys"):
            line.put(b"2", key="l")
        assert line.put(b"3", key="k") == [1]

    def test_those_who_wait(self, line: Line) -> None:
        line.write(Limit(max_waiting=1))
        line.wait()
        with pytest.raises(QueueFullError, match="wait"):
            line.write(Receive("q", wait=10))
        assert line.take() == []

    def test_a_full_queue_knows_what_it_has(self, line: Line) -> None:
        """What is not new needs no room."""
        line.write(Limit(max_messages=1))
        line.put(b"1", key="k")
        assert line.put(b"1", key="k") == [1]


class LookTests:
    """What can be seen, and cleared away."""

    def test_peek(self, line: Line) -> None:
        line.put(*(bytes([number]) for number in range(50)))
        line.put(b"first", priority=1)
        line.take(3)
        found = line.read(Peek("q", 4))
        assert [each.body for each in found] == [b"\2", b"\3", b"\4", b"\5"]
        assert [each.receipt for each in found] == [0, 0, 0, 0]
        assert line.read(Peek("none", 4)) == []

    def test_stats(self, line: Line) -> None:
        line.put(b"123", max_attempts=1)
        line.tick(10)
        line.put(b"4")
        line.put(b"5", delay=100)
        line.one()
        line.tick(20)
        line.wait("other")
        assert line.stats() == QueueStats(1, 1, 1, 0, 0, 5, 30)
        assert line.stats("other") == QueueStats(0, 0, 0, 0, 1, 0, 0)
        line.tick(30_000)
        assert line.stats().dead == 1
        assert line.stats().oldest_age == 30_020

    def test_purge(self, line: Line) -> None:
        """Those that are handed out stay with who has them."""
        line.put(b"1", b"2", b"3")
        line.put(b"4", delay=10)
        held = line.one()
        assert line.write(Purge("q", 2)) == 2
        assert line.write(Purge("q", 2)) == 1
        assert line.write(Purge("q", 2)) == 0
        assert line.counts() == (0, 0, 1)
        line.write(Nack(held.receipt))
        assert line.bodies() == [b"1"]

    def test_list(self, line: Line) -> None:
        for name in ("b", "c", "a"):
            line.put(b"x", queue=name)
        line.write(Configure("d", max_messages=1))
        assert line.read(ListQueues(limit=3)) == ["a", "b", "c"]
        assert line.read(ListQueues("c")) == ["d"]

    def test_a_query_is_not_written(self, line: Line) -> None:
        with pytest.raises(InvalidCommandError, match="Peek changes nothing"):
            line.write(Peek("q"))

    def test_a_command_is_not_read(self, line: Line) -> None:
        with pytest.raises(InvalidCommandError, match="Ack changes the state"):
            line.read(Ack(1))

    def test_a_client_cannot_say_the_time(self) -> None:
        with pytest.raises(InvalidCommandError):
            Queues().encode(Tick(5))


def check(line: Driven) -> None:
    """See that all that follows from the tables is what follows from them."""
    state = line.state
    messages = list(state.messages.values())
    assert state.bytes == sum(each.size for each in messages)
    assert state.receipts == {
        each.receipt: each.id for each in messages if each.receipt
    }
    waiting = [each for each in state.tickets.values() if not each.receipts]
    assert state.waiting == len(waiting)
    dues = [each.due for each in messages if each.due]
    dues += [each.until for each in waiting]
    dues += [each.until for each in state.keys.values()]
    assert state.next_time() == min(dues, default=None)
    assert not dues or min(dues) > state.time
    names = {each.queue for each in messages} | {each.origin for each in messages}
    names |= {each.queue for each in waiting}
    assert set(state.queues) == names - {""}
    for name, queue in state.queues.items():
        here = [each for each in messages if each.queue == name]
        ready = sorted((-each.priority, each.id) for each in here if not each.due)
        assert list(queue.ready_heap.in_order()) == ready
        assert queue.ready == len(ready)
        assert queue.in_flight == sum(bool(each.receipt) for each in here)
        assert queue.messages == len(here)
        assert queue.bytes == sum(each.size for each in here)
        assert queue.dead == sum(each.origin == name for each in messages)
        assert queue.oldest.first() == min((each.id for each in here), default=None)
        line_up = sorted(each.number for each in waiting if each.queue == name)
        assert list(queue.waiting) == line_up
        assert not (ready and line_up)
    for ticket in state.tickets.values():
        assert set(ticket.receipts) <= set(state.receipts)


class StateTests:
    """What follows from the tables is kept beside them."""

    @given(st.lists(COMMANDS | st.integers(0, 100).map(Tick), max_size=60))
    def test_counts_and_orders(self, commands: list[Any]) -> None:
        """After each command they are what they would be made anew."""
        line = Line()
        for command in commands:
            if isinstance(command, Tick):
                line.tick(command.time)
            else:
                with suppress(QueueFullError, ReceiptExpiredError, ValueError):
                    line.write(command)
            check(line)
        for other in (line.renewed(), deepcopy(line)):
            check(other)
            other.tick(100)
            check(other)
        check(line)

    def test_dead_items_are_cleared(self, line: Line) -> None:
        """What is not alive any more takes no more room than what is."""
        line.put(b"x", max_attempts=0)
        receipt = line.one().receipt
        for number in range(1, 2000):
            line.write(Extend(receipt, 10_000 + number))
        assert len(line.state._due._items) < 100
        line.write(Nack(receipt))
        for _ in range(1000):
            line.write(Leave(line.wait("other")))
        assert len(line.state._tickets_due._items) < 100
        check(line)
