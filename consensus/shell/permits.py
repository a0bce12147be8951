"""
What a client's call needs permission for, and who answers it then.

A server that has ``access`` in its config is asked through a :class:`ServerGuard`:
members of the cluster may do what they like, users what their roles say.  It is
looked at where the client is connected; what is passed on to the leader is a
member's.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from functools import partial
from struct import Struct
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
from twisted.internet.defer import Deferred, fail
from twisted.internet.threads import deferToThreadPool

from consensus import sessions
from consensus.access.gate import Gate
from consensus.access.users import UserFile
from consensus.errors import (
    AuthenticationError,
    InvalidCommandError,
    InvariantError,
    PermissionDeniedError,
    RaftError,
)
from consensus.guard import Touched
from consensus.options import unpack_many, unpack_read, unpack_write
from consensus.sessions import Operation
from consensus.shell.members import Applicant

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from consensus.access.gate import Caller
    from consensus.access.users import Kind
    from consensus.config import Config
    from consensus.guard import Login
    from consensus.state_machine import StateMachine

#: Another server of the cluster.
MEMBER = object()

_SESSION = Struct(">Q")
_HALVES = Struct(">II")
_ROUNDS = 4

# Every other method is an admin's.
_KINDS: dict[str, Kind] = {
    "read": "read",
    "read_with": "read",
    "write": "write",
    "write_with": "write",
    "write_many": "write",
    "session_open": "write",
    "session_write": "write",
    "session_write_indexed": "write",
    "session_close": "write",
}

# Clients find the members with the one, and compare clocks with the other.
_ANYBODYS = ("status", "clock")

_COMMANDS = ("session_write", "session_write_indexed")
_NAMED = (*_COMMANDS, "session_close")


@dataclass(frozen=True, slots=True)
class ServerCertificate:
    """
    An end with a certificate of a server.

    Args:
        names: The members that it may stand for, if they are members.
    """

    names: frozenset[str]


class ServerGuard:
    """
    Lets in who may come in; a :class:`~consensus.guard.Guard`.

    Args:
        gate: Knows the users.
        secret: What members know each other by, where no certificates do.
        answer: Answers a call, whoever makes it.
        machine: Returns the state machine.
        members: Returns who belongs to the cluster.
    """

    member = MEMBER

    def __init__(
        self,
        gate: Gate,
        secret: bytes,
        answer: Callable[[str, bytes], Deferred[bytes]],
        machine: Callable[[], StateMachine],
        members: Callable[[], Collection[str]],
    ) -> None:
        self.gate = gate
        self.secret = secret
        self._answer = answer
        self._machine = machine
        self._members = members

    def login(self, login: Login, host: str) -> Deferred[Any]:
        """Return the user who says *login*; see :class:`~consensus.guard.Guard`."""
        return self.gate.login(login, host)

    def certified(self, names: Collection[str], subject: str) -> Any:
        """Return whom a certificate is for; see :class:`~consensus.guard.Guard`."""
        if names:
            return ServerCertificate(frozenset(names))
        return self.gate.certified(subject)

    def answer(self, caller: Any, method: str, payload: bytes) -> Deferred[bytes]:
        """Answer what *caller* may ask; see :class:`~consensus.guard.Guard`."""
        if caller is MEMBER:
            return self._answer(method, payload)
        try:
            if isinstance(caller, ServerCertificate):
                self._permit_server(caller, method, payload)
                return self._answer(method, payload)
            return self._answer_user(caller, method, payload)
        except RaftError as error:
            return fail(error)

    def _permit_server(
        self, caller: ServerCertificate, method: str, payload: bytes
    ) -> None:
        """See that a server belongs to the cluster, or asks to."""
        if not caller.names.isdisjoint(self._members()):
            return
        if method == "join" and _applicant(payload) in caller.names:
            return
        names = ", ".join(sorted(caller.names))
        message = f"the certificate is for {names}, and none of them is a member"
        raise AuthenticationError(message)

    def _answer_user(
        self, caller: Caller | None, method: str, payload: bytes
    ) -> Deferred[bytes]:
        user = self.gate.user_of(caller)
        if method not in _ANYBODYS:
            kind = _KINDS.get(method, "admin")
            # Who may touch all keys saves us from looking which these are.
            if not user.may(kind, None):
                if kind == "admin":
                    raise PermissionDeniedError("only an admin may do that")
                # To open a session touches no key, but takes a place in the log.
                touched = self._touched(method, payload) or [Touched()]
                self.gate.permit(caller, kind, touched)
        if caller is None or method not in (*_NAMED, "session_open"):
            return self._answer(method, payload)
        return self._in_session(self.gate.sealing_key(caller), method, payload)

    def _touched(self, method: str, payload: bytes) -> list[Touched | None]:
        machine = self._machine()
        return [
            machine.touches(machine.decode(each)) for each in _parts(method, payload)
        ]

    def _in_session(self, key: bytes, method: str, payload: bytes) -> Deferred[bytes]:
        """
        Answer a call about a session, whose name only its user can say.

        Sessions are numbered by the log; who could name another's would get its
        results, or spoil its numbers.
        """
        if method == "session_open":
            opened = self._answer(method, payload)
            return opened.addCallback(lambda name: seal(key, name))
        if len(payload) < _SESSION.size:
            raise InvalidCommandError("this is no call of a session")
        name = seal(key, payload[: _SESSION.size], backwards=True)
        return self._answer(method, name + payload[_SESSION.size :])


class Guarded(Protocol):
    """The server; see :class:`~consensus.server.RaftServer`."""

    def inbox(self) -> Any:
        """Return what answers calls, and has the machine."""

    def known_members(self) -> Collection[str]:
        """Return who belongs to the cluster."""


def make_guard(
    server: Guarded, config: Config, reactor: Any, clock: Any
) -> ServerGuard:
    """
    Return what guards *server*, as the ``access`` of *config* says.

    Raises:
        ConfigError: A file of it cannot be used.
    """
    access, inbox = config.access, server.inbox()
    if access is None:
        raise InvariantError("there is nothing to guard")
    pool = reactor.getThreadPool()
    gate = Gate(
        UserFile(access.users), clock, partial(deferToThreadPool, reactor, pool)
    )
    return ServerGuard(
        gate,
        access.read_secret(),
        inbox.answer,
        lambda: inbox.machine,
        server.known_members,
    )


def _parts(method: str, payload: bytes) -> Iterator[bytes]:
    """Yield the commands, or the query, of a call as bytes."""
    if method in {"read", "write"}:
        yield payload
    elif method == "read_with":
        yield unpack_read(payload)[1]
    elif method == "write_with":
        yield unpack_write(payload)[1]
    elif method == "write_many":
        yield from unpack_many(payload)[1]
    elif method in _COMMANDS:
        sessions.check(Operation.COMMAND, payload)
        yield sessions.command_of(payload)


def _applicant(payload: bytes) -> str:
    try:
        return msgspec.msgpack.decode(payload, type=Applicant).server
    except (ValueError, RecursionError) as error:
        raise InvalidCommandError("this is no applicant") from error


def seal(key: bytes, name: bytes, *, backwards: bool = False) -> bytes:
    """
    Return another name of 8 bytes for *name*, or that one again.

    Without *key* it cannot be told which; any bytes are some name.  This is a
    Feistel network of four rounds.
    """
    left, right = _HALVES.unpack(name)
    if backwards:
        for number in reversed(range(_ROUNDS)):
            left, right = right ^ _round(key, number, left), left
    else:
        for number in range(_ROUNDS):
            left, right = right, left ^ _round(key, number, right)
    return _HALVES.pack(left, right)


def _round(key: bytes, number: int, half: int) -> int:
    digest = hmac.digest(key, b"%d %d" % (number, half), "sha256")
    return int.from_bytes(digest[:4], "big")
