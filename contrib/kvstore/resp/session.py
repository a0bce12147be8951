"""
What a client of the Redis port has said before: its protocol, its transaction.

A :class:`Session` takes commands one by one and says what each comes to; the
connection does it.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.defer import Deferred, FirstError, gatherResults, maybeDeferred

from consensus.errors import AuthenticationError, PermissionDeniedError, RaftError
from consensus.interfaces import Login
from contrib.kvstore.commands import Compare, DeleteRange, GetItem, Txn
from contrib.kvstore.resp.parser import size_of
from contrib.kvstore.resp.plans import (
    Plan,
    RefusedError,
    keys,
    miscounted,
    name,
    text_of,
)
from contrib.kvstore.resp.replies import NO_LIST, OK, Error, Reply
from contrib.kvstore.resp.table import TABLE, Spec
from contrib.kvstore.touches import touches
from contrib.kvstore.values import MAX_MANY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from twisted.python.failure import Failure

    from consensus.access.users import Kind
    from contrib.kvstore.resp.port import Port

_SHOWN = 128

# How the reply begins to what a user may not do.
_FORBIDDEN = ("NOPERM", "NOAUTH")


@dataclass(frozen=True, slots=True)
class Alone:
    """
    A command with nothing else under way.

    Args:
        run: Does it; returns the Deferred of the reply.
    """

    run: Callable[[], Deferred[Reply]]


@dataclass(frozen=True, slots=True)
class _Queued:
    """A command that waits for ``EXEC``."""

    spec: Spec
    words: list[bytes]


class Session:
    """
    One client.

    Args:
        port: What it talks to.
        number: Its id.
        address: Where it comes from, as text.
    """

    def __init__(self, port: Port, number: int, address: str = "") -> None:
        self.port = port
        self.number = number
        self.address = address
        self.opened_at = self.heard_at = port.home.clock.seconds()
        self.library = {b"LIB-NAME": "", b"LIB-VER": ""}
        self.last_command = "NULL"
        self.is_closing = False
        # The user whose certificate the client has shown.
        self._certified: Any = None
        self.reset()

    def reset(self) -> None:
        """Be as a new one."""
        self.name = b""
        self.protocol = 2
        has_users = self.port.home.gate is not None
        #: The user, where there are users.
        self.caller: Any = self._certified
        self.is_trusted = self.caller is not None or not (
            has_users or self.port.options.resp_password
        )
        self.queue: list[_Queued] | None = None
        self._queued_bytes = 0
        self._is_dirty = False
        self.watched: dict[bytes, int] = {}

    def take(self, words: list[bytes]) -> Plan | Alone | Reply:
        """Return what the command *words* comes to, or the reply itself."""
        spec = TABLE.get(words[0]) or TABLE.get(words[0].upper())
        if spec is None:
            return self._reject(None, _unknown(words))
        self.last_command = spec.name
        count = len(words)
        if count != spec.arity if spec.arity > 0 else count < -spec.arity:
            return self._reject(spec, miscounted(spec.name))
        if not (self.is_trusted or spec.needs_no_trust):
            return self._reject(spec, "NOAUTH Authentication required.")
        if self.queue is not None and not spec.is_immediate:
            return self._enqueue(self.queue, spec, words)
        return self._prepare(spec, words)

    def _reject(self, spec: Spec | None, text: str) -> Reply:
        """Refuse a command for its form, which spoils a transaction."""
        if spec is not None and spec.name == "exec":
            self._end()
            reason = text.partition(" ")[2]
            return Error(f"EXECABORT Transaction discarded because of: {reason}")
        self._is_dirty = self.queue is not None
        return Error(text)

    def _prepare(self, spec: Spec, words: list[bytes]) -> Plan | Alone | Reply:
        if spec.is_alone:
            run = partial(maybeDeferred, spec.run, self, words)
            return Alone(lambda: run().addErrback(_refused))
        return self._run(spec, words)

    def _run(self, spec: Spec, words: list[bytes]) -> Plan | Reply:
        try:
            made: Plan | Reply = spec.run(self, words)
            if isinstance(made, Plan):
                kind: Kind = "write" if made.writes else "read"
                self.permit(spec.name, kind, made.operations)
            return made  # noqa: TRY300 - it is what this is about
        except RefusedError as error:
            return Error(str(error))

    # --- transactions -----------------------------------------------------

    def _enqueue(self, queue: list[_Queued], spec: Spec, words: list[bytes]) -> Reply:
        self._queued_bytes += size_of(words)
        if spec.takes_time:
            self._is_dirty = True
            return Error("ERR Command not allowed inside a transaction")
        if len(queue) >= MAX_MANY or self._queued_bytes > self.port.max_request:
            self._is_dirty = True
            return Error("ERR this transaction is too large")
        queue.append(_Queued(spec, words))
        return "QUEUED"

    def begin(self) -> Reply:
        """``MULTI``: keep what follows until ``EXEC``."""
        if self.queue is not None:
            return Error("ERR MULTI calls can not be nested")
        self.queue = []
        return OK

    def discard(self) -> Reply:
        """``DISCARD``: forget it."""
        if self.queue is None:
            return Error("ERR DISCARD without MULTI")
        self._end()
        return OK

    def _end(self) -> None:
        self.queue = None
        self._queued_bytes = 0
        self._is_dirty = False
        self.watched = {}

    def execute(self) -> Reply | Deferred[Reply]:
        """``EXEC``: do all at once, if nothing that is watched has changed."""
        queue, is_dirty, watched = self.queue, self._is_dirty, self.watched
        if queue is None:
            return Error("ERR EXEC without MULTI")
        self._end()
        if is_dirty:
            return Error("EXECABORT Transaction discarded because of previous errors.")
        self.permit("exec", "read", map(GetItem, watched))
        prepared = [self._run(each.spec, each.words) for each in queue]
        for reply in prepared:
            if isinstance(reply, Error) and reply.text.startswith(_FORBIDDEN):
                return Error(
                    f"EXECABORT Transaction discarded because of: {reply.text}"
                )
        operations: list[Any] = []
        for each in prepared:
            if isinstance(each, Plan):
                operations += each.operations
        if not operations and not watched:
            return prepared
        if len(operations) > MAX_MANY:
            return Error("EXECABORT this transaction is too large")
        compare = [Compare(key, "revision", "==", at) for key, at in watched.items()]
        done = self.port.home.write(Txn(compare, operations))
        return done.addCallbacks(_replies, _failed, callbackArgs=(prepared,))

    def watch(self, words: list[bytes]) -> Reply | Deferred[Reply]:
        """``WATCH``: remember at which revision keys are."""
        if self.queue is not None:
            return Error("ERR WATCH inside MULTI is not allowed")
        new = [key for key in dict.fromkeys(keys(words)) if key not in self.watched]
        self.permit("watch", "read", map(GetItem, new))
        if size_of([*self.watched, *new]) > self.port.max_request:
            return Error("ERR too many keys are watched")
        found = gatherResults(
            [self.port.read(GetItem(key)) for key in new], consumeErrors=True
        )

        def note(items: Sequence[Any]) -> Reply:
            for key, item in zip(new, items, strict=True):
                self.watched[key] = 0 if item is None else item.modified
            return OK

        return found.addCallbacks(note, _failed)

    def unwatch(self) -> Reply:
        """``UNWATCH``: forget it."""
        self.watched = {}
        return OK

    # --- who it is --------------------------------------------------------

    def authenticate(
        self, user: bytes | None, password: bytes
    ) -> Deferred[None] | None:
        """
        Trust the client if that is the password, or a token where there are users.

        Raises:
            RefusedError: It is not.

        If there is a Deferred, it fails with the same.
        """
        gate = self.port.home.gate
        if gate is not None:
            word = password.decode("utf-8", "surrogateescape")
            login = Login(token=word)
            if user is not None:
                login = Login(user.decode("utf-8", "surrogateescape"), word)
            done: Deferred[Any] = gate.login(login, self.address.rpartition(":")[0])
            return done.addCallbacks(self._logged_in, _unknown_user)
        wanted = self.port.options.resp_password.encode()
        is_right = hmac.compare_digest(password, wanted)
        if user not in {None, b"default"} or (wanted and not is_right):
            raise RefusedError(
                "WRONGPASS invalid username-password pair or user is disabled."
            )
        self.is_trusted = True
        return None

    def certify(self, user: str) -> None:
        """Trust the client, who has shown the certificate of *user*, if it counts."""
        gate = self.port.home.gate
        self._certified = None if gate is None else gate.certified(user)
        if self._certified is not None:
            self._logged_in(self._certified)

    def _logged_in(self, caller: Any) -> None:
        self.caller = caller
        self.is_trusted = True

    def permit(self, command: str, kind: Kind, operations: Iterable[Any]) -> None:
        """
        See that the user may do *operations*, which *command* comes to.

        Raises:
            RefusedError: The user may not, or is one no more.
        """
        gate = self.port.home.gate
        if gate is None:
            return
        try:
            gate.permit(self.caller, kind, map(touches, operations))
        except AuthenticationError:
            raise RefusedError("NOAUTH Authentication required.") from None
        except PermissionDeniedError:
            message = (
                f"NOPERM User {self.user} has no permissions to run the '{command}'"
                " command, or not with these keys"
            )
            raise RefusedError(message) from None

    @property
    def user(self) -> str:
        """Return who the client is."""
        return self.caller.user if self.caller else "default"

    @property
    def seen(self) -> list[Session]:
        """Return the clients that this one may know of."""
        gate = self.port.home.gate
        try:
            if gate is None or gate.user_of(self.caller).is_admin:
                return self.port.sessions()
        except AuthenticationError:
            pass
        return [self]

    # --- what takes more than one step --------------------------------------

    def flush(self) -> Deferred[Reply]:
        """``FLUSHALL``: remove all keys, some thousand at a time."""
        self.permit("flushall", "write", [DeleteRange()])
        return Deferred.fromCoroutine(self._flush())

    async def _flush(self) -> Reply:
        try:
            while await self.port.home.write(DeleteRange(limit=MAX_MANY)) >= MAX_MANY:
                pass
        except RaftError as error:
            return Error(text_of(error))
        return OK


def _replies(result: Any, prepared: list[Any]) -> Reply:
    """Return what ``EXEC`` says of *prepared*, as the store did it."""
    if not result.succeeded:
        return NO_LIST
    results = iter(result.results)
    return [
        each.reply_to([next(results) for _ in each.operations])
        if isinstance(each, Plan)
        else each
        for each in prepared
    ]


def _refused(failure: Failure) -> Reply:
    failure.trap(RefusedError)
    return Error(str(failure.value))


def _failed(failure: Failure) -> Reply:
    """Return what a client is told of *failure*."""
    error = failure.value
    if isinstance(error, FirstError):
        failure, error = error.subFailure, error.subFailure.value
    failure.trap(RaftError)
    return Error(text_of(cast("RaftError", error)))


def _unknown_user(failure: Failure) -> None:
    """Refuse who cannot log in."""
    if failure.check(AuthenticationError):
        message = f"WRONGPASS {failure.value}"
    else:
        failure.trap(RaftError)
        message = text_of(cast("RaftError", failure.value))
    raise RefusedError(message)


def _unknown(words: list[bytes]) -> str:
    shown = ""
    for word in words[1:]:
        if len(shown) >= _SHOWN:
            break
        shown += f"'{name(word[: _SHOWN - len(shown)])}' "
    return (
        f"ERR unknown command '{name(words[0][:_SHOWN])}', with args beginning with:"
        f" {shown}"
    )
