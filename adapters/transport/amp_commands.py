"""
What servers and clients say to each other in AMP: the commands and errors.

A Twisted program can talk to a server with these classes and a plain
``twisted.protocols.amp.AMP``; any other AMP client with the names and types
in ``docs/reference/protocol.md``.  Our own connections
(:mod:`adapters.transport.amp_connection`) read and write the same boxes by
hand, because a :class:`Call` and a :class:`Message` come often.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
from twisted.protocols import amp

from consensus.errors import RaftError, error_from_code

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: The versions of the protocol that this release speaks.
MIN_VERSION = 1
MAX_VERSION = 1

#: What the 16 bits before a value in an AMP box can say.
MAX_VALUE_BYTES = 65_535

#: No part of a message is larger, so that a box of it fits into 64 KiB: larger
#: frames cost Twisted's buffers more than their share.
MAX_PART_BYTES = 65_000

# Three such texts make an error's description, and a character may take six
# bytes in JSON: the whole fits into one value.
_MAX_TEXT = 3_000


class Bytes(amp.Argument):
    """
    Bytes of any length, spread over as many keys of a box as they need.

    The keys are ``name``, ``name.1``, ``name.2`` and so on, because a value
    holds 65,535 bytes at the most.
    """

    def fromBox(
        self,
        name: bytes,
        strings: dict[bytes, bytes],
        objects: dict[str, Any],
        proto: object,  # noqa: ARG002 - amp.Argument's signature
    ) -> None:
        """Join the values under *name* into one object."""
        objects[name.decode("ascii")] = join_bytes(name, strings)

    def toBox(
        self,
        name: bytes,
        strings: dict[bytes, bytes],
        objects: dict[str, Any],
        proto: object,  # noqa: ARG002 - amp.Argument's signature
    ) -> None:
        """Spread one object over as many values as it takes."""
        strings.update(split_bytes(name, objects[name.decode("ascii")]))


def split_bytes(name: bytes, value: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values that carry *value* under *name*."""
    yield name, value[:MAX_VALUE_BYTES]
    for number, first in enumerate(
        range(MAX_VALUE_BYTES, len(value), MAX_VALUE_BYTES), start=1
    ):
        yield b"%b.%d" % (name, number), value[first : first + MAX_VALUE_BYTES]


def join_bytes(name: bytes, box: Mapping[bytes, bytes]) -> bytes:
    """
    Return what :func:`split_bytes` put into *box* under *name*.

    Raises:
        KeyError: There is nothing under *name*.
    """
    first = box[name]
    part = box.get(name + b".1")
    if part is None:
        return first
    parts = [first]
    while part is not None:
        parts.append(part)
        part = box.get(b"%b.%d" % (name, len(parts)))
    return b"".join(parts)


def _argument(kind: Any, **options: Any) -> amp.Argument:
    """Return an argument; Twisted annotates their classes in part only."""
    made: amp.Argument = kind(**options)
    return made


_BYTES = _argument(Bytes)
_INTEGER = _argument(amp.Integer)
_OPTIONAL = _argument(amp.String, optional=True)
_OPTIONAL_TEXT = _argument(amp.Unicode, optional=True)
_TEXT = _argument(amp.Unicode)

_Schema = list[tuple[bytes, amp.Argument]]


class Hello(amp.Command):
    """
    Introduce a server to the one that it connected to; precedes messages.

    The answer is the other's introduction and the version to speak.
    """

    arguments: ClassVar[_Schema] = [
        (b"min_version", _INTEGER),
        (b"max_version", _INTEGER),
        (b"cluster", _TEXT),
        (b"server", _TEXT),
        (b"incarnation", _TEXT),
        (b"cluster_id", _OPTIONAL_TEXT),
        (b"to", _TEXT),
    ]
    response: ClassVar[_Schema] = [
        (b"version", _INTEGER),
        (b"cluster", _TEXT),
        (b"server", _TEXT),
        (b"incarnation", _TEXT),
        (b"cluster_id", _OPTIONAL_TEXT),
    ]


class Call(amp.Command):
    """Call a *method* of a server as a client; the answer is its result."""

    arguments: ClassVar[_Schema] = [
        (b"version", _INTEGER),
        (b"method", _TEXT),
        (b"payload", _BYTES),
    ]
    response: ClassVar[_Schema] = [(b"payload", _BYTES)]


class Ping(amp.Command):
    """Ask for a sign of life; servers drop connections that stay silent."""


class Message(amp.Command):
    """
    Carry a message of Raft, or a part of one; never answered.

    ``part`` is a part that others follow, ``last`` the last or only one.
    """

    arguments: ClassVar[_Schema] = [
        (b"last", _OPTIONAL),
        (b"part", _OPTIONAL),
    ]
    requiresAnswer = False  # noqa: N815 - amp.Command's name


class ErrorReport(msgspec.Struct, omit_defaults=True):
    """
    What an AMP error's description holds, as JSON.

    Args:
        code: The error's code again, for AMP libraries that hide it.
        message: What happened, in a sentence.
        leader: A :class:`~consensus.errors.NotLeaderError`'s.
        address: Likewise.
        kind: A :class:`~consensus.errors.CommandFailedError`'s.
        detail: Likewise.
        first_index: A :class:`~consensus.errors.CompactedError`'s.
    """

    code: str = ""
    message: str = ""
    leader: str | None = None
    address: str = ""
    kind: str = ""
    detail: str = ""
    first_index: int = 0


_write_report = msgspec.json.Encoder().encode
_read_report = msgspec.json.Decoder(ErrorReport).decode


def encode_error(error: RaftError) -> tuple[bytes, bytes]:
    """Return the code and the description of *error* for an AMP error."""
    if not error.fields:
        return _encode_plain(error.code, str(error))
    fields = {name: _presentable(getattr(error, name)) for name in error.fields}
    report = ErrorReport(error.code, _presentable(str(error)), **fields)
    return error.code.encode("ascii"), _write_report(report)


# Under load the same refusal is sent over and over.
@lru_cache(maxsize=16)
def _encode_plain(code: str, message: str) -> tuple[bytes, bytes]:
    """Return the like for an error that is no more than its message."""
    report = ErrorReport(code, _presentable(message))
    return code.encode("ascii"), _write_report(report)


def _presentable(value: Any) -> Any:
    """Return *value*; text without what UTF-8 cannot say, and not too long."""
    if not isinstance(value, str):
        return value
    return value[:_MAX_TEXT].encode("utf-8", "replace").decode()


def decode_error(code: bytes, description: bytes) -> RaftError:
    """Return the error that another server reported; any bytes will do."""
    try:
        report = _read_report(description)
    # msgspec's own errors are ValueErrors, and so is that of bad UTF-8.
    except (ValueError, RecursionError):
        report = ErrorReport(message=description.decode("utf-8", "replace"))
    fields = msgspec.structs.asdict(report)
    text = code.decode("ascii", "replace")
    return error_from_code(text, fields.pop("message"), fields)
