"""Tests of contrib.queue.client and contrib.queue.consumer."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred, succeed

from consensus.errors import InvalidCommandError, ProtocolError, UnreachableError
from contrib.queue import (
    Item,
    Put,
    QueueClient,
    QueueFullError,
    QueueMessage,
    Queues,
    QueueStats,
    ReceiptExpiredError,
    Receive,
    Received,
)
from contrib.queue.consumer import growing_delay
from tests.support.application import Application
from tests.support.deferreds import error_of, has_fired
from tests.support.machines import MachineServer


class World(Application):
    """A server of queues, and clients."""

    def __init__(self) -> None:
        super().__init__(Queues)
        self.queues = QueueClient(self.client())

    def ticket(self) -> int:
        """Return the next ticket, which is another one each time."""
        received = self.do(self.cluster.servers["s1"].write(Receive("z", wait=1)))
        assert isinstance(received, Received)
        return received.ticket

    def stats(self, queue: str = "q") -> QueueStats:
        """Return how a queue is."""
        found = self.do(self.queues.stats(queue))
        assert isinstance(found, QueueStats)
        return found

    def one(self, **how: Any) -> QueueMessage:
        """Receive one message, which is there."""
        (found,) = self.do(self.queues.receive("q", **how))
        assert isinstance(found, QueueMessage)
        return found

    def counts(self) -> tuple[int, int, int]:
        """Return how many messages are ready, delayed and handed out."""
        stats = self.stats()
        return stats.ready, stats.delayed, stats.in_flight


@pytest.fixture
def world() -> World:
    """Return a server with empty queues."""
    return World()


class CallTests:
    """Each call of the client."""

    def test_put_and_receive(self, world: World) -> None:
        assert world.do(world.queues.put("q", "töxt")) == 1
        assert world.do(world.queues.put("q", b"bytes", priority=1)) == 2
        first, second = world.do(world.queues.receive("q", 5))
        assert (first.body, first.attempt, first.queue) == (b"bytes", 1, "q")
        assert second.body.decode() == "töxt"
        world.do(first.ack())
        assert world.counts() == (0, 0, 1)
        assert world.do(second.nack(reason="x" * 1000)) is False
        again = world.one()
        assert again.history[0].reason == "x" * 200
        assert (again.id, again.attempt, again.origin) == (1, 2, "")
        assert repr(again) == "<message 1 of 'q', attempt 2>"
        world.do(again.release())
        assert world.one().attempt == 2

    def test_put_many(self, world: World) -> None:
        put = world.queues.put_many("q", [b"1", "2"], delay=0.5, key=None)
        assert world.do(put) == [1, 2]
        assert world.counts() == (0, 2, 0)
        world.run(0.6)
        assert world.counts() == (2, 0, 0)

    def test_a_key(self, world: World) -> None:
        assert world.do(world.queues.put("q", b"1", key="k", window=1.0)) == 1
        assert world.do(world.queues.put("q", b"1", key="k", window=1.0)) == 1
        world.run(1.1)
        assert world.do(world.queues.put("q", b"1", key="k", window=1.0)) == 2

    def test_times_are_seconds(self, world: World) -> None:
        world.do(world.queues.put("q", b"x"))
        message = world.one(visibility=0.2)
        world.do(message.extend(1.0))
        world.run(0.5)
        assert world.counts() == (0, 0, 1)
        world.run(0.7)
        assert world.counts() == (1, 0, 0)
        with pytest.raises(ReceiptExpiredError):
            world.do(message.ack())

    def test_dead_letters(self, world: World) -> None:
        world.do(world.queues.configure("q", max_attempts=1, dead="graves"))
        world.do(world.queues.put("q", b"x"))
        assert world.do(world.one().nack()) is True
        (dead,) = world.do(world.queues.peek("graves"))
        assert dead.origin == "q"
        assert world.do(world.queues.redrive("graves")) == 1
        assert world.do(world.queues.purge("q")) == 1
        assert world.do(world.queues.queues()) == ["q"]
        world.do(world.queues.configure("q"))
        assert world.do(world.queues.queues()) == []

    def test_a_purge_ends(self, world: World) -> None:
        """However many messages there are."""
        for _ in range(3):
            world.do(world.queues.put_many("q", [b"x"] * 1000))
        assert world.do(world.queues.purge("q")) == 3000

    def test_no_room(self, world: World) -> None:
        world.do(world.queues.limit(max_messages=1))
        world.do(world.queues.put("q", b"x"))
        with pytest.raises(QueueFullError, match="1 at most"):
            world.do(world.queues.put("q", b"x"))

    def test_what_makes_no_sense_is_not_sent(self, world: World) -> None:
        wrong: Any = {"a": 1}
        for call in (
            world.queues.put("", b"x"),
            world.queues.put("q", wrong),
            world.queues.put("q", b"x", delay=-1),
            world.queues.put("q", b"x", delay=float("nan")),
            world.queues.put_many("q", []),
            world.queues.put_many("q", [b"x"], colour=1),
            world.queues.receive("q", 0),
            world.queues.receive("q", visibility=1e9),
            world.queues.receive("q", visibility=float("inf")),
            world.queues.ack(0),
            world.queues.stats("q" * 300),
            world.queues.configure("q", max_attempts=-1),
        ):
            assert isinstance(error_of(call), InvalidCommandError)
        with pytest.raises(ValueError, match="its own dead"):
            world.do(world.queues.configure("q", dead="q"))

    def test_without_a_session(self, world: World) -> None:
        queues = QueueClient(world.client(), session=False)
        assert world.do(queues.put("q", b"x")) == 1

    def test_close(self, world: World) -> None:
        world.do(world.queues.close())
        assert isinstance(error_of(world.queues.put("q", b"x")), UnreachableError)

    def test_addresses_need_the_reactor(self) -> None:
        with pytest.raises(TypeError, match="needs the reactor"):
            QueueClient(["tcp:127.0.0.1:9101"])

    def test_a_server_that_has_no_queues(self) -> None:
        """Another application's answers are told apart."""
        server = MachineServer(Queues(), "no queues")
        queues = QueueClient(server.client, session=False)
        server.answered = b"\xc1"
        for call in (queues.put("q", b"x"), queues.stats("q")):
            server.settle()
            assert isinstance(error_of(call), ProtocolError)


