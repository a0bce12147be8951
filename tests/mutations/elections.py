"""Bugs of elections, and of what keeps a leader in its office."""

from __future__ import annotations

from tests.mutations.mutation import Mutation, paper, scenario

ELECTION = "consensus/core/election.py"
RAFT = "consensus/core/raft.py"
STATE = "consensus/core/state.py"
REPLICATION = "consensus/core/replication.py"
QUORUM = "consensus/core/quorum.py"
TRANSFER = "consensus/core/transfer.py"

MUTATIONS = (
    # --- terms and votes -------------------------------------------------
    Mutation(
        "stale-term-accepted",
        "3.3",
        RAFT,
        "        if message.term < state.term:\n",
        "        if message.term < state.term - 1:\n",
        "A deposed leader's entries replace those of the present one.",
        (
            paper("3_3_terms", "StaleTests::test_a_stale_leader_is_refused_and_told"),
            paper(
                "3_4_election", "LosingTests::test_a_leader_of_an_older_term_does_not"
            ),
            scenario("transfer"),
        ),
        schedules=True,
    ),
    Mutation(
        "newer-term-ignored-by-leader",
        "3.3",
        RAFT,
        "        if message.term > state.term:\n",
        "        if message.term > state.term and state.role is not Role.LEADER:\n",
        "A deposed leader goes on, and nobody can tell it.",
        (
            paper(
                "3_3_terms",
                "TermTests::test_a_leader_whose_term_is_out_of_date_follows[AppendEntries]",
            ),
            scenario("leader-change-with-reads"),
        ),
        schedules=True,
    ),
    Mutation(
        "majority-of-half",
        "3.4",
        QUORUM,
        "len(voters) // 2 + 1",
        "(len(voters) + 1) // 2",
        "Two of four elect a leader, and the other two another.",
        (
            paper("3_4_election", "WinningTests::test_half_does_not"),
            scenario("split-vote"),
        ),
        schedules=True,
    ),
    Mutation(
        "vote-granted-twice",
        "3.4",
        ELECTION,
        "        and state.hard_state.vote in {None, message.sender}\n",
        "",
        "Two leaders in one term.",
        (
            paper(
                "3_4_election",
                "WinningTests::test_a_server_votes_for_one_candidate_a_term_first_come_first_served",
            ),
            scenario("lost-vote"),
        ),
        schedules=True,
    ),
    Mutation(
        "votes-not-reset",
        "3.4",
        STATE,
        "    state.votes.clear()\n    restart_timer(state)\n    _announce(state)\n",
        "    restart_timer(state)\n    _announce(state)\n",
        "Votes of an earlier term elect a leader in this one.",
        (
            paper(
                "3_4_election",
                "WinningTests::test_votes_are_counted_in_the_term_they_were_granted_in",
            ),
        ),
        schedules=True,
    ),
    Mutation(
        "timer-reset-by-any-newer-term",
        "3.4",
        STATE,
        "    if leader is not None or state.role is not Role.FOLLOWER:\n",
        "    if True:\n",
        "A server with an old log that stands again and again keeps others from it.",
        (
            paper(
                "3_4_election",
                "TimeoutTests::test_a_refused_candidate_of_a_newer_term_does_not_restart_it",
            ),
        ),
    ),
    Mutation(
        "index-before-term",
        "3.6.1",
        ELECTION,
        "    ours = (state.log.last_term, state.log.last_index)\n"
        "    return (message.last_term, message.last_index) >= ours\n",
        "    ours = (state.log.last_index, state.log.last_term)\n"
        "    return (message.last_index, message.last_term) >= ours\n",
        "A long log of an old term wins, and committed entries are lost.",
        (
            paper(
                "3_6_safety",
                "ElectionRestrictionTests::test_a_longer_log_of_an_older_term_does_not_win",
            ),
            scenario("figure-7"),
        ),
    ),
    Mutation(
        "any-log-may-win",
        "3.6.1",
        ELECTION,
        "        and _is_up_to_date(state, message)\n",
        "",
        "A leader without committed entries, which are lost.",
        (
            paper(
                "3_6_safety",
                "ElectionRestrictionTests::test_a_longer_log_of_an_older_term_does_not_win",
            ),
            scenario("figure-8-committed"),
        ),
        schedules=True,
    ),
    Mutation(
        "vote-not-persisted",
        "3.8",
        RAFT,
        "        if self.state.hard_state == self._handed_out:\n",
        "        if self.state.hard_state.term == self._handed_out.term:\n",
        "After a restart a server votes again: two leaders in one term.",
        (
            paper(
                "3_8_persisted_state",
                "TermAndVoteTests::test_a_vote_in_a_term_that_was_known_before_is_persisted",
            ),
        ),
        schedules=True,
    ),
    Mutation(
        "vote-sent-before-durable",
        "3.8",
        STATE,
        "self.durable == self.hard_state and index <= self.log.stable_index",
        "index <= self.log.stable_index",
        "A crash takes back a vote that was counted.",
        (
            paper(
                "3_8_persisted_state",
                "TermAndVoteTests::test_a_vote_is_durable_before_it_is_given",
            ),
            scenario("lost-vote"),
        ),
        schedules=True,
    ),
    Mutation(
        "own-vote-before-durable",
        "3.8",
        ELECTION,
        "    if state.role is Role.CANDIDATE and state.durable == state.hard_state:\n",
        "    if state.role is Role.CANDIDATE:\n",
        "A lone voter leads a term that it forgets in a crash, and leads it again.",
        (
            paper(
                "3_8_persisted_state",
                "TermAndVoteTests::test_a_candidate_counts_itself_when_its_own_vote_is_durable",
            ),
        ),
    ),
    # --- a stable leader ------------------------------------------------------
    Mutation(
        "no-loyalty",
        "4.2.3",
        RAFT,
        "        if _disturbs(message) and election.is_loyal(state):\n",
        "        if False:\n",
        "A server that was cut off or removed deposes the leader.",
        (paper("4_2_3_disruption", "LoyaltyTests::test_it_may_ask_for_ever"),),
    ),
    Mutation(
        "no-check-quorum",
        "6.2",
        REPLICATION,
        "    if not state.membership.is_quorum(alive | {state.server}):\n",
        "    if False:\n",
        "A leader that nobody hears keeps its clients waiting.",
        (
            paper(
                "6_2_check_quorum",
                "SteppingDownTests::test_a_leader_that_hears_nobody_steps_down_within_a_timeout",
            ),
            scenario("check-quorum"),
        ),
    ),
    Mutation(
        "transfer-before-caught-up",
        "3.10",
        TRANSFER,
        "    if progress is not None and progress.match_index =="
        " state.log.last_index:\n",
        "    if progress is not None:\n",
        "The heir cannot win, and the cluster has no leader for a while.",
        (
            paper(
                "3_10_transfer",
                "TransferTests::test_the_target_gets_what_it_lacks_first",
            ),
            scenario("transfer"),
        ),
    ),
    Mutation(
        "writes-during-a-transfer",
        "3.10",
        RAFT,
        "        if heir is not None:\n",
        "        if False:\n",
        "The heir's log is short again, and the transfer fails.",
        (
            paper("3_10_transfer", "TransferTests::test_writes_are_refused_meanwhile"),
            scenario("transfer"),
        ),
    ),
)
