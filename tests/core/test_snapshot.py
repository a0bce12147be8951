"""Snapshots: when the log is cut, how one is sent, how one is installed (§5)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from consensus.core.membership import Membership
from consensus.core.messages import (
    AppendEntries,
    AppendEntriesResponse,
    InstallSnapshot,
    InstallSnapshotResponse,
    RequestVote,
)
from consensus.core.progress import Phase
from consensus.core.ready import FetchChunk, MembershipChanged, ReceivedChunk
from consensus.core.values import Entry, EntryKind, HardState, Role, SnapshotMeta
from consensus.errors import ProtocolError
from tests.support.network import STABLE, Network, alone, entries_of, led

if TYPE_CHECKING:
    from consensus.core.progress import Progress

_SHORT = replace(STABLE, log_tail=0)
_ELECTION = STABLE.election_ticks
_MEMBERS = {name: f"address of {name}" for name in ("s1", "s2", "s3")}
_BYTES = Membership(_MEMBERS).encode()


def _compacted(*, behind: str = "s3", count: int = 30) -> Network:
    """Return a network that s1 leads; its log lacks what *behind* needs."""
    network = led(tuning=_SHORT)
    network.isolate(behind)
    for number in range(count):
        network.propose("s1", b"%d" % number)
    network.settle()
    network.snapshot("s1")
    # It knows that the peer is behind before it is there again.
    network.heartbeat("s1")
    return network


def _progress(network: Network, peer: str = "s3", chief: str = "s1") -> Progress:
    return network.rafts[chief].state.progress[peer]


def _meta(
    index: int, term: int = 1, *, membership_index: int = 1, checksum: int = 77
) -> SnapshotMeta:
    return SnapshotMeta(index, term, _BYTES, membership_index, 2, 8, checksum)


def _install(meta: SnapshotMeta, number: int, term: int = 2) -> InstallSnapshot:
    return InstallSnapshot("s2", term, meta, number, b"data")


def _until_sending(network: Network, chunks: int) -> None:
    """Let the network go on until s3 has so many *chunks*."""
    while _received(network) < chunks:
        _go_on(network)


def _go_on(network: Network) -> None:
    """Deliver the next message; let time pass at the leader s1 for one."""
    while not network.queue:
        network.tick("s1")
    network.deliver()


def _received(network: Network, name: str = "s3") -> int:
    receiving = network.rafts[name].state.receiving
    return receiving.chunks if receiving is not None else 0


class TakenTests:
    """A server's own snapshot."""

    def test_cuts_the_log_and_leaves_a_tail(self) -> None:
        """Storage is told once, with the term of the last entry that goes."""
        network = led(tuning=replace(STABLE, log_tail=3))
        for number in range(10):
            network.propose("s1", b"%d" % number)
        network.settle()
        meta = network.snapshot("s1")
        assert meta.index == 12
        assert network.disks["s1"].base == (9, 2)
        assert [e.index for e in network.entries("s1")] == [10, 11, 12]
        assert network.rafts["s1"].ready() is None

    def test_that_is_older_than_another_changes_nothing(self) -> None:
        """One was installed while it was being taken."""
        network = _compacted()
        meta = network.rafts["s1"].state.snapshot
        assert meta is not None
        network.rafts["s1"].snapshot_taken(replace(meta, index=meta.index - 1))
        assert network.rafts["s1"].state.snapshot == meta
        assert network.rafts["s1"].ready() is None

    def test_shorter_than_the_tail_cuts_nothing(self) -> None:
        """But it is the one to send."""
        network = led()
        meta = network.snapshot("s1")
        assert network.disks["s1"].base == (0, 0)
        assert network.rafts["s1"].state.snapshot == meta

    def test_the_tail_goes_when_that_is_asked_for(self) -> None:
        """As much of it as is asked for, and nothing comes back."""
        network = led()
        meta = network.snapshot("s1")
        raft = network.rafts["s1"]
        raft.compact(1)
        assert raft.state.log.base_index == meta.index - 1
        raft.compact(0)
        assert raft.state.log.base_index == meta.index
        raft.compact(5)
        assert raft.state.log.base_index == meta.index

    def test_without_one_nothing_goes(self) -> None:
        """A log that no snapshot covers stays whole."""
        network = led()
        raft = network.rafts["s1"]
        raft.compact(0)
        assert raft.state.log.base_index == 0
        assert raft.ready() is None

    def test_names_the_membership_that_counted_there(self) -> None:
        """Not a later one that is not applied yet."""
        network = led(tuning=_SHORT)
        network.isolate("s2", "s3")
        network.change("s1", ["s1", "s2"])
        meta = network.snapshot("s1")
        assert meta.membership_index == 1
        assert Membership.decode(meta.membership).voters == _MEMBERS
        network.crash("s1")
        network.restart("s1")
        assert network.rafts["s1"].state.membership.is_joint

    def test_waits_with_what_follows_one_that_is_being_sent(self) -> None:
        """Else it would have to be sent from its start again."""
        network = _compacted()
        sending = network.rafts["s1"].state.snapshot
        assert sending is not None
        network.heal()
        _until_sending(network, 3)
        network.propose("s1", b"x")
        network.pass_on(AppendEntries, "s1", "s2")
        network.pass_on(AppendEntriesResponse, "s2", "s1")
        meta = network.snapshot("s1")
        assert network.rafts["s1"].state.log.last_applied == meta.index
        assert network.disks["s1"].base[0] == sending.index
        # The peer goes on with the older snapshot no longer: it is gone.
        network.pass_time(3 * _ELECTION)
        assert network.commands("s3") == network.commands("s1")

    def test_does_not_wait_for_a_dead_peer(self) -> None:
        """It may be gone for good."""
        network = _compacted()
        network.heal()
        _until_sending(network, 3)
        network.crash("s3")
        network.pass_time(_ELECTION + 1)
        network.propose("s1", b"x")
        network.settle()
        meta = network.snapshot("s1")
        assert network.disks["s1"].base[0] == meta.index


