"""config.example.yaml has every key, with its default."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from consensus import config, registry
from consensus.config import Config, Limits, Reads, Timing

EXAMPLE = Path(__file__).parents[1] / "config.example.yaml"


class ExampleTests:
    """config.example.yaml has every key, with its default."""

    def test_it_loads(self) -> None:
        """The file is good, and runs all three members."""
        loaded = config.load(EXAMPLE)
        assert loaded.serve == ("s1", "s2", "s3") == tuple(loaded.members)
        assert loaded.data_dir == EXAMPLE.parent / "data"

    @pytest.mark.parametrize("part", [Timing, Limits, Reads])
    def test_defaults(self, part: Any) -> None:
        """Every number is there, and is the default."""
        said = yaml.safe_load(EXAMPLE.read_text())[part.__name__.lower()]
        assert said == {field.name: field.default for field in fields(part)}
        assert list(said) == [field.name for field in fields(part)]

    def test_keys(self) -> None:
        """Every key that a file may have is there."""
        said = yaml.safe_load(EXAMPLE.read_text())
        of_programs = {"address", "source", "lines"}
        assert set(said) == {field.name for field in fields(Config)} - of_programs

    def test_defaults_of_the_rest(self, tmp_path: Path) -> None:
        """What may be left out says what would count without it."""
        said = yaml.safe_load(EXAMPLE.read_text())
        needed = {"members", "serve", "state_machine"}
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump({key: said[key] for key in needed}))
        short, full = config.load(path), config.load(EXAMPLE)
        for name in (
            "cluster",
            "transport",
            "storage",
            "timing",
            "limits",
            "reads",
            "forward",
            "digest_every",
            "tls",
        ):
            assert getattr(short, name) == getattr(full, name)

    def test_options_of_engines(self) -> None:
        """Every option of the engines in it is there, with its default."""
        said = yaml.safe_load(EXAMPLE.read_text())
        loaded = config.load(EXAMPLE)
        for kind in registry.KINDS:
            options = getattr(loaded, kind).cls.Options
            assert list(said[kind]["options"]) == [
                each.name for each in fields(options)
            ]
            assert getattr(loaded, kind).options == options()
