"""Tests of contrib.election.machine and contrib.election.state."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.applications import lease_table
from consensus.applications.lease_commands import EndLease, OpenLease, RenewLease
from consensus.applications.state_rows import RowsSnapshot
from consensus.errors import InvalidCommandError, StorageError
from consensus.interfaces import LATER, Tick
from consensus.testing.machine import StateMachineSuite
from contrib.election import state as state_module
from contrib.election.commands import (
    Campaign,
    Discover,
    Elected,
    Observe,
    Register,
    decode,
)
from contrib.election.machine import ElectionMachine
from contrib.election.state import (
    ElectionError,
    LeaseEndedError,
    NoCandidateError,
    SupersededError,
    TooManyError,
)
from tests.support.driven import DrivenWithLeases

_LEASES = st.integers(1, 4)
_NAMES = st.sampled_from(["a", "b"])
_METADATA = st.dictionaries(st.sampled_from("xyz"), st.text(max_size=3), max_size=2)
_COMMANDS = (
    st.builds(OpenLease, st.integers(100, 500), st.sampled_from(["", "ada"]))
    | st.builds(RenewLease, _LEASES)
    | st.builds(EndLease, _LEASES)
    | st.builds(Campaign, _LEASES, _NAMES, _NAMES)
    | st.builds(
        Register,
        _LEASES,
        _LEASES,
        st.integers(1, 3),
        _NAMES,
        _NAMES,
        st.just("tcp:1"),
        _METADATA,
    )
)
_QUERIES = (
    st.builds(Elected, _LEASES, _NAMES)
    | st.builds(Observe, _NAMES, st.none() | st.integers(0, 4))
    | st.builds(Discover, _NAMES, st.none() | st.integers(0, 4))
)


class TestElections(StateMachineSuite):
    """The conformance suite, from all sorts of commands."""

    machine: ClassVar[Any] = ElectionMachine
    # A query among them, which is no command.
    commands: ClassVar[Any] = _COMMANDS | _QUERIES
    queries: ClassVar[Any] = _QUERIES | st.builds(RenewLease, _LEASES)


class TestBusyElections(TestElections):
    """The same with a sequence in which much happens."""

    commands: ClassVar[Any] = (
        *[OpenLease(100, f"o{number}") for number in range(4)],
        Campaign(1, "a", "ada"),
        Campaign(2, "a", "bob"),
        Campaign(2, "b", "bob"),
        Campaign(9, "b", "eve"),
        Register(1, 1, 1, "web", "w1", "tcp:1", {"zone": "north"}),
        Register(2, 2, 1, "web", "w2", "tcp:2"),
        Register(3, 3, 1, "web", "w1", "tcp:3"),
        Register(1, 1, 2, "web", "w1", "tcp:4"),
        Register(4, 4, 1, "mail", "m1", "tcp:5"),
        EndLease(4),
        EndLease(1),
        RenewLease(2),
        RenewLease(4),
    )
    queries: ClassVar[Any] = (
        Elected(2, "a"),
        Elected(3, "a"),
        Observe("a"),
        Observe("c"),
        Discover("web"),
        Discover("mail"),
        Discover("nothing"),
    )


class Elections(DrivenWithLeases):
    """A machine with its state."""

    def __init__(self) -> None:
        super().__init__(ElectionMachine())

    def addresses(self, service: str) -> dict[str, str]:
        """Return the addresses of a service's instances."""
        found = self.read(Discover(service)).instances
        return {each.instance: each.address for each in found}


@pytest.fixture
def elections() -> Elections:
    """Return a machine with four leases of a second."""
    elections = Elections()
    elections.open(4)
    return elections


