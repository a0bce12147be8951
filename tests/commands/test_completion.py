"""What a shell is told to complete `raft` with."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from consensus import cli

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


_IN_BASH = """\
set -e
eval "$(raft completion bash)"
complete -p raft | grep -q _raft_completion
COMP_WORDS=(raft transfer al) COMP_CWORD=2
_raft_completion raft
printf '%s\\n' "${COMPREPLY[@]}"
"""


def test_in_bash(config: str) -> None:
    """A real bash understands its script, and completes by it."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash")
    done = subprocess.run(
        [bash, "--norc", "-c", _IN_BASH],
        env={
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RAFT_CONFIG": config,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["alpha", "alps"]


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
