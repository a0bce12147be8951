"""Replication: the follower's side, message by message."""

from __future__ import annotations

import pytest

from consensus.core.membership import Membership
from consensus.core.messages import (
    AppendEntries,
    AppendEntriesResponse,
    RequestVoteResponse,
)
from consensus.core.ready import MembershipChanged
from consensus.core.values import Entry, EntryKind, Role
from consensus.errors import ProtocolError
from tests.support.network import Network, alone, entries_of


def _append(
    prev: tuple[int, int],
    *terms: int,
    term: int = 5,
    commit: int = 0,
    sender: str = "s2",
) -> AppendEntries:
    """Return a leader's message: *terms* after the entry *prev*."""
    index, prev_term = prev
    entries = tuple(entries_of(*terms, after=index))
    return AppendEntries(sender, term, index, prev_term, commit, 0, entries)


def _answer(network: Network, message: AppendEntries) -> AppendEntriesResponse:
    """Return the only answer of s1 to *message*."""
    ((peer, answer),) = network.step("s1", message)
    assert peer == message.sender
    assert isinstance(answer, AppendEntriesResponse)
    return answer


class OnAppendTests:
    """A follower."""

    def test_takes_what_follows_its_log(self) -> None:
        """The answer says how far the logs are known to be the same."""
        network = alone(1)
        answer = _answer(network, _append((2, 1), 5, 5))
        assert (answer.success, answer.index, answer.term) == (True, 4, 5)
        assert network.terms("s1") == [1, 5, 5]

    def test_repeats_the_round(self) -> None:
        """It confirms the reads that wait for it (§6.4)."""
        network = alone(1)
        for prev in (1, 9):
            message = AppendEntries("s2", 5, prev, 1, 0, round=7)
            assert _answer(network, message).round == 7

    @pytest.mark.parametrize("prev", [(3, 1), (2, 2), (9, 5)])
    def test_rejects_what_does_not_follow(self, prev: tuple[int, int]) -> None:
        """The entry before is not there, or of another term."""
        network = alone(1)
        answer = _answer(network, _append(prev, 5))
        assert (answer.success, answer.index) == (False, prev[0])
        assert network.terms("s1") == [1]

    def test_hints_at_the_end_of_its_log(self) -> None:
        """There is nothing above to agree on."""
        answer = _answer(alone(1, 1, 3), _append((9, 5), 5))
        assert (answer.hint_index, answer.hint_term) == (4, 3)

    def test_hints_below_terms_newer_than_the_leaders(self) -> None:
        """Its 4 4 cannot be in a log that has 3 further on."""
        answer = _answer(alone(1, 2, 4, 4), _append((5, 3), 5))
        assert (answer.hint_index, answer.hint_term) == (3, 2)

    def test_replaces_a_conflict(self) -> None:
        """What the leader has counts; the answer waits for the disk."""
        network = alone(1, 2, 2, 2)
        network.slow.add("s1")
        assert network.step("s1", _append((2, 1), 3)) == []
        assert network.terms("s1") == [1, 3]
        network.sync("s1")
        ((_, answer),) = network.queue
        assert isinstance(answer, AppendEntriesResponse)
        assert (answer.success, answer.index) == (True, 3)

    def test_answers_what_it_has_at_once(self) -> None:
        """No write is under way that the answer speaks of."""
        network = alone(1, 1)
        _answer(network, _append((3, 1), 5))
        network.slow.add("s1")
        network.step("s1", _append((4, 5), 5))
        assert _answer(network, _append((2, 1), 1)).index == 3

    def test_answers_a_heartbeat_about_unsynced_entries_twice(self) -> None:
        """At once for what is on disk, and for the rest after its sync."""
        network = alone(1)
        _answer(network, _append((2, 1)))
        network.slow.add("s1")
        assert network.step("s1", _append((2, 1), 5)) == []
        ((_, at_once),) = network.step("s1", _append((3, 5)))
        assert isinstance(at_once, AppendEntriesResponse)
        assert (at_once.success, at_once.index) == (True, 2)
        network.queue.clear()
        network.sync("s1")
        assert [m.index for m in network.waiting(AppendEntriesResponse)] == [3, 3]

    def test_does_not_speak_of_entries_that_the_message_did_not_check(self) -> None:
        """Its log goes on; nobody said that the leader's goes on the same."""
        network = alone(1, 2, 2, 2)
        answer = _answer(network, _append((2, 1)))
        assert (answer.success, answer.index) == (True, 2)

    def test_commits_as_far_as_the_leader_and_the_check_go(self) -> None:
        """The lesser of the commit index and the last checked entry."""
        network = alone(1, 2, 2, 2)
        _answer(network, _append((2, 1), commit=4))
        assert network.committed("s1") == 2
        _answer(network, _append((2, 1), 2, 2, commit=3))
        assert network.committed("s1") == 3

    def test_never_takes_the_commit_index_back(self) -> None:
        """A late message knows of less."""
        network = alone(1, 1)
        _answer(network, _append((3, 1), commit=3))
        _answer(network, _append((3, 1), commit=1))
        assert network.committed("s1") == 3

    def test_of_committed_entries_is_a_success(self) -> None:
        """What is committed here the leader has too, whatever came late."""
        network = alone(1, 1, 1)
        _answer(network, _append((4, 1), commit=4))
        for late in (_append((0, 0), 1), _append((2, 1), 1), _append((2, 1), 1, 1, 5)):
            answer = _answer(network, late)
            assert answer.success
            assert answer.index == late.prev_index + len(late.entries)
        assert network.terms("s1") == [1, 1, 1, 5]

    def test_makes_the_sender_the_leader(self) -> None:
        """Even if the logs do not agree yet."""
        network = alone(1)
        network.tick("s1", 9)
        _answer(network, _append((9, 5)))
        state = network.rafts["s1"].state
        assert (state.leader, state.term, state.elapsed) == ("s2", 5, 0)

    def test_ends_a_candidacy_in_the_same_term(self) -> None:
        """Somebody else has won."""
        network = alone(1)
        network.campaign("s1")
        _answer(network, _append((2, 1), term=2))
        state = network.rafts["s1"].state
        assert (state.role, state.leader, state.term) == (Role.FOLLOWER, "s2", 2)

    @pytest.mark.parametrize("terms", [(0,), (0, 5), (6,), (5, 6), (5, 4)])
    def test_refuses_entries_of_impossible_terms(self, terms: tuple[int, ...]) -> None:
        """Terms begin with 1, never decrease, and end with the leader's."""
        network = alone()
        with pytest.raises(ProtocolError, match=r"term"):
            network.rafts["s1"].step(_append((1, 1), *terms))
        assert network.terms("s1") == []
        assert network.committed("s1") == 0

    def test_refuses_entries_of_term_0_on_an_empty_log(self) -> None:
        """Where nothing is, the term reads as 0; that is no agreement."""
        network = Network(["s1", "s2"], founders=())
        message = AppendEntries("s2", 1, 0, 0, 9, 0, tuple(entries_of(0, 0, after=0)))
        with pytest.raises(ProtocolError, match=r"term"):
            network.rafts["s1"].step(message)
        assert network.committed("s1") == 0


