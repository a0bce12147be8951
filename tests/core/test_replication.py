"""Replication: the leader's side, message by message."""

from __future__ import annotations

from dataclasses import replace

import pytest

from consensus.core.log import MAX_BATCH
from consensus.core.messages import (
    AppendEntries,
    AppendEntriesResponse,
    Message,
    RequestPreVoteResponse,
    RequestVote,
    RequestVoteResponse,
)
from consensus.core.progress import Phase, Progress
from consensus.core.state import Tuning
from consensus.core.values import Role
from consensus.errors import ProtocolError
from tests.support.network import STABLE, Disk, Network, alone, entries_of, led


def _leader(*terms: int, term: int = 0, tuning: Tuning | None = None) -> Network:
    """Return s1 as leader of its next term, alone, with nothing under way."""
    network = alone(*terms, term=term, tuning=tuning)
    network.campaign("s1")
    state = network.rafts["s1"].state
    if state.role is Role.PRE_CANDIDATE:
        consent = RequestPreVoteResponse("s2", state.term, granted=True)
        network.step("s1", consent)
    network.rafts["s1"].step(RequestVoteResponse("s2", state.term, granted=True))
    network.pump("s1")
    network.queue.clear()
    return network


def _progress(network: Network, peer: str = "s2") -> Progress:
    return network.rafts["s1"].state.progress[peer]


def _success(network: Network, index: int, peer: str = "s2") -> list[Message]:
    """Let *peer* have the log up to *index*; return what s1 sends it then."""
    state = network.rafts["s1"].state
    answer = AppendEntriesResponse(
        peer, state.term, success=True, index=index, round=state.round
    )
    return [message for to, message in network.step("s1", answer) if to == peer]


def _rejection(
    network: Network, index: int, hint_index: int, hint_term: int
) -> list[Message]:
    """Let s2 reject *index* with a hint; return what s1 sends it then."""
    state = network.rafts["s1"].state
    answer = AppendEntriesResponse(
        "s2",
        state.term,
        success=False,
        index=index,
        round=state.round,
        hint_index=hint_index,
        hint_term=hint_term,
    )
    return [message for to, message in network.step("s1", answer) if to == "s2"]


def _spans(messages: list[Message]) -> list[tuple[int, int]]:
    """Return of each append the index before its entries and the last one."""
    return [
        (message.prev_index, message.prev_index + len(message.entries))
        for message in messages
        if isinstance(message, AppendEntries)
    ]


def _to(network: Network, peer: str) -> list[Message]:
    """Take what is under way to *peer*."""
    messages: list[Message] = list(network.waiting(AppendEntries, to=peer))
    network.queue.clear()
    return messages


class LeaderTickTests:
    """Heartbeats."""

    def test_leave_once_an_interval(self) -> None:
        """Each peer hears the leader at least so often."""
        network = _leader(1, tuning=Tuning(heartbeat_ticks=3))
        network.tick("s1", 2)
        assert network.queue == []
        network.tick("s1")
        assert sorted(peer for peer, _ in network.queue) == ["s2", "s3"]
        network.queue.clear()
        network.tick("s1", 2)
        assert network.queue == []

    def test_ask_about_the_end_of_what_was_sent(self) -> None:
        """A follower that missed any of it says so."""
        network = _leader(1)
        _success(network, 3)
        network.propose("s1", b"x", b"y")
        network.queue.clear()
        network.tick("s1", network.tuning.heartbeat_ticks)
        (heartbeat,) = _to(network, "s2")
        assert heartbeat == AppendEntries(
            "s1", 2, prev_index=5, prev_term=2, commit_index=3, round=1
        )


