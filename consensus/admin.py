"""What an operator asks of a whole cluster; ``raft status`` and the like print it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec
from twisted.internet.defer import gatherResults

from consensus.errors import (
    InvalidChangeError,
    InvalidCommandError,
    ProtocolError,
    RaftError,
    UnreachableError,
)
from consensus.shell.events import EventPage, EventQuery
from consensus.shell.inspection import Explanation
from consensus.shell.log_pages import PageRequest, read_page
from consensus.shell.members import Addition, Change
from consensus.telemetry.peers import LeaderView

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from twisted.internet.defer import Deferred
    from twisted.python.failure import Failure

    from consensus.client import Client
    from consensus.core.values import Address, Entry, LogIndex, ServerId, Status
    from consensus.shell.log_pages import LogPage

_encode = msgspec.msgpack.Encoder().encode


@dataclass(frozen=True, slots=True)
class Report:
    """
    What one member said when it was asked how it is.

    Args:
        server: The member.
        address: Where it was asked.
        status: Its answer; ``None`` if there was none.
        error: Why there was none.
        standing: ``voter``, ``learner``, ``joining`` (a learner that will vote
            when it has caught up), ``leaving`` (a voter that will be none),
            ``none`` (no member any more, or not yet); empty if unknown.
    """

    server: ServerId
    address: Address
    status: Status | None
    error: str = ""
    standing: str = ""


@dataclass(frozen=True, slots=True)
class Census:
    """
    Who belongs to a cluster, as far as those who answered know.

    Args:
        newest: Of the answers, that with the newest membership; ``None``
            without any.
        members: A report of each member, in the order of their names.
        others: Reports of those who were asked and do not belong to it.
    """

    newest: Status | None
    members: list[Report]
    others: list[Report]

    @property
    def leader(self) -> ServerId | None:
        """Return who leads, as far as the answers tell."""
        return find_leader([*self.members, *self.others])


def survey(
    cluster: Client, members: Mapping[ServerId, Address], timeout: float
) -> Deferred[list[Report]]:
    """
    Ask all *members* at once how they are; return their answers in order.

    A member that does not answer within *timeout* seconds holds up nobody
    for longer, and is reported without a status.
    """
    asked = [
        _ask(cluster, server, address, timeout) for server, address in members.items()
    ]
    return gatherResults(asked, consumeErrors=True)


async def census(
    cluster: Client,
    members: Mapping[ServerId, Address],
    endpoints: Iterable[Address],
    patience: float,
) -> Census:
    """
    Find out who belongs to the cluster now, and ask them all how they are.

    Args:
        cluster: The way to it.
        members: Who is known to begin with.
        endpoints: Where else members may be found.
        patience: Seconds for each round of questions; there are two, or three
            if those who are known do not know each other.
    """
    wanted = {address: address for address in endpoints}
    wanted |= {address: name for name, address in members.items()}
    known: dict[Address, Report] = {}
    while missing := {n: a for a, n in wanted.items() if a not in known}:
        for report in await survey(cluster, missing, patience):
            known[report.address] = report
        newest = _newest(known.values())
        if newest is not None:
            wanted |= {a: n for n, a in _everybody(newest).items() if a not in known}
    return _sorted_out(members, known, _newest(known.values()))


def reports_of(counted: Census) -> list[Report]:
    """Return all reports of *counted*: of members, and of the others asked."""
    return [*counted.members, *counted.others]


def _sorted_out(
    members: Mapping[ServerId, Address],
    known: Mapping[Address, Report],
    newest: Status | None,
) -> Census:
    belonging = {} if newest is None else _everybody(newest)
    found = [
        replace(
            _report_of(name, address, known[address]), standing=_standing(name, newest)
        )
        for name, address in sorted(belonging.items())
        if newest is not None
    ]
    standing = "none" if belonging else ""
    others = [
        replace(known[address], standing=standing)
        for name, address in members.items()
        if name not in belonging
    ]
    return Census(newest, found, others)


def _report_of(name: ServerId, address: Address, report: Report) -> Report:
    """Return *report*, of who was found at *address*, as one of *name*."""
    status = report.status
    if status is not None and status.server != name:
        return Report(name, address, None, f"{status.server} answers there")
    return replace(report, server=name)


def _everybody(status: Status) -> dict[ServerId, Address]:
    return status.outgoing | status.learners | status.membership


def _standing(name: ServerId, status: Status) -> str:
    if name in status.membership:
        return "voter"
    if name in status.outgoing:
        return "leaving"
    return "joining" if name in status.target else "learner"


def _newest(reports: Iterable[Report]) -> Status | None:
    """Return what the leader says, or else who has the newest membership."""
    reports = list(reports)
    leader = find_leader(reports)
    answers = [each.status for each in reports if each.status is not None]
    return max(
        answers,
        key=lambda each: (each.server == leader, each.membership_index, each.term),
        default=None,
    )


def add(
    cluster: Client, server: ServerId, address: Address, *, as_learner: bool = False
) -> Deferred[LogIndex]:
    """Add *server* to the cluster; see :meth:`.Members.add`."""
    payload = _encode(Addition(server, address, as_learner))
    return cluster.ask_leader("add", payload).addCallback(_read_index)


def promote(cluster: Client, server: ServerId) -> Deferred[LogIndex]:
    """Let a learner vote; see :meth:`.Members.promote`."""
    return cluster.ask_leader("promote", server.encode()).addCallback(_read_index)


def remove(cluster: Client, server: ServerId) -> Deferred[LogIndex]:
    """Remove a member; see :meth:`.Members.remove`."""
    return cluster.ask_leader("remove", server.encode()).addCallback(_read_index)


def change_membership(
    cluster: Client,
    voters: Mapping[ServerId, Address],
    learners: Mapping[ServerId, Address],
    expected_index: LogIndex | None = None,
) -> Deferred[LogIndex]:
    """Change the whole membership; see :meth:`.Members.change`."""
    payload = _encode(Change(dict(voters), dict(learners), expected_index))
    return cluster.ask_leader("change_membership", payload).addCallback(_read_index)


def snapshot(cluster: Client, address: Address) -> Deferred[tuple[LogIndex, int]]:
    """
    Let the server at *address* take a snapshot; return its index and bytes.

    The Deferred fails as that of :meth:`.RaftServer.snapshot`.
    """
    return cluster.ask_server(address, "snapshot", b"").addCallback(_read_snapshot)


def events(
    cluster: Client, address: Address, query: EventQuery, patience: float
) -> Deferred[EventPage]:
    """
    Ask the server at *address* what happened there; see :meth:`.Events.wait`.

    Args:
        cluster: The way to it.
        address: Where it listens.
        query: What to ask for.
        patience: Seconds to wait for the answer, besides those of *query*.

    The Deferred fails with what kept the server from answering.
    """
    asked = cluster.ask_server(address, "events", _encode(query), query.wait + patience)
    return asked.addCallback(_decoded, EventPage)


def compact(cluster: Client, address: Address, keep: int) -> Deferred[LogIndex]:
    """
    Let the server at *address* drop what its snapshot covers.

    Returns:
        The first entry that its log still has; see :meth:`.Inspection.compact`.
    """
    return cluster.ask_server(address, "compact", _encode(keep)).addCallback(
        _read_index
    )


def explain(
    cluster: Client, address: Address, index: LogIndex
) -> Deferred[Explanation]:
    """Ask the server at *address* what became of an entry there."""
    asked = cluster.ask_server(address, "explain", _encode(index))
    return asked.addCallback(_decoded, Explanation)


@dataclass(frozen=True, slots=True)
class Story:
    """
    What became of one entry, at every member that was asked.

    Args:
        index: The entry.
        entry: What it is; ``None`` if no log has it any more.
        leader: Who proposed it, if anybody remembers.
        is_compacted: A snapshot covers it, and no log has it.
        members: What each said of it, or why it said nothing.
    """

    index: LogIndex
    entry: Entry | None
    leader: ServerId | None
    is_compacted: bool
    members: list[tuple[Report, Explanation | str]]


async def tell(cluster: Client, members: Iterable[Report], index: LogIndex) -> Story:
    """
    Ask *members* what became of an entry.

    Raises:
        InvalidCommandError: No log reaches so far.
        UnreachableError: No member has answered.
    """
    answers = await gatherResults(
        [_explained(cluster, each, index) for each in members]
    )
    found = [each for _, each in answers if isinstance(each, Explanation)]
    if not found:
        message = (
            "; ".join(str(each) for _, each in answers) or "there is nobody to ask"
        )
        raise UnreachableError(message)
    if not any(each.appended.is_done for each in found):
        message = f"no log has an entry {index} yet"
        raise InvalidCommandError(message)
    entry = await _entry(cluster, answers, index)
    term = entry.term if entry else 0
    leaders = [each.leader for each in found if term and each.term == term]
    is_compacted = entry is None and any(each.is_compacted for each in found)
    leader = next(filter(None, leaders), None)
    return Story(index, entry, leader, is_compacted, answers)


def _explained(
    cluster: Client, report: Report, index: LogIndex
) -> Deferred[tuple[Report, Explanation | str]]:
    def failed(failure: Failure) -> tuple[Report, str]:
        failure.trap(RaftError)
        return report, str(failure.value)

    asked = explain(cluster, report.address, index)
    return asked.addCallbacks(lambda found: (report, found), failed)


async def _entry(
    cluster: Client,
    answers: Iterable[tuple[Report, Explanation | str]],
    index: LogIndex,
) -> Entry | None:
    """Return the entry from a log that has it, a committed one first."""
    holders = [
        (report, found)
        for report, found in answers
        if isinstance(found, Explanation) and found.term
    ]
    holders.sort(key=lambda each: not each[1].committed.is_done)
    for report, _ in holders:
        try:
            page = await log_page(cluster, report.address, index, 1)
        except RaftError:
            continue
        for entry in page.as_entries():
            if entry.index == index:
                return entry
    return None


def log_page(
    cluster: Client, address: Address, first: LogIndex, limit: int
) -> Deferred[LogPage]:
    """
    Return some entries of the log of the server at *address*.

    Args:
        cluster: The way to it.
        address: Where it listens.
        first: The first that is wanted; one that the log has not any more
            stands for the first that it has.
        limit: How many, at most :data:`.log_pages.MAX_ENTRIES`; a page is
            bounded in bytes, too, so that fewer may come.
    """
    payload = _encode(PageRequest(first, limit))
    return cluster.ask_server(address, "log", payload).addCallback(read_page)


def leader_view(cluster: Client) -> Deferred[LeaderView]:
    """Return what the leader knows of its peers, and of its latest writes."""
    answer = cluster.ask_leader("leader_view", b"")
    return answer.addCallback(_decoded, LeaderView)


async def transfer(cluster: Client, target: ServerId | None) -> ServerId:
    """
    Let the leader hand over to *target*, or to whom it sees fit.

    A *target* that leads already is what was wanted, and no failure.

    Returns:
        The new leader.

    Raises:
        RaftError: What :meth:`.RaftServer.transfer` fails with.
    """
    try:
        answer = await cluster.ask_leader("transfer", (target or "").encode())
    except InvalidChangeError:
        if target is None or (await leader_view(cluster)).server != target:
            raise
        return target
    return answer.decode()


def find_leader(reports: Iterable[Report]) -> ServerId | None:
    """
    Return who leads, as far as *reports* can tell.

    One that claims to lead is not believed when somebody knows of a newer
    term: it has been deposed and has not heard of it (§6.4).
    """
    answers = [report.status for report in reports if report.status is not None]
    newest = max((status.term for status in answers), default=0)
    for status in answers:
        if status.role == "leader" and status.term == newest:
            return status.server
    return None


def _ask(
    cluster: Client, server: ServerId, address: Address, timeout: float
) -> Deferred[Report]:
    def failed(failure: Failure) -> Report:
        failure.trap(RaftError)
        return Report(server, address, None, str(failure.value))

    return cluster.status_at(address, timeout).addCallbacks(
        lambda status: Report(server, address, status), failed
    )


def _read_index(payload: bytes) -> LogIndex:
    index: LogIndex = _decoded(payload, int)
    return index


def _read_snapshot(payload: bytes) -> tuple[LogIndex, int]:
    found: tuple[LogIndex, int] = _decoded(payload, tuple[int, int])
    return found


def _decoded(payload: bytes, kind: Any) -> Any:
    """
    Return the *kind* that *payload* is.

    Raises:
        ProtocolError: It is none; what was asked for is done.
    """
    try:
        return msgspec.msgpack.decode(payload, type=kind)
    except (ValueError, RecursionError) as error:
        message = f"it was done, but the server's answer cannot be read: {error}"
        raise ProtocolError(message) from error
