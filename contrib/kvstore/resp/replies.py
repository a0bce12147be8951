"""
What goes back to Redis' clients, in the second or the third protocol.

A reply is a plain value: text is a status such as ``OK``, bytes are a string,
then there are whole numbers, ``None``, lists, dictionaries and frozen sets.
The second protocol has fewer kinds, and says the same with those.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

#: The protocols that a client may choose from.
PROTOCOLS = (2, 3)

_CRLF = b"\r\n"


@dataclass(frozen=True, slots=True)
class Error:
    """
    A refusal.

    Args:
        text: A word in capitals that programs look at, and what people read.
    """

    text: str


@dataclass(frozen=True, slots=True)
class Verbatim:
    """Text that is to be shown as it is."""

    text: str


class Nothing(Enum):
    """The type of :data:`NO_LIST`."""

    LIST = "list"


#: What stands for a list that is not there: an ``EXEC`` that did nothing.
NO_LIST: Final = Nothing.LIST

#: Any of those.
Reply = Any

OK: Final = "OK"


def encode(reply: Reply, protocol: int) -> bytes:
    """Return *reply* as bytes."""
    kind = type(reply)
    if kind is bytes:
        return b"$%d\r\n%b\r\n" % (len(reply), reply)
    if kind is str:
        return b"+%b\r\n" % _line(reply)
    if kind is int:
        return b":%d\r\n" % reply
    if reply is None:
        return b"_\r\n" if protocol > 2 else b"$-1\r\n"  # noqa: PLR2004 - the protocol's number
    parts: list[bytes] = []
    _encode_rest(reply, protocol, parts)
    return b"".join(parts)


def _encode_rest(reply: Reply, protocol: int, parts: list[bytes]) -> None:
    """Append to *parts* the bytes of what is not a simple value."""
    is_new = protocol > 2  # noqa: PLR2004 - the protocol's number
    match reply:
        case list():
            parts.append(b"*%d\r\n" % len(reply))
            parts += [encode(each, protocol) for each in reply]
        case Error():
            parts.append(b"-%b\r\n" % _line(reply.text))
        case dict():
            parts.append(
                b"%%%d\r\n" % len(reply) if is_new else b"*%d\r\n" % (2 * len(reply))
            )
            for key, value in reply.items():
                parts += (encode(key, protocol), encode(value, protocol))
        case frozenset():
            parts.append((b"~%d\r\n" if is_new else b"*%d\r\n") % len(reply))
            parts += [encode(each, protocol) for each in sorted(reply)]
        case Verbatim():
            text = reply.text.encode("utf-8", "replace")
            shown = b"=%d\r\ntxt:%b\r\n" % (len(text) + 4, text)
            parts.append(shown if is_new else encode(text, protocol))
        case Nothing():
            parts.append(b"_\r\n" if is_new else b"*-1\r\n")
        case _:
            message = f"{type(reply).__name__} is no reply"
            raise TypeError(message)


def _line(text: str) -> bytes:
    """Return *text* as what a line may have."""
    return (
        text.replace("\r", " ").replace("\n", " ").encode("utf-8", "backslashreplace")
    )
