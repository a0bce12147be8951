"""Transfer: to whom, when, and for how long."""

from __future__ import annotations

from dataclasses import replace

import pytest

from consensus.core import transfer
from consensus.core.messages import (
    AppendEntriesResponse,
    RequestPreVoteResponse,
    RequestVoteResponse,
    TimeoutNow,
)
from consensus.core.ready import TransferFailed
from consensus.core.values import Role
from consensus.errors import NotLeaderError
from tests.support.network import STABLE, Network, alone

_ELECTION = STABLE.election_ticks
_PATIENCE = 10 * _ELECTION
_FIVE = ("s1", "s2", "s3", "s4", "s5")


def _leader(*preferred: str) -> Network:
    """Return s1 as leader of term 2, of five, alone; its log ends at index 3."""
    network = alone(1, names=_FIVE, tuning=replace(STABLE, preferred=preferred))
    network.campaign("s1")
    for peer in ("s2", "s3"):
        network.step("s1", RequestPreVoteResponse(peer, 1, granted=True))
    for peer in ("s2", "s3"):
        network.step("s1", RequestVoteResponse(peer, 2, granted=True))
    assert network.role("s1") is Role.LEADER
    return network


def _has(network: Network, **indexes: int) -> list[str]:
    """Let peers have the log up to an index; return who is asked to stand."""
    asked = []
    for peer, index in indexes.items():
        answer = AppendEntriesResponse(peer, 2, success=True, index=index, round=0)
        sent = network.step("s1", answer)
        asked += [to for to, message in sent if isinstance(message, TimeoutNow)]
    return asked


def _wait(network: Network, ticks: int, **indexes: int) -> None:
    """Let *ticks* pass, one by one, at each of which peers answer."""
    for _ in range(ticks):
        network.tick("s1")
        network.queue.clear()
        assert _has(network, **indexes) == []


class BeginTests:
    """The start of a transfer."""

    def test_asks_at_once_whoever_has_the_whole_log(self) -> None:
        """Durably, as far as its last answer goes."""
        network = _leader()
        _has(network, s3=3)
        network.queue.clear()
        network.transfer("s1", "s3")
        assert network.queue == [("s3", TimeoutNow("s1", 2))]

    def test_asks_nobody_who_lacks_the_last_entry(self) -> None:
        """Though what it has may be all that is committed."""
        network = _leader()
        network.propose("s1", b"x")
        _has(network, s2=3, s3=3)
        network.queue.clear()
        network.transfer("s1", "s3")
        assert network.queue == []
        assert _has(network, s2=4) == []
        assert _has(network, s3=4) == ["s3"]

    def test_asks_the_same_one_again_if_it_is_chosen_again(self) -> None:
        """Its first message may be lost; an answer alone repeats nothing."""
        network = _leader()
        _has(network, s3=3)
        network.transfer("s1", "s3")
        network.queue.clear()
        assert _has(network, s3=3) == []
        network.transfer("s1", "s3")
        assert network.waiting(TimeoutNow) == [TimeoutNow("s1", 2)]


