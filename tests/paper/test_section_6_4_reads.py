"""§6.4: read-only queries that need no entry in the log."""

from __future__ import annotations

import pytest

from consensus.core.messages import (
    AppendEntries,
    AppendEntriesResponse,
    RequestVote,
    RequestVoteResponse,
)
from consensus.core.values import Role
from consensus.errors import NotLeaderError
from tests.support.network import Network

_FIVE = ("s1", "s2", "s3", "s4", "s5")


def _answered(network: Network, name: str) -> list[int]:
    """Return the reads of *name* that may be served from its state machine."""
    applied = network.rafts[name].state.log.last_applied
    return [read_id for read_id, index in network.reads[name] if index <= applied]


def _elected(*names: str) -> Network:
    """Return a network in which s1 leads and its no-op is committed."""
    network = Network(names or ("s1", "s2", "s3"))
    network.elect("s1")
    network.heartbeat("s1")
    return network


def _pass_on_heartbeats(network: Network, to: str) -> None:
    """Deliver appends without entries to *to*, lose the others."""
    for position in reversed(range(len(network.queue))):
        peer, message = network.queue[position]
        if peer == to and isinstance(message, AppendEntries):
            if message.entries:
                network.queue.pop(position)
            else:
                network.deliver(position)


class ReadIndexTests:
    """§6.4: the steps of a read."""

    def test_a_read_is_answered_and_nothing_is_written(self) -> None:
        """§6.4: one round of heartbeats, no entry, no disk."""
        network = _elected()
        network.slow |= set(network.names)
        before = network.entries("s1")
        network.read("s1", 7)
        network.settle()
        assert _answered(network, "s1") == [7]
        assert network.entries("s1") == before

    def test_not_before_the_no_op_of_the_term_is_committed(self) -> None:
        """
        §6.4, step 1: a new leader does not know yet what is committed.

        s1 answered its client and crashed; s2 has the entry, but nobody told
        it that the entry is committed.
        """
        network = _elected()
        network.propose("s1", b"x")
        network.pass_on(AppendEntries, to="s2")
        network.pass_on(AppendEntriesResponse)
        assert network.commands("s1") == [b"x"]
        network.crash("s1")
        network.lose()
        network.campaign("s2")
        network.pass_on(RequestVote)
        network.pass_on(RequestVoteResponse)
        assert network.role("s2") is Role.LEADER
        network.read("s2", 7)
        _pass_on_heartbeats(network, "s3")
        network.pass_on(AppendEntriesResponse)
        assert network.rafts["s2"].state.progress["s3"].round == 1
        assert network.commands("s2") == []
        assert _answered(network, "s2") == []
        network.heartbeat("s2")
        assert network.commands("s2") == [b"x"]
        assert _answered(network, "s2") == [7]

    def test_it_sees_every_write_acknowledged_before(self) -> None:
        """§6.4, step 2: the read index is the commit index when it arrives."""
        network = _elected()
        network.propose("s1", b"x")
        network.settle()
        committed = network.committed("s1")
        assert b"x" in network.commands("s1")
        network.read("s1", 7)
        network.propose("s1", b"later")
        network.settle()
        assert network.reads["s1"] == [(7, committed)]

    def test_it_waits_until_the_state_machine_is_there(self) -> None:
        """§6.4, step 4: what is committed may still have to be applied."""
        network = _elected()
        network.slow.add("s1")
        network.propose("s1", b"x")
        network.settle()
        assert network.committed("s1") == 3
        network.read("s1", 7)
        network.settle()
        assert network.reads["s1"] == [(7, 3)]
        assert _answered(network, "s1") == []
        network.sync("s1")
        assert _answered(network, "s1") == [7]

    def test_a_follower_refuses_it(self) -> None:
        """§6.4: its state may be old; it names the leader."""
        network = _elected()
        with pytest.raises(NotLeaderError) as error:
            network.read("s2", 7)
        assert error.value.leader == "s1"

    def test_a_single_server_answers_at_once(self) -> None:
        """§6.4: it is the majority, and its no-op is committed."""
        network = Network(["s1"])
        network.campaign("s1")
        network.read("s1", 7)
        assert _answered(network, "s1") == [7]


