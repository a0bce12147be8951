"""A user's state machine in a cluster is compared with itself alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test

from consensus.testing.comparison import cluster_machine
from contrib.kvstore.commands import Cas, Delete, Get, Set
from contrib.kvstore.machine import KVStore
from tests.support import broken
from tests.support.broken import COMMANDS, QUERIES

if TYPE_CHECKING:
    from consensus.interfaces import StateMachine

_KEYS = st.sampled_from([b"a", b"b"])

KVStoreMachine = cluster_machine(
    KVStore,
    commands=st.builds(Set, _KEYS, st.text(max_size=2))
    | st.builds(Delete, _KEYS)
    | st.builds(Cas, _KEYS, st.none() | st.just("x"), st.just("x"))
    | st.builds(Get, _KEYS),
    queries=st.builds(Get, _KEYS) | st.builds(Delete, _KEYS),
)


class TestKVStore(KVStoreMachine.TestCase):  # type: ignore[misc, name-defined] # made by Hypothesis
    """The key-value store in a cluster is the one alone."""

    settings = settings(
        KVStoreMachine.TestCase.settings, max_examples=8, stateful_step_count=15
    )


def compare(machine: type[StateMachine], examples: int = 25, **options: Any) -> None:
    """Compare *machine* with itself, with the same draws every time."""
    made = cluster_machine(
        machine,
        commands=st.sampled_from(COMMANDS),
        queries=st.sampled_from(QUERIES),
        **options,
    )
    run_state_machine_as_test(
        made,
        settings=settings(
            max_examples=examples,
            stateful_step_count=15,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )


class ComparisonTests:
    """What is right passes; what is broken does not."""

    def test_a_machine_on_disk(self) -> None:
        """A machine that keeps its state itself is compared, too."""
        compare(broken.Journal)

    @pytest.mark.parametrize(
        "machine",
        [
            broken.LeavesOutACount,
            broken.CountsItsReads,
            broken.SharesACounter,
            broken.ForgetsItsIndex,
        ],
    )
    def test_it_catches(self, machine: type[StateMachine]) -> None:
        """A machine that breaks a promise is another in a cluster."""
        # It ends with the first; when that comes is up to Hypothesis' release.
        with pytest.raises(AssertionError):
            compare(machine, examples=200)