class SendTests:
    """The leader's side."""

    def test_a_follower_without_what_is_gone_gets_the_snapshot(self) -> None:
        """And then the log behind it; each state is the same."""
        network = _compacted()
        network.heal()
        network.propose("s1", b"after")
        network.pass_time(2 * _ELECTION)
        assert network.applied["s3"] == network.applied["s1"]
        assert network.disks["s3"].snapshot == network.disks["s1"].snapshot
        assert network.disks["s3"].base == network.disks["s1"].base
        assert _progress(network).phase is Phase.REPLICATE

    def test_a_new_server_gets_it_too(self) -> None:
        """It had nothing at all."""
        network = led(tuning=_SHORT)
        network.propose("s1", b"x")
        network.settle()
        network.snapshot("s1")
        network.add("s4")
        network.change("s1", [*_MEMBERS, "s4"])
        network.pass_time(5 * _ELECTION)
        assert network.applied["s4"] == network.applied["s1"]
        assert "s4" in network.rafts["s4"].state.membership.voters

    def test_a_leader_without_a_snapshot_waits(self) -> None:
        """Its recovery has not found it; heartbeats go on."""
        network = _compacted()
        progress = _progress(network)
        progress.probe(progress.match_index + 1)
        network.rafts["s1"].state.snapshot = None
        network.heal()
        network.heartbeat("s1")
        assert progress.phase is Phase.PROBE
        assert network.rafts["s3"].state.leader == "s1"

    def test_chunks_are_bounded_and_come_faster_with_every_answer(self) -> None:
        """One first, then twice as many, up to a window."""
        network = _compacted(count=100)
        network.heal()
        largest = 0
        while not largest or _progress(network).phase is Phase.SNAPSHOT:
            _go_on(network)
            largest = max(largest, len(network.waiting(InstallSnapshot)))
        assert 8 < largest <= 16

    def test_heartbeats_and_rounds_go_on_beside_it(self) -> None:
        """A read is confirmed by a peer that gets a snapshot (§6.4)."""
        network = _compacted()
        network.heal()
        _until_sending(network, 2)
        network.isolate("s2")
        network.read("s1", 7)
        network.settle()
        assert [each[0] for each in network.reads["s1"]] == [7]
        for _ in range(3 * _ELECTION):
            network.pass_time(1)
        assert network.leaders() == ["s1"]

    def test_a_lost_chunk_is_sent_again(self) -> None:
        """After an election timeout without news."""
        network = _compacted()
        network.heal()
        _until_sending(network, 3)
        network.lose()
        network.pass_time(2 * _ELECTION)
        assert network.applied["s3"] == network.applied["s1"]

    def test_a_lost_last_answer_is_given_again(self) -> None:
        """The snapshot is installed; only the leader does not know."""
        network = _compacted()
        network.heal()
        while network.rafts["s3"].state.snapshot is None:
            _go_on(network)
        network.lose()
        assert _progress(network).phase is Phase.SNAPSHOT
        network.pass_time(2 * _ELECTION)
        assert _progress(network).phase is Phase.REPLICATE
        assert network.applied["s3"] == network.applied["s1"]

    @pytest.mark.parametrize("seed", range(10))
    def test_any_order_of_chunks_and_answers_will_do(self, seed: int) -> None:
        """Late, repeated and lost ones; the messages do not multiply."""
        network = _compacted(count=60)
        network.heal()
        network.random.seed(seed)
        dice = network.random
        most = 0
        for step in range(4000):
            if step % 20 == 0:
                network.tick("s1")
            if network.queue:
                position = dice.randrange(len(network.queue))
                if dice.random() < 0.1:
                    network.queue.append(network.queue[position])
                if dice.random() < 0.1:
                    network.queue.pop(position)
                else:
                    network.deliver(position)
            most = max(most, len(network.queue))
        assert most < 200
        network.pass_time(3 * _ELECTION)
        assert network.applied["s3"] == network.applied["s1"]

    def test_a_dead_peer_is_asked_gently(self) -> None:
        """One chunk an election timeout."""
        network = _compacted()
        network.heal()
        _until_sending(network, 10)
        network.crash("s3")
        network.lose()
        before = len(network.waiting(InstallSnapshot))
        for _ in range(5 * _ELECTION):
            network.tick("s1")
            network.pass_on(AppendEntries, "s1", "s2")
            network.pass_on(AppendEntriesResponse, "s2", "s1")
        assert before == 0
        assert len(network.waiting(InstallSnapshot)) <= 5

    def test_a_follower_that_restarted_gets_it_from_the_start(self) -> None:
        """What it had of it was not durable; its log and state are as before."""
        network = _compacted()
        network.heal()
        _until_sending(network, 10)
        before = network.applied["s3"]
        network.crash("s3")
        network.restart("s3")
        assert network.disks["s3"].snapshot is None
        assert network.rafts["s3"].state.log.last_index == len(before)
        network.pass_time(4 * _ELECTION)
        assert network.applied["s3"] == network.applied["s1"]

    def test_one_that_is_superseded_gives_way_to_the_newer(self) -> None:
        """Its chunks are gone; the follower begins anew."""
        network = _compacted()
        network.heal()
        _until_sending(network, 5)
        network.isolate("s3")
        network.propose("s1", b"x")
        network.settle()
        newer = network.snapshot("s1")
        network.heal()
        network.pass_time(4 * _ELECTION)
        assert network.disks["s3"].snapshot == newer
        assert network.applied["s3"] == network.applied["s1"]

    def test_one_that_is_gone_gives_way_at_once(self) -> None:
        """A chunk of it is asked for in vain."""
        network = _compacted()
        older = network.rafts["s1"].state.snapshot
        assert older is not None
        network.propose("s1", b"x")
        network.settle()
        newer = network.snapshot("s1")
        assert _progress(network).sending == older
        raft = network.rafts["s1"]
        raft.chunk_fetched(FetchChunk(older, 0, "s3", 2), None)
        network.pump("s1")
        assert _progress(network).sending == newer
        assert network.waiting(InstallSnapshot)[-1].meta == newer

    def test_one_whose_chunks_cannot_be_read_is_not_asked_for_at_once(self) -> None:
        """There is no newer one; the next attempt waits."""
        network = _compacted()
        network.disks["s1"].snapshot = None
        network.heal()
        network.lose()
        network.pass_time(2 * _ELECTION)
        assert _progress(network).phase is Phase.SNAPSHOT
        assert _progress(network).next_chunk == 1
        assert _received(network) == 0
        meta = network.rafts["s1"].state.snapshot
        network.disks["s1"].snapshot = meta
        network.pass_time(3 * _ELECTION)
        assert network.applied["s3"] == network.applied["s1"]

    def test_a_peer_that_has_what_is_needed_after_all_gets_entries(self) -> None:
        """A late answer shows that its log is long enough."""
        network = _compacted()
        network.heal()
        _until_sending(network, 3)
        last = network.rafts["s1"].state.log.last_index
        network.lose()
        answer = AppendEntriesResponse("s3", 2, success=True, index=last, round=0)
        network.step("s1", answer)
        assert _progress(network).phase is Phase.PROBE
        assert _progress(network).sending is None

    def test_a_rejection_meanwhile_is_an_old_one(self) -> None:
        """The snapshot goes on."""
        network = _compacted()
        network.heal()
        _until_sending(network, 3)
        answer = AppendEntriesResponse("s3", 2, success=False, index=9, round=0)
        network.step("s1", answer)
        assert _progress(network).phase is Phase.SNAPSHOT

    def test_chunks_that_are_read_too_late_go_nowhere(self) -> None:
        """The peer is gone, the term is over, or another snapshot is sent."""
        network = _compacted()
        network.heal()
        raft = network.rafts["s1"]
        meta = raft.state.snapshot
        assert meta is not None
        assert _progress(network).sending == meta
        fetch = FetchChunk(meta, 0, "s3", 2)
        raft.chunk_fetched(replace(fetch, peer="s9"), b"data")
        raft.chunk_fetched(replace(fetch, term=1), b"data")
        raft.chunk_fetched(replace(fetch, meta=_meta(3)), b"data")
        assert raft.state.messages == []
        raft.chunk_fetched(fetch, b"data")
        assert len(raft.state.messages) == 1


