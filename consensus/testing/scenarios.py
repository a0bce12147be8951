"""
Scenarios: files of commands, and below each all that the servers do for it.

A file has a title and prose, in which stand commands that begin with ``>``; the
indented lines below a command are what it causes.  docs/howto shows how one is
read and written; the commands themselves are in :mod:`consensus.testing.stage`.
"""

from __future__ import annotations

from difflib import unified_diff
from typing import TYPE_CHECKING

from consensus.testing.stage import CommandError, Stage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PROMPT = "> "
_INDENT = "    "


class ScenarioError(Exception):
    """A scenario that cannot be run; the message says in which line."""


def check(path: Path, *, rewrite: bool = False) -> None:
    """
    Run the scenario in the file *path*, and compare.

    Args:
        path: The file.
        rewrite: Write what was caused into the file instead.

    Raises:
        AssertionError: The servers do something else than it says; with the
            difference.
        ScenarioError: It cannot be run.
    """
    written = path.read_text(encoding="utf-8")
    played = play(written, path.name)
    if played == written:
        return
    if rewrite:
        path.write_text(played, encoding="utf-8")
        return
    difference = unified_diff(
        written.splitlines(),
        played.splitlines(),
        "written",
        "played",
        lineterm="",
    )
    message = "\n".join([f"{path.name} has changed:", *difference])
    raise AssertionError(message)


def play(text: str, name: str = "scenario") -> str:
    """
    Return *text* with what its commands cause now.

    Args:
        text: A scenario.
        name: Of its file, for messages.

    Raises:
        ScenarioError: It cannot be run.
    """
    return "".join(f"{line}\n" for line in _play(text, name))


def _play(text: str, name: str) -> Iterator[str]:
    stage = Stage()
    may_be_output = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith(_PROMPT):
            yield line
            may_be_output = True
            try:
                caused = stage.run(line.removeprefix(_PROMPT))
            except CommandError as error:
                message = f"{name}:{number}: {error}"
                raise ScenarioError(message) from error
            yield from (f"{_INDENT}{each}" for each in caused)
        elif not line.startswith(" "):
            yield line
            may_be_output = False
        elif not may_be_output:
            message = f"{name}:{number}: this is indented, but below no command"
            raise ScenarioError(message)
