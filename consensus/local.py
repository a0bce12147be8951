"""
Servers of this process, by name: the calls of the Elixir original.

Each function returns a Deferred.  A name that no running server of this
process has raises :class:`~.UnknownServerError`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from twisted.internet.defer import Deferred, fail, inlineCallbacks, succeed

from consensus.config import from_mapping
from consensus.errors import AlreadyRunningError, RaftError, UnknownServerError
from consensus.http.port import HTTPPort
from consensus.server import RaftServer

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from consensus.core.values import (
        Address,
        Entry,
        LogIndex,
        ServerId,
        SnapshotMeta,
        Status,
    )
    from consensus.options import Consistency

_T = TypeVar("_T")

_servers: dict[ServerId, RaftServer] = {}

#: Where they answer HTTP.
_ports: dict[ServerId, HTTPPort] = {}

#: Names that were stopped here; others may take one for the leader for a while.
_stopped: set[ServerId] = set()


@inlineCallbacks
def start_peer(
    state_machine: type,
    *,
    name: ServerId,
    config: Mapping[str, Any] | None = None,
    reactor: Any = None,
    clock: Any = None,
) -> Generator[Deferred[Any], Any, None]:
    """
    Start the server *name* in this process; fires when it answers calls.

    Args:
        state_machine: The class, a :class:`.StateMachine` or one with declared
            methods; one instance is made for this server.
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
        yield from _open_port(server, reactor, clock)
    except BaseException:
        _forget(server)
        raise


def _open_port(
    server: RaftServer, reactor: Any, clock: Any
) -> Generator[Deferred[Any], Any, None]:
    """Let *server* answer HTTP, if its config says where; if not, it stops."""
    address = server.config.http_address_of(server.name)
    if not address:
        return
    port = HTTPPort(server, address, reactor, clock)
    try:
        yield port.startService()
    except RaftError:
        yield port.stopService()
        yield server.stopService()
        raise
    _ports[server.name] = port


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
    addresses = _addresses(members)
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


def write(name: ServerId, command: Any, *, with_index: bool = False) -> Deferred[Any]:
    """Apply *command* everywhere; see :meth:`.RaftServer.write`."""
    return _find(name).write(command, with_index=with_index)


def read(
    name: ServerId,
    query: Any,
    *,
    consistency: Consistency = "linearizable",
    max_age: float | None = None,
    at_index: LogIndex | None = None,
    wait: float | None = None,
) -> Deferred[Any]:
    """Answer *query*, linearizably by default; see :meth:`.RaftServer.read`."""
    return _find(name).read(
        query, consistency=consistency, max_age=max_age, at_index=at_index, wait=wait
    )


def get_entry(name: ServerId, index: LogIndex) -> Deferred[Entry | None]:
    """Return the entry at *index* of *name*'s log; ``None`` past its end."""
    return _find(name).get_entry(index)


def change_membership(
    name: ServerId,
    *,
    voters: Iterable[ServerId] | Mapping[ServerId, Address],
    learners: Iterable[ServerId] | Mapping[ServerId, Address] = (),
    expected_index: LogIndex | None = None,
) -> Deferred[LogIndex]:
    """
    Let the cluster of *name* be *voters* and *learners*; see :meth:`.Members.change`.

    Args:
        name: The leader.
        voters: The names of all who shall vote; with their addresses where
            the transport is not the memory one.
        learners: Those who get the log and do not vote, likewise.
        expected_index: Refuse if the membership is not that of this entry.
    """
    wanted = _addresses(voters), _addresses(learners)
    return _tried(lambda: _find(name).members.change(*wanted, expected_index))


def add_member(
    name: ServerId,
    server: ServerId,
    address: Address = "",
    *,
    as_learner: bool = False,
) -> Deferred[LogIndex]:
    """
    Add *server* to the cluster of *name*, its leader; see :meth:`.Members.add`.

    Args:
        name: The leader.
        server: A running server that belongs to no cluster yet.
        address: Where it listens; its name if empty, as with the memory
            transport.
        as_learner: It gets the log, and does not vote.
    """
    where = address or server
    return _tried(lambda: _find(name).members.add(server, where, as_learner=as_learner))


def promote_member(name: ServerId, server: ServerId) -> Deferred[LogIndex]:
    """Let the learner *server* vote in the cluster of *name*, its leader."""
    return _tried(lambda: _find(name).members.promote(server))


def remove_member(name: ServerId, server: ServerId) -> Deferred[LogIndex]:
    """Remove *server* from the cluster of *name*, its leader."""
    return _tried(lambda: _find(name).members.remove(server))


def snapshot(name: ServerId) -> Deferred[SnapshotMeta]:
    """Write the state of *name* down now; see :meth:`.RaftServer.snapshot`."""
    return _tried(lambda: _find(name).snapshot())


def _addresses(
    members: Iterable[ServerId] | Mapping[ServerId, Address],
) -> dict[ServerId, Address]:
    if isinstance(members, Mapping):
        return dict(members)
    return {member: member for member in members}


def _tried(begin: Callable[[], Deferred[_T]]) -> Deferred[_T]:
    """Return what *begin* returns; what it raises, as a failure."""
    try:
        return begin()
    except RaftError as error:
        return fail(error)


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
        port = _ports.pop(server.name, None)
        if port is not None:
            port.stopService()