class ResponseTests:
    """Answers of a follower."""

    def _sending(self) -> tuple[Network, SnapshotMeta]:
        network = _compacted()
        network.heal()
        _until_sending(network, 3)
        network.lose()
        meta = _progress(network).sending
        assert meta is not None
        return network, meta

    @pytest.mark.parametrize("offset", [-1000, 1])
    def test_about_a_chunk_that_there_is_not_are_refused(self, offset: int) -> None:
        """No correct server gives them."""
        network, meta = self._sending()
        wanted = meta.chunks + offset
        answer = InstallSnapshotResponse("s3", 2, meta.index, meta.checksum, wanted)
        with pytest.raises(ProtocolError, match="a chunk that there is not"):
            network.step("s1", answer)

    def test_about_another_snapshot_only_show_that_the_peer_is_alive(self) -> None:
        """They are old."""
        network, meta = self._sending()
        network.tick("s1", 3)
        before = _progress(network).stored_chunks
        for answer in (
            InstallSnapshotResponse("s3", 2, meta.index, meta.checksum + 1, 9),
            InstallSnapshotResponse("s3", 2, meta.index - 1, meta.checksum, 9),
        ):
            network.step("s1", answer)
        assert _progress(network).stored_chunks == before
        assert _progress(network).heard == network.rafts["s1"].state.reign

    def test_of_a_stranger_are_nothing(self) -> None:
        """It was a member once."""
        network, meta = self._sending()
        answer = InstallSnapshotResponse("s9", 2, meta.index, meta.checksum, 1)
        assert network.step("s1", answer) == []

    def test_when_nothing_is_sent_are_nothing(self) -> None:
        """A repeated last answer."""
        network = led()
        answer = InstallSnapshotResponse("s3", 2, 1, 77, 2)
        assert network.step("s1", answer) == []
        assert _progress(network).phase is Phase.REPLICATE


