"""Tests of the simulator: it does what it says, and finds what it should."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from consensus.applying.applier import Applier
from consensus.core import changes, dispatch, election, reads, replication
from consensus.core.messages import (
    RequestReadIndexResponse,
    RequestVote,
    RequestVoteResponse,
)
from consensus.core.state import State
from consensus.core.values import HardState, Role
from consensus.errors import CommandFailedError, OverloadedError, RaftError
from consensus.sessions import Sessions
from consensus.testing.faults import KINDS, LEADER, Fault, draw_plan, play
from consensus.testing.sim_disk import SimulatedStorage
from consensus.testing.sim_network import Conditions
from consensus.testing.simulation import (
    Scenario,
    run,
)
from consensus.testing.simulator import SimulatedCluster, SimulationError
from tests.support.servers import Register
from tests.support.simulations import scenario_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from consensus.core.messages import Message
    from consensus.testing.sim_server import SimulatedServer

#: Prints a digest of some runs.
DIGESTS = """
import hashlib
from consensus.testing.simulation import run
from tests.support.simulations import scenario_of
for seed in range(3):
    text = run(scenario_of(seed, 4.0), seed).trace.digest()
    print(hashlib.sha256(text.encode()).hexdigest())
"""


def raft_end(server: SimulatedServer) -> int:
    """Return the last index of a running server's log."""
    assert server.raft is not None
    return server.raft.state.log.last_index


