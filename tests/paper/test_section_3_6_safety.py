"""§3.6: safety."""

from __future__ import annotations

import pytest

from consensus.core.messages import (
    AppendEntries,
    AppendEntriesResponse,
    RequestVote,
    RequestVoteResponse,
)
from consensus.core.state import Tuning
from consensus.core.values import EntryKind, Role
from consensus.errors import ProtocolError
from tests.support.network import Network, alone, entries_of

_FIVE = ("s1", "s2", "s3", "s4", "s5")


class ElectionRestrictionTests:
    """§3.6.1: a candidate's log must be at least as up to date as the voter's."""

    @pytest.mark.parametrize(
        ("terms", "last_term", "last_index", "granted"),
        [
            # The log with the later last term is more up to date,
            ([2, 2, 2, 2], 3, 2, True),
            ([3], 2, 9, False),
            # and with the same last term the longer one is.
            ([2, 2], 2, 3, True),
            ([2, 2], 2, 4, True),
            ([2, 2], 2, 2, False),
        ],
    )
    def test_last_terms_are_compared_before_lengths(
        self, terms: list[int], last_term: int, last_index: int, *, granted: bool
    ) -> None:
        """§3.6.1: only if the last terms are the same does the length decide."""
        network = alone(*terms)
        request = RequestVote("s2", 5, last_index, last_term)
        assert network.step("s1", request) == [
            ("s2", RequestVoteResponse("s1", 5, granted))
        ]

    def test_a_longer_log_of_an_older_term_does_not_win(self) -> None:
        """§3.6.1: it may lack what was committed since."""
        network = Network()
        network.store("s1", 2, 2, 2, 2, 2, term=3)
        network.store("s2", 2, 3)
        network.store("s3", 2, 3)
        for _ in range(3):
            network.campaign("s1")
            network.settle()
            assert network.leaders() == []
        network.elect("s2")
        network.heartbeat("s2")
        assert network.terms("s1")[:2] == [2, 3]

    def test_entries_flow_from_leaders_to_followers_only(self) -> None:
        """§3.6.1: a winner needs nothing that the voters have."""
        network = Network()
        network.elect("s1")
        network.propose("s1", b"x")
        network.settle()
        before = network.entries("s2")
        network.elect("s2")
        assert network.entries("s2")[: len(before)] == before


class OlderTermTests:
    """§3.6.2: entries of earlier terms."""

    def test_are_not_committed_by_counting_replicas(self) -> None:
        """§3.6.2: only entries of the leader's own term are."""
        network = alone(2, 2, 2)
        network.campaign("s1")
        network.step("s1", RequestVoteResponse("s2", 3, granted=True))
        for peer in ("s2", "s3"):
            answer = AppendEntriesResponse(peer, 3, success=True, index=4, round=0)
            network.step("s1", answer)
        assert network.committed("s1") == 0

    def test_are_committed_with_the_first_of_the_leaders_term(self) -> None:
        """§3.6.2: indirectly, because of the Log Matching property."""
        network = alone(2, 2, 2)
        network.campaign("s1")
        network.step("s1", RequestVoteResponse("s2", 3, granted=True))
        answer = AppendEntriesResponse("s2", 3, success=True, index=5, round=0)
        network.step("s1", answer)
        assert network.committed("s1") == 5

    def test_keep_their_term_when_a_later_leader_sends_them(self) -> None:
        """§3.6.2: it is the same entry in every log, and in every term."""
        network = Network()
        network.store("s1", 1, 2, 4)
        network.elect("s1")
        assert network.terms("s2") == [1, 2, 4, 5]
        network.elect("s2")
        assert network.terms("s3") == [1, 2, 4, 5, 6]

    def test_a_new_leader_begins_its_term_with_a_no_op(self) -> None:
        """§3.6.2, §6.4: so that they are committed without waiting for a client."""
        network = Network()
        network.elect("s1")
        last = network.entries("s3")[-1]
        assert (last.kind, last.term, last.command) == (EntryKind.NOOP, 2, b"")
        assert network.committed("s1") == last.index


