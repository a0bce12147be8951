"""Changes: from one membership to the next, whoever leads meanwhile (§4)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from consensus.core.messages import AppendEntries, AppendEntriesResponse
from consensus.core.ready import MembershipChanged, MembershipCommitted
from consensus.core.values import EntryKind, Role
from consensus.errors import (
    InvalidChangeError,
    MembershipPendingError,
    NotLeaderError,
    RejectedError,
)
from tests.support.network import STABLE, Network, led

_ELECTION = STABLE.election_ticks
_THREE = ("s1", "s2", "s3")


def _joined(*names: str) -> Network:
    """Return a network that s1 leads, with new servers of these *names*."""
    network = led()
    for name in names:
        network.add(name)
    return network


class BeginTests:
    """What a leader is asked for."""

    def test_needs_a_leader(self) -> None:
        """The error says who leads."""
        network = led()
        with pytest.raises(NotLeaderError) as error:
            network.change("s2", ["s1", "s2"])
        assert error.value.leader == "s1"

    def test_is_refused_while_leadership_is_handed_over(self) -> None:
        """The heir is the one to ask."""
        network = led()
        network.transfer("s1", "s2")
        with pytest.raises(NotLeaderError) as error:
            network.change("s1", ["s1", "s2"])
        assert error.value.leader == "s2"

    def test_is_refused_before_the_no_op_is_committed(self) -> None:
        """A change of an earlier leader may be in some logs only."""
        network = Network(_THREE)
        network.campaign("s1")
        while not network.leaders():
            network.deliver()
        with pytest.raises(RejectedError, match="has just begun; ask again"):
            network.change("s1", ["s1", "s2"])
        network.settle()
        network.change("s1", ["s1", "s2"])

    @pytest.mark.parametrize(
        ("voters", "learners"), [(("s1", "s2"), ()), (_THREE, ("s9",))]
    )
    def test_is_refused_while_another_is_under_way(
        self, voters: tuple[str, ...], learners: tuple[str, ...]
    ) -> None:
        """Joint, or not committed yet; nothing is appended."""
        network = led()
        index = network.change("s1", voters, learners)
        with pytest.raises(MembershipPendingError, match="is under way"):
            network.change("s1", ["s1"])
        assert network.rafts["s1"].state.log.last_index == index

    def test_is_refused_while_somebody_has_to_catch_up(self) -> None:
        """The sentence says who."""
        network = _joined("s4", "s5")
        network.isolate("s4", "s5")
        network.change("s1", [*_THREE, "s4", "s5"])
        network.settle()
        with pytest.raises(MembershipPendingError, match=r"^s4, s5 must catch up"):
            network.change("s1", ["s1", "s2"])

    def test_may_give_up_those_who_have_to_catch_up(self) -> None:
        """The present voters are asked for, and no others."""
        network = _joined("s4")
        network.isolate("s4")
        network.change("s1", [*_THREE, "s4"])
        network.settle()
        assert network.learners("s2") == ["s4"]
        network.change("s1", _THREE)
        network.pass_time(4 * _ELECTION)
        assert network.agrees_on(*_THREE)
        network.change("s1", ["s1", "s2"])

    def test_may_name_the_membership_that_the_caller_has_seen(self) -> None:
        """Of two who have seen the same, one is refused."""
        network = led()
        seen = network.rafts["s1"].state.membership_index
        network.change("s1", _THREE, ["s4"], expected_index=seen)
        network.settle()
        with pytest.raises(InvalidChangeError, match="of entry 3 now, not of 1"):
            network.change("s1", _THREE, ["s5"], expected_index=seen)
        assert network.learners("s1") == ["s4"]
        network.change("s1", _THREE, ["s5"], expected_index=3)

    def test_of_nothing_appends_nothing(self) -> None:
        """The index is that of the present membership."""
        network = led()
        last = network.rafts["s1"].state.log.last_index
        assert network.change("s1", _THREE) == 1
        assert network.rafts["s1"].state.log.last_index == last

    def test_that_cannot_be_changes_nothing(self) -> None:
        """The cluster goes on."""
        network = led()
        with pytest.raises(InvalidChangeError, match="at least one voter"):
            network.change("s1", [])
        assert network.agrees_on(*_THREE)

    def test_of_an_address_takes_one_step(self) -> None:
        """It reaches everybody with the log."""
        network = led()
        addresses = {name: f"address of {name}" for name in _THREE} | {"s2": "moved"}
        index = network.rafts["s1"].change_membership(addresses, {})
        network.pump("s1")
        network.pass_time(_ELECTION)
        assert {network.rafts[n].state.membership_index for n in _THREE} == {index}
        assert network.rafts["s3"].state.contacts() == {
            "s1": "address of s1",
            "s2": "moved",
        }

    def test_of_an_incarnation_takes_one_step(self) -> None:
        """Those of strangers are not laid down; the same again is no change."""
        network = led()
        before = network.rafts["s1"].state.membership
        laid_down = {"s2": "ff", "s9": "00"}
        index = network.change("s1", _THREE, incarnations=laid_down)
        network.settle()
        assert network.rafts["s3"].state.membership.incarnations == {"s2": "ff"}
        assert before.incarnations == {}
        assert network.change("s1", _THREE, incarnations=laid_down) == index

    def test_does_not_lay_down_anything_in_the_membership_before(self) -> None:
        """It may count again."""
        network = _joined("s4")
        before = network.rafts["s1"].state.membership
        network.change("s1", [*_THREE, "s4"], incarnations={"s4": "ff"})
        assert network.rafts["s1"].state.membership.incarnations == {"s4": "ff"}
        assert before.incarnations == {}

    def test_takes_learners_that_have_caught_up_at_once(self) -> None:
        """They need no rounds."""
        network = _joined("s4")
        network.change("s1", _THREE, ["s4"])
        network.heartbeat("s1")
        network.change("s1", [*_THREE, "s4"])
        assert network.rafts["s1"].state.membership.is_joint
        network.pass_time(_ELECTION)
        assert network.agrees_on(*_THREE, "s4")

    def test_lets_a_silent_learner_wait(self) -> None:
        """It has caught up once, but a vote of a dead server could block all."""
        network = _joined("s4")
        network.change("s1", _THREE, ["s4"])
        network.heartbeat("s1")
        network.crash("s4")
        network.pass_time(2 * _ELECTION)
        network.change("s1", [*_THREE, "s4"])
        network.pass_time(4 * _ELECTION)
        assert network.voters("s1") == [*_THREE]
        assert network.rafts["s1"].state.membership.target == {*_THREE, "s4"}


class EventTests:
    """What is told of a change."""

    def test_every_step_is_told_when_it_is_made_and_when_it_is_committed(self) -> None:
        """At the leader and at those who follow."""
        network = led()
        for name in _THREE:
            network.events[name].clear()
        first = network.change("s1", ["s1", "s2"])
        network.pass_time(_ELECTION)
        joint = network.rafts["s1"].state.membership
        for name in _THREE:
            changes = [
                event.membership
                for event in network.events[name]
                if isinstance(event, MembershipChanged)
            ]
            assert [change.is_joint for change in changes] == [True, False]
            committed = [
                event
                for event in network.events[name]
                if isinstance(event, MembershipCommitted)
            ]
            assert [event.index for event in committed] == [first, first + 1]
            assert committed[-1].membership == joint
            # The older ones are forgotten when the newest is applied.
            assert len(network.rafts[name].state.memberships) == 1


class JointTests:
    """Both halves count (§4.3)."""

    def _joint(self) -> Network:
        """Return a network whose leader s1 is half way from 1, 2, 3 to 3, 4, 5."""
        network = _joined("s4", "s5")
        network.change("s1", _THREE, ["s4", "s5"])
        network.heartbeat("s1")
        network.change("s1", ["s3", "s4", "s5"])
        assert network.rafts["s1"].state.membership.is_joint
        return network

    @pytest.mark.parametrize("answered", [("s2",), ("s4", "s5")])
    def test_commitment_waits_for_the_other_half(
        self, answered: tuple[str, ...]
    ) -> None:
        """The leader is of the old half, and s3 is silent."""
        network = self._joint()
        network.isolate("s3")
        index, before = (
            network.rafts["s1"].state.log.last_index,
            network.committed("s1"),
        )
        for peer in answered:
            network.pass_on(AppendEntries, "s1", peer)
            network.pass_on(AppendEntriesResponse, peer, "s1")
            assert network.rafts["s1"].state.progress[peer].match_index == index
        assert network.committed("s1") == before
        network.settle()
        assert network.committed("s1") >= index

    @pytest.mark.parametrize("silent", [("s4", "s5"), ("s1", "s2")])
    def test_an_election_needs_both_halves(self, silent: tuple[str, ...]) -> None:
        """One without the other makes no leader."""
        network = self._joint()
        network.pass_on(AppendEntries)
        network.lose()
        for name in silent:
            network.crash(name)
        if "s1" in network.rafts:
            network.crash("s1")
            network.restart("s1")
        network.pass_time(20 * _ELECTION)
        assert network.leaders() == []
        network.restart(silent[0])
        network.pass_time(20 * _ELECTION)
        (chief,) = network.leaders()
        assert network.voters(chief) == ["s3", "s4", "s5"]


class CrashTests:
    """A leader that crashes in mid-change; the next one goes on."""

    def _crash(self, network: Network, chief: str = "s1") -> str:
        network.crash(chief)
        network.pass_time(6 * _ELECTION)
        (heir,) = network.leaders()
        assert heir != chief
        return heir

    def test_while_somebody_catches_up(self) -> None:
        """The next leader waits for the same."""
        network = _joined("s4")
        network.isolate("s4")
        network.change("s1", [*_THREE, "s4"])
        network.heartbeat("s1")
        heir = self._crash(network)
        network.pass_time(3 * _ELECTION)
        assert network.rafts[heir].state.membership.target == {*_THREE, "s4"}
        network.heal()
        network.restart("s1")
        network.pass_time(4 * _ELECTION)
        assert network.agrees_on(*_THREE, "s4")

    @pytest.mark.parametrize("is_committed", [False, True])
    def test_with_a_joint_membership(self, is_committed: bool) -> None:  # noqa: FBT001 - both cases
        """Committed or not, who has it in the log goes on with it."""
        network = led()
        index = network.change("s1", ["s2", "s3"])
        network.pass_on(AppendEntries)
        if is_committed:
            network.pass_on(AppendEntriesResponse)
            assert network.committed("s1") == index
        network.lose()
        heir = self._crash(network)
        assert network.voters(heir) == ["s2", "s3"]
        network.restart("s1")
        network.pass_time(2 * _ELECTION)
        assert network.agrees_on("s2", "s3")

    def test_with_a_joint_membership_that_nobody_else_has(self) -> None:
        """The change never was; its entry goes when the old leader is back."""
        network = led()
        network.change("s1", ["s1", "s2"])
        network.lose()
        heir = self._crash(network)
        network.restart("s1")
        assert network.rafts["s1"].state.membership.is_joint
        network.propose(heir, b"x")
        network.pass_time(_ELECTION)
        assert network.agrees_on(*_THREE)

    @pytest.mark.parametrize("is_committed", [False, True])
    def test_with_the_final_membership(self, is_committed: bool) -> None:  # noqa: FBT001 - both cases
        """Those who have it need no vote of who left."""
        network = led("s1", "s2", "s3", "s4")
        network.change("s1", ["s1", "s2", "s3"])
        network.pass_on(AppendEntries)
        network.pass_on(AppendEntriesResponse)
        assert not network.rafts["s1"].state.membership.is_joint
        if is_committed:
            network.pass_on(AppendEntries)
            network.pass_on(AppendEntriesResponse)
            state = network.rafts["s1"].state
            assert state.log.commit_index == state.membership_index
        network.lose()
        heir = self._crash(network)
        network.restart("s1")
        network.pass_time(3 * _ELECTION)
        assert heir in {"s2", "s3"}
        assert network.agrees_on("s1", "s2", "s3")

    def test_that_leaves_with_a_log_that_the_others_need(self) -> None:
        """Only it has the final membership, which does not name it (§4.2.2)."""
        network = led("s1", "s2")
        network.change("s1", ["s2"])
        network.pass_on(AppendEntries)
        network.pass_on(AppendEntriesResponse)
        assert network.voters("s1") == ["s2"]
        assert not network.rafts["s1"].state.membership.is_joint
        assert network.rafts["s2"].state.membership.is_joint
        network.lose()
        network.crash("s1")
        network.pass_time(5 * _ELECTION)
        assert network.leaders() == []
        network.restart("s1")
        network.pass_time(8 * _ELECTION)
        assert network.leaders() == ["s2"]
        assert network.agrees_on("s2")
        network.tick("s1", 10 * _ELECTION)
        assert network.role("s1") is Role.FOLLOWER

    def test_of_the_new_leader_too(self) -> None:
        """And of the one after it."""
        network = led("s1", "s2", "s3", "s4", "s5")
        network.change("s1", ["s3", "s4", "s5"])
        network.pass_on(AppendEntries)
        network.lose()
        heir = self._crash(network)
        network.restart("s1")
        network.pass_time(3 * _ELECTION)
        self._crash(network, heir)
        network.restart(heir)
        network.pass_time(6 * _ELECTION)
        assert network.agrees_on("s3", "s4", "s5")


class RollbackTests:
    """Entries with memberships that are truncated (§4.1)."""

    def _stranded(self, learner: str = "") -> tuple[Network, str]:
        """Return a network whose old leader s1 alone has a change; and who leads."""
        network = led()
        network.isolate("s1")
        if learner:
            network.change("s1", _THREE, [learner])
        else:
            network.change("s1", ["s1", "s2"])
        network.pass_time(4 * _ELECTION)
        (chief,) = network.leaders()
        return network, chief

    @pytest.mark.parametrize("learner", ["", "s4"])
    def test_let_what_preceded_them_count_again(self, learner: str) -> None:
        """The log is the leader's, and the membership with it."""
        network, chief = self._stranded(learner)
        before = network.rafts["s1"].state.membership
        assert sorted(before.learners) == ([learner] if learner else [])
        network.events["s1"].clear()
        network.heal()
        network.heartbeat(chief)
        state = network.rafts["s1"].state
        assert state.membership != before
        assert network.agrees_on(*_THREE)
        assert MembershipChanged(state.membership) in network.events["s1"]
        assert not any(isinstance(e, MembershipCommitted) for e in network.events["s1"])

    def test_are_read_again_after_a_restart_until_they_go(self) -> None:
        """A restart neither commits nor forgets them."""
        network, chief = self._stranded()
        network.crash("s1")
        network.restart("s1")
        assert network.rafts["s1"].state.membership.is_joint
        network.heal()
        network.heartbeat(chief)
        network.crash("s1")
        network.restart("s1")
        assert network.voters("s1") == [*_THREE]
        assert not network.rafts["s1"].state.membership.is_joint

    def test_a_member_that_was_never_told_is_forgotten(self) -> None:
        """The deposed leader's learner is nobody's."""
        network = led()
        network.add("s4")
        network.isolate("s1", "s4")
        network.change("s1", _THREE, ["s4"])
        network.settle()
        assert network.learners("s4") == ["s4"]
        network.pass_time(4 * _ELECTION)
        (chief,) = network.leaders()
        network.heal()
        network.heartbeat(chief)
        assert "s4" not in network.rafts[chief].state.progress
        assert "s4" not in network.rafts["s1"].state.contacts()

    def test_the_next_leader_may_be_asked_for_another_change(self) -> None:
        """That of the deposed one is none that is under way."""
        network, chief = self._stranded()
        network.heal()
        network.settle()
        with pytest.raises(NotLeaderError):
            network.change("s1", _THREE)
        network.change(chief, ["s2", "s3"])
        network.pass_time(2 * _ELECTION)
        assert network.agrees_on("s2", "s3")


