"""Raft: its inputs, the order of its effects, and what it refuses."""

from __future__ import annotations

from itertools import product
from typing import get_args

import pytest

from consensus.core.dispatch import DISPATCH
from consensus.core.membership import Membership
from consensus.core.messages import (
    AppendEntries,
    AppendEntriesResponse,
    InstallSnapshot,
    InstallSnapshotResponse,
    Message,
    RequestPreVote,
    RequestPreVoteResponse,
    RequestReadIndex,
    RequestReadIndexResponse,
    RequestVote,
    RequestVoteResponse,
    TimeoutNow,
)
from consensus.core.raft import Raft
from consensus.core.ready import (
    Fetch,
    MembershipChanged,
    MembershipCommitted,
    RoleChanged,
)
from consensus.core.state import Tuning
from consensus.core.values import EntryKind, HardState, Role, SnapshotMeta
from consensus.errors import (
    AlreadyConfiguredError,
    InvalidChangeError,
    InvariantError,
    NotLeaderError,
)
from tests.support.network import Network, alone, entries_of

_MESSAGES = list(get_args(Message))
_ALL_BUT_TIMEOUT_NOW = [kind for kind in _MESSAGES if kind is not TimeoutNow]
_META = SnapshotMeta(9, 1, Membership({"s1": "a"}).encode(), 1, 2, 8, 77)
_MEMBERSHIP = Membership({"s1": "a", "s2": "b", "s3": "c"})


def _raft(hard_state: HardState | None = None) -> Raft:
    return Raft("s1", lambda n: n - 1, hard_state=hard_state)


def _leader(*terms: int, tuning: Tuning | None = None) -> Network:
    network = alone(*terms, names=["s1"], tuning=tuning)
    network.campaign("s1")
    return network


class DispatchTests:
    """The table of handlers."""

    def test_has_every_pair(self) -> None:
        """No message of the current term falls through in any role."""
        assert set(DISPATCH) == set(product(Role, _MESSAGES))


class BootstrapTests:
    """Founding a cluster."""

    def test_makes_the_membership_the_first_entry(self) -> None:
        """In term 1, so that elections begin with term 2."""
        raft = _raft()
        raft.bootstrap(_MEMBERSHIP)
        ready = raft.ready()
        assert ready is not None
        assert ready.hard_state == HardState(1)
        (entry,) = ready.entries
        assert (entry.index, entry.term, entry.kind) == (1, 1, EntryKind.MEMBERSHIP)
        assert Membership.decode(entry.command) == _MEMBERSHIP
        assert ready.events == [MembershipChanged(_MEMBERSHIP)]
        assert raft.state.membership == _MEMBERSHIP

    def test_is_done_once(self) -> None:
        """A second membership would be another cluster."""
        raft = _raft()
        raft.bootstrap(_MEMBERSHIP)
        with pytest.raises(AlreadyConfiguredError):
            raft.bootstrap(_MEMBERSHIP)

    @pytest.mark.parametrize(
        "hard_state", [HardState(2), HardState(1, "s2"), HardState(0, "s2")]
    )
    def test_is_refused_after_an_election(self, hard_state: HardState) -> None:
        """The server belongs to a cluster already, though its log is empty."""
        with pytest.raises(AlreadyConfiguredError):
            _raft(hard_state).bootstrap(_MEMBERSHIP)

    def test_is_done_again_after_a_crash_in_the_midst(self) -> None:
        """The term was durable, the entry was not yet."""
        raft = _raft(HardState(1))
        raft.bootstrap(_MEMBERSHIP)
        ready = raft.ready()
        assert ready is not None
        assert len(ready.entries) == 1

    def test_by_one_founder_reaches_the_others(self) -> None:
        """They learn the membership from the leader's log."""
        network = Network(["s1", "s2", "s3"], founders=["s1"])
        network.elect("s1")
        network.propose("s1", b"x")
        network.settle()
        for name in network.names:
            assert network.commands(name) == [b"x"]
            assert sorted(network.rafts[name].state.membership.voters) == [
                "s1",
                "s2",
                "s3",
            ]