class TickTests:
    """Time."""

    def test_a_transfer_is_given_up_after_an_election_timeout(self) -> None:
        """Counted from its beginning, whenever that was."""
        network = _leader()
        _wait(network, 3 * _ELECTION, s2=1, s3=1)
        network.transfer("s1", "s3")
        _wait(network, _ELECTION - 1, s2=1, s3=1)
        assert not _failures(network)
        with pytest.raises(NotLeaderError):
            network.propose("s1", b"x")
        _wait(network, 1, s2=1, s3=1)
        assert _failures(network) == [TransferFailed("s3")]
        assert network.propose("s1", b"x") == 4

    def test_whoever_is_asked_to_stand_then_is_not_asked_afterwards(self) -> None:
        """It catches up too late; nobody is handed anything."""
        network = _leader()
        network.transfer("s1", "s3")
        _wait(network, _ELECTION, s2=1, s3=1)
        assert _has(network, s3=3) == []

    @pytest.mark.parametrize("match_index", [2, 3])
    def test_a_preferred_peer_has_to_have_what_is_committed(
        self, match_index: int
    ) -> None:
        """Then the leader stops taking writes, until it has the rest."""
        network = _leader("s2")
        _wait(network, _PATIENCE - 1, s2=match_index, s3=3, s4=3)
        assert network.committed("s1") == 3
        network.tick("s1")
        chosen = network.rafts["s1"].state.transferee
        assert chosen == (None if match_index == 2 else "s2")

    def test_a_preferred_peer_need_not_have_more_than_that(self) -> None:
        """Else a leader that writes all the time would never hand over."""
        network = _leader("s2")
        _wait(network, _PATIENCE - 1, s2=3, s3=3, s4=3)
        network.propose("s1", b"x")
        network.tick("s1")
        assert network.rafts["s1"].state.transferee == "s2"
        assert network.waiting(TimeoutNow) == []
        assert _has(network, s2=4) == ["s2"]

    def test_a_preferred_peer_has_to_be_alive(self) -> None:
        """It is thought of as soon as it answers."""
        network = _leader("s2")
        _has(network, s2=3)
        _wait(network, _PATIENCE + 5, s3=3, s4=3)
        assert network.rafts["s1"].state.transferee is None
        _has(network, s2=3)
        network.tick("s1")
        assert network.rafts["s1"].state.transferee == "s2"

    def test_a_failure_is_not_repeated_at_once(self) -> None:
        """The next attempt comes as long after the last as that after the start."""
        network = _leader("s2")
        _wait(network, _PATIENCE - 1, s2=3, s3=3, s4=3)
        began = []
        for tick in range(_PATIENCE, 3 * _PATIENCE + 1):
            network.tick("s1")
            network.queue.clear()
            _has(network, s2=3, s3=3, s4=3)
            state = network.rafts["s1"].state
            if state.transferee and state.transfer_began == tick:
                began.append(tick)
        assert began == [_PATIENCE, 2 * _PATIENCE, 3 * _PATIENCE]
        assert _failures(network) == [TransferFailed("s2")] * 2

    def test_the_first_of_several_preferred_peers_is_chosen(self) -> None:
        """The order says how much each is preferred."""
        network = _leader("s9", "s4", "s2", "s1", "s3")
        _wait(network, _PATIENCE - 1, s2=3, s3=3, s4=3)
        network.tick("s1")
        assert network.rafts["s1"].state.transferee == "s4"

    def test_nobody_who_is_less_preferred_than_the_leader_is(self) -> None:
        """Not even if all that are more so are dead."""
        network = _leader("s9", "s4", "s1", "s3")
        _wait(network, 2 * _PATIENCE, s2=3, s3=3)
        assert network.rafts["s1"].state.transferee is None


def _failures(network: Network) -> list[TransferFailed]:
    return [e for e in network.events["s1"] if isinstance(e, TransferFailed)]


class SuccessorTests:
    """Who should lead next, if nobody is named."""

    def test_is_whoever_has_most_of_the_log(self) -> None:
        """However much another is preferred."""
        network = _leader("s2")
        _has(network, s2=2, s3=1, s4=3, s5=2)
        assert transfer.successor(network.rafts["s1"].state) == "s4"

    def test_among_equals_the_one_preferred_most(self) -> None:
        """Before those that are not preferred at all."""
        network = _leader("s9", "s5", "s4")
        _has(network, s2=3, s3=3, s4=3, s5=3)
        assert transfer.successor(network.rafts["s1"].state) == "s5"

    def test_is_somebody_alive(self) -> None:
        """A dead peer may have more of the log than all others."""
        network = _leader()
        _has(network, s2=3)
        _wait(network, _ELECTION, s3=1, s4=2)
        assert transfer.successor(network.rafts["s1"].state) == "s4"

    def test_is_nobody_if_nobody_is_alive(self) -> None:
        """The leader itself is about to step down then."""
        network = _leader()
        network.rafts["s1"].state.reign = _ELECTION
        assert transfer.successor(network.rafts["s1"].state) is None
