"""Replicated counters: their commands, their state machine, their client."""

from __future__ import annotations

from contrib.counter.client import CounterClient, Ids
from contrib.counter.commands import (
    Add,
    Allow,
    Bound,
    Compare,
    CounterOverflowError,
    Get,
    ListCounters,
    OutOfBoundsError,
    Reserve,
    Reset,
    TooManyNamesError,
)
from contrib.counter.machine import Counters
from contrib.counter.state import Allowed

__all__ = [
    "Add",
    "Allow",
    "Allowed",
    "Bound",
    "Compare",
    "CounterClient",
    "CounterOverflowError",
    "Counters",
    "Get",
    "Ids",
    "ListCounters",
    "OutOfBoundsError",
    "Reserve",
    "Reset",
    "TooManyNamesError",
]
