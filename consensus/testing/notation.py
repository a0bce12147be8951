"""
Messages, entries and events in words, one short line each.

An entry is written with its index and its term: ``4.2`` is entry 4, of term 2.
"""

from __future__ import annotations

from functools import singledispatch
from typing import TYPE_CHECKING, Any

from consensus.core import ready
from consensus.core.membership import Membership
from consensus.core.messages import (
    AppendEntries,
    AppendEntriesResponse,
    InstallSnapshot,
    InstallSnapshotResponse,
    RequestPreVote,
    RequestPreVoteResponse,
    RequestReadIndex,
    RequestReadIndexResponse,
    RequestVote,
    RequestVoteResponse,
)
from consensus.core.values import Entry, EntryKind, Role

if TYPE_CHECKING:
    from collections.abc import Iterable

    from consensus.core.messages import Message
    from consensus.core.values import LogIndex, ServerId, SnapshotMeta, Term


def message(to: ServerId, sent: Message) -> str:
    """Return *sent*, which goes to the server *to*."""
    rest = _details(sent)
    line = f"{sent.sender}→{to} {type(sent).__name__} term {sent.term}"
    return f"{line}, {rest}" if rest else line


def place(index: LogIndex, term: Term) -> str:
    """Return the place of an entry in the log."""
    return f"{index}.{term}"


def places(log: Iterable[tuple[LogIndex, Term]]) -> str:
    """Return the places of several."""
    return " ".join(place(*each) for each in log) or "nothing"


def entry(one: Entry) -> str:
    """Return *one*, with what it says unless that is its place."""
    where = place(one.index, one.term)
    match one.kind:
        case EntryKind.NOOP:
            return f"{where} no-op"
        case EntryKind.MEMBERSHIP:
            return f"{where} members {members(Membership.decode(one.command))}"
    what = one.command.decode(errors="backslashreplace")
    return where if what == where else f"{where} {what}"


def entries(several: Iterable[Entry]) -> str:
    """Return *several*, or that there are none."""
    return ", ".join(map(entry, several)) or "nothing"


def members(membership: Membership) -> str:
    """Return who votes, who did, who learns, and who is waited for."""
    text = " ".join(sorted(membership.voters)) or "nobody"
    if membership.is_joint:
        text = f"{' '.join(sorted(membership.outgoing))} and {text}"
    if membership.learners:
        text += f" + {' '.join(sorted(membership.learners))}"
    if membership.target:
        text += f" until {' '.join(sorted(membership.target))}"
    return text


def snapshot(meta: SnapshotMeta) -> str:
    """Return the last entry that *meta* covers."""
    return f"snapshot {place(meta.index, meta.term)}"


def event(happened: ready.Event) -> str | None:
    """Return what a server does; ``None`` if its commit index says it as well."""
    match happened:
        case ready.RoleChanged(Role.LEADER, term, _):
            return f"leads in term {term}"
        case ready.RoleChanged(Role.FOLLOWER, term, leader) if leader:
            return f"follows {leader} in term {term}"
        case ready.RoleChanged(role, term, _):
            return f"is {role.value} in term {term}"
        case ready.MembershipChanged(membership):
            return f"has members {members(membership)}"
        case ready.TransferFailed(target):
            return f"gives up the transfer to {target}"
    return None


@singledispatch
def _details(sent: Any) -> str:
    """Return what *sent* says besides its sender and term."""
    del sent
    return ""


@_details.register
def _(sent: RequestPreVote) -> str:
    return f"last {place(sent.last_index, sent.last_term)}"


@_details.register
def _(sent: RequestVote) -> str:
    last = f"last {place(sent.last_index, sent.last_term)}"
    return f"{last}, transfer" if sent.transfer else last


@_details.register(RequestPreVoteResponse)
@_details.register(RequestVoteResponse)
def _(sent: RequestPreVoteResponse | RequestVoteResponse) -> str:
    return "granted" if sent.granted else "denied"


@_details.register
def _(sent: AppendEntries) -> str:
    after = place(sent.prev_index, sent.prev_term)
    text = f"after {after}: {entries(sent.entries)}; commit {sent.commit_index}"
    return _with_round(text, sent.round)


@_details.register
def _(sent: AppendEntriesResponse) -> str:
    if sent.success:
        text = f"matches up to {sent.index}"
    elif sent.index:
        hint = place(sent.hint_index, sent.hint_term)
        text = f"differs at {sent.index}, perhaps not at {hint}"
    else:
        text = "out of date"
    return _with_round(text, sent.round)


def _with_round(text: str, number: int) -> str:
    return f"{text}, round {number}" if number else text


@_details.register
def _(sent: InstallSnapshot) -> str:
    return f"{snapshot(sent.meta)}, chunk {sent.number} of {sent.meta.chunks}"


@_details.register
def _(sent: InstallSnapshotResponse) -> str:
    return f"snapshot {sent.index}, next chunk {sent.next_chunk}"


@_details.register
def _(sent: RequestReadIndex) -> str:
    return f"read {sent.id}"


@_details.register
def _(sent: RequestReadIndexResponse) -> str:
    return f"read {sent.id} at {sent.index}"
