"""The directory of a ``raft dev`` cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from consensus.config import load
from consensus.dev.layout import LayoutError, lay_out, machine_name

if TYPE_CHECKING:
    from pathlib import Path


class MachineNameTests:
    """How a state machine is named."""

    @pytest.mark.parametrize(
        ("asked", "name"),
        [
            ("app:Machine", "app.Machine"),
            ("pkg.mod:Machine", "pkg.mod.Machine"),
            ("kvstore", "kvstore"),
            ("app.Machine", "app.Machine"),
        ],
    )
    def test_good(self, asked: str, name: str) -> None:
        """A module and a class, or what a config may say."""
        assert machine_name(asked) == name

    @pytest.mark.parametrize("asked", ["", "app:", ":Machine", "a:b:c"])
    def test_bad(self, asked: str) -> None:
        """Anything else is refused."""
        with pytest.raises(LayoutError, match="names no state machine"):
            machine_name(asked)


class LayOutTests:
    """A config that is new, or was there."""

    def test_the_config_loads(self, tmp_path: Path) -> None:
        """It is a config like any other, with ports from the first one on."""
        layout = lay_out(tmp_path / "new", "counter", 2, 9500)
        loaded = load(layout.config, ["s2"])
        assert loaded.members == {
            "s1": "tcp:127.0.0.1:9500",
            "s2": "tcp:127.0.0.1:9501",
        }
        assert loaded.data_dir.is_relative_to(tmp_path / "new")

    def test_it_stays(self, tmp_path: Path) -> None:
        """What is there already is used; free ports are not drawn again."""
        first = lay_out(tmp_path, "counter", 3, None)
        assert lay_out(tmp_path, "counter", 3, None) == first

    @pytest.mark.parametrize(
        ("machine", "count", "base", "words"),
        [
            ("kvstore", 1, None, "has 1 members of 'counter'"),
            ("counter", 3, None, "has 1 members"),
            ("counter", 1, 9501, "at other ports"),
        ],
    )
    def test_another_cluster(
        self, tmp_path: Path, machine: str, count: int, base: int | None, words: str
    ) -> None:
        """A directory of another cluster is refused, and not changed."""
        before = lay_out(tmp_path, "counter", 1, 9500).config.read_text()
        with pytest.raises(LayoutError, match=words):
            lay_out(tmp_path, machine, count, base)
        assert (tmp_path / "config.yaml").read_text() == before

    @pytest.mark.parametrize(
        "text",
        ["", "members: 5", "]", "members: {}", "{members: {}, state_machine: counter}"],
    )
    def test_damage(self, tmp_path: Path, text: str) -> None:
        """A config that is none of ours is refused."""
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(LayoutError, match="no config of raft dev"):
            lay_out(tmp_path, "counter", 1, None)

    def test_no_room(self, tmp_path: Path) -> None:
        """There are only so many ports, and a file is no directory."""
        with pytest.raises(LayoutError, match="no 6 ports from 65534"):
            lay_out(tmp_path, "counter", 3, 65534)
        (tmp_path / "file").write_text("")
        with pytest.raises(LayoutError, match="cannot write"):
            lay_out(tmp_path / "file", "counter", 1, None)
