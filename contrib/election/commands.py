"""
The commands of elections and of service discovery, as objects and as bytes.

On the wire and in the log a command is one byte, the version of this format,
and a MessagePack array: the command's name, then its fields in order::

    01 94 a8 "campaign" 07 a4 "cron" a3 "ada"

A later release may add fields at the end, or commands.  A server that does
not know them refuses them: to ignore one would make its state another.

Every command may be applied twice without harm, so that a client whose answer
is lost sends it again.  Who resigns, or deregisters, ends the lease.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from consensus.applications.command_format import CommandFormat
from consensus.applications.lease_commands import EndLease, OpenLease, RenewLease

#: The version of the format; the first byte of every command.
VERSION = 1

#: None of these can be set: a log has to mean the same on every server and in
#: every later release.
MAX_NAME = 255
MAX_ADDRESS = 1024
MAX_METADATA = 16
MAX_METADATA_KEY = 64
MAX_METADATA_VALUE = 256

_MOST = (1 << 63) - 1

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME)]
_Address = Annotated[str, msgspec.Meta(max_length=MAX_ADDRESS)]
_Number = Annotated[int, msgspec.Meta(ge=1, le=_MOST)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=_MOST)]

#: What an instance says of itself.
Metadata = Annotated[
    dict[
        Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_METADATA_KEY)],
        Annotated[str, msgspec.Meta(max_length=MAX_METADATA_VALUE)],
    ],
    msgspec.Meta(max_length=MAX_METADATA),
]


class _Stored(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """What is in the log, or comes with a call; subclasses have its options."""


class Campaign(_Stored, tag="campaign", frozen=True):
    """
    Stand for election as the leader of *name*, until the lease ends.

    The result is the term if it leads at once, or already, else 0.

    Args:
        lease: Whose end is the candidacy's.
        name: What is to be led.
        candidate: Who stands, for those who ask who leads.
    """

    lease: _Number
    name: _Name
    candidate: _Name


class Register(_Stored, tag="register", frozen=True):
    """
    Say where an instance of a service is, until the lease ends.

    The result is the revision of the service.

    Args:
        lease: Whose end is the registration's.
        origin: The first lease that the same registrant had; the one of the
            newest origin has an instance that several register.
        version: Rises with each registration of the lease: one that is not
            newer than what is there changes nothing.
        service: What is offered.
        instance: By whom.
        address: Where.
        metadata: What else there is to say.
    """

    lease: _Number
    origin: _Number
    version: _Number
    service: _Name
    instance: _Name
    address: _Address
    metadata: Metadata = {}


class Elected(_Stored, tag="elected", frozen=True):
    """The query for the term of a candidate; later, until it leads."""

    lease: _Number
    name: _Name


class Observe(_Stored, tag="observe", frozen=True):
    """
    The query for the :class:`Leader` of *name*; ``None`` if nobody leads.

    Args:
        name: What is led.
        known: The answer comes later, while it would be the leader of this
            term: 0 stands for nobody.  Without it, the answer comes at once.
    """

    name: _Name
    known: _Count | None = None


class Discover(_Stored, tag="discover", frozen=True):
    """
    The query for the :class:`Instances` of a service.

    Args:
        service: Which.
        after: The answer comes later, while the revision is this one, or
            lower.  Without it, the answer comes at once.
    """

    service: _Name
    after: _Count | None = None


#: What changes the state.
Command = OpenLease | RenewLease | EndLease | Campaign | Register

#: What does not.
Query = Elected | Observe | Discover


class Leader(msgspec.Struct, array_like=True, frozen=True):
    """
    Who leads.

    Args:
        term: Larger than that of all who led before: a fencing token.
        candidate: What it calls itself.
        lease: The number of its lease.
        waiting: How many others stand.
    """

    term: int
    candidate: str
    lease: int
    waiting: int


class Instance(msgspec.Struct, array_like=True, frozen=True):
    """
    One that offers a service.

    Args:
        instance: Its name.
        address: Where it is.
        metadata: What else it says of itself.
        revision: When it said so: that of the service, then.
    """

    instance: str
    address: str
    metadata: dict[str, str]
    revision: int


class Instances(msgspec.Struct, array_like=True, frozen=True):
    """
    All that offer a service.

    Args:
        revision: Rises with each change.
        instances: In the order of their names.
    """

    revision: int
    instances: tuple[Instance, ...]


FORMAT: CommandFormat[Command | Query] = CommandFormat(
    Command | Query, VERSION, "elections"
)

#: Return a command, or a query, as bytes; and one that bytes are.
encode, decode = FORMAT.encode, FORMAT.decode
