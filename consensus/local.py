"""
Servers of this process, by name: the calls of the Elixir original.

Each function returns a Deferred.  A name that no running server of this
process has raises :class:`~.UnknownServerError`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, fail, inlineCallbacks, succeed

from consensus.config import from_mapping
from consensus.errors import AlreadyRunningError, UnknownServerError
from consensus.server import RaftServer

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from consensus.core.values import Address, Entry, LogIndex, ServerId, Status
    from consensus.interfaces import StateMachine

_servers: dict[ServerId, RaftServer] = {}

#: Names that were stopped here; others may take one for the leader for a while.
_stopped: set[ServerId] = set()


@inlineCallbacks
def start_peer(
    state_machine: type[StateMachine],
    *,
    name: ServerId,
    config: Mapping[str, Any] | None = None,
    reactor: Any = None,
    clock: Any = None,
) -> Generator[Deferred[Any], Any, None]:
    """
    Start the server *name* in this process; fires when it answers calls.

    Args:
        state_machine: The class; one instance is made for this server.
        name: Unique in this process.
        config: The keys of the YAML file, such as ``storage``, ``transport``,
            ``data_dir`` and ``timing``; by default memory storage and memory
            transport.  A data directory that exists is resumed.
        reactor: Where to run; by default the reactor of this process.
        clock: See :class:`.RaftServer`; tests give one in virtual time.

    The Deferred fails with:
        ConfigError: *config* is wrong, or the data directory is another's.
        AlreadyRunningError: This process runs a server of that name.
        StorageError: The storage cannot be opened.
    """
    if name in _servers:
        message = f"a server named {name} runs in this process already"
        raise AlreadyRunningError(message)
    made = from_mapping(config or {}, name=name, state_machine=state_machine)
    server = _servers[name] = RaftServer(made, name, reactor, clock)
    _stopped.discard(name)
    server.on_failure = _forget
    server.startService()
    try:
        yield server.when_started()
    except BaseException:
        _forget(server)
        raise


@inlineCallbacks
def stop_peer(name: ServerId) -> Generator[Deferred[Any], Any, None]:
    """Stop the server *name*; the others elect a new leader if it led."""
    server = _find(name)
    yield server.stopService()
    _forget(server)


def set_configuration(
    name: ServerId, members: Iterable[ServerId] | Mapping[ServerId, Address]
) -> Deferred[None]:
    """
    Found a cluster of *members*, with the server *name* as the first of them.

    Args:
        name: A new server; it tells the others.
        members: The names of all, *name* among them; with their addresses
            where the transport is not the memory one.

    The Deferred fails with:
        AlreadyConfiguredError: *name* has a membership already.
        ValueError: *name* is not among *members*.
    """
    server = _find(name)
    if isinstance(members, Mapping):
        addresses = dict(members)
    else:
        addresses = {member: member for member in members}
    if name not in addresses:
        message = f"{name} is not among the members {', '.join(addresses)}"
        return fail(ValueError(message))
    return server.set_configuration(addresses)


def leader(name: ServerId, timeout: float | None = None) -> Deferred[ServerId | None]:
    """
    Return whom *name* takes for the leader, unless that one was stopped here.

    Args:
        name: Whom to ask.
        timeout: Wait up to so many seconds until a leader is known, then fail
            with :class:`~.TimedOutError`; without it answer at once, with
            ``None`` if none is.
    """
    server = _find(name)
    if timeout is None:
        known = server.leader()
        return succeed(None if known in _stopped else known)
    waiting: Deferred[Any] = server.when_leader_known(timeout, other_than=_stopped)
    return waiting


def status(name: ServerId) -> Deferred[Status]:
    """Return what *name* knows: role, term, leader, membership, indexes."""
    return succeed(_find(name).status())


def write(name: ServerId, command: Any) -> Deferred[Any]:
    """Apply *command* everywhere; see :meth:`.RaftServer.write`."""
    return _find(name).write(command)


def read(name: ServerId, query: Any) -> Deferred[Any]:
    """Answer *query*, linearizably; see :meth:`.RaftServer.read`."""
    return _find(name).read(query)


def get_entry(name: ServerId, index: LogIndex) -> Deferred[Entry | None]:
    """Return the entry at *index* of *name*'s log; ``None`` past its end."""
    return _find(name).get_entry(index)


def _find(name: ServerId) -> RaftServer:
    try:
        return _servers[name]
    except KeyError:
        running = ", ".join(sorted(_servers)) or "none"
        message = f"no server named {name} runs in this process; running: {running}"
        raise UnknownServerError(message) from None


def _forget(server: RaftServer, error: BaseException | None = None) -> None:
    del error
    if _servers.get(server.name) is server:
        del _servers[server.name]
        _stopped.add(server.name)