class ElectionTests:
    """Who stands for longest leads."""

    def test_one_after_the_other(self, elections: Elections) -> None:
        results = [
            elections.write(Campaign(each, "a", f"c{each}")) for each in (2, 1, 3)
        ]
        assert results == [1, 0, 0]
        assert elections.read(Elected(2, "a")) == 1
        assert elections.read(Elected(1, "a")) is LATER
        elections.write(EndLease(2))
        assert elections.read(Elected(1, "a")) == 2
        assert elections.read(Elected(3, "a")) is LATER

    def test_standing_twice_is_standing_once(self, elections: Elections) -> None:
        assert elections.write(Campaign(1, "a", "ada")) == 1
        assert elections.write(Campaign(2, "a", "bob")) == 0
        assert elections.write(Campaign(1, "a", "ada")) == 1
        assert elections.write(Campaign(2, "a", "bob")) == 0
        assert elections.state.items == 2

    def test_who_gives_up_is_not_elected(self, elections: Elections) -> None:
        for lease in (1, 2, 3):
            elections.write(Campaign(lease, "a", "x"))
        elections.write(EndLease(2))
        elections.write(EndLease(1))
        assert elections.read(Elected(3, "a")) == 2

    def test_leases_that_end_together(self, elections: Elections) -> None:
        """None of them is elected in between."""
        for lease in (1, 2, 3):
            elections.write(Campaign(lease, "a", "x"))
        elections.write(Tick(500))
        elections.write(RenewLease(3))
        elections.write(Tick(1100))
        assert elections.read(Elected(3, "a")) == 2

    def test_terms_rise_for_ever(self, elections: Elections) -> None:
        """Nothing of an election is left without candidates, but terms count."""
        for expected in range(1, 4):
            assert elections.write(Campaign(expected, "a", "x")) == expected
            elections.write(EndLease(expected))
            assert not elections.state.elections
            elections.restart()
        assert elections.write(Campaign(4, "a", "x")) == 4

    def test_who_does_not_stand(self, elections: Elections) -> None:
        with pytest.raises(LeaseEndedError):
            elections.write(Campaign(9, "a", "x"))
        with pytest.raises(LeaseEndedError):
            elections.read(Elected(9, "a"))
        with pytest.raises(NoCandidateError):
            elections.read(Elected(1, "a"))


class ObserveTests:
    """Who leads, and when another does."""

    def test_a_leader(self, elections: Elections) -> None:
        assert elections.read(Observe("a")) is None
        elections.write(Campaign(1, "a", "ada"))
        elections.write(Campaign(2, "a", "bob"))
        leader = elections.read(Observe("a"))
        assert (leader.term, leader.candidate) == (1, "ada")
        assert (leader.lease, leader.waiting) == (1, 1)

    def test_a_change(self, elections: Elections) -> None:
        assert elections.read(Observe("a", 0)) is LATER
        elections.write(Campaign(1, "a", "ada"))
        assert elections.read(Observe("a", 0)).term == 1
        assert elections.read(Observe("a", 1)) is LATER
        elections.write(Campaign(2, "a", "bob"))
        assert elections.read(Observe("a", 1)) is LATER
        elections.write(EndLease(1))
        assert elections.read(Observe("a", 1)).candidate == "bob"
        elections.write(EndLease(2))
        assert elections.read(Observe("a", 2)) is None
        assert elections.read(Observe("a", 0)) is LATER


