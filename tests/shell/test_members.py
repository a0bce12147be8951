"""Who belongs to the cluster, through real servers (§4)."""

from __future__ import annotations

from contextlib import suppress
from shutil import rmtree
from typing import TYPE_CHECKING, Any

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs, formatEvent

from consensus.errors import (
    InvalidChangeError,
    LeadershipLostError,
    MembershipPendingError,
    NotLeaderError,
    RaftError,
    RejectedError,
    StoppedError,
    TimedOutError,
)
from consensus.shell.members import Applicant
from tests.support import storages
from tests.support.servers import Servers
from tests.support.storages import LastingStorage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from twisted.python.failure import Failure

    from consensus.server import RaftServer


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    storages.reset()
    yield
    storages.reset()


def lasting(tmp_path: Path, **keys: Any) -> Servers:
    """Return three servers whose disks last."""
    config = {"storage": {"engine": LastingStorage}, **keys}
    return Servers(config=config, data_dir=tmp_path)


def wipe(servers: Servers, tmp_path: Path, name: str) -> None:
    """Stop *name* and take its disk away."""
    servers.stop(name)
    rmtree(tmp_path / name)
    LastingStorage.disks.pop(tmp_path / name)
    LastingStorage.bases.pop(tmp_path / name, None)


def failing(servers: Servers, waiting: Deferred[Any], error: type[Exception]) -> str:
    """Return the text of the *error* that *waiting* fails with."""
    return str(servers.failing(waiting, error))


def established(servers: Servers) -> RaftServer:
    """Return a leader that has committed something in its term."""
    chief = servers.leader()
    servers.result(chief.write(["set", "a", 1]))
    return chief


def voters(server: RaftServer) -> set[str]:
    """Return who votes, as far as *server* knows; nobody in between."""
    status = server.status()
    return set() if status.outgoing else set(status.membership)


def state_of(server: RaftServer) -> Any:
    """Return what *server* has applied."""
    assert server._driver is not None
    return server._driver.applier.state


class AddTests:
    """A server is added by hand."""

    def test_it_catches_up_and_votes(self) -> None:
        """The call returns when it gets the log; later it votes by itself."""
        servers = Servers()
        chief = established(servers)
        added = servers.start("s4", members={})
        index = servers.result(chief.members.add("s4", "s4"))
        status = chief.status()
        assert status.learners == {"s4": "s4"}
        assert status.target == ["s1", "s2", "s3", "s4"]
        assert status.membership_index == index
        servers.until(lambda: voters(added) == {"s1", "s2", "s3", "s4"})
        assert chief.status().target == []
        servers.until(lambda: state_of(added) == {"a": 1})

    def test_as_a_learner(self) -> None:
        """A learner stays one, whatever it has caught up with."""
        servers = Servers()
        chief = established(servers)
        added = servers.start("s4", members={})
        servers.result(chief.members.add("s4", "s4", as_learner=True))
        servers.run(3)
        assert chief.status().learners == {"s4": "s4"}
        assert state_of(added) == {"a": 1}
        assert failing(servers, added.write(["set", "b", 1]), NotLeaderError)
        servers.result(chief.members.promote("s4"))
        servers.until(lambda: voters(chief) == {"s1", "s2", "s3", "s4"})
        text = failing(servers, chief.members.promote("s4"), InvalidChangeError)
        assert text == "s4 votes already"

    def test_one_that_is_down(self) -> None:
        """It is waited for, nothing else suffers, and it can be left out again."""
        servers = Servers()
        chief = established(servers)
        servers.result(chief.members.add("s4", "s4"))
        servers.run(3)
        assert chief.status().target == ["s1", "s2", "s3", "s4"]
        assert servers.result(chief.write(["set", "a", 2])) == 1
        pending = failing(
            servers, chief.members.add("s5", "s5"), MembershipPendingError
        )
        assert "s4 must catch up" in pending
        servers.result(chief.members.remove("s4"))
        assert chief.status().learners == {}
        assert chief.status().target == []

    def test_a_learner_beside_one_that_is_waited_for(self) -> None:
        """It is added, and the other one still votes as soon as it can."""
        servers = Servers()
        chief = established(servers)
        servers.result(chief.members.add("s4", "s4"))
        servers.result(chief.members.add("s5", "s5", as_learner=True))
        assert chief.status().target == ["s1", "s2", "s3", "s4"]
        servers.start("s4", members={})
        servers.until(lambda: voters(chief) == {"s1", "s2", "s3", "s4"})
        assert chief.status().learners == {"s5": "s5"}

    def test_one_of_two_that_are_waited_for_is_given_up(self) -> None:
        """The other one is waited for still."""
        servers = Servers()
        chief = established(servers)
        wanted = {name: name for name in ("s1", "s2", "s3", "s4", "s5")}
        servers.result(chief.members.change(wanted, {}))
        servers.result(chief.members.remove("s5"))
        assert chief.status().target == ["s1", "s2", "s3", "s4"]

    @pytest.mark.parametrize(
        ("server", "address", "reason"),
        [
            ("s2", "elsewhere", "s2 is a member already, at s2"),
            ("s4", "s2", "s2 and s4 would have the same address, s2"),
            ("s 4", "s4", "'s 4' is no name of a server"),
            ("", "s4", "'' is no name of a server"),
            ("s4", "", "the address of s4 is missing"),
        ],
    )
    def test_impossible(self, server: str, address: str, reason: str) -> None:
        """A name or an address that is taken or none is refused; nothing changes."""
        servers = Servers()
        chief = established(servers)
        before = chief.status()
        waiting = chief.members.add(server, address)
        assert failing(servers, waiting, InvalidChangeError) == reason
        assert chief.status().last_index == before.last_index

    def test_by_whom(self) -> None:
        """A follower says who leads, before it says anything else."""
        servers = Servers()
        chief = established(servers)
        follower = servers.followers()[0]
        for waiting in (
            follower.members.add("s2", "s2"),
            follower.members.promote("nobody"),
            follower.members.remove("nobody"),
            follower.members.change({}, {}),
        ):
            assert chief.name in failing(servers, waiting, NotLeaderError)


