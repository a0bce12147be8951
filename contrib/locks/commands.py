"""
The commands of the locks, as objects and as bytes.

On the wire and in the log a command is one byte, the version of this format,
and a MessagePack array: the command's name, then its fields in order::

    01 93 a7 "release" a3 "job" 07

A later release may add fields at the end, or commands.  A server that does
not know them refuses them: to ignore one would make its state another.

Every command may be applied twice without harm, so that a client whose answer
is lost sends it again: a lease that was opened twice ends by itself, and a
ticket has a number that its client gives it, which is used once.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from consensus.applications.command_format import CommandFormat
from consensus.applications.lease_commands import EndLease, OpenLease, RenewLease

#: The version of the format; the first byte of every command.
VERSION = 1

#: None of these can be set: a log has to mean the same on every server and in
#: every later release.
MAX_NAME = 255
MAX_PERMITS = 1_000_000

#: The largest number of a lease, a ticket or a token.
_MOST = (1 << 63) - 1

#: How a lock is wanted; a reader and a writer share one.
Mode = Literal["mutex", "reader", "writer", "semaphore"]

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME)]
_Number = Annotated[int, msgspec.Meta(ge=1, le=_MOST)]


class _Stored(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """What is in the log, or comes with a call; subclasses have its options."""


class Acquire(_Stored, tag="acquire", frozen=True):
    """
    Queue up for the lock *name*.

    The result is the token if the lock is granted at once, 0 if the ticket is
    in the queue, and ``None`` if it is not to *wait*, and would have to.

    Args:
        lease: For whom.
        ticket: A number that *lease* has used for no other.
        name: Of the lock.
        mode: How it is wanted.
        permits: Of a semaphore, how many may hold it at once.
        wait: Whether to queue up if it is not free.
    """

    lease: _Number
    ticket: _Number
    name: _Name
    mode: Mode
    permits: Annotated[int, msgspec.Meta(ge=1, le=MAX_PERMITS)] = 1
    wait: bool = True


class Withdraw(_Stored, tag="withdraw", frozen=True):
    """
    Take *ticket* out of the queue, or release what it was granted.

    It may come before the ticket itself, which is refused then.  The result
    says whether the ticket was there.
    """

    lease: _Number
    ticket: _Number


class Release(_Stored, tag="release", frozen=True):
    """Release the lock *name*, if it is held by *token*; the result says so."""

    name: _Name
    token: _Number


class Wait(_Stored, tag="wait", frozen=True):
    """The query for the token of *ticket*; later, while it is in the queue."""

    lease: _Number
    ticket: _Number


class Inspect(_Stored, tag="inspect", frozen=True):
    """The query for the :class:`LockStatus` of *name*; ``None`` if it is free."""

    name: _Name


#: What changes the state.
Command = OpenLease | RenewLease | EndLease | Acquire | Withdraw | Release

#: What does not.
Query = Wait | Inspect


class Holder(msgspec.Struct, array_like=True, frozen=True):
    """
    Who holds a lock.

    Args:
        token: The fencing token.
        mode: How it is held.
        lease: The number of the lease.
        owner: What the lease says whose it is.
    """

    token: int
    mode: str
    lease: int
    owner: str


class Waiter(msgspec.Struct, array_like=True, frozen=True):
    """Who waits for a lock; the fields are those of a :class:`Holder`."""

    mode: str
    lease: int
    owner: str


class LockStatus(msgspec.Struct, array_like=True, frozen=True):
    """
    What there is to know of a lock that is held.

    Args:
        permits: How many may hold it at once; 0 of a read-write lock.
        holders: Those that do, the first of them, in the order of their tokens.
        queue: Those that wait, the first of them, in their order.
        holding: How many hold it.
        waiting: How many wait.
    """

    permits: int
    holders: tuple[Holder, ...]
    queue: tuple[Waiter, ...]
    holding: int
    waiting: int


FORMAT: CommandFormat[Command | Query] = CommandFormat(
    Command | Query, VERSION, "the locks"
)

#: Return a command, or a query, as bytes; and one that bytes are.
encode, decode = FORMAT.encode, FORMAT.decode
