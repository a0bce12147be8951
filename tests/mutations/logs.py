"""Bugs of the log, and of reads."""

from __future__ import annotations

from tests.mutations.mutation import Mutation, paper, scenario

RAFT = "consensus/core/raft.py"
LOG = "consensus/core/log.py"
REPLICATION = "consensus/core/replication.py"
READS = "consensus/core/reads.py"
TRANSFER = "consensus/core/transfer.py"

MUTATIONS = (
    # --- the log -----------------------------------------------------------
    Mutation(
        "no-consistency-check",
        "3.5",
        REPLICATION,
        "    return prev_index <= log.last_index and log.term(prev_index)"
        " == message.prev_term\n",
        "    return prev_index <= log.last_index\n",
        "Logs agree at an index and differ before it.",
        (
            paper(
                "3_5_replication",
                "ConsistencyCheckTests::test_a_follower_refuses_what_follows_another_entry",
            ),
            scenario("figure-7-conflicts"),
        ),
    ),
    Mutation(
        "conflict-not-truncated",
        "3.5",
        LOG,
        "            if index > self.last_index or self.term(index) != entry.term:\n",
        "            if index > self.last_index:\n",
        "A follower keeps entries that the leader never had, and applies them.",
        (
            paper(
                "3_5_replication",
                "ConflictTests::test_the_conflicting_entry_and_all_that_follow_are_deleted",
            ),
            scenario("figure-7"),
        ),
        schedules=True,
    ),
    Mutation(
        "late-append-truncates",
        "3.5",
        LOG,
        "        if not fresh:\n            return first\n",
        "        if not fresh:\n            self._truncate(first)\n"
        "            return first\n",
        "An append that arrives late drops acknowledged entries.",
        (
            paper(
                "3_5_replication",
                "ConflictTests::test_entries_that_do_not_conflict_stay",
            ),
        ),
        schedules=True,
    ),
    Mutation(
        "heartbeat-acknowledges-suffix",
        "3.5",
        REPLICATION,
        "    last = message.prev_index + len(entries)\n    skip",
        "    last = message.prev_index + len(entries) if entries else log.last_index\n"
        "    skip",
        "A follower vouches for entries that the leader does not have.",
        (
            paper(
                "3_5_replication",
                "ConsistencyCheckTests::test_a_success_speaks_for_the_log_up_to_the_new_entries",
            ),
            scenario("leader-change-with-reads"),
        ),
    ),
    Mutation(
        "commit-beyond-what-was-checked",
        "3.5",
        REPLICATION,
        "min(message.commit_index, last))\n    _accept",
        "min(message.commit_index, log.last_index))\n    _accept",
        "A follower applies its own entries in place of the leader's.",
        (
            paper(
                "3_5_replication",
                "ConflictTests::test_the_commit_index_stays_within_what_was_checked",
            ),
        ),
    ),
    Mutation(
        "older-term-committed-by-counting",
        "3.6.2",
        REPLICATION,
        "    if index > log.commit_index and log.term(index) == state.term:\n",
        "    if index > log.commit_index:\n",
        "Figure 3.7: a committed entry is replaced.",
        (
            paper(
                "3_6_safety",
                "OlderTermTests::test_are_not_committed_by_counting_replicas",
            ),
            scenario("figure-8"),
        ),
    ),
    Mutation(
        "unsynced-acknowledged",
        "3.8",
        REPLICATION,
        "    state.reply(message.sender, answer, index=index)\n",
        "    state.reply(message.sender, answer)\n",
        "A power cut takes back entries that were counted.",
        (
            paper(
                "3_8_persisted_state",
                "EntryTests::test_a_follower_answers_after_its_sync",
            ),
            scenario("half-written-log"),
        ),
        schedules=True,
    ),
    Mutation(
        "leader-counts-before-its-sync",
        "10.2.1",
        REPLICATION,
        "    reached[state.server] = log.stable_index\n",
        "    reached[state.server] = log.last_index\n",
        "Committed by a majority of which one may lose it.",
        (
            paper(
                "10_2_1_parallel_write",
                "ParallelWriteTests::test_the_leader_counts_itself_when_its_sync_is_done",
            ),
        ),
        schedules=True,
    ),
    Mutation(
        "applied-before-durable",
        "10.2.1",
        RAFT,
        "min(log.commit_index, log.stable_index)",
        "log.commit_index",
        "A state machine on disk is ahead of its server's log.",
        (
            paper(
                "10_2_1_parallel_write",
                "ParallelWriteTests::test_a_follower_applies_only_what_its_own_disk_has",
            ),
        ),
        schedules=True,
    ),
    Mutation(
        "refused-append-retried-blindly",
        "3.5",
        REPLICATION,
        "    progress.probe(next_index)\n",
        "    progress.probe(message.index + 1)\n",
        "A follower whose log differs never catches up.",
        (paper("3_5_replication", "WriteTests::test_it_commits_all_that_precedes_it"),),
        schedules=True,
    ),
    # --- reads --------------------------------------------------------------
    Mutation(
        "read-before-the-no-op",
        "6.4",
        READS,
        "    index = max(state.log.commit_index, state.term_start)\n",
        "    index = state.log.commit_index\n",
        "A new leader answers without writes that were acknowledged before it.",
        (
            paper(
                "6_4_reads",
                "ReadIndexTests::test_not_before_the_no_op_of_the_term_is_committed",
            ),
            scenario("leader-change-with-reads"),
        ),
    ),
    Mutation(
        "read-without-a-round",
        "6.4",
        READS,
        "    last = confirmed(state)\n",
        "    last = state.round\n",
        "A deposed leader answers without the writes of the new one.",
        (
            paper("6_4_reads", "RoundTests::test_a_minority_does_not_confirm"),
            scenario("leader-change-with-reads"),
        ),
    ),
    Mutation(
        "read-confirmed-by-an-earlier-round",
        "6.4",
        READS,
        "        state.round += 1\n        state.round_due = True\n",
        "        state.round_due = True\n",
        "A read is confirmed by an answer that is older than it.",
        (
            paper(
                "6_4_reads",
                "RoundTests::test_a_round_that_began_before_the_read_does_not_confirm_it",
            ),
        ),
    ),
    Mutation(
        "lease-after-a-transfer",
        "6.4.1",
        TRANSFER,
        "    state.may_lease = False\n",
        "    pass\n",
        "A leader reads by its lease while its heir takes writes.",
        (
            paper(
                "6_4_1_leases",
                "TransferTests::test_nor_has_it_one_when_the_transfer_failed",
            ),
        ),
    ),
)
