"""What applications add to the port, under their own names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.logger import Logger

from consensus import registry
from consensus.shell.companion import Home

if TYPE_CHECKING:
    from twisted.web.resource import IResource

_log = Logger()


def pages_of(server: Any, reactor: Any, clock: Any) -> dict[str, IResource]:
    """Return the resources for *server*, by name; one that is broken is left out."""
    home = Home(server, reactor, clock)
    found: dict[str, IResource] = {}
    for name in registry.page_names():
        try:
            found[name] = registry.load_page(name)(home)
        except Exception:  # noqa: BLE001 - an application's; the others are served
            _log.failure("the page {name!r} cannot be made", name=name)
    return found
