"""
Receiving one message after the other, and working on them.

What was received is kept as long as it is worked on: its time is extended again
and again.  When its receiver dies, that ends, and somebody else gets it.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Self, TypeVar

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.logger import Logger

from consensus.errors import REFUSED_FOR_GOOD, RaftError
from contrib.queue.commands import ReceiptExpiredError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from contrib.queue.client import QueueClient
    from contrib.queue.message import QueueMessage

    #: What works on a message.
    Handler = Callable[[QueueMessage], Awaitable[Any] | None]

_T = TypeVar("_T")

_log = Logger()

# Three extensions may be lost, and a message is still its receiver's.
_EXTENSIONS = 4

# How long to wait for a message in one call, and after a call that failed.
_WAIT = 20.0
_PAUSE = 1.0

# A message that failed comes again after 1, 2, 4 … seconds.
_LONGEST_DELAY = 60.0


def growing_delay(message: QueueMessage) -> float:
    """Return after how many seconds *message*, which failed, comes again."""
    longest: float = min(_LONGEST_DELAY, 2.0 ** min(message.attempt - 1, 16))
    return longest


class Consumer:
    """
    An endless stream of messages, made by :meth:`.QueueClient.consume`.

    ``async for`` works on one at a time: to ask for the next one acknowledges
    the last, unless it is settled already; to leave ``async with`` by an
    exception gives it back.  Who works on several takes each by :meth:`get`,
    and settles it.

    Args:
        client: The queues' client.
        queue: Its name.
        prefetch: How many messages are held at once, worked on or waiting here.
        visibility: Seconds after which others get them when this process dies;
            while it lives, they are extended.
    """

    def __init__(
        self,
        client: QueueClient,
        queue: str,
        prefetch: int = 1,
        visibility: float = 30.0,
    ) -> None:
        if prefetch < 1:
            raise ValueError("a consumer holds at least one message")
        self._client = client
        self._queue = queue
        self._prefetch = prefetch
        self._visibility = visibility
        self._held: dict[QueueMessage, Deferred[None] | None] = {}
        self._ready: deque[QueueMessage] = deque()
        self._getters: deque[Deferred[QueueMessage]] = deque()
        self._room: Deferred[None] | None = None
        self._pending: Deferred[Any] | None = None
        self._last: QueueMessage | None = None
        self._is_closed = False
        self._end: BaseException = StopAsyncIteration()
        self._fetching: Deferred[None] | None = None
        #: Called with a message that is not this consumer's any more.
        self.on_lost: Callable[[QueueMessage], None] = _take_no_notice

    # --- for whoever works ---------------------------------------------------------

    def get(self) -> Deferred[QueueMessage]:
        """
        Return the next message.

        The Deferred fails with ``StopAsyncIteration`` when this is closed.
        """
        getter: Deferred[QueueMessage] = Deferred(self._given_up)
        if self._is_closed:
            getter.errback(self._end)
        elif self._ready:
            getter.callback(self._ready.popleft())
        else:
            self._getters.append(getter)
        if self._fetching is None and not self._is_closed:
            self._fetching = Deferred.fromCoroutine(self._fetch())
            self._fetching.addErrback(self._failed)
        return getter

    def _given_up(self, getter: Deferred[QueueMessage]) -> None:
        self._getters.remove(getter)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> QueueMessage:
        last, self._last = self._last, None
        if last is not None and not last.is_settled:
            await self._acknowledge(last)
        self._last = await self.get()
        return self._last

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # First, so that nothing more is received when there is room.
        closing = self.close()
        last, self._last = self._last, None
        if last is not None and not last.is_settled:
            if error is None:
                await self._acknowledge(last)
            else:
                await give_back(last, error, growing_delay(last))
        await closing

    async def _acknowledge(self, message: QueueMessage) -> None:
        try:
            await message.ack()
        except ReceiptExpiredError:
            _lost(message)

    def close(self) -> Deferred[None]:
        """
        Receive no more, and give back what nobody has begun to work on.

        What is worked on is extended until it is settled.
        """
        self._is_closed = True
        if self._pending is not None:
            self._pending.cancel()
        self._make_room()
        self._dismiss()
        waiting, self._ready = list(self._ready), deque()
        ending = [self._release(each) for each in waiting]
        if self._fetching is not None:
            ending.append(self._fetching)
        return gatherResults(ending).addCallback(lambda _: None)

    def _release(self, message: QueueMessage) -> Deferred[None]:
        """Give back *message*, which nobody has begun to work on."""
        return message.release().addErrback(_no_matter)

    # --- receiving -----------------------------------------------------------------

    async def _fetch(self) -> None:
        while not self._is_closed:
            room = self._prefetch - len(self._held)
            if room <= 0:
                self._room = Deferred()
                await self._room
                continue
            try:
                for message in await self._receive(room):
                    await self._take(message)
            except REFUSED_FOR_GOOD:
                raise
            except RaftError as error:
                _log.warn(
                    "cannot receive from {queue}: {error}",
                    queue=self._queue,
                    error=error,
                )
                await self._while_open(self._client.cluster.pause(_PAUSE))

    async def _take(self, message: QueueMessage) -> None:
        """Keep *message*, unless whoever got the one before it has closed this."""
        if self._is_closed:
            await self._release(message)
        else:
            self._hold(message)

    def _receive(self, count: int) -> Deferred[list[QueueMessage]]:
        return self._while_open(
            self._client.receive(
                self._queue, count, visibility=self._visibility, wait=_WAIT
            )
        )

    def _while_open(self, pending: Deferred[_T]) -> Deferred[_T]:
        """Return *pending*, which :meth:`close` cancels."""
        self._pending = pending
        return pending.addBoth(self._no_longer)

    def _no_longer(self, result: Any) -> Any:
        self._pending = None
        return result

    def _failed(self, failure: Any) -> None:
        """End: the consumer was closed, or nothing can ever be received."""
        if failure.check(CancelledError) and self._is_closed:
            return
        self._is_closed, self._end = True, failure.value
        self._dismiss()

    def _dismiss(self) -> None:
        """Tell those who wait for a message that none comes any more."""
        getters, self._getters = self._getters, deque()
        for getter in getters:
            getter.errback(self._end)

    def _hold(self, message: QueueMessage) -> None:
        """Keep *message*, and give it to whoever waits for one."""
        self._held[message] = None
        message.on_settled(self._let_go)
        Deferred.fromCoroutine(self._extend(message)).addErrback(self._broken, message)
        if self._getters:
            self._getters.popleft().callback(message)
        else:
            self._ready.append(message)

    def _let_go(self, message: QueueMessage) -> None:
        pause = self._held.pop(message)
        if pause is not None:
            pause.cancel()
        self._make_room()

    def _make_room(self) -> None:
        room, self._room = self._room, None
        if room is not None:
            room.callback(None)

    async def _extend(self, message: QueueMessage) -> None:
        """Extend the time of *message* until it is settled."""
        missed = 0
        while not message.is_settled:
            pause = self._client.cluster.pause(self._visibility / _EXTENSIONS)
            self._held[message] = pause
            try:
                await pause
                self._held[message] = None
                await message.extend(self._visibility)
                missed = 0
            except CancelledError:
                return
            except ReceiptExpiredError:
                self._lose(message)
            except RaftError as error:
                _log.debug(
                    "cannot extend {message}: {error}", message=message, error=error
                )
                missed += 1
                if missed == _EXTENSIONS:
                    self._lose(message)

    def _broken(self, failure: Any, message: QueueMessage) -> None:
        _log.failure("{message} is not extended", failure, message=message)

    def _lose(self, message: QueueMessage) -> None:
        """Let go of *message*, which somebody else may have now."""
        if message.is_settled:
            return
        _lost(message)
        message.settle()
        if message in self._ready:
            self._ready.remove(message)
        self.on_lost(message)


class QueueWorker(Service):
    """
    A service that lets a function work on the messages of a queue.

    When the function returns, or what it returns has come, the message is
    acknowledged; when it fails, the message is given back and comes again, or is
    a dead letter.  When it is lost meanwhile, since no server could be reached
    for as long as its visibility, what the function returned is cancelled.

    To stop the service waits for what is under way.

    Args:
        client: The queues' client; it stays open.
        queue: The queue's name.
        handler: Called with each message.
        concurrency: How many messages are worked on at once.
        visibility: Seconds after which others get them when this process dies.
        delay: Returns, for a message that failed, after how many seconds it
            comes again.
    """

    def __init__(
        self,
        client: QueueClient,
        queue: str,
        handler: Handler,
        *,
        concurrency: int = 1,
        visibility: float = 30.0,
        delay: Callable[[QueueMessage], float] = growing_delay,
    ) -> None:
        self._make = partial(Consumer, client, queue, concurrency, visibility)
        self._handler = handler
        self._concurrency = concurrency
        self._delay = delay
        self._consumer: Consumer | None = None
        self._under_way: dict[QueueMessage, Deferred[Any]] = {}
        self._loops: list[Deferred[None]] = []

    def startService(self) -> None:
        """Begin to work."""
        super().startService()  # type: ignore[no-untyped-call]
        consumer = self._consumer = self._make()
        consumer.on_lost = self._cancel
        self._loops = [
            Deferred.fromCoroutine(self._work(consumer)).addErrback(self._broken)
            for _ in range(self._concurrency)
        ]

    def stopService(self) -> Deferred[None]:
        """Begin nothing new; fire when all that was begun has ended."""
        super().stopService()  # type: ignore[no-untyped-call]
        consumer, self._consumer = self._consumer, None
        closed = [] if consumer is None else [consumer.close()]
        ended = gatherResults([*closed, *self._loops])
        return ended.addCallback(lambda _: None)

    async def _work(self, consumer: Consumer) -> None:
        while True:
            try:
                message = await consumer.get()
            except StopAsyncIteration:
                return
            await self._work_on(message)

    async def _work_on(self, message: QueueMessage) -> None:
        running = Deferred.fromCoroutine(self._run(message))
        self._under_way[message] = running
        try:
            await running
        except Exception as error:  # noqa: BLE001 - whatever it is, the message failed
            if not message.is_settled:
                _log.warn("{message} failed: {error!r}", message=message, error=error)
                await give_back(message, error, self._delay(message))
        else:
            if not message.is_settled:
                await self._acknowledge(message)
        finally:
            del self._under_way[message]

    async def _run(self, message: QueueMessage) -> None:
        working = self._handler(message)
        if isawaitable(working) or isinstance(working, Deferred):
            await working

    async def _acknowledge(self, message: QueueMessage) -> None:
        try:
            await message.ack()
        except ReceiptExpiredError:
            _lost(message)
        except RaftError as error:
            _log.warn(
                "{message} is done, but cannot be acknowledged, and may come again:"
                " {error}",
                message=message,
                error=error,
            )

    def _cancel(self, message: QueueMessage) -> None:
        running = self._under_way.get(message)
        if running is not None:
            running.cancel()

    def _broken(self, failure: Any) -> None:
        _log.failure("a worker ends", failure)


async def give_back(message: QueueMessage, error: BaseException, delay: float) -> None:
    """
    Give *message* back, which failed with *error*; if that fails, it expires.

    Args:
        message: Which.
        error: For its history.
        delay: Seconds after which it comes again.
    """
    reason = f"{type(error).__name__}: {error}"
    try:
        await message.nack(delay, reason.encode(errors="replace").decode())
    except ReceiptExpiredError:
        _lost(message)
    except RaftError as refused:
        _log.warn(
            "{message} cannot be given back: {error}", message=message, error=refused
        )


def _lost(message: QueueMessage) -> None:
    _log.warn(
        "{message} was not extended in time: somebody else may have it",
        message=message,
    )


def _no_matter(failure: Any) -> None:
    """Take no notice: it comes back by itself when its time is over."""
    failure.trap(RaftError, ReceiptExpiredError)


def _take_no_notice(message: QueueMessage) -> None:
    """Be called with a message that is lost."""