class ServiceTests:
    """Who offers a service, and where."""

    def test_registering(self, elections: Elections) -> None:
        assert elections.write(Register(1, 1, 1, "web", "w2", "tcp:2", {"a": "b"})) == 1
        assert elections.write(Register(2, 2, 1, "web", "w1", "tcp:1")) == 2
        found = elections.read(Discover("web"))
        assert found.revision == 2
        assert [each.instance for each in found.instances] == ["w1", "w2"]
        assert found.instances[1].metadata == {"a": "b"}
        assert found.instances[1].revision == 1

    def test_an_answer_is_a_copy(self, elections: Elections) -> None:
        elections.write(Register(1, 1, 1, "web", "w", "tcp:2", {"a": "b"}))
        elections.read(Discover("web")).instances[0].metadata.clear()
        assert elections.read(Discover("web")).instances[0].metadata == {"a": "b"}

    def test_at_the_leases_end(self, elections: Elections) -> None:
        elections.write(Register(1, 1, 1, "web", "w1", "tcp:1"))
        elections.write(Tick(999))
        assert elections.addresses("web") == {"w1": "tcp:1"}
        elections.write(Tick(1000))
        assert elections.addresses("web") == {}
        assert elections.state.items == 0

    def test_news_of_one_lease(self, elections: Elections) -> None:
        """What comes late, and was said before what is there, changes nothing."""
        elections.write(Register(1, 1, 2, "web", "w1", "new"))
        assert elections.write(Register(1, 1, 1, "web", "w1", "old")) == 1
        assert elections.write(Register(1, 1, 2, "web", "w1", "again")) == 1
        assert elections.addresses("web") == {"w1": "new"}
        assert elections.write(Register(1, 1, 3, "web", "w1", "newer")) == 2
        assert elections.addresses("web") == {"w1": "newer"}
        assert elections.state.items == 1

    def test_who_began_later_has_it(self, elections: Elections) -> None:
        """Whoever comes back later, with a new lease."""
        elections.write(Register(1, 1, 1, "web", "w1", "ada"))
        elections.write(Register(2, 2, 1, "web", "w1", "bob"))
        with pytest.raises(SupersededError):
            elections.write(Register(3, 1, 2, "web", "w1", "ada"))
        assert elections.write(Register(4, 2, 2, "web", "w1", "bob again")) == 3
        with pytest.raises(SupersededError):
            elections.write(Register(2, 2, 3, "web", "w1", "bob before"))
        assert elections.addresses("web") == {"w1": "bob again"}
        elections.restart()
        with pytest.raises(SupersededError):
            elections.write(Register(3, 1, 2, "web", "w1", "ada"))
        assert elections.state.items == 1

    def test_a_newer_lease_takes_over(self, elections: Elections) -> None:
        """The end of the older one does not matter any more."""
        elections.write(Register(1, 1, 1, "web", "w1", "old"))
        elections.write(Register(2, 2, 1, "web", "w1", "new"))
        with pytest.raises(SupersededError):
            elections.write(Register(1, 1, 2, "web", "w1", "old"))
        elections.write(EndLease(1))
        assert elections.addresses("web") == {"w1": "new"}
        assert elections.state.items == 1

    def test_watching(self, elections: Elections) -> None:
        assert elections.read(Discover("web", 0)) is LATER
        elections.write(Register(1, 1, 1, "web", "w1", "tcp:1"))
        assert elections.read(Discover("web", 0)).revision == 1
        assert elections.read(Discover("web", 1)) is LATER
        elections.write(Register(2, 2, 1, "mail", "m1", "tcp:1"))
        assert elections.read(Discover("web", 1)) is LATER
        elections.write(EndLease(1))
        found = elections.read(Discover("web", 1))
        assert (found.revision, found.instances) == (3, ())
        elections.restart()
        assert elections.read(Discover("web", 1)) == found
        assert elections.read(Discover("web", 3)) is LATER

    def test_forgotten_services(
        self, elections: Elections, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of those long empty it is only known that something happened."""
        monkeypatch.setattr(state_module, "MAX_EMPTY", 1)
        elections.write(Register(1, 1, 1, "web", "w1", "tcp:1"))
        elections.write(EndLease(1))
        elections.write(Register(2, 2, 1, "mail", "m1", "tcp:1"))
        elections.write(EndLease(2))
        assert list(elections.state.services) == ["mail"]
        assert elections.read(Discover("web", 1)).revision == 2
        assert elections.read(Discover("web", 2)) is LATER
        assert elections.read(Discover("mail", 3)).revision == 4
        elections.restart()
        assert elections.write(Register(3, 3, 1, "web", "w1", "tcp:1")) == 5
        assert elections.read(Discover("web", 2)).revision == 5


class BoundsTests:
    """Memory is bounded, and what is refused changes nothing."""

    def test_leases(
        self, elections: Elections, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(lease_table, "MAX_LEASES", 4)
        with pytest.raises(TooManyError):
            elections.open(1)
        elections.write(EndLease(1))
        elections.open(1)

    @pytest.mark.parametrize("bound", ["MAX_LEASE_ITEMS", "MAX_ITEMS"])
    def test_items(
        self, elections: Elections, monkeypatch: pytest.MonkeyPatch, bound: str
    ) -> None:
        monkeypatch.setattr(state_module, bound, 2)
        elections.write(Campaign(1, "a", "x"))
        elections.write(Register(1, 1, 1, "web", "w1", "tcp:1"))
        for refused in (Campaign(1, "b", "x"), Register(1, 1, 2, "web", "w2", "tcp:1")):
            with pytest.raises(TooManyError):
                elections.write(refused)
        assert elections.write(Campaign(1, "a", "x")) == 1
        assert elections.write(Register(1, 1, 2, "web", "w1", "tcp:2")) == 2
        elections.write(EndLease(1))
        assert elections.write(Campaign(2, "b", "x")) == 2

    def test_instances(
        self, elections: Elections, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(state_module, "MAX_INSTANCES", 1)
        elections.write(Register(1, 1, 1, "web", "w1", "tcp:1"))
        with pytest.raises(TooManyError):
            elections.write(Register(2, 2, 1, "web", "w2", "tcp:1"))
        assert elections.write(Register(2, 2, 1, "web", "w1", "tcp:1")) == 2

    @pytest.mark.parametrize(
        "command",
        [
            Campaign(1, "", "x"),
            Campaign(1, "x" * 256, "x"),
            Campaign(0, "a", "x"),
            OpenLease(99),
            OpenLease(86_400_001),
            OpenLease(100, "x" * 256),
            Register(1, 1, 1, "web", "w1", "x" * 1025),
            Register(1, 1, 1, "web", "w1", "", {str(key): "" for key in range(17)}),
            Register(1, 1, 1, "web", "w1", "", {"": "x"}),
            Register(1, 1, 1, "web", "w1", "", {"x" * 65: "x"}),
            Register(1, 1, 1, "web", "w1", "", {"x": "y" * 257}),
            Discover("web", -1),
        ],
    )
    def test_what_is_too_large(self, command: Any) -> None:
        with pytest.raises(InvalidCommandError):
            ElectionMachine().encode(command)


class KindTests:
    """Commands and queries are told apart."""

    def test_a_query_is_not_written(self, elections: Elections) -> None:
        with pytest.raises(InvalidCommandError, match="Observe changes nothing"):
            elections.write(Observe("a"))

    def test_a_command_is_not_read(self, elections: Elections) -> None:
        with pytest.raises(InvalidCommandError, match="RenewLease changes the state"):
            elections.read(RenewLease(1))

    def test_what_is_neither(self) -> None:
        with pytest.raises(InvalidCommandError, match="is no command"):
            ElectionMachine().encode(object())

    @pytest.mark.parametrize(
        "data", [b"", b"\2\x91\xa4open", b"\1\xc1", b"\1\x91\xa1x"]
    )
    def test_bytes_that_are_no_command(self, data: bytes) -> None:
        with pytest.raises(InvalidCommandError):
            decode(data)

    def test_the_bytes_of_a_command(self) -> None:
        """They stay in logs: they never change."""
        data = b"\1\x94\xa8campaign\7\xa4cron\xa3ada"
        assert ElectionMachine().encode(Campaign(7, "cron", "ada")) == data


class SnapshotTests:
    """A state survives its snapshot."""

    @given(st.lists(_COMMANDS | st.builds(Tick, st.integers(1, 2000)), max_size=40))
    def test_it_goes_on_as_before(self, history: list[Any]) -> None:
        """Whatever comes after it has the same results as without."""
        one, two = Elections(), Elections()
        for each in (one, two):
            each.open(4, 700)
        results: list[list[Any]] = [[], []]
        for place, each in enumerate((one, two)):
            for number, command in enumerate(history):
                if each is two and number == len(history) // 2:
                    each.restart()
                try:
                    results[place].append(each.write(command))
                except ElectionError as error:
                    results[place].append(str(error))
        assert results[0] == results[1]
        assert one.state == two.state

    def test_what_belongs_to_nobody(self, elections: Elections) -> None:
        """A snapshot that cannot be is refused."""
        elections.write(Campaign(1, "a", "x"))
        elections.write(Register(2, 2, 1, "web", "w1", "tcp:1"))
        elections.state.leases.take(1)
        with pytest.raises(StorageError, match="that is not there"):
            elections.restart()

    @pytest.mark.parametrize(
        "row",
        [
            ("instance", "web", "w1", 1, 1, 1, 1, "tcp:1", {}),
            ("instance", "web", "w1", 2, 1, 1, 1, "tcp:1", {}),
            ("candidate", "a", 2, "ada", 1),
        ],
    )
    def test_rows_that_cannot_be(self, row: Any) -> None:
        chunks = RowsSnapshot(1, [("lease", 1, "", 100, 100), row]).chunks()
        with pytest.raises(StorageError, match="that is not there"):
            ElectionMachine().restore(chunks, 1)


class ModelTests:
    """What holds after any history."""

    @given(st.lists(_COMMANDS | st.builds(Tick, st.integers(1, 2000)), max_size=60))
    def test_invariants(self, history: list[Any]) -> None:
        """The first candidate leads; terms rise; all is in its place."""
        elections = Elections()
        elections.open(4, 700)
        last = 0
        for command in history:
            with suppress(ElectionError):
                elections.write(command)
            check(elections.state, last)
            last = elections.state.last_term


def check(state: state_module.State, last: int) -> None:
    """See that everything is in its place."""
    assert state.last_term >= last
    held = {
        (lease.number, name)
        for lease in state.leases.by_number.values()
        for name in lease.elections
    }
    offered = {
        (lease.number, *each)
        for lease in state.leases.by_number.values()
        for each in lease.instances
    }
    assert state.items == len(held) + len(offered)
    for name, election in state.elections.items():
        assert election.leader == next(iter(election.queue))
        assert election.term <= state.last_term
        held -= {(lease, name) for lease in election.queue}
    assert not held
    for name, service in state.services.items():
        assert (name in state.empty) == (not service.instances)
        assert service.revision <= state.revision
        offered -= {
            (each.lease, name, instance) for instance, each in service.instances.items()
        }
    assert not offered
