"""Log: by itself, and against a plain list beside a plain disk."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
)

from consensus.core.log import MAX_BATCH, Log
from consensus.core.values import Entry
from consensus.errors import ProtocolError
from tests.support.network import entries_of

#: What an entry with the four bytes of, say, ``b"12.3"`` weighs in memory.
_WEIGHT = 194


def log_of(*terms: int, cache_bytes: int = 1 << 20) -> Log:
    """Return a log of *terms* that is in memory and durable."""
    log = Log(cache_bytes=cache_bytes)
    log.append(entries_of(*terms, after=0))
    log.take_unpersisted(0)
    log.persisted(0)
    return log


def terms_of(log: Log) -> list[int]:
    """Return the terms of all entries that *log* has, in memory or not."""
    return [log.term(index) for index in range(log.base_index + 1, log.last_index + 1)]


class NewLogTests:
    """A log as it is made."""

    def test_of_a_new_server_is_empty(self) -> None:
        """The entry before the first has term 0 (§3.5)."""
        log = Log()
        assert (log.last_index, log.last_term, log.term(0), log.term(1)) == (0, 0, 0, 0)
        assert log.take_unpersisted(1) == []

    def test_of_a_restarted_server_is_in_storage_alone(self) -> None:
        """All of it is durable, and nothing is committed or applied (§3.8)."""
        log = Log(5, [(1, 1), (4, 3)])
        assert terms_of(log) == [1, 1, 1, 3, 3]
        assert (log.offset, log.stable_index, log.last_term) == (5, 5, 3)
        assert (log.commit_index, log.last_applied) == (0, 0)
        assert log.entries == []
        assert log.take_unpersisted(1) == []


class TermTests:
    """The term at an index."""

    @pytest.mark.parametrize("index", [-1, 0, 6, 7])
    def test_is_0_where_no_entry_is(self, index: int) -> None:
        """Before the first entry and after the last one."""
        assert Log(5, [(1, 1), (4, 3)]).term(index) == 0

    def test_is_known_of_entries_that_are_not_in_memory(self) -> None:
        """The list of where terms begin says it for all."""
        log = Log(5, [(1, 1), (4, 3)])
        log.append(entries_of(3, 4, 4, after=5))
        assert terms_of(log) == [1, 1, 1, 3, 3, 3, 4, 4]


class AgreementHintTests:
    """Where two logs may still agree."""

    @given(
        st.lists(st.integers(1, 5), max_size=9).map(sorted),
        st.integers(0, 12),
        st.integers(0, 6),
    )
    def test_is_the_last_index_of_a_term_low_enough(
        self, terms: list[int], index: int, term: int
    ) -> None:
        """It is what looking at each index from the end finds."""
        log = log_of(*terms)
        low_enough = [
            i for i in range(min(index, len(terms)) + 1) if log.term(i) <= term
        ]
        assert log.agreement_hint(index, term) == low_enough[-1]

    @given(
        st.lists(st.integers(1, 5), max_size=9).map(sorted),
        st.lists(st.integers(1, 5), max_size=9).map(sorted),
        st.integers(1, 9),
    )
    def test_never_skips_an_index_at_which_the_logs_agree(
        self, ours: list[int], theirs: list[int], index: int
    ) -> None:
        """One hint from each side leads to or above the last agreement."""
        index = min(index, len(ours))
        leader, follower = log_of(*ours), log_of(*theirs)
        hint = follower.agreement_hint(index, leader.term(index))
        found = leader.agreement_hint(hint, follower.term(hint))
        agreed = [i for i in range(index + 1) if leader.term(i) == follower.term(i)]
        assert found >= agreed[-1]


class AppendTests:
    """Entries at the end."""

    def test_of_an_older_term_are_refused(self) -> None:
        """Terms never decrease along a log; nothing was changed."""
        log = log_of(1, 3)
        with pytest.raises(ProtocolError, match=r"entry 4 is of an older term"):
            log.append(entries_of(3, 2, after=2))
        assert terms_of(log) == [1, 3]

    def test_of_nothing_changes_nothing(self) -> None:
        """An empty batch is one."""
        log = log_of(1, 3)
        log.append([])
        assert terms_of(log) == [1, 3]


class MergeTests:
    """A leader's entries (figure 3.1, steps 3 and 4 of the receiver)."""

    def test_adds_what_is_new(self) -> None:
        """What the log has already stays as it is."""
        log = log_of(1, 1, 2)
        before = list(log.entries)
        assert log.merge(1, entries_of(1, 2, 2, 3, after=1)) == 4
        assert terms_of(log) == [1, 1, 2, 2, 3]
        assert all(old is new for old, new in zip(before, log.entries, strict=False))

    def test_of_what_is_there_changes_nothing(self) -> None:
        """A repeated message neither truncates nor writes."""
        log = log_of(1, 1, 2)
        assert log.merge(0, entries_of(1, 1, after=0)) == 3
        assert terms_of(log) == [1, 1, 2]
        assert log.stable_index == 3
        assert log.take_unpersisted(1) == []

    def test_of_nothing_changes_nothing(self) -> None:
        """A heartbeat truncates nothing."""
        log = log_of(1, 1, 2)
        assert log.merge(1, []) == 2
        assert terms_of(log) == [1, 1, 2]

    def test_replaces_a_conflict_and_all_that_follows(self) -> None:
        """What followed the conflicting entry is of no use."""
        log = log_of(1, 2, 2, 2, 2)
        assert log.merge(1, entries_of(2, 3, after=1)) == 3
        assert terms_of(log) == [1, 2, 3]
        assert [entry.term for entry in log.entries] == [1, 2, 3]
        assert log.stable_index == 2

    def test_may_replace_entries_that_are_not_in_memory(self) -> None:
        """After a restart, a whole suffix in storage gives way."""
        log = Log(5, [(1, 1), (3, 2)])
        log.append(entries_of(2, after=5))
        assert log.merge(2, entries_of(3, after=2)) == 3
        assert terms_of(log) == [1, 1, 3]
        assert (log.offset, log.stable_index) == (2, 2)
        assert log.take_unpersisted(1) == entries_of(3, after=2)

    def test_never_replaces_a_committed_entry(self) -> None:
        """Whoever asks for that is no leader; nothing was changed."""
        log = log_of(1, 2, 2)
        log.commit_index = 2
        with pytest.raises(ProtocolError, match=r"replace the committed entry 2"):
            log.merge(1, entries_of(3, after=1))
        assert terms_of(log) == [1, 2, 2]

    def test_refuses_decreasing_terms_before_it_truncates(self) -> None:
        """A message that breaks the protocol leaves the log alone."""
        log = log_of(1, 2, 2)
        with pytest.raises(ProtocolError, match=r"entry 4 is of an older term"):
            log.merge(1, [*entries_of(2, 4, 3, after=1)])
        assert terms_of(log) == [1, 2, 2]

    def test_does_not_take_an_entry_of_term_0_for_a_known_one(self) -> None:
        """Past the end every term reads as 0, yet nothing is there."""
        log = log_of(1)
        with pytest.raises(ProtocolError, match=r"entry 2 is of an older term"):
            log.merge(1, entries_of(0, 1, after=1))
        assert terms_of(log) == [1]


