"""The suite of storages can fail: each of its tests catches a broken storage."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import Phase, settings

from consensus.errors import RaftError, StorageError
from consensus.testing.storage import StorageSuite
from tests.adapters.storage.broken_compactions import (
    BringsALargeLogBack,
    BringsBackALargeLog,
    CompactsAtOnce,
    CompactsInMemory,
    CompactsNothing,
    CompactsWholeAppends,
    CountsFromOne,
    EmptiesInMemory,
    ForgetsMemberships,
    ForgetsTheTerm,
    KeepsMemberships,
    KeepsOne,
    MovesBack,
    NeedsAnEntry,
    ReturnsWhatIsDropped,
    SkipsWhatIsDropped,
    StopsAtTheLast,
    TrustsTheSuffix,
)
from tests.adapters.storage.broken_storages import (
    BeginsAtZero,
    BeginsWithAnAppend,
    BringsBackTheSuffix,
    CountsFromTheEnd,
    CutsLargeCommands,
    DropsWholeAppends,
    FillsHoles,
    ForgetsTheVote,
    IgnoresMaxBytes,
    JournalStorage,
    KeepsItForItself,
    KeepsTheFirst,
    KeepsTheFirstVote,
    KeepsTheList,
    KeepsTheSuffix,
    LeavesHalfAnAppend,
    LeavesOutTheLast,
    LeavesTraces,
    LosesTheKind,
    LovesItsThread,
    ObeysMaxBytes,
    ReadsOnlyWhatIsSynced,
    SavesTheVoteFirst,
    SharesItsEntries,
    SortsAsText,
    StopsAtTheEnd,
    SyncsAtTheClose,
    TakesEmptyForNone,
    TakesNoNameForNoVote,
    UndoesTooMuch,
    WritesInParts,
)

if TYPE_CHECKING:
    from pathlib import Path

#: Each test of the suite, and a storage that it has to catch.
BROKEN: list[tuple[str, type[JournalStorage]]] = [
    ("test_a_new_log_is_empty", BeginsAtZero),
    ("test_entries_come_back_as_they_were", LosesTheKind),
    ("test_reads_see_what_is_not_synced", ReadsOnlyWhatIsSynced),
    ("test_a_range_includes_both_ends", LeavesOutTheLast),
    ("test_indexes_sort_as_numbers", SortsAsText),
    ("test_a_conflict_replaces_the_suffix", KeepsTheSuffix),
    ("test_a_conflict_may_begin_at_the_first_entry", KeepsTheFirst),
    ("test_a_replaced_suffix_does_not_come_back", BringsBackTheSuffix),
    ("test_an_empty_command_is_a_command", TakesEmptyForNone),
    ("test_a_list_is_its_callers_again", KeepsTheList),
    ("test_a_large_command_is_kept", CutsLargeCommands),
    ("test_an_append_beyond_the_end_is_refused", FillsHoles),
    ("test_an_append_with_a_hole_is_refused", LeavesHalfAnAppend),
    ("test_a_refusal_spares_what_is_not_synced", UndoesTooMuch),
    ("test_a_read_below_the_log_is_refused", CountsFromTheEnd),
    ("test_a_read_beyond_the_log_is_refused", StopsAtTheEnd),
    ("test_a_read_stops_at_max_bytes", IgnoresMaxBytes),
    ("test_a_read_returns_at_least_one_entry", ObeysMaxBytes),
    ("test_a_hard_state_replaces_the_one_before", KeepsTheFirstVote),
    ("test_a_vote_is_any_text", TakesNoNameForNoVote),
    ("test_what_was_synced_is_there_after_a_close", ForgetsTheVote),
    ("test_what_was_synced_is_there_after_a_crash", SyncsAtTheClose),
    ("test_a_crash_leaves_a_prefix", SavesTheVoteFirst),
    ("test_it_says_that_it_is_durable", KeepsItForItself),
    ("test_a_read_may_begin_anywhere", BeginsWithAnAppend),
    ("test_a_conflict_may_begin_inside_an_append", DropsWholeAppends),
    ("test_a_large_append_is_one_step", WritesInParts),
    ("test_it_works_on_another_thread", LovesItsThread),
    ("test_directories_are_kept_apart", SharesItsEntries),
    ("test_a_check_changes_nothing", LeavesTraces),
    ("test_a_compaction_drops_the_front", ForgetsTheTerm),
    ("test_a_compaction_drops_the_front", CompactsNothing),
    ("test_what_is_dropped_is_refused", ReturnsWhatIsDropped),
    ("test_all_of_a_log_can_be_dropped", KeepsOne),
    ("test_a_compaction_may_lie_past_the_end", StopsAtTheLast),
    ("test_a_new_log_can_begin_behind_a_snapshot", NeedsAnEntry),
    ("test_another_term_drops_the_whole_log", TrustsTheSuffix),
    ("test_a_compaction_behind_the_first_index_is_nothing", MovesBack),
    ("test_what_is_dropped_is_not_appended_again", SkipsWhatIsDropped),
    ("test_a_conflict_may_begin_behind_a_compaction", CountsFromOne),
    ("test_a_compaction_outlives_a_close", CompactsInMemory),
    ("test_an_emptied_log_outlives_a_close", EmptiesInMemory),
    ("test_a_large_log_is_dropped", BringsBackALargeLog),
    ("test_a_crash_leaves_a_prefix_of_compactions_too", CompactsAtOnce),
    ("test_a_large_log_stays_dropped", BringsALargeLogBack),
    ("test_a_compaction_may_end_inside_an_append", CompactsWholeAppends),
    ("test_memberships_are_found", KeepsMemberships),
    ("test_memberships_are_found_again", ForgetsMemberships),
]

#: Those that random calls do not find, or not always: they need a size, a
#: thread, a file, or three calls that fit together.
NOT_FOUND_AT_RANDOM = (
    BringsBackTheSuffix,
    LosesTheKind,
    CutsLargeCommands,
    CountsFromTheEnd,
    StopsAtTheEnd,
    LovesItsThread,
    LeavesTraces,
    SharesItsEntries,
    ReturnsWhatIsDropped,
    BringsBackALargeLog,
    BringsALargeLogBack,
    WritesInParts,
    DropsWholeAppends,
    KeepsItForItself,
    KeepsTheList,
)


def suite_of(storage: type[JournalStorage]) -> StorageSuite:
    """Return the suite for *storage*, which draws the same calls every time."""

    class Suite(StorageSuite):
        effort = settings(
            StorageSuite.effort,
            derandomize=True,
            database=None,
            max_examples=1000,
            phases=[Phase.generate],
        )

        def make(self, directory: Path) -> JournalStorage:  # noqa: ARG002 - it needs none
            return storage()

    return Suite()


class TestRightStorage(StorageSuite):
    """What the broken ones are made of passes every test."""

    def make(self, directory: Path) -> JournalStorage:  # noqa: ARG002 - it needs none
        return JournalStorage()


class TestSuite:
    """The suite finds what is broken."""

    @pytest.mark.parametrize(("test", "storage"), BROKEN)
    def test_it_catches(
        self, test: str, storage: type[JournalStorage], tmp_path: Path
    ) -> None:
        """The test fails on the storage that breaks its promise."""
        with pytest.raises((AssertionError, pytest.fail.Exception, StorageError)):
            getattr(suite_of(storage), test)(tmp_path)

    @pytest.mark.parametrize(
        "storage", [s for _, s in BROKEN if s not in NOT_FOUND_AT_RANDOM]
    )
    def test_random_calls_catch(
        self, storage: type[JournalStorage], tmp_path: Path
    ) -> None:
        """The comparison with a list finds it without having been told."""
        with pytest.raises((AssertionError, pytest.fail.Exception, RaftError)):
            suite_of(storage).test_it_does_what_a_list_does(tmp_path)

    def test_no_test_is_left_out(self) -> None:
        """Every test of the suite has a storage that it catches."""
        tests = {name for name in dir(StorageSuite) if name.startswith("test_")}
        assert tests == {test for test, _ in BROKEN} | {"test_it_does_what_a_list_does"}
