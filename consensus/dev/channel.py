"""
What ``raft dev`` and its members tell each other, an object of JSON a line.

A member reads on its standard input and writes to the file descriptor
:data:`NEWS`; what it prints goes elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from twisted.protocols.basic import LineOnlyReceiver

if TYPE_CHECKING:
    from collections.abc import Callable

#: The file descriptor that a member tells its news on.
NEWS = 3

_MAX_LINE = 1 << 20


class Started(msgspec.Struct, frozen=True, tag_field="say", tag="started"):
    """The member answers calls."""


class Role(msgspec.Struct, frozen=True, tag_field="say", tag="role"):
    """The member's role has changed."""

    role: str
    term: int
    leader: str | None


class Question(msgspec.Struct, frozen=True, tag_field="say", tag="question"):
    """Somebody asks the member for faults; with a *fault*, to change one."""

    id: int
    fault: str = ""
    server: str = ""
    on: bool = False


class Answer(msgspec.Struct, frozen=True, tag_field="say", tag="answer"):
    """What to answer to the question with this *id*."""

    id: int
    status: int
    body: Any


class Conditions(msgspec.Struct, frozen=True, tag_field="say", tag="conditions"):
    """
    The faults that the member has to suffer.

    Args:
        cut: From whom nothing arrives, and to whom nothing goes.
        sync_delay: How many seconds longer each sync takes.
        skew: How many seconds the wall clock is fast.
    """

    cut: tuple[str, ...] = ()
    sync_delay: float = 0.0
    skew: float = 0.0


News = Started | Role | Question
Order = Conditions | Answer

_encode = msgspec.json.Encoder().encode
decode_news = msgspec.json.Decoder(News).decode
decode_order = msgspec.json.Decoder(Order).decode


def encode(said: News | Order) -> bytes:
    """Return *said* as a line."""
    return _encode(said) + b"\n"


class Channel(LineOnlyReceiver):
    """
    A member's end.

    Args:
        hear: Takes each order.
        on_end: Called when the other end is gone.
    """

    delimiter = b"\n"
    MAX_LENGTH = _MAX_LINE

    def __init__(
        self, hear: Callable[[Order], None], on_end: Callable[[], None]
    ) -> None:
        self._hear = hear
        self._on_end = on_end
        self.transport: Any = None

    def lineReceived(self, line: bytes) -> None:
        """Hear an order."""
        self._hear(decode_order(line))

    def connectionLost(self, reason: Any = None) -> None:
        """Note that ``raft dev`` is gone."""
        del reason
        self._on_end()

    def tell(self, news: News) -> None:
        """Tell ``raft dev``."""
        if self.transport is not None:
            self.transport.write(encode(news))


class Lines:
    """
    Cuts what comes in pieces into lines; one without an end is cut as well.

    Args:
        take: Called with each line.
    """

    def __init__(self, take: Callable[[bytes], None], longest: int = _MAX_LINE) -> None:
        self._take = take
        self._longest = longest
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Take *data*."""
        *lines, rest = (self._rest + data).split(b"\n")
        while len(rest) > self._longest:
            lines.append(rest[: self._longest])
            rest = rest[self._longest :]
        self._rest = rest
        for line in lines:
            self._take(line)

    def flush(self) -> None:
        """Take what is there for a line: no more comes."""
        rest, self._rest = self._rest, b""
        if rest:
            self._take(rest)