class ClusterTests:
    """What a test can do with a cluster."""

    def test_writes_and_reads(self) -> None:
        """A client finds the leader, and gets what the machine says."""
        cluster = SimulatedCluster(Register)
        assert cluster.write(["set", "x", 1]) is None
        assert cluster.write(["set", "x", 2]) == 1
        assert cluster.read("x") == 2
        with pytest.raises(CommandFailedError, match="no such thing"):
            cluster.write(["fail", "no such thing"])
        cluster.check()

    def test_a_minority_elects_nobody(self) -> None:
        """The rest of a partitioned cluster goes on; the others come back."""
        cluster = SimulatedCluster(Register, 5, seed=4)
        old = cluster.leader().name
        other = next(name for name in cluster.names if name != old)
        cluster.partition([old, other])
        cluster.run(2.0)
        assert cluster.leader().name not in {old, other}
        assert cluster.servers[old].status().role != "leader"
        cluster.write(["set", "x", 1])
        cluster.heal()
        cluster.check()
        assert cluster.servers[old].state == {"x": 1}

    def test_a_silent_leader_is_replaced(self) -> None:
        """It hears the others, but nobody hears it."""
        cluster = SimulatedCluster(Register, seed=2)
        old = cluster.leader().name
        cluster.partition(old, one_way=True)
        cluster.run(2.0)
        assert cluster.leader().name != old

    def test_what_was_acknowledged_survives_a_crash_of_all(self) -> None:
        """The disks have it, whatever else they lost."""
        cluster = SimulatedCluster(Register, seed=5)
        for number in range(20):
            cluster.write(["set", "x", number])
        cluster.crash(*cluster.names)
        cluster.run(1.0)
        assert not cluster.servers
        cluster.restart(*cluster.names)
        assert cluster.read("x") == 19

    def test_a_paused_leader_does_not_answer_from_its_past(self) -> None:
        """What happened while it slept is read after it wakes up."""
        cluster = SimulatedCluster(Register, seed=6)
        cluster.write(["set", "x", 1])
        old = cluster.leader()
        cluster.pause(old.name)
        cluster.run(2.0)
        cluster.result(cluster.leader().write(["set", "x", 2]))
        asked = old.read("x")
        cluster.resume(old.name)
        asked.addErrback(lambda failure: failure.trap(Exception) and None)
        assert cluster.result(asked) in {None, 2}
        assert cluster.read("x") == 2

    def test_a_failing_disk_stops_its_server(self) -> None:
        """The others go on; repaired, it comes back and catches up."""
        cluster = SimulatedCluster(Register, seed=7)
        broken = cluster.followers()[0].name
        cluster.fail_disk(broken)
        cluster.write(["set", "x", 1])
        cluster.run(0.5)
        assert broken not in cluster.servers
        cluster.repair_disk(broken)
        cluster.check()
        assert cluster.servers[broken].state == {"x": 1}

    def test_a_full_disk_refuses_writes(self) -> None:
        """Nothing is lost, and with room again it goes on."""
        cluster = SimulatedCluster(Register, ["s1"], seed=8)
        cluster.write(["set", "x", 1])
        cluster.fill_disk("s1")
        lost = cluster.servers["s1"].write(["set", "x", 2])
        cluster.run(0.5)
        with pytest.raises(OverloadedError):
            cluster.result(cluster.servers["s1"].write(["set", "x", 3]))
        cluster.repair_disk("s1")
        assert cluster.result(lost) == 1
        assert cluster.read("x") == 2

    def test_a_full_disk_stops_nobody_when_a_member_leaves(self) -> None:
        """A leader that cannot note it goes on."""
        cluster = SimulatedCluster(Register, 5, seed=12)
        leader = cluster.leader()
        cluster.run(1.0)
        leaving = cluster.followers()[0].name
        changing = leader.members.remove(leaving)
        cluster.run(0.001)
        cluster.fill_disk(leader.name)
        cluster.result(changing)
        cluster.run(1.0)
        assert leader.running
        cluster.check()

    def test_a_new_server_joins(self) -> None:
        """It is started on a new disk, and asks to be taken in."""
        cluster = SimulatedCluster(Register, seed=9)
        cluster.write(["set", "x", 1])
        cluster.start("s4", members={"s4": "s4"}, join=["s1", "s2", "s3"])
        cluster.until(lambda: "s4" in cluster.leader().status().membership)
        cluster.check()
        assert cluster.servers["s4"].state == {"x": 1}

    @pytest.mark.parametrize("leads", [True, False])
    def test_a_lost_disk_is_not_the_end(self, leads: bool) -> None:  # noqa: FBT001 - a parameter
        """Its server comes back with a new one, and the others take it in anew."""
        cluster = SimulatedCluster(Register, seed=13)
        cluster.write(["set", "x", 1])
        name = (cluster.leader() if leads else cluster.followers()[0]).name
        cluster.run(1.0)
        assert cluster.can_spare(name)
        cluster.wipe(name)
        assert not cluster.disks[name].durable.entries
        cluster.run(1.0)
        cluster.restart(name)
        cluster.until(lambda: cluster.can_spare(name))
        assert name in cluster.leader().status().membership
        cluster.check()
        assert cluster.servers[name].state == {"x": 1}

    def test_a_minority_may_lose_its_disks(self) -> None:
        """Two of five at once; what was acknowledged is there, and stays there."""
        cluster = SimulatedCluster(Register, 5, seed=14)
        for number in range(20):
            cluster.write(["set", "x", number])
        cluster.run(1.0)
        one, other = [server.name for server in cluster.followers()[:2]]
        cluster.wipe(one, other)
        assert not cluster.can_spare(one)
        cluster.restart(one, other)
        cluster.until(lambda: all(map(cluster.can_spare, cluster.names)))
        cluster.wipe(cluster.leader().name, cluster.followers()[0].name)
        assert cluster.read("x") == 19
        cluster.check()

    def test_no_disk_is_lost_that_others_need(self) -> None:
        """The fault waits for a cluster that can do without."""
        cluster = SimulatedCluster(Register, seed=15)
        cluster.write(["set", "x", 1])
        cluster.run(1.0)
        assert not cluster.can_spare("s4")
        cluster.crash("s1")
        assert not cluster.can_spare("s2")
        play(cluster, [Fault(0.0, 1.0, "wipe", ("s2",))])
        cluster.run(0.5)
        assert "s2" in cluster.servers
        pair = SimulatedCluster(Register, 2, seed=15)
        pair.write(["set", "x", 1])
        pair.run(1.0)
        assert not pair.can_spare("s1")

    def test_a_lost_disk_takes_the_machines_files(self, tmp_path: Path) -> None:
        """What a machine has on disk is on that disk."""
        cluster = SimulatedCluster(Register, seed=16, machine_directory=tmp_path)
        (tmp_path / "s1" / "file").touch()
        cluster.wipe("s1")
        assert not (tmp_path / "s1").exists()
        cluster.restart("s1")
        cluster.check()

    def test_a_restart_has_the_config_of_the_start(self) -> None:
        """One that joined, and lost its disk, asks the same servers again."""
        cluster = SimulatedCluster(Register, seed=17)
        cluster.start("s4", members={"s4": "s4"}, join=["s1", "s2", "s3"])
        cluster.until(lambda: cluster.can_spare("s4"))
        cluster.wipe("s4")
        cluster.restart("s4")
        cluster.until(lambda: cluster.can_spare("s4"))
        cluster.check()

    def test_clients_may_be_cut_off_as_servers_are(self) -> None:
        """One that sees only a leader without followers is answered nothing."""
        cluster = SimulatedCluster(Register, seed=18)
        cluster.write(["set", "x", 1])
        old = cluster.leader().name
        cluster.partition([old, "client"])
        with pytest.raises(RaftError):
            cluster.write(["set", "x", 2])
        cluster.run(2.0)
        with pytest.raises(RaftError):
            cluster.read("x")
        other = cluster.make_client("other")
        machine = cluster.machine_for_clients
        answer = other.write(machine.encode(["set", "y", 1]))
        assert cluster.result(answer) == machine.encode(None)
        cluster.heal()
        assert cluster.read("y") == 1

    @pytest.mark.parametrize(("amount", "cut"), [(0.0, 0), (0.5, 2), (1.0, 4)])
    def test_a_partition_may_go_through_the_clients(
        self, amount: float, cut: int
    ) -> None:
        """So large a part of them is on the side of the servers that are named."""
        cluster = SimulatedCluster(Register, seed=19)
        names = [f"c{number}" for number in range(4)]
        for name in names:
            cluster.make_client(name)
        play(cluster, [Fault(0.0, 1.0, "partition", ("s1",), amount)])
        cluster.run(0.5)
        reaching = {
            server: [name for name in names if cluster.network.carries(name, server)]
            for server in ("s1", "s2")
        }
        if amount:
            assert reaching == {"s1": names[:cut], "s2": names[cut:]}
        else:
            assert reaching == {"s1": names, "s2": names}

    def test_servers_without_disks_forget(self) -> None:
        """One begins anew, under its name, and gets all from the others."""
        cluster = SimulatedCluster(Register, seed=20, durable=False)
        cluster.write(["set", "x", 1])
        name = cluster.leader().name
        cluster.stop(name)
        cluster.run(1.0)
        cluster.restart(name)
        assert cluster.disks[name].live.last_index == 0
        assert cluster.leader().name != name
        cluster.check()
        assert cluster.servers[name].state == {"x": 1}

    @pytest.mark.parametrize("seed", range(5))
    def test_a_forgetful_follower_catches_up_each_time(self, seed: int) -> None:
        """Old answers of its, repeated and overtaken, confuse nobody."""
        trouble = Conditions(repeats=0.3, straggle=0.1, reorders=True)
        cluster = SimulatedCluster(
            Register, seed=seed, durable=False, conditions=trouble
        )
        leader, name = cluster.leader(), cluster.followers()[0].name
        for number in range(8):
            waiting = [leader.write(["set", "x", (number, each)]) for each in range(9)]
            cluster.run(0.002 * seed)
            cluster.crash(name)
            cluster.restart(name)
            for each in waiting:
                cluster.result(each)
            cluster.run(0.2)
            assert cluster.disks[name].live.last_index == raft_end(leader)
        cluster.check()
        assert cluster.leader() is leader

    def test_a_server_is_stopped_and_started(self) -> None:
        """A leader that is stopped hands over."""
        cluster = SimulatedCluster(Register, seed=10)
        old = cluster.leader().name
        cluster.stop(old)
        assert cluster.leader(0.1).name != old
        cluster.start(old)
        cluster.check()

    def test_nothing_is_waited_for_for_ever(self) -> None:
        """What does not come fails, with the seed."""
        cluster = SimulatedCluster(Register, seed=11)
        cluster.crash("s1", "s2")
        with pytest.raises(SimulationError, match="seed 11"):
            cluster.write(["set", "x", 1], seconds=3.0)
        with pytest.raises(SimulationError, match="nobody leads"):
            cluster.leader(3.0)


