"""Progress: what a leader knows of a peer's log."""

from __future__ import annotations

from consensus.core.progress import Phase, Progress
from consensus.core.values import SnapshotMeta


def _replicating(next_index: int, match_index: int, *inflight: int) -> Progress:
    progress = Progress(next_index, match_index, Phase.REPLICATE)
    progress.inflight.extend(inflight)
    return progress


class ProbeTests:
    """Going back to one message at a time."""

    def test_writes_off_what_is_under_way(self) -> None:
        """The window is empty, and a message may leave at once."""
        progress = _replicating(9, 3, 5, 8)
        progress.probing = True
        progress.probe(6)
        assert progress.phase is Phase.PROBE
        assert progress.next_index == 6
        assert not progress.probing
        assert not progress.inflight

    def test_never_goes_below_what_the_peer_has(self) -> None:
        """What is known to match is not sent again."""
        progress = _replicating(9, 3)
        progress.probe(2)
        assert (progress.next_index, progress.match_index) == (4, 3)


class MatchedTests:
    """A success."""

    def test_ends_probing_when_it_answers_the_probe(self) -> None:
        """The logs agree where the probe asked: the next entry follows."""
        progress = Progress(next_index=8)
        progress.matched(7)
        assert progress.phase is Phase.REPLICATE
        assert (progress.next_index, progress.match_index) == (8, 7)

    def test_counts_the_entries_of_the_probe(self) -> None:
        """A probe that carried entries moves on by them."""
        progress = Progress(next_index=8)
        progress.matched(12)
        assert progress.phase is Phase.REPLICATE
        assert (progress.next_index, progress.match_index) == (13, 12)

    def test_below_the_probe_does_not_end_probing(self) -> None:
        """A round of heartbeats asks about less than the probe does."""
        progress = Progress(next_index=8, probing=True)
        progress.matched(2)
        assert progress.phase is Phase.PROBE
        assert (progress.next_index, progress.match_index) == (8, 2)
        assert progress.probing

    def test_frees_the_window_up_to_the_index(self) -> None:
        """One answer may stand for several messages."""
        progress = _replicating(10, 2, 4, 6, 9)
        progress.matched(6)
        assert list(progress.inflight) == [9]
        assert (progress.next_index, progress.match_index) == (10, 6)

    def test_late_changes_nothing(self) -> None:
        """An answer that was overtaken does not take the match index back."""
        progress = _replicating(10, 6, 9)
        progress.matched(4)
        assert list(progress.inflight) == [9]
        assert (progress.next_index, progress.match_index) == (10, 6)

    def test_of_what_was_written_off_moves_the_next_index(self) -> None:
        """The answer to a message from before a probe counts as well."""
        progress = _replicating(5, 4)
        progress.matched(9)
        assert (progress.next_index, progress.match_index) == (10, 9)


class SentTests:
    """A message with entries."""

    def test_goes_ahead_of_the_answers(self) -> None:
        """The next message begins where this one ends."""
        progress = _replicating(5, 4)
        progress.sent(7)
        progress.sent(9)
        assert progress.next_index == 10
        assert list(progress.inflight) == [7, 9]

    def test_of_a_probe_waits(self) -> None:
        """The probe is repeated from the same place if it gets lost."""
        progress = Progress(next_index=5)
        progress.sent(7)
        assert progress.next_index == 5
        assert not progress.inflight


class SendSnapshotTests:
    """Sending a snapshot (figure 5.3)."""

    def _sending(self) -> Progress:
        progress = _replicating(9, 3, 5, 8)
        progress.next_chunk = progress.stored_chunks = progress.wanted_chunk = 7
        progress.send_snapshot(SnapshotMeta(20, 1, b"", 1, 9), now=50)
        return progress

    def test_begins_with_the_first_chunk_and_one_at_a_time(self) -> None:
        """Whatever was sent before."""
        progress = self._sending()
        assert progress.phase is Phase.SNAPSHOT
        assert (progress.next_chunk, progress.stored_chunks) == (0, 0)
        assert (progress.wanted_chunk, progress.window) == (0, 1)
        assert progress.moved == 50
        assert not progress.inflight

    def test_ends_with_probing(self) -> None:
        """From the entry behind it."""
        progress = self._sending()
        progress.probe(21)
        progress.matched(20)
        assert (progress.phase, progress.sending) == (Phase.REPLICATE, None)
        assert (progress.next_index, progress.match_index) == (21, 20)

    def test_notes_what_late_answers_show(self) -> None:
        """The phase stays; the leader looks whether that is enough."""
        progress = self._sending()
        progress.matched(12)
        assert progress.phase is Phase.SNAPSHOT
        assert (progress.next_index, progress.match_index) == (13, 12)
