"""
What the queues hold, and how messages move from one place to another.

The tables of records are the state; counts, heaps and lines follow from them
and are made anew from a snapshot.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import islice
from typing import TYPE_CHECKING

from msgspec.structs import replace

from contrib.queue.commands import (
    DEAD_SUFFIX,
    Configure,
    Item,
    Limit,
    ReceiptExpiredError,
)
from contrib.queue.heap import LazyHeap
from contrib.queue.records import (
    MAX_HISTORY,
    Attempt,
    Head,
    Key,
    Message,
    Ticket,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from contrib.queue.records import Record


#: The reason of a delivery whose time is over.
EXPIRED = "expired"


class Queue:
    """
    What is known of a queue beside its messages.

    Args:
        messages: Those of all queues.
        name: The queue's.
    """

    __slots__ = (
        "_messages",
        "_name",
        "bytes",
        "dead",
        "delayed",
        "in_flight",
        "oldest",
        "ready",
        "ready_heap",
        "waiting",
    )

    def __init__(self, messages: dict[int, Message], name: str) -> None:
        self._messages = messages
        self._name = name
        self.ready = 0
        self.delayed = 0
        self.in_flight = 0
        self.bytes = 0
        #: How many dead letters of this queue there are, wherever they are.
        self.dead = 0
        #: (minus the priority, id): in the order in which they are handed out.
        self.ready_heap: LazyHeap[tuple[int, int]] = LazyHeap(self._is_ready)
        self.oldest: LazyHeap[int] = LazyHeap(self._is_here)
        #: The tickets of those who wait, first come first.
        self.waiting: OrderedDict[int, None] = OrderedDict()

    def _is_ready(self, item: tuple[int, int]) -> bool:
        return self._is_here(item[1]) and not self._messages[item[1]].due

    def _is_here(self, number: int) -> bool:
        message = self._messages.get(number)
        return message is not None and message.queue == self._name

    @property
    def messages(self) -> int:
        """Return how many there are."""
        return self.ready + self.delayed + self.in_flight

    def count(self, message: Message, sign: int) -> None:
        """Count *message*, or with -1 no longer."""
        if message.receipt:
            self.in_flight += sign
        elif message.due:
            self.delayed += sign
        else:
            self.ready += sign
        self.bytes += sign * message.size

    def tidy(self) -> None:
        """Let the first of each order be one that is there."""
        self.ready_heap.tidy(self.ready)
        self.oldest.tidy(self.messages)


class State:
    """
    All queues.

    Args:
        head: What there is one of.
    """

    def __init__(self, head: Head | None = None) -> None:
        head = Head() if head is None else head
        self.time = head.time
        self.next_id = head.next_id
        self.next_receipt = head.next_receipt
        self.next_ticket = head.next_ticket
        self.limit: Limit = head.limit
        self.settings: dict[str, Configure] = {}
        self.messages: dict[int, Message] = {}
        self.keys: dict[tuple[str, str], Key] = {}
        self.tickets: dict[int, Ticket] = {}
        # What follows from these.
        self.queues: dict[str, Queue] = {}
        self.receipts: dict[int, int] = {}
        self.bytes = 0
        self.waiting = 0
        self._due: LazyHeap[tuple[int, int]] = LazyHeap(self._is_due)
        self._tickets_due: LazyHeap[tuple[int, int]] = LazyHeap(self._waits)
        self._keys_due: LazyHeap[tuple[int, str, str]] = LazyHeap(self._is_known)

    def head(self) -> Head:
        """Return what there is one of."""
        return Head(
            self.time, self.next_id, self.next_receipt, self.next_ticket, self.limit
        )

    # --- who is alive in which heap ----------------------------------------------

    def _is_due(self, item: tuple[int, int]) -> bool:
        message = self.messages.get(item[1])
        return message is not None and message.due == item[0]

    def _waits(self, item: tuple[int, int]) -> bool:
        ticket = self.tickets.get(item[1])
        return ticket is not None and not ticket.receipts

    def _is_known(self, item: tuple[int, str, str]) -> bool:
        key = self.keys.get(item[1:])
        return key is not None and key.until == item[0]

    def next_time(self) -> int | None:
        """Return when something is due."""
        firsts = [self._due.first(), self._tickets_due.first(), self._keys_due.first()]
        return min((each[0] for each in firsts if each is not None), default=None)

    # --- tables ----------------------------------------------------------------

    def queue(self, name: str) -> Queue:
        """Return the queue *name*, a new one if need be."""
        found = self.queues.get(name)
        if found is None:
            found = self.queues[name] = Queue(self.messages, name)
        return found

    def settings_of(self, name: str) -> Configure:
        """Return what was said of the queue *name*."""
        return self.settings.get(name) or Configure(name)

    def dead_of(self, name: str) -> str:
        """Return where the dead letters of *name* go."""
        settings = self.settings.get(name)
        if settings is None or settings.dead is None:
            return name + DEAD_SUFFIX
        return settings.dead

    def add(self, message: Message) -> None:
        """Add a new *message*."""
        self._enter(message)
        self.queue(message.queue).oldest.push(message.id)

    def change(self, old: Message, new: Message) -> None:
        """Put *new* in the place of *old*, which is the same message."""
        self._leave(old)
        self._enter(new)
        if old.receipt != new.receipt:
            self._end(old)
        if old.queue != new.queue:
            self.queue(new.queue).oldest.push(new.id)
        self._tidy(old.queue, new.queue, old.origin, new.origin)

    def remove(self, message: Message) -> None:
        """Forget *message*."""
        self._leave(message)
        self._end(message)
        del self.messages[message.id]
        self._tidy(message.queue, message.origin)

    def _enter(self, message: Message) -> None:
        queue = self.queue(message.queue)
        self.messages[message.id] = message
        self.bytes += message.size
        queue.count(message, 1)
        if message.due:
            self._due.push((message.due, message.id))
        else:
            queue.ready_heap.push((-message.priority, message.id))
        if message.receipt:
            self.receipts[message.receipt] = message.id
        if message.origin:
            self.queue(message.origin).dead += 1

    def _leave(self, message: Message) -> None:
        self.bytes -= message.size
        self.queues[message.queue].count(message, -1)
        if message.receipt:
            del self.receipts[message.receipt]
        if message.origin:
            self.queues[message.origin].dead -= 1

    def _end(self, message: Message) -> None:
        """Let the ticket forget the delivery of *message*, which is over."""
        ticket = self.tickets.get(message.ticket)
        if ticket is None or message.receipt not in ticket.receipts:
            return
        left = tuple(each for each in ticket.receipts if each != message.receipt)
        if left:
            self.tickets[ticket.number] = replace(ticket, receipts=left)
        else:
            del self.tickets[ticket.number]

    def _tidy(self, *names: str) -> None:
        self._due.tidy(len(self.messages))
        for name in names:
            queue = self.queues.get(name)
            if queue is None:
                continue
            queue.tidy()
            if not (queue.messages or queue.dead or queue.waiting):
                del self.queues[name]

    # --- keys --------------------------------------------------------------------

    def remember(self, key: Key) -> None:
        """Remember *key*."""
        self.keys[key.queue, key.key] = key
        self._keys_due.push((key.until, key.queue, key.key))

    # --- those who wait ------------------------------------------------------------

    def enter_line(self, ticket: Ticket) -> None:
        """Give *ticket* the last place in its line."""
        self.tickets[ticket.number] = ticket
        self.queue(ticket.queue).waiting[ticket.number] = None
        self.waiting += 1
        self._tickets_due.push((ticket.until, ticket.number))

    def leave_line(self, ticket: Ticket) -> None:
        """Take *ticket* out of its line, and forget it."""
        del self.tickets[ticket.number]
        del self.queues[ticket.queue].waiting[ticket.number]
        self.waiting -= 1
        self._tickets_due.tidy(self.waiting)
        self._tidy(ticket.queue)

    def serve(self, name: str) -> None:
        """Hand what is ready in the queue *name* to those who wait."""
        queue = self.queues.get(name)
        while queue is not None and queue.waiting and queue.ready:
            ticket = self.tickets[next(iter(queue.waiting))]
            self.leave_line(ticket)
            handed = self.hand_out(name, ticket.count, ticket.visibility, ticket.number)
            receipts = tuple(each.receipt for each in handed)
            self.tickets[ticket.number] = replace(ticket, until=0, receipts=receipts)
            queue = self.queues.get(name)

    # --- what happens to messages ------------------------------------------------

    def put(self, name: str, item: Item) -> int:
        """Add *item* to the queue *name*, unless its key is known; return the id."""
        known = None if item.key is None else self.keys.get((name, item.key))
        if known is not None:
            return known.id
        number = self.next_id
        self.next_id += 1
        attempts = item.max_attempts
        if attempts is None:
            attempts = self.settings_of(name).max_attempts
        due = self.time + item.delay if item.delay else 0
        self.add(
            Message(
                number, name, item.body, item.priority, self.time, attempts, due=due
            )
        )
        if item.key is not None:
            self.remember(Key(name, item.key, number, self.time + item.window))
        return number

    def hand_out(
        self, name: str, count: int, visibility: int, ticket: int = 0
    ) -> list[Message]:
        """Hand out up to *count* messages of the queue *name*, the first ones."""
        handed: list[Message] = []
        queue = self.queues.get(name)
        while queue is not None and queue.ready and len(handed) < count:
            first = queue.ready_heap.first()
            if first is None:
                break
            message = self.messages[first[1]]
            handed.append(
                replace(
                    message,
                    attempts=message.attempts + 1,
                    due=self.time + visibility,
                    receipt=self.next_receipt,
                    begin=self.time,
                    ticket=ticket,
                )
            )
            self.next_receipt += 1
            self.change(message, handed[-1])
        return handed

    def delivered(self, receipt: int) -> Message:
        """
        Return the message that *receipt* is for.

        Raises:
            ReceiptExpiredError: The delivery is over.
        """
        number = self.receipts.get(receipt)
        if number is None:
            message = f"the delivery {receipt} is over, or never was"
            raise ReceiptExpiredError(message)
        return self.messages[number]

    def fail(self, message: Message, delay: int, reason: str) -> bool:
        """Take back *message*, which failed; say whether it is dead."""
        attempt = Attempt(message.begin, self.time, reason)
        back = replace(
            _taken_back(message, self.time + delay if delay else 0),
            history=(*message.history, attempt)[-MAX_HISTORY:],
        )
        if not message.is_exhausted:
            self.change(message, back)
            self.serve(message.queue)
            return False
        dead = replace(
            back, queue=self.dead_of(message.queue), origin=message.queue, due=0
        )
        self.change(message, dead)
        self.serve(dead.queue)
        return True

    def release(self, message: Message) -> None:
        """Take back *message*, as if it had not been handed out."""
        back = replace(_taken_back(message, 0), attempts=message.attempts - 1)
        self.change(message, back)

    def revive(self, message: Message) -> None:
        """Put the dead letter *message* back to where it died."""
        alive = replace(message, queue=message.origin, origin="", attempts=0)
        self.change(message, alive)

    def removable(self, name: str, limit: int) -> list[Message]:
        """Return up to *limit* messages that nobody has, the oldest first."""
        queue = self.queues.get(name)
        if queue is None:
            return []
        here = (self.messages[number] for number in queue.oldest.in_order())
        return list(islice((each for each in here if not each.receipt), limit))

    def ready(self, name: str, limit: int) -> list[Message]:
        """Return the first *limit* messages that can be handed out."""
        return list(islice(self._all_ready(name), limit))

    def dead(self, name: str, limit: int) -> list[Message]:
        """Return the first *limit* of them that are dead letters."""
        found = (each for each in self._all_ready(name) if each.origin)
        return list(islice(found, limit))

    def _all_ready(self, name: str) -> Iterator[Message]:
        queue = self.queues.get(name)
        if queue is not None:
            for _, number in queue.ready_heap.in_order():
                yield self.messages[number]

    # --- time ----------------------------------------------------------------------

    def pass_time(self, time: int) -> None:
        """Let it be *time*, and do what is due; who waits too long leaves first."""
        self.time = max(self.time, time)
        while (place := self._tickets_due.first()) and place[0] <= self.time:
            self.leave_line(self.tickets[place[1]])
        while (due := self._due.first()) and due[0] <= self.time:
            message = self.messages[due[1]]
            if message.receipt:
                self.fail(message, 0, EXPIRED)
            else:
                self.change(message, replace(message, due=0))
                self.serve(message.queue)
        while (key := self._keys_due.first()) and key[0] <= self.time:
            del self.keys[key[1:]]
            self._keys_due.tidy(len(self.keys))

    # --- to and from a snapshot ------------------------------------------------------

    def load(self, record: Record) -> None:
        """
        Take *record* of a snapshot, in the order in which they came there.

        Raises:
            ValueError: It does not fit to those before.
        """
        match record:
            case Configure():
                self.settings[record.queue] = record
            case Key():
                self.remember(record)
            case Ticket() if record.receipts:
                self.tickets[record.number] = record
            case Ticket():
                _check(record.number not in self.tickets, "a ticket is there twice")
                self.enter_line(record)
            case Message():
                _check(record.id not in self.messages, "a message is there twice")
                _check(record.receipt not in self.receipts, "a receipt is there twice")
                self.add(record)
            case Head():
                raise ValueError("there are two heads")


def _taken_back(message: Message, due: int) -> Message:
    return replace(message, due=due, receipt=0, begin=0, ticket=0)


def _check(is_right: object, complaint: str) -> None:
    if not is_right:
        raise ValueError(complaint)
