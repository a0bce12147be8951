"""
What the queues' state is made of: it can be read, and replaced, not changed.

So a copy of the tables that hold these is a view of the state that stays as it
is, and each of them can be written down as it stands.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from contrib.queue.commands import MAX_REASON, Configure, Limit

#: How many attempts of a message are remembered, the last ones.
MAX_HISTORY = 10

_Time = Annotated[int, msgspec.Meta(ge=0)]


class _Record(
    msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True, gc=False
):
    """A part of the state; subclasses have its options."""


class Attempt(_Record, frozen=True):
    """
    A delivery that came to nothing.

    Args:
        begin: When the message was handed out, in the log's time.
        end: When it came back.
        reason: Why: what the receiver said, or ``expired``.
    """

    begin: _Time
    end: _Time
    reason: Annotated[str, msgspec.Meta(max_length=MAX_REASON)]


class Message(_Record, tag="message", frozen=True):
    """
    A message, and where it is.

    It is ready if *due* is 0, handed out if it has a *receipt*, and otherwise
    delayed.

    Args:
        id: Its number; one that was put later has a higher one.
        queue: Where it is.
        body: What it says.
        priority: Higher ones are handed out first.
        put_at: When it was put.
        max_attempts: How often it is handed out; 0 for any number.
        attempts: How often it was.
        due: When it comes back, or is ready.
        receipt: The number of the delivery that goes on, else 0.
        begin: When that began.
        ticket: Which ticket it was handed to; 0 if to whoever asked for it.
        origin: Of a dead letter, where it died.
        history: The attempts that came to nothing, the last one last.
    """

    id: _Time
    queue: str
    body: bytes
    priority: int
    put_at: _Time
    max_attempts: _Time
    attempts: _Time = 0
    due: _Time = 0
    receipt: _Time = 0
    begin: _Time = 0
    ticket: _Time = 0
    origin: str = ""
    history: tuple[Attempt, ...] = ()

    @property
    def size(self) -> int:
        """Return how many bytes it counts for."""
        said = sum(len(attempt.reason) for attempt in self.history)
        return len(self.body) + said

    @property
    def is_exhausted(self) -> bool:
        """Say whether it has had all its attempts; a dead letter never has."""
        return bool(
            self.max_attempts and self.attempts >= self.max_attempts and not self.origin
        )


class Ticket(_Record, tag="ticket", frozen=True):
    """
    A receiver's place in the line of a queue, or what it was handed there.

    Args:
        number: Who came later has a higher one.
        queue: Which.
        count: How many messages are wanted at most.
        visibility: For how long.
        until: When the place is lost.
        receipts: What was handed; the place is given up then.
    """

    number: _Time
    queue: str
    count: _Time
    visibility: _Time
    until: _Time
    receipts: tuple[int, ...] = ()


class Key(_Record, tag="key", frozen=True):
    """
    A key that is remembered.

    Args:
        queue: Of which queue.
        key: The key.
        id: Of the message that had it.
        until: When it is forgotten.
    """

    queue: str
    key: str
    id: _Time
    until: _Time


class Head(_Record, tag="head", frozen=True):
    """
    What there is one of.

    Args:
        time: The log's.
        next_id: The number of the next message.
        next_receipt: That of the next delivery.
        next_ticket: That of the next ticket.
        limit: What all queues may have together.
    """

    time: _Time = 0
    next_id: _Time = 1
    next_receipt: _Time = 1
    next_ticket: _Time = 1
    limit: Limit = Limit()


#: What a snapshot is made of.
Record = Head | Configure | Key | Ticket | Message


class Delivery(_Record, frozen=True):
    """
    A message as its receiver gets it.

    Args:
        id: Its number.
        queue: Where it was.
        body: What it says.
        receipt: What to acknowledge it with; 0 if it was only looked at.
        attempt: The how manieth delivery of it this is.
        due: When the delivery ends, in the log's time.
        priority: Its priority.
        put_at: When it was put, in the log's time.
        origin: Of a dead letter, where it died; else empty.
        history: The attempts that came to nothing, the last one last.
    """

    id: int
    queue: str
    body: bytes
    receipt: int
    attempt: int
    due: int
    priority: int
    put_at: int
    origin: str
    history: tuple[Attempt, ...]


class Received(_Record, frozen=True):
    """
    What a receiver gets at once.

    Args:
        deliveries: The messages.
        ticket: The number of its place in the line if there were none and it
            waits, else 0.
    """

    deliveries: tuple[Delivery, ...]
    ticket: int


class QueueStats(_Record, frozen=True):
    """
    How a queue is.

    Args:
        ready: How many messages can be handed out now.
        delayed: How many will be later.
        in_flight: How many are handed out.
        dead: How many dead letters of this queue are where they go.
        waiting: How many receivers wait.
        bytes: What the messages count for.
        oldest_age: How long ago the oldest message was put, in milliseconds of
            the log's time; 0 if there is none.
    """

    ready: int
    delayed: int
    in_flight: int
    dead: int
    waiting: int
    bytes: int
    oldest_age: int


def delivery(message: Message) -> Delivery:
    """Return *message* as its receiver gets it."""
    return Delivery(
        message.id,
        message.queue,
        message.body,
        message.receipt,
        message.attempts,
        message.due,
        message.priority,
        message.put_at,
        message.origin,
        message.history,
    )
