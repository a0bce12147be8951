"""What ``raft dev`` shows: the lines of all members, and its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from consensus.core.values import ServerId

_COLOURS = ("cyan", "magenta", "yellow", "green", "blue", "red")


class Screen:
    """
    One terminal for all.

    Args:
        members: Whose lines come; each gets a colour.
    """

    def __init__(self, members: Sequence[ServerId]) -> None:
        self._console = Console(highlight=False, markup=False, soft_wrap=True)
        self._width = max(map(len, members))
        self._colours = {
            name: _COLOURS[number % len(_COLOURS)]
            for number, name in enumerate(members)
        }

    def line(self, member: ServerId, line: str) -> None:
        """Show a line that *member* has printed."""
        prefix = Text(f"{member:{self._width}} | ", style=self._colours[member])
        self._show(prefix.append(_printable(line), style="default"))

    def say(self, line: str, style: str = "bold") -> None:
        """Show a line of ``raft dev`` itself."""
        self._show(Text(_printable(line), style=style))

    def complain(self, line: str) -> None:
        """Show what went wrong."""
        self.say(line, "bold red")

    def _show(self, text: Text) -> None:
        self._console.print(text)
        self._console.file.flush()


def _printable(line: str) -> str:
    """Return *line* without what could move the cursor."""
    return "".join(
        each if each.isprintable() or each == "\t" else "\N{REPLACEMENT CHARACTER}"
        for each in line
    )
