"""Real servers in virtual time: the shell, its adapters, and no waiting."""

from __future__ import annotations

import random
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from adapters.transport.memory import MemoryNetwork
from consensus.config import from_mapping
from consensus.interfaces import StateMachine
from consensus.server import RaftServer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from twisted.internet.defer import Deferred

_networks = count()


class VirtualReactor(Clock):
    """A reactor without sockets, whose time the test moves."""

    def callFromThread(
        self, function: Callable[..., object], *args: object, **kwargs: object
    ) -> None:
        """Call *function* on the next turn."""
        self.callLater(0, function, *args, **kwargs)


class Register(StateMachine):
    """A dict: ``["set", key, value]`` and ``["fail", text]``, read by key."""

    def init(self, name: str) -> Any:
        """Begin empty."""
        del name
        return {}

    def handle_write(self, command: Any, state: Any) -> tuple[Any, Any]:
        """Set a key, or raise."""
        match command:
            case ["set", key, value]:
                previous = state.get(key)
                state[key] = value
                return previous, state
            case ["fail", text]:
                raise ValueError(text)
        raise TypeError(command)

    def handle_read(self, query: Any, state: Any) -> tuple[Any, Any]:
        """Return the value of a key, or raise."""
        if query == "fail":
            raise LookupError("no such luck")
        return state.get(query), state


class Servers:
    """
    A cluster of :class:`RaftServer` in virtual time.

    Args:
        names: The members; each is started.
        config: Further keys for all of them.
        data_dir: For a storage that is durable.
        founded: Whether all of them bootstrap as they start.
    """

    def __init__(
        self,
        names: tuple[str, ...] = ("s1", "s2", "s3"),
        *,
        config: Mapping[str, Any] | None = None,
        data_dir: Path | None = None,
        founded: bool = True,
        machine: type[StateMachine] = Register,
    ) -> None:
        self.names = names
        self.reactor = VirtualReactor()
        self.random = random.Random(7)  # noqa: S311 - reproducible, not secret
        self.machine = machine
        network = {"engine": "memory", "options": {"network": f"n{next(_networks)}"}}
        self.mapping: dict[str, Any] = {"transport": network, **(config or {})}
        if data_dir is not None:
            self.mapping["data_dir"] = str(data_dir)
        if founded:
            self.mapping["members"] = {name: name for name in names}
        self.servers: dict[str, RaftServer] = {}
        for name in names:
            self.start(name)

    def start(self, name: str, **keys: Any) -> RaftServer:
        """Start *name*, with these *keys* too, and wait until it answers."""
        mapping = {**self.mapping, **keys}
        config = from_mapping(mapping, name=name, state_machine=self.machine)
        server = RaftServer(
            config, name, self.reactor, self.reactor, self.random.randrange
        )
        server.startService()
        self.result(server.when_started())
        self.servers[name] = server
        return server

    def join(self, name: str, *, at: str = "", **keys: Any) -> RaftServer:
        """Start *name*, which asks the others to take it in."""
        keys = {"join": list(self.names), **keys}
        return self.start(name, members={name: at or name}, **keys)

    def until(self, is_so: Callable[[], Any], seconds: float = 20) -> None:
        """Let time pass until it is so."""
        for _ in range(round(seconds * 1000)):
            if is_so():
                return
            self.reactor.advance(0.001)
        raise AssertionError("it never came to that")

    @property
    def network(self) -> MemoryNetwork:
        """Return what joins the servers; a test may cut it."""
        return MemoryNetwork.named(self.mapping["transport"]["options"]["network"])

    def stop(self, name: str) -> None:
        """Stop *name*."""
        self.result(self.servers.pop(name).stopService())

    def run(self, seconds: float) -> None:
        """Let time pass."""
        for _ in range(round(seconds * 1000)):
            self.reactor.advance(0.001)

    def result(self, waiting: Deferred[Any], seconds: float = 20) -> Any:
        """Let time pass until *waiting* fires; return or raise its result."""
        box: list[Any] = []
        waiting.addBoth(box.append)
        for _ in range(round(seconds * 1000)):
            if box:
                break
            self.reactor.advance(0.001)
        assert box, "it never fired"
        if isinstance(box[0], Failure):
            box[0].raiseException()
        return box[0]

    def failing(self, waiting: Deferred[Any], error: type[Exception]) -> Any:
        """Let time pass until *waiting* fails; return its *error*."""
        with pytest.raises(error) as caught:
            self.result(waiting)
        return caught.value

    def leader(self) -> RaftServer:
        """Wait until exactly one running server leads the newest term."""
        for _ in range(20_000):
            statuses = [server.status() for server in self.servers.values()]
            newest = max(status.term for status in statuses)
            leaders = [
                status.server
                for status in statuses
                if status.role == "leader" and status.term == newest
            ]
            if leaders:
                return self.servers[leaders[0]]
            self.reactor.advance(0.001)
        raise AssertionError("nobody leads")

    def followers(self) -> list[RaftServer]:
        """Return the running servers that do not lead."""
        chief = self.leader()
        return [server for server in self.servers.values() if server is not chief]