class LearnerTests:
    """Those who get the log and nothing else (§4.2.1)."""

    def test_do_not_count_for_commitment(self) -> None:
        """However fast they are."""
        network = _joined("s4")
        network.change("s1", _THREE, ["s4"])
        network.heartbeat("s1")
        network.isolate("s2", "s3")
        index = network.propose("s1", b"x")
        network.settle()
        assert network.rafts["s1"].state.progress["s4"].match_index == index
        assert network.committed("s1") < index

    def test_do_not_keep_a_leader_in_office(self) -> None:
        """No majority of voters answers."""
        network = _joined("s4")
        network.change("s1", _THREE, ["s4"])
        network.heartbeat("s1")
        network.isolate("s1", "s4")
        network.pass_time(2 * _ELECTION)
        assert network.role("s1") is not Role.LEADER

    def test_do_not_stand(self) -> None:
        """However long they hear nobody."""
        network = _joined("s4")
        network.change("s1", _THREE, ["s4"])
        network.heartbeat("s1")
        network.isolate("s4")
        network.tick("s4", 10 * _ELECTION)
        assert network.role("s4") is Role.FOLLOWER
        assert not network.waiting(AppendEntries, "s4")

    def test_cannot_be_handed_the_leadership(self) -> None:
        """Nor are they chosen for it."""
        network = led(tuning=replace(STABLE, stable_leader=False))
        network.add("s4")
        network.change("s1", _THREE, ["s4"])
        network.heartbeat("s1")
        with pytest.raises(InvalidChangeError, match="s4 is no other voter"):
            network.transfer("s1", "s4")
        network.crash("s2")
        network.crash("s3")
        network.pass_time(_ELECTION + 2)
        assert network.rafts["s1"].state.is_alive("s4")
        with pytest.raises(InvalidChangeError, match="no other voter is alive"):
            network.transfer("s1")

    def test_are_promoted_when_they_keep_up(self) -> None:
        """Nobody has to ask again."""
        network = _joined("s4")
        network.change("s1", [*_THREE, "s4"])
        network.pass_time(3 * _ELECTION)
        assert network.agrees_on(*_THREE, "s4")
        assert network.voters("s4") == [*_THREE, "s4"]

    def test_are_not_promoted_while_they_are_too_slow(self) -> None:
        """A round that takes an election timeout is too long."""
        network = _joined("s4")
        network.change("s1", [*_THREE, "s4"])
        network.settle()
        for _ in range(6):
            # Its disk takes longer than an election timeout for each batch.
            network.slow.add("s4")
            network.propose("s1", b"x")
            network.pass_time(_ELECTION + 2)
            network.sync("s4")
        assert network.voters("s1") == [*_THREE]
        network.slow.clear()
        network.sync("s4")
        network.pass_time(3 * _ELECTION)
        assert network.agrees_on(*_THREE, "s4")

    def test_that_kept_up_once_may_lose_that_again(self) -> None:
        """One of two waits for the other, and falls behind meanwhile."""
        network = _joined("s4", "s5")
        network.isolate("s5")
        network.change("s1", [*_THREE, "s4", "s5"])
        network.pass_time(2 * _ELECTION)
        progress = network.rafts["s1"].state.progress
        assert progress["s4"].keeps_up
        network.cut |= {("s4", "s1")}
        network.propose("s1", b"x")
        network.pass_time(2 * _ELECTION)
        assert [progress[name].keeps_up for name in ("s4", "s5")] == [False, False]
        network.heal()
        network.pass_time(4 * _ELECTION)
        assert network.agrees_on(*_THREE, "s4", "s5")

    def test_are_not_promoted_while_leadership_is_handed_over(self) -> None:
        """The heir does it."""
        network = _joined("s4")
        network.change("s1", [*_THREE, "s4"])
        network.settle()
        network.isolate("s2")
        network.transfer("s1", "s2")
        network.pass_time(_ELECTION - 1)
        assert not network.rafts["s1"].state.membership.is_joint
        network.pass_time(3 * _ELECTION)
        assert network.voters("s1") == [*_THREE, "s4"]


