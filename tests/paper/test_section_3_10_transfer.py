"""§3.10: a leader hands leadership over."""

from __future__ import annotations

from dataclasses import replace

import pytest

from consensus.core.messages import (
    AppendEntries,
    AppendEntriesResponse,
    RequestPreVote,
    RequestVote,
    TimeoutNow,
)
from consensus.core.ready import TransferFailed
from consensus.core.values import HardState, Role
from consensus.errors import NotLeaderError
from tests.support.network import STABLE, Network, led

_ELECTION = STABLE.election_ticks
_FIVE = ("s1", "s2", "s3", "s4", "s5")
#: How long a leader leads before it thinks of one that is preferred.
_PATIENCE = 10 * _ELECTION


class TransferTests:
    """§3.10: the steps."""

    @pytest.mark.parametrize("is_stable", [False, True])
    def test_no_election_timeout_passes(self, *, is_stable: bool) -> None:
        """§3.10: not a single tick; and loyalty is no obstacle (§4.2.3)."""
        network = led(tuning=replace(STABLE, stable_leader=is_stable))
        assert network.transfer("s1", "s2") == "s2"
        network.settle()
        assert network.leaders() == ["s2"]
        for name in network.names:
            state = network.rafts[name].state
            assert (state.leader, state.term) == ("s2", 3)
        network.pass_time(5 * _ELECTION)
        assert network.leaders() == ["s2"]
        assert TransferFailed("s2") not in network.events["s1"]

    def test_the_target_stands_without_asking_around(self) -> None:
        """§3.10, §9.6: in a new term at once, with the leader's consent."""
        network = led()
        network.transfer("s1", "s2")
        assert network.waiting(TimeoutNow, "s1", "s2") == [TimeoutNow("s1", 2)]
        network.pass_on(TimeoutNow)
        assert network.role("s2") is Role.CANDIDATE
        assert network.disks["s2"].hard_state == HardState(3, "s2")
        assert network.waiting(RequestPreVote) == []
        request = RequestVote("s2", 3, 2, 2, transfer=True)
        assert network.waiting(RequestVote) == [request, request]

    def test_the_target_gets_what_it_lacks_first(self) -> None:
        """§3.10: it could not win otherwise."""
        network = led()
        network.isolate("s2")
        network.propose("s1", b"x", b"y")
        network.settle()
        network.heal()
        network.transfer("s1", "s2")
        assert network.waiting(TimeoutNow) == []
        network.tick("s1", STABLE.heartbeat_ticks)
        for message in network.deliveries():
            if isinstance(message, TimeoutNow):
                break
            assert network.role("s1") is Role.LEADER
        assert network.terms("s2") == [2, 2, 2]
        assert network.disks["s2"].hard_state == HardState(3, "s2")
        network.settle()
        assert network.leaders() == ["s2"]
        assert network.commands("s2") == [b"x", b"y"]

    def test_entries_under_way_are_waited_for(self) -> None:
        """§3.10: those that are not committed yet, too; none is lost."""
        network = led()
        network.propose("s1", b"x")
        network.transfer("s1", "s2")
        assert network.waiting(TimeoutNow) == []
        network.settle()
        assert network.leaders() == ["s2"]
        assert [network.commands(name) for name in network.names] == [[b"x"]] * 3

    def test_the_target_is_asked_once(self) -> None:
        """§3.10: each of its later answers would else depose it."""
        network = led()
        network.transfer("s1", "s2")
        network.lose()
        network.heartbeat("s1")
        assert network.rafts["s2"].state.term == 2
        assert network.leaders() == ["s1"]

    def test_writes_are_refused_meanwhile(self) -> None:
        """§3.10, step 1: the error names the heir, and nothing is appended."""
        network = led()
        network.transfer("s1", "s2")
        with pytest.raises(NotLeaderError) as error:
            network.propose("s1", b"x")
        assert (error.value.leader, error.value.address) == ("s2", "address of s2")
        assert network.terms("s1") == [2]

    def test_reads_go_on_meanwhile(self) -> None:
        """§3.10, §6.4: it still leads, and a round of heartbeats shows it."""
        network = led()
        network.transfer("s1", "s2")
        network.lose()
        network.read("s1", 7)
        network.settle()
        assert [read_id for read_id, _ in network.reads["s1"]] == [7]

    def test_nobody_but_the_target_is_asked(self) -> None:
        """§3.10: the others' answers begin nothing."""
        network = led()
        network.isolate("s2")
        network.propose("s1", b"x")
        network.transfer("s1", "s2")
        network.heartbeat("s1")
        assert network.leaders() == ["s1"]
        assert network.rafts["s3"].state.term == 2


