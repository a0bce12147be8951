"""
The pytest plugin: clusters in virtual time for the tests of your state machine.

It is there as soon as this distribution is installed, and costs nothing to
whoever does not use it: nothing of the framework is imported before a test
asks for it.  See ``docs/reference/testing.md``.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from collections.abc import Collection, Generator

    from consensus.testing.simulator import SimulatedCluster

_CLUSTERS = pytest.StashKey[list["SimulatedCluster"]]()

#: Tests whose machine was compared with one in another process.
_COMPARED = pytest.StashKey[set[str]]()

_MARKER = "raft_seeds(count, first=0): run the test with so many seeds of raft_cluster"


class MakeCluster(Protocol):
    """What the fixture ``raft_cluster`` gives."""

    def __call__(
        self,
        machine: type,
        servers: int | Collection[str] = 3,
        *,
        seed: int | None = None,
        deterministic: bool = True,
        **options: Any,
    ) -> SimulatedCluster:
        """
        Return a new cluster; by default with the seed of this test.

        With *deterministic*, the commands that it applied are applied to
        copies of the machine at the end (:mod:`consensus.testing.determinism`).
        """


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--raft-seed``."""
    parser.getgroup("raft").addoption(
        "--raft-seed",
        type=int,
        metavar="SEED",
        help="run simulated clusters with this seed only, to replay a failure",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Say what ``raft_seeds`` means."""
    config.addinivalue_line("markers", _MARKER)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that is marked with ``raft_seeds`` once for each seed."""
    marker = metafunc.definition.get_closest_marker("raft_seeds")
    if marker is None or "raft_seed" not in metafunc.fixturenames:
        return
    seeds = _seeds(*marker.args, **marker.kwargs)
    replayed = metafunc.config.getoption("raft_seed")
    if replayed is not None:
        seeds = range(replayed, replayed + 1)
    ids = [f"seed={seed}" for seed in seeds]
    metafunc.parametrize("raft_seed", seeds, ids=ids, indirect=True)


def _seeds(count: int, first: int = 0) -> range:
    return range(first, first + count)


@pytest.fixture
def raft_seed(request: pytest.FixtureRequest) -> int:
    """Return the seed of this test: of ``raft_seeds``, of the command line, or 0."""
    if hasattr(request, "param"):
        return int(request.param)
    replayed = request.config.getoption("raft_seed")
    return 0 if replayed is None else int(replayed)


@pytest.fixture
def raft_cluster(
    request: pytest.FixtureRequest, raft_seed: int
) -> Generator[MakeCluster]:
    """Return what makes a :class:`.SimulatedCluster`, with this test's seed."""
    from consensus.testing.simulator import (  # noqa: PLC0415 - only for those who use it
        SimulatedCluster,
    )

    clusters: list[SimulatedCluster] = []
    watched: list[SimulatedCluster] = []
    request.node.stash[_CLUSTERS] = clusters

    def make(
        machine: type,
        servers: int | Collection[str] = 3,
        *,
        seed: int | None = None,
        deterministic: bool = True,
        **options: Any,
    ) -> SimulatedCluster:
        chosen = raft_seed if seed is None else seed
        cluster = SimulatedCluster(machine, servers, seed=chosen, **options)
        clusters.append(cluster)
        if deterministic:
            watched.append(cluster)
        return cluster

    yield make
    for cluster in watched:
        _check_deterministic(request, cluster)
    clusters.clear()


def _check_deterministic(
    request: pytest.FixtureRequest, cluster: SimulatedCluster
) -> None:
    """Apply what *cluster* has committed to copies of its machine."""
    from consensus.testing.determinism import (  # noqa: PLC0415 - only for those who use it
        check_encoded,
        commands_in,
    )

    commands = list(commands_in(entry for entry, _ in cluster.invariants.committed))
    make = partial(cluster.machine, cluster.machine_for_clients.options)
    # Of many seeds of one test, the first is compared with another process:
    # that takes longer than all the rest.
    seen = request.config.stash.setdefault(_COMPARED, set())
    test = request.node.nodeid.partition("[")[0]
    check_encoded(make, commands, elsewhere=test not in seen)
    seen.add(test)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add to a failure how to replay it, and what happened in its clusters."""
    report = yield
    if report.when == "call" and report.failed:
        for cluster in item.stash.get(_CLUSTERS, []):
            text = (
                f"replay it with --raft-seed={cluster.seed}; at {cluster.now:.4f}"
                f" s, after\n{cluster.trace.text()}"
            )
            report.sections.append(("simulated cluster", text))
    return report