class RemoveTests:
    """A server is removed."""

    def test_a_follower(self) -> None:
        """It is told so, and does not disturb the others afterwards."""
        servers = Servers()
        chief = established(servers)
        leaver = servers.followers()[0]
        with capturedLogs() as logs:
            servers.result(chief.members.remove(leaver.name))
            servers.run(0.5)
        lines = [formatEvent(event) for event in logs]
        told = f"{leaver.name} does not belong to raft any more, and can be stopped"
        assert lines.count(told) == 1
        before = chief.status()
        servers.run(5)
        assert (chief.status().term, chief.status().role) == (before.term, "leader")
        assert leaver.status().term == before.term
        assert voters(chief) == set(servers.names) - {leaver.name}

    def test_one_that_hears_nothing_of_it(self) -> None:
        """Cut off meanwhile, it asks for votes later, and gets none."""
        servers = Servers()
        chief = established(servers)
        leaver = servers.followers()[0]
        servers.network.down(leaver.name)
        servers.result(chief.members.remove(leaver.name))
        servers.run(5)
        servers.network.heal()
        before = chief.status()
        servers.run(5)
        assert (chief.status().term, chief.status().role) == (before.term, "leader")

    def test_the_leader(self) -> None:
        """It finishes its own removal, and another one leads (§4.2.2)."""
        servers = Servers()
        chief = established(servers)
        servers.result(chief.members.remove(chief.name))
        servers.until(lambda: chief.status().role != "leader")
        servers.stop(chief.name)
        heir = servers.leader()
        assert voters(heir) == set(servers.names) - {chief.name}
        assert servers.result(heir.write(["set", "a", 2])) == 1

    def test_the_last(self) -> None:
        """The only voter stays."""
        servers = Servers(("s1",))
        chief = established(servers)
        text = failing(servers, chief.members.remove("s1"), InvalidChangeError)
        assert text == "s1 is the only voter: a cluster needs one"

    def test_a_stranger(self) -> None:
        """Who is no member cannot leave; the members are named."""
        servers = Servers()
        chief = established(servers)
        text = failing(servers, chief.members.remove("s9"), InvalidChangeError)
        assert text == "s9 is no member; those are: s1, s2, s3"

    def test_and_added_again(self, tmp_path: Path) -> None:
        """With the log that it had, it goes on where it was."""
        servers = lasting(tmp_path)
        chief = established(servers)
        name = servers.followers()[0].name
        servers.result(chief.members.remove(name))
        servers.run(1)
        servers.result(chief.write(["set", "a", 2]))
        servers.result(chief.members.add(name, name))
        servers.until(lambda: voters(chief) == set(servers.names))
        servers.until(lambda: state_of(servers.servers[name]) == {"a": 2})

    def test_and_added_again_with_another_disk(self, tmp_path: Path) -> None:
        """Nobody remembers the one it had, not even who was down meanwhile."""
        servers = lasting(tmp_path)
        chief = established(servers)
        servers.run(0.5)
        name, absent = [each.name for each in servers.followers()]
        servers.result(chief.members.add("s4", "s4"))
        servers.start("s4", members={})
        servers.until(lambda: len(voters(chief)) == 4)
        servers.stop(absent)
        servers.result(chief.members.remove(name))
        servers.run(1)
        wipe(servers, tmp_path, name)
        servers.start(name, members={})
        servers.result(chief.members.add(name, name))
        servers.until(lambda: name in voters(chief))
        servers.start(absent)
        servers.run(1)
        servers.stop("s4")
        servers.stop(chief.name) if chief.name != absent else None
        servers.start("s4", members={})
        heir = servers.leader()
        servers.result(heir.write(["set", "a", 3]))
        servers.until(lambda: state_of(servers.servers[absent]) == {"a": 3})


