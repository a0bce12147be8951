"""An adapter of a separate distribution: the one of docs/howto."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING

from consensus.testing.storage import StorageSuite
from tests.support.processes import MemberProcesses

if TYPE_CHECKING:
    from consensus.interfaces import Storage

DISTRIBUTION = Path(__file__).parents[2] / "docs" / "howto" / "jsonlines-storage"


class JSONLinesTests(StorageSuite):
    """The storage of the howto passes the suite that the howto recommends."""

    def make(self, directory: Path) -> Storage:
        """Return one, from the file itself."""
        del directory
        path = DISTRIBUTION / "raft_jsonlines.py"
        spec = spec_from_file_location("raft_jsonlines", path)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[spec.name] = module_from_spec(spec)
        spec.loader.exec_module(module)
        storage: Storage = module.JSONLinesStorage()
        return storage


def test_an_installed_adapter_is_found_by_its_name(tmp_path: Path) -> None:
    """With the distribution installed, `engine: jsonlines` runs a cluster."""
    site = tmp_path / "site"
    build = tmp_path / "build"
    build.mkdir()
    for source in DISTRIBUTION.iterdir():
        if source.is_file():
            (build / source.name).write_bytes(source.read_bytes())
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"),
            *("--no-build-isolation", "--target", str(site), str(build)),
        ],
        check=True,
        timeout=120,
    )
    with MemberProcesses(
        tmp_path, python_path=str(site), storage={"engine": "jsonlines"}
    ) as processes:
        done = processes.raft("kv", "set", "colour", "blue")
        assert done.returncode == 0, done.stderr
        done = processes.raft("kv", "get", "colour")
        assert done.stdout == "blue\n", done.stderr
    text = (tmp_path / "data" / "s1" / "log.jsonl").read_text()
    assert '"entries"' in text
