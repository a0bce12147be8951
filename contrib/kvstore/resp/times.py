"""
Redis' commands for when a key ends.

The store knows how long from now in the log's time, and no date.  A date is
turned into that here, by the clock of the server that the client talks to, at
the moment of the command.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from contrib.kvstore.commands import Expire, Ttl
from contrib.kvstore.resp.plans import Plan, RefusedError, integer, key, name
from contrib.kvstore.values import MAX_TTL

if TYPE_CHECKING:
    from collections.abc import Callable

    from contrib.kvstore.resp.session import Session

_SECOND = 1000

_NO_KEY = -2

# The options of EXPIRE that each stand alone, as the store has them.
_CONDITIONS: dict[frozenset[bytes], Any] = {
    frozenset(): None,
    frozenset({b"NX"}): "none",
    frozenset({b"XX"}): "some",
    frozenset({b"GT"}): "later",
    # A key without an end has the latest of all.
    frozenset({b"GT", b"XX"}): "later",
    frozenset({b"LT"}): "earlier",
}


@dataclass(frozen=True, slots=True)
class Deadline:
    """
    When something ends, as a client has said it.

    Args:
        unit: ``EX`` and ``PX`` count from now, ``EXAT`` and ``PXAT`` from 1970;
            with a ``P``, in milliseconds.
        number: The number.
    """

    unit: bytes
    number: bytes


def deadline(
    session: Session, until: Deadline, command: str, *, least: int | None = None
) -> int:
    """
    Return how many milliseconds there are until then, from now.

    Raises:
        RefusedError: It is no number, or one below *least*, or too large.
    """
    number = integer(until.number)
    scale = 1 if until.unit.startswith(b"P") else _SECOND
    is_date = until.unit.endswith(b"AT")
    time = number * scale
    now = session.port.date()
    end = time if is_date else now + time
    if (least is not None and number < least) or abs(end) >> 63:
        message = f"ERR invalid expire time in '{command}' command"
        raise RefusedError(message)
    return max(-MAX_TTL, min(end - now, MAX_TTL))


def ttl_of(session: Session, until: Deadline, command: str) -> int:
    """
    Return the same for a key that is being set: it is there for a moment at least.

    Raises:
        RefusedError: As :func:`deadline`.
    """
    return max(1, deadline(session, until, command, least=1))


def expire(session: Session, words: list[bytes]) -> Plan:
    """``EXPIRE key seconds [NX | XX | GT | LT]``."""
    return _expire(session, words, b"EX")


def pexpire(session: Session, words: list[bytes]) -> Plan:
    """``PEXPIRE key milliseconds [NX | XX | GT | LT]``."""
    return _expire(session, words, b"PX")


def expireat(session: Session, words: list[bytes]) -> Plan:
    """``EXPIREAT key date [NX | XX | GT | LT]``."""
    return _expire(session, words, b"EXAT")


def pexpireat(session: Session, words: list[bytes]) -> Plan:
    """``PEXPIREAT key date-in-milliseconds [NX | XX | GT | LT]``."""
    return _expire(session, words, b"PXAT")


def _expire(session: Session, words: list[bytes], unit: bytes) -> Plan:
    only_if = _condition(words[3:])
    ttl = deadline(session, Deadline(unit, words[2]), name(words[0]).lower())
    return Plan((Expire(key(words[1]), ttl, only_if),), int)


def _condition(words: list[bytes]) -> Any:
    options = frozenset(word.upper() for word in words)
    for option, word in zip(map(bytes.upper, words), words, strict=True):
        if option not in {b"NX", b"XX", b"GT", b"LT"}:
            message = f"ERR Unsupported option {name(word)}"
            raise RefusedError(message)
    if b"NX" in options and len(options) > 1:
        raise RefusedError(
            "ERR NX and XX, GT or LT options at the same time are not compatible"
        )
    if {b"GT", b"LT"} <= options:
        raise RefusedError("ERR GT and LT options at the same time are not compatible")
    if options not in _CONDITIONS:
        raise RefusedError("ERR XX and LT at the same time are not supported here")
    return _CONDITIONS[options]


def persist(_: Session, words: list[bytes]) -> Plan:
    """``PERSIST key``."""
    return Plan((Expire(key(words[1]), None),), int)


def ttl(_: Session, words: list[bytes]) -> Plan:
    """``TTL key``."""
    return _time_left(words, lambda left: (left + _SECOND // 2) // _SECOND)


def pttl(_: Session, words: list[bytes]) -> Plan:
    """``PTTL key``."""
    return _time_left(words, int)


def expiretime(session: Session, words: list[bytes]) -> Plan:
    """``EXPIRETIME key``."""
    return _time_left(
        words,
        lambda left: (session.port.date() + left + _SECOND // 2) // _SECOND,
    )


def pexpiretime(session: Session, words: list[bytes]) -> Plan:
    """``PEXPIRETIME key``."""
    return _time_left(words, lambda left: session.port.date() + left)


def _time_left(words: list[bytes], show: Callable[[int], int]) -> Plan:
    """Ask in the log, where time has passed: a state knows it as of its last change."""
    query = Ttl(key(words[1]))
    return Plan((query,), lambda left: left if left < 0 else show(left))