class ChangeTests:
    """Any change, in one call."""

    def test_three_for_three(self) -> None:
        """A whole cluster is exchanged; the new one has all that was written."""
        servers = Servers()
        chief = established(servers)
        fresh = {name: name for name in ("s4", "s5", "s6")}
        for name in fresh:
            servers.start(name, members={})
        servers.result(chief.members.change(fresh, {}))
        servers.until(lambda: voters(servers.servers["s4"]) == set(fresh))
        for name in servers.names:
            servers.stop(name)
        heir = servers.leader()
        assert servers.result(heir.write(["set", "a", 2])) == 1

    def test_a_voter_becomes_a_learner(self) -> None:
        """It gets the log still."""
        servers = Servers()
        chief = established(servers)
        name = servers.followers()[0].name
        kept = {each: each for each in servers.names if each != name}
        servers.result(chief.members.change(kept, {name: name}))
        assert chief.status().learners == {name: name}
        servers.result(chief.write(["set", "a", 2]))
        servers.until(lambda: state_of(servers.servers[name]) == {"a": 2})

    def test_compare_and_set(self) -> None:
        """Who has not seen the latest membership changes nothing."""
        servers = Servers()
        chief = established(servers)
        index = chief.status().membership_index
        present = {name: name for name in servers.names}
        waiting = chief.members.change(present, {"s4": "s4"}, expected_index=index)
        newer = servers.result(waiting)
        assert newer > index
        waiting = chief.members.change(present, {}, expected_index=index)
        text = failing(servers, waiting, InvalidChangeError)
        assert f"that of entry {newer} now, not of {index}" in text
        servers.result(chief.members.change(present, {}, expected_index=newer))

    def test_nothing_to_change(self) -> None:
        """The present index is the answer, at once, also after a restart."""
        servers = Servers()
        chief = established(servers)
        index = chief.status().membership_index
        present = {name: name for name in servers.names}
        assert servers.result(chief.members.change(present, {})) == index
        assert chief.status().membership_index == index

    def test_pending(self) -> None:
        """A second change has to wait for the first; the first goes on."""
        servers = Servers()
        chief = established(servers)
        first = chief.members.remove(servers.followers()[0].name)
        second = chief.members.add("s4", "s4")
        text = failing(servers, second, MembershipPendingError)
        assert text == "another change of the membership is under way"
        servers.result(first)
        servers.result(chief.members.add("s4", "s4"))

    def test_a_fresh_leader(self) -> None:
        """Until it has committed in its term, it asks to be asked again (§4.1)."""
        servers = Servers()
        chief = established(servers)
        outcomes: list[Any] = []
        for each in servers.followers():
            elected = each.when_leader_known(other_than={chief.name})
            elected.addCallback(
                lambda heir: servers.servers[heir].members.add("s4", "s4")
            ).addBoth(outcomes.append)
        servers.stop(chief.name)
        servers.run(0.1)
        text = outcomes[0].getErrorMessage()
        outcomes[0].trap(RejectedError)
        assert text == "this leader has just begun; ask again"

    def test_no_majority(self) -> None:
        """The outcome is unknown after a while, or when the leader steps down."""
        servers = Servers(config={"timing": {"request_timeout": 0.1}})
        chief = established(servers)
        servers.network.down(chief.name)
        failing(servers, chief.members.add("s4", "s4"), TimedOutError)
        servers = Servers()
        chief = established(servers)
        servers.network.down(chief.name)
        failing(servers, chief.members.add("s4", "s4"), LeadershipLostError)

    def test_a_stop(self) -> None:
        """Who waits is told, and a stopped server takes no change."""
        servers = Servers(("s1", "s2"))
        chief = established(servers)
        members = chief.members
        other = servers.followers()[0].name
        servers.network.down(other)
        waiting = members.add("s4", "s4")
        outcomes: list[Any] = []
        waiting.addErrback(outcomes.append)
        servers.stop(chief.name)
        assert outcomes[0].check(StoppedError, LeadershipLostError)
        with pytest.raises(StoppedError):
            _ = chief.members

    def test_the_next_leader_goes_on(self) -> None:
        """What one leader began, the next one finishes (§4.3)."""
        servers = Servers()
        chief = established(servers)
        servers.result(chief.members.add("s4", "s4"))
        servers.stop(chief.name)
        servers.start("s4", members={})
        everybody = {*servers.names, "s4"}
        servers.until(lambda: voters(servers.leader()) == everybody)


