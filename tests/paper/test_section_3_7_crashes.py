"""§3.7: follower and candidate crashes."""

from __future__ import annotations

import pytest

from consensus.core.messages import (
    AppendEntries,
    AppendEntriesResponse,
    RequestVote,
    RequestVoteResponse,
)
from consensus.core.values import HardState, Role
from tests.support.network import Network, alone, entries_of


class RetryTests:
    """§3.7: requests to a server that is down fail, and are repeated."""

    def test_a_follower_that_was_down_catches_up(self) -> None:
        """§3.7: the leader retries indefinitely."""
        network = Network()
        network.elect("s1")
        network.crash("s3")
        for number in range(30):
            network.propose("s1", b"%d" % number)
            network.heartbeat("s1")
        network.restart("s3")
        network.heartbeat("s1")
        network.heartbeat("s1")
        assert network.commands("s3") == [b"%d" % number for number in range(30)]

    def test_a_candidate_asks_again_with_its_next_election(self) -> None:
        """§3.7: voters that were down are asked in a new term."""
        network = Network()
        network.crash("s2")
        network.crash("s3")
        network.campaign("s1")
        network.settle()
        assert network.role("s1") is Role.CANDIDATE
        network.restart("s2")
        network.elect("s1")

    def test_a_crashed_candidate_is_replaced(self) -> None:
        """§3.7: others lose patience, in a newer term."""
        network = Network()
        network.campaign("s1")
        network.pass_on(RequestVote)
        network.crash("s1")
        network.settle()
        network.elect("s2")
        assert network.rafts["s2"].state.term == 3

    def test_a_candidate_that_crashed_does_not_count_the_old_votes(self) -> None:
        """§3.7, §3.8: it restarts as a follower that knows of no candidacy."""
        network = Network()
        network.campaign("s1")
        network.pass_on(RequestVote)
        network.crash("s1")
        network.restart("s1")
        network.settle()
        assert network.role("s1") is Role.FOLLOWER
        assert network.disks["s1"].hard_state == HardState(2, "s1")


class IdempotenceTests:
    """§3.7: the same request again does no harm."""

    def test_entries_that_are_there_already_are_ignored(self) -> None:
        """§3.7: the follower crashed after its write and before its answer."""
        network = alone(1)
        message = AppendEntries("s2", 2, 2, 1, 0, 0, tuple(entries_of(2, 2, after=2)))
        first = network.step("s1", message)
        network.crash("s1")
        network.restart("s1")
        network.slow.add("s1")
        assert network.step("s1", message) == first
        assert not any(ready.entries for ready in network.unsynced["s1"])
        assert network.terms("s1") == [1, 2, 2]

    def test_a_vote_asked_for_twice_is_the_same_vote(self) -> None:
        """§3.7: with and without a crash between."""
        network = alone(1)
        request = RequestVote("s2", 2, 2, 1)
        granted = [("s2", RequestVoteResponse("s1", 2, granted=True))]
        assert network.step("s1", request) == granted
        assert network.step("s1", request) == granted
        network.crash("s1")
        network.restart("s1")
        assert network.step("s1", request) == granted

    @pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (0, 2, 0, 1)])
    def test_appends_may_come_twice_and_in_any_order(
        self, order: tuple[int, ...]
    ) -> None:
        """§3.7: repeats by the leader make up for what came too early."""
        network = alone(1)
        appends = [
            AppendEntries("s2", 2, index, term, 5, 0, tuple(entries_of(2, after=index)))
            for index, term in ((2, 1), (3, 2), (4, 2))
        ]
        for position in (*order, 0, 1, 2):
            network.step("s1", appends[position])
            network.step("s1", appends[position])
        assert network.terms("s1") == [1, 2, 2, 2]
        assert network.committed("s1") == 5
        assert network.commands("s1") == [b"2.1", b"3.2", b"4.2", b"5.2"]

    def test_answers_may_come_twice_and_in_any_order(self) -> None:
        """§3.7: the leader's view of a follower only grows."""
        network = alone(1)
        network.campaign("s1")
        network.step("s1", RequestVoteResponse("s2", 2, granted=True))
        network.propose("s1", b"x", b"y")
        for index in (5, 3, 4, 5, 3):
            answer = AppendEntriesResponse("s2", 2, success=True, index=index, round=0)
            network.step("s1", answer)
            assert network.rafts["s1"].state.progress["s2"].match_index == 5
            assert network.committed("s1") == 5
