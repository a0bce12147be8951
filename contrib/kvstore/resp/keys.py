"""Redis' commands for keys, whatever their values: ``DEL``, ``SCAN`` and others."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from contrib.kvstore.commands import Delete, DeleteMany, Exists, Scan, Size
from contrib.kvstore.resp.glob import MAX_PATTERN, literal, matcher
from contrib.kvstore.resp.plans import (
    SYNTAX,
    Plan,
    RefusedError,
    integer,
    key,
    keys,
)
from contrib.kvstore.resp.replies import Error, Reply
from contrib.kvstore.values import MAX_KEY_BYTES, MAX_MANY

if TYPE_CHECKING:
    from collections.abc import Callable

    from contrib.kvstore.answers import Page
    from contrib.kvstore.resp.session import Session

_SCANNED = 10

_MOST_CURSORS = 4000


class Cursors:
    """
    Where scans go on, by the number that their clients have.

    A scan has two at the most: the last one that it used may be used again,
    if the answer was lost.

    Args:
        tag: What the numbers of this port have in common: those of another
            server, or of an earlier time, must not be taken for ours.
    """

    def __init__(self, tag: int) -> None:
        self._next = (tag << 32) + 1
        self._places: OrderedDict[int, tuple[bytes, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._places)

    def add(self, after: bytes, before: int) -> int:
        """
        Return a number for *after*; the oldest of too many is forgotten.

        Args:
            after: The key after which to go on.
            before: The number that led there; 0 for none.
        """
        number = self._next
        self._next += 1
        self._places[number] = (after, before)
        if len(self._places) > _MOST_CURSORS:
            self._places.popitem(last=False)
        return number

    def find(self, number: int) -> bytes:
        """
        Return the key after which *number* goes on.

        Raises:
            RefusedError: Nobody knows it any more.
        """
        place = self._places.get(number)
        if place is None:
            raise RefusedError(
                "ERR this cursor is of another server, or too old: begin again with 0"
            )
        after, before = place
        self._places.pop(before, None)
        self._places.move_to_end(number)
        return after


def del_(_: Session, words: list[bytes]) -> Plan:
    """``DEL key ...``."""
    if len(words) == 2:  # noqa: PLR2004 - DEL and the key
        return Plan((Delete(key(words[1])),), int)
    return Plan((DeleteMany(keys(words[1:])),), int)


def exists(session: Session, words: list[bytes]) -> Plan:
    """``EXISTS key ...``."""
    del session
    return Plan((Exists(keys(words[1:])),), int, writes=False)


def type_(_: Session, words: list[bytes]) -> Plan:
    """``TYPE key``."""
    return Plan((Exists([key(words[1])]),), _type, writes=False)


def _type(count: int) -> str:
    return "string" if count else "none"


def dbsize(_: Session, words: list[bytes]) -> Plan:
    """``DBSIZE``."""
    del words
    return Plan((Size(),), int, writes=False)


def keys_(_: Session, words: list[bytes]) -> Plan:
    """``KEYS pattern``."""
    prefix, matches = _pattern(words[1])

    def answer(page: Page) -> Reply:
        if page.more:
            message = (
                f"ERR more than {len(page.items)} keys begin like this pattern; use"
                " SCAN instead"
            )
            return Error(message)
        return [named for named, _, _ in page.items if matches(named)]

    scan = Scan(prefix, limit=MAX_MANY, keys_only=True)
    return Plan((scan,), answer, writes=False)


def _pattern(pattern: bytes) -> tuple[bytes, Callable[[bytes], bool]]:
    prefix = literal(pattern)
    if len(prefix) > MAX_KEY_BYTES or len(pattern) - len(prefix) > MAX_PATTERN:
        message = (
            f"ERR a pattern has at most {MAX_PATTERN} bytes from its first special"
            " one on"
        )
        raise RefusedError(message)
    return prefix, matcher(pattern)


@dataclass(slots=True)
class _ScanOptions:
    """
    What follows the cursor in ``SCAN``.

    Args:
        count: How many keys to look at.
        prefix: What they begin with.
        matches: Which of them are wanted; all if it is ``None``.
        is_empty: Is it none, because of their type?
    """

    count: int = _SCANNED
    prefix: bytes = b""
    matches: Callable[[bytes], bool] | None = None
    is_empty: bool = False

    def take(self, option: bytes, word: bytes) -> None:
        """
        Note *option* with its *word*.

        Raises:
            RefusedError: There is none, or not with this.
        """
        match option.upper():
            case b"COUNT":
                self.count = min(integer(word), MAX_MANY)
            case b"MATCH":
                self.prefix, self.matches = _pattern(word)
            case b"TYPE":
                self.is_empty = word.lower() != b"string"
            case _:
                raise RefusedError(SYNTAX)
        if self.count < 1:
            raise RefusedError(SYNTAX)

    def wanted(self, found: list[bytes]) -> list[bytes]:
        """Return what is wanted of the keys *found*."""
        if self.is_empty:
            return []
        return found if self.matches is None else list(filter(self.matches, found))


def scan(session: Session, words: list[bytes]) -> Plan:
    """``SCAN cursor [MATCH pattern] [COUNT count] [TYPE type]``."""
    cursors = session.port.cursors
    if not words[1].isdigit() or len(words[1]) > 20:  # noqa: PLR2004 - 64 bits
        raise RefusedError("ERR invalid cursor")
    number = int(words[1])
    after = cursors.find(number) if number else None
    if len(words) % 2:
        raise RefusedError(SYNTAX)
    options = _ScanOptions()
    for option, word in zip(words[2::2], words[3::2], strict=True):
        options.take(option, word)

    def answer(page: Page) -> Reply:
        found = [named for named, _, _ in page.items]
        next_one = cursors.add(found[-1], number) if page.more else 0
        return [b"%d" % next_one, options.wanted(found)]

    query = Scan(options.prefix, after=after, limit=options.count, keys_only=True)
    return Plan((query,), answer, writes=False)


def touch(session: Session, words: list[bytes]) -> Plan:
    """``TOUCH key ...``: there is no idle time, but how many are there can be said."""
    return exists(session, words)