class InstallTests:
    """The follower's side."""

    def _waiting(self) -> Network:
        """Return s1, a follower of s2, that has the chunks of a snapshot."""
        network = alone(1, 1, 1, tuning=_SHORT, term=2)
        network.slow_installing.add("s1")
        for number in range(2):
            network.step("s1", _install(_meta(9), number))
        return network

    def test_asks_for_one_chunk_after_the_other(self) -> None:
        """The last one is confirmed when the whole is durable."""
        network = alone(1, tuning=_SHORT, term=2)
        network.slow_installing.add("s1")
        meta = _meta(9)
        wanted = []
        for number in (1, 0, 0, 1, 1):
            ((to, answer),) = network.step("s1", _install(meta, number))
            assert isinstance(answer, InstallSnapshotResponse)
            assert (to, answer.index, answer.checksum) == ("s2", 9, 77)
            wanted.append(answer.next_chunk)
        assert wanted == [0, 1, 1, 1, 1]
        assert network.incoming["s1"] == [b"data", b"data"]

    def test_resets_the_timer(self) -> None:
        """A chunk is a sign of life of the leader."""
        network = alone(1, tuning=_SHORT, term=2)
        network.tick("s1", 5)
        network.step("s1", _install(_meta(9), 0))
        state = network.rafts["s1"].state
        assert (state.leader, state.elapsed) == ("s2", 0)

    @pytest.mark.parametrize("number", [-1, 2])
    def test_refuses_chunks_that_cannot_be(self, number: int) -> None:
        """Whoever sends them is broken."""
        with pytest.raises(ProtocolError, match="a chunk that its snapshot cannot"):
            alone(1, term=2).step("s1", _install(_meta(9), number))

    @pytest.mark.parametrize(
        "meta", [_meta(9, 0), _meta(9, 3), _meta(9, membership_index=10)]
    )
    def test_refuses_snapshots_that_cannot_be(self, meta: SnapshotMeta) -> None:
        """Of a term after its leader's; with a membership behind its end."""
        with pytest.raises(ProtocolError, match="a snapshot that its leader cannot"):
            alone(1, term=2).step("s1", _install(meta, 0))

    def test_refuses_a_membership_that_is_none(self) -> None:
        """Before anything is stored."""
        network = alone(1, term=2)
        with pytest.raises(ProtocolError, match="not a membership"):
            network.step("s1", _install(replace(_meta(9), membership=b""), 0))
        assert network.rafts["s1"].state.receiving is None

    def test_a_second_leader_of_the_term_is_refused(self) -> None:
        """There cannot be one (§3.6.3)."""
        network = led()
        with pytest.raises(ProtocolError, match="s2 claims to lead term 2"):
            network.step("s1", _install(_meta(9), 0))

    def test_of_what_is_committed_is_done_already(self) -> None:
        """The log has it; nothing is stored."""
        network = alone(1, 1, term=2)
        network.step("s1", AppendEntries("s2", 2, 3, 1, 3, 0))
        ((_, answer),) = network.step("s1", _install(_meta(3), 0))
        assert isinstance(answer, InstallSnapshotResponse)
        assert answer.next_chunk == 2
        assert network.rafts["s1"].state.receiving is None

    def test_what_is_committed_but_not_durable_is_not_confirmed_yet(self) -> None:
        """A crash would lose it, and the leader would never send it again."""
        network = alone(1, term=2)
        network.slow.add("s1")
        entries = tuple(entries_of(1, 1, after=2))
        network.step("s1", AppendEntries("s2", 2, 2, 1, 4, 0, entries))
        assert network.committed("s1") == 4
        assert network.step("s1", _install(_meta(4), 0)) == []
        network.sync("s1")
        assert network.waiting(InstallSnapshotResponse)[0].next_chunk == 2

    def test_replaces_a_log_that_conflicts(self) -> None:
        """However long it is (figure 5.3); what the state machine had goes with it."""
        network = _compacted(count=5)
        first = Entry(1, 1, EntryKind.MEMBERSHIP, _BYTES)
        network.crash("s3")
        disk = network.disks["s3"]
        disk.entries = [first, *entries_of(*[1] * 40)]
        disk.hard_state = HardState(1)
        network.restart("s3")
        network.heal()
        network.pass_time(5 * _ELECTION)
        assert network.applied["s3"] == network.applied["s1"]
        assert network.disks["s3"].last_index == network.disks["s1"].last_index

    def test_keeps_a_log_that_has_its_last_entry(self) -> None:
        """What follows stays; that it is committed is news (figure 5.3)."""
        network = alone(1, 1, 1, 1, 1, term=2)
        raft = network.rafts["s1"]
        for number in range(2):
            raft.step(_install(_meta(4), number))
        raft.snapshot_stored(_meta(4), is_whole=True)
        network.applied["s1"].clear()
        network.pump("s1")
        state = raft.state
        assert state.log.last_index == 6
        assert (state.log.commit_index, state.log.last_applied) == (4, 4)
        assert state.restoring is None
        assert len(network.applied["s1"]) == 4
        assert state.snapshot == _meta(4)

    def test_brings_its_membership(self) -> None:
        """The memberships of the old log go with it."""
        membership = Membership({"s1": "a", "s9": "b"})
        network = alone(1, 1, term=2)
        raft = network.rafts["s1"]
        meta = replace(_meta(9), membership=membership.encode(), membership_index=7)
        for number in range(2):
            raft.step(_install(meta, number))
        raft.snapshot_stored(meta, is_whole=True)
        ready = raft.ready()
        assert ready is not None
        assert MembershipChanged(membership) in ready.events
        assert (ready.compact, ready.restore) == ((9, 1), meta)
        assert ready.received == [
            ReceivedChunk(meta, 0, b"data"),
            ReceivedChunk(meta, 1, b"data"),
        ]
        assert raft.state.memberships == [(7, membership)]
        assert raft.state.membership_index == 7

    def test_that_is_damaged_is_received_again(self) -> None:
        """Nothing has changed; the leader asks, and begins anew."""
        network = self._waiting()
        # The stand-in finds that the checksum is wrong.
        network.install("s1")
        state = network.rafts["s1"].state
        assert (state.receiving, state.snapshot) == (None, None)
        assert state.log.last_index == 4
        ((_, answer),) = network.step("s1", _install(_meta(9), 1))
        assert isinstance(answer, InstallSnapshotResponse)
        assert answer.next_chunk == 0

    def test_nothing_is_applied_until_it_is_restored(self) -> None:
        """Entries behind it wait; so does what was read to be applied before."""
        network = alone(1, 1, 1, term=2, tuning=_SHORT)
        network.slow_reading.add("s1")
        network.step("s1", AppendEntries("s2", 2, 4, 1, 3, 0))
        raft, (fetch,) = network.rafts["s1"], network.unread["s1"]
        meta = _meta(9)
        for number in range(2):
            raft.step(_install(meta, number))
        raft.snapshot_stored(meta, is_whole=True)
        entries = tuple(entries_of(2, 2, after=9))
        raft.step(AppendEntries("s2", 2, 9, 1, 11, 0, entries))
        ready = raft.ready()
        assert ready is not None
        raft.advance(ready)
        raft.fetched(fetch, entries_of(1, 1))
        assert raft.ready() is None
        raft.restored(_meta(8))
        assert raft.ready() is None
        raft.restored(meta)
        ready = raft.ready()
        assert ready is not None
        assert [entry.index for entry in ready.committed] == [10, 11]

    def test_what_is_read_too_late_is_not_applied(self) -> None:
        """The snapshot was restored while the disk was slow."""
        network = alone(1, 1, 1, term=2, tuning=_SHORT)
        network.slow_reading.add("s1")
        network.step("s1", AppendEntries("s2", 2, 4, 1, 3, 0))
        raft, (fetch,) = network.rafts["s1"], network.unread["s1"]
        meta = _meta(9)
        for number in range(2):
            raft.step(_install(meta, number))
        raft.snapshot_stored(meta, is_whole=True)
        raft.restored(meta)
        raft.fetched(fetch, entries_of(1, 1))
        ready = raft.ready()
        assert ready is not None
        assert ready.committed == ()
        assert raft.state.log.last_applied == 9

    def test_old_entries_that_arrive_after_it_change_nothing(self) -> None:
        """They were under way for long."""
        network = _compacted()
        stale = [m for m in _old_appends(network) if m.entries]
        network.heal()
        network.pass_time(3 * _ELECTION)
        before = network.entries("s3"), network.applied["s3"][:]
        for message in stale:
            ((_, answer),) = network.step("s3", message)
            assert isinstance(answer, AppendEntriesResponse)
            assert answer.success
        assert (network.entries("s3"), network.applied["s3"]) == before

    def test_ends_a_candidacy_with_the_log_that_goes(self) -> None:
        """The votes were asked for with another log."""
        network = self._waiting()
        meta = _meta(9)
        network.campaign("s1")
        assert network.role("s1") is Role.PRE_CANDIDATE
        network.rafts["s1"].snapshot_stored(meta, is_whole=True)
        network.pump("s1")
        assert network.role("s1") is Role.FOLLOWER
        assert network.rafts["s1"].state.log.base_index == 9

    def test_at_one_that_leads_meanwhile_changes_its_commit_index_only(self) -> None:
        """By Leader Completeness it has all of it."""
        network = led(tuning=_SHORT)
        index = network.propose("s1", b"x")
        network.settle()
        network.snapshot("s1")
        meta = network.rafts["s1"].state.snapshot
        assert meta is not None
        network.slow_installing.add("s2")
        # s2 has the entry, but does not know that it is committed.
        for number in range(meta.chunks):
            raft = network.rafts["s2"]
            raft.state.log.commit_index = min(raft.state.log.commit_index, index - 1)
            chunk = network.disks["s1"].chunks[number]
            network.step("s2", InstallSnapshot("s1", 2, meta, number, chunk))
        network.crash("s1")
        network.pass_time(3 * _ELECTION)
        network.rafts["s3"].state.timeout = 10**6
        if network.leaders() != ["s2"]:
            network.transfer(network.leaders()[0], "s2")
            network.settle()
        assert network.leaders() == ["s2"]
        before = network.entries("s2")
        network.install("s2")
        assert network.role("s2") is Role.LEADER
        assert network.entries("s2") == before
        assert network.rafts["s2"].state.snapshot == meta

    def test_a_snapshot_that_is_stored_counts_whatever_else_comes_in(self) -> None:
        """It was whole before a chunk of another one came."""
        network = alone(1, 1, 1, term=2)
        raft = network.rafts["s1"]
        whole, other = _meta(9), _meta(8, checksum=5)
        for message in (_install(whole, 0), _install(whole, 1), _install(other, 0)):
            raft.step(message)
        raft.ready()
        raft.snapshot_stored(whole, is_whole=True)
        ready = raft.ready()
        assert ready is not None
        assert ready.restore == whole
        # The other one's sender was not promised anything about this one.
        assert ready.messages == []
        assert ready.messages_after == []
        assert raft.state.snapshot == whole

    def test_an_older_snapshot_does_not_replace_a_newer(self) -> None:
        """The server has taken one itself, of more, in the meantime."""
        network = self._waiting()
        entries = tuple(entries_of(*[1] * 8, after=4))
        network.step("s1", AppendEntries("s2", 2, 4, 1, 12, 0, entries))
        meta = network.snapshot("s1")
        assert meta.index == 12
        raft = network.rafts["s1"]
        raft.snapshot_stored(_meta(9), is_whole=True)
        assert raft.state.snapshot == meta
        assert raft.state.log.last_applied == 12
        network.pump("s1")
        (answer,) = network.waiting(InstallSnapshotResponse)[-1:]
        assert (answer.index, answer.next_chunk) == (9, 2)

    @pytest.mark.parametrize("has_it_all", [False, True])
    def test_a_newer_one_replaces_one_that_is_being_restored(
        self,
        has_it_all: bool,  # noqa: FBT001 - both cases
    ) -> None:
        """The older one may be gone before its turn comes."""
        network = alone(1, term=2)
        raft = network.rafts["s1"]
        older, newer = _meta(9), _meta(11, 2, checksum=5)
        for meta in (older, newer):
            for number in range(2):
                raft.step(_install(meta, number))
            raft.snapshot_stored(meta, is_whole=True)
            ready = raft.ready()
            assert ready is not None
            assert ready.restore == meta
            raft.advance(ready)
            if has_it_all and meta == older:
                entries = tuple(entries_of(2, 2, 2, after=9))
                raft.step(AppendEntries("s2", 2, 9, 1, 9, 0, entries))
                ready = raft.ready()
                assert ready is not None
                raft.advance(ready)
        waited_for = []
        for meta in (older, newer):
            raft.restored(meta)
            waited_for.append(raft.state.restoring)
        assert waited_for == [newer, None]
        assert raft.state.log.last_applied == 11
        assert raft.state.log.last_index == (12 if has_it_all else 11)

    def test_entries_that_overtake_it_make_it_needless(self) -> None:
        """The leader's log was long enough after all."""
        network = self._waiting()
        entries = tuple(entries_of(*[1] * 8, after=4))
        network.step("s1", AppendEntries("s2", 2, 4, 1, 12, 0, entries))
        raft = network.rafts["s1"]
        raft.snapshot_stored(_meta(9), is_whole=True)
        network.pump("s1")
        state = raft.state
        assert (state.log.last_applied, state.log.last_index) == (12, 12)
        assert state.restoring is None
        assert state.snapshot == _meta(9)