class JoinTests:
    """A new server with ``join`` gets in by itself."""

    def test_while_writes_go_on(self) -> None:
        """It becomes a voter, and has all that was written meanwhile."""
        servers = Servers()
        chief = established(servers)
        added = servers.join("s4")
        number = 0
        while "s4" not in voters(chief):
            servers.result(chief.write(["set", "a", number]))
            servers.run(0.01)
            number += 1
        servers.until(lambda: state_of(added) == {"a": number - 1})
        assert chief.members._incarnation_of("s4") is None  # of a storage in memory

    def test_after_the_log_was_cut(self, tmp_path: Path) -> None:
        """It gets a snapshot first."""
        snapshots = {"every_entries": 10, "keep_entries": 2}
        servers = lasting(tmp_path, snapshots=snapshots)
        chief = established(servers)
        for number in range(40):
            servers.result(chief.write(["set", f"k{number}", number]))
        servers.until(lambda: chief.status().first_index > 10)
        added = servers.join("s4")
        servers.until(lambda: "s4" in voters(added))
        servers.until(lambda: state_of(added) == state_of(chief))
        assert len(state_of(added)) == 41
        assert added.status().first_index > 1

    def test_many_at_once(self, tmp_path: Path) -> None:
        """They get in one after the other."""
        servers = lasting(tmp_path)
        chief = established(servers)
        for name in ("s4", "s5", "s6"):
            servers.join(name)
        servers.until(lambda: len(voters(chief)) == 6)

    def test_it_counts(self, tmp_path: Path) -> None:
        """Once it votes, the cluster bears another loss by it."""
        servers = lasting(tmp_path)
        chief = established(servers)
        servers.join("s4")
        servers.join("s5")
        servers.until(lambda: len(voters(chief)) == 5)
        for follower in servers.followers()[:2]:
            servers.stop(follower.name)
        assert servers.result(servers.leader().write(["set", "a", 2])) == 1

    def test_after_a_restart_it_asks_no_more(self, tmp_path: Path) -> None:
        """It belongs to the cluster; and once removed, it stays out."""
        servers = lasting(tmp_path)
        chief = established(servers)
        servers.join("s4")
        servers.until(lambda: "s4" in voters(chief))
        servers.run(0.5)
        servers.result(chief.members.remove("s4"))
        servers.run(1)
        servers.stop("s4")
        servers.join("s4")
        servers.run(5)
        assert "s4" not in servers.leader().status().membership

    def test_another_cluster(self) -> None:
        """A server that looks for another cluster is told so, once."""
        servers = Servers()
        established(servers)
        with capturedLogs() as logs:
            lost = servers.join("s4", cluster="other")
            servers.run(5)
        lines = [formatEvent(event) for event in logs]
        told = [line for line in lines if "this is the cluster 'raft', not 'o" in line]
        assert 1 <= len(told) == len(set(told)) <= 3
        assert lost.status().membership == {}

    def test_nobody_there(self) -> None:
        """It goes on asking until somebody is."""
        servers = Servers(("s1",))
        servers.stop("s1")
        with capturedLogs() as logs:
            added = servers.join("s4")
            servers.run(5)
        told = [each for each in map(formatEvent, logs) if "not taken in" in each]
        assert len(told) == 1
        servers.start("s1")
        servers.until(lambda: voters(added) == {"s1", "s4"})

    def test_a_namesake_that_is_alive(self, tmp_path: Path) -> None:
        """A second server of the same name is refused, and told why."""
        servers = lasting(tmp_path)
        chief = established(servers)
        servers.run(0.5)
        other = next(each for each in servers.names if each != chief.name)
        applicant = Applicant("raft", other, "elsewhere", "another")
        waiting = Deferred.fromCoroutine(chief.members.admit(applicant))
        text = failing(servers, waiting, InvalidChangeError)
        assert f"a server called {other} runs elsewhere" in text
        applicant = Applicant("raft", chief.name, "elsewhere", "another")
        waiting = Deferred.fromCoroutine(chief.members.admit(applicant))
        assert "runs elsewhere" in failing(servers, waiting, InvalidChangeError)
        assert voters(chief) == set(servers.names)

    @pytest.mark.parametrize(
        "applicant",
        [
            Applicant("raft", "s 4", "s4", "1"),
            Applicant("raft", "s4", "", "1"),
            Applicant("raft", "s4", "s4", ""),
            Applicant("raft", "s4", "s4", "x" * 65),
            Applicant("raft", "s4", "s4", "1", is_member=True),
        ],
    )
    def test_nonsense(self, applicant: Applicant) -> None:
        """What no server of ours says is refused."""
        servers = Servers()
        chief = established(servers)
        waiting = Deferred.fromCoroutine(chief.members.admit(applicant))
        failing(servers, waiting, InvalidChangeError)
        assert voters(chief) == set(servers.names)


