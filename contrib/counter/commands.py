"""
The commands of the counters, as objects and as bytes.

On the wire and in the log a command is one byte, the version of this format,
and a MessagePack array: the command's name, then its fields in order.  A later
release may add fields at the end, or commands; a server that does not know
them refuses them.
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

#: The least and the greatest value of a counter, and the greatest id.
LEAST, GREATEST = -(2**63), 2**63 - 1

#: How many ids are reserved at once at most.
MAX_BLOCK = 2**32

#: The most that a rate allows in a period, and its longest period: a year.
MAX_RATE = 100_000_000
MAX_PERIOD = 366 * 24 * 3600 * 1000

#: How many names are listed at once at most.
MAX_LIST = 1000

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME)]
Value = Annotated[int, msgspec.Meta(ge=LEAST, le=GREATEST)]
_Block = Annotated[int, msgspec.Meta(ge=1, le=MAX_BLOCK)]
_Rate = Annotated[int, msgspec.Meta(ge=1, le=MAX_RATE)]
_Period = Annotated[int, msgspec.Meta(ge=1, le=MAX_PERIOD)]


class OutOfBoundsError(Exception):
    """The counter would leave its bounds; it is as it was."""


class CounterOverflowError(Exception):
    """The number would not fit into 64 bits; it is as it was."""


class TooManyNamesError(Exception):
    """There are as many counters, sequences and rates as there may be."""


# gc=False: of these no cycle can be made, so that the collector need not look
# at thousands of commands under way.
class _Stored(
    msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True, gc=False
):
    """What is in the log, or comes with a call; subclasses have its options."""

    name: Name


class Add(_Stored, tag="add", frozen=True):
    """
    Add *amount*, which may be negative; the result is the new value.

    Raises:
        OutOfBoundsError: It would be beyond the counter's bounds.
        CounterOverflowError: It would be beyond 64 bits.
    """

    amount: Value = 1


class Reset(_Stored, tag="reset", frozen=True):
    """
    Give the counter this *value*; the result is the one before.

    Raises:
        OutOfBoundsError: It is beyond the counter's bounds.
    """

    value: Value = 0


class Compare(_Stored, tag="compare", frozen=True):
    """
    Give the counter this *value* if it is as *expected*; the result says if it was.

    Raises:
        OutOfBoundsError: It was, and *value* is beyond the counter's bounds.
    """

    expected: Value
    value: Value


class Bound(_Stored, tag="bound", frozen=True):
    """
    Keep the counter from *floor* to *ceiling* from now on; the result is ``None``.

    ``None`` is no bound.

    Raises:
        OutOfBoundsError: It is beyond them already.
        ValueError: There is nothing between them.
    """

    floor: Value | None = None
    ceiling: Value | None = None


class Reserve(_Stored, tag="reserve", frozen=True):
    """
    Reserve the next *count* ids of a sequence; the result is the first of them.

    Ids begin with 1.  A sequence has nothing to do with a counter of its name.

    Raises:
        CounterOverflowError: There are not so many left below 64 bits.
    """

    count: _Block = 1


class Allow(_Stored, tag="allow", frozen=True):
    """
    Let *count* things happen now, if the rate has room; the result is ``Allowed``.

    A bucket holds *burst* tokens, and gets *limit* more in each period, evenly.
    A rate has nothing to do with a counter of its name.

    Args:
        limit: How many may happen in a *period*.
        period: In milliseconds of the log's time.
        count: How many tokens are taken, all or none.
        burst: How many may happen at once; ``None`` for as many as *limit*.

    Raises:
        ValueError: *count* is more than ever happens at once.
    """

    limit: _Rate
    period: _Period
    count: _Rate = 1
    burst: _Rate | None = None


class Get(_Stored, tag="get", frozen=True):
    """The query for the value of a counter; one that was never set is 0."""


class ListCounters(
    msgspec.Struct,
    tag="counters",
    array_like=True,
    forbid_unknown_fields=True,
    frozen=True,
    gc=False,
):
    """
    The query for names of counters in order, *limit* from *after* on.

    Those are that have bounds, or are not 0.
    """

    after: str = ""
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_LIST)] = MAX_LIST


#: What changes the state.
Command = Add | Reset | Compare | Bound | Reserve | Allow

#: What does not.
Query = Get | ListCounters

FORMAT: CommandFormat[Command | Query] = CommandFormat(
    Command | Query, VERSION, "the counters"
)

#: Return a command, or a query, as bytes; and one that bytes are.
encode, decode = FORMAT.encode, FORMAT.decode