class WaitTests:
    """A receiver that waits."""

    def test_it_gets_what_comes(self, world: World) -> None:
        waiting = world.queues.receive("q", wait=10)
        world.run(0.5)
        assert not has_fired(waiting)
        world.do(world.queues.put("q", b"x"))
        (message,) = world.do(waiting)
        assert message.body == b"x"

    def test_first_come_first_served(self, world: World) -> None:
        """Each message wakes one of those who wait, and no other."""
        waiting = [QueueClient(world.client()).receive("q", wait=10) for _ in range(3)]
        world.run(0.1)
        before = world.cluster.servers["s1"].status().last_applied
        for number, each in enumerate(waiting):
            world.do(world.queues.put("q", str(number)))
            (message,) = world.do(each)
            assert message.body == str(number).encode()
            assert sum(map(has_fired, waiting)) == number + 1
        after = world.cluster.servers["s1"].status().last_applied
        # A put each, the session of who puts, and the time now and then.
        assert after - before <= 10

    @pytest.mark.parametrize("seconds", [0.5, 45.0])
    def test_it_waits_no_longer_than_it_says(
        self, world: World, seconds: float
    ) -> None:
        """Longer than a call may wait it waits again."""
        waiting = world.queues.receive("q", wait=seconds)
        world.run(seconds - 0.1)
        assert not has_fired(waiting)
        world.run(0.3)
        assert world.do(waiting) == []
        assert world.stats().waiting == 0

    def test_an_answer_that_is_lost(self, world: World) -> None:
        """It is asked for again soon, and is the same."""
        waiting = world.queues.receive("q", visibility=60.0, wait=20.0)
        world.run(0.5)
        world.cluster.network.down("s1")
        world.do(world.cluster.servers["s1"].write(Put("q", (Item(b"x"),))))
        world.run(0.5)
        world.cluster.network.heal()
        world.run(6.0)
        assert has_fired(waiting)
        (message,) = world.do(waiting)
        assert (message.body, message.attempt) == (b"x", 1)

    def test_it_may_be_cancelled(self, world: World) -> None:
        waiting = world.queues.receive("q", wait=10)
        world.run(0.1)
        assert world.stats().waiting == 1
        waiting.cancel()
        assert isinstance(error_of(waiting), CancelledError)
        world.run(0.1)
        assert world.stats().waiting == 0

    def test_cancelled_too_late(self, world: World) -> None:
        """What was on its way goes back, as if it had not been handed out."""
        world.do(world.queues.put("q", b"x", max_attempts=1))
        waiting = world.queues.receive("q", wait=10)
        waiting.cancel()
        assert isinstance(error_of(waiting), CancelledError)
        world.run(0.1)
        assert world.counts() == (1, 0, 0)
        assert world.one().attempt == 1