class RoundTests:
    """§6.4, step 3: a new round of heartbeats, answered by a majority."""

    def test_a_minority_does_not_confirm(self) -> None:
        """§6.4: the leader and one of four others."""
        network = _elected(*_FIVE)
        network.isolate("s1", "s2")
        network.read("s1", 7)
        for _ in range(5):
            network.heartbeat("s1")
        assert network.reads["s1"] == []

    def test_a_round_that_began_before_the_read_does_not_confirm_it(self) -> None:
        """§6.4: its answers say nothing of the time since."""
        network = _elected()
        network.tick("s1", network.tuning.heartbeat_ticks)
        network.pass_on(AppendEntries)
        early = network.waiting(AppendEntriesResponse)
        assert [answer.sender for answer in early] == ["s2", "s3"]
        network.queue.clear()
        network.read("s1", 7)
        network.queue.clear()
        for answer in early:
            network.step("s1", answer)
        assert network.reads["s1"] == []
        network.heartbeat("s1")
        assert _answered(network, "s1") == [7]

    def test_a_read_that_comes_during_a_round_waits_for_the_next(self) -> None:
        """§6.4: the leader may have been deposed between the two."""
        network = _elected()
        network.read("s1", 7)
        first = network.waiting(AppendEntries)
        network.queue.clear()
        network.read("s1", 8)
        network.queue.clear()
        ((_, answer),) = network.step("s2", first[0])
        network.step("s1", answer)
        assert _answered(network, "s1") == [7]

    def test_many_reads_share_a_round(self) -> None:
        """§6.4: its cost is spread over all that gathered."""
        network = _elected()
        for read_id in range(100):
            network.rafts["s1"].read(read_id)
        network.pump("s1")
        assert len(network.queue) == 2
        network.settle()
        assert _answered(network, "s1") == list(range(100))

    def test_a_lost_round_is_repeated_by_the_heartbeats(self) -> None:
        """§6.4: any later message of the leader asks for it too."""
        network = _elected()
        network.read("s1", 7)
        network.lose()
        network.heartbeat("s1")
        assert _answered(network, "s1") == [7]

    def test_entries_under_way_confirm_too(self) -> None:
        """§6.4: an append that left after the read began is as good."""
        network = _elected()
        network.read("s1", 7)
        network.lose()
        network.propose("s1", b"x")
        network.settle()
        assert _answered(network, "s1") == [7]

    def test_it_does_not_wait_for_the_disks_of_the_followers(self) -> None:
        """§6.4: reads go on beside writes."""
        network = _elected()
        network.slow |= {"s2", "s3"}
        network.propose("s1", b"x")
        network.settle()
        network.read("s1", 7)
        network.settle()
        assert network.commands("s1") == []
        assert _answered(network, "s1") == [7]


class DeposedLeaderTests:
    """§6.4: a leader that is none any more must not answer."""

    def test_in_a_minority_it_never_does(self) -> None:
        """§6.4: a newer leader may have written meanwhile."""
        network = _elected()
        network.isolate("s1")
        network.elect("s2")
        network.propose("s2", b"newer")
        network.settle()
        assert network.commands("s2") == [b"newer"]
        network.read("s1", 7)
        for _ in range(5):
            network.heartbeat("s1")
        assert network.role("s1") is Role.LEADER
        assert network.reads["s1"] == []
        network.heal()
        network.heartbeat("s2")
        assert network.failed_reads["s1"] == [7]
        assert network.reads["s1"] == []

    def test_it_learns_of_its_end_from_the_round(self) -> None:
        """§6.4: the voters of the next leader refuse its heartbeats."""
        network = _elected()
        network.isolate("s1")
        network.elect("s2")
        network.heal()
        network.read("s1", 7)
        network.settle()
        assert network.role("s1") is Role.FOLLOWER
        assert network.failed_reads["s1"] == [7]
        assert network.reads["s1"] == []

    def test_answers_of_an_older_term_do_not_count(self) -> None:
        """§6.4: they are to an earlier leadership of the same server."""
        network = _elected()
        network.read("s1", 7)
        network.pass_on(AppendEntries)
        late = network.waiting(AppendEntriesResponse)
        assert [answer.term for answer in late] == [2, 2]
        network.queue.clear()
        network.elect("s2")
        network.elect("s1")
        assert network.failed_reads["s1"] == [7]
        network.read("s1", 8)
        network.queue.clear()
        forged = AppendEntriesResponse("s2", 2, success=True, index=1, round=2)
        for answer in (*late, forged):
            network.step("s1", answer)
        assert network.reads["s1"] == []
        network.heartbeat("s1")
        assert _answered(network, "s1") == [8]

    def test_confirmed_before_its_end_it_may_answer_afterwards(self) -> None:
        """§6.4: the read took place when a majority still followed."""
        network = _elected()
        raft = network.rafts["s1"]
        network.read("s1", 7)
        network.pass_on(AppendEntries, to="s2")
        (answer,) = network.waiting(AppendEntriesResponse)
        raft.step(answer)
        raft.step(RequestVote("s3", 3, 9, 9))
        network.pump("s1")
        assert network.role("s1") is Role.FOLLOWER
        assert _answered(network, "s1") == [7]
        assert network.failed_reads["s1"] == []
