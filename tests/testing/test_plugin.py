"""Tests of consensus.testing.plugin, as its users meet it."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

MACHINE = """
    from consensus import StateMachine

    class Sum(StateMachine):
        def init(self, name):
            return 0

        def handle_write(self, command, state):
            return state + command, state + command

        def handle_read(self, query, state):
            return state, state
"""


@pytest.fixture
def tests(pytester: pytest.Pytester) -> pytest.Pytester:
    """Return a directory with a state machine."""
    pytester.makepyfile(total=MACHINE)
    return pytester


class RaftClusterTests:
    """What the fixture gives."""

    def test_a_cluster_is_written_to_and_read(self, tests: pytest.Pytester) -> None:
        """It survives what is done to it."""
        tests.makepyfile("""
            from total import Sum

            def test_sum(raft_cluster):
                cluster = raft_cluster(Sum, servers=5, seed=3)
                assert cluster.write(2) == 2
                old = cluster.leader().name
                cluster.crash(old)
                cluster.partition(cluster.leader().name)
                cluster.run(2.0)
                assert cluster.write(3) == 5
                cluster.heal()
                cluster.restart(old)
                assert cluster.read(None) == 5
                cluster.check()
        """)
        tests.runpytest_subprocess().assert_outcomes(passed=1)

    def test_a_failure_says_how_to_replay_it(self, tests: pytest.Pytester) -> None:
        """The seed and what happened stand in the report."""
        tests.makepyfile("""
            import pytest
            from total import Sum

            @pytest.mark.raft_seeds(3, first=6)
            def test_sum(raft_cluster, raft_seed):
                cluster = raft_cluster(Sum)
                assert cluster.write(2) == 2
                assert raft_seed != 7
        """)
        result = tests.runpytest_subprocess()
        result.assert_outcomes(passed=2, failed=1)
        result.stdout.fnmatch_lines(["*replay it with --raft-seed=7*", "*is leader*"])

    def test_a_broken_promise_is_a_failure(self, tests: pytest.Pytester) -> None:
        """A machine that is not the same everywhere is found out."""
        tests.makepyfile("""
            from total import Sum

            class Odd(Sum):
                def init(self, name):
                    self.name = name
                    return 0

                def handle_write(self, command, state):
                    extra = self.name == "s2"
                    return state, state + command + extra

            def test_sum(raft_cluster):
                cluster = raft_cluster(Odd)
                cluster.write(2)
                cluster.run(5.0)
        """)
        result = tests.runpytest_subprocess()
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["*the state of s2 after entry*"])


class RaftSeedsTests:
    """What the marker and the option do."""

    @pytest.fixture
    def seeds(self, tests: pytest.Pytester) -> pytest.Pytester:
        """Return a directory with a test of several seeds."""
        tests.makepyfile("""
            import pytest

            @pytest.mark.raft_seeds(50)
            def test_many(raft_seed):
                print("seed", raft_seed)

            def test_one(raft_seed):
                assert raft_seed in (0, 17)
        """)
        return tests

    def test_a_test_runs_for_each_seed(self, seeds: pytest.Pytester) -> None:
        seeds.runpytest_subprocess().assert_outcomes(passed=51)

    def test_one_seed_is_replayed(self, seeds: pytest.Pytester) -> None:
        result = seeds.runpytest_subprocess("--raft-seed=17", "-s")
        result.assert_outcomes(passed=2)
        result.stdout.fnmatch_lines(["*seed 17*"])

    def test_the_marker_is_known(self, seeds: pytest.Pytester) -> None:
        result = seeds.runpytest_subprocess("--strict-markers", "--markers")
        result.stdout.fnmatch_lines(["@pytest.mark.raft_seeds*"])


class OthersTests:
    """Whoever does not use it does not notice it."""

    def test_nothing_is_imported(self, pytester: pytest.Pytester) -> None:
        """Neither Twisted nor the simulator, only the plugin itself."""
        pytester.makepyfile("""
            import sys

            def test_modules():
                assert "consensus.testing.plugin" in sys.modules
                assert "twisted" not in sys.modules
                assert "consensus.testing.simulator" not in sys.modules
                assert "consensus.interfaces" not in sys.modules
        """)
        pytester.runpytest_subprocess().assert_outcomes(passed=1)


class DeterminismTests:
    """The guard at the end of a test."""

    def test_a_machine_that_draws_is_blamed(self, tests: pytest.Pytester) -> None:
        """The line is in the report, unless the test wants no such thing."""
        tests.makepyfile(
            lottery="""
            import random
            from total import Sum

            class Lottery(Sum):
                def handle_write(self, command, state):
                    return random.random() < 2, state + 1
            """,
            test_lottery="""
            import pytest
            from lottery import Lottery

            @pytest.mark.parametrize("is_watched", [True, False])
            def test_it(raft_cluster, is_watched):
                cluster = raft_cluster(Lottery, deterministic=is_watched)
                assert cluster.write(2)
            """,
        )
        result = tests.runpytest_subprocess("-p", "no:cacheprovider")
        result.assert_outcomes(passed=2, errors=1)
        result.stdout.fnmatch_lines(
            ["*lottery.py:6, in Lottery.handle_write: random draws*"]
        )