class MembershipEntryTests:
    """An entry that says who belongs to the cluster."""

    def _message(self, term: int, command: bytes) -> AppendEntries:
        entry = Entry(1, term, EntryKind.MEMBERSHIP, command)
        return AppendEntries("s2", 5, 0, 0, 0, 0, (entry, *entries_of(5)))

    def test_is_used_as_soon_as_it_is_in_the_log(self) -> None:
        """A server that knew of no cluster learns of it from the leader."""
        network = Network(["s1", "s2"], founders=())
        membership = Membership({"s1": "a", "s2": "b"})
        network.step("s1", self._message(1, membership.encode()))
        assert network.rafts["s1"].state.membership == membership
        assert MembershipChanged(membership) in network.events["s1"]

    def test_that_the_log_has_already_is_no_news(self) -> None:
        """A repeated message changes nothing."""
        network = Network(["s1", "s2"], founders=())
        message = self._message(1, Membership({"s1": "a", "s2": "b"}).encode())
        network.step("s1", message)
        network.events["s1"].clear()
        network.step("s1", message)
        assert network.events["s1"] == []

    def test_of_the_log_stays_when_later_entries_are_new(self) -> None:
        """Only what was replaced or added counts."""
        network = alone()
        before = network.rafts["s1"].state.membership
        network.step("s1", self._message(1, before.encode()))
        assert network.rafts["s1"].state.membership is before
        assert network.terms("s1") == [5]

    def test_that_cannot_be_read_is_refused_with_the_whole_message(self) -> None:
        """Nothing of it is in the log then."""
        network = Network(["s1", "s2"], founders=())
        with pytest.raises(ProtocolError, match=r"not a membership"):
            network.rafts["s1"].step(self._message(1, b"?"))
        assert network.entries("s1") == []
        assert network.rafts["s1"].state.leader is None


class OnAppendAsLeaderTests:
    """Two leaders of one term."""

    def test_cannot_be(self) -> None:
        """Election Safety: the other one is no correct server."""
        network = alone(1)
        network.campaign("s1")
        network.step("s1", RequestVoteResponse("s2", 2, granted=True))
        with pytest.raises(ProtocolError, match=r"s2 claims to lead term 2"):
            network.rafts["s1"].step(_append((2, 1), term=2))
        assert network.role("s1") is Role.LEADER
