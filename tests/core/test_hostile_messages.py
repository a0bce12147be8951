"""
Messages that no correct server sends: the core refuses them, and stays small.

They are well-typed, as a transport hands them over, and may be of anybody: of
members, of strangers, in this server's own name.
"""

from __future__ import annotations

from contextlib import suppress
from zlib import crc32

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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
from consensus.core.reads import MAX_WAITING
from consensus.core.state import Tuning
from consensus.core.values import Entry, EntryKind, Role, SnapshotMeta
from consensus.errors import ProtocolError, RejectedError
from tests.support.network import Network, led

_TUNING = Tuning(heartbeat_ticks=2, election_ticks=6, max_inflight=3, log_tail=2)
_LARGEST = 2**63 - 1

#: One that the network of the tests can restore.
_CHUNK = b'[1, 1, 1, "6f6e65"]'

senders = st.sampled_from(["s1", "s2", "s3", "s4", "", "stranger"])
numbers = st.integers(0, 12) | st.sampled_from([2**31, 2**62, _LARGEST])
terms = st.integers(0, 6) | st.sampled_from([2**62, _LARGEST])
memberships = st.sampled_from(
    [
        Membership({"s1": "a", "s2": "b", "s3": "c"}).encode(),
        Membership({"s1": "a"}).encode(),
        Membership({"x": "y"}, learners={"s1": "a"}).encode(),
        Membership().encode(),
        b"no membership",
        b"",
    ]
)


@st.composite
def entries_after(
    draw: st.DrawFn, index: int, prev_term: int, term: int
) -> tuple[Entry, ...]:
    """Draw entries as a codec lets them through: no holes, terms never fall."""
    count = draw(st.integers(0, 4))
    found = []
    for number in range(index + 1, min(index + count, _LARGEST) + 1):
        prev_term = draw(st.integers(prev_term, term)) if prev_term <= term else term
        kind = draw(st.sampled_from(EntryKind))
        is_membership = kind == EntryKind.MEMBERSHIP
        command = draw(memberships if is_membership else st.binary(max_size=5))
        found.append(Entry(number, prev_term, kind, command))
    return tuple(found)


@st.composite
def appends(draw: st.DrawFn) -> AppendEntries:
    """Draw appends."""
    term, prev_index = draw(terms), draw(numbers)
    prev_term = min(draw(terms), term)
    entries = draw(entries_after(prev_index, prev_term, term))
    return AppendEntries(
        draw(senders),
        term,
        prev_index,
        prev_term,
        draw(numbers),
        draw(numbers),
        entries,
    )


@st.composite
def installs(draw: st.DrawFn) -> InstallSnapshot:
    """Draw chunks of snapshots."""
    term, chunks = draw(terms), draw(st.integers(1, 4))
    index = draw(numbers)
    meta = SnapshotMeta(
        index,
        min(draw(terms), term),
        draw(memberships),
        min(draw(numbers), index),
        chunks,
        draw(st.integers(0, 50)),
        draw(st.sampled_from([1, crc32(_CHUNK * chunks)])),
    )
    number = draw(st.integers(0, chunks - 1))
    data = draw(st.sampled_from([_CHUNK, b"no such thing"]))
    return InstallSnapshot(draw(senders), term, meta, number, data)


messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(RequestVote, senders, terms, numbers, terms, st.booleans()),
    st.builds(RequestVoteResponse, senders, terms, st.booleans()),
    st.builds(RequestPreVote, senders, terms, numbers, terms),
    st.builds(RequestPreVoteResponse, senders, terms, st.booleans()),
    st.builds(TimeoutNow, senders, terms),
    appends(),
    installs(),
    st.builds(
        InstallSnapshotResponse, senders, terms, numbers, st.integers(0, 2), numbers
    ),
    st.builds(RequestReadIndex, senders, terms, numbers),
    st.builds(RequestReadIndexResponse, senders, terms, numbers, numbers),
    st.builds(
        AppendEntriesResponse,
        senders,
        terms,
        st.booleans(),
        numbers,
        numbers,
        numbers,
        terms,
    ),
)


def in_role(role: Role) -> Network:
    """Return a network whose s1 is in *role*, with a few entries."""
    network = led(tuning=_TUNING)
    network.propose("s1", b"one", b"two")
    network.settle()
    if role is Role.LEADER:
        return network
    network.elect("s2")
    network.settle()
    if role is Role.FOLLOWER:
        return network
    network.isolate("s1")
    network.campaign("s1")
    return network


def feed(network: Network, message: Message) -> None:
    """Hand *message* to s1, as its shell does; nothing else may come of it."""
    with suppress(ProtocolError):
        network.step("s1", message)
    network.queue.clear()


@pytest.mark.parametrize("role", [Role.LEADER, Role.FOLLOWER, Role.CANDIDATE])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(sent=st.lists(messages | st.just("tick"), max_size=12))
def test_any_message_is_taken_or_refused(role: Role, sent: list[Message | str]) -> None:
    """Nothing but a ProtocolError comes out, whatever comes in, in any order."""
    network = in_role(role)
    assert network.role("s1") is role
    for message in sent:
        if isinstance(message, str):
            network.tick("s1")
        else:
            feed(network, message)
    state = network.rafts["s1"].state
    assert state.progress.keys() <= {"s2", "s3", "x"}


def test_questions_of_others_are_bounded() -> None:
    """A leader that no majority answers keeps so many questions, and no more."""
    network = in_role(Role.LEADER)
    term = network.rafts["s1"].state.term
    for number in range(3 * MAX_WAITING):
        feed(network, RequestReadIndex("s2", term, number))
    assert len(network.rafts["s1"].state.reads) == MAX_WAITING


def test_strangers_leave_nothing_behind() -> None:
    """Neither votes nor progress nor reads are kept of servers that are none."""
    network = in_role(Role.CANDIDATE)
    state = network.rafts["s1"].state
    for number in range(1000):
        name, term = f"stranger{number}", state.term
        feed(network, RequestVoteResponse(name, term, granted=True))
        feed(network, RequestPreVoteResponse(name, term, granted=True))
        feed(network, AppendEntriesResponse(name, term, True, 3, 1))  # noqa: FBT003 - its place says what
    assert state.role is Role.CANDIDATE
    assert state.votes <= {"s1", "s2", "s3"}
    assert state.progress.keys() <= {"s2", "s3"}


def test_one_snapshot_comes_in_at_a_time() -> None:
    """Whoever begins a thousand snapshots has one of them received."""
    network = in_role(Role.FOLLOWER)
    state = network.rafts["s1"].state
    membership = Membership({"s1": "a", "s2": "b", "s3": "c"}).encode()
    for number in range(1000):
        meta = SnapshotMeta(100 + number, state.term, membership, 1, 9, 99, number)
        feed(network, InstallSnapshot("s2", state.term, meta, 0, b"x"))
    assert len(network.incoming["s1"]) == 1
    assert not state.received
    assert not network.uninstalled["s1"]


def test_a_leader_is_not_disturbed_by_its_own_name() -> None:
    """What others say in its name does not make it lead or commit by itself."""
    network = in_role(Role.LEADER)
    network.isolate("s1")
    network.propose("s1", b"three")
    network.queue.clear()
    state = network.rafts["s1"].state
    before = state.log.commit_index
    with suppress(RejectedError):
        for index in range(state.log.last_index + 1):
            response = AppendEntriesResponse("s1", state.term, True, index, 99)  # noqa: FBT003 - likewise
            feed(network, response)
    assert state.log.commit_index == before
