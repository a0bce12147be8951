"""Every deliberate bug is caught; docs/design has the table of them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.mutations import elections, logs, members

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from concurrent.futures import Future

    from tests.mutations.mutation import Mutation

MUTATIONS = (*elections.MUTATIONS, *logs.MUTATIONS, *members.MUTATIONS)

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/design/0013-bugs-on-purpose.md"

#: What the tests need beside the package that has the bug.
BESIDE = ("adapters", "contrib", "tests", "pyproject.toml")

#: To import Hypothesis takes longer than most of these runs.
PYTEST = ("-q", "--tb=no", "-p", "no:cacheprovider", "-p", "no:hypothesispytest")

#: What pytest returns when tests were run, and some failed.
FAILED = 1

#: A bug may make a test run for ever.
PATIENCE = 30

pytestmark = pytest.mark.mutation


#: Random schedules that are run with a bug that they catch.
SCHEDULES = [
    "tests/simulation/test_random_schedules.py"
    f"::test_no_schedule_breaks_a_property[{seed}]"
    for seed in range(17)
]


@dataclass(frozen=True, slots=True)
class Run:
    """What pytest has returned, and printed."""

    status: int
    printed: str

    @property
    def failed(self) -> set[str]:
        """Return the tests that failed."""
        return set(re.findall(r"^FAILED (\S+)", self.printed, re.MULTILINE))


def chosen_for(mutation: Mutation) -> list[str]:
    """Return the tests that are run with *mutation*."""
    return [*mutation.caught_by, *(SCHEDULES if mutation.schedules else ())]


def run(directory: Path, tests: Iterable[str], mutation: Mutation | None) -> Run:
    """Run *tests* with a package that has *mutation*."""
    chosen = list(tests)
    assert chosen, "no tests are all tests"
    shutil.copytree(ROOT / "consensus", directory / "consensus")
    for name in BESIDE:
        (directory / name).symlink_to(ROOT / name)
    if mutation is not None:
        path = directory / mutation.path
        path.write_text(path.read_text().replace(mutation.old, mutation.new))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *PYTEST, *chosen],
        cwd=directory,
        # So that this package is found, and not the one that is installed.
        env={
            **os.environ,
            "PYTHONPATH": str(directory),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return Run(done.returncode, done.stdout + done.stderr)


@pytest.fixture(scope="module")
def runs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Run]]]:
    """Begin the runs of all mutations that are asked for, some at a time."""
    wanted = {item.name for item in request.session.items}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {
            each.name: pool.submit(
                run, tmp_path_factory.mktemp("mutant"), chosen_for(each), each
            )
            for each in MUTATIONS
            if f"test_is_caught[{each.name}]" in wanted
        }
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda each: each.name)
def test_is_caught(mutation: Mutation, runs: dict[str, Future[Run]]) -> None:
    """With the bug the tests that are named fail, each of them."""
    done = runs[mutation.name].result()
    assert done.status == FAILED, done.printed
    assert done.failed >= set(mutation.caught_by)
    assert mutation.schedules == any(test in done.failed for test in SCHEDULES)


def test_all_pass_without_a_bug(tmp_path: Path) -> None:
    """It is the bug that fails them, and not where they are run."""
    tests = dict.fromkeys(test for each in MUTATIONS for test in chosen_for(each))
    done = run(tmp_path, tests, None)
    assert done.status == 0, done.printed


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda each: each.name)
def test_applies(mutation: Mutation) -> None:
    """The piece that is replaced stands in its file, once."""
    assert (ROOT / mutation.path).read_text().count(mutation.old) == 1
    assert mutation.new != mutation.old


def test_names() -> None:
    """No two bugs have the same name, and none is without a test."""
    assert len({each.name for each in MUTATIONS}) == len(MUTATIONS)
    assert all(each.caught_by for each in MUTATIONS)


def test_table() -> None:
    """The page in docs/design has each of them, as it is here."""
    lines = PAGE.read_text().splitlines()
    assert [line for line in lines if line.startswith("| `")] == list(
        map(row, MUTATIONS)
    )


def row(mutation: Mutation) -> str:
    """Return the line of the table."""
    tests = ", ".join(f"`{shortened(test)}`" for test in mutation.caught_by)
    if mutation.schedules:
        tests += ", random schedules"
    first = f"| `{mutation.name}` | §{mutation.section}"
    return f"{first} | {mutation.consequence} | {tests} |"


def shortened(test: str) -> str:
    """Return the name of a test without its folder, and of a scenario its file."""
    scenario = re.search(r"::test_scenario\[(.+)\]$", test)
    if scenario is not None:
        return f"{scenario[1]}.txt"
    return test.rpartition("/")[2].replace(".py::", "::")
