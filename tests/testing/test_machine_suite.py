"""
The conformance suite of state machines: ours pass it, and broken ones do not.

Each class here breaks one promise of the machine that it is made of.
"""

from __future__ import annotations

import importlib.util
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st

from consensus.errors import RaftError
from consensus.testing.machine import StateMachineSuite
from contrib.kvstore.commands import Cas, Delete, Get, Set
from contrib.kvstore.machine import KVStore, KVStoreOptions
from tests.support import broken
from tests.support.alarms import Alarms
from tests.support.broken import COMMANDS, QUERIES, Dictionary, Journal
from tests.support.servers import Register

if TYPE_CHECKING:
    from consensus.interfaces import StateMachine

_KEYS = st.sampled_from([b"a", b"b", b"c"])
_VALUES = st.text(max_size=3) | st.binary(max_size=3)


class TestKVStore(StateMachineSuite):
    """The key-value store."""

    machine: ClassVar[Any] = KVStore
    commands = (
        st.builds(Set, _KEYS, _VALUES)
        | st.builds(Delete, _KEYS)
        | st.builds(Cas, _KEYS, _VALUES | st.none(), _VALUES)
        | st.builds(Get, _KEYS)  # which is no command
    )
    queries = st.builds(Get, _KEYS) | st.builds(Delete, _KEYS)


class TestKVStoreWithDigest(TestKVStore):
    """The same, with a digest."""

    machine: ClassVar[Any] = partial(KVStore, KVStoreOptions(digest=True))


class TestRegister(StateMachineSuite):
    """The machine of our tests."""

    machine = Register
    commands = (["set", "a", 1], ["set", "b", "x"], ["fail", "no"], ["what"], 7)
    queries = ("a", "b", "fail")


