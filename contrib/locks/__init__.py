"""Replicated locks: their commands, their state machine, their client."""

from __future__ import annotations

from contrib.locks.client import (
    HeldLock,
    Lock,
    LockLostError,
    LocksClient,
    LockTimeoutError,
)
from contrib.locks.commands import Holder, LockStatus, Waiter
from contrib.locks.machine import LocksMachine
from contrib.locks.state import (
    LockConflictError,
    LocksError,
    TooManyLocksError,
    WrongTokenError,
)

__all__ = [
    "HeldLock",
    "Holder",
    "Lock",
    "LockConflictError",
    "LockLostError",
    "LockStatus",
    "LockTimeoutError",
    "LocksClient",
    "LocksError",
    "LocksMachine",
    "TooManyLocksError",
    "Waiter",
    "WrongTokenError",
]