class SliceTests:
    """Entries for one message."""

    def test_includes_both_ends(self) -> None:
        """All from the first to the last."""
        log = log_of(1, 1, 2, 2)
        assert log.slice(2, 3, 1000) == tuple(entries_of(1, 2))

    def test_ends_before_the_limit_is_exceeded(self) -> None:
        """Commands of three bytes: seven bytes are room for two."""
        entries = log_of(1, 1, 1, 1).slice(1, 4, 7)
        assert [entry.index for entry in entries] == [1, 2]

    def test_fills_the_limit(self) -> None:
        """What fits exactly goes along."""
        entries = log_of(1, 1, 1, 1).slice(1, 4, 6)
        assert [entry.index for entry in entries] == [1, 2]

    def test_has_at_least_one_entry(self) -> None:
        """A command that is larger than the limit goes alone."""
        entries = log_of(1, 1, 1).slice(2, 3, 1)
        assert [entry.index for entry in entries] == [2]

    def test_counts_entries_too(self) -> None:
        """However small the entries are, so many are one batch."""
        log = Log()
        log.append([Entry(index, 1, 1, b"") for index in range(1, MAX_BATCH + 10)])
        assert len(log.slice(1, log.last_index, 1000)) == MAX_BATCH
        assert len(log.slice(6, log.last_index, 1000)) == MAX_BATCH

    def test_begins_at_the_first_entry_in_memory(self) -> None:
        """The entry after the offset is the first that can be asked for."""
        log = Log(5, [(1, 1)])
        log.append(entries_of(1, 2, after=5))
        entries = log.slice(log.offset + 1, log.last_index, 1000)
        assert [(entry.index, entry.term) for entry in entries] == [(6, 1), (7, 2)]


