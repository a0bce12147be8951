"""What each role makes of each message (§3.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from consensus.core import election, reads, replication, snapshot
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
    TimeoutNow,
)
from consensus.core.values import Role

if TYPE_CHECKING:
    from collections.abc import Callable

    from consensus.core.messages import Message
    from consensus.core.state import State


def _ignore(state: State, message: Message) -> None:
    """Drop what this server no longer asked, or cannot say, in its role."""


#: What each role makes of each message of the current term.
DISPATCH: dict[tuple[Role, type[Any]], Callable[[State, Any], None]] = {
    (Role.FOLLOWER, RequestPreVote): election.on_request_pre_vote,
    (Role.FOLLOWER, RequestPreVoteResponse): _ignore,
    (Role.FOLLOWER, RequestVote): election.on_request_vote,
    (Role.FOLLOWER, RequestVoteResponse): _ignore,
    (Role.FOLLOWER, TimeoutNow): election.on_timeout_now,
    (Role.FOLLOWER, AppendEntries): replication.on_append,
    (Role.FOLLOWER, AppendEntriesResponse): _ignore,
    (Role.FOLLOWER, InstallSnapshot): snapshot.on_install,
    (Role.FOLLOWER, InstallSnapshotResponse): _ignore,
    (Role.FOLLOWER, RequestReadIndex): _ignore,
    (Role.FOLLOWER, RequestReadIndexResponse): reads.on_read_index,
    (Role.PRE_CANDIDATE, RequestPreVote): election.on_request_pre_vote,
    (Role.PRE_CANDIDATE, RequestPreVoteResponse): election.on_pre_vote_response,
    (Role.PRE_CANDIDATE, RequestVote): election.on_request_vote,
    (Role.PRE_CANDIDATE, RequestVoteResponse): _ignore,
    (Role.PRE_CANDIDATE, TimeoutNow): election.on_timeout_now,
    (Role.PRE_CANDIDATE, AppendEntries): replication.on_append,
    (Role.PRE_CANDIDATE, AppendEntriesResponse): _ignore,
    (Role.PRE_CANDIDATE, InstallSnapshot): snapshot.on_install,
    (Role.PRE_CANDIDATE, InstallSnapshotResponse): _ignore,
    (Role.PRE_CANDIDATE, RequestReadIndex): _ignore,
    (Role.PRE_CANDIDATE, RequestReadIndexResponse): reads.on_read_index,
    (Role.CANDIDATE, RequestPreVote): election.on_request_pre_vote,
    (Role.CANDIDATE, RequestPreVoteResponse): _ignore,
    (Role.CANDIDATE, RequestVote): election.on_request_vote,
    (Role.CANDIDATE, RequestVoteResponse): election.on_response,
    (Role.CANDIDATE, TimeoutNow): _ignore,
    (Role.CANDIDATE, AppendEntries): replication.on_append,
    (Role.CANDIDATE, AppendEntriesResponse): _ignore,
    (Role.CANDIDATE, InstallSnapshot): snapshot.on_install,
    (Role.CANDIDATE, InstallSnapshotResponse): _ignore,
    (Role.CANDIDATE, RequestReadIndex): _ignore,
    (Role.CANDIDATE, RequestReadIndexResponse): _ignore,
    (Role.LEADER, RequestPreVote): election.on_request_pre_vote,
    (Role.LEADER, RequestPreVoteResponse): _ignore,
    (Role.LEADER, RequestVote): election.on_request_vote,
    (Role.LEADER, RequestVoteResponse): _ignore,
    (Role.LEADER, TimeoutNow): _ignore,
    (Role.LEADER, AppendEntries): replication.on_append_as_leader,
    (Role.LEADER, AppendEntriesResponse): replication.on_response,
    (Role.LEADER, InstallSnapshot): snapshot.on_install_as_leader,
    (Role.LEADER, InstallSnapshotResponse): snapshot.on_response,
    (Role.LEADER, RequestReadIndex): reads.on_request_read_index,
    (Role.LEADER, RequestReadIndexResponse): _ignore,
}
