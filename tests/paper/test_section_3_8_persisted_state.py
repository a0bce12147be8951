"""§3.8: persisted state and server restarts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from consensus.core.messages import (
    AppendEntries,
    AppendEntriesResponse,
    Message,
    RequestVote,
    RequestVoteResponse,
)
from consensus.core.state import Tuning
from consensus.core.values import HardState, Role
from tests.support.network import Disk, Network, alone, entries_of

if TYPE_CHECKING:
    from collections.abc import Sequence


def _restart(network: Network, name: str = "s1") -> None:
    network.crash(name)
    network.restart(name)


class TermAndVoteTests:
    """§3.8: the current term and the vote are persisted."""

    def test_a_restarted_server_does_not_vote_twice_in_a_term(self) -> None:
        """§3.8: else two candidates of a term could win."""
        network = alone(1)
        network.step("s1", RequestVote("s2", 2, 2, 1))
        _restart(network)
        assert network.step("s1", RequestVote("s3", 2, 9, 1)) == [
            ("s3", RequestVoteResponse("s1", 2, granted=False))
        ]

    def test_a_vote_in_a_term_that_was_known_before_is_persisted(self) -> None:
        """§3.8: the vote is written though the term is not new."""
        network = alone(1)
        network.step("s1", RequestVote("s2", 2, 0, 0))
        assert network.disks["s1"].hard_state == HardState(2)
        network.step("s1", RequestVote("s3", 2, 2, 1))
        _restart(network)
        assert network.step("s1", RequestVote("s2", 2, 9, 1)) == [
            ("s2", RequestVoteResponse("s1", 2, granted=False))
        ]

    def test_a_restarted_candidate_votes_for_nobody_else_in_its_term(self) -> None:
        """§3.8: it has voted for itself."""
        network = alone(1)
        network.campaign("s1")
        _restart(network)
        assert network.step("s1", RequestVote("s2", 2, 9, 1)) == [
            ("s2", RequestVoteResponse("s1", 2, granted=False))
        ]

    def test_a_restarted_candidate_stands_in_a_newer_term(self) -> None:
        """§3.8: never a second time in the same one."""
        network = alone(1)
        network.campaign("s1")
        _restart(network)
        network.campaign("s1")
        assert network.disks["s1"].hard_state == HardState(3, "s1")

    def test_a_restarted_server_takes_nothing_from_a_leader_it_outlived(self) -> None:
        """§3.8: the term keeps entries of deposed leaders out."""
        network = alone(1)
        network.step("s1", RequestVote("s2", 5, 2, 1))
        _restart(network)
        entries = tuple(entries_of(4, after=2))
        ((_, answer),) = network.step("s1", AppendEntries("s3", 4, 2, 1, 3, 0, entries))
        assert isinstance(answer, AppendEntriesResponse)
        assert (answer.success, answer.term) == (False, 5)
        assert network.terms("s1") == [1]

    def test_a_vote_is_durable_before_it_is_given(self) -> None:
        """§3.8: a crash before the sync forgets it, but nobody heard of it."""
        network = alone(1)
        network.slow.add("s1")
        assert network.step("s1", RequestVote("s2", 2, 2, 1)) == []
        _restart(network)
        assert network.queue == []
        assert network.rafts["s1"].state.hard_state == HardState(1)
        network.slow.clear()
        assert network.step("s1", RequestVote("s3", 2, 2, 1)) == [
            ("s3", RequestVoteResponse("s1", 2, granted=True))
        ]

    def test_a_candidacy_is_durable_before_votes_are_asked_for(self) -> None:
        """§3.8: else a crash could make it stand in the same term again."""
        network = Network()
        network.slow.add("s1")
        network.campaign("s1")
        assert network.queue == []
        network.sync("s1")
        assert len(network.waiting(RequestVote)) == 2

    def test_a_candidate_counts_itself_when_its_own_vote_is_durable(self) -> None:
        """§3.8: that an earlier write is durable says nothing of it."""
        network = Network(["s1"])
        network.slow.add("s1")
        network.step("s1", RequestVote("s9", 5, 0, 0))
        network.campaign("s1")
        network.sync("s1", 1)
        assert network.disks["s1"].hard_state == HardState(5)
        assert network.role("s1") is Role.CANDIDATE
        network.sync("s1")
        assert network.role("s1") is Role.LEADER


class EntryTests:
    """§3.8: entries are persisted before they count towards commitment."""

    def test_a_follower_answers_after_its_sync(self) -> None:
        """§3.8: prevents committed entries from being lost."""
        network = Network()
        network.elect("s1")
        network.isolate("s3")
        network.slow.add("s2")
        network.propose("s1", b"x")
        network.settle()
        assert network.commands("s1") == []
        network.sync("s2")
        network.settle()
        assert network.commands("s1") == [b"x"]

    def test_a_heartbeat_does_not_confirm_what_is_not_synced(self) -> None:
        """§3.8: the follower has the entries in memory, and that is not enough."""
        network = Network()
        network.elect("s1")
        network.isolate("s3")
        network.slow.add("s2")
        network.propose("s1", b"x")
        for _ in range(5):
            network.heartbeat("s1")
        assert network.commands("s1") == []

    def test_a_crash_between_the_write_and_the_sync_loses_nothing_promised(
        self,
    ) -> None:
        """§3.8: the follower comes back without it, and is sent it again."""
        network = Network()
        network.elect("s1")
        network.heartbeat("s1")
        network.isolate("s3")
        network.slow.add("s2")
        network.propose("s1", b"x")
        network.settle()
        network.crash("s2")
        network.slow.clear()
        network.restart("s2")
        assert network.terms("s2") == [2]
        assert network.commands("s1") == []
        network.heartbeat("s1")
        network.heartbeat("s1")
        assert network.commands("s1") == [b"x"]

    def test_a_crash_of_all_servers_loses_nothing_acknowledged(self) -> None:
        """§3.8: what a majority synced is there for ever."""
        network = Network()
        network.elect("s1")
        network.propose("s1", b"x")
        network.settle()
        for name in network.names:
            network.crash(name)
        for name in network.names:
            network.restart(name)
        network.elect("s3")
        network.heartbeat("s3")
        for name in network.names:
            assert network.commands(name) == [b"x"]


class VolatileTests:
    """§3.8: all other state is safe to lose, as it can all be recreated."""

    def test_the_commit_index_begins_at_0_and_grows_again(self) -> None:
        """§3.8: the leader's messages tell it; committed entries are a majority's."""
        network = Network()
        network.elect("s1")
        network.propose("s1", b"x")
        network.settle()
        _restart(network, "s2")
        assert network.committed("s2") == 0
        network.heartbeat("s1")
        assert network.committed("s2") == 3

    def test_a_volatile_state_machine_is_built_again_from_the_log(self) -> None:
        """§3.8: every entry is applied again, each once, in order."""
        network = Network()
        network.elect("s1")
        network.propose("s1", b"x", b"y")
        network.settle()
        _restart(network, "s2")
        assert network.commands("s2") == []
        network.heartbeat("s1")
        assert network.commands("s2") == [b"x", b"y"]
        assert [entry.index for entry in network.applied["s2"]] == [1, 2, 3, 4]

    def test_a_restarted_leader_is_a_follower(self) -> None:
        """§3.8: that it led is not persisted; it has to be elected again."""
        network = Network()
        network.elect("s1")
        _restart(network)
        assert network.role("s1") is Role.FOLLOWER
        assert network.rafts["s1"].state.leader is None

    def test_a_whole_cluster_commits_again_after_a_restart(self) -> None:
        """§3.8: by the no-op of the first leader, though no commit index survived."""
        network = Network()
        network.elect("s1")
        network.propose("s1", b"x")
        network.settle()
        for name in network.names:
            _restart(network, name)
        network.elect("s2")
        assert network.commands("s2") == [b"x"]


class _Suspicious(Network):
    """Fails when a message says more than the disk of its sender knows."""

    def _send(self, name: str, messages: Sequence[tuple[str, Message]]) -> None:
        for peer, message in messages:
            _check_is_durable(self.disks[name], name, peer, message)
        super()._send(name, messages)


def _check_is_durable(disk: Disk, name: str, peer: str, message: Message) -> None:
    known = disk.hard_state
    assert message.term <= known.term
    if isinstance(message, RequestVote) and message.term == known.term:
        assert known.vote == name
        assert len(disk.entries) >= message.last_index
    if isinstance(message, RequestVoteResponse) and message.term == known.term:
        assert known.vote == peer or not message.granted
    if isinstance(message, AppendEntriesResponse) and message.term == known.term:
        assert len(disk.entries) >= message.index or not message.success


class OrderTests:
    """§3.8: term, vote and entries are durable before a message depends on them."""

    @pytest.mark.parametrize("seed", range(40))
    def test_with_disks_of_any_speed(self, seed: int) -> None:
        """§3.8: every message of every server is checked as it leaves."""
        tuning = Tuning(heartbeat_ticks=2, election_ticks=5)
        network = _Suspicious(tuning=tuning, seed=seed)
        dice = network.random
        network.slow |= set(network.names)
        for step in range(250):
            name = dice.choice(network.names)
            match dice.randrange(8):
                case 0 | 1 | 2 if network.queue:
                    network.deliver(dice.randrange(len(network.queue)))
                case 3 | 4:
                    network.sync(name, 1)
                case 5 if network.role(name) is Role.LEADER:
                    network.propose(name, b"%d" % step)
                case 6 if dice.random() < 0.1:
                    _restart(network, name)
                case _:
                    network.tick(name)


class _Run:
    """Six writes with three leaders, in which one server restarts at one point."""

    def __init__(self, victim: str, point: int = 0, *, slow: bool) -> None:
        self.network = Network()
        self.victim, self.point = victim, point
        if slow:
            self.network.slow.add(victim)
        #: How many points there are.
        self.count = 0
        self.leaders: dict[int, str] = {}
        self.acknowledged: list[bytes] = []
        self.network.observer = self._observe

    def _observe(self, name: str) -> None:
        state = self.network.rafts[name].state
        if state.role is Role.LEADER:
            assert self.leaders.setdefault(state.term, name) == name

    def _settle(self) -> None:
        """Deliver all; a slow disk lags behind by a few messages."""
        network = self.network
        while network.queue or network.unsynced[self.victim]:
            self.count += 1
            assert self.count < 10_000, "the network does not come to rest"
            if self.count == self.point:
                _restart(network, self.victim)
            if network.queue:
                network.deliver()
            if not network.queue or self.count % 3 == 0:
                network.sync(self.victim)

    def _lead(self, name: str) -> None:
        """Let *name* lead, or another one if it cannot."""
        network = self.network
        for candidate in (name, *network.names, name):
            if network.leaders():
                return
            network.campaign(candidate)
            self._settle()
        assert network.leaders()

    def run(self) -> None:
        """Write all six."""
        network = self.network
        for number, name in enumerate(("s1", "s1", "s2", "s2", "s3", "s3")):
            if network.role(name) is not Role.LEADER:
                network.campaign(name)
                self._settle()
            self._lead(name)
            leader, command = network.leaders()[0], b"%d" % number
            network.propose(leader, command)
            self._settle()
            if command in network.commands(leader):
                self.acknowledged.append(command)

    def check(self) -> None:
        """See what everybody has when all is quiet again."""
        network = self.network
        self._lead("s1")
        (leader,) = network.leaders()
        for _ in range(3):
            network.tick(leader, network.tuning.heartbeat_ticks)
            self._settle()
        commands = network.commands(leader)
        assert [c for c in commands if c in self.acknowledged] == self.acknowledged
        assert len(set(commands)) == len(commands)
        for name in network.names:
            assert network.commands(name) == commands


class RestartTests:
    """§3.8: a server may restart at any time."""

    @pytest.mark.parametrize("victim", ["s1", "s2", "s3"])
    @pytest.mark.parametrize("slow", [False, True])
    def test_at_every_point_of_a_run(self, victim: str, *, slow: bool) -> None:
        """§3.8: nothing acknowledged is lost, repeated or in another order."""
        calm = _Run(victim, slow=slow)
        calm.run()
        points = calm.count
        assert points > 40
        assert len(calm.acknowledged) == 6
        for point in range(1, points + 1):
            run = _Run(victim, point, slow=slow)
            run.run()
            assert len(run.acknowledged) >= 5
            run.check()


class WriteOrderTests:
    """§3.8: what the disk has after a crash is what it had at some moment."""

    @pytest.mark.parametrize("synced", range(4))
    def test_a_follower_goes_on_from_any_number_of_its_writes(
        self, synced: int
    ) -> None:
        """§3.8: three writes were under way, two of them replacing entries."""
        network = alone(1, 2, 2)
        network.slow.add("s1")
        messages = [
            AppendEntries("s2", 3, 2, 1, 0, 0, tuple(entries_of(3, 3, after=2))),
            AppendEntries("s3", 4, 2, 1, 0, 0, tuple(entries_of(2, 2, 4, after=2))),
            AppendEntries("s3", 4, 5, 4, 0, 0, tuple(entries_of(4, after=5))),
        ]
        for message in messages:
            network.step("s1", message)
        assert len(network.unsynced["s1"]) == 3
        network.sync("s1", synced)
        expected = [[1, 2, 2], [1, 3, 3], [1, 2, 2, 4], [1, 2, 2, 4, 4]]
        terms = [entry.term for entry in network.disks["s1"].entries[1:]]
        assert terms == expected[synced]
        answers = network.waiting(AppendEntriesResponse)
        assert [answer.index for answer in answers] == [4, 5, 6][:synced]
        network.lose()
        _restart(network)
        network.slow.clear()
        for message in messages[1:]:
            network.step("s1", message)
        assert network.terms("s1") == [1, 2, 2, 4, 4]
