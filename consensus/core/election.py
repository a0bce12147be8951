"""
Leader election (§3.4), the restriction on who may win (§3.6.1), and pre-vote.

With pre-vote (§9.6) a server asks whether it could win before it begins a new
term, and whoever hears a leader says no, and ignores elections that it did not
ask for (§4.2.3).  So a server that was cut off, or that can be heard but not
hear, deposes nobody when it comes back.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from consensus.core import state as roles
from consensus.core.messages import (
    RequestPreVote,
    RequestPreVoteResponse,
    RequestVote,
    RequestVoteResponse,
)
from consensus.core.values import Role

if TYPE_CHECKING:
    from consensus.core.messages import TimeoutNow
    from consensus.core.state import State
    from consensus.core.values import ServerId


def tick(state: State) -> None:
    """Let a tick pass for one that does not lead (§3.4)."""
    state.elapsed += 1
    if state.hurry:
        state.hurry -= 1
    if state.elapsed < state.timeout or not state.may_stand():
        return
    if state.tuning.stable_leader:
        _ask_around(state)
    else:
        campaign(state)


def _ask_around(state: State) -> None:
    """Find out whether an election could be won (§9.6)."""
    roles.become_pre_candidate(state)
    request = RequestPreVote(
        state.server, state.term, state.log.last_index, state.log.last_term
    )
    for peer in state.electors():
        state.reply(peer, request)
    _count_pre_vote(state, state.server)


def campaign(state: State, *, is_transfer: bool = False) -> None:
    """Stand for election in a new term (§3.4)."""
    roles.become_candidate(state)
    log = state.log
    request = RequestVote(
        state.server, state.term, log.last_index, log.last_term, is_transfer
    )
    for peer in state.electors():
        state.reply(peer, request)


def persisted(state: State) -> None:
    """Count a candidate's own vote once it is durable (§3.8)."""
    if state.role is Role.CANDIDATE and state.durable == state.hard_state:
        _count(state, state.server)


def is_loyal(state: State) -> bool:
    """
    Say whether a leader is alive as far as this server knows (§4.2.3).

    A leader is loyal to itself: it steps down by itself when it hears no
    majority, and only then.
    """
    if state.pledge:
        return True
    if not state.tuning.stable_leader or state.leader is None:
        return False
    is_heard = state.elapsed < state.tuning.election_ticks
    return is_heard or state.role is Role.LEADER


def on_gone(state: State, peer: ServerId) -> None:
    """
    Look for another leader soon, if that was *peer*, whose process has ended.

    The transport says so, and may be wrong.  So nothing ends here that a lease
    could rest on, and nobody is asked for a vote before a majority has said
    that it, too, hears no leader.
    """
    if state.role is not Role.FOLLOWER or state.leader != peer:
        return
    if not state.tuning.stable_leader:
        return
    if not state.is_lease_possible:
        state.pledge = 0
    roles.become_follower(state, state.term, None)
    state.hurry = state.pledge + state.tuning.election_ticks
    roles.restart_timer(state)


def on_request_pre_vote(state: State, message: RequestPreVote) -> None:
    """
    Say whether the sender could have this server's vote (§9.6).

    The question and the answer bind nobody: no vote is given, no timer begins
    anew.
    """
    granted = _is_up_to_date(state, message)
    answer = RequestPreVoteResponse(state.server, state.term, granted)
    state.reply(message.sender, answer)


def on_pre_vote_response(state: State, message: RequestPreVoteResponse) -> None:
    """Count the answer; stand for election when a majority would grant it."""
    if message.granted and message.sender in state.membership.electors():
        _count_pre_vote(state, message.sender)


def on_request_vote(state: State, message: RequestVote) -> None:
    """
    Vote for the sender if no other has the vote and its log is no older.

    The terms are compared before the indexes (§3.6.1).  The vote is durable
    before the answer leaves, and counts as a sign of life (§3.4).
    """
    granted = (
        state.role in {Role.FOLLOWER, Role.PRE_CANDIDATE}
        and state.hard_state.vote in {None, message.sender}
        and _is_up_to_date(state, message)
    )
    if granted:
        if state.hard_state.vote is None:
            state.hard_state = replace(state.hard_state, vote=message.sender)
        if state.role is Role.PRE_CANDIDATE:
            roles.become_follower(state, state.term, None)
        state.hurry = 0
        roles.restart_timer(state)
    answer = RequestVoteResponse(state.server, state.term, granted)
    state.reply(message.sender, answer)


def on_response(state: State, message: RequestVoteResponse) -> None:
    """Count a vote; lead when a majority of the voters has granted theirs."""
    if message.granted and message.sender in state.membership.electors():
        _count(state, message.sender)


def on_timeout_now(state: State, message: TimeoutNow) -> None:
    """Stand for election at once: the leader wants it so (§3.10)."""
    del message
    if state.server in state.membership.electors():
        campaign(state, is_transfer=True)


def _is_up_to_date(state: State, message: RequestVote | RequestPreVote) -> bool:
    """Say whether the sender's log is no older than this server's (§3.6.1)."""
    ours = (state.log.last_term, state.log.last_index)
    return (message.last_term, message.last_index) >= ours


def _count_pre_vote(state: State, voter: ServerId) -> None:
    state.votes.add(voter)
    if state.membership.is_quorum(state.votes):
        campaign(state)


def _count(state: State, voter: ServerId) -> None:
    state.votes.add(voter)
    if state.membership.is_quorum(state.votes):
        roles.become_leader(state)