def _old_appends(network: Network) -> list[AppendEntries]:
    """Return the entries of s1's first term, as they were sent long ago."""
    entries = network.applied["s1"][:20]
    return [
        AppendEntries(
            "s1", 2, first - 1, 2, 0, 0, tuple(entries[first - 1 : first + 4])
        )
        for first in range(3, 15, 5)
    ]


class LeaderChangeTests:
    """Another leader in mid-transfer."""

    def test_goes_on_with_its_own_snapshot(self) -> None:
        """Of the same index but with other bytes; nothing is mixed."""
        network = _compacted()
        network.heal()
        _until_sending(network, 5)
        first = network.rafts["s1"].state.snapshot
        assert first is not None
        second = network.snapshot("s2")
        disk = network.disks["s2"]
        other = replace(second, checksum=first.checksum ^ 1)
        assert second.index == first.index
        disk.snapshot = network.rafts["s2"].state.snapshot = other
        network.crash("s1")
        network.lose()
        network.slow_installing.add("s3")
        network.pass_time(4 * _ELECTION)
        assert network.leaders() == ["s2"]
        assert network.rafts["s3"].state.receiving is not None
        assert network.rafts["s3"].state.receiving.meta == other
        assert len(network.incoming["s3"]) == other.chunks
        assert network.incoming["s3"] == disk.chunks

    def test_with_the_same_snapshot_goes_on_where_the_other_stopped(self) -> None:
        """Two servers that applied the same may have the same bytes."""
        network = _compacted()
        network.heal()
        _until_sending(network, 20)
        assert network.snapshot("s2") == network.rafts["s1"].state.snapshot
        network.crash("s1")
        network.lose()
        network.slow_installing.add("s3")
        network.pass_time(4 * _ELECTION)
        assert network.leaders() == ["s2"]
        assert len(network.incoming["s3"]) == len(network.disks["s2"].chunks)
        network.slow_installing.clear()
        network.install("s3")
        network.pass_time(_ELECTION)
        assert network.applied["s3"] == network.applied["s2"]

    def test_whose_log_begins_later_sends_its_snapshot(self) -> None:
        """The old leader's log was long enough, the new one's is not."""
        network = led(tuning=_SHORT)
        network.isolate("s3")
        network.propose("s1", b"x", b"y")
        network.settle()
        network.heartbeat("s1")
        network.snapshot("s2")
        assert network.disks["s1"].base[0] < network.disks["s2"].base[0]
        network.transfer("s1", "s2")
        network.settle()
        network.heal()
        network.pass_time(4 * _ELECTION)
        assert network.disks["s3"].snapshot == network.disks["s2"].snapshot
        assert network.applied["s3"] == network.applied["s2"]

    def test_a_chunk_of_the_old_one_is_refused(self) -> None:
        """It is told of the newer term."""
        network = _compacted()
        network.heal()
        _until_sending(network, 2)
        (chunk, *_) = network.waiting(InstallSnapshot, "s1", "s3")
        network.step("s3", RequestVote("s2", 9, 99, 99, transfer=True))
        ((_, answer),) = network.step("s3", chunk)
        assert (answer.term, answer.sender) == (9, "s3")


