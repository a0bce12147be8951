"""Replicated queues: their commands, their state machine, their client."""

from __future__ import annotations

from contrib.queue.client import QueueClient
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
from contrib.queue.consumer import Consumer, QueueWorker
from contrib.queue.machine import Queues
from contrib.queue.message import QueueMessage
from contrib.queue.records import Attempt, Delivery, QueueStats, Received

__all__ = [
    "Ack",
    "Attempt",
    "Configure",
    "Consumer",
    "Delivered",
    "Delivery",
    "Extend",
    "Item",
    "Leave",
    "Limit",
    "ListQueues",
    "Nack",
    "Peek",
    "Purge",
    "Put",
    "QueueClient",
    "QueueFullError",
    "QueueMessage",
    "QueueStats",
    "QueueWorker",
    "Queues",
    "ReceiptExpiredError",
    "Receive",
    "Received",
    "Redrive",
    "Release",
    "Stats",
]
