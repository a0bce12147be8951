"""What a shell is told to complete `raft` with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from consensus import cli

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = """\
members: {alpha: a1, beta: a2, alps: a3}
state_machine: kvstore
storage: memory
transport: memory
"""


def completed(*words: str) -> list[str]:
    """Return what the last of *words* may become."""
    completes = ShellComplete(cli.raft, {}, "raft", "_RAFT_COMPLETE")
    found = completes.get_completions(list(words[:-1]), words[-1])
    return [each.value for each in found]


@pytest.fixture
def config(tmp_path: Path) -> str:
    """Return the path of a config."""
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    return str(path)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_script(shell: str) -> None:
    """Each shell has a script, which asks this program."""
    result = CliRunner().invoke(cli.raft, ["completion", shell])
    assert result.exit_code == 0
    assert "_RAFT_COMPLETE" in result.output
    assert f"{shell}_complete" in result.output


def test_other_shells() -> None:
    """Another shell is refused with the names of those that there are."""
    result = CliRunner().invoke(cli.raft, ["completion", "tcsh"])
    assert result.exit_code == 2
    assert "bash" in result.stderr


def test_commands() -> None:
    """Commands and options are completed."""
    assert completed("watch") == ["watch-status"]
    assert "--keep" in completed("compact", "--")


@pytest.mark.parametrize(
    "command", ["transfer", "remove", "promote", "snapshot", "compact"]
)
def test_names(config: str, command: str) -> None:
    """The names of the members are those of the file that the line names."""
    assert completed("-c", config, command, "al") == ["alpha", "alps"]
    assert completed("-c", config, command, "x") == []


def test_names_from_the_environment(
    config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are found through RAFT_CONFIG, too."""
    monkeypatch.setenv("RAFT_CONFIG", config)
    assert completed("transfer", "b") == ["beta"]


def test_no_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a file that can be read, no names are offered, and nothing is said."""
    monkeypatch.chdir(tmp_path)
    assert completed("transfer", "") == []
    (tmp_path / "config.yaml").write_text("members: [")
    assert completed("transfer", "") == []