class WipedTests:
    """A member comes back without its disk."""

    def test_a_founder(self, tmp_path: Path) -> None:
        """It is removed, taken in anew, and votes when it has caught up."""
        servers = lasting(tmp_path)
        chief = established(servers)
        servers.run(0.5)
        name = servers.followers()[0].name
        wipe(servers, tmp_path, name)
        servers.result(chief.write(["set", "a", 2]))
        before = chief.status().membership_index
        back = servers.start(name)
        servers.until(lambda: chief.status().membership_index > before)
        servers.until(lambda: voters(back) == set(servers.names))
        servers.until(lambda: state_of(back) == {"a": 2})

    def test_after_the_log_was_cut(self, tmp_path: Path) -> None:
        """What it founded anew gives way to a snapshot."""
        snapshots = {"every_entries": 10, "keep_entries": 2}
        servers = lasting(tmp_path, snapshots=snapshots)
        chief = established(servers)
        for number in range(40):
            servers.result(chief.write(["set", f"k{number}", number]))
        servers.until(lambda: chief.status().first_index > 10)
        servers.join("s4")
        servers.until(lambda: "s4" in voters(chief))
        name = servers.followers()[0].name
        wipe(servers, tmp_path, name)
        servers.run(1)
        back = servers.start(name)
        servers.until(lambda: voters(back) == {*servers.names, "s4"})
        servers.until(lambda: state_of(back) == state_of(chief))

    def test_the_leader(self, tmp_path: Path) -> None:
        """The others have elected another one by then."""
        servers = lasting(tmp_path)
        chief = established(servers)
        servers.run(0.5)
        wipe(servers, tmp_path, chief.name)
        back = servers.start(chief.name)
        servers.until(lambda: state_of(back) == {"a": 1})
        servers.until(lambda: voters(servers.leader()) == set(servers.names))

    def test_one_that_had_joined(self, tmp_path: Path) -> None:
        """It joins once more."""
        servers = lasting(tmp_path)
        chief = established(servers)
        servers.join("s4")
        servers.until(lambda: "s4" in voters(chief))
        servers.run(0.5)
        wipe(servers, tmp_path, "s4")
        servers.run(1)
        back = servers.join("s4")
        servers.until(lambda: state_of(back) == {"a": 1})
        servers.until(lambda: voters(back) == {*servers.names, "s4"})

    def test_all_others_restart_meanwhile(self, tmp_path: Path) -> None:
        """They remember, so it still has to join anew."""
        servers = lasting(tmp_path)
        established(servers)
        servers.run(0.5)
        for name in servers.names:
            servers.stop(name)
        rmtree(tmp_path / "s1")
        LastingStorage.disks.pop(tmp_path / "s1")
        for name in servers.names:
            servers.start(name)
        before = servers.leader().status().membership_index
        back = servers.servers["s1"]
        servers.until(lambda: back.status().membership_index > before)
        servers.until(lambda: voters(back) == set(servers.names))
        assert servers.result(servers.leader().write(["set", "a", 2])) == 1

    def test_one_that_only_some_had_met_before(self) -> None:
        """
        The leader knows no other directory of it, and a third one does.

        What the leader lays down is what all go by then.
        """
        servers = Servers()
        chief = established(servers)
        servers.run(0.5)
        name = servers.followers()[0].name
        applicant = Applicant("raft", name, name, "new", is_refused=True)
        servers.result(Deferred.fromCoroutine(chief.members.admit(applicant)))
        servers.until(lambda: voters(chief) == set(servers.names))
        driver = chief._driver
        assert driver is not None
        laid_down = driver.raft.state.membership.incarnations
        assert laid_down == {name: "new"}
        before = chief.status().membership_index
        servers.result(Deferred.fromCoroutine(chief.members.admit(applicant)))
        assert chief.status().membership_index == before