class StepTests:
    """Terms (§3.3)."""

    @pytest.mark.parametrize("kind", _ALL_BUT_TIMEOUT_NOW)
    @pytest.mark.parametrize("role", list(Role))
    def test_a_newer_term_makes_a_follower(
        self, role: Role, kind: type[Message]
    ) -> None:
        """Whatever the message and the role."""
        network = _in_role(role)
        network.step("s1", _message(kind, 9))
        state = network.rafts["s1"].state
        assert (state.role, state.term) == (Role.FOLLOWER, 9)
        assert network.disks["s1"].hard_state.term == 9

    @pytest.mark.parametrize("role", list(Role))
    def test_a_follower_of_the_newer_term_stands_if_its_leader_says_so(
        self, role: Role
    ) -> None:
        """In the term after that one."""
        network = _in_role(role)
        network.step("s1", TimeoutNow("s2", 9))
        assert network.role("s1") is Role.CANDIDATE
        assert network.disks["s1"].hard_state == HardState(10, "s1")

    @pytest.mark.parametrize("kind", _MESSAGES)
    @pytest.mark.parametrize("role", list(Role))
    def test_an_older_term_changes_nothing(
        self, role: Role, kind: type[Message]
    ) -> None:
        """Whatever the message and the role."""
        network = _in_role(role)
        before = _snapshot(network)
        network.step("s1", _message(kind, 1))
        assert _snapshot(network) == before

    @pytest.mark.parametrize("role", list(Role))
    def test_a_request_of_an_older_term_is_told_of_the_newer_one(
        self, role: Role
    ) -> None:
        """So that its sender steps down; an answer is answered by nothing."""
        network = _in_role(role)
        term = network.rafts["s1"].state.term
        assert network.step("s1", _message(RequestVote, 1)) == [
            ("s2", RequestVoteResponse("s1", term, granted=False))
        ]
        assert network.step("s1", _message(AppendEntries, 1)) == [
            ("s2", AppendEntriesResponse("s1", term, success=False, index=0, round=0))
        ]
        assert network.step("s1", _message(InstallSnapshot, 1)) == [
            ("s2", AppendEntriesResponse("s1", term, success=False, index=0, round=0))
        ]
        assert network.step("s1", _message(RequestPreVote, 1)) == [
            ("s2", RequestPreVoteResponse("s1", term, granted=False))
        ]
        assert network.step("s1", _message(RequestPreVoteResponse, 1)) == []
        assert network.step("s1", _message(RequestVoteResponse, 1)) == []
        assert network.step("s1", _message(AppendEntriesResponse, 1)) == []
        assert network.step("s1", _message(InstallSnapshotResponse, 1)) == []
        assert network.step("s1", _message(TimeoutNow, 1)) == []

    @pytest.mark.parametrize(
        ("role", "kind"),
        [
            (Role.FOLLOWER, RequestPreVoteResponse),
            (Role.FOLLOWER, RequestVoteResponse),
            (Role.FOLLOWER, AppendEntriesResponse),
            (Role.FOLLOWER, InstallSnapshotResponse),
            (Role.PRE_CANDIDATE, RequestVoteResponse),
            (Role.PRE_CANDIDATE, AppendEntriesResponse),
            (Role.PRE_CANDIDATE, InstallSnapshotResponse),
            (Role.CANDIDATE, RequestPreVoteResponse),
            (Role.CANDIDATE, TimeoutNow),
            (Role.CANDIDATE, AppendEntriesResponse),
            (Role.CANDIDATE, InstallSnapshotResponse),
            (Role.LEADER, RequestPreVoteResponse),
            (Role.LEADER, RequestVoteResponse),
            (Role.LEADER, TimeoutNow),
        ],
    )
    def test_an_answer_that_is_not_waited_for_changes_nothing(
        self, role: Role, kind: type[Message]
    ) -> None:
        """It answers what this server asked in another role of the term."""
        network = _in_role(role)
        before = _snapshot(network)
        assert network.step("s1", _message(kind, before[0].term)) == []
        assert _snapshot(network) == before

    def test_the_newer_term_is_durable_before_it_is_told(self) -> None:
        """A refusal speaks for a term, too."""
        network = alone(1)
        network.slow.add("s1")
        network.step("s1", _message(RequestVoteResponse, 9))
        assert network.step("s1", _message(AppendEntries, 1)) == []
        network.sync("s1")
        assert [message.term for _, message in network.queue] == [9]