class ConsumeTests:
    """One message after the other."""

    def test_the_loop(self, world: World) -> None:
        """To ask for the next is to be done with the last."""

        async def work() -> list[bytes]:
            found = []
            async with world.queues.consume("q") as messages:
                async for message in messages:
                    found.append(message.body)
                    if len(found) == 3:
                        break
            return found

        world.do(world.queues.put_many("q", [b"1", b"2"]))
        working = Deferred.fromCoroutine(work())
        world.run(1.0)
        assert world.stats() == QueueStats(0, 0, 0, 0, 1, 0, 0)
        before = world.ticket()
        world.do(world.queues.put("q", b"3"))
        assert world.do(working) == [b"1", b"2", b"3"]
        assert world.stats() == QueueStats(0, 0, 0, 0, 0, 0, 0)
        assert world.ticket() == before + 1, "it waited, though it was to end"

    def test_a_loop_that_fails(self, world: World) -> None:
        """The message comes again later, the rest at once."""

        async def work() -> None:
            async with world.queues.consume("q", prefetch=3) as messages:
                async for message in messages:
                    raise ValueError(message.body)

        world.do(world.queues.put_many("q", [b"1", b"2"]))
        with pytest.raises(ValueError, match="1"):
            world.do(work())
        assert world.counts() == (1, 1, 0)
        world.run(1.1)
        first, second = world.do(world.queues.receive("q", 2))
        assert (first.attempt, second.attempt) == (2, 1)
        assert [each.reason for each in first.history] == ["ValueError: b'1'"]

    def test_what_is_held_is_extended(self, world: World) -> None:
        """Worked on or waiting here, for as long as it takes."""
        world.do(world.queues.put_many("q", [b"1", b"2"]))
        consumer = world.queues.consume("q", prefetch=2, visibility=1.0)
        message = world.do(consumer.get())
        world.run(5.0)
        assert world.counts() == (0, 0, 2)
        world.do(message.ack())
        world.do(consumer.close())
        assert world.counts() == (1, 0, 0)

    def test_no_more_than_it_may_hold(self, world: World) -> None:
        world.do(world.queues.put_many("q", [b"1", b"2", b"3", b"4"]))
        consumer = world.queues.consume("q", prefetch=2)
        message = world.do(consumer.get())
        world.run(1.0)
        assert world.counts() == (2, 0, 2)
        world.do(message.ack())
        world.run(0.1)
        assert world.counts() == (1, 0, 2)
        world.do(consumer.close())

    def test_close_ends_the_loop(self, world: World) -> None:
        async def work() -> list[QueueMessage]:
            return [message async for message in consumer]

        consumer = world.queues.consume("q")
        working = Deferred.fromCoroutine(work())
        world.run(0.1)
        world.do(consumer.close())
        assert world.do(working) == []
        assert isinstance(error_of(consumer.get()), StopAsyncIteration)
        world.run(0.1)
        assert world.stats().waiting == 0

    def test_a_getter_may_be_cancelled(self, world: World) -> None:
        consumer = world.queues.consume("q")
        first, second = consumer.get(), consumer.get()
        first.cancel()
        assert isinstance(error_of(first), CancelledError)
        world.do(world.queues.put("q", b"x"))
        assert world.do(second).body == b"x"
        world.do(consumer.close())

    def test_a_name_that_is_none(self, world: World) -> None:
        consumer = world.queues.consume("")
        with pytest.raises(InvalidCommandError):
            world.do(consumer.get())
        assert isinstance(error_of(consumer.get()), InvalidCommandError)
        with pytest.raises(ValueError, match="at least one"):
            world.queues.consume("q", prefetch=0)

    def test_a_server_that_is_down(self, world: World) -> None:
        """It tries again until there is one."""
        consumer = world.queues.consume("q")
        world.cluster.network.down("s1")
        waiting = consumer.get()
        world.run(10.0)
        world.cluster.network.heal()
        world.do(world.queues.put("q", b"x"))
        assert world.do(waiting).body == b"x"
        world.do(consumer.close())