class PersistTests:
    """Writes, of which several may be under way."""

    def test_each_entry_is_handed_out_once(self) -> None:
        """What one Ready writes the next one does not."""
        log = Log()
        log.append(entries_of(1, 1, after=0))
        assert log.take_unpersisted(1) == entries_of(1, 1, after=0)
        assert log.take_unpersisted(2) == []
        log.append(entries_of(1, after=2))
        assert log.take_unpersisted(3) == entries_of(1, after=2)

    def test_only_finished_writes_are_durable(self) -> None:
        """A Ready's number stands for it and for those before."""
        log = Log()
        for number in (1, 2, 3):
            log.append(entries_of(1, after=number - 1))
            log.take_unpersisted(number)
        assert log.stable_index == 0
        log.persisted(2)
        assert log.stable_index == 2
        log.persisted(2)
        assert log.stable_index == 2
        log.persisted(7)
        assert log.stable_index == 3

    def test_a_truncated_entry_is_not_durable_when_its_write_ends(self) -> None:
        """The write under way reports an entry that the log no longer has."""
        log = log_of(1, 1)
        log.append(entries_of(2, 2, after=2))
        log.take_unpersisted(1)
        log.merge(2, entries_of(3, after=2))
        log.persisted(1)
        assert log.stable_index == 2
        assert log.take_unpersisted(2) == entries_of(3, after=2)
        log.persisted(2)
        assert log.stable_index == 3

    def test_the_same_entries_restored_count_only_when_written_again(self) -> None:
        """
        The write that put them there first says nothing: disk order is A, B, A.

        Between the first write of A and its second one stands B's, so after a
        crash in between the disk may hold B.
        """
        log = log_of(1)
        log.append(entries_of(2, 2, after=1))
        assert log.take_unpersisted(1) == entries_of(2, 2, after=1)
        log.merge(1, entries_of(3, after=1))
        assert log.take_unpersisted(2) == entries_of(3, after=1)
        log.merge(1, entries_of(2, 2, 4, after=1))
        assert log.take_unpersisted(3) == entries_of(2, 2, 4, after=1)
        log.persisted(1)
        assert log.stable_index == 1
        log.persisted(2)
        assert log.stable_index == 1
        log.persisted(3)
        assert log.stable_index == 4

    def test_entries_that_came_and_went_between_two_writes_are_not_written(
        self,
    ) -> None:
        """Only what stands when a Ready is made reaches the disk."""
        log = log_of(1)
        log.append(entries_of(2, after=1))
        log.merge(1, entries_of(3, after=1))
        assert log.take_unpersisted(1) == entries_of(3, after=1)

    def test_a_shorter_log_takes_back_what_it_called_durable(self) -> None:
        """Durable is what the disk has of this log, not of an earlier one."""
        log = log_of(1, 2, 2, 2)
        log.merge(1, entries_of(3, 3, after=1))
        assert log.stable_index == 1


