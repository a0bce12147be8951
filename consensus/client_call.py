"""One call of a client: what it asks for, and whether it may be made again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from consensus.errors import (
    InvalidChangeError,
    InvalidCommandError,
    MembershipPendingError,
    NotYetError,
    OutcomeUnknownError,
    RejectedError,
    SessionExpiredError,
)

if TYPE_CHECKING:
    from consensus.client_session import Attempts
    from consensus.errors import RaftError


@dataclass(slots=True)
class Call:
    """
    A call, and what became of it so far.

    Args:
        method: See ``docs/reference/protocol.md``.
        payload: What it takes.
        attempts: Learns what became of each.
        is_repeatable: To do it twice does no harm.
        is_for_leader: Ask whoever is taken for the leader first.
        wait: Seconds that a server may take because there is no answer yet.
        pauses: How often it has waited.
        hints: How many servers in a row have named another one.
    """

    method: str
    payload: bytes
    attempts: Attempts
    is_repeatable: bool
    is_for_leader: bool
    wait: float = 0.0
    pauses: int = 0
    hints: int = 0


def may_repeat(error: RaftError, *, is_repeatable: bool) -> bool:
    """Say whether a call that failed with *error* may be made again."""
    if isinstance(
        error, InvalidCommandError | InvalidChangeError | MembershipPendingError
    ):
        return False  # it would be refused again, for the next moments at least
    if isinstance(error, SessionExpiredError | NotYetError):
        return False  # likewise
    if isinstance(error, RejectedError):
        return True
    return is_repeatable and isinstance(error, OutcomeUnknownError)
