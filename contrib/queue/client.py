"""The queues' client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred

from consensus.applications.client_commands import ApplicationClient, OnceCalls
from consensus.errors import NotYetError, RaftError
from contrib.queue import commands
from contrib.queue.commands import (
    MAX_BATCH,
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
from contrib.queue.consumer import Consumer, QueueWorker
from contrib.queue.message import QueueMessage
from contrib.queue.records import Delivery, QueueStats, Received

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from twisted.python.failure import Failure

    from consensus.client import Client
    from contrib.queue.commands import Command
    from contrib.queue.consumer import Handler

_T = TypeVar("_T")

# For how long a place in the line is taken; then it is taken anew.
_ROUND = 20.0

# For how long a server is asked at once what became of it: an answer that is lost,
# as when the network breaks, is missed for as long.
_ASK = 4.0

# The servers' answer that a place is lost comes this much later at most, or
# something is wrong with them.
_GRACE = 5.0

#: What the state machine raises.
_ERRORS = (QueueFullError, ReceiptExpiredError, ValueError)


class QueueClient(ApplicationClient):
    """
    Puts messages into queues, and receives them; follows the leader.

    Times are seconds here.  A body is bytes, or text for its UTF-8.

    Every Deferred fails with:
        RejectedError: It was not done and will not be; try again later.
        InvalidCommandError: It cannot be done: a name is empty or too long, a
            number out of its range.
        OutcomeUnknownError: Of a write only: it may have been done once, or
            may yet be.
        ReceiptExpiredError: The delivery is over: somebody else may have the
            message.
        QueueFullError: There is no room for what is to be put.

    Args:
        cluster: The cluster's client, which :meth:`close` closes too; or the
            addresses of its servers, one or more, as ``tcp:127.0.0.1:9101``.
        reactor: The reactor; needed with addresses only.
        timeout: Seconds after which a call gives up; with addresses only.
        session: Whether writes belong to a session: one that has no answer is
            sent again, and applied once all the same.
    """

    def __init__(
        self,
        cluster: Client | Iterable[str],
        reactor: Any = None,
        *,
        timeout: float = 10.0,
        session: bool = True,
    ) -> None:
        super().__init__(cluster, reactor, timeout=timeout)
        self._calls = OnceCalls(self.cluster, commands.encode, _ERRORS, session=session)

    # --- putting -----------------------------------------------------------------

    def put(
        self,
        queue: str,
        body: bytes | str,
        *,
        priority: int = 0,
        delay: float = 0.0,
        key: str | None = None,
        window: float = 300.0,
        max_attempts: int | None = None,
    ) -> Deferred[int]:
        """
        Put a message into *queue*; return its id.

        Args:
            queue: Its name; a queue is there when something is in it.
            body: What the message says.
            priority: Higher ones are handed out first.
            delay: Seconds for which nobody gets it.
            key: A second message with the same key within *window* is not put:
                the id is that of the first.
            window: Seconds for which the key is remembered.
            max_attempts: How often it is handed out until it is a dead letter;
                0 for any number, ``None`` for what the queue says.
        """
        made = _item(
            body,
            priority=priority,
            delay=delay,
            key=key,
            window=window,
            max_attempts=max_attempts,
        )
        put = self._calls.write(lambda: Put(queue, (made(),)), list[int])
        return put.addCallback(lambda numbers: numbers[0])

    def put_many(
        self, queue: str, bodies: Iterable[bytes | str], **how: Any
    ) -> Deferred[list[int]]:
        """
        Put a message for each of *bodies*, all or none; return their ids.

        Args:
            queue: Its name.
            bodies: What they say, up to 1000.
            **how: As for :meth:`put`, the same for all.
        """
        made = [_item(body, **how) for body in bodies]
        return self._calls.write(
            lambda: Put(queue, tuple(each() for each in made)), list[int]
        )

    # --- receiving ---------------------------------------------------------------

    def receive(
        self,
        queue: str,
        max_messages: int = 1,
        *,
        visibility: float = 30.0,
        wait: float = 0.0,
    ) -> Deferred[list[QueueMessage]]:
        """
        Receive up to *max_messages* messages that are ready.

        Args:
            queue: Its name.
            max_messages: The most.
            visibility: Seconds for which nobody else gets them.
            wait: Seconds to wait for the first one, if there is none.  Those
                who wait are handed messages in the order in which they came.
                To cancel the Deferred ends it: what came too late goes back.
        """
        return Deferred.fromCoroutine(
            self._receive(queue, max_messages, visibility, wait)
        )

    async def _receive(
        self, queue: str, count: int, visibility: float, wait: float
    ) -> list[QueueMessage]:
        left = wait
        while True:
            part = min(left, _ROUND)
            asked = self._ask(queue, count, visibility, part)
            received = await _shielded(asked, self._give_back)
            left -= part
            found = received.deliveries
            if received.ticket:
                found = await self._await_turn(received.ticket, part)
            if found or left <= 0:
                return [QueueMessage(self, each) for each in found]

    def _ask(
        self, queue: str, count: int, visibility: float, wait: float
    ) -> Deferred[Received]:
        return self._calls.write(
            lambda: Receive(queue, count, _ms(visibility), _ms(wait)), Received
        )

    async def _await_turn(self, ticket: int, seconds: float) -> tuple[Delivery, ...]:
        """Return what *ticket* is handed; nothing when its time is over."""
        left = seconds + _GRACE
        try:
            while left > 0:
                part = min(left, _ASK)
                left -= part
                asked = self._calls.read(
                    Delivered(ticket), tuple[Delivery, ...], wait=part
                )
                try:
                    found: tuple[Delivery, ...] = await asked
                except NotYetError:
                    continue
                return found
            # The log's time stands still, or is late.
            await self._calls.write(lambda: Leave(ticket), None)
        except (RaftError, CancelledError):
            self._calls.write(lambda: Leave(ticket), None).addErrback(_ignored)
            raise
        return ()

    def _give_back(self, received: Received) -> None:
        """Give back what came when nobody wanted it any more."""
        if received.ticket:
            self._calls.write(lambda: Leave(received.ticket), None).addErrback(_ignored)
        for each in received.deliveries:
            self.release(each.receipt).addErrback(_ignored)

    def consume(
        self, queue: str, *, prefetch: int = 1, visibility: float = 30.0
    ) -> Consumer:
        """
        Return an endless stream of the messages of *queue*, to be closed.

        ``async for message in client.consume("jobs")`` works on one after the
        other; see :class:`.Consumer`.

        Args:
            queue: Its name.
            prefetch: How many are held at once.
            visibility: Seconds after which others get them when this process
                dies; while it lives, they are extended.
        """
        return Consumer(self, queue, prefetch, visibility)

    def worker(self, queue: str, handler: Handler, **how: Any) -> QueueWorker:
        """
        Return a service that lets *handler* work on the messages of *queue*.

        Args:
            queue: Its name.
            handler: Called with each message.
            **how: See :class:`.QueueWorker`.
        """
        return QueueWorker(self, queue, handler, **how)

    def ack(self, receipt: int) -> Deferred[None]:
        """Remove the message of *receipt*: it is done, and never comes back."""
        return self._calls.write(lambda: Ack(receipt), None)

    def nack(
        self, receipt: int, delay: float = 0.0, reason: str = ""
    ) -> Deferred[bool]:
        """
        Give the message of *receipt* back; say whether it is a dead letter now.

        Args:
            receipt: The number of the delivery.
            delay: Seconds for which nobody gets it.
            reason: For its history; cut to 200 characters.
        """
        reason = reason[: commands.MAX_REASON]
        return self._calls.write(lambda: Nack(receipt, _ms(delay), reason), bool)

    def release(self, receipt: int) -> Deferred[None]:
        """Give the message of *receipt* back, as if it had not been handed out."""
        return self._calls.write(lambda: Release(receipt), None)

    def extend(self, receipt: int, visibility: float) -> Deferred[None]:
        """Let the delivery of *receipt* end *visibility* seconds from now."""
        extended = self._calls.write(lambda: Extend(receipt, _ms(visibility)), int)
        return extended.addCallback(lambda _: None)

    # --- looking, and keeping in order ---------------------------------------------

    def peek(self, queue: str, max_messages: int = 1) -> Deferred[list[Delivery]]:
        """Return the first messages that are ready, and leave them there."""
        found = self._calls.read(Peek(queue, max_messages), tuple[Delivery, ...])
        return found.addCallback(list)

    def stats(self, queue: str) -> Deferred[QueueStats]:
        """Return how *queue* is."""
        return self._calls.read(Stats(queue), QueueStats)

    def queues(self, after: str = "", limit: int = MAX_BATCH) -> Deferred[list[str]]:
        """Return the names of queues in order, *limit* from *after* on."""
        return self._calls.read(ListQueues(after, limit), list[str])

    def purge(self, queue: str) -> Deferred[int]:
        """Remove all messages of *queue* that nobody has; return how many."""
        return self._all(lambda: Purge(queue))

    def redrive(self, queue: str) -> Deferred[int]:
        """Put the dead letters in *queue* back to where they died; return how many."""
        return self._all(lambda: Redrive(queue))

    def _all(self, make: Callable[[], Command]) -> Deferred[int]:
        async def repeat() -> int:
            total = 0
            while True:
                count: int = await self._calls.write(make, int)
                total += count
                if count < MAX_BATCH:
                    return total

        return Deferred.fromCoroutine(repeat())

    def configure(self, queue: str, **how: Any) -> Deferred[None]:
        """
        Say how *queue* is to be, in place of all that was said before.

        Args:
            queue: Its name.
            **how: See :class:`~contrib.queue.commands.Configure`.
        """
        return self._calls.write(lambda: Configure(queue, **how), None)

    def limit(self, **how: Any) -> Deferred[None]:
        """
        Say how much all queues may have, in place of all that was said before.

        Args:
            **how: See :class:`~contrib.queue.commands.Limit`.
        """
        return self._calls.write(lambda: Limit(**how), None)


def _item(body: bytes | str, **how: Any) -> Callable[[], Item]:
    """Return what makes an item, with times in milliseconds."""

    def make() -> Item:
        for name in ("delay", "window"):
            if name in how:
                how[name] = _ms(how[name])
        raw = body.encode() if isinstance(body, str) else body
        return Item(raw, **how)

    return make


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _shielded(asked: Deferred[_T], too_late: Callable[[_T], None]) -> Deferred[_T]:
    """Return a Deferred for *asked* that may be cancelled; then call *too_late*."""
    shield: Deferred[_T] = Deferred()

    def succeeded(result: _T) -> None:
        if shield.called:
            too_late(result)
        else:
            shield.callback(result)

    def failed(failure: Failure) -> None:
        if not shield.called:
            shield.errback(failure)

    asked.addCallbacks(succeeded, failed)
    return shield


def _ignored(failure: Failure) -> None:
    """Take no notice: the message comes back by itself when its time is over."""
    failure.trap(RaftError, ReceiptExpiredError, CancelledError)
