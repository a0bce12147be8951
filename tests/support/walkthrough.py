"""
Does what a page of the documentation says, in an empty directory.

A block whose first line is a file's name as a comment (``# shop.py``) is
written to that file.  A ``console`` block is typed: a line that begins with
``$`` is a command, the lines after it are what it prints, and ``...`` in them
stands for anything.  A ``twistd``, or a ``raft dev``, runs on when its lines
have come, until a line ``^C`` or the page's end.  Blocks in other languages,
such as ``sh``, are not typed.

Ports of loopback are replaced by free ones.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from threading import Timer
from typing import TYPE_CHECKING, Self

from tests.support.markdown import Page
from tests.support.processes import PATIENCE, SCRIPTS, free_ports

if TYPE_CHECKING:
    from pathlib import Path

_ADDRESS = re.compile(r"(?:(?<=127\.0\.0\.1:)|(?<=0\.0\.0\.0:))\d+")
_SERVER = re.compile(r"(?:\w+=\S+ )*(?:twistd|raft dev) ")
_INTERRUPT = "^C"


def walk(page: Page, directory: Path) -> None:
    """
    Do what *page* says, in *directory*.

    What stands in directories beside the page is there as well.

    Raises:
        AssertionError: Something was printed that the page does not say.
    """
    for beside in page.path.parent.iterdir():
        if beside.is_dir():
            shutil.copytree(beside, directory / beside.name)
    with Terminal(directory) as terminal:
        for block in Page(page.path, _with_free_ports(page.text)).blocks:
            if block.file_name:
                (directory / block.file_name).write_text(block.text)
            elif block.language == "console":
                terminal.type(block.text)


def matches(printed: str, expected: str) -> bool:
    """
    Say whether *printed* is *expected*, where ``...`` stands for anything.

    How many spaces there are, and empty lines at the ends, do not count.
    """
    parts = (re.escape(part) for part in _tidy(expected).split("..."))
    return re.fullmatch(".*?".join(parts), _tidy(printed), re.DOTALL) is not None


def _tidy(text: str) -> str:
    lines = (re.sub(" +", " ", line).strip() for line in text.splitlines())
    return "\n".join(lines).strip()


class Terminal:
    """
    Where commands are typed.

    Args:
        directory: Where they run.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._servers: list[subprocess.Popen[str]] = []

    def type(self, text: str) -> None:
        """Do what the console block *text* says."""
        for part in re.split(r"^(?=\$ |\^C$)", text, flags=re.MULTILINE):
            command, _, expected = part.replace("\\\n", "").partition("\n")
            if command == _INTERRUPT:
                self._interrupt()
            elif _SERVER.match(command.removeprefix("$ ")):
                self._serve(command.removeprefix("$ "), expected)
            elif command:
                self._run(command.removeprefix("$ "), expected)

    def _start(self, command: str) -> subprocess.Popen[str]:
        path = f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}"
        return subprocess.Popen(
            ["bash", "-c", command],
            cwd=self._directory,
            env={**os.environ, "PATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def _run(self, command: str, expected: str) -> None:
        process = self._start(command)
        try:
            printed, _ = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
        is_fine = process.returncode == 0 and matches(printed, expected)
        assert is_fine, f"$ {command}\n{printed}(exit status {process.returncode})"

    def _serve(self, command: str, expected: str) -> None:
        # It takes the place of bash, so that signals reach it.
        process = self._start(f"exec env {command}")
        self._servers.append(process)
        for line in expected.splitlines():
            if line.strip(". "):
                _wait_for(process, line, command)

    def _interrupt(self) -> None:
        process = self._servers.pop()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE)

    def __enter__(self) -> Self:
        """Let servers run until the end."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop what still runs."""
        for process in self._servers:
            process.kill()
            process.communicate(timeout=PATIENCE)


def _with_free_ports(text: str) -> str:
    ports = sorted(set(_ADDRESS.findall(text)))
    free = dict(zip(ports, map(str, free_ports(len(ports))), strict=True))
    return re.sub(r"\b\d{4,5}\b", lambda found: free.get(found[0], found[0]), text)


def _wait_for(process: subprocess.Popen[str], expected: str, command: str) -> None:
    assert process.stdout is not None
    printed = []
    impatience = Timer(PATIENCE, process.kill)
    impatience.start()
    try:
        for line in process.stdout:
            printed.append(line)
            if matches(line, expected):
                return
    finally:
        impatience.cancel()
    message = f"$ {command}\n{expected!r} was never printed:\n{''.join(printed)}"
    raise AssertionError(message)