class CheckQuorumTests:
    """A leader that counts who answers; see also tests/paper."""

    def test_each_peer_is_timed_by_its_own_last_answer(self) -> None:
        """Of two peers, one suffices, now this one and now the other."""
        network = _leader(1, tuning=STABLE)
        for peer in ("s2", "s3", "s2", "s3"):
            network.tick("s1", STABLE.election_ticks - 1)
            _success(network, 3, peer)
        network.tick("s1", STABLE.election_ticks - 1)
        assert network.role("s1") is Role.LEADER
        network.tick("s1")
        assert network.role("s1") is Role.FOLLOWER

    def test_a_leader_that_steps_down_says_nothing_more(self) -> None:
        """Though a heartbeat is due at the same tick."""
        network = _leader(1, tuning=STABLE)
        network.tick("s1", STABLE.election_ticks - 1)
        network.queue.clear()
        network.tick("s1")
        assert network.role("s1") is Role.FOLLOWER
        assert network.queue == []

    def test_a_later_reign_begins_with_all_alive(self) -> None:
        """Silence in an earlier one is forgotten."""
        network = _leader(1, tuning=STABLE)
        network.tick("s1", STABLE.election_ticks)
        network.campaign("s1")
        network.step("s1", RequestPreVoteResponse("s2", 2, granted=True))
        network.step("s1", RequestVoteResponse("s2", 3, granted=True))
        network.tick("s1", STABLE.election_ticks - 1)
        assert network.role("s1") is Role.LEADER


class SendDueTests:
    """What goes to a peer, and when."""

    def test_a_probe_carries_entries_and_waits(self) -> None:
        """One message until the peer's log is known."""
        network = alone(1)
        network.campaign("s1")
        sent = network.step("s1", RequestVoteResponse("s2", 2, granted=True))
        assert _spans([message for _, message in sent]) == [(2, 3), (2, 3)]
        network.propose("s1", b"x")
        assert _to(network, "s2") == []

    def test_a_probe_is_repeated_by_the_heartbeat(self) -> None:
        """It, or its answer, may have been lost."""
        network = _leader(1)
        network.propose("s1", b"x")
        network.tick("s1", network.tuning.heartbeat_ticks)
        assert _spans(_to(network, "s2")) == [(2, 4)]

    def test_a_probe_of_a_peer_that_may_lack_nothing_is_empty(self) -> None:
        """It asks about the end of the log; entries follow the answer."""
        network = _leader(1)
        network.rafts["s1"].state.progress["s2"] = Progress(next_index=4)
        network.pump("s1")
        assert _spans(_to(network, "s2")) == [(3, 3)]
        network.propose("s1", b"x")
        assert _to(network, "s2") == []
        assert _spans(_success(network, 3)) == [(3, 4)]

    def test_what_gathered_while_probing_follows_the_answer(self) -> None:
        """Then messages go ahead of their answers."""
        network = _leader(1)
        network.propose("s1", b"x")
        assert _spans(_success(network, 3)) == [(3, 4)]
        network.propose("s1", b"y")
        network.propose("s1", b"z")
        assert _spans(_to(network, "s2")) == [(4, 5), (5, 6)]

    def test_the_window_bounds_the_messages_under_way(self) -> None:
        """An answer makes room for the next one."""
        network = _leader(1, tuning=Tuning(max_inflight=2))
        _success(network, 3)
        network.queue.clear()
        for command in (b"4", b"5", b"6", b"7"):
            network.propose("s1", command)
        assert _spans(_to(network, "s2")) == [(3, 4), (4, 5)]
        assert _spans(_success(network, 4)) == [(5, 7)]

    def test_a_message_is_bounded_in_bytes(self) -> None:
        """Many entries go in several messages at once."""
        network = _leader(1, tuning=Tuning(max_append_bytes=4))
        _success(network, 3)
        network.queue.clear()
        network.propose("s1", b"aa", b"bb", b"cc", b"large", b"d")
        assert _spans(_to(network, "s2")) == [(3, 5), (5, 6), (6, 7), (7, 8)]

    def test_an_idle_peer_is_told_of_a_new_commit_index(self) -> None:
        """It applies at once, not at the next heartbeat."""
        network = _leader(1)
        _success(network, 3, "s3")
        network.queue.clear()
        assert _success(network, 3) == [
            AppendEntries("s1", 2, prev_index=3, prev_term=2, commit_index=3, round=0)
        ]

    def test_a_peer_is_told_of_a_commit_index_once(self) -> None:
        """The heartbeats repeat it anyway."""
        network = _leader(1)
        _success(network, 3)
        network.queue.clear()
        assert _success(network, 3) == []

    def test_a_busy_peer_is_not_told_of_the_commit_index_alone(self) -> None:
        """The next entries, or the next heartbeat, will say it."""
        network = _leader(1)
        _success(network, 3)
        _success(network, 3, "s3")
        network.propose("s1", b"x")
        network.queue.clear()
        assert _success(network, 4, "s3") != []
        assert _to(network, "s2") == []

    def test_a_round_does_not_count_as_telling_more_than_it_checks(self) -> None:
        """The peer commits what a message checks; the rest it has yet to be told."""
        network = _leader(1)
        _success(network, 3)
        _success(network, 3, "s3")
        network.propose("s1", b"x")
        _success(network, 4, "s3")
        network.read("s1", 7)
        network.queue.clear()
        assert _success(network, 4) == [
            AppendEntries("s1", 2, prev_index=4, prev_term=2, commit_index=4, round=1)
        ]
        assert _success(network, 4) == []

    def test_a_round_asks_about_what_the_peer_has(self) -> None:
        """Its answer waits for no disk, though entries are under way."""
        network = _leader(1)
        _success(network, 3)
        network.propose("s1", b"x")
        network.queue.clear()
        network.read("s1", 7)
        assert _to(network, "s2") == [
            AppendEntries("s1", 2, prev_index=3, prev_term=2, commit_index=3, round=1)
        ]


