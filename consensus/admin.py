"""What an operator asks of a whole cluster; ``raft status`` and the like print it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from twisted.internet.defer import gatherResults

from consensus.errors import RaftError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from twisted.internet.defer import Deferred
    from twisted.python.failure import Failure

    from consensus.client import Client
    from consensus.core.values import Address, ServerId, Status


@dataclass(frozen=True, slots=True)
class Report:
    """
    What one member said when it was asked how it is.

    Args:
        server: The member.
        address: Where it was asked.
        status: Its answer; ``None`` if there was none.
        error: Why there was none.
    """

    server: ServerId
    address: Address
    status: Status | None
    error: str = ""


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


def transfer(cluster: Client, target: ServerId | None) -> Deferred[ServerId]:
    """
    Let the leader hand over to *target*, or to whom it sees fit.

    The Deferred fires with the new leader; it fails with what
    :meth:`.RaftServer.transfer` fails with.
    """
    answer = cluster.ask_leader("transfer", (target or "").encode())
    return answer.addCallback(bytes.decode)


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

    return cluster.status(server, timeout).addCallbacks(
        lambda status: Report(server, address, status), failed
    )
