"""§5: what a log loses, and how those get it who need it still."""

from __future__ import annotations

import zlib
from dataclasses import replace

import pytest

from consensus.core.messages import (
    AppendEntries,
    InstallSnapshot,
    InstallSnapshotResponse,
)
from consensus.core.progress import Phase
from consensus.core.values import HardState, SnapshotMeta
from tests.support.network import STABLE, Network, entries_of, led

_SHORT = replace(STABLE, log_tail=0)
_ELECTION = STABLE.election_ticks


def _written(*, tail: int = 0, count: int = 20) -> Network:
    network = led(tuning=replace(STABLE, log_tail=tail))
    for number in range(count):
        network.propose("s1", b"%d" % number)
    network.settle()
    network.heartbeat("s1")
    return network


def _without_s3(*, count: int = 20) -> Network:
    """Return a network whose leader s1 has cut what s3, cut off, would need."""
    network = led(tuning=_SHORT)
    network.isolate("s3")
    for number in range(count):
        network.propose("s1", b"%d" % number)
    network.settle()
    network.snapshot("s1")
    return network


def _snapshot_of(network: Network, name: str) -> SnapshotMeta:
    meta = network.disks[name].snapshot
    assert meta is not None
    return meta


class DiscardTests:
    """§5: when the beginning of the log may go."""

    @pytest.mark.parametrize("name", ["s1", "s2", "s3"])
    def test_every_server_compacts_by_itself(self, name: str) -> None:
        """§5: leader or not; the others' logs stay as they are."""
        network = _written()
        network.snapshot(name)
        for each in network.names:
            assert (network.disks[each].base[0] > 0) == (each == name)

    def test_only_what_is_applied_goes(self) -> None:
        """§5: so it is committed, and nobody can replace it."""
        network = _written()
        network.isolate("s1")
        network.propose("s1", b"x", b"y")
        meta = network.snapshot("s1")
        assert meta.index == network.rafts["s1"].state.log.last_applied
        assert [e.command for e in network.entries("s1")] == [b"x", b"y"]

    def test_it_goes_when_the_snapshot_is_durable(self) -> None:
        """§5: not when it is begun; the log goes on meanwhile (§5.1.1)."""
        network = _written()
        raft = network.rafts["s2"]
        log = raft.state.log
        meta = replace(network.snapshot("s1"))
        index = log.last_applied
        network.propose("s1", b"x")
        network.pass_time(1)
        assert log.base_index == 0
        assert log.last_applied == index + 1
        network.disks["s2"].keep(meta, network.disks["s1"].chunks)
        raft.snapshot_taken(meta)
        network.pump("s2")
        assert log.base_index == network.disks["s2"].base[0] == index
        assert [e.command for e in network.entries("s2")] == [b"x"]

    def test_index_and_term_of_the_last_entry_stay_known(self) -> None:
        """§5: for the consistency check of the entry that follows."""
        network = _written()
        meta = network.snapshot("s1")
        log = network.rafts["s1"].state.log
        assert (log.base_index, log.base_term) == (meta.index, meta.term)
        network.propose("s1", b"x")
        message = network.waiting(AppendEntries, "s1", "s2")[-1]
        assert (message.prev_index, message.prev_term) == (meta.index, meta.term)
        network.settle()
        assert network.commands("s2")[-1] == b"x"

    def test_the_membership_stays_known(self) -> None:
        """§5: it is part of the snapshot."""
        network = _written()
        network.change("s1", ["s1", "s2"])
        network.pass_time(_ELECTION)
        meta = network.snapshot("s2")
        assert network.entries("s2") == []
        network.crash("s2")
        network.restart("s2")
        assert network.voters("s2") == ["s1", "s2"]
        state = network.rafts["s2"].state
        assert state.membership_index == meta.membership_index

    def test_a_tail_may_stay_for_those_who_are_a_little_behind(self) -> None:
        """§5: a snapshot costs more than some entries."""
        network = _written(tail=5)
        network.isolate("s3")
        network.propose("s1", b"x")
        network.settle()
        network.snapshot("s1")
        network.heal()
        network.pass_time(2 * _ELECTION)
        assert network.commands("s3")[-1] == b"x"
        assert network.disks["s3"].snapshot is None