class SeedTests:
    """Everything follows from the seed."""

    def test_runs_of_a_seed_are_the_same(self) -> None:
        """To the last message, in other processes with other hashes too."""
        printed = {
            subprocess.run(
                [sys.executable, "-c", DIGESTS],
                env={"PYTHONHASHSEED": hashes, "PYTHONPATH": "."},
                capture_output=True,
                text=True,
                timeout=120,
                check=True,
            ).stdout
            for hashes in ("1", "2")
        }
        assert len(printed) == 1
        assert len(set(printed.pop().split())) == 3

    def test_a_fault_less_leaves_the_others_alone(self) -> None:
        """A plan is drawn before the run, and its faults are independent."""
        cluster = SimulatedCluster(Register, 5, seed=1)
        plan = draw_plan(cluster.dice("faults"), cluster.names, 60.0, every=0.2)
        assert {fault.kind for fault in plan} == set(KINDS)
        assert all(fault.at + fault.lasts <= 60.0 for fault in plan)
        assert plan == draw_plan(cluster.dice("faults"), cluster.names, 60.0, every=0.2)

    @pytest.mark.parametrize("kind", KINDS)
    def test_every_fault_ends(self, kind: str) -> None:
        """After it, the network and the disks are as they were."""
        cluster = SimulatedCluster(Register, seed=3)
        cluster.leader()
        before = cluster.network.conditions
        play(cluster, [Fault(0.1, 1.0, kind, ("s1", "s2"), 0.02)])
        cluster.run(1.2)
        assert cluster.network.conditions == before
        for one in cluster.names:
            assert all(cluster.network.carries(one, other) for other in cluster.names)
            disk = cluster.disks[one]
            assert (disk.is_full, disk.is_broken) == (False, False)
        cluster.run(1.0)
        assert set(cluster.servers) == set(cluster.names)
        assert not any(server.host.pauses for server in cluster.servers.values())


