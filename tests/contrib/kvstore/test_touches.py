"""Each command and query says which keys it is about."""

from __future__ import annotations

from typing import get_args

import pytest

from consensus.guard import KeyRange, Touched, key_range, prefix_range
from contrib.kvstore import commands as of
from contrib.kvstore.touches import touches

A, B = key_range(b"a"), key_range(b"b")
KEY = Touched((A,), (A,))

KNOWN = [
    (of.Get(b"a"), Touched((A,))),
    (of.GetItem(b"a"), Touched((A,))),
    (of.Ttl(b"a"), Touched((A,))),
    (of.GetMany([b"a", b"b"]), Touched((A, B))),
    (of.Exists([b"a", b"b"]), Touched((A, B))),
    (of.Scan(), Touched((KeyRange(b"", None),))),
    (of.Scan(b"a/"), Touched((prefix_range(b"a/"),))),
    (of.Scan(b"a/", after=b"z"), Touched((prefix_range(b"a/"),))),
    (of.Scan(start=b"a/", end=b"a0"), Touched((prefix_range(b"a/"),))),
    (of.Scan(b"a/", start=b"a/b"), Touched((KeyRange(b"a/b", b"a0"),))),
    (of.Scan(b"a/", end=b"z"), Touched((prefix_range(b"a/"),))),
    (of.Count(b"a/"), Touched((prefix_range(b"a/"),))),
    (of.Count(), Touched((KeyRange(b"", None),))),
    (of.Changes(b"a/"), Touched((prefix_range(b"a/"),))),
    (of.Changes(), Touched((KeyRange(b"", None),))),
    (of.Revision(), Touched()),
    (of.Size(), None),
    (of.Lease(1), None),
    (of.Leases(), None),
    (of.Set(b"a", "1"), KEY),
    (of.Delete(b"a"), KEY),
    (of.Cas(b"a", "1", "2"), KEY),
    (of.Put(b"a", "1"), KEY),
    (of.Put(b"a", "1", lease=3), None),
    (of.Incr(b"a"), KEY),
    (of.IncrFloat(b"a", 1.0), KEY),
    (of.Append(b"a", "1"), KEY),
    (of.Take(b"a"), KEY),
    (of.Expire(b"a", 1), KEY),
    (of.SetMany([(b"a", "1"), (b"b", "2")]), Touched((A, B), (A, B))),
    (of.DeleteMany([b"a", b"b"]), Touched((A, B), (A, B))),
    (
        of.DeleteRange(b"a/"),
        Touched((prefix_range(b"a/"),), (prefix_range(b"a/"),)),
    ),
    (of.Grant(1), None),
    (of.KeepAlive(1), None),
    (of.Revoke(1), None),
    (
        of.Txn([of.Compare(b"b", to="1")], [of.Set(b"a", "1")], [of.Get(b"b")]),
        Touched((B, A, B), (A,)),
    ),
    (of.Txn([], [of.Size()]), None),
    (of.Txn([], [], [of.Revoke(1)]), None),
]


@pytest.mark.parametrize(("message", "touched"), KNOWN)
def test_keys(message: object, touched: Touched | None) -> None:
    """As the command is, from the wire as well."""
    assert touches(message) == touched
    assert touches(of.decode(of.encode(message))) == touched  # type: ignore[arg-type]


def test_all_are_here() -> None:
    """No command is forgotten, and none that is added is anybody's."""
    every = {*get_args(of.Command), *get_args(of.Query)}
    assert {type(message) for message, _ in KNOWN} == every
    assert touches(object()) is None