def _in_role(role: Role) -> Network:
    """Return s1 alone of three, in *role*, in a term above 1."""
    tuning = Tuning(stable_leader=role is Role.PRE_CANDIDATE)
    network = alone(1, 2, tuning=tuning)
    if role is not Role.FOLLOWER:
        network.campaign("s1")
    if role is Role.LEADER:
        network.step("s1", RequestVoteResponse("s3", 3, granted=True))
    assert network.role("s1") is role
    network.queue.clear()
    return network


def _message(kind: type[Message], term: int) -> Message:
    """Return a message that would change something if its term were right."""
    messages: list[Message] = [
        RequestPreVote("s2", term, 99, term),
        RequestPreVoteResponse("s2", term, granted=True),
        RequestVote("s2", term, 99, term),
        RequestVoteResponse("s2", term, granted=True),
        TimeoutNow("s2", term),
        AppendEntries("s2", term, 1, 1, 2, 0, tuple(entries_of(1))),
        AppendEntriesResponse("s2", term, success=True, index=4, round=0),
        InstallSnapshot("s2", term, _META, 0, b"data"),
        InstallSnapshotResponse("s2", term, _META.index, _META.checksum, 1),
        RequestReadIndex("s2", term, 7),
        RequestReadIndexResponse("s2", term, 7, 4),
    ]
    (message,) = (message for message in messages if type(message) is kind)
    return message


def _snapshot(network: Network) -> tuple[HardState, object]:
    """Return what a message could change."""
    state = network.rafts["s1"].state
    log = state.log
    rest = (
        state.role,
        state.leader,
        state.elapsed,
        sorted(state.votes),
        [(peer, p.match_index, p.next_index) for peer, p in state.progress.items()],
        log.commit_index,
        network.terms("s1"),
    )
    return state.hard_state, rest


class ProposeTests:
    """Commands."""

    def test_of_several_kinds(self) -> None:
        """Entries of the framework's own stand among the commands."""
        raft = _leader(1).rafts["s1"]
        kinds = [EntryKind.SESSION, EntryKind.COMMAND]
        assert raft.propose([b"x", b"y"], kinds) == 4
        ready = raft.ready()
        assert ready is not None
        assert [(e.index, e.kind, e.command) for e in ready.entries] == [
            (4, EntryKind.SESSION, b"x"),
            (5, EntryKind.COMMAND, b"y"),
        ]

    def test_kinds_are_as_many_as_commands(self) -> None:
        """None is left out; nothing is appended."""
        raft = _leader(1).rafts["s1"]
        with pytest.raises(ValueError, match="2 commands, but 1 kinds"):
            raft.propose([b"x", b"y"], [EntryKind.SESSION])
        assert raft.state.log.last_index == 3

    def test_become_consecutive_entries_of_the_term(self) -> None:
        """The first index is returned; one Ready writes them all."""
        network = _leader(1)
        raft = network.rafts["s1"]
        assert raft.propose([b"x", b"y"]) == 4
        assert raft.propose([b"z"]) == 6
        ready = raft.ready()
        assert ready is not None
        assert [(e.index, e.term, e.kind, e.command) for e in ready.entries] == [
            (4, 2, EntryKind.COMMAND, b"x"),
            (5, 2, EntryKind.COMMAND, b"y"),
            (6, 2, EntryKind.COMMAND, b"z"),
        ]

    def test_are_refused_by_whoever_does_not_lead(self) -> None:
        """The error says who does, and where it listens."""
        network = alone(1)
        with pytest.raises(NotLeaderError) as unknown:
            network.propose("s1", b"x")
        assert (unknown.value.leader, unknown.value.address) == (None, "")
        network.step("s1", AppendEntries("s3", 2, 2, 1, 0, 0))
        with pytest.raises(NotLeaderError) as known:
            network.propose("s1", b"x")
        assert (known.value.leader, known.value.address) == ("s3", "address of s3")
        assert network.terms("s1") == [1]


