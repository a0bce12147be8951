"""The key-value store's client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from twisted.internet.defer import Deferred, fail

from consensus.client import Client
from consensus.errors import InvalidCommandError, ProtocolError, RaftError
from contrib.kvstore import commands
from contrib.kvstore.commands import Cas, Delete, Get, Set, Value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from consensus.core.values import LogIndex
    from consensus.options import Consistency

_T = TypeVar("_T")

_decode_nothing: Callable[[bytes], None] = msgspec.msgpack.Decoder(None).decode
_decode_flag: Callable[[bytes], bool] = msgspec.msgpack.Decoder(bool).decode


class KVClient:
    """
    Sets and gets keys of a cluster; follows the leader.

    A key is text or bytes, and text stands for its UTF-8 bytes.  A value is
    text or bytes, and comes back as the one that it was.

    Every Deferred fails with:
        RejectedError: It was not done and will not be; try again later.
        InvalidCommandError: It cannot be done: the key is empty or too long,
            or the value is neither text nor bytes, or too large.
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
        if not isinstance(cluster, Client):
            if reactor is None:
                raise TypeError("with addresses, KVClient needs the reactor too")
            cluster = Client.connect(cluster, reactor, timeout=timeout)
        #: The cluster's client.
        self.cluster = cluster
        self._writer = cluster.session() if session else cluster

    def set(self, key: str | bytes, value: Value) -> Deferred[None]:
        """Give *key* the *value*, whatever it had."""
        return self._write(lambda: Set(commands.as_key(key), value), _decode_nothing)

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
        try:
            query = commands.encode(Get(commands.as_key(key)))
        except RaftError as error:
            return fail(error)
        read = self.cluster.read(
            query, consistency=consistency, max_age=max_age, at_index=at_index
        )
        return read.addCallback(_decoded, _decode_value)

    def delete(self, key: str | bytes) -> Deferred[bool]:
        """Remove *key*; say whether it was there."""
        return self._write(lambda: Delete(commands.as_key(key)), _decode_flag)

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
        return self._write(
            lambda: Cas(commands.as_key(key), expected, value), _decode_flag
        )

    def close(self) -> Deferred[None]:
        """Close the connections; what is under way fails."""
        return self.cluster.close()

    def _write(
        self, make: Callable[[], commands.Command], decode: Callable[[bytes], _T]
    ) -> Deferred[_T]:
        try:
            command = commands.encode(make())
        except RaftError as error:
            return fail(error)
        except TypeError as error:
            return fail(InvalidCommandError(str(error)))
        return self._writer.write(command).addCallback(_decoded, decode)


def _decode_value(data: bytes) -> Value | None:
    value = msgspec.msgpack.decode(data)
    if isinstance(value, bytes | str | None):
        return value
    message = f"a value is text or bytes, not {type(value).__name__}"
    raise msgspec.ValidationError(message)


def _decoded(data: bytes, decode: Callable[[bytes], _T]) -> _T:
    try:
        return decode(data)
    # msgspec's own errors are ValueErrors, and so is that of bad UTF-8.
    except (ValueError, RecursionError) as error:
        message = f"this is no answer of a key-value store: {error}"
        raise ProtocolError(message) from error
