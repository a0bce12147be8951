"""
How the leader takes the cluster from one membership to the next (§4).

A change of voters is an entry with a joint membership and, when that is
committed, one without the old half (§4.3).  New voters catch up as learners
first (§4.2.1); who is waited for stands in the membership itself, so that the
next leader goes on where this one stopped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from consensus.core import state as roles
from consensus.core import transfer
from consensus.core.values import Entry, EntryKind
from consensus.errors import (
    InvalidChangeError,
    MembershipPendingError,
    RejectedError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from consensus.core.membership import Membership
    from consensus.core.progress import Progress
    from consensus.core.state import State
    from consensus.core.values import Address, LogIndex, ServerId

#: For how many election timeouts a server that was left out is told so.
_FAREWELL = 4


def begin(
    state: State,
    voters: Mapping[ServerId, Address],
    learners: Mapping[ServerId, Address],
    *,
    expected_index: LogIndex | None = None,
    incarnations: Mapping[ServerId, str] | None = None,
) -> LogIndex:
    """
    Take the first step towards a cluster of *voters* and *learners*.

    Returns:
        The index of the membership in the log; that of the present one when
        there is nothing to change.

    Raises:
        MembershipPendingError: Another change is under way.
        RejectedError: This leader has just begun; ask again.
        InvalidChangeError: There is no such membership, or the present one is
            not at *expected_index*.
    """
    current = state.membership
    if expected_index is not None and expected_index != state.membership_index:
        message = (
            f"the membership has changed: it is that of entry {state.membership_index}"
            f" now, not of {expected_index}; look at it, and ask again"
        )
        raise InvalidChangeError(message)
    _require_none_pending(state, voters)
    caught_up = [name for name in voters if _is_level(state, name)]
    following = current.towards(voters, learners, caught_up)
    if incarnations:
        _lay_down(following, incarnations)
    if following == current:
        return state.membership_index
    return _append(state, following)


def _require_none_pending(state: State, voters: Mapping[ServerId, Address]) -> None:
    current, log = state.membership, state.log
    if log.commit_index < state.term_start:
        # Not before: another leader's change may be in some logs only (§4.1).
        raise RejectedError("this leader has just begun; ask again")
    if current.is_joint or state.membership_index > log.commit_index:
        raise MembershipPendingError("another change of the membership is under way")
    if current.target and not _goes_on(current, voters):
        waited_for = ", ".join(sorted(current.target - current.voters.keys()))
        message = (
            f"{waited_for} must catch up before voting; wait for that, or remove it"
        )
        raise MembershipPendingError(message)


def _goes_on(current: Membership, voters: Mapping[ServerId, Address]) -> bool:
    """Say whether *voters* are those waited for, or wait for fewer of them."""
    names, target = voters.keys(), current.target
    return names == target or current.voters.keys() <= names <= (
        target | current.voters.keys()
    )


def _lay_down(membership: Membership, incarnations: Mapping[ServerId, str]) -> None:
    members = membership.members()
    for name, incarnation in incarnations.items():
        if name in members:
            membership.incarnations[name] = incarnation


def _append(state: State, membership: Membership) -> LogIndex:
    """Make *membership* the leader's latest, with an entry of its own (§4.1)."""
    index = state.log.last_index + 1
    kind = EntryKind.MEMBERSHIP
    state.log.append([Entry(index, state.term, kind, membership.encode())])
    state.replace_memberships(index, [(index, membership)])
    return index


def committed(state: State) -> None:
    """Go on after the commit index has moved (§4.3)."""
    if state.membership_index > state.log.commit_index:
        return
    if state.membership.is_joint:
        _append(state, state.membership.left())
    elif _is_done(state):
        heir = transfer.successor(state)
        if heir is not None and state.transferee is None:
            transfer.begin(state, heir)


def _is_done(state: State) -> bool:
    """Say whether this leader has led a cluster to where it is no voter (§4.2.2)."""
    return (
        state.server not in state.membership.electors()
        and state.membership_index <= state.log.commit_index
    )


def tick(state: State) -> None:
    """Let a tick pass for a leader: who has caught up, who has been told enough."""
    for peer, progress in list(state.progress.items()):
        if progress.leaving and _has_left(state, progress):
            del state.progress[peer]
    membership = state.membership
    if membership.target and not membership.is_joint:
        waiting = membership.target - membership.voters.keys() - {state.server}
        # No short cut: the rounds of all of them have to be counted.
        levels = [_keeps_up(state, name) for name in waiting]
        if all(levels) and _may_promote(state):
            _append(state, membership.promoted())
    elif state.transferee is None and _is_done(state):
        roles.become_follower(state, state.term, None)


def _may_promote(state: State) -> bool:
    newest = max(state.membership_index, state.term_start)
    return newest <= state.log.commit_index and state.transferee is None


def _has_left(state: State, progress: Progress) -> bool:
    told = min(progress.match_index, progress.sent_commit)
    patience = _FAREWELL * state.tuning.election_ticks
    is_over = state.reign - progress.leaving >= patience
    return is_over or told >= state.membership_index


def _is_level(state: State, name: ServerId) -> bool:
    """Say whether *name* is alive and has all that is committed."""
    if name == state.server:
        return True
    progress = state.progress.get(name)
    return (
        progress is not None
        and progress.match_index >= state.log.commit_index
        and state.is_alive(name)
    )


def _keeps_up(state: State, name: ServerId) -> bool:
    """
    Say whether *name* takes what is new in less than an election timeout.

    The log grows meanwhile; so it is asked round by round, each up to where
    the log ended when it began, until one is that short (§4.2.1).
    """
    progress = state.progress[name]
    took = state.reign - progress.goal_set
    if progress.goal and progress.match_index >= progress.goal:
        progress.keeps_up = took <= state.tuning.election_ticks
        progress.goal = 0
    elif took > state.tuning.election_ticks:
        progress.keeps_up = False
    if not progress.goal:
        progress.goal, progress.goal_set = state.log.last_index, state.reign
    return progress.keeps_up and state.is_alive(name)