class TransferTests:
    """Handing leadership over; see also test_transfer.py."""

    def test_is_refused_by_whoever_does_not_lead(self) -> None:
        """The error says who does."""
        network = alone(1)
        network.step("s1", AppendEntries("s3", 2, 2, 1, 0, 0))
        with pytest.raises(NotLeaderError) as error:
            network.transfer("s1", "s2")
        assert error.value.leader == "s3"

    def test_is_refused_to_the_leader_itself(self) -> None:
        """It leads already, and goes on taking writes."""
        network = _in_role(Role.LEADER)
        with pytest.raises(InvalidChangeError, match=r"^s1 leads already$"):
            network.transfer("s1", "s1")
        network.propose("s1", b"x")

    @pytest.mark.parametrize("target", ["s9", ""])
    def test_is_refused_to_whoever_is_no_peer(self, target: str) -> None:
        """The error says who is; the leader goes on taking writes."""
        network = _in_role(Role.LEADER)
        with pytest.raises(InvalidChangeError, match=r"those are: s2, s3$"):
            network.transfer("s1", target)
        network.propose("s1", b"x")

    def test_is_refused_when_there_is_no_peer(self) -> None:
        """A cluster of one server has nobody to choose."""
        network = _leader(1)
        with pytest.raises(InvalidChangeError, match="no other voter is alive"):
            network.transfer("s1")
        with pytest.raises(InvalidChangeError, match=r"those are: none$"):
            network.transfer("s1", "s2")

    def test_is_refused_when_no_peer_is_alive(self) -> None:
        """Unless the target is named: it may be slow to answer."""
        network = _in_role(Role.LEADER)
        network.tick("s1", network.tuning.election_ticks)
        with pytest.raises(InvalidChangeError, match="no other voter is alive"):
            network.transfer("s1")
        assert network.transfer("s1", "s2") == "s2"

    def test_says_to_whom(self) -> None:
        """Chosen or named."""
        network = _in_role(Role.LEADER)
        assert network.transfer("s1", "s3") == "s3"
        assert network.transfer("s1") in {"s2", "s3"}

    def test_refuses_writes_though_the_heir_has_no_address(self) -> None:
        """The heir's name is known, at least."""
        network = _in_role(Role.LEADER)
        network.transfer("s1", "s2")
        del network.rafts["s1"].state.membership.voters["s2"]
        with pytest.raises(NotLeaderError) as error:
            network.propose("s1", b"x")
        assert (error.value.leader, error.value.address) == ("s2", "")


class ReadTests:
    """Reads."""

    def test_are_refused_by_whoever_does_not_lead(self) -> None:
        """A follower's state may be old."""
        with pytest.raises(NotLeaderError):
            alone(1).read("s1", 7)


class ReadyTests:
    """Effects."""

    def test_are_none_when_there_is_nothing_to_do(self) -> None:
        """Each effect is named once."""
        raft = _raft()
        assert raft.ready() is None
        raft.bootstrap(_MEMBERSHIP)
        assert raft.ready() is not None
        assert raft.ready() is None

    def test_carry_term_and_vote_when_they_changed(self) -> None:
        """Not again with the next one."""
        network = alone(1)
        raft = network.rafts["s1"]
        raft.step(RequestVote("s2", 4, 2, 1))
        ready = raft.ready()
        assert ready is not None
        assert ready.hard_state == HardState(4, "s2")
        raft.step(AppendEntries("s2", 4, 2, 1, 0, 0, tuple(entries_of(4, after=2))))
        ready = raft.ready()
        assert ready is not None
        assert ready.hard_state is None

    def test_send_an_answer_after_the_disk_and_an_append_beside_it(self) -> None:
        """The leader's own write goes on beside its messages (§10.2.1)."""
        network = alone(1)
        raft = network.rafts["s1"]
        raft.step(RequestVote("s2", 4, 2, 1))
        ready = raft.ready()
        assert ready is not None
        assert (len(ready.messages), len(ready.messages_after)) == (0, 1)
        raft.advance(ready)
        network.campaign("s1")
        raft.step(RequestVoteResponse("s2", 5, granted=True))
        ready = raft.ready()
        assert ready is not None
        assert len(ready.entries) == 1
        assert (len(ready.messages), len(ready.messages_after)) == (2, 0)

    def test_tell_of_changes_of_role(self) -> None:
        """In the order in which they happened."""
        network = _leader(1)
        assert network.events["s1"] == [
            RoleChanged(Role.CANDIDATE, 2, None),
            RoleChanged(Role.LEADER, 2, "s1"),
            MembershipCommitted(1, network.rafts["s1"].state.membership),
        ]


