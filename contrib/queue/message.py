"""A message as its receiver has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.defer import Deferred

    from contrib.queue.client import QueueClient
    from contrib.queue.records import Attempt, Delivery


class QueueMessage:
    """
    A message that was received, and what is to become of it.

    Args:
        client: Whose it is.
        delivery: As it came.
    """

    def __init__(self, client: QueueClient, delivery: Delivery) -> None:
        self._client = client
        #: All that is known of it.
        self.delivery = delivery
        #: Whether one of :meth:`ack`, :meth:`nack`, :meth:`release` was called.
        self.is_settled = False
        self._when_settled: Callable[[QueueMessage], None] | None = None

    def __repr__(self) -> str:
        return f"<message {self.id} of {self.queue!r}, attempt {self.attempt}>"

    @property
    def id(self) -> int:
        """Return its number, the same for each delivery."""
        return self.delivery.id

    @property
    def queue(self) -> str:
        """Return the name of the queue it was in."""
        return self.delivery.queue

    @property
    def body(self) -> bytes:
        """Return what it says."""
        return self.delivery.body

    @property
    def receipt(self) -> int:
        """Return the number of this delivery."""
        return self.delivery.receipt

    @property
    def attempt(self) -> int:
        """Return the how manieth delivery this is, from 1."""
        return self.delivery.attempt

    @property
    def history(self) -> tuple[Attempt, ...]:
        """Return the attempts that came to nothing, the last one last."""
        return self.delivery.history

    @property
    def origin(self) -> str:
        """Return where it died; empty if it is no dead letter."""
        return self.delivery.origin

    def ack(self) -> Deferred[None]:
        """Be done with it; see :meth:`QueueClient.ack`."""
        self.settle()
        return self._client.ack(self.receipt)

    def nack(self, delay: float = 0.0, reason: str = "") -> Deferred[bool]:
        """Give it back; see :meth:`QueueClient.nack`."""
        self.settle()
        return self._client.nack(self.receipt, delay, reason)

    def release(self) -> Deferred[None]:
        """Give it back untouched; see :meth:`QueueClient.release`."""
        self.settle()
        return self._client.release(self.receipt)

    def extend(self, visibility: float) -> Deferred[None]:
        """Keep it so many seconds from now; see :meth:`QueueClient.extend`."""
        return self._client.extend(self.receipt, visibility)

    def on_settled(self, function: Callable[[QueueMessage], None]) -> None:
        """Let *function* be called with it, once, when it is settled."""
        self._when_settled = function

    def settle(self) -> None:
        """Note that it is settled, or that it is not its receiver's any more."""
        self.is_settled = True
        function, self._when_settled = self._when_settled, None
        if function is not None:
            function(self)
