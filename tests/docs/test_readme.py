"""The programs of README's section on clients do what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.markdown import Block, Page
from tests.support.processes import PATIENCE, MemberProcesses

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]

#: What begins and ends the section.
SECTION = re.compile(r"^## From your own program\n(.*?)^## ", re.DOTALL | re.MULTILINE)

#: How programs are tried that wait for requests.
VISIT = {
    "with_flask.py": "from with_flask import app; "
    "print(app.test_client().get('/colour').text)",
    "with_django.py": "import django; from django.conf import settings; "
    "settings.configure(ROOT_URLCONF='with_django', ALLOWED_HOSTS=['*']); "
    "django.setup(); from django.test import Client; "
    "print(Client().get('/colour').content.decode())",
}


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MemberProcesses]:
    """Return the servers of a key-value store."""
    with MemberProcesses(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


def programs() -> dict[str, Block]:
    """Return the programs of the section, in their order."""
    readme = ROOT / "README.md"
    found = SECTION.search(readme.read_text())
    assert found is not None
    return {block.file_name: block for block in Page(readme, found[1]).of("python")}


class ProgramTests:
    """Each program, as it stands there."""

    @pytest.mark.parametrize(
        ("name", "printed"),
        [
            ("with_twisted.py", "green\n"),
            ("with_asyncio.py", "blue\n"),
            ("with_flask.py", "blue\n"),
            ("with_django.py", "blue\n"),
        ],
    )
    def test_program(
        self, processes: MemberProcesses, tmp_path: Path, name: str, printed: str
    ) -> None:
        """It prints what was written; those for the web answer with it."""
        block = programs()[name]
        text = block.text.replace("tcp:127.0.0.1:9101", processes.addresses["s1"])
        assert text != block.text
        (tmp_path / name).write_text(text)
        if "set(" not in text:
            assert not processes.raft("kv", "set", "colour", "blue").returncode
        arguments = ["-c", VISIT[name]] if name in VISIT else [name]
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert (done.stdout, done.stderr) == (printed, "")

    def test_length(self) -> None:
        """There are four, and each can be taken in at a glance."""
        assert len(programs()) == 4
        for block in programs().values():
            assert len(block.text.splitlines()) < 25
