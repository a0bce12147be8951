"""§3.5: log replication."""

from __future__ import annotations

import pytest

from consensus.core.messages import (
    AppendEntries,
    AppendEntriesResponse,
    RequestVote,
    RequestVoteResponse,
)
from consensus.core.values import Entry, EntryKind, Role
from tests.support.network import Network, alone, entries_of

_FIVE = ("s1", "s2", "s3", "s4", "s5")

#: Figure 3.6: the logs of possible followers of the leader of term 8.
_LEADER_LOG = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6]
_FOLLOWER_LOGS = {
    "a": [1, 1, 1, 4, 4, 5, 5, 6, 6],
    "b": [1, 1, 1, 4],
    "c": [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
    "d": [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
    "e": [1, 1, 1, 4, 4, 4, 4],
    "f": [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
}


def _elected(*names: str) -> Network:
    """Return a network in which s1 leads and everybody knows its no-op."""
    network = Network(names or ("s1", "s2", "s3"))
    network.elect("s1")
    network.heartbeat("s1")
    return network


def _vote(network: Network) -> None:
    """Make s1 leader; its first appends are under way then."""
    network.campaign("s1")
    network.pass_on(RequestVote)
    network.pass_on(RequestVoteResponse)
    assert network.role("s1") is Role.LEADER


def _rejections(network: Network) -> list[AppendEntriesResponse]:
    """Deliver all until it is quiet; return the rejections among it."""
    return [
        message
        for message in network.deliveries()
        if isinstance(message, AppendEntriesResponse) and not message.success
    ]


class WriteTests:
    """§3.5: the way of a command."""

    def test_the_leader_appends_it_and_asks_all_others_at_once(self) -> None:
        """§3.5: an entry of its term at the next index, in parallel requests."""
        network = _elected()
        network.propose("s1", b"x")
        entry = Entry(3, 2, EntryKind.COMMAND, b"x")
        assert network.entries("s1")[-1] == entry
        assert [to for to, _ in network.queue] == ["s2", "s3"]
        for message in network.waiting(AppendEntries):
            assert message.entries == (entry,)

    def test_it_is_committed_once_a_majority_has_it(self) -> None:
        """§3.5: a single round of messages, and only to a majority."""
        network = _elected()
        network.propose("s1", b"x")
        assert network.commands("s1") == []
        network.pass_on(AppendEntries, to="s2")
        network.pass_on(AppendEntriesResponse)
        assert network.commands("s1") == [b"x"]

    def test_a_minority_does_not_commit_it(self) -> None:
        """§3.5: two of five are not enough, however often they say so."""
        network = _elected(*_FIVE)
        network.isolate("s1", "s2")
        network.propose("s1", b"x")
        for _ in range(5):
            network.heartbeat("s1")
        assert network.committed("s1") == 2

    def test_a_slow_follower_does_not_hold_it_up(self) -> None:
        """§3.5: the leader waits for the fastest majority only."""
        network = _elected(*_FIVE)
        network.slow |= {"s4", "s5"}
        network.propose("s1", b"x")
        network.settle()
        assert network.commands("s1") == [b"x"]

    def test_followers_learn_of_it_and_apply_it_in_log_order(self) -> None:
        """§3.5: the next message carries the commit index, heartbeats included."""
        network = _elected()
        network.propose("s1", b"x", b"y")
        network.propose("s1", b"z")
        network.pass_on(AppendEntries)
        network.pass_on(AppendEntriesResponse)
        network.lose()
        assert network.commands("s1") == [b"x", b"y", b"z"]
        assert network.commands("s2") == []
        network.tick("s1", network.tuning.heartbeat_ticks)
        network.pass_on(AppendEntries)
        assert network.commands("s2") == [b"x", b"y", b"z"]

    def test_it_commits_all_that_precedes_it(self) -> None:
        """§3.5: entries of earlier leaders too."""
        network = Network()
        network.store("s1", 1, 2, 2)
        network.elect("s1")
        network.settle()
        assert network.committed("s1") == 5
        assert network.commands("s1") == [b"2.1", b"3.2", b"4.2"]

    def test_the_leader_repeats_itself_until_everybody_has_it(self) -> None:
        """§3.5: even after it has answered its client."""
        network = _elected()
        network.isolate("s3")
        network.propose("s1", b"x")
        for _ in range(20):
            network.heartbeat("s1")
        assert network.commands("s1") == [b"x"]
        network.heal()
        network.heartbeat("s1")
        network.heartbeat("s1")
        assert network.commands("s3") == [b"x"]


class ConsistencyCheckTests:
    """§3.5: the entry before the new ones has to be there."""

    def test_a_follower_refuses_what_leaves_a_hole(self) -> None:
        """§3.5, figure 3.1: false if its log has no entry at prev_index."""
        network = alone(1)
        entries = tuple(entries_of(1, after=3))
        ((_, answer),) = network.step("s1", AppendEntries("s2", 1, 3, 1, 0, 0, entries))
        assert isinstance(answer, AppendEntriesResponse)
        assert not answer.success
        assert network.terms("s1") == [1]

    def test_a_follower_refuses_what_follows_another_entry(self) -> None:
        """§3.5, figure 3.1: false if the entry there is of another term."""
        network = alone(1, 2)
        entries = tuple(entries_of(4, after=3))
        ((_, answer),) = network.step("s1", AppendEntries("s2", 4, 3, 3, 0, 0, entries))
        assert isinstance(answer, AppendEntriesResponse)
        assert not answer.success
        assert network.terms("s1") == [1, 2]

    def test_a_success_speaks_for_the_log_up_to_the_new_entries(self) -> None:
        """§3.5: not for a suffix that nobody has compared, as by a heartbeat."""
        network = Network()
        network.store("s1", 1, 3)
        network.store("s2", 1, 2, 2, 2)
        _vote(network)
        network.lose()
        ((_, answer),) = network.step("s2", AppendEntries("s1", 4, 2, 1, 0, 0))
        assert isinstance(answer, AppendEntriesResponse)
        assert (answer.success, answer.index) == (True, 2)
        network.step("s1", answer)
        assert network.rafts["s1"].state.progress["s2"].match_index == 2


class ConflictTests:
    """§3.5, figure 3.1: a follower whose entries conflict with its leader's."""

    def test_the_conflicting_entry_and_all_that_follow_are_deleted(self) -> None:
        """Figure 3.1, step 3: though the message has fewer entries."""
        network = alone(1, 2, 2, 2)
        entries = tuple(entries_of(3, after=2))
        network.step("s1", AppendEntries("s2", 3, 2, 1, 0, 0, entries))
        assert network.terms("s1") == [1, 3]
        assert [entry.term for entry in network.disks["s1"].entries] == [1, 1, 3]

    def test_entries_that_do_not_conflict_stay(self) -> None:
        """Figure 3.1, step 3: a late, shorter message deletes nothing."""
        network = alone(1)
        longer = AppendEntries("s2", 2, 2, 1, 0, 0, tuple(entries_of(2, 2, 2, after=2)))
        shorter = AppendEntries("s2", 2, 2, 1, 0, 0, tuple(entries_of(2, after=2)))
        empty = AppendEntries("s2", 2, 2, 1, 0, 0)
        for message in (longer, shorter, empty):
            network.step("s1", message)
            assert network.terms("s1") == [1, 2, 2, 2]

    def test_entries_not_yet_in_the_log_are_appended(self) -> None:
        """Figure 3.1, step 4: whatever of the message was there already."""
        network = alone(1, 2)
        entries = tuple(entries_of(1, 2, 2, 2, after=1))
        network.step("s1", AppendEntries("s2", 2, 1, 1, 0, 0, entries))
        assert network.terms("s1") == [1, 2, 2, 2]

    def test_the_commit_index_stays_within_what_was_checked(self) -> None:
        """Figure 3.1, step 5: the lesser of the leader's and the last new entry."""
        network = alone(1, 2, 2, 2)
        network.step("s1", AppendEntries("s2", 3, 2, 1, 5, 0))
        assert network.committed("s1") == 2
        assert network.commands("s1") == [b"2.1"]

    @pytest.mark.parametrize("follower", _FOLLOWER_LOGS)
    def test_figure_3_6(self, follower: str) -> None:
        """§3.5: the leader brings any of the figure's followers to its own log."""
        network = Network()
        network.store("s1", *_LEADER_LOG, term=7)
        network.store("s2", *_LEADER_LOG, term=7)
        network.store("s3", *_FOLLOWER_LOGS[follower], term=7)
        network.elect("s1")
        assert network.rafts["s1"].state.term == 8
        network.heartbeat("s1")
        assert network.terms("s3") == [*_LEADER_LOG, 8]
        assert network.disks["s3"].entries == network.disks["s1"].entries
        assert network.commands("s3") == network.commands("s1")

    def test_the_leaders_own_log_is_never_touched(self) -> None:
        """§3.5: repairing followers only appends to it."""
        network = Network()
        network.store("s1", *_LEADER_LOG, term=7)
        network.store("s2", *_LEADER_LOG, term=7)
        network.store("s3", *_FOLLOWER_LOGS["d"], term=7)
        before = network.entries("s1")
        network.elect("s1")
        network.heartbeat("s1")
        assert network.entries("s1")[: len(before)] == before


class NextIndexTests:
    """§3.5: where a leader begins, and how it goes back."""

    def test_a_new_leader_begins_after_its_last_entry(self) -> None:
        """§3.5: hoping that the follower's log is the same."""
        network = Network()
        network.store("s1", 1, 3, 3)
        _vote(network)
        probe = network.waiting(AppendEntries, to="s2")[0]
        assert (probe.prev_index, probe.prev_term) == (4, 3)

    def test_after_a_rejection_it_tries_further_back(self) -> None:
        """§3.5: the next index goes down until the logs agree."""
        network = Network()
        network.store("s1", 1, 3, 3)
        network.store("s3", 1, 3, 3)
        network.store("s2", 1, 2)
        _vote(network)
        network.lose(to="s3")
        tried = [
            message.prev_index
            for message in network.deliveries()
            if isinstance(message, AppendEntries) and message.entries
        ]
        # Entry 2 is the last in common; what storage gave ended at 4.
        assert tried == [4, 2, 4]
        assert network.terms("s2") == [1, 3, 3, 4]

    def test_a_rejection_skips_all_entries_of_a_conflicting_term(self) -> None:
        """§3.5: one rejection for each such term, not one for each entry."""
        network = Network()
        leader = [1] + [3] * 10 + [5] * 10 + [7] * 10
        network.store("s1", *leader)
        network.store("s2", *leader)
        network.store("s3", *[1] + [2] * 10 + [4] * 10 + [6] * 10)
        network.campaign("s1")
        rejections = _rejections(network)
        assert network.terms("s3") == [*leader, 8]
        assert len(rejections) <= 3

    def test_a_follower_that_only_lacks_entries_rejects_once(self) -> None:
        """§3.5: the hint is the end of its log."""
        network = Network()
        network.store("s1", *[2] * 50)
        network.store("s2", *[2] * 50)
        network.store("s3")
        network.campaign("s1")
        rejections = _rejections(network)
        assert network.terms("s3") == [*[2] * 50, 3]
        assert len(rejections) == 1

    def test_a_stale_rejection_does_not_go_back_below_what_matched(self) -> None:
        """§3.5: messages may be repeated and come late."""
        network = Network()
        network.store("s1", 1, 3, 3)
        network.store("s2", 1, 2, 2)
        network.store("s3", 1, 3, 3)
        network.campaign("s1")
        rejections = _rejections(network)
        assert rejections
        for late in rejections * 2:
            assert network.step("s1", late) == []
        progress = network.rafts["s1"].state.progress["s2"]
        assert (progress.match_index, progress.next_index) == (5, 6)

    def test_an_append_that_was_lost_is_noticed_and_repeated(self) -> None:
        """§3.5: by the consistency check of the next message."""
        network = _elected()
        network.propose("s1", b"x")
        network.lose(to="s2")
        network.propose("s1", b"y")
        network.settle()
        network.heartbeat("s1")
        assert network.commands("s2") == [b"x", b"y"]
        assert network.role("s1") is Role.LEADER