class FailureTests:
    """§3.10: the target does not take over within an election timeout."""

    def test_the_leader_goes_on(self) -> None:
        """§3.10: after an election timeout, not before; it takes writes again."""
        network = led()
        network.crash("s2")
        network.transfer("s1", "s2")
        network.pass_time(_ELECTION - 1)
        with pytest.raises(NotLeaderError):
            network.propose("s1", b"x")
        assert TransferFailed("s2") not in network.events["s1"]
        network.pass_time(1)
        assert network.events["s1"][-1] == TransferFailed("s2")
        network.propose("s1", b"x")
        network.settle()
        assert network.commands("s3") == [b"x"]
        assert (network.leaders(), network.rafts["s1"].state.term) == (["s1"], 2)

    def test_it_is_told_of_once(self) -> None:
        """§3.10: the transfer is over then."""
        network = led()
        network.crash("s2")
        network.transfer("s1", "s2")
        network.pass_time(20 * _ELECTION)
        assert network.events["s1"].count(TransferFailed("s2")) == 1

    def test_another_attempt_may_succeed(self) -> None:
        """§3.10: the target is asked anew."""
        network = led()
        network.transfer("s1", "s2")
        network.lose()
        network.pass_time(_ELECTION)
        assert network.events["s1"][-1] == TransferFailed("s2")
        network.transfer("s1", "s2")
        network.settle()
        assert network.leaders() == ["s2"]

    def test_a_request_that_comes_late_is_harmless(self) -> None:
        """§3.10: what was written since is missing in no new leader."""
        network = led()
        network.transfer("s1", "s2")
        (late,) = network.waiting(TimeoutNow)
        network.lose()
        network.isolate("s2")
        network.pass_time(_ELECTION)
        network.propose("s1", b"x")
        network.settle()
        assert network.commands("s1") == [b"x"]
        network.heal()
        network.rafts["s2"].step(late)
        network.pump("s2")
        network.pass_time(10 * _ELECTION)
        (leader,) = network.leaders()
        assert leader != "s2"
        assert [network.commands(name) for name in network.names] == [[b"x"]] * 3

    def test_a_request_of_an_earlier_term_is_ignored(self) -> None:
        """§3.10, §3.3: that leader leads no more."""
        network = led()
        network.transfer("s1", "s2")
        network.settle()
        before = network.disks["s3"].hard_state
        assert network.step("s3", TimeoutNow("s1", 2)) == []
        assert network.role("s3") is Role.FOLLOWER
        assert network.disks["s3"].hard_state == before

    def test_a_leader_that_steps_down_hands_nothing_over(self) -> None:
        """§3.10, §6.2: neither then nor when it leads again."""
        network = led()
        network.isolate("s1")
        network.propose("s1", b"x")
        network.tick("s1", _ELECTION - 1)
        network.transfer("s1", "s2")
        network.tick("s1")
        assert network.role("s1") is Role.FOLLOWER
        network.lose()
        network.heal()
        network.tick("s2", _ELECTION)
        network.lose()
        network.elect("s1")
        network.propose("s1", b"y")
        network.pass_time(2 * _ELECTION)
        assert network.leaders() == ["s1"]


class ChoiceTests:
    """§3.10: to whom."""

    def test_a_second_choice_replaces_the_first(self) -> None:
        """§3.10: which was not to be reached, perhaps."""
        network = led()
        network.crash("s2")
        network.transfer("s1", "s2")
        network.transfer("s1", "s3")
        network.settle()
        assert network.leaders() == ["s3"]

    def test_a_second_choice_has_a_whole_timeout(self) -> None:
        """§3.10: the first one's failure is told of no more."""
        network = led()
        network.transfer("s1", "s2")
        network.lose()
        network.pass_time(_ELECTION - 1)
        network.transfer("s1", "s3")
        network.lose()
        network.pass_time(_ELECTION - 1)
        with pytest.raises(NotLeaderError) as error:
            network.propose("s1", b"x")
        assert error.value.leader == "s3"
        network.pass_time(1)
        failures = [e for e in network.events["s1"] if isinstance(e, TransferFailed)]
        assert failures == [TransferFailed("s3")]

    def test_by_default_whoever_has_most_of_the_log(self) -> None:
        """§3.10: so that it takes the least time."""
        network = led()
        network.propose("s1", b"x")
        network.pass_on(AppendEntries, to="s3")
        network.pass_on(AppendEntriesResponse)
        assert network.transfer("s1") == "s3"
        network.settle()
        assert network.leaders() == ["s3"]

    def test_by_default_nobody_that_is_dead(self) -> None:
        """§3.10: though it had all of the log when it was last heard."""
        network = led()
        network.crash("s2")
        network.pass_time(_ELECTION)
        assert network.transfer("s1") == "s3"
        network.settle()
        assert network.leaders() == ["s3"]


def _prefer(*preferred: str, names: tuple[str, ...] = (), seed: int = 0) -> Network:
    """Return a network in which s1 leads, and others should."""
    return led(*names, tuning=replace(STABLE, preferred=preferred), seed=seed)


