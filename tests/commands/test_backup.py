"""What ``raft backup`` and ``raft restore`` print, and how they end."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from consensus import cli
from tests.support.backups import write_backup

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result


def raft(*words: object) -> Result:
    """Return how a command ends."""
    return CliRunner().invoke(cli.raft, [str(word) for word in words])


class LookingTests:
    """A file is looked at without a cluster, and without a config."""

    def test_show(self, tmp_path: Path) -> None:
        """What it is of stands in its beginning."""
        write_backup(tmp_path / "b", [b"state"])
        done = raft("backup", "--show", tmp_path / "b")
        assert done.exit_code == 0
        assert "cluster: shop\nindex: 7\nterm: 2\n" in done.output
        assert "taken: 2023-11-14T22:13:20+00:00\n" in done.output
        assert "voters: s1, s2\nlearners: none\n" in done.output

    def test_check(self, tmp_path: Path) -> None:
        """All of it is read; the version and the log's time stand inside."""
        write_backup(tmp_path / "b", [b"state"])
        done = raft("backup", "--check", tmp_path / "b")
        assert done.exit_code == 0
        assert done.output.endswith(
            f"machine version: 1\nlog time: 5.0\n{tmp_path / 'b'}: whole\n"
        )
        found = json.loads(raft("backup", "--check", "--json", tmp_path / "b").output)
        assert (found["machine_version"], found["log_time"]) == (1, 5.0)
        assert found["voters"] == {"s1": "a1", "s2": "a2"}
        assert found["bytes"] == (tmp_path / "b").stat().st_size

    def test_damage(self, tmp_path: Path) -> None:
        """What only --check can see is an error with a sentence."""
        write_backup(tmp_path / "b", [b"state"])
        data = bytearray((tmp_path / "b").read_bytes())
        data[-20] ^= 1
        (tmp_path / "b").write_bytes(data)
        assert raft("backup", "--show", tmp_path / "b").exit_code == 0
        done = raft("backup", "--check", tmp_path / "b")
        assert done.exit_code == 1
        assert "is damaged: chunk 0 of 1 is wrong" in done.stderr

    @pytest.mark.parametrize(
        "words", [("--check", "--show"), ("--check", "--server", "s1")]
    )
    def test_contradictions(self, words: tuple[str, ...], tmp_path: Path) -> None:
        """Options that do not go together are refused."""
        done = raft("backup", *words, tmp_path / "b")
        assert done.exit_code == 1
        assert done.stderr.count("\n") == 1
        assert not list(tmp_path.iterdir())


class NothingTests:
    """Without a file nothing is restored."""

    def test_no_file(self, tmp_path: Path) -> None:
        """It is an error with a sentence, and nothing is made."""
        path = tmp_path / "config.yaml"
        path.write_text(
            "members: {s1: 'tcp:127.0.0.1:9101'}\nserve: [s1]\nstate_machine: kvstore\n"
        )
        done = raft("-c", path, "restore", tmp_path / "none")
        assert done.exit_code == 1
        assert "No such file" in done.stderr
        assert not (tmp_path / "data").exists()
