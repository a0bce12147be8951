"""Bugs of the membership, of snapshots and sessions."""

from __future__ import annotations

from tests.mutations.mutation import Mutation, paper, scenario

STATE = "consensus/core/state.py"
CHANGES = "consensus/core/changes.py"
MEMBERSHIP = "consensus/core/membership.py"
SNAPSHOT = "consensus/core/snapshot.py"

MUTATIONS = (
    # --- membership -------------------------------------------------------------
    Mutation(
        "joint-commit-by-one-half",
        "4.3",
        MEMBERSHIP,
        "        if self.outgoing:\n            index = min(",
        "        if False:\n            index = min(",
        "The old half elects a leader without what the new one has committed.",
        (
            paper("4_3_joint_consensus", "CommitmentTests::test_both_are_enough"),
            scenario("grow"),
        ),
    ),
    Mutation(
        "joint-election-by-one-half",
        "4.3",
        MEMBERSHIP,
        "            not self.outgoing or _is_majority(self.outgoing, servers)\n",
        "            True\n",
        "Each half elects a leader of its own.",
        (
            paper(
                "4_3_joint_consensus",
                "ElectionTests::test_one_majority_elects_nobody[silent0]",
            ),
        ),
    ),
    Mutation(
        "learners-counted",
        "4.2.1",
        MEMBERSHIP,
        "        index = quorum_index(self.voters, reached)\n",
        "        index = quorum_index(self.voters | self.learners, reached)\n",
        "Committed by servers whose votes nobody asks for.",
        (
            paper(
                "4_2_1_catching_up",
                "AvailabilityTests::test_the_new_server_does_not_count_while_it_lacks_the_log",
            ),
            scenario("learner"),
        ),
        schedules=True,
    ),
    Mutation(
        "membership-not-rolled-back",
        "4.1",
        STATE,
        "        kept = [each for each in self.memberships if each[0] < first]\n",
        "        kept = list(self.memberships)\n",
        "A server goes by a membership that never was committed.",
        (
            paper(
                "4_1_safety",
                "LatestTests::test_and_the_one_before_when_that_is_removed",
            ),
        ),
    ),
    Mutation(
        "two-changes-at-once",
        "4.1",
        CHANGES,
        "    if current.is_joint or state.membership_index > log.commit_index:\n",
        "    if current.is_joint:\n",
        "Two memberships without a common majority.",
        (paper("4_1_safety", "OneAtATimeTests::test_not_before"),),
    ),
    Mutation(
        "change-before-the-no-op",
        "4.1",
        CHANGES,
        "    if log.commit_index < state.term_start:\n",
        "    if log.commit_index < 0:\n",
        "Changes of two leaders without a common majority.",
        (
            paper(
                "4_1_safety",
                "OneAtATimeTests::test_nor_before_the_leader_has_committed_an_entry_of_its_term",
            ),
        ),
    ),
    Mutation(
        "promoted-before-caught-up",
        "4.2.1",
        CHANGES,
        "    return progress.keeps_up and state.is_alive(name)\n",
        "    return state.is_alive(name)\n",
        "Commits wait for a voter that has hardly begun.",
        (
            paper("4_2_1_catching_up", "RoundTests::test_long_ones_do_not"),
            scenario("grow"),
        ),
    ),
    Mutation(
        "removed-leader-stays",
        "4.2.2",
        CHANGES,
        "        state.server not in state.membership.electors()\n",
        "        state.server in ()\n",
        "A server that belongs to no cluster leads it for ever.",
        (
            paper(
                "4_2_2_removing_the_leader",
                "LeadingTests::test_it_gives_up_its_office_then",
            ),
            scenario("shrink"),
        ),
    ),
    # --- snapshots and sessions ---------------------------------------------------
    Mutation(
        "snapshot-over-newer-entries",
        "5.3",
        SNAPSHOT,
        "    if meta.index <= log.commit_index or log.term(meta.index) == meta.term:\n",
        "    if meta.index <= log.commit_index:\n",
        "A late snapshot takes back entries that were acknowledged.",
        (
            paper(
                "5_log_compaction",
                "InstallTests::test_what_follows_is_retained_though_none_is_known_to_be_committed",
            ),
        ),
    ),
    Mutation(
        "snapshot-acknowledged-before-durable",
        "5.3",
        SNAPSHOT,
        "min(receiving.chunks, meta.chunks - 1))",
        "receiving.chunks)",
        "A crash loses what the leader counts on.",
        (
            paper(
                "5_log_compaction",
                "InstallTests::test_nobody_confirms_what_is_not_durable",
            ),
            scenario("snapshot-damaged"),
        ),
    ),
    Mutation(
        "log-cut-before-the-snapshot-is-durable",
        "5.1",
        "consensus/shell/snapshotter.py",
        "            whole = await call(writer.finish)\n",
        "            whole = await call(writer.finish)\n"
        "            self._raft.snapshot_taken(whole)\n"
        "            self._schedule()\n",
        "A crash leaves neither the entries nor the snapshot.",
        (
            "tests/shell/test_snapshotter.py::TakeTests::test_the_log_is_cut_when_it_is_durable",
        ),
    ),
    Mutation(
        "snapshot-not-synced",
        "5.1",
        "consensus/snapshots/files.py",
        "            self._file.write(footer(finished, self._header_crc))\n"
        "            self._sync(self._file)\n",
        "            self._file.write(footer(finished, self._header_crc))\n",
        "A power cut leaves a snapshot without its end, and the log is cut.",
        (
            "tests/snapshots/test_files_crash.py::CrashTests::test_the_disk_is_asked_in_order",
        ),
    ),
    Mutation(
        "membership-lost-with-the-log",
        "5.1",
        SNAPSHOT,
        "    state.memberships = [(meta.membership_index, membership)]\n",
        "",
        "A server goes by the membership of a log that is gone.",
        (paper("5_log_compaction", "InstallTests::test_the_membership_comes_with_it"),),
    ),
    Mutation(
        "sessions-left-out-of-snapshots",
        "6.3",
        "consensus/applying/applier.py",
        "            self.sessions.encode(),\n",
        "            [],\n",
        "A command that is retried after a restore is applied twice.",
        (
            "tests/applying/test_applier.py::SnapshotTests::test_round_trip[batches-7]",
            "tests/test_sessions.py::SnapshotTests::test_at_any_place[0]",
        ),
    ),
    Mutation(
        "retried-command-applied-again",
        "6.3",
        "consensus/sessions.py",
        "        session.applied |= 1 << place\n",
        "",
        "A write whose answer was lost happens twice.",
        (
            paper(
                "6_3_sessions",
                "ExactlyOnceTests::test_a_leader_that_crashes_before_it_answers",
            ),
        ),
    ),
)
