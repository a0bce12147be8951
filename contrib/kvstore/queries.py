"""What can be asked of the key-value store; see :mod:`contrib.kvstore.commands`."""

from __future__ import annotations

from contrib.kvstore.values import (
    Bound,
    Keyed,
    Keys,
    LeaseId,
    Limit,
    Message,
    Number,
)


class Get(Keyed, tag="get", frozen=True):
    """The query for the value of *key*; ``None`` if it is not there."""


class GetItem(Keyed, tag="get_item", frozen=True):
    """The query for *key* with all that is known of it: an :class:`.Item`."""


class Ttl(Keyed, tag="ttl", frozen=True):
    """The query for how many milliseconds *key* has; -1: no end, -2: no key."""


class GetMany(Message, tag="get_many", frozen=True):
    """The query for the values of *keys*, in their order."""

    keys: Keys


class Exists(Message, tag="exists", frozen=True):
    """The query for how many of *keys* are there; each counts as often as named."""

    keys: Keys


class Scan(Message, tag="scan", frozen=True):
    """
    The query for the keys of a range, in their order: a :class:`.Page`.

    Args:
        prefix: They begin so.
        start: They are not below.
        end: They are below; ``None`` for no end.
        after: They come after this one, such as the last of a page.
        limit: So many at most; a page has fewer if they are large.
        keys_only: Leave the values out.
    """

    prefix: Bound = b""
    start: Bound = b""
    end: Bound | None = None
    after: Bound | None = None
    limit: Limit = 1000
    keys_only: bool = False


class Count(Message, tag="count", frozen=True):
    """The query for how many keys a range has, which is that of :class:`Scan`."""

    prefix: Bound = b""
    start: Bound = b""
    end: Bound | None = None


class Size(Message, tag="size", frozen=True):
    """The query for how many keys there are."""


class Changes(Message, tag="changes", frozen=True):
    """
    The query for what happened to keys: :class:`.Events`, when there are any.

    Args:
        prefix: The keys begin so.
        from_revision: The first revision that is asked for.
        limit: So many events at most.
        skip: How many events of the first revision are known already.
    """

    prefix: Bound = b""
    from_revision: Number = 1
    limit: Limit = 1000
    skip: Number = 0


class Revision(Message, tag="revision", frozen=True):
    """The query for the revision of the last change; 0 for none."""


class Lease(Message, tag="lease", frozen=True):
    """The query for a lease: a :class:`.LeaseItem`, or ``None``."""

    lease: LeaseId


class Leases(Message, tag="leases", frozen=True):
    """The query for the ids of leases, in order: those above *after*."""

    after: Number = 0
    limit: Limit = 1000
