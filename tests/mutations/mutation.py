"""A bug on purpose, and the tests that catch it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mutation:
    """
    A bug, as a patch of one file.

    Args:
        name: What to call it.
        section: Which section it breaks, of the dissertation.
        path: The file.
        old: A piece of it, which stands there once.
        new: What takes its place.
        consequence: What would go wrong, in a line.
        caught_by: Tests that fail with it, each of them.
        schedules: Some of the first random schedules fail with it, too.
    """

    name: str
    section: str
    path: str
    old: str
    new: str
    consequence: str
    caught_by: tuple[str, ...]
    schedules: bool = False


def paper(section: str, test: str) -> str:
    """Return a test of the paper's *section*."""
    return f"tests/paper/test_section_{section}.py::{test}"


def scenario(name: str) -> str:
    """Return the test that runs the scenario *name*."""
    return f"tests/scenarios/test_scenarios.py::test_scenario[{name}]"
