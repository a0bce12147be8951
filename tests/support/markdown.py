"""The parts of a Markdown page that a test can judge: links, headings, code."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FENCE = re.compile(r"(?P<indent> *)```(?P<language>\w*)$")
_LINK = re.compile(r"\]\(([^()\s]+)\)")
_HEADING = re.compile(r"#{1,6} (.+)$")
_CODE = re.compile(r"`[^`]*`")
_NOT_IN_ANCHOR = re.compile(r"[^\w\- ]")
_FILE_NAME = re.compile(r"# ([\w./-]+\.\w+)\n")


@dataclass(frozen=True, slots=True)
class Block:
    """
    One fenced block of code.

    Args:
        language: What stands behind the fence, as ``python``.
        text: The lines between the fences.
        line: The line of the page that the text begins on, from 1.
    """

    language: str
    text: str
    line: int

    @property
    def file_name(self) -> str:
        """Return the name that its first line gives it, as ``# shop.py``."""
        found = _FILE_NAME.match(self.text)
        return found[1] if found else ""


class Page:
    """
    One page.

    Args:
        path: Its file.
        text: What it says, if not what is in the file.
    """

    def __init__(self, path: Path, text: str | None = None) -> None:
        self.path = path
        self.text = path.read_text() if text is None else text
        self.blocks: list[Block] = []
        #: The lines that are not code, each with its number.
        self.prose: list[tuple[int, str]] = []
        self._read()

    def _read(self) -> None:
        fence: re.Match[str] | None = None
        lines: list[str] = []
        for number, line in enumerate(self.text.splitlines(), 1):
            if fence is None:
                fence = _FENCE.match(line)
                if fence is None:
                    self.prose.append((number, line))
            elif line.strip() == "```":
                text = "".join(f"{each}\n" for each in lines)
                block = Block(fence["language"], text, number - len(lines))
                self.blocks.append(block)
                fence, lines = None, []
            else:
                lines.append(line.removeprefix(fence["indent"]))
        if fence is not None:
            message = f"{self.path}: a block of code does not end"
            raise ValueError(message)

    def links(self) -> Iterator[tuple[int, str]]:
        """Yield the line and the target of each link."""
        for number, line in self.prose:
            for target in _LINK.findall(_CODE.sub("", line)):
                yield number, target

    def anchors(self) -> set[str]:
        """Return what can follow the ``#`` of a link to this page."""
        headings = filter(None, (_HEADING.match(line) for _, line in self.prose))
        return {
            _NOT_IN_ANCHOR.sub("", heading[1].lower()).replace(" ", "-")
            for heading in headings
        }

    def of(self, language: str) -> list[Block]:
        """Return the blocks in *language*."""
        return [block for block in self.blocks if block.language == language]
