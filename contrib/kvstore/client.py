"""The key-value store's client."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from weakref import WeakSet

from twisted.internet.defer import Deferred, fail, succeed

from consensus.applications.client_commands import ApplicationClient
from consensus.errors import InvalidCommandError, RaftError
from contrib.kvstore import commands
from contrib.kvstore.answers import Item, Page, PutResult, TxnResult
from contrib.kvstore.client_answers import (
    as_bytes,
    as_flag,
    as_nothing,
    as_number,
    as_one,
    as_one_or_none,
    as_value,
    as_values,
    decoded,
)
from contrib.kvstore.commands import (
    Append,
    Cas,
    Count,
    Delete,
    DeleteMany,
    DeleteRange,
    Exists,
    Expire,
    Get,
    GetItem,
    GetMany,
    Incr,
    IncrFloat,
    Put,
    Revision,
    Scan,
    Set,
    SetMany,
    Size,
    Take,
    Ttl,
    Txn,
    as_key,
)
from contrib.kvstore.commands import as_bytes as bytes_of
from contrib.kvstore.lease import Lease, begin_lease
from contrib.kvstore.values import milliseconds
from contrib.kvstore.watch import Watch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence

    from consensus.client import Client
    from consensus.core.values import LogIndex
    from consensus.options import Consistency
    from contrib.kvstore.commands import Command, Compare, Lookup, Op, Query, Value

_T = TypeVar("_T")
_K = TypeVar("_K", str, bytes)

_as_item = as_one_or_none(Item)
_as_page = as_one(Page)
_as_put_result = as_one(PutResult)
_as_txn_result = as_one(TxnResult)

_NO_END = -1
_NO_KEY = -2


class KVClient(ApplicationClient):
    """
    Sets and gets keys of a cluster; follows the leader.

    A key is text or bytes, and text stands for its UTF-8 bytes; keys that come
    back are bytes.  A value is text or bytes, and comes back as the one that
    it was.  Times are in seconds.

    Every Deferred fails with:
        RejectedError: It was not done and will not be; try again later.
        InvalidCommandError: It cannot be done: the key is empty or too long,
            or the value is neither text nor bytes, or too large.
        CommandFailedError: It cannot be done with what is stored; its ``kind``
            is the name of a class of :mod:`contrib.kvstore.failures`.
        OutcomeUnknownError: Of a write only: it may have been done once, or
            may yet be.

    Args:
        cluster: The cluster's client, which :meth:`close` closes too; or the
            addresses of its servers, one or more, as ``tcp:127.0.0.1:9101``.
        reactor: The reactor; needed with addresses only.
        timeout: Seconds after which a call gives up; with addresses only.
        session: Whether writes belong to a session: one that has no answer is
            sent again, and applied once all the same.  Without, it is not sent
            again, not even :meth:`set`: another client may have set the key
            meanwhile, and a second attempt would undo that.
    """

    def __init__(
        self,
        cluster: Client | Iterable[str],
        reactor: Any = None,
        *,
        timeout: float = 10.0,
        session: bool = True,
    ) -> None:
        super().__init__(cluster, reactor, timeout=timeout)
        self._session = session
        # What goes on by itself, until it is closed.
        self._open: WeakSet[Watch | Lease] = WeakSet()

    def close(self) -> Deferred[None]:
        """Close the connections; what is under way fails, watches and leases end."""
        for each in list(self._open):
            each.close()
        return super().close()

    # --- one key ---------------------------------------------------------------

    def set(self, key: str | bytes, value: Value) -> Deferred[None]:
        """Give *key* the *value*, whatever it had."""
        return self._write(lambda: Set(as_key(key), value), as_nothing)

    def get(
        self,
        key: str | bytes,
        *,
        consistency: Consistency = "linearizable",
        max_age: float | None = None,
        at_index: LogIndex | None = None,
    ) -> Deferred[Value | None]:
        """
        Return the value of *key*, or ``None`` if it is not there.

        How it is read is said as to :meth:`.Client.read`.
        """
        return self._read(
            lambda: Get(as_key(key)),
            as_value,
            consistency=consistency,
            max_age=max_age,
            at_index=at_index,
        )

    def delete(self, key: str | bytes) -> Deferred[bool]:
        """Remove *key*; say whether it was there."""
        return self._write(lambda: Delete(as_key(key)), as_flag)

    def cas(
        self, key: str | bytes, expected: Value | None, value: Value
    ) -> Deferred[bool]:
        """
        Give *key* the *value* if it has the *expected* one; say if it was so.

        Args:
            key: The key.
            expected: The value that it has to have; ``None`` if it must not
                be there.
            value: The new value.
        """
        return self._write(lambda: Cas(as_key(key), expected, value), as_flag)

    def put(
        self,
        key: str | bytes,
        value: Value,
        *,
        only_if: Literal["absent", "present"] | None = None,
        ttl: float | None = None,
        keep_ttl: bool = False,
        lease: Lease | int | None = None,
        want_old: bool = False,
    ) -> Deferred[PutResult]:
        """
        Give *key* the *value*, on conditions and for a while.

        Args:
            key: The key.
            value: The new value.
            only_if: Do nothing unless the key is there, or is not.
            ttl: Seconds after which it ends; never if none of this is given.
            keep_ttl: It ends when it would have ended before.
            lease: It ends with this one.
            want_old: Return the value that it had.
        """
        return self._write(
            lambda: Put(
                as_key(key),
                value,
                only_if,
                None if ttl is None else milliseconds(ttl),
                keep_ttl,
                lease.id if isinstance(lease, Lease) else lease,
                want_old,
            ),
            _as_put_result,
        )

    def item(self, key: str | bytes) -> Deferred[Item | None]:
        """Return *key* with its revisions, its end and its lease."""
        return self._read(
            lambda: GetItem(as_key(key)),
            _as_item,
        )

    def incr(self, key: str | bytes, by: int = 1) -> Deferred[int]:
        """Add *by* to the whole number that *key* has; return the sum."""
        return self._write(lambda: Incr(as_key(key), by), as_number)

    def incr_float(self, key: str | bytes, by: float) -> Deferred[bytes]:
        """Add *by* to the number that *key* has; return the sum as it is stored."""
        return self._write(lambda: IncrFloat(as_key(key), by), as_bytes)

    def append(self, key: str | bytes, value: Value) -> Deferred[int]:
        """Put *value* behind that of *key*; return how many bytes it has then."""
        return self._write(lambda: Append(as_key(key), value), as_number)

    def take(self, key: str | bytes) -> Deferred[Value | None]:
        """Remove *key*; return the value that it had, or ``None``."""
        return self._write(lambda: Take(as_key(key)), as_value)

    # --- when keys end -----------------------------------------------------------

    def expire(
        self,
        key: str | bytes,
        ttl: float,
        *,
        only_if: Literal["none", "some", "later", "earlier"] | None = None,
    ) -> Deferred[bool]:
        """
        Let *key* end after *ttl* seconds; say whether that was done.

        Args:
            key: The key.
            ttl: At once, if 0 or less.
            only_if: Only if it has no end yet, if it has some, or if the new
                one is later or earlier; to have none is later than any.
        """
        return self._write(
            lambda: Expire(as_key(key), 0 if ttl <= 0 else milliseconds(ttl), only_if),
            as_flag,
        )

    def persist(self, key: str | bytes) -> Deferred[bool]:
        """Let *key* live on without end; say whether it had one."""
        return self._write(lambda: Expire(as_key(key)), as_flag)

    def ttl(self, key: str | bytes) -> Deferred[float | None]:
        """Return after how many seconds *key* ends; ``None`` if it is not there."""
        return self._read(lambda: Ttl(as_key(key)), _as_seconds)

    def grant(self, ttl: float) -> Deferred[Lease]:
        """
        Begin a lease, which keeps itself alive until it is revoked or lost.

        Args:
            ttl: Seconds after which the servers end it when they do not hear
                of this client any more.
        """
        try:
            whole = milliseconds(ttl)
        except RaftError as error:
            return fail(error)
        begun = begin_lease(self._write, self.cluster.pause, whole)
        return begun.addCallback(self._opened)

    def _opened(self, lease: Lease) -> Lease:
        self._open.add(lease)
        return lease

    # --- many keys -----------------------------------------------------------------

    def mget(self, keys: Iterable[str | bytes]) -> Deferred[list[Value | None]]:
        """Return the values of *keys*, all of one moment, in their order."""
        return self._read(lambda: GetMany([as_key(key) for key in keys]), as_values)

    def mset(
        self,
        items: Mapping[_K, Value],
        *,
        only_if: Literal["absent"] | None = None,
    ) -> Deferred[bool]:
        """
        Give each key of *items* its value, all or none; say if it was done.

        Args:
            items: Keys and values.
            only_if: ``absent``: only if none of the keys is there.
        """
        return self._write(
            lambda: SetMany(
                [(as_key(key), value) for key, value in items.items()], only_if
            ),
            as_flag,
        )

    def mdelete(self, keys: Iterable[str | bytes]) -> Deferred[int]:
        """Remove *keys*; return how many were there."""
        return self._write(lambda: DeleteMany([as_key(key) for key in keys]), as_number)

    def exists(self, *keys: str | bytes) -> Deferred[int]:
        """Return how many of *keys* are there."""
        return self._read(lambda: Exists([as_key(key) for key in keys]), as_number)

    def txn(
        self,
        when: Sequence[Compare],
        then: Sequence[Op | Lookup],
        otherwise: Sequence[Op | Lookup] = (),
        *,
        atomic: bool = False,
    ) -> Deferred[TxnResult]:
        """
        Do several things at once, with nothing in between.

        Args:
            when: If all of these are so, *then* is done, else *otherwise*.
            then: Commands and queries of :mod:`contrib.kvstore.commands`.
            otherwise: Likewise.
            atomic: One that fails undoes all, and the call fails.  Else its
                place among the results has a :class:`.Failure`.
        """
        return self._write(
            lambda: Txn(list(when), list(then), list(otherwise), atomic),
            _as_txn_result,
        )

    # --- ranges --------------------------------------------------------------------

    def page(
        self,
        prefix: str | bytes = b"",
        *,
        start: str | bytes = b"",
        end: str | bytes | None = None,
        after: str | bytes | None = None,
        limit: int = 1000,
        keys_only: bool = False,
    ) -> Deferred[Page]:
        """
        Return some keys of a range, in their order, all of one moment.

        Args:
            prefix: They begin so.
            start: They are not below.
            end: They are below.
            after: They come after this one, such as the last of a page.
            limit: So many at most, up to 10,000; fewer if they are large.
            keys_only: Leave the values out.
        """
        return self._read(
            lambda: Scan(
                bytes_of(prefix),
                bytes_of(start),
                None if end is None else bytes_of(end),
                None if after is None else bytes_of(after),
                limit,
                keys_only,
            ),
            _as_page,
        )

    async def scan(
        self,
        prefix: str | bytes = b"",
        *,
        start: str | bytes = b"",
        end: str | bytes | None = None,
        page_size: int = 1000,
    ) -> AsyncIterator[tuple[bytes, Value]]:
        """
        Yield the keys of a range and their values, in order.

        Each page of them is of one moment, and the next of a later one: a key
        that is there all the while is yielded once, with a value it had.
        """
        after: bytes | None = None
        more = True
        while more:
            page = await self.page(
                prefix, start=start, end=end, after=after, limit=page_size
            )
            more = page.more
            for key, value, _ in page.items:
                yield key, value
                after = key

    def count(
        self,
        prefix: str | bytes = b"",
        *,
        start: str | bytes = b"",
        end: str | bytes | None = None,
    ) -> Deferred[int]:
        """Return how many keys a range has."""
        return self._read(
            lambda: Count(
                bytes_of(prefix),
                bytes_of(start),
                None if end is None else bytes_of(end),
            ),
            as_number,
        )

    def delete_range(
        self,
        prefix: str | bytes = b"",
        *,
        start: str | bytes = b"",
        end: str | bytes | None = None,
        limit: int = 10_000,
    ) -> Deferred[int]:
        """Remove the first keys of a range, up to *limit*; return how many."""
        return self._write(
            lambda: DeleteRange(
                bytes_of(prefix),
                bytes_of(start),
                None if end is None else bytes_of(end),
                limit,
            ),
            as_number,
        )

    def size(self) -> Deferred[int]:
        """Return how many keys there are."""
        return self._read(Size, as_number)

    # --- changes -------------------------------------------------------------------

    def revision(self) -> Deferred[int]:
        """Return the revision of the last change; 0 for none."""
        return self._read(Revision, as_number)

    def watch(
        self, prefix: str | bytes = b"", from_revision: int | None = None
    ) -> Watch:
        """
        Return what yields each change of keys that begin with *prefix*.

        Args:
            prefix: How they begin.
            from_revision: The first revision to hear of.  By default those
                after all that was acknowledged before this call.

        Raises:
            InvalidCommandError: *prefix* is no text.
        """
        begin = (
            self.revision().addCallback(lambda last: last + 1)
            if from_revision is None
            else succeed(from_revision)
        )
        watch = Watch(self.cluster, bytes_of(prefix), begin)
        self._open.add(watch)
        return watch

    # --- calls -----------------------------------------------------------------------

    def _write(
        self, make: Callable[[], Command], decode: Callable[[bytes], _T]
    ) -> Deferred[_T]:
        try:
            command = _encoded(make)
        except RaftError as error:
            return fail(error)
        done = self.cluster.write(command, session=self._session)
        return done.addCallback(decoded, decode)

    def _read(
        self, make: Callable[[], Query], decode: Callable[[bytes], _T], **how: Any
    ) -> Deferred[_T]:
        try:
            query = _encoded(make)
        except RaftError as error:
            return fail(error)
        return self.cluster.read(query, **how).addCallback(decoded, decode)


def _encoded(make: Callable[[], Command | Query]) -> bytes:
    try:
        return commands.encode(make())
    except (TypeError, ValueError) as error:
        raise InvalidCommandError(str(error)) from error


def _as_seconds(data: bytes) -> float | None:
    left = as_number(data)
    if left == _NO_KEY:
        return None
    return math.inf if left == _NO_END else left / 1000