class MoveTests:
    """A member listens at another address than before."""

    def test_it_says_so(self, tmp_path: Path) -> None:
        """All others learn of it, from the membership."""
        servers = lasting(tmp_path)
        chief = established(servers)
        servers.run(0.5)
        name = servers.followers()[0].name
        servers.stop(name)
        members = {each: each for each in servers.names} | {name: "elsewhere"}
        moved = servers.start(name, members=members)
        servers.until(lambda: chief.status().membership[name] == "elsewhere")
        servers.result(chief.write(["set", "a", 2]))
        servers.until(lambda: state_of(moved) == {"a": 2})

    def test_one_that_had_joined(self, tmp_path: Path) -> None:
        """Its file says where it is, and where the others are."""
        servers = lasting(tmp_path)
        chief = established(servers)
        servers.join("s4")
        servers.until(lambda: "s4" in voters(chief))
        servers.run(0.5)
        servers.stop("s4")
        servers.join("s4", at="elsewhere")
        servers.until(lambda: chief.status().membership["s4"] == "elsewhere")

    def test_one_that_was_removed(self, tmp_path: Path) -> None:
        """It does not come back that way."""
        servers = lasting(tmp_path)
        chief = established(servers)
        servers.run(0.5)
        name = servers.followers()[0].name
        servers.network.down(name)
        servers.result(chief.members.remove(name))
        servers.stop(name)
        servers.network.heal()
        members = {each: each for each in servers.names} | {name: "elsewhere"}
        with capturedLogs() as logs:
            servers.start(name, members=members)
            servers.run(5)
        assert name not in voters(chief)
        assert any("is no member any more" in formatEvent(event) for event in logs)


class Turmoil:
    """
    Five servers that come and go while all kinds of changes are asked for.

    Args:
        servers: Three, which two more join.
        seed: Of the dice.
    """

    def __init__(self, servers: Servers, seed: int) -> None:
        self.servers = servers
        self.everybody = {*servers.names, "s4", "s5"}
        for name in ("s4", "s5"):
            servers.join(name)
        self.dice = servers.random
        self.dice.seed(seed)
        self.count = 0

    def step(self) -> None:
        """Write, then do one thing or another."""
        chief = self.servers.leader()
        with suppress(RaftError):
            self.servers.result(chief.write(["set", "n", self.count + 1]))
            self.count += 1
        chosen = self.dice.choice(sorted(self.everybody))
        are_all_up = len(self.servers.servers) == len(self.everybody)
        match self.dice.randrange(4):
            case 0 if not are_all_up:
                self.start_all()
            case 0 if len(voters(chief)) >= 3:
                self.servers.stop(chosen)
            case 1 if are_all_up and len(voters(chief)) > 3:
                chief.members.remove(chosen).addErrback(self.refused)
            case 2:
                chief.members.add(chosen, chosen).addErrback(self.refused)
            case 3:
                chief.transfer().addErrback(self.refused)
        self.servers.run(self.dice.random())

    @staticmethod
    def refused(failure: Failure) -> None:
        """Take no for an answer, if it is one of ours."""
        failure.trap(RaftError)

    def start_all(self) -> None:
        """Start who is down."""
        for name in self.everybody - self.servers.servers.keys():
            self.servers.start(name)


@pytest.mark.parametrize("seed", range(5))
def test_changes_under_random_stops(tmp_path: Path, seed: int) -> None:
    """Nothing that was acknowledged is lost, and all members end up equal."""
    servers = lasting(tmp_path, snapshots={"every_entries": 20, "keep_entries": 3})
    turmoil = Turmoil(servers, seed)
    for _ in range(40):
        turmoil.step()
    turmoil.start_all()
    servers.run(3)
    chief = servers.leader()
    assert servers.result(chief.read("n")) == turmoil.count
    servers.result(chief.write(["set", "n", -1]))
    servers.run(3)
    for name in chief.status().membership:
        assert state_of(servers.servers[name]) == {"n": -1}