def _ledger() -> type[StateMachine]:
    """Load the machine of docs/howto/keep-the-state-on-disk.md."""
    path = Path(__file__).parents[2] / "docs/howto/sqlite-machine/raft_ledger.py"
    spec = importlib.util.spec_from_file_location("raft_ledger", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    ledger: type[StateMachine] = module.Ledger
    return ledger


class TestLedger(StateMachineSuite):
    """A machine that keeps its state on disk."""

    machine: ClassVar[Any] = _ledger()
    effort = settings(StateMachineSuite.effort, max_examples=10)
    commands = (
        ["deposit", "ann", 5],
        ["transfer", "ann", "bob", 3],
        ["transfer", "ann", "bob", 4],
        ["deposit", "cid", 1 << 62],
        ["transfer", "cid", "ann", 1 << 62],
        ["deposit", "cid", 1 << 62],
        ["deposit", "cid", 1 << 63],
        ["steal", "ann"],
    )
    queries = (["balance", "ann"], ["balance", "eve"], ["total"], ["what"])


class TestAlarms(StateMachineSuite):
    """A machine that is told the time."""

    machine = Alarms
    commands = st.builds(
        lambda after, name: ["in", after, name],
        st.integers(0, 50_000),
        st.sampled_from("abc"),
    ) | st.just(["what"])
    queries = (["rung", 0], ["rung", 1], "broken")


class TestDictionary(StateMachineSuite):
    """What the broken ones are made of."""

    machine = Dictionary
    commands = COMMANDS
    queries = QUERIES


class TestJournal(StateMachineSuite):
    """The same, on disk."""

    effort = settings(StateMachineSuite.effort, max_examples=10)
    machine = Journal
    commands = COMMANDS
    queries = QUERIES


#: Each test of the suite, and a machine that it has to catch.
BROKEN: list[tuple[str, type[StateMachine]]] = [
    ("test_a_command_survives_the_log", broken.ForgetsWhatItEncoded),
    ("test_a_query_survives_the_wire", broken.MixesUpQueries),
    ("test_a_result_survives_the_wire", broken.AnswersWithASet),
    ("test_a_stranger_gets_an_error", broken.TrustsStrangers),
    ("test_a_stranger_gets_an_error", broken.DecodesAnything),
    ("test_the_name_means_nothing", broken.KeepsItsName),
    ("test_two_servers_agree", broken.SharesACounter),
    ("test_two_servers_agree", broken.DigestsAddresses),
    ("test_it_is_deterministic", broken.StampsTheTime),
    ("test_what_is_due_is_done", broken.AsksForThePast),
    ("test_a_failed_command_changes_nothing", broken.RaisesTooLate),
    ("test_a_read_changes_nothing", broken.CountsItsReads),
    ("test_an_answer_is_a_copy", broken.HandsOutItsState),
    ("test_a_batch_is_its_commands", broken.StopsABatchAtAnError),
    ("test_apply_batch_does_what_handle_write_does", broken.BatchesOtherwise),
    ("test_last_applied_is_the_end_of_a_batch", broken.StoresTheFirstIndex),
    ("test_a_snapshot_is_the_state", broken.LeavesOutACount),
    ("test_a_snapshot_is_the_state", broken.ReadsOnePiece),
    ("test_a_snapshot_replaces_what_was_there", broken.MergesSnapshots),
    ("test_a_snapshot_is_of_its_moment", broken.ShowsWhatComesLater),
    ("test_a_snapshot_does_not_disturb", broken.CleansUpInASnapshot),
    ("test_a_bad_snapshot_is_an_error", broken.TrustsSnapshots),
    ("test_a_broken_restore_is_passed_on", broken.SwallowsErrors),
    ("test_a_broken_restore_is_passed_on", broken.RestoresInPlace),
    ("test_a_restart_goes_on_where_it_says", broken.ForgetsItsIndex),
    ("test_a_restart_goes_on_where_it_says", broken.ClaimsToBeOnDisk),
    ("test_a_restored_state_survives", broken.RestoresInMemory),
    ("test_digests_tell_states_apart", broken.DigestsTheSize),
    ("test_digests_tell_states_apart", broken.DigestsWhatItHas),
    ("test_an_unknown_version_is_refused", broken.KnowsEveryVersion),
]


def suite_of(broken_machine: type[StateMachine]) -> StateMachineSuite:
    """Return the suite for a machine, which draws the same every time."""

    class Suite(StateMachineSuite):
        machine = broken_machine
        commands = COMMANDS
        queries = QUERIES
        effort = settings(
            StateMachineSuite.effort,
            derandomize=True,
            database=None,
            max_examples=200,
            phases=[Phase.generate],
        )

    return Suite()


class SuiteTests:
    """The suite finds what is broken."""

    @pytest.mark.parametrize(("test", "machine"), BROKEN)
    def test_it_catches(self, test: str, machine: type[StateMachine]) -> None:
        """The test fails on the machine that breaks its promise."""
        with pytest.raises((AssertionError, pytest.fail.Exception, RaftError)):
            getattr(suite_of(machine), test)()

    def test_no_test_is_left_out(self) -> None:
        """Every test of the suite has a machine that it catches."""
        tests = {name for name in dir(StateMachineSuite) if name.startswith("test_")}
        assert tests == {test for test, _ in BROKEN}

    @pytest.mark.parametrize("name", ["machine", "commands", "queries"])
    def test_what_is_missing_is_named(self, name: str) -> None:
        """Whoever leaves something out is told what, and how to say it."""
        given = {"machine": Dictionary, "commands": COMMANDS, "queries": QUERIES}
        del given[name]
        suite = type("TestMine", (StateMachineSuite,), given)()
        with pytest.raises(
            pytest.fail.Exception, match=f"TestMine has no {name}: .*{name} ="
        ):
            suite.test_a_read_changes_nothing()

    def test_one_empty_list_is_not_enough(self) -> None:
        """Tests that draw from nothing would say nothing."""

        class TestMine(StateMachineSuite):
            machine = Dictionary
            commands = COMMANDS
            queries = ()

        with pytest.raises(pytest.fail.Exception, match="has no queries"):
            TestMine().test_an_answer_is_a_copy()