class RemovalTests:
    """Servers that leave."""

    def test_the_leader_leads_until_it_is_out(self) -> None:
        """It counts itself not, and hands over (§4.2.2)."""
        network = led()
        network.change("s1", ["s2", "s3"])
        network.pass_on(AppendEntries)
        network.pass_on(AppendEntriesResponse)
        state = network.rafts["s1"].state
        assert network.role("s1") is Role.LEADER
        assert "s1" not in state.membership.electors()
        network.pass_on(AppendEntries, "s1", "s2")
        network.pass_on(AppendEntriesResponse, "s2", "s1")
        # s1 and s2 have it, which were a majority of three.
        assert state.membership_index > network.committed("s1")
        network.settle()
        assert network.role("s1") is Role.FOLLOWER
        (chief,) = network.leaders()
        assert network.rafts[chief].state.term == 3
        network.pass_time(10 * _ELECTION)
        assert network.leaders() == [chief]
        assert network.agrees_on("s2", "s3")

    def test_the_leader_steps_down_when_nobody_takes_over(self) -> None:
        """A transfer that fails is no reason to lead on."""
        network = led()
        network.change("s1", ["s2", "s3"])
        for _ in range(3):
            network.pass_on(AppendEntries)
            network.pass_on(AppendEntriesResponse)
        assert network.rafts["s1"].state.transferee is not None
        network.lose()
        network.isolate("s1")
        network.tick("s1", _ELECTION)
        assert network.role("s1") is Role.FOLLOWER
        network.tick("s1", 10 * _ELECTION)
        assert network.role("s1") is Role.FOLLOWER

    def test_the_leader_may_become_a_learner(self) -> None:
        """It gets the log of who takes over."""
        network = led()
        network.change("s1", ["s2", "s3"], ["s1"])
        network.pass_time(3 * _ELECTION)
        (chief,) = network.leaders()
        assert chief in {"s2", "s3"}
        network.propose(chief, b"x")
        network.pass_time(_ELECTION)
        assert network.commands("s1") == [b"x"]
        assert network.agrees_on(*_THREE)

    def test_a_removed_leader_keeps_the_heir_that_it_has(self) -> None:
        """Whoever was asked to take over is not asked again."""
        network = led()
        network.change("s1", ["s2", "s3"])
        network.pass_on(AppendEntries)
        network.isolate("s3")
        network.transfer("s1", "s3")
        network.heal()
        network.lose()
        network.tick("s1", 2)
        for _ in range(3):
            network.pass_on(AppendEntries)
            network.pass_on(AppendEntriesResponse)
        state = network.rafts["s1"].state
        assert state.membership_index <= network.committed("s1")
        assert "s1" not in state.membership.electors()
        assert state.transferee == "s3"
        network.settle()
        # Nobody asked s1 for its vote; the first heartbeat tells it.
        network.heartbeat("s1")
        assert network.leaders() == ["s3"]

    def test_a_removed_server_learns_of_it(self) -> None:
        """And does not stand any more."""
        network = led()
        network.change("s1", ["s1", "s2"])
        network.pass_time(2 * _ELECTION)
        assert "s3" not in network.rafts["s3"].state.membership.members()
        assert "s3" not in network.rafts["s1"].state.progress
        network.tick("s3", 10 * _ELECTION)
        assert network.role("s3") is Role.FOLLOWER

    def test_one_that_does_not_answer_is_told_for_a_while_only(self) -> None:
        """It may be gone for good."""
        network = led()
        network.crash("s3")
        network.change("s1", ["s1", "s2"])
        network.settle()
        assert network.rafts["s1"].state.progress["s3"].leaving
        network.pass_time(4 * _ELECTION + 1)
        assert "s3" not in network.rafts["s1"].state.progress

    def test_an_answer_of_one_that_is_forgotten_changes_nothing(self) -> None:
        """It was under way for long."""
        network = led()
        network.change("s1", ["s1", "s2"])
        network.pass_time(4 * _ELECTION + 1)
        answer = AppendEntriesResponse("s3", 2, success=True, index=2, round=0)
        assert network.step("s1", answer) == []

    def test_one_that_missed_its_removal_does_not_disturb(self) -> None:
        """Whoever hears the leader does not answer it (§4.2.3)."""
        network = led()
        network.isolate("s3")
        network.change("s1", ["s1", "s2"])
        network.pass_time(6 * _ELECTION)
        network.heal()
        network.pass_time(10 * _ELECTION)
        assert network.leaders() == ["s1"]
        assert network.rafts["s1"].state.term == 2

    def test_one_that_missed_its_removal_never_wins(self) -> None:
        """Without loyalty it disturbs, but its log is too old."""
        network = led(tuning=replace(STABLE, stable_leader=False))
        network.isolate("s3")
        network.change("s1", ["s1", "s2"])
        network.settle()
        network.tick("s3", 6 * _ELECTION)
        network.heal()
        for _ in range(20 * _ELECTION):
            network.pass_time(1)
            assert network.role("s3") is not Role.LEADER
        assert network.rafts["s3"].state.term > 3
        network.crash("s3")
        network.pass_time(6 * _ELECTION)
        assert len(network.leaders()) == 1

    def test_one_that_comes_back_gets_what_it_lacks(self) -> None:
        """With its old log, part of which was never committed."""
        network = led()
        network.isolate("s3")
        network.change("s1", ["s1", "s2"])
        network.pass_time(6 * _ELECTION)
        network.propose("s1", b"x")
        network.settle()
        network.heal()
        network.change("s1", _THREE)
        network.pass_time(6 * _ELECTION)
        assert network.agrees_on(*_THREE)
        assert network.commands("s3") == [b"x"]

    def test_one_that_is_taken_back_while_it_is_told_stays(self) -> None:
        """It is a member again, and not left out after all."""
        network = led()
        network.crash("s3")
        network.change("s1", ["s1", "s2"])
        network.settle()
        assert network.rafts["s1"].state.progress["s3"].leaving
        network.change("s1", ["s1", "s2"], ["s3"])
        network.pass_time(6 * _ELECTION)
        progress = network.rafts["s1"].state.progress["s3"]
        assert not progress.leaving
        network.restart("s3")
        network.pass_time(2 * _ELECTION)
        assert network.agrees_on(*_THREE)


