"""Lines from standard input, whatever it is: a terminal, a pipe or a file."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from consensus.dev.channel import Lines

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

_STDIN = 0
_CHUNK = 4096


class Keyboard:
    """
    Reads lines in a thread of its own, as a file cannot be waited for.

    Each line is done before the next one is read.

    Args:
        reactor: In whose thread they are done.
        do: Does a line, and calls what it is given when that is done.
        on_end: Called in the reactor's thread when no more lines come.
    """

    def __init__(
        self,
        reactor: Any,
        do: Callable[[str, Callable[[], None]], None],
        on_end: Callable[[], None],
    ) -> None:
        self._reactor = reactor
        self._do = do
        self._on_end = on_end
        self._is_done = threading.Event()

    def start(self) -> None:
        """Begin to read."""
        threading.Thread(target=self._read, name="keyboard", daemon=True).start()

    def _read(self) -> None:
        for line in _typed() if sys.stdin.isatty() else _written():
            self._is_done.clear()
            self._reactor.callFromThread(self._do, line, self._is_done.set)
            self._is_done.wait()
        self._reactor.callFromThread(self._on_end)


def _typed() -> Generator[str, None, None]:
    """Yield the lines that are typed into a terminal."""
    with suppress(EOFError, OSError, ValueError):
        while True:
            yield input()


def _written() -> Generator[str, None, None]:
    """
    Yield the lines of a pipe or a file.

    Past Python's own buffer: whoever waits there when the process ends would
    hold its lock.
    """
    lines: list[bytes] = []
    cut = Lines(lines.append)
    with suppress(OSError):
        while data := os.read(_STDIN, _CHUNK):
            cut.feed(data)
            yield from _taken(lines)
    cut.flush()
    yield from _taken(lines)


def _taken(lines: list[bytes]) -> Generator[str, None, None]:
    while lines:
        yield lines.pop(0).decode(errors="replace")


def complete(words: Sequence[str], text: str, number: int) -> str | None:
    """Return the word of this *number* that begins with *text*, as readline asks."""
    found = [each for each in words if each.startswith(text)]
    return f"{found[number]} " if number < len(found) else None


@contextmanager
def terminal(words: Sequence[str]) -> Generator[None, None, None]:
    """
    Lend the terminal, if there is one: it completes *words*.

    It is left as it was, though a thread may still wait for a line.
    """
    if not sys.stdin.isatty():
        yield
        return
    import readline  # noqa: PLC0415 - it changes the terminal
    import termios  # noqa: PLC0415 - for terminals only

    before = termios.tcgetattr(sys.stdin)

    readline.set_completer(partial(complete, words))
    readline.parse_and_bind("tab: complete")
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