class FetchTests:
    """Entries that are in storage alone."""

    def _restarted_leader(self) -> Network:
        """Return a leader that has only its no-op, entry 6, in memory."""
        network = _leader(1, 1, 1, 1)
        network.slow_reading.add("s1")
        assert network.rafts["s1"].state.log.offset == 5
        return network

    def test_are_asked_for_once_and_sent_when_read(self) -> None:
        """A heartbeat leaves meanwhile, so that the peer stays quiet."""
        network = self._restarted_leader()
        assert _rejection(network, 5, 2, 1) == []
        assert _rejection(network, 5, 2, 1) == []
        (fetch,) = network.unread["s1"]
        assert (fetch.first, fetch.last, fetch.peer) == (3, 5, "s2")
        network.tick("s1", network.tuning.heartbeat_ticks)
        assert _spans(_to(network, "s2")) == [(2, 2)]
        network.fetch("s1")
        assert _spans(_to(network, "s2")) == [(2, 5)]

    def test_are_sent_to_a_peer_that_agreed_meanwhile(self) -> None:
        """They continue what it has; the rest follows at once."""
        network = self._restarted_leader()
        _rejection(network, 5, 2, 1)
        _success(network, 2)
        network.fetch("s1")
        assert _spans(_to(network, "s2")) == [(2, 5), (5, 6)]

    def test_are_dropped_when_the_peer_has_them_by_now(self) -> None:
        """A late answer to an earlier message overtook the disk."""
        network = self._restarted_leader()
        _rejection(network, 5, 2, 1)
        _success(network, 5)
        network.queue.clear()
        network.fetch("s1")
        assert _spans(_to(network, "s2")) == []
        assert not _progress(network).fetching

    def test_are_dropped_while_another_probe_is_out(self) -> None:
        """The answer to that one decides what comes next."""
        network = self._restarted_leader()
        _rejection(network, 5, 2, 1)
        progress = _progress(network)
        progress.probing = True
        network.fetch("s1")
        assert _spans(_to(network, "s2")) == []
        assert not progress.fetching

    def test_are_dropped_when_leadership_is_lost(self) -> None:
        """A follower sends no entries."""
        network = self._restarted_leader()
        _rejection(network, 5, 2, 1)
        network.step("s1", RequestVote("s3", 3, 1, 1))
        network.fetch("s1")
        assert network.queue == []

    def test_of_an_earlier_leadership_are_dropped(self) -> None:
        """Another leader may have replaced them since they were asked for."""
        network = self._restarted_leader()
        _rejection(network, 5, 2, 1)
        (fetch,) = network.unread["s1"]
        old = replace(fetch, term=fetch.term - 1)
        network.rafts["s1"].fetched(old, entries_of(1, 1, 1, after=2))
        network.pump("s1")
        assert network.queue == []
        assert _progress(network).fetching
        network.fetch("s1")
        assert _spans(_to(network, "s2")) == [(2, 5)]