# --- broken on purpose ------------------------------------------------------------


def reply_at_once(self: State, peer: str, message: Message, index: int = 0) -> None:
    """Send what is not durable yet."""
    del index
    self.messages.append((peer, message))


def commit_by_counting(state: State) -> None:
    """Commit entries of earlier terms, too (figure 3.7)."""
    reached = {peer: each.match_index for peer, each in state.progress.items()}
    reached[state.server] = state.log.stable_index
    index = state.membership.majority_index(reached)
    if index > state.log.commit_index:
        state.log.commit_index = index
        changes.committed(state)


def agree(state: State, message: Message) -> bool:
    """Take entries wherever they are said to follow."""
    del state, message
    return True


def read_at_once(state: State, read_id: int, asker: str | None = None) -> None:
    """Do not ask whether another leads."""
    index = max(state.log.commit_index, state.term_start)
    if asker is None:
        state.confirmed_reads.append((read_id, index))
    else:
        answer = RequestReadIndexResponse(state.server, state.term, read_id, index)
        state.reply(asker, answer)


_begin = reads.begin


def read_too_early(state: State, read_id: int, asker: str | None = None) -> None:
    """Do not wait for the first entry of the term."""
    _begin(state, read_id, asker)
    for read in state.reads:
        read.index = state.log.commit_index


def forget_the_vote(self: SimulatedStorage, hard_state: HardState) -> None:
    """Keep the term only."""
    self.disk.write("save", HardState(hard_state.term))


def vote_again(state: State, message: Any) -> None:
    """Vote for whoever asks."""
    state.hard_state = replace(state.hard_state, vote=message.sender)
    answer = RequestVoteResponse(state.server, state.term, granted=True)
    state.reply(message.sender, answer)