class ShrinkTests:
    """Memory."""

    def _log(self, *, stable: int, applied: int) -> Log:
        """Return a log of nine entries with room for four."""
        log = Log(cache_bytes=4 * _WEIGHT)
        log.append(entries_of(*[10] * stable, after=0))
        log.take_unpersisted(1)
        log.append(entries_of(*[10] * (9 - stable), after=stable))
        log.commit_index = 9
        log.last_applied = applied
        log.persisted(1)
        return log

    def test_keeps_what_fits(self) -> None:
        """Followers that are a little behind are served from memory."""
        log = Log(cache_bytes=9 * _WEIGHT)
        log.append(entries_of(*[10] * 9, after=0))
        log.take_unpersisted(1)
        log.last_applied = 9
        log.persisted(1)
        assert (log.offset, len(log.entries)) == (0, 9)

    def test_drops_the_oldest_to_three_quarters(self) -> None:
        """Not every call then has to move the list."""
        log = self._log(stable=9, applied=9)
        assert [entry.index for entry in log.entries] == [7, 8, 9]
        assert log.offset == 6
        assert terms_of(log) == [10] * 9

    def test_keeps_what_a_slow_disk_has_not_written(self) -> None:
        """Memory is the only place where those entries are."""
        log = self._log(stable=2, applied=9)
        assert log.offset == 2
        assert log.take_unpersisted(2) == entries_of(*[10] * 7, after=2)

    def test_keeps_what_is_not_applied(self) -> None:
        """It is about to be needed."""
        assert self._log(stable=9, applied=5).offset == 5

    def test_goes_on_when_more_is_applied(self) -> None:
        """What could not be dropped before is dropped then."""
        log = self._log(stable=9, applied=2)
        log.last_applied = 9
        log.shrink()
        assert log.offset == 6

    def test_counts_what_was_truncated_as_gone(self) -> None:
        """After a truncation as much fits as in a new log."""
        log = Log(cache_bytes=4 * _WEIGHT)
        log.append(entries_of(*[10] * 9, after=0))
        log.merge(1, entries_of(*[11] * 3, after=1))
        log.take_unpersisted(1)
        log.commit_index = log.last_applied = 4
        log.persisted(1)
        assert (log.offset, len(log.entries)) == (0, 4)


class CompactTests:
    """Dropping what a snapshot covers (§5.1)."""

    def test_drops_the_entries_and_keeps_the_last_term(self) -> None:
        """Terms of what is gone are not known, but for the last."""
        log = log_of(1, 1, 2, 2, 3)
        log.compact(3)
        assert (log.base_index, log.base_term, log.offset) == (3, 2, 3)
        assert [log.term(index) for index in range(7)] == [0, 0, 0, 2, 2, 3, 0]
        assert [entry.index for entry in log.entries] == [4, 5]
        assert log.last_term == 3

    def test_may_drop_everything(self) -> None:
        """The next entry follows all the same."""
        log = log_of(1, 1, 2)
        log.compact(3)
        assert (log.last_index, log.last_term, log.entries) == (3, 2, [])
        log.append(entries_of(2, after=3))
        assert (log.last_index, log.last_term, log.term(4)) == (4, 2, 2)

    @pytest.mark.parametrize("index", [0, 2, 3])
    def test_of_what_is_gone_changes_nothing(self, index: int) -> None:
        """An older snapshot was late."""
        log = log_of(1, 1, 2, 2)
        log.compact(3)
        log.compact(index)
        assert (log.base_index, log.base_term, terms_of(log)) == (3, 2, [2])

    def test_takes_entries_that_are_in_storage_alone_too(self) -> None:
        """Memory begins where it did."""
        log = Log(5, [(1, 1), (4, 3)])
        log.compact(4)
        assert (log.offset, terms_of(log)) == (5, [3])

    def test_leaves_a_log_that_a_restart_finds(self) -> None:
        """Its base, and the terms behind it."""
        log = Log(6, [(5, 3)], base_index=4, base_term=2, applied=4)
        assert [log.term(index) for index in (3, 4, 5, 6, 7)] == [0, 2, 3, 3, 0]
        assert (log.commit_index, log.last_applied) == (4, 4)

    def test_ends_the_hints_at_what_is_gone(self) -> None:
        """That is committed, and agrees."""
        log = log_of(1, 1, 3, 3, 3)
        log.compact(3)
        assert log.agreement_hint(5, 2) == 3
        assert log.agreement_hint(2, 1) == 2

    def test_keeps_the_order_of_terms(self) -> None:
        """The first entry behind what is gone is not of an older term."""
        log = log_of(1, 5)
        log.compact(2)
        with pytest.raises(ProtocolError, match="of an older term"):
            log.merge(2, entries_of(4, after=2))
        assert log.last_index == 2