class WorkerTests:
    """A service that works on messages."""

    def test_outcomes(self, world: World) -> None:
        """Done if the function returns, and tried again if it fails."""
        seen = []

        def handler(message: QueueMessage) -> Any:
            seen.append((message.body, message.attempt))
            if message.body == b"bad":
                raise ValueError("no luck")
            return succeed(None) if message.body == b"later" else None

        worker = world.queues.worker("q", handler)
        worker.startService()
        world.do(world.queues.put("q", b"bad", max_attempts=3))
        world.do(world.queues.put_many("q", [b"good", b"later"]))
        world.run(0.5)
        assert seen == [(b"bad", 1), (b"good", 1), (b"later", 1)]
        assert world.counts() == (0, 1, 0)
        world.run(3.5)
        assert seen[3:] == [(b"bad", 2), (b"bad", 3)]
        (dead,) = world.do(world.queues.peek("q.dead"))
        assert [each.reason for each in dead.history] == ["ValueError: no luck"] * 3
        world.do(worker.stopService())

    def test_several_at_once(self, world: World) -> None:
        """As many as are allowed; to stop waits for them."""
        running: list[Deferred[None]] = []

        async def handler(message: QueueMessage) -> None:
            del message
            running.append(Deferred())
            await running[-1]

        worker = world.queues.worker("q", handler, concurrency=2, visibility=1.0)
        worker.startService()
        world.do(world.queues.put_many("q", [b"1", b"2", b"3"]))
        world.run(5.0)
        assert len(running) == 2
        assert world.counts() == (1, 0, 2)
        running[0].callback(None)
        world.run(0.1)
        assert len(running) == 3
        stopping = maybeDeferred(worker.stopService)
        world.run(0.1)
        assert not has_fired(stopping)
        running[1].callback(None)
        running[2].callback(None)
        world.do(stopping)
        assert world.counts() == (0, 0, 0)

    def test_a_handler_may_settle_itself(self, world: World) -> None:
        async def handler(message: QueueMessage) -> None:
            await message.nack(100.0)

        worker = world.queues.worker("q", handler)
        worker.startService()
        world.do(world.queues.put("q", b"x"))
        world.run(0.2)
        assert world.counts() == (0, 1, 0)
        world.do(worker.stopService())

    def test_a_lost_message(self, world: World) -> None:
        """What works on it is cancelled: somebody else may do so, too."""
        ended = []

        async def handler(message: QueueMessage) -> None:
            try:
                await Deferred()
            except CancelledError:
                ended.append(message.body)
                raise

        worker = world.queues.worker("q", handler, visibility=1.0)
        worker.startService()
        world.do(world.queues.put("q", b"x", max_attempts=1))
        world.run(0.2)
        world.cluster.network.down("s1")
        world.run(15.0)
        assert ended == [b"x"]
        world.cluster.network.heal()
        world.run(2.0)
        assert world.stats().dead == 1
        world.do(worker.stopService())

    def test_the_default_delay_grows(self, world: World) -> None:
        world.do(world.queues.put("q", b"x", max_attempts=0))
        delays = []
        for _ in range(9):
            message = world.one()
            delays.append(growing_delay(message))
            world.do(message.nack())
        assert delays == [1, 2, 4, 8, 16, 32, 60, 60, 60]
