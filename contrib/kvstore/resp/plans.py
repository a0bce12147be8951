"""
What a command of Redis asks of the store, and what its client is told then.

A function for each command turns its words into a :class:`Plan`, or into the
reply itself if the store is not asked.  What is wrong with the words is raised
as a :class:`RefusedError`, in Redis' words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from consensus.errors import (
    CommandFailedError,
    InvalidCommandError,
    OutcomeUnknownError,
    RejectedError,
)
from contrib.kvstore.answers import Failure
from contrib.kvstore.commands import Op, Txn
from contrib.kvstore.resp.replies import Error, Reply
from contrib.kvstore.values import MAX_KEY_BYTES, MAX_MANY

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import msgspec

_OPS = get_args(Op)

_INTEGER = re.compile(rb"0|-?[1-9][0-9]{0,18}")
_LEAST, _MOST = -(1 << 63), (1 << 63) - 1

SYNTAX = "ERR syntax error"
NOT_AN_INTEGER = "ERR value is not an integer or out of range"

# What the machine raises, in Redis' words.
_FAILURES = {
    "NotAnIntegerError": NOT_AN_INTEGER,
    "NotANumberError": "ERR value is not a valid float",
    "IncrementOverflowError": "ERR increment or decrement would overflow",
    "ValueTooLargeError": (
        "ERR string exceeds maximum allowed size (proto-max-bulk-len)"
    ),
}


class RefusedError(Exception):
    """A command cannot be done; what it says is the reply."""


@dataclass(frozen=True, slots=True)
class Plan:
    """
    What a command comes to.

    Args:
        operations: What the store is asked for, in this order and at once.
        answer: Makes a reply of as many results.
        writes: Does it enter the log?
        consistency: Of a read, if it has to be a certain one.
    """

    operations: tuple[msgspec.Struct, ...]
    answer: Callable[..., Reply]
    writes: bool = True
    consistency: str | None = None

    @property
    def command(self) -> msgspec.Struct:
        """Return all of it as one command, or query."""
        first = self.operations[0]
        is_one = len(self.operations) == 1
        if is_one and (not self.writes or isinstance(first, _OPS)):
            return first
        operations: list[Any] = [*self.operations]
        return Txn([], operations)

    def reply(self, result: Any) -> Reply:
        """Return what to say to the *result* of :attr:`command`."""
        if isinstance(result, Exception):
            return Error(text_of(result))
        first = self.operations[0]
        is_one = len(self.operations) == 1
        if is_one and (not self.writes or isinstance(first, _OPS)):
            return self.answer(result)
        return self.reply_to(result.results)

    def reply_to(self, results: Sequence[Any]) -> Reply:
        """Return what to say to the results of all operations, in a transaction."""
        for each in results:
            if type(each) is Failure:
                return Error(_failed(each.kind, each.detail))
        return self.answer(*results)


def text_of(error: Exception) -> str:
    """Return what a client is told of *error*."""
    match error:
        case CommandFailedError():
            text = _failed(error.kind, error.detail)
        case InvalidCommandError():
            text = f"ERR {error}"
        case RejectedError():
            text = f"TRYAGAIN nothing was done: {error}"
        case OutcomeUnknownError():
            text = (
                "OUTCOMEUNKNOWN this may have been done, or may yet be, once:"
                f" {error or error.code}"
            )
        case _:
            text = f"ERR {type(error).__name__}: {error}"
    return text


def _failed(kind: str, detail: str) -> str:
    return _FAILURES.get(kind) or f"ERR {detail or kind}"


def integer(word: bytes, complaint: str = NOT_AN_INTEGER) -> int:
    """
    Return the whole number of 64 bits that *word* is.

    Raises:
        RefusedError: It is none.
    """
    if _INTEGER.fullmatch(word):
        number = int(word)
        if _LEAST <= number <= _MOST:
            return number
    raise RefusedError(complaint)


def name(word: bytes) -> str:
    """Return *word*, a command or an option, as text for a message."""
    return word.decode("utf-8", "backslashreplace")


def key(word: bytes) -> bytes:
    """
    Return *word* if a key can be called so.

    Raises:
        RefusedError: It cannot.
    """
    if 0 < len(word) <= MAX_KEY_BYTES:
        return word
    message = f"ERR a key has 1 to {MAX_KEY_BYTES} bytes, not {len(word)}"
    raise RefusedError(message)


def keys(words: list[bytes]) -> list[bytes]:
    """
    Return *words* if keys can be called so, and there are not too many.

    Raises:
        RefusedError: They cannot, or there are.
    """
    if len(words) > MAX_MANY:
        message = f"ERR one command has at most {MAX_MANY} keys, not {len(words)}"
        raise RefusedError(message)
    return [key(word) for word in words]


def miscounted(command: str) -> str:
    """Return what is said of *command* with too few words, or too many."""
    return f"ERR wrong number of arguments for '{command}' command"