class RestartTests:
    """§5: a server begins with its snapshot."""

    def test_the_state_is_that_of_the_snapshot_and_what_follows_it(self) -> None:
        """§5: what it covers is not applied again."""
        network = _written()
        meta = network.snapshot("s1")
        network.propose("s1", b"x")
        network.settle()
        network.crash("s1")
        network.restart("s1")
        log = network.rafts["s1"].state.log
        assert (log.last_applied, log.commit_index) == (meta.index, meta.index)
        network.pass_time(4 * _ELECTION)
        assert network.applied["s1"] == network.applied["s2"]

    def test_all_servers_may_begin_so(self) -> None:
        """§5: an election needs no entries, only index and term of the last."""
        network = _written()
        for name in network.names:
            network.snapshot(name)
        for name in network.names:
            network.crash(name)
            network.restart(name)
        network.pass_time(5 * _ELECTION)
        (chief,) = network.leaders()
        network.propose(chief, b"x")
        network.settle()
        assert len(network.commands(chief)) == 21

    def test_a_candidate_whose_log_is_older_than_a_snapshot_is_refused(self) -> None:
        """§5: with §3.6.1: what is covered counts as much as what is there."""
        network = _without_s3()
        network.snapshot("s2")
        network.crash("s1")
        network.crash("s2")
        network.restart("s2")
        network.heal()
        network.pass_time(10 * _ELECTION)
        assert network.leaders() == ["s2"]


class InstallTests:
    """§5, figure 5.3: a leader sends its snapshot."""

    def test_to_one_that_needs_what_is_gone(self) -> None:
        """§5: a slow follower."""
        network = _without_s3()
        network.heal()
        network.pass_time(3 * _ELECTION)
        assert network.applied["s3"] == network.applied["s1"]
        assert network.disks["s3"].base == network.disks["s1"].base

    def test_to_a_new_server(self) -> None:
        """§5: one that joins the cluster (§4.2.1)."""
        network = _without_s3()
        network.add("s4")
        network.change("s1", ["s1", "s2", "s4"])
        network.pass_time(5 * _ELECTION)
        assert network.applied["s4"] == network.applied["s1"]

    def test_not_to_one_that_only_needs_entries(self) -> None:
        """§5: those are still there."""
        network = _written(tail=100)
        network.snapshot("s1")
        network.add("s4")
        network.change("s1", ["s1", "s2", "s3", "s4"])
        while network.queue:
            assert not isinstance(network.deliver(), InstallSnapshot)

    def test_every_chunk_is_a_sign_of_life(self) -> None:
        """§5, figure 5.3: it resets the election timer."""
        network = _without_s3()
        network.heal()
        while not network.waiting(InstallSnapshot, "s1", "s3"):
            while not network.queue:
                network.tick("s1")
            network.deliver()
        network.tick("s3", 4)
        network.pass_on(InstallSnapshot, "s1", "s3")
        assert network.rafts["s3"].state.elapsed == 0

    def test_a_leader_of_an_older_term_is_told(self) -> None:
        """§5, figure 5.3: step 1."""
        network = _without_s3()
        meta = _snapshot_of(network, "s1")
        ((_, answer),) = network.step("s2", InstallSnapshot("s1", 1, meta, 0, b""))
        assert answer.term == 2

    def test_a_log_that_conflicts_is_discarded(self) -> None:
        """§5, figure 5.3: the snapshot supersedes all of it."""
        network = _without_s3(count=5)
        membership = network.applied["s1"][0]
        network.crash("s3")
        network.disks["s3"].entries = [membership, *entries_of(*[1] * 30)]
        network.disks["s3"].hard_state = HardState(1)
        network.restart("s3")
        network.heal()
        network.pass_time(4 * _ELECTION)
        assert network.applied["s3"] == network.applied["s1"]
        assert network.entries("s3") == network.entries("s1")

    def test_what_follows_a_prefix_is_retained(self) -> None:
        """§5, figure 5.3: a snapshot of what the log has drops no entry behind."""
        network = _written()
        older = network.snapshot("s1")
        chunks = network.disks["s1"].chunks
        for number in range(3):
            network.propose("s1", b"later %d" % number)
        network.settle()
        before = network.entries("s2"), network.applied["s2"][:]
        for number, chunk in enumerate(chunks):
            network.step("s2", InstallSnapshot("s1", 2, older, number, chunk))
        assert (network.entries("s2"), network.applied["s2"]) == before

    def test_what_follows_is_retained_though_none_is_known_to_be_committed(
        self,
    ) -> None:
        """§5, figure 5.3: the leader may count on what the follower has."""
        network = _written()
        network.crash("s3")
        network.restart("s3")
        older = network.snapshot("s1")
        network.propose("s1", b"later")
        network.lose(to="s2")
        network.tick("s1", STABLE.heartbeat_ticks)
        network.queue = [each for each in network.queue if each[0] == "s3"]
        for _, message in network.queue:
            if isinstance(message, AppendEntries) and message.entries:
                network.step("s3", replace(message, commit_index=0))
        before = network.entries("s3")
        assert before[-1].command == b"later"
        assert network.committed("s3") == 0
        for number, chunk in enumerate(network.disks["s1"].chunks):
            network.step("s3", InstallSnapshot("s1", 2, older, number, chunk))
        assert network.committed("s3") == older.index
        assert network.entries("s3") == before
        assert network.rafts["s3"].state.log.stable_index == before[-1].index

    def test_the_membership_comes_with_it(self) -> None:
        """§5: for one that has not heard of a change, it is the only word of it."""
        network = led(tuning=_SHORT)
        network.isolate("s3")
        network.change("s1", ["s1", "s2", "s3"], ["s4"])
        network.settle()
        network.snapshot("s1")
        network.heal()
        network.pass_time(3 * _ELECTION)
        assert network.learners("s3") == ["s4"]

    def test_chunks_go_on_where_they_stopped(self) -> None:
        """§5, figure 5.3: the follower says which one it wants."""
        network = _without_s3(count=40)
        network.heal()
        while network.rafts["s3"].state.receiving is None or (
            network.rafts["s3"].state.receiving.chunks < 20
        ):
            while not network.queue:
                network.tick("s1")
            network.deliver()
        network.lose()
        sent = 0
        for _ in range(3 * _ELECTION):
            network.pass_time(0)
            network.tick("s1")
            for message in network.deliveries():
                sent += isinstance(message, InstallSnapshot)
        assert network.rafts["s1"].state.progress["s3"].phase is Phase.REPLICATE
        assert sent < 30

    def test_the_state_is_the_leaders_byte_for_byte(self) -> None:
        """§5: what was received is what was taken."""
        network = _without_s3()
        network.heal()
        network.pass_time(3 * _ELECTION)
        disk = network.disks["s3"]
        assert disk.snapshot is not None
        assert zlib.crc32(b"".join(disk.chunks)) == disk.snapshot.checksum
        assert disk.chunks == network.disks["s1"].chunks

    def test_nobody_confirms_what_is_not_durable(self) -> None:
        """§5: the leader would send no entry of it again."""
        network = _without_s3()
        network.slow_installing.add("s3")
        network.heal()
        network.pass_time(3 * _ELECTION)
        progress = network.rafts["s1"].state.progress["s3"]
        meta = progress.sending
        assert meta is not None
        assert progress.stored_chunks == meta.chunks - 1
        assert progress.match_index < meta.index
        network.install("s3")
        assert network.waiting(InstallSnapshotResponse)[-1].next_chunk == meta.chunks


