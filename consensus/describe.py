"""
Entries as text: what each of them says, decoded by whom it is for.

Nothing here fails: an entry that cannot be decoded is shown as its bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from consensus.applying.agreements import claim_of, time_of, upgrade_of
from consensus.core.membership import Membership
from consensus.core.values import EntryKind
from consensus.errors import RaftError
from consensus.sessions import Operation, command_of, numbers_of, read_entry

if TYPE_CHECKING:
    from collections.abc import Callable

    from consensus.core.values import Entry, LogIndex, Term
    from consensus.interfaces import StateMachine

#: How much is shown of one entry, in characters.
MOST_TEXT = 200

#: And where all of it was asked for.
MOST_OF_ALL = 1 << 20

#: How many of its bytes are shown where it cannot be decoded.
_MOST_BYTES = 48


@dataclass(frozen=True, slots=True)
class Described:
    """
    An entry for people.

    Args:
        index: Its position.
        term: The term of its leader.
        kind: What :class:`.EntryKind` calls it, in small letters.
        size: The bytes of its command.
        name: Of a command: what it is called; else empty.
        text: What it says.
        time: In ms of the log's time, where the entry has one.
        decoded: Whether it could be decoded.
    """

    index: LogIndex
    term: Term
    kind: str
    size: int
    name: str
    text: str
    time: int | None
    decoded: bool


class _Told(NamedTuple):
    """What an entry says; see :class:`Described`."""

    text: str
    name: str = ""
    time: int | None = None
    decoded: bool = True


def kind_name(kind: int) -> str:
    """Return what the *kind* of an entry is called."""
    try:
        return EntryKind(kind).name.lower()
    except ValueError:
        return f"kind {kind}"


def describe(
    entry: Entry, machine: StateMachine | None = None, most: int = MOST_TEXT
) -> Described:
    """
    Return *entry* for people.

    Args:
        entry: It.
        machine: What knows its commands; without one they are shown as bytes.
        most: How many characters the text may have.
    """
    tell = _TELLERS.get(EntryKind(entry.kind)) if entry.kind in _KINDS else None
    try:
        told = _Told(_bytes(entry.command), decoded=False)
        if tell is not None:
            told = tell(entry, machine)
    except RaftError:
        pass  # it is shown as bytes
    return Described(
        entry.index,
        entry.term,
        kind_name(entry.kind),
        len(entry.command),
        told.name,
        cut(told.text, most),
        told.time,
        told.decoded,
    )


def cut(text: str, most: int = MOST_TEXT) -> str:
    """
    Return *text* for a line of a terminal: what cannot be printed, as an escape.

    Of one that is longer than *most* characters, it is the beginning.
    """
    if len(text) > most:
        text = f"{text[: most - 1]}…"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _bytes(data: bytes) -> str:
    shown = repr(data[:_MOST_BYTES])
    return shown if len(data) <= _MOST_BYTES else f"{shown}… ({len(data)} bytes)"


def _noop(entry: Entry, _: StateMachine | None) -> _Told:
    return _Told(f"term {entry.term} begins")


def _command(entry: Entry, machine: StateMachine | None) -> _Told:
    return decoded(entry.command, machine)


def decoded(command: bytes, machine: StateMachine | None) -> _Told:
    """Return what *command* is to *machine*."""
    if machine is None:
        return _Told(_bytes(command), decoded=False)
    try:
        value = machine.decode(command)
        return _Told(repr(value), name_of(value))
    except Exception:  # noqa: BLE001 - of the application; on a server it is the result
        return _Told(_bytes(command), decoded=False)


def name_of(command: Any) -> str:
    """Return what a decoded *command* is called, as far as one can tell."""
    config = getattr(command, "__struct_config__", None)
    if config is not None and isinstance(config.tag, str):
        return config.tag
    name = getattr(command, "name", None)
    if isinstance(command, msgspec.Struct) and isinstance(name, str):
        return cut(name)
    if isinstance(command, list | tuple) and command and isinstance(command[0], str):
        return cut(command[0])
    return type(command).__name__


def _membership(entry: Entry, _: StateMachine | None) -> _Told:
    found = Membership.decode(entry.command)
    parts = [
        f"{what}: {', '.join(sorted(names))}"
        for what, names in (
            ("voters", found.voters),
            ("learners", found.learners),
            ("outgoing", found.outgoing),
            ("target", found.target),
        )
        if names
    ]
    return _Told("; ".join(parts) or "nobody")


def _session(entry: Entry, machine: StateMachine | None) -> _Told:
    operation, time, call = read_entry(entry.index, entry.command)
    numbers = numbers_of(operation, call)
    if operation is Operation.OPEN:
        text = f"session {entry.index} opens, for {numbers[0]} ms without a command"
        return _Told(text, time=time)
    if operation is Operation.CLOSE:
        return _Told(f"session {numbers[0]} closes", time=time)
    inner = decoded(command_of(call), machine)
    text = f"session {numbers[0]}, command {numbers[1]}: {inner.text}"
    return _Told(text, inner.name, time, inner.decoded)


def _version(entry: Entry, _: StateMachine | None) -> _Told:
    return _Told(f"version {upgrade_of(entry.index, entry.command)} from here on")


def _digest(entry: Entry, _: StateMachine | None) -> _Told:
    claim = claim_of(entry.index, entry.command)
    if claim is None:
        return _Told("every server notes its digest")
    return _Told(f"the leader's digest at {claim[0]} was {claim[1].hex()}")


def _time(entry: Entry, _: StateMachine | None) -> _Told:
    time = time_of(entry.index, entry.command)
    return _Told(f"it is {time} ms", time=time)


_TELLERS: dict[EntryKind, Callable[[Entry, StateMachine | None], _Told]] = {
    EntryKind.NOOP: _noop,
    EntryKind.COMMAND: _command,
    EntryKind.MEMBERSHIP: _membership,
    EntryKind.SESSION: _session,
    EntryKind.VERSION: _version,
    EntryKind.DIGEST: _digest,
    EntryKind.TIME: _time,
}
_KINDS = frozenset(map(int, _TELLERS))
