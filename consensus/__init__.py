"""
The names that a user of the framework types.

They are imported when they are first used, so that ``consensus.core`` can be
had without Twisted.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from consensus.interfaces import StateMachine as StateMachine
    from consensus.local import add_member as add_member
    from consensus.local import change_membership as change_membership
    from consensus.local import get_entry as get_entry
    from consensus.local import leader as leader
    from consensus.local import promote_member as promote_member
    from consensus.local import read as read
    from consensus.local import remove_member as remove_member
    from consensus.local import set_configuration as set_configuration
    from consensus.local import snapshot as snapshot
    from consensus.local import start_peer as start_peer
    from consensus.local import status as status
    from consensus.local import stop_peer as stop_peer
    from consensus.local import write as write
    from consensus.server import RaftServer as RaftServer

_HOMES = {
    "RaftServer": "consensus.server",
    "StateMachine": "consensus.interfaces",
    "add_member": "consensus.local",
    "change_membership": "consensus.local",
    "get_entry": "consensus.local",
    "leader": "consensus.local",
    "promote_member": "consensus.local",
    "read": "consensus.local",
    "remove_member": "consensus.local",
    "set_configuration": "consensus.local",
    "snapshot": "consensus.local",
    "start_peer": "consensus.local",
    "status": "consensus.local",
    "stop_peer": "consensus.local",
    "write": "consensus.local",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Import *name* from where it lives."""
    if name not in _HOMES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(_HOMES[name]), name)