class ResetTests:
    """Beginning anew behind a snapshot of another log (figure 5.3)."""

    def test_leaves_nothing_but_the_base(self) -> None:
        """It counts as durable and committed; what was applied is as it was."""
        log = log_of(1, 1, 1)
        log.commit_index = log.last_applied = 2
        log.reset(9, 4)
        assert (log.last_index, log.last_term, log.entries) == (9, 4, [])
        assert (log.stable_index, log.commit_index, log.last_applied) == (9, 9, 2)

    def test_gives_no_credit_for_what_was_being_written(self) -> None:
        """The entries of that write are gone."""
        log = Log()
        log.append(entries_of(*[1] * 12, after=0))
        assert len(log.take_unpersisted(1)) == 12
        log.reset(9, 4)
        log.append(entries_of(4, 4, after=9))
        assert [entry.index for entry in log.take_unpersisted(2)] == [10, 11]
        log.persisted(1)
        assert log.stable_index == 9
        log.persisted(2)
        assert log.stable_index == 11


def _leaders_log(ours: list[int], agreed: int, tail: list[int]) -> list[int]:
    """Return terms that share *agreed* entries with *ours* and go on otherwise."""
    last = ours[agreed - 1] if agreed else 1
    more = []
    for step in tail:
        last += step
        more.append(last)
    return ours[:agreed] + more