class ApplyTests:
    """Committed entries."""

    def test_are_handed_out_once_and_in_order(self) -> None:
        """From the first entry of the log on."""
        network = _leader(1)
        network.propose("s1", b"x")
        network.propose("s1", b"y", b"z")
        assert [entry.index for entry in network.applied["s1"]] == [1, 2, 3, 4, 5, 6]

    def test_are_not_handed_out_before_they_are_durable_here(self) -> None:
        """A state machine is never ahead of its own server's log."""
        network = alone(1)
        network.step("s1", AppendEntries("s2", 2, 2, 1, 2, 0))
        network.slow.add("s1")
        entries = tuple(entries_of(2, 2, after=2))
        network.step("s1", AppendEntries("s2", 2, 2, 1, 4, 0, entries))
        assert network.committed("s1") == 4
        assert len(network.applied["s1"]) == 2
        network.sync("s1")
        assert len(network.applied["s1"]) == 4

    def test_come_in_bounded_portions(self) -> None:
        """A Ready hands out so many bytes, and the next one goes on."""
        network = _leader(tuning=Tuning(max_apply_bytes=4))
        network.slow.add("s1")
        raft = network.rafts["s1"]
        network.propose("s1", b"aa", b"bb", b"cc")
        (write,) = network.unsynced["s1"]
        raft.advance(write)
        portions = []
        while (ready := raft.ready()) is not None:
            portions.append([entry.command for entry in ready.committed])
        assert portions == [[b"aa", b"bb"], [b"cc"]]

    def test_are_read_from_storage_after_a_restart(self) -> None:
        """One read at a time, each as large as a portion may be."""
        network = alone(1, 1, 1, tuning=Tuning(max_apply_bytes=6))
        raft = network.rafts["s1"]
        # The membership, larger than a portion, comes alone.
        network.step("s1", AppendEntries("s2", 1, 4, 1, 1, 0))
        raft.step(AppendEntries("s2", 1, 4, 1, 4, 0))
        ready = raft.ready()
        assert ready is not None
        assert ready.fetches == [Fetch(2, 4, 6, None, 1)]
        raft.tick()
        assert raft.ready() is None
        raft.fetched(ready.fetches[0], entries_of(1, 1))
        ready = raft.ready()
        assert ready is not None
        assert [entry.index for entry in ready.committed] == [2, 3]
        ready = raft.ready()
        assert ready is not None
        assert ready.fetches == [Fetch(4, 4, 6, None, 1)]

    def test_are_read_from_storage_whoever_leads_meanwhile(self) -> None:
        """What is committed stays, through elections and truncations."""
        network = alone(1, 1, 1, 2, 2)
        network.slow_reading.add("s1")
        network.step("s1", AppendEntries("s2", 2, 4, 1, 3, 0))
        assert [fetch.last for fetch in network.unread["s1"]] == [3]
        entries = tuple(entries_of(4, after=4))
        network.step("s1", AppendEntries("s3", 4, 4, 1, 5, 0, entries))
        assert network.terms("s1") == [1, 1, 1, 4]
        assert network.applied["s1"] == []
        network.fetch("s1")
        assert [entry.index for entry in network.applied["s1"]] == [1, 2, 3]
        network.fetch("s1")
        assert [entry.term for entry in network.applied["s1"]] == [1, 1, 1, 1, 4]

    def test_that_are_not_the_next_ones_stop_the_server(self) -> None:
        """A storage or a shell that is wrong must not be believed."""
        network = alone(1, 1)
        network.slow_reading.add("s1")
        network.step("s1", AppendEntries("s2", 1, 3, 1, 3, 0))
        raft, (fetch,) = network.rafts["s1"], network.unread["s1"]
        raft.fetched(fetch, entries_of(1))
        with pytest.raises(InvariantError, match=r"applied up to 0, next is 2"):
            raft.ready()
