"""Leader election (§3.4) and the restriction on who may win (§3.6.1)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from consensus.core import state as roles
from consensus.core.messages import RequestVote, RequestVoteResponse
from consensus.core.quorum import quorum_size
from consensus.core.values import Role

if TYPE_CHECKING:
    from consensus.core.state import State


def tick(state: State) -> None:
    """Let a tick pass for a follower or candidate (§3.4)."""
    state.elapsed += 1
    if state.elapsed >= state.timeout and state.server in state.membership.voters:
        campaign(state)


def campaign(state: State) -> None:
    """Stand for election in a new term (§3.4)."""
    roles.become_candidate(state)
    request = RequestVote(
        state.server, state.term, state.log.last_index, state.log.last_term
    )
    for peer in state.peers():
        state.reply(peer, request)


def persisted(state: State) -> None:
    """Count a candidate's own vote once it is durable (§3.8)."""
    if state.role is Role.CANDIDATE and state.durable == state.hard_state:
        _count(state, state.server)


def on_request_vote(state: State, message: RequestVote) -> None:
    """
    Vote for the sender if no other has the vote and its log is no older.

    The terms are compared before the indexes (§3.6.1).  The vote is durable
    before the answer leaves, and counts as a sign of life (§3.4).
    """
    ours = (state.log.last_term, state.log.last_index)
    granted = (
        message.term == state.term
        and state.role is Role.FOLLOWER
        and state.hard_state.vote in {None, message.sender}
        and (message.last_term, message.last_index) >= ours
    )
    if granted:
        if state.hard_state.vote is None:
            state.hard_state = replace(state.hard_state, vote=message.sender)
        roles.restart_timer(state)
    answer = RequestVoteResponse(state.server, state.term, granted)
    state.reply(message.sender, answer)


def on_response(state: State, message: RequestVoteResponse) -> None:
    """Count a vote; lead when a majority of the voters has granted theirs."""
    if message.granted and message.sender in state.membership.voters:
        _count(state, message.sender)


def _count(state: State, voter: str) -> None:
    state.votes.add(voter)
    if len(state.votes) >= quorum_size(state.membership.voters):
        roles.become_leader(state)