class OnResponseTests:
    """Answers."""

    def test_of_a_stranger_change_nothing(self) -> None:
        """Only the membership's servers have a progress."""
        network = _leader(1)
        answer = AppendEntriesResponse("s9", 2, success=True, index=3, round=0)
        assert network.step("s1", answer) == []
        assert network.committed("s1") == 0

    @pytest.mark.parametrize("success", [True, False])
    @pytest.mark.parametrize(("index", "round_"), [(4, 0), (3, 1)])
    def test_to_what_was_never_sent_are_refused(
        self, index: int, round_: int, *, success: bool
    ) -> None:
        """An index past the log, or a round to come, is no correct server's."""
        network = _leader(1)
        answer = AppendEntriesResponse("s2", 2, success, index, round_)
        with pytest.raises(ProtocolError, match=r"never sent"):
            network.rafts["s1"].step(answer)
        assert _progress(network).match_index == 0

    def test_that_agree_move_match_and_commit_index(self) -> None:
        """Two of three have the entry."""
        network = _leader(1)
        _success(network, 3)
        assert _progress(network).match_index == 3
        assert network.committed("s1") == 3

    def test_that_come_late_take_nothing_back(self) -> None:
        """The match index never decreases in a term."""
        network = _leader(1)
        _success(network, 3)
        _success(network, 1)
        assert _progress(network).match_index == 3

    def test_a_repeated_success_counts_one_server(self) -> None:
        """Two answers of one peer are no majority of five."""
        network = alone(1, names=["s1", "s2", "s3", "s4", "s5"])
        network.campaign("s1")
        for peer in ("s2", "s3"):
            network.step("s1", RequestVoteResponse(peer, 2, granted=True))
        _success(network, 3)
        _success(network, 3)
        assert network.committed("s1") == 0


class RejectionTests:
    """Stepping back."""

    def test_of_a_probe_probes_where_the_logs_may_agree(self) -> None:
        """A hint of the same term is the end of the peer's log."""
        network = _leader(1, 1, 1, 1)
        assert _spans(_rejection(network, 5, 2, 1)) == [(2, 5)]
        assert _progress(network).next_index == 3

    def test_skips_a_term_that_the_leader_does_not_have(self) -> None:
        """The peer's 2 2 2 are of a term that this log passed over."""
        network = _leader(1, 3, 3, 3)
        assert _spans(_rejection(network, 5, 5, 2)) == [(2, 5)]

    def test_goes_back_by_one_at_least(self) -> None:
        """Whatever the hint says."""
        network = _leader(1, 1, 1, 1)
        assert _spans(_rejection(network, 5, 5, 1)) == [(4, 5)]

    def test_that_comes_twice_counts_once(self) -> None:
        """The second answers a probe that is over."""
        network = _leader(1, 1, 1, 1)
        _rejection(network, 5, 2, 1)
        assert _rejection(network, 5, 0, 0) == []
        assert _progress(network).next_index == 3

    def test_that_is_stale_does_not_go_below_the_match_index(self) -> None:
        """What the peer was known to have it still has."""
        network = _leader(1, 1, 1, 1)
        _success(network, 5)
        progress = _progress(network)
        before = progress.next_index
        assert _rejection(network, 5, 0, 0) == []
        assert _rejection(network, 3, 0, 0) == []
        assert (progress.next_index, progress.phase) == (before, Phase.REPLICATE)

    def test_shows_a_loss_and_sends_again_from_the_match_index(self) -> None:
        """A heartbeat asked about the end of what was sent."""
        network = _leader(1)
        _success(network, 3)
        network.propose("s1", b"x", b"y")
        network.queue.clear()
        assert _spans(_rejection(network, 5, 3, 2)) == [(3, 5)]
        assert _progress(network).phase is Phase.PROBE
        assert not _progress(network).inflight

    def test_with_a_hint_below_the_match_index_goes_to_the_match_index(self) -> None:
        """The peer said more in an earlier answer."""
        network = _leader(1)
        _success(network, 3)
        network.propose("s1", b"x", b"y")
        network.queue.clear()
        assert _spans(_rejection(network, 5, 0, 0)) == [(3, 5)]


