"""The queues' state machine: what each command does, and each query is answered."""

from __future__ import annotations

from heapq import nsmallest
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from consensus.applications.command_machine import CommandMachine
from consensus.interfaces import LATER
from contrib.queue.commands import (
    FORMAT,
    Ack,
    Configure,
    Delivered,
    Extend,
    Leave,
    Limit,
    ListQueues,
    Nack,
    Peek,
    Purge,
    Put,
    QueueFullError,
    Receive,
    Redrive,
    Release,
    Stats,
)
from contrib.queue.records import QueueStats, Received, Ticket, delivery
from contrib.queue.snapshot import ROWS
from contrib.queue.state import State

if TYPE_CHECKING:
    from collections.abc import Callable

    from consensus.interfaces import Later
    from contrib.queue.records import Delivery


#: How many queues may have something said of them.
MAX_CONFIGURED = 10_000


# --- commands ------------------------------------------------------------------


def _put(command: Put, state: State) -> list[int]:
    _check_room(command, state)
    numbers = [state.put(command.queue, item) for item in command.items]
    state.serve(command.queue)
    return numbers


def _check_room(command: Put, state: State) -> None:
    """See that all that is new of *command* has room."""
    name, size, new = command.queue, 0, 0
    keys: set[str] = set()
    for item in command.items:
        if item.key is not None:
            if item.key in keys or (name, item.key) in state.keys:
                continue
            keys.add(item.key)
        new += 1
        size += len(item.body)
    if not new:
        return
    limit, queue, said = state.limit, state.queues.get(name), state.settings_of(name)
    has, holds = (queue.messages, queue.bytes) if queue is not None else (0, 0)
    _check_full("the queues have", len(state.messages) + new, limit.max_messages)
    _check_full("the queues' bytes are", state.bytes + size, limit.max_bytes)
    if keys:
        _check_full("the keys are", len(state.keys) + len(keys), limit.max_keys)
    if said.max_messages:
        _check_full(f"the queue {name!r} has", has + new, said.max_messages)
    if said.max_bytes:
        _check_full(f"the bytes of {name!r} are", holds + size, said.max_bytes)


def _check_full(what: str, amount: int, most: int) -> None:
    if amount > most:
        message = f"{what} {most} at most, and this would make {amount}"
        raise QueueFullError(message)


def _receive(command: Receive, state: State) -> Received:
    handed = state.hand_out(command.queue, command.count, command.visibility)
    if handed or not command.wait:
        return Received(tuple(map(delivery, handed)), 0)
    _check_full("those who wait are", state.waiting + 1, state.limit.max_waiting)
    number = state.next_ticket
    state.next_ticket += 1
    until = state.time + command.wait
    state.enter_line(
        Ticket(number, command.queue, command.count, command.visibility, until)
    )
    return Received((), number)


def _leave(command: Leave, state: State) -> None:
    ticket = state.tickets.get(command.ticket)
    if ticket is None:
        return
    if not ticket.receipts:
        state.leave_line(ticket)
        return
    for receipt in ticket.receipts:
        state.release(state.delivered(receipt))
    state.serve(ticket.queue)


def _ack(command: Ack, state: State) -> None:
    state.remove(state.delivered(command.receipt))


def _nack(command: Nack, state: State) -> bool:
    message = state.delivered(command.receipt)
    return state.fail(message, command.delay, command.reason)


def _release(command: Release, state: State) -> None:
    message = state.delivered(command.receipt)
    state.release(message)
    state.serve(message.queue)


def _extend(command: Extend, state: State) -> int:
    message = state.delivered(command.receipt)
    due = state.time + command.visibility
    state.change(message, replace(message, due=due))
    return due


def _purge(command: Purge, state: State) -> int:
    gone = state.removable(command.queue, command.limit)
    for message in gone:
        state.remove(message)
    return len(gone)


def _redrive(command: Redrive, state: State) -> int:
    revived = state.dead(command.queue, command.limit)
    for message in revived:
        state.revive(message)
        state.serve(message.origin)
    return len(revived)


def _configure(command: Configure, state: State) -> None:
    if command.dead == command.queue:
        message = f"{command.queue!r} cannot be where its own dead letters go"
        raise ValueError(message)
    if command == Configure(command.queue):
        state.settings.pop(command.queue, None)
        return
    known = len(state.settings) + (command.queue not in state.settings)
    _check_full("the queues of which something is said are", known, MAX_CONFIGURED)
    state.settings[command.queue] = command


def _limit(command: Limit, state: State) -> None:
    state.limit = command


# --- queries -------------------------------------------------------------------


def _delivered(query: Delivered, state: State) -> tuple[Delivery, ...] | Later:
    # A server that is behind has not heard of it yet.
    if query.ticket >= state.next_ticket:
        return LATER
    ticket = state.tickets.get(query.ticket)
    if ticket is None:
        return ()
    if not ticket.receipts:
        return LATER
    return tuple(delivery(state.delivered(receipt)) for receipt in ticket.receipts)


def _peek(query: Peek, state: State) -> list[Delivery]:
    return [delivery(each) for each in state.ready(query.queue, query.limit)]


def _stats(query: Stats, state: State) -> QueueStats:
    queue = state.queues.get(query.queue)
    if queue is None:
        return QueueStats(0, 0, 0, 0, 0, 0, 0)
    oldest = queue.oldest.first()
    age = 0 if oldest is None else state.time - state.messages[oldest].put_at
    return QueueStats(
        queue.ready,
        queue.delayed,
        queue.in_flight,
        queue.dead,
        len(queue.waiting),
        queue.bytes,
        age,
    )


def _list_queues(query: ListQueues, state: State) -> list[str]:
    names = {name for name in state.queues if name > query.after}
    names.update(name for name in state.settings if name > query.after)
    return nsmallest(query.limit, names)


_WRITES: dict[type, Callable[[Any, State], Any]] = {
    Put: _put,
    Receive: _receive,
    Leave: _leave,
    Ack: _ack,
    Nack: _nack,
    Release: _release,
    Extend: _extend,
    Purge: _purge,
    Redrive: _redrive,
    Configure: _configure,
    Limit: _limit,
}

_READS: dict[type, Callable[[Any, State], Any]] = {
    Delivered: _delivered,
    Peek: _peek,
    Stats: _stats,
    ListQueues: _list_queues,
}


class Queues(CommandMachine):
    """
    Named queues that are the same on every server.

    Its commands and queries are those of :mod:`contrib.queue.commands`.  A
    result is encoded as MessagePack.
    """

    state_type = State
    format = FORMAT
    rows = ROWS
    writes = _WRITES
    reads = _READS
