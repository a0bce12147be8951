"""§10.2.1: a leader writes to its disk in parallel with its followers."""

from __future__ import annotations

from consensus.core.messages import AppendEntries, AppendEntriesResponse
from consensus.core.values import Role
from tests.support.network import Network

_FIVE = ("s1", "s2", "s3", "s4", "s5")


def _elected(*names: str) -> Network:
    """Return a network in which s1 leads, with a disk that is slow from now on."""
    network = Network(names or ("s1", "s2", "s3"))
    network.elect("s1")
    network.heartbeat("s1")
    network.slow.add("s1")
    return network


class ParallelWriteTests:
    """§10.2.1: one disk write less on the way of a command."""

    def test_appends_leave_beside_the_leaders_own_write(self) -> None:
        """§10.2.1: replication does not wait for the leader's disk."""
        network = _elected()
        network.propose("s1", b"x")
        assert len(network.disks["s1"].entries) == 2
        assert [m.entries[-1].command for m in network.waiting(AppendEntries)] == [
            b"x",
            b"x",
        ]

    def test_the_leader_counts_itself_when_its_sync_is_done(self) -> None:
        """§10.2.1: only then is the entry at a majority of three."""
        network = _elected()
        network.isolate("s3")
        network.propose("s1", b"x")
        for _ in range(3):
            network.heartbeat("s1")
        assert network.committed("s1") == 2
        network.sync("s1")
        assert network.committed("s1") == 3
        assert network.commands("s1") == [b"x"]

    def test_a_finished_sync_of_earlier_entries_does_not_count_for_later_ones(
        self,
    ) -> None:
        """§10.2.1: the leader counts as far as its own disk is."""
        network = _elected()
        network.isolate("s3")
        network.propose("s1", b"x")
        network.propose("s1", b"y")
        assert len(network.unsynced["s1"]) == 2
        network.pass_on(AppendEntries)
        network.pass_on(AppendEntriesResponse)
        assert network.rafts["s1"].state.progress["s2"].match_index == 4
        network.sync("s1", 1)
        assert network.committed("s1") == 3

    def test_a_majority_of_followers_commits_without_the_leaders_disk(self) -> None:
        """§10.2.1: safe, as the entry is at a majority all the same."""
        network = _elected()
        network.propose("s1", b"x")
        network.settle()
        assert network.committed("s1") == 3
        assert network.commands("s2") == network.commands("s3") == [b"x"]

    def test_half_of_the_others_is_not_enough(self) -> None:
        """§10.2.1: two followers of five and a leader that has not synced."""
        network = _elected(*_FIVE)
        network.isolate("s4", "s5")
        network.propose("s1", b"x")
        for _ in range(3):
            network.heartbeat("s1")
        assert network.committed("s1") == 2
        network.sync("s1")
        assert network.committed("s1") == 3

    def test_the_leader_applies_only_what_its_own_disk_has(self) -> None:
        """§10.2.1: a state machine is never ahead of its own server's log."""
        network = _elected()
        network.propose("s1", b"x")
        network.settle()
        assert network.committed("s1") == 3
        assert network.commands("s1") == []
        network.sync("s1")
        assert network.commands("s1") == [b"x"]

    def test_a_follower_applies_only_what_its_own_disk_has(self) -> None:
        """§10.2.1: the commit index may run ahead of a slow follower."""
        network = Network()
        network.elect("s1")
        network.slow.add("s3")
        network.propose("s1", b"x")
        for _ in range(2):
            network.heartbeat("s1")
        assert network.commands("s1") == [b"x"]
        assert network.committed("s3") == 3
        assert network.commands("s3") == []
        network.sync("s3")
        assert network.commands("s3") == [b"x"]

    def test_what_was_committed_survives_a_leader_that_never_wrote_it(self) -> None:
        """§10.2.1: the leader crashes, and gets its own entry from the next one."""
        network = _elected()
        network.propose("s1", b"x")
        network.settle()
        network.crash("s1")
        network.slow.clear()
        network.restart("s1")
        assert network.terms("s1") == [2]
        network.campaign("s1")
        network.settle()
        assert network.role("s1") is not Role.LEADER
        network.elect("s2")
        network.heartbeat("s2")
        assert network.commands("s1") == [b"x"]

    def test_what_only_a_minority_wrote_was_not_acknowledged(self) -> None:
        """§10.2.1: so it may be gone after the leader's crash."""
        network = _elected(*_FIVE)
        network.isolate("s1", "s2")
        network.propose("s1", b"x")
        network.settle()
        assert network.terms("s2") == [2, 2]
        network.crash("s1")
        network.heal()
        network.crash("s2")
        network.elect("s3")
        network.propose("s3", b"y")
        network.settle()
        network.slow.clear()
        network.restart("s1")
        network.restart("s2")
        network.heartbeat("s3")
        network.heartbeat("s3")
        for name in _FIVE:
            assert network.commands(name) == [b"y"]

    def test_answers_of_followers_wait_for_their_disks_all_the_same(self) -> None:
        """§10.2.1: only the leader's own write is beside the messages."""
        network = Network()
        network.elect("s1")
        network.slow.add("s2")
        network.propose("s1", b"x")
        network.pass_on(AppendEntries)
        senders = [m.sender for m in network.waiting(AppendEntriesResponse)]
        assert senders == ["s3"]
