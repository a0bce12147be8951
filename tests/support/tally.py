"""A number that clients add to, and a client of all kinds of calls."""

from __future__ import annotations

from contextlib import asynccontextmanager
from itertools import count
from typing import TYPE_CHECKING, Any

import msgspec
from twisted.internet.defer import Deferred

from consensus.config import from_mapping
from consensus.interfaces import StateMachine
from consensus.server import RaftServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from consensus.client import Client
    from consensus.options import Consistency

_networks = count()

encode = msgspec.msgpack.encode
_decode = msgspec.msgpack.Decoder(int).decode


class Tally(StateMachine):
    """A number; a command is what to add to it."""

    def init(self, name: str) -> Any:
        """Begin with nothing."""
        del name
        return 0

    def handle_write(self, command: Any, state: Any) -> tuple[Any, Any]:
        """Add."""
        return state + command, state + command

    def handle_read(self, query: Any, state: Any) -> tuple[Any, Any]:
        """Return the number."""
        del query
        return state, state


class Share:
    """What :meth:`TallyClient.lend` gives."""

    def __init__(self, owner: TallyClient, size: int) -> None:
        self.owner = owner
        self.size = size

    def enlarge(self, by: int) -> Deferred[int]:
        """Add more."""
        self.size += by
        return self.owner.add(by)


class TallyClient:
    """
    The number's client, for Twisted.

    Args:
        cluster: The cluster's client.
        greeting: What :meth:`greet` says.
    """

    def __init__(self, cluster: Client, *, greeting: str = "hello") -> None:
        self.cluster = cluster
        self.greeting = greeting
        #: What was begun and has no end of its own.
        self.begun: list[str] = []
        #: What has ended before its time.
        self.ended: list[str] = []

    def add(self, number: int) -> Deferred[int]:
        """Add *number*; return the sum."""
        return self.cluster.write(encode(number)).addCallback(_decode)

    def total(self, consistency: Consistency = "linearizable") -> Deferred[int]:
        """Return the sum."""
        return self.cluster.read(encode(0), consistency=consistency).addCallback(
            _decode
        )

    async def add_each(self, *numbers: int) -> list[int]:
        """Add *numbers*, one after the other; return all sums."""
        return [await self.add(number) for number in numbers]

    def greet(self) -> str:
        """Return at once."""
        return self.greeting

    def shares(self) -> list[Share]:
        """Return several objects whose methods are calls."""
        return [Share(self, size) for size in (1, 2)]

    def never(self) -> Deferred[None]:
        """Return a Deferred that nobody fires."""
        self.begun.append("never")
        return Deferred(lambda _: self.ended.append("never"))

    async def sums(self, limit: int = 1 << 30) -> AsyncIterator[int]:
        """Yield *limit* sums, each larger by one."""
        try:
            for _ in range(limit):
                yield await self.add(1)
        finally:
            self.ended.append("sums")

    @asynccontextmanager
    async def lend(self, size: int) -> AsyncIterator[Share]:
        """Add *size* for a while."""
        await self.add(size)
        share = Share(self, size)
        try:
            yield share
        finally:
            await self.add(-share.size)


def start_server(reactor: Any, machine: type | None = None) -> tuple[RaftServer, str]:
    """
    Start a cluster of one server on *reactor*, in its thread.

    Returns:
        The server, and the name of its network.
    """
    network = f"tally {next(_networks)}"
    transport = {"engine": "memory", "options": {"network": network}}
    mapping = {"transport": transport, "members": {"s1": "at s1"}}
    config = from_mapping(mapping, name="s1", state_machine=machine or Tally)
    server = RaftServer(config, "s1", reactor)
    server.startService()
    return server, network
