"""Redis' commands for values: ``GET``, ``SET``, ``INCR`` and their like."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from contrib.kvstore.commands import (
    Append,
    Expire,
    Get,
    GetMany,
    Incr,
    IncrFloat,
    Put,
    Set,
    SetMany,
    Take,
)
from contrib.kvstore.resp.plans import (
    SYNTAX,
    Plan,
    RefusedError,
    integer,
    key,
    keys,
    miscounted,
    name,
)
from contrib.kvstore.resp.replies import OK
from contrib.kvstore.resp.times import Deadline, deadline, ttl_of
from contrib.kvstore.values import as_bytes

if TYPE_CHECKING:
    from contrib.kvstore.resp.session import Session
    from contrib.kvstore.values import Value

_UNITS = frozenset({b"EX", b"PX", b"EXAT", b"PXAT"})

_LEAST = -(1 << 63)


def _value(value: Value | None) -> bytes | None:
    return value if type(value) is bytes or value is None else as_bytes(value)


def _ok(_: object) -> str:
    return OK


def get(_: Session, words: list[bytes]) -> Plan:
    """``GET key``."""
    return Plan((Get(key(words[1])),), _value, writes=False)


def strlen(_: Session, words: list[bytes]) -> Plan:
    """``STRLEN key``."""
    return Plan((Get(key(words[1])),), _length, writes=False)


def _length(value: Value | None) -> int:
    return 0 if value is None else len(as_bytes(value))


def mget(_: Session, words: list[bytes]) -> Plan:
    """``MGET key ...``."""
    return Plan((GetMany(keys(words[1:])),), _values, writes=False)


def _values(values: list[Value | None]) -> list[bytes | None]:
    return [_value(value) for value in values]


def set_(session: Session, words: list[bytes]) -> Plan:
    """``SET key value [NX | XX] [GET] [EX n | PX n | EXAT n | PXAT n | KEEPTTL]``."""
    named = key(words[1])
    if len(words) == 3:  # noqa: PLR2004 - SET, the key and the value
        return Plan((Set(named, words[2]),), _ok)
    return _set_with(session, named, words)


def _set_with(session: Session, named: bytes, words: list[bytes]) -> Plan:
    options = _SetOptions(session, words)
    only_if: Any = None
    if options.flags:
        only_if = "absent" if b"NX" in options.flags else "present"
    put = Put(
        named,
        words[2],
        only_if,
        options.ttl,
        options.keep_ttl,
        want_old=options.wants_old,
    )
    if options.wants_old:
        return Plan((put,), lambda result: _value(result.old))
    return Plan((put,), lambda result: OK if result.done else None)


class _SetOptions:
    """
    What follows the value in ``SET``.

    Args:
        session: Whose clock counts.
        words: All of the command.

    Raises:
        RefusedError: They make no sense.
    """

    def __init__(self, session: Session, words: list[bytes]) -> None:
        self.flags: set[bytes] = set()
        self.keep_ttl = False
        self.wants_old = False
        self.ttl: int | None = None
        until: Deadline | None = None
        rest = iter(words[3:])
        for word in rest:
            option = word.upper()
            if option in {b"NX", b"XX"}:
                self.flags.add(option)
            elif option == b"GET":
                self.wants_old = True
            elif option == b"KEEPTTL":
                self.keep_ttl = True
            elif option in _UNITS and (until is None or until.unit == option):
                number = next(rest, None)
                if number is None:
                    raise RefusedError(SYNTAX)
                until = Deadline(option, number)
            else:
                raise RefusedError(SYNTAX)
        if len(self.flags) > 1 or (self.keep_ttl and until is not None):
            raise RefusedError(SYNTAX)
        if until is not None:
            self.ttl = ttl_of(session, until, "set")


def setnx(_: Session, words: list[bytes]) -> Plan:
    """``SETNX key value``."""
    put = Put(key(words[1]), words[2], "absent")
    return Plan((put,), lambda result: int(result.done))


def setex(session: Session, words: list[bytes]) -> Plan:
    """``SETEX key seconds value``."""
    return _set_for(session, words, b"EX", "setex")


def psetex(session: Session, words: list[bytes]) -> Plan:
    """``PSETEX key milliseconds value``."""
    return _set_for(session, words, b"PX", "psetex")


def _set_for(session: Session, words: list[bytes], unit: bytes, command: str) -> Plan:
    ttl = ttl_of(session, Deadline(unit, words[2]), command)
    return Plan((Put(key(words[1]), words[3], ttl=ttl),), _ok)


def getset(_: Session, words: list[bytes]) -> Plan:
    """``GETSET key value``."""
    put = Put(key(words[1]), words[2], want_old=True)
    return Plan((put,), lambda result: _value(result.old))


def getdel(_: Session, words: list[bytes]) -> Plan:
    """``GETDEL key``."""
    return Plan((Take(key(words[1])),), _value)


def getex(session: Session, words: list[bytes]) -> Plan:
    """``GETEX key [EX n | PX n | EXAT n | PXAT n | PERSIST]``."""
    named = key(words[1])
    match [word.upper() for word in words[2:3]], words[3:]:
        case [], []:
            return get(session, words)
        case [b"PERSIST"], []:
            ttl = None
        case [unit], [number] if unit in _UNITS:
            ttl = deadline(session, Deadline(unit, number), "getex", least=1)
        case _:
            raise RefusedError(SYNTAX)
    return Plan((Get(named), Expire(named, ttl)), lambda value, _: _value(value))


def mset(_: Session, words: list[bytes]) -> Plan:
    """``MSET key value ...``."""
    return Plan((SetMany(_items(words)),), _ok)


def msetnx(_: Session, words: list[bytes]) -> Plan:
    """``MSETNX key value ...``."""
    return Plan((SetMany(_items(words), "absent"),), int)


def _items(words: list[bytes]) -> list[tuple[bytes, Any]]:
    if len(words) % 2 == 0:
        raise RefusedError(miscounted(name(words[0]).lower()))
    return list(zip(keys(words[1::2]), words[2::2], strict=True))


def incr(_: Session, words: list[bytes]) -> Plan:
    """``INCR key``."""
    return _incr(words, 1)


def decr(_: Session, words: list[bytes]) -> Plan:
    """``DECR key``."""
    return _incr(words, -1)


def incrby(_: Session, words: list[bytes]) -> Plan:
    """``INCRBY key increment``."""
    return _incr(words, integer(words[2]))


def decrby(_: Session, words: list[bytes]) -> Plan:
    """``DECRBY key decrement``."""
    by = integer(words[2])
    if by == _LEAST:
        raise RefusedError("ERR decrement would overflow")
    return _incr(words, -by)


def _incr(words: list[bytes], by: int) -> Plan:
    return Plan((Incr(key(words[1]), by),), int)


def incrbyfloat(_: Session, words: list[bytes]) -> Plan:
    """``INCRBYFLOAT key increment``."""
    by = _float(words[2])
    if math.isinf(by):
        raise RefusedError("ERR increment would produce NaN or Infinity")
    return Plan((IncrFloat(key(words[1]), by),), as_bytes)


def _float(word: bytes) -> float:
    # Python allows more than C: spaces and underscores.
    number = math.nan
    if word.strip() == word and b"_" not in word:
        with suppress(ValueError):
            number = float(word)
    if math.isnan(number):
        raise RefusedError("ERR value is not a valid float")
    return number


def append(_: Session, words: list[bytes]) -> Plan:
    """``APPEND key value``."""
    return Plan((Append(key(words[1]), words[2]),), int)
