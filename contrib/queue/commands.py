"""
The commands of the queues, as objects and as bytes.

On the wire and in the log a command is one byte, the version of this format,
and a MessagePack array: the command's name, then its fields in order.  A later
release may add fields at the end, or commands; a server that does not know
them refuses them.

All times are milliseconds of the log's time, which is the leader's and the same
for every server (:class:`~consensus.interfaces.Tick`).
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from consensus.applications.command_format import CommandFormat

#: The version of the format; the first byte of every command.
VERSION = 1

#: The longest name, in characters; a longer one is refused for ever, since a
#: log means the same in every later release.
MAX_NAME = 250

#: What a queue's dead letters are put under if it does not say otherwise.
DEAD_SUFFIX = ".dead"

#: How many deliveries a message has if neither it nor its queue says more.
DEFAULT_ATTEMPTS = 5

#: The longest visibility, 12 hours; whoever needs more extends it.
MAX_VISIBILITY = 12 * 3600 * 1000

#: The longest delay, and the longest window for keys: a year.
MAX_DELAY = 366 * 24 * 3600 * 1000

#: How long a receiver's place in the line is kept at most.
MAX_WAIT = 60_000

#: How many messages go with one command at most.
MAX_BATCH = 1000

#: How long a reason may be, in characters.
MAX_REASON = 200

_MOST = 2**63 - 1

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME)]
# The dead letters of a queue whose name is as long as can be have a name too.
AnyName = Annotated[
    str, msgspec.Meta(min_length=1, max_length=MAX_NAME + len(DEAD_SUFFIX))
]
_Priority = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]
_Delay = Annotated[int, msgspec.Meta(ge=0, le=MAX_DELAY)]
_Window = Annotated[int, msgspec.Meta(ge=1, le=MAX_DELAY)]
_Key = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME)]
_Visibility = Annotated[int, msgspec.Meta(ge=1, le=MAX_VISIBILITY)]
_Wait = Annotated[int, msgspec.Meta(ge=0, le=MAX_WAIT)]
_Attempts = Annotated[int, msgspec.Meta(ge=0, le=10_000)]
_Count = Annotated[int, msgspec.Meta(ge=1, le=MAX_BATCH)]
_Number = Annotated[int, msgspec.Meta(ge=1, le=_MOST)]
_Amount = Annotated[int, msgspec.Meta(ge=0, le=_MOST)]
_Reason = Annotated[str, msgspec.Meta(max_length=MAX_REASON)]


class QueueFullError(Exception):
    """There is no room: for messages, bytes, keys, or for one more who waits."""


class ReceiptExpiredError(Exception):
    """The delivery is over: acknowledged, given back, or out of its time."""


# gc=False: of these no cycle can be made, so that the collector need not look
# at thousands of commands under way.
class _Stored(
    msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True, gc=False
):
    """What is in the log, or comes with a call; subclasses have its options."""


class Item(_Stored, frozen=True):
    """
    One message that is to be put.

    Args:
        body: What it says.
        priority: Higher ones are handed out first.
        delay: For how long nobody gets it.
        key: Two messages with the same key are one, if the second comes within
            *window*; ``None`` for a message that is like no other.
        window: For how long the key is remembered.
        max_attempts: How often it is handed out until it is a dead letter; 0
            for any number, ``None`` for what the queue says.
    """

    body: bytes
    priority: _Priority = 0
    delay: _Delay = 0
    key: _Key | None = None
    window: _Window = 300_000
    max_attempts: _Attempts | None = None


class Put(_Stored, tag="put", frozen=True):
    """
    Put all *items* into *queue*, or none; the result is the list of their ids.

    An item whose key is known has the id of the message that brought it.

    Raises:
        QueueFullError: There is no room for all that are new.
    """

    queue: Name
    items: Annotated[tuple[Item, ...], msgspec.Meta(min_length=1, max_length=MAX_BATCH)]


class Receive(_Stored, tag="receive", frozen=True):
    """
    Hand out up to *count* messages of *queue*; the result is a ``Received``.

    Args:
        queue: Which.
        count: The most.
        visibility: How long nobody else gets them.
        wait: If none is ready: how long the receiver's place in the line is
            kept.  Then the result has its ticket; see :class:`Delivered`.

    Raises:
        QueueFullError: Too many wait.
    """

    queue: AnyName
    count: _Count = 1
    visibility: _Visibility = 30_000
    wait: _Wait = 0


class Leave(_Stored, tag="leave", frozen=True):
    """
    Give up the place in the line that *ticket* stands for.

    What it was handed meanwhile goes back, and counts as never handed out.
    The result is ``None``, also if the ticket is not known any more.
    """

    ticket: _Number


class Ack(_Stored, tag="ack", frozen=True):
    """
    Remove the message of *receipt*: it is done.  The result is ``None``.

    Raises:
        ReceiptExpiredError: It was given back, or its time is over.
    """

    receipt: _Number


class Nack(_Stored, tag="nack", frozen=True):
    """
    Give the message of *receipt* back: it failed.  The result says if it is dead.

    Args:
        receipt: Of the delivery.
        delay: For how long nobody gets it.
        reason: Why, for its history.

    Raises:
        ReceiptExpiredError: It was given back, or its time is over.
    """

    receipt: _Number
    delay: _Delay = 0
    reason: _Reason = ""


class Release(_Stored, tag="release", frozen=True):
    """
    Give the message of *receipt* back untouched: it counts as never handed out.

    The result is ``None``.

    Raises:
        ReceiptExpiredError: It was given back, or its time is over.
    """

    receipt: _Number


class Extend(_Stored, tag="extend", frozen=True):
    """
    Let the delivery of *receipt* end *visibility* from now; the result is when.

    Raises:
        ReceiptExpiredError: It was given back, or its time is over.
    """

    receipt: _Number
    visibility: _Visibility


class Purge(_Stored, tag="purge", frozen=True):
    """
    Remove up to *limit* messages of *queue*, the oldest first; the result is how many.

    Those that are handed out stay with who has them.
    """

    queue: AnyName
    limit: _Count = MAX_BATCH


class Redrive(_Stored, tag="redrive", frozen=True):
    """
    Put up to *limit* dead letters of *queue* back to where they died.

    They begin anew, with all attempts before them.  The result is how many
    they were.
    """

    queue: AnyName
    limit: _Count = MAX_BATCH


class Configure(_Stored, tag="configure", frozen=True):
    """
    Say how *queue* is to be; the result is ``None``.

    It takes the place of all that was said before.

    Args:
        queue: Which.
        max_messages: How many messages it may have; 0 for any number.
        max_bytes: How many bytes they may have; 0 for any number.
        max_attempts: For messages put from now on that do not say.
        dead: Where its dead letters go; ``None`` for its name and ``.dead``.

    Raises:
        ValueError: A queue cannot be its own dead letters'.
        QueueFullError: Too many queues have something said of them.
    """

    queue: Name
    max_messages: _Amount = 0
    max_bytes: _Amount = 0
    max_attempts: _Attempts = DEFAULT_ATTEMPTS
    dead: Name | None = None


class Limit(_Stored, tag="limit", frozen=True):
    """
    Say how much all queues may have together; the result is ``None``.

    Args:
        max_messages: How many messages.
        max_bytes: How many bytes of them.
        max_keys: How many keys are remembered.
        max_waiting: How many receivers wait.
    """

    max_messages: _Amount = 1_000_000
    max_bytes: _Amount = 256 * 1024 * 1024
    max_keys: _Amount = 1_000_000
    max_waiting: _Amount = 10_000


class Delivered(_Stored, tag="delivered", frozen=True):
    """
    The query for what *ticket* was handed; there is no answer while it waits.

    The answer is a list of ``Delivery``: empty when its time is over, or when
    all that it was handed is done with.
    """

    ticket: _Number


class Peek(_Stored, tag="peek", frozen=True):
    """The query for the first *limit* messages that are ready, as ``Delivery``."""

    queue: AnyName
    limit: _Count = 1


class Stats(_Stored, tag="stats", frozen=True):
    """The query for the ``QueueStats`` of *queue*."""

    queue: AnyName


class ListQueues(_Stored, tag="queues", frozen=True):
    """
    The query for names of queues in order, *limit* from *after* on.

    Those are that have a message, somebody who waits, or something said of them.
    """

    after: str = ""
    limit: _Count = MAX_BATCH


#: What changes the state.
Command = (
    Put
    | Receive
    | Leave
    | Ack
    | Nack
    | Release
    | Extend
    | Purge
    | Redrive
    | Configure
    | Limit
)

#: What does not.
Query = Delivered | Peek | Stats | ListQueues

FORMAT: CommandFormat[Command | Query] = CommandFormat(
    Command | Query, VERSION, "the queues"
)

#: Return a command, or a query, as bytes; and one that bytes are.
encode, decode = FORMAT.encode, FORMAT.decode