def _wait(network: Network) -> None:
    """Let time pass until s1 is about to think of those that are preferred."""
    network.pass_time(_PATIENCE - 1 - network.rafts["s1"].state.reign)
    assert network.leaders() == ["s1"]


class PreferenceTests:
    """§3.10: some servers are more suitable to lead than others."""

    def test_a_preferred_server_takes_over(self) -> None:
        """§3.10: once the leader has led for ten election timeouts; to stay."""
        network = _prefer("s2", "s1")
        _wait(network)
        network.pass_time(1)
        assert (network.leaders(), network.rafts["s2"].state.term) == (["s2"], 3)
        network.pass_time(3 * _PATIENCE)
        assert (network.leaders(), network.rafts["s2"].state.term) == (["s2"], 3)

    def test_it_takes_over_from_one_that_leads_again(self) -> None:
        """§3.10: the patience begins with each reign, whatever was before."""
        network = _prefer("s2")
        network.crash("s2")
        network.pass_time(_PATIENCE)
        network.transfer("s1", "s3")
        network.settle()
        network.pass_time(_ELECTION)
        network.transfer("s3", "s1")
        network.settle()
        assert network.leaders() == ["s1"]
        network.restart("s2")
        network.pass_time(_PATIENCE)
        assert network.leaders() == ["s2"]

    @pytest.mark.parametrize("preferred", [("s1", "s2"), ("s1",), ()])
    def test_the_most_preferred_one_leads_on(self, preferred: tuple[str, ...]) -> None:
        """§3.10: so does any leader if nobody is preferred."""
        network = _prefer(*preferred)
        network.pass_time(3 * _PATIENCE)
        assert network.leaders() == ["s1"]
        assert network.rafts["s1"].state.term == 2

    def test_not_while_it_is_dead(self) -> None:
        """§3.10: writes go on; the next best one takes over meanwhile."""
        network = _prefer("s2", "s3")
        network.crash("s2")
        network.pass_time(_PATIENCE)
        assert network.leaders() == ["s3"]
        network.pass_time(3 * _PATIENCE)
        assert network.leaders() == ["s3"]
        assert TransferFailed("s2") not in network.events["s3"]
        network.restart("s2")
        network.pass_time(_ELECTION)
        assert network.leaders() == ["s2"]

    def test_not_before_it_has_caught_up(self) -> None:
        """§3.10: the leader takes writes until its heir has what is committed."""
        network = _prefer("s2")
        network.isolate("s2")
        network.propose("s1", b"x")
        _wait(network)
        network.heal()
        # It answers, from the end of its log; the entry is lost on the way.
        network.tick("s1")
        for message in network.deliveries():
            if isinstance(message, AppendEntriesResponse) and message.sender == "s2":
                break
        network.lose()
        progress = network.rafts["s1"].state.progress["s2"]
        assert progress.match_index < network.committed("s1")
        assert network.rafts["s1"].state.is_alive("s2")
        network.tick("s1")
        network.propose("s1", b"y")
        network.pass_time(_ELECTION)
        assert network.leaders() == ["s2"]
        assert network.commands("s2") == [b"x", b"y"]

    def test_a_name_that_is_no_member_is_passed_over(self) -> None:
        """§3.10: the preference may be older than the membership."""
        network = _prefer("s9", "s2")
        network.pass_time(_PATIENCE)
        assert network.leaders() == ["s2"]

    def test_one_that_never_stands_costs_a_tenth_of_the_time(self) -> None:
        """§3.10: what asks it to is lost, always; the leader leads on."""
        network = _prefer("s2")
        refused = 0
        for _ in range(5 * _PATIENCE):
            for name in network.names:
                network.tick(name)
            while network.queue:
                if isinstance(network.queue[0][1], TimeoutNow):
                    network.queue.pop(0)
                else:
                    network.deliver()
            try:
                network.propose("s1", b"x")
            except NotLeaderError:
                refused += 1
        assert network.leaders() == ["s1"]
        assert network.rafts["s1"].state.term == 2
        assert 0 < refused <= 5 * _ELECTION

    @pytest.mark.parametrize("seed", range(5))
    def test_one_that_cannot_win_does_not_stop_the_cluster(self, seed: int) -> None:
        """
        §3.10: of five, s2 reaches s1 alone; so it seems to be alive.

        It stands when s1 wants it to, deposes s1, and fails.  The cluster
        finds a leader again each time, and writes for most of the time.
        """
        network = _prefer("s2", names=_FIVE, seed=seed)
        for name in ("s3", "s4", "s5"):
            network.cut |= {("s2", name), (name, "s2")}
        written = 0
        for number in range(10 * _PATIENCE):
            network.pass_time(1)
            for name in network.leaders():
                try:
                    network.propose(name, str(number).encode())
                except NotLeaderError:
                    continue
                network.settle()
                written += str(number).encode() in network.commands(name)
        assert max(network.rafts[name].state.term for name in network.names) > 3
        assert written > 0.7 * 10 * _PATIENCE