class ConcurrencyTests:
    """§5.1.1: snapshots are taken while commands are applied."""

    def test_a_late_one_cuts_the_log_up_to_where_it_was_begun(self) -> None:
        """§5.1.1: what was applied meanwhile is not in it."""
        network = _written()
        older = network.snapshot("s1")
        raft = network.rafts["s2"]
        network.propose("s1", b"x", b"y")
        network.pass_time(2)
        assert raft.state.log.last_applied == older.index + 2
        raft.snapshot_taken(older)
        network.pump("s2")
        assert raft.state.log.base_index == older.index

    def test_one_that_was_overtaken_is_dropped(self) -> None:
        """§5.1.1: the leader's came in the meantime, and covers more."""
        network = _without_s3()
        own = replace(_snapshot_of(network, "s1"), index=1, membership_index=1)
        network.heal()
        network.pass_time(3 * _ELECTION)
        raft = network.rafts["s3"]
        installed = raft.state.snapshot
        raft.snapshot_taken(own)
        assert raft.state.snapshot == installed
        assert raft.ready() is None


class SizeTests:
    """§5.1.2: when to take one is no question of safety."""

    @pytest.mark.parametrize("every", [1, 2, 7])
    def test_as_often_as_one_likes(self, every: int) -> None:
        """§5.1.2: all servers at different times; all states are the same."""
        network = led(tuning=_SHORT)
        for number in range(30):
            network.propose("s1", b"%d" % number)
            network.pass_time(1)
            if number % every == 0:
                network.snapshot(network.names[number % 3])
        network.pass_time(_ELECTION)
        for name in network.names:
            assert network.commands(name) == [b"%d" % number for number in range(30)]


class OnDiskTests:
    """§5.2: a state machine on disk is ahead of what a snapshot says."""

    def test_it_is_applied_nothing_that_it_has(self) -> None:
        """§5.2: the log goes on behind the last applied entry."""
        network = _written()
        meta = network.snapshot("s1")
        network.crash("s1")
        network.restart("s1")
        log = network.rafts["s1"].state.log
        assert log.last_applied == meta.index
        network.pump("s1")  # the snapshot is restored
        before = len(network.applied["s1"])
        network.propose(_chief(network), b"x")
        network.settle()
        assert network.applied["s1"][before].index == meta.index + 1
        assert [entry.command for entry in network.applied["s1"][before:]][-1] == b"x"


def _chief(network: Network) -> str:
    network.pass_time(4 * _ELECTION)
    (chief,) = network.leaders()
    return chief