class LogModel(RuleBasedStateMachine):
    """
    A log, a list of terms, and a disk that writes late.

    Index and term determine an entry, as Log Matching demands, so a log is
    its list of terms.  Of what is compacted, any terms will do in both lists.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log = Log(cache_bytes=3 * _WEIGHT)
        self.terms: list[int] = []
        self.disk: list[int] = []
        self.writes: deque[tuple[int, tuple[int, int], list[Entry]]] = deque()
        self.number = 0
        self.cut = (0, 0)

    @rule(steps=st.lists(st.integers(0, 2), max_size=4))
    def append(self, steps: list[int]) -> None:
        """Add entries, as a leader does."""
        fresh = _leaders_log(self.terms, len(self.terms), steps)[len(self.terms) :]
        self.log.append(entries_of(*fresh, after=len(self.terms)))
        self.terms += fresh

    @rule(data=st.data(), tail=st.lists(st.integers(0, 2), max_size=4))
    def merge(self, data: st.DataObject, tail: list[int]) -> None:
        """Take a message of a leader whose log agrees up to some index."""
        base = self.log.base_index
        agreed = data.draw(st.integers(base, len(self.terms)))
        theirs = _leaders_log(self.terms, agreed, tail)
        prev = data.draw(st.integers(base, agreed))
        end = data.draw(st.integers(prev, len(theirs)))
        known = 0
        for one, other in zip(self.terms, theirs[:end], strict=False):
            if one != other:
                break
            known += 1
        entries = entries_of(*theirs[prev:end], after=prev)
        if known < min(end, self.log.commit_index):
            with pytest.raises(ProtocolError):
                self.log.merge(prev, entries)
            return
        assert self.log.merge(prev, entries) == max(prev, min(known, end)) + 1
        if known < end:
            self.terms = theirs[:end]

    @rule()
    def write(self) -> None:
        """Make a Ready: hand to the disk what it was not given."""
        self.number += 1
        entries = self.log.take_unpersisted(self.number)
        if entries or self.cut[0]:
            self.writes.append((self.number, self.cut, entries))
            self.cut = (0, 0)

    @precondition(lambda self: self.writes)
    @rule(count=st.integers(1, 3))
    def sync(self, count: int) -> None:
        """Let some writes end, and tell of the last only."""
        for _ in range(min(count, len(self.writes))):
            number, (index, term), entries = self.writes.popleft()
            if index and self.disk[index - 1 : index] != [term]:
                self.disk = [term] * index
            if entries:
                del self.disk[entries[0].index - 1 :]
                assert len(self.disk) == entries[0].index - 1, "a hole"
                self.disk += [entry.term for entry in entries]
        self.log.persisted(number)

    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        """Commit, and apply what is durable of it."""
        log = self.log
        log.commit_index = data.draw(st.integers(log.commit_index, log.last_index))
        limit = max(log.last_applied, min(log.commit_index, log.stable_index))
        log.last_applied = data.draw(st.integers(log.last_applied, limit))
        log.shrink()

    @rule(data=st.data())
    def compact(self, data: st.DataObject) -> None:
        """Drop something that is applied."""
        log = self.log
        limit = min(log.last_applied, log.stable_index)
        index = data.draw(st.integers(0, limit))
        if index > log.base_index:
            log.compact(index)
            self.cut = (index, log.base_term)

    @rule(more=st.integers(1, 6), step=st.integers(0, 2))
    def install(self, more: int, step: int) -> None:
        """Take a snapshot of a log that conflicts with this one, or is longer."""
        log = self.log
        index = log.commit_index + more
        term = max(1, log.term(log.commit_index)) + step
        if log.term(index) == term or self.disk[index - 1 : index] == [term]:
            # What has the same entry there has all the same before it, too; so
            # no log that was reset has it on its disk still (§3.5).
            return
        log.reset(index, term)
        log.last_applied = index
        self.terms = [term] * index
        self.cut = (index, term)

    @precondition(lambda self: not self.writes)
    @rule()
    def restart(self) -> None:
        """Lose the memory; the disk is what the log is now."""
        self.write()
        while self.writes:
            self.sync(1)
        base, base_term = self.log.base_index, self.log.base_term
        assert self.disk[base:] == self.terms[base:]
        starts = [
            (index, term)
            for index, term in enumerate(self.disk[base:], base + 1)
            if index == base + 1 or self.disk[index - 2] != term
        ]
        self.log = Log(
            len(self.disk),
            starts,
            3 * _WEIGHT,
            base_index=base,
            base_term=base_term,
            applied=base,
        )

    @invariant()
    def is_the_list(self) -> None:
        """Find every term, and every entry in memory, in the list."""
        log = self.log
        assert terms_of(log) == self.terms[log.base_index :]
        assert log.term(log.base_index) == log.base_term
        assert log.last_term == (self.terms[-1] if self.terms else 0)
        expected = entries_of(*self.terms[log.offset :], after=log.offset)
        assert log.entries == expected

    @invariant()
    def is_on_the_disk_as_far_as_it_says(self) -> None:
        """Find on the disk what is called durable."""
        stable, base = self.log.stable_index, self.log.base_index
        # What is compacted is in a durable snapshot.
        assert self.disk[base:stable] == self.terms[base:stable]
        assert self.log.offset <= stable

    @invariant()
    def knows_its_weight(self) -> None:
        """Weigh again what is in memory."""
        weight = sum(len(entry.command) + 190 for entry in self.log.entries)
        assert self.log._size(0) == weight


LogModelTests = LogModel.TestCase
LogModelTests.settings = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