class Figure37Tests:
    """§3.6.2, figure 3.7: why replicas of an older term's entry must not count."""

    def _until_c(self) -> Network:
        """
        Play (a) to (c), message by message.

        The entry in question is ``x``, of term 2, at index 3; s1 leads term 4,
        and knows that s3 and s4 have ``x``, but not yet its no-op of term 4.
        """
        network = Network(_FIVE, tuning=Tuning(max_append_bytes=1))
        # (a) s1 leads term 2 and replicates to s2 alone.
        network.campaign("s1")
        network.pass_on(RequestVote)
        network.pass_on(RequestVoteResponse)
        network.propose("s1", b"x")
        for other in ("s3", "s4", "s5"):
            network.lose(to=other)
        network.pass_on(AppendEntries, to="s2")
        network.pass_on(AppendEntriesResponse)
        network.pass_on(AppendEntries, to="s2")
        assert network.terms("s2") == [2, 2]
        network.crash("s1")
        network.lose()
        # (b) s5 leads term 3 by the votes of s3 and s4; s2's log is longer.
        network.campaign("s5")
        network.pass_on(RequestVote)
        assert [
            m.sender for m in network.waiting(RequestVoteResponse) if m.granted
        ] == [
            "s3",
            "s4",
        ]
        network.pass_on(RequestVoteResponse)
        assert network.role("s5") is Role.LEADER
        assert network.terms("s5") == [3]
        network.crash("s5")
        network.lose()
        # (c) s1 restarts, leads term 4, and goes on with the replication.
        network.restart("s1")
        network.campaign("s1")
        network.lose()
        network.campaign("s1")
        network.pass_on(RequestVote)
        network.lose(sender="s2")
        network.pass_on(RequestVoteResponse)
        state = network.rafts["s1"].state
        assert (state.role, state.term) == (Role.LEADER, 4)
        network.lose(to="s2")
        self._deliver_without_the_no_op(network)
        assert network.terms("s3") == network.terms("s4") == [2, 2]
        for peer in ("s3", "s4"):
            assert state.progress[peer].match_index == 3
        return network

    def _deliver_without_the_no_op(self, network: Network) -> None:
        """Deliver all, but lose what would append the no-op of term 4."""
        while network.queue:
            to, message = network.queue[0]
            if (
                to in network.rafts
                and isinstance(message, AppendEntries)
                and message.prev_index == 3
                and network.terms(to) == [2, 2]
            ):
                network.queue.pop(0)
            else:
                network.deliver()

    def test_c_the_entry_is_at_a_majority_and_not_committed(self) -> None:
        """Figure 3.7 (c): four of five have it, and s1 knows of three."""
        network = self._until_c()
        assert [network.terms(name)[:2] for name in ("s1", "s2", "s3", "s4")] == [
            [2, 2]
        ] * 4
        assert network.committed("s1") == 0

    def test_d1_it_may_still_be_overwritten(self) -> None:
        """Figure 3.7 (d1): s1 crashes, and s5 wins with its entry of term 3."""
        network = self._until_c()
        network.crash("s1")
        network.restart("s5")
        network.campaign("s5")
        network.settle()
        network.elect("s5")
        network.restart("s1")
        network.heartbeat("s5")
        network.heartbeat("s5")
        for name in _FIVE:
            assert network.terms(name) == [3, 5]
            assert network.commands(name) == []

    def test_d2_it_is_safe_with_an_entry_of_the_leaders_own_term(self) -> None:
        """Figure 3.7 (d2): with the no-op at a majority, s5 cannot win."""
        network = self._until_c()
        network.heartbeat("s1")
        assert network.committed("s1") == 4
        network.crash("s1")
        network.restart("s5")
        for _ in range(3):
            network.campaign("s5")
            network.settle()
            assert network.role("s5") is not Role.LEADER
        network.elect("s3")
        network.restart("s1")
        network.heartbeat("s3")
        network.heartbeat("s3")
        for name in _FIVE:
            assert network.commands(name) == [b"x"]


class SafetyArgumentTests:
    """§3.6.3: steps of the argument, each as a fact."""

    def test_a_voter_of_the_next_leader_has_the_committed_entry(self) -> None:
        """§3.6.3, figure 3.8: every two majorities share a server."""
        network = Network(_FIVE)
        network.elect("s1")
        network.heartbeat("s1")
        network.isolate("s4", "s5")
        network.propose("s1", b"committed")
        network.settle()
        network.heal()
        network.crash("s1")
        # s5 gets the votes of those who lack the entry, and not one more.
        network.campaign("s5")
        network.pass_on(RequestVote)
        granted = [m.sender for m in network.waiting(RequestVoteResponse) if m.granted]
        assert granted == ["s4"]

    def test_who_has_voted_takes_nothing_from_an_earlier_leader(self) -> None:
        """§3.6.3, step 3: the voter accepted the entry before it voted."""
        network = alone(1)
        network.step("s1", RequestVote("s3", 4, 2, 1))
        entries = tuple(entries_of(2, after=2))
        ((_, answer),) = network.step("s1", AppendEntries("s2", 2, 2, 1, 3, 0, entries))
        assert isinstance(answer, AppendEntriesResponse)
        assert not answer.success
        assert network.terms("s1") == [1]

    def test_a_second_leader_of_a_term_is_refused(self) -> None:
        """§3.6.3 rests on Election Safety: such a message is no correct server's."""
        network = Network()
        network.elect("s1")
        before = network.entries("s1")
        message = AppendEntries("s2", 2, 1, 1, 9, 0, tuple(entries_of(2)))
        with pytest.raises(ProtocolError):
            network.rafts["s1"].step(message)
        assert network.entries("s1") == before

    def test_a_committed_entry_is_never_replaced(self) -> None:
        """§3.6.3: State Machine Safety; what conflicts with it came too late."""
        network = alone(1, 1)
        network.step("s1", AppendEntries("s2", 1, 3, 1, 3, 0))
        assert network.committed("s1") == 3
        late = AppendEntries("s3", 2, 1, 1, 0, 0, tuple(entries_of(1, 1, 2, after=1)))
        network.step("s1", late)
        assert network.terms("s1") == [1, 1, 2]
        assert network.commands("s1") == [b"2.1", b"3.1"]
