"""Who listens on a port of this host, as far as this user may know."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from consensus.addresses import AddressError, TCPAddress, parse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from consensus.core.values import Address

_PROC = Path("/proc")
_LISTENING = "0A"


def holder_of(address: Address) -> str:
    """
    Return what to call the program that listens at *address*, on this host.

    Empty if nobody does, or it cannot be known.
    """
    try:
        parsed = parse(address)
    except AddressError:
        return ""
    if not isinstance(parsed, TCPAddress):
        return ""
    sockets = set(_listening(parsed.port))
    if not sockets:
        return ""
    return next(_holders(sockets), "a program of another user")


def _listening(port: int) -> Iterator[str]:
    """Yield what /proc calls the sockets that listen on *port*."""
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in (_PROC / "net" / table).read_text().splitlines()[1:]:
                cells = line.split()
                if cells[3] == _LISTENING and int(cells[1].split(":")[1], 16) == port:
                    yield f"socket:[{cells[9]}]"


def _holders(sockets: set[str]) -> Iterator[str]:
    for process in _PROC.glob("[0-9]*"):
        with suppress(OSError):  # another's, or gone
            for descriptor in (process / "fd").iterdir():
                with suppress(OSError):
                    if os.readlink(descriptor) in sockets:  # noqa: PTH115 - no path
                        name = (process / "comm").read_text().strip()
                        yield f"process {process.name} ({name})"
                        return
