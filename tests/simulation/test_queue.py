"""
The queues under faults: partitions, crashes, changes of the leader, full disks.

What has to hold of them: no acknowledged message is lost, and none comes back
that was acknowledged by its receiver; in the log's time nobody is handed a
message that another one has; who is handed one gets the first of those that are
ready; and what clients are answered is what one machine would have answered.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from twisted.internet.defer import Deferred

from consensus.errors import RaftError
from consensus.interfaces import Tick
from consensus.testing.determinism import commands_in
from consensus.testing.history import Read, Write
from consensus.testing.logged import taken
from consensus.testing.simulation import Scenario
from consensus.testing.simulation import check as check_scenario
from contrib.queue import (
    Ack,
    Extend,
    Item,
    Leave,
    Nack,
    Peek,
    Purge,
    Put,
    QueueClient,
    Queues,
    ReceiptExpiredError,
    Receive,
    Redrive,
    Release,
    Stats,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable
    from random import Random

    from consensus.testing.plugin import MakeCluster
    from consensus.testing.simulator import SimulatedCluster
    from contrib.queue import QueueMessage
    from contrib.queue.records import Message
    from contrib.queue.state import State

SNAPSHOTS = {"snapshots": {"every_entries": 40, "keep_entries": 5}}
SECONDS = 20.0
NAMES = ("a", "b")


# --- what the log says -----------------------------------------------------------


class Replay:
    """
    What happened to messages in the log's time, as it is found in the log.

    Args:
        commands: The log's, with the time.
    """

    def __init__(self, commands: Iterable[Any]) -> None:
        self.machine = Queues()
        self.state: State = self.machine.init("replay")
        #: Until when each message is, or was, handed out.
        self.until: dict[int, int] = {}
        self.gone: set[int] = set()
        self.deliveries = self.expired = 0
        for command in commands:
            self.apply(taken(self.machine, command))

    def apply(self, command: Any) -> None:
        """Apply *command*, and look at what it did to each message."""
        before = dict(self.state.messages)
        try:
            self.machine.handle_write(command, self.state)
        except Exception:  # noqa: BLE001 - it is the command's result
            assert self.state.messages == before
            return
        after = self.state.messages
        for number in before.keys() - after.keys():
            assert isinstance(command, Ack | Purge)
            self.gone.add(number)
        assert not self.gone & after.keys(), "an acknowledged message came back"
        handed = [
            self.look_at(before.get(number), message, command)
            for number, message in after.items()
            if message != before.get(number)
        ]
        # When much comes back at once, one is handed out before the next is back.
        if not isinstance(command, Tick | Redrive):
            self.check_order([each for each in handed if each is not None])

    def look_at(
        self, old: Message | None, new: Message, command: Any
    ) -> Message | None:
        """See that *new* may follow from *old*; return it if it was handed out."""
        had, has = (0 if old is None else old.receipt), new.receipt
        now = self.state.time
        if old is not None and had and had != has:
            self.check_end(old, command)
            self.until[new.id] = now
        if not has or has == had:
            self.until[new.id] = new.due if has else self.until.get(new.id, 0)
            return None
        assert new.begin == now
        assert self.until.get(new.id, 0) <= now, "two have it at once"
        self.until[new.id] = new.due
        self.deliveries += 1
        return new

    def check_end(self, message: Message, command: Any) -> None:
        """See that *command* may end the delivery of *message*."""
        match command:
            case Tick():
                assert message.due <= self.state.time, "it was taken away too early"
                self.expired += 1
            case Leave():
                assert message.ticket == command.ticket
            case Nack() | Release():
                assert message.receipt == command.receipt
            case _:
                name = type(command).__name__
                pytest.fail(f"a {name} took it away")

    def check_order(self, handed: list[Message]) -> None:
        """See that nothing that is still ready should have come first."""
        for message in handed:
            rank = (-message.priority, message.id)
            for other in self.state.messages.values():
                if other.queue == message.queue and not other.due:
                    assert rank < (-other.priority, other.id), "out of order"


# --- clients -----------------------------------------------------------------------


class Traffic:
    """
    Clients that put, receive and work, and what they were told.

    Args:
        cluster: Whose queues.
    """

    def __init__(self, cluster: SimulatedCluster) -> None:
        self.cluster = cluster
        self.dice = cluster.dice("traffic")
        self.is_over = False
        self.put: dict[bytes, int] = {}
        #: When an acknowledgement was made, and when it was answered.
        self.acking: set[bytes] = set()
        self.acked: dict[bytes, float] = {}
        self.received = self.worked = self.refused = 0
        self.queues: dict[str, QueueClient] = {}
        self.work: list[Deferred[None]] = []
        for number in range(2):
            self.begin(f"p{number}", self.produce)
            self.begin(f"c{number}", self.consume)
        self.worker = self.client("w").worker("b", self.handle, visibility=1.0)
        self.worker.startService()

    def client(self, name: str) -> QueueClient:
        """Return a client on a host of its own."""
        client = QueueClient(self.cluster.make_client(name, timeout=2.0))
        self.queues[name] = client
        return client

    def begin(
        self,
        name: str,
        what: Callable[[str, QueueClient], Coroutine[Any, Any, None]],
    ) -> None:
        """Let a client do something until all is over."""
        self.work.append(Deferred.fromCoroutine(what(name, self.client(name))))

    async def pause(self, client: QueueClient, longest: float) -> None:
        """Wait for a while."""
        await client.cluster.pause(self.dice.uniform(0.0, longest))

    async def produce(self, name: str, client: QueueClient) -> None:
        """Put messages, each with a body of its own."""
        number = 0
        while not self.is_over:
            number += 1
            body = f"{name}-{number}".encode()
            with suppress(RaftError):
                self.put[body] = await client.put(
                    self.dice.choice(NAMES),
                    body,
                    priority=self.dice.choice([0, 0, 1]),
                    delay=self.dice.choice([0.0, 0.0, 0.4]),
                    max_attempts=self.dice.choice([1, 3, None]),
                )
            await self.pause(client, 0.3)

    async def consume(self, name: str, client: QueueClient) -> None:
        """Receive messages, and do this and that with them."""
        del name
        while not self.is_over:
            began = self.cluster.now
            try:
                found = await client.receive(
                    self.dice.choice(NAMES),
                    self.dice.choice([1, 3]),
                    visibility=self.dice.choice([0.3, 1.0, 3.0]),
                    wait=self.dice.choice([0.0, 1.5]),
                )
            except RaftError:
                await self.pause(client, 0.3)
                continue
            for message in found:
                self.note(message, began)
                try:
                    await self.settle(client, message)
                except ReceiptExpiredError:
                    self.refused += 1
                except RaftError:
                    pass
            await self.pause(client, 0.1)

    def note(self, message: QueueMessage, began: float) -> None:
        """Note that *message* came, to somebody who asked at the time *began*."""
        self.received += 1
        acked = self.acked.get(message.body)
        assert acked is None or began < acked, "an acknowledged message came back"

    async def settle(self, client: QueueClient, message: QueueMessage) -> None:
        """Acknowledge it, give it back, keep it for longer, or forget it."""
        match self.dice.randrange(8):
            case 0:
                await message.nack(self.dice.choice([0.0, 0.5]), "no luck")
            case 1:
                await message.extend(1.0)
                await self.pause(client, 2.0)
                await self.ack(message)
            case 2:
                await message.release()
            case 3:
                return
            case _:
                await self.pause(client, 0.2)
                await self.ack(message)

    async def ack(self, message: QueueMessage) -> None:
        """Acknowledge *message*, and note it."""
        self.acking.add(message.body)
        await message.ack()
        self.acked[message.body] = self.cluster.now

    async def handle(self, message: QueueMessage) -> None:
        """Work on *message*, as a worker does."""
        # Its worker acknowledges it, and nobody is told.
        await self.pause(self.queues["w"], 0.5)
        if self.dice.random() < 0.2:
            raise ValueError("no luck")
        self.acking.add(message.body)
        self.worked += 1

    def stop(self) -> None:
        """Let all end what they do."""
        self.is_over = True
        for work in self.work:
            self.cluster.result(work, 60.0)
        self.cluster.result(self.worker.stopService(), 60.0)

    def drain(self) -> set[bytes]:
        """Receive all that is there, dead or alive; return what it says."""
        client = self.client("last")
        found: set[bytes] = set()
        for name in self.cluster.result(client.queues()):
            while True:
                stats = self.cluster.result(client.stats(name))
                if not stats.ready + stats.delayed + stats.in_flight:
                    break
                for each in self.cluster.result(client.receive(name, 100, wait=5.0)):
                    found.add(each.body)
                    self.cluster.result(each.ack())
        return found


class QueueTests:
    """Nothing is lost, nothing comes back, and nobody is overtaken."""

    @pytest.mark.raft_seeds(6)
    def test_promises_are_kept(self, raft_cluster: MakeCluster) -> None:
        """Whatever happens to servers and networks."""
        cluster = raft_cluster(Queues, 3, config=SNAPSHOTS)
        traffic = Traffic(cluster)
        cluster.disturb(SECONDS, every=1.5)
        cluster.run(SECONDS + 0.001)
        cluster.check()
        traffic.stop()
        cluster.check()
        left = traffic.drain()
        assert not left & traffic.acked.keys(), "an acknowledged message is there"
        lost = traffic.put.keys() - left - traffic.acking
        assert not lost, "an acknowledged message is nowhere"
        log = Replay(commands_in(entry for entry, _ in cluster.invariants.committed))
        # Enough happened for this to say something.
        assert len(traffic.put) > 30
        assert len(traffic.acked) > 15
        assert traffic.worked > 3
        assert log.deliveries > 50
        assert log.expired > 3


class ReplayTests:
    """What the replay looks for can be found."""

    QUICK: ClassVar[list[Any]] = [
        Tick(1),
        Put("a", (Item(b"x"), Item(b"y"))),
        Receive("a", visibility=10),
        Tick(11),
        Receive("a"),
    ]

    def replay(self, commands: Iterable[Any]) -> Replay:
        """Return the replay of *commands*."""
        logged = [
            each if isinstance(each, Tick) else Queues().encode(each)
            for each in commands
        ]
        return Replay(logged)

    def test_what_is_right(self) -> None:
        log = self.replay(self.QUICK)
        assert (log.deliveries, log.expired) == (2, 1)

    def test_two_who_have_the_same(self) -> None:
        log = self.replay(self.QUICK[:3])
        log.until[1] = 12
        log.apply(Tick(11))
        log.until[1] = 12
        with pytest.raises(AssertionError, match="two have it at once"):
            log.apply(Receive("a"))

    def test_one_that_is_overtaken(self) -> None:
        log = self.replay(self.QUICK[:2])
        with pytest.raises(AssertionError, match="out of order"):
            log.check_order([log.state.messages[2]])

    def test_one_that_came_back(self) -> None:
        log = self.replay(self.QUICK[:3])
        log.gone.add(1)
        with pytest.raises(AssertionError, match="came back"):
            log.apply(Extend(1, 50))


# --- linearizable --------------------------------------------------------------------


class Untimed(Queues):
    """Queues for which no time passes, for the judge knows nothing of it."""

    timed: ClassVar[bool] = False


def call(dice: Random) -> Write | Read:
    """Return a call of one of a few clients that know each other's receipts."""
    receipt = dice.randint(1, 6)
    item = Item(b"x", priority=dice.choice([0, 1]), key=dice.choice([None, "k"]))
    calls: list[Write | Read] = [
        Write(Put("a", (item,))),
        Write(Put("a", (item, Item(b"y", max_attempts=1)))),
        Write(Receive("a", dice.choice([1, 2]))),
        Write(Receive("a", wait=dice.choice([0, 1000]))),
        Write(Ack(receipt)),
        Write(Nack(receipt)),
        Write(Redrive("a.dead")),
        Read(Peek("a")),
        Read(Stats("a")),
    ]
    return dice.choice(calls)


class LinearizableTests:
    """What clients are answered is what one machine would have answered."""

    @pytest.mark.parametrize("seed", range(4))
    def test_answers(self, seed: int) -> None:
        scenario = Scenario(
            Untimed, call, seconds=6.0, config=SNAPSHOTS, client={"sessions": True}
        )
        check_scenario(scenario, seed)