_apply = Applier.apply


def apply_some_twice(self: Applier, entries: Any, applied: Any) -> None:
    """Apply every 37th entry again."""
    entries = list(entries)
    _apply(self, entries, applied)
    if entries[-1].index % 37 == 0:
        _apply(self, entries[-1:], lambda *_: None)


def encode_nothing(self: Sessions) -> list[Any]:
    """Leave the sessions out of snapshots."""
    del self
    return []


def vote_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let :func:`vote_again` deal with every request."""
    for role in (Role.FOLLOWER, Role.PRE_CANDIDATE):
        key: tuple[Role, type[Any]] = (role, RequestVote)
        monkeypatch.setitem(dispatch.DISPATCH, key, vote_again)


def crashes(seed: int) -> Scenario:
    """Return a scenario in which sessions are read from snapshots all the time."""
    scenario = scenario_of(seed)
    return replace(
        scenario,
        kinds=("crash",),
        every=0.5,
        config={**scenario.config, "snapshots": _OFTEN},
        client={**scenario.client, "sessions": True},
    )


def sleeping_leaders(seed: int) -> Scenario:
    """Return a scenario whose clients ask a leader that was asleep."""
    return replace(scenario_of(seed), servers=3, clients=8)


def new_leaders(seed: int) -> Scenario:
    """Return a scenario whose clients always ask, whoever has just begun to lead."""
    scenario = scenario_of(seed, 4.0)
    return replace(
        scenario,
        servers=3,
        clients=8,
        config={**scenario.config, "reads": {"lease": False}},
        cluster={"sync": (0.0, 0.05)},
        client={"timeout": 1.5, "pause": 0.02},
    )


_OFTEN = {"every_entries": 5, "keep_entries": 1}

#: Half of the clients are cut off together with it.
_SLEEPS = [Fault(at, 2.0, "sleep", (LEADER,), 0.5) for at in (1.0, 3.5, 6.0)]

#: Each has the whole log, but does not know how much of it is committed.
_TRANSFERS = [Fault(0.5 + 0.4 * number, 0.0, "transfer") for number in range(8)]

#: Where a bug shows; anywhere, if it is not here.
_PLACES: dict[Any, tuple[Callable[[int], Scenario], list[Fault] | None]] = {
    read_at_once: (sleeping_leaders, _SLEEPS),
    read_too_early: (new_leaders, _TRANSFERS),
    encode_nothing: (crashes, None),
}


class BugTests:
    """Each of these is found within a few seeds."""

    def found(self, bug: Any, seeds: int = 25) -> str:
        """Return what was found."""
        scenario, plan = _PLACES.get(bug, (scenario_of, None))
        for seed in range(seeds):
            try:
                run(scenario(seed), seed, plan)
            except SimulationError as error:
                return error.reason
        return ""

    @pytest.mark.parametrize(
        ("where", "name", "bug", "reason"),
        [
            (State, "reply", reply_at_once, "durable"),
            (replication, "maybe_commit", commit_by_counting, "by counting"),
            (replication, "_agrees", agree, "durable|log|stopped by itself"),
            (election, "_is_up_to_date", agree, "leader completeness"),
            (reads, "begin", read_at_once, "linearizable"),
            (reads, "begin", read_too_early, "linearizable"),
            (SimulatedStorage, "save_hard_state", forget_the_vote, "durable votes"),
            (Applier, "apply", apply_some_twice, "state machine safety|linearizable"),
            (Sessions, "encode", encode_nothing, "state|session|linearizable"),
        ],
    )
    def test_a_bug_is_found(
        self,
        monkeypatch: pytest.MonkeyPatch,
        where: Any,
        name: str,
        bug: Callable[..., Any],
        reason: str,
    ) -> None:
        """The reason says which promise it breaks."""
        monkeypatch.setattr(where, name, bug)
        found = self.found(bug)
        assert any(each in found for each in reason.split("|"))

    def test_a_second_vote_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A server that votes twice in a term."""
        vote_for_all(monkeypatch)
        assert self.found(vote_again)