class RestartTests:
    """Crashes around a snapshot."""

    def test_with_a_log_that_is_older_than_the_snapshot(self) -> None:
        """It became durable, and the log was not cut yet."""
        network = _compacted()
        network.heal()
        network.slow.add("s3")
        network.slow_installing.add("s3")
        network.pass_time(4 * _ELECTION)
        (finish,) = network.uninstalled["s3"]
        finish()
        assert network.disks["s3"].snapshot is not None
        assert network.disks["s3"].base == (0, 0)
        network.crash("s3")
        network.slow.clear()
        network.slow_installing.clear()
        network.restart("s3")
        assert network.disks["s3"].base == network.disks["s1"].base
        network.pass_time(2 * _ELECTION)
        assert network.applied["s3"] == network.applied["s1"]

    def test_with_a_log_that_has_all_of_the_snapshot(self) -> None:
        """It goes on behind it."""
        network = led()
        network.propose("s1", b"x")
        network.settle()
        meta = network.snapshot("s1")
        network.propose("s1", b"y")
        network.settle()
        network.crash("s1")
        network.restart("s1")
        state = network.rafts["s1"].state
        assert (state.log.last_applied, state.log.base_index) == (meta.index, 0)
        network.pass_time(4 * _ELECTION)
        assert network.commands("s1") == [b"x", b"y"]

    def test_a_membership_in_the_snapshot_and_one_that_is_truncated(self) -> None:
        """What counts again may be known from the snapshot alone."""
        network = led(tuning=_SHORT)
        network.change("s1", _MEMBERS, ["s4"])
        network.pass_time(_ELECTION)
        meta = network.snapshot("s1")
        assert meta.membership_index > 1
        network.isolate("s1")
        network.change("s1", ["s1", "s2"])
        network.crash("s1")
        network.restart("s1")
        assert network.rafts["s1"].state.membership.is_joint
        network.pass_time(4 * _ELECTION)
        network.heal()
        network.pass_time(2 * _ELECTION)
        state = network.rafts["s1"].state
        assert state.membership_index == meta.membership_index
        assert sorted(state.membership.learners) == ["s4"]

    def test_in_the_midst_of_restoring(self) -> None:
        """The snapshot is durable; it is restored at the start."""
        network = _compacted()
        network.heal()
        network.slow_installing.add("s3")
        network.pass_time(3 * _ELECTION)
        network.install("s3")
        assert network.rafts["s3"].state.restoring is not None
        network.crash("s3")
        network.restart("s3")
        network.pass_time(_ELECTION)
        assert network.applied["s3"] == network.applied["s1"]