class MaybeCommitTests:
    """Counting."""

    def test_the_leaders_own_disk_counts_like_any_other(self) -> None:
        """A peer and this server are a majority, once both have synced."""
        network = _leader(1)
        _success(network, 3)
        network.slow.add("s1")
        network.propose("s1", b"x")
        _success(network, 4)
        assert network.committed("s1") == 3
        network.sync("s1")
        assert network.committed("s1") == 4

    def test_the_peers_alone_may_be_a_majority(self) -> None:
        """Commitment does not wait for the leader's disk."""
        network = _leader(1)
        _success(network, 3)
        _success(network, 3, "s3")
        network.slow.add("s1")
        network.propose("s1", b"x")
        _success(network, 4)
        _success(network, 4, "s3")
        assert network.committed("s1") == 4

    def test_an_older_terms_entry_is_not_counted(self) -> None:
        """It commits with the first of the leader's own term."""
        network = _leader(1, 1)
        _success(network, 3)
        assert network.committed("s1") == 0
        _success(network, 4)
        assert network.committed("s1") == 4


class BatchTests:
    """Small entries count too: nothing else waits for long."""

    def test_a_message_holds_so_many(self) -> None:
        """A thousand and more tiny entries go in several messages."""
        network = Network()
        network.elect("s1")
        network.propose("s1", *[b""] * (2 * MAX_BATCH))
        network.settle()
        sizes = {len(network.applied[name]) for name in network.names}
        assert sizes == {2 + 2 * MAX_BATCH}

    def test_a_fetch_asks_for_so_many(self) -> None:
        """What is read from storage comes in batches as well, for peers and here."""
        network = Network(cache_bytes=1000)
        network.elect("s1")
        network.isolate("s3")
        network.propose("s1", *[b""] * (2 * MAX_BATCH))
        network.settle()
        network.heal()
        network.heartbeat("s1")
        network.crash("s2")
        network.restart("s2")
        network.heartbeat("s1")
        network.heartbeat("s1")
        for name in network.names:
            assert len(network.applied[name]) == 2 + 2 * MAX_BATCH


class ForgetfulPeerTests:
    """A follower that comes back with less than it acknowledged."""

    @pytest.mark.parametrize("is_busy", [False, True])
    def test_gets_it_again(self, *, is_busy: bool) -> None:
        """
        Its storage is not durable; it catches up, and the network comes to rest.

        The leader finds out by an answer to what it sent after that.
        """
        network = led()
        network.propose("s1", b"a", b"b")
        network.heartbeat("s1")
        network.crash("s3")
        network.disks["s3"] = Disk()
        network.restart("s3")
        if is_busy:
            network.propose("s1", b"c")
            network.settle()
        network.pass_time(STABLE.election_ticks)
        assert network.role("s1") is Role.LEADER
        assert network.entries("s3") == network.entries("s1")
        assert network.committed("s3") == network.committed("s1")

    def test_an_old_refusal_does_not_make_one(self) -> None:
        """A repeated answer to an earlier probe lowers nothing."""
        network = led()
        network.propose("s1", b"a", b"b")
        network.heartbeat("s1")
        progress = network.rafts["s1"].state.progress["s3"]
        matched = progress.match_index
        old = AppendEntriesResponse(
            "s3", 2, success=False, index=matched, round=progress.matched_round
        )
        network.step("s1", old)
        assert progress.match_index == matched

    def test_while_it_is_probed_waits_for_the_next_round(self) -> None:
        """It refuses what it has acknowledged, and could be an old answer."""
        network = led()
        network.propose("s1", b"a", b"b")
        network.heartbeat("s1")
        progress = network.rafts["s1"].state.progress["s3"]
        matched = progress.match_index
        progress.probe(matched + 1)
        progress.probing = True
        old = AppendEntriesResponse(
            "s3", 2, success=False, index=matched, round=progress.matched_round
        )
        assert network.step("s1", old) == []
        assert (progress.match_index, progress.probing) == (matched, True)