class ArbitraryTests:
    """Any membership is one call away."""

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            ("s1 s2 s3", "s1 s4 s5"),
            ("s1 s2 s3", "s4 s5 s6"),
            ("s1 s2 s3", "s1"),
            ("s1 s2 s3", "s2"),
            ("s1", "s1 s2 s3"),
            ("s1", "s2"),
            ("s1 s2", "s3 s4"),
            ("s1 s2 s3 s4 s5", "s5"),
        ],
    )
    def test_is_reached_and_goes_on(self, before: str, after: str) -> None:
        """Swapped, all replaced, shrunk, grown; what was written stays."""
        network = led(*before.split())
        network.propose("s1", b"x")
        members = after.split()
        for name in members:
            if name not in network.names:
                network.add(name)
        network.change("s1", members)
        network.pass_time(10 * _ELECTION)
        assert network.agrees_on(*members)
        (chief,) = network.leaders()
        assert chief in members
        for name in set(before.split()) - set(members):
            network.crash(name)
        network.propose(chief, b"y")
        network.pass_time(_ELECTION)
        for name in members:
            assert network.commands(name) == [b"x", b"y"]

    def test_leadership_may_be_handed_over_meanwhile(self) -> None:
        """The heir goes on."""
        network = led("s1", "s2", "s3", "s4")
        network.change("s1", ["s2", "s3", "s4"])
        network.transfer("s1", "s3")
        network.pass_time(6 * _ELECTION)
        assert network.agrees_on("s2", "s3", "s4")
        assert network.leaders() != ["s1"]

    def test_a_removed_server_cannot_be_handed_the_leadership(self) -> None:
        """Though it still votes in the joint membership."""
        network = led("s1", "s2", "s3", "s4")
        network.change("s1", ["s1", "s2", "s3"])
        with pytest.raises(InvalidChangeError, match="s4 is no other voter"):
            network.transfer("s1", "s4")

    def test_the_entries_are_of_their_kind(self) -> None:
        """A joint one, and the final one."""
        network = led()
        network.change("s1", ["s1", "s2"])
        network.settle()
        kinds = [entry.kind for entry in network.entries("s2")]
        assert kinds == [
            EntryKind.MEMBERSHIP,
            EntryKind.NOOP,
            EntryKind.MEMBERSHIP,
            EntryKind.MEMBERSHIP,
        ]


class ComeBackTests:
    """A member is removed, and added again."""

    def test_its_progress_begins_anew(self) -> None:
        """What its old disk had acknowledged counts no more."""
        network = led()
        raft = network.rafts["s1"]
        network.propose("s1", b"x", b"y")
        network.settle()
        assert raft.state.progress["s3"].match_index == raft.state.log.last_index
        network.isolate("s3")
        voters = {name: name for name in ("s1", "s2")}
        raft.change_membership(voters, {})
        network.pump("s1")
        network.settle()
        assert raft.state.progress["s3"].leaving
        raft.change_membership(voters, {"s3": "s3"})
        network.pump("s1")
        progress = raft.state.progress["s3"]
        assert (progress.match_index, progress.leaving) == (0, 0)
        network.settle()
        assert raft.state.progress["s3"].match_index == 0
