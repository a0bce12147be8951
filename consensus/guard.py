"""
Who may do what, as far as transports, machines and ports have to know of it.

A transport asks a :class:`Guard` who is at the other end and hands it the calls; a
state machine says with :class:`Touched` which keys a command is about; what decides
is :mod:`consensus.access`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection

    from twisted.internet.defer import Deferred


@dataclass(frozen=True, slots=True)
class Login:
    """
    What a client says to be let in.

    Args:
        user: Its name; with a token it may be left out.
        password: The user's password, or one of its tokens.
        token: One of a user's tokens, instead of both.
    """

    user: str = ""
    password: str = ""
    token: str = ""

    def __repr__(self) -> str:
        """Say who it is for, and no more: this may stand in a traceback."""
        return f"Login(user={self.user!r})"


class KeyRange(NamedTuple):
    """
    The keys from *first* on, up to *end* and without it; ``None``: to the last.

    Keys are in the order of their bytes.
    """

    first: bytes
    end: bytes | None

    @property
    def is_empty(self) -> bool:
        """Say whether there can be no key in it."""
        return self.end is not None and self.end <= self.first

    def holds(self, other: KeyRange) -> bool:
        """Say whether each key of *other* is one of these, too."""
        if other.is_empty:
            return True
        if other.first < self.first:
            return False
        return self.end is None or (other.end is not None and other.end <= self.end)


def key_range(key: bytes) -> KeyRange:
    """Return the range that has *key* and nothing else."""
    return KeyRange(key, key + b"\0")


def prefix_range(prefix: bytes) -> KeyRange:
    """Return the range of the keys that begin with *prefix*."""
    stem = prefix.rstrip(b"\xff")
    return KeyRange(prefix, stem[:-1] + bytes([stem[-1] + 1]) if stem else None)


@dataclass(frozen=True, slots=True)
class Touched:
    """
    What a command or a query is about.

    Args:
        reads: What its result, or whether it fails, tells of.
        writes: What it may change.
    """

    reads: tuple[KeyRange, ...] = ()
    writes: tuple[KeyRange, ...] = ()


class Guard(Protocol):
    """What a transport asks; a caller is whatever this has made of somebody."""

    #: What the servers of a cluster have in common to know each other by; empty
    #: where certificates do.
    secret: bytes

    #: The caller that stands for another server of the cluster.
    member: Any

    def login(self, login: Login, host: str) -> Deferred[Any]:
        """
        Return the caller that *login* is for.

        Args:
            login: What it says.
            host: Where it says so; who fails there has to wait more and more.

        The Deferred fails with:
            AuthenticationError: It is not right, or it was too often not.
            OverloadedError: Too many wait for an answer.
        """

    def certified(self, names: Collection[str], subject: str) -> Any:
        """
        Return the caller that a certificate is for; ``None`` for nobody.

        Args:
            names: The members that it may stand for.
            subject: Its common name.
        """

    def answer(self, caller: Any, method: str, payload: bytes) -> Deferred[bytes]:
        """
        Answer the call of *caller*, who is ``None`` as long as nobody knows.

        The Deferred fails as that of ``Inbox.answer``, and with:
            AuthenticationError: It is not known who calls, or not any more.
            PermissionDeniedError: The caller may not do that.
        """
