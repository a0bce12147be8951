"""
A client of etcd: ``python -m tests.bench.etcd_client JSON``.

It is a process of its own, since etcd cannot be embedded, and calls the leader
over gRPC, on a few connections.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.task import deferLater

from consensus.clock import default_reactor
from tests.bench.control import answer_requests
from tests.bench.grpc import CallError, Connection, headers, message
from tests.bench.load import ClosedLoop, OpenLoop
from tests.bench.values import KEYS, key, values

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.defer import Deferred

# How many connections share the calls.
_CONNECTIONS = 4

_MESSAGES_BYTES = 64 << 20

# A write that is sent to a server without a leader may hang: others are sent.
_GLANCE = 0.01

_PUT = headers("/etcdserverpb.KV/Put")
_RANGE = headers("/etcdserverpb.KV/Range")


class Client:
    """
    What the bench asks for.

    Args:
        reactor: The reactor.
    """

    def __init__(self, reactor: Any) -> None:
        self.reactor = reactor

    def actions(self) -> dict[str, Callable[..., Any]]:
        """Return what can be asked for."""
        return {
            "puts": self.puts,
            "reads": self.reads,
            "arrivals": self.arrivals,
            "watch": self.watch,
        }

    async def connect(self, port: int, count: int = _CONNECTIONS) -> list[Connection]:
        """Return connections to the server at *port*."""
        endpoint = TCP4ClientEndpoint(self.reactor, "127.0.0.1", port)
        return [await connectProtocol(endpoint, Connection()) for _ in range(count)]

    async def puts(self, port: int, **shape: Any) -> dict[str, Any]:
        """Write in a closed loop."""
        put = await self.put(port, shape.pop("size", 256), shape.pop("keys", KEYS))
        return (await ClosedLoop(put, self.reactor, **shape).run()).to_json()

    async def reads(self, port: int, **shape: Any) -> dict[str, Any]:
        """Read, linearizably, in a closed loop."""
        messages = [message(key(number)) for number in range(KEYS)]
        get = await self.caller(port, _RANGE, messages)
        return (await ClosedLoop(get, self.reactor, **shape).run()).to_json()

    async def arrivals(self, port: int, **shape: Any) -> dict[str, Any]:
        """Write whenever a write arrives."""
        put = await self.put(port, 256, KEYS)
        return (await OpenLoop(put, self.reactor, **shape).run()).to_json()

    async def put(
        self, port: int, size: int, keys: int
    ) -> Callable[[int], Deferred[None]]:
        """Return what sets one of *keys* to a value of *size* bytes."""
        pool = values(size)
        # So many that all keys come round, unless they would fill the memory.
        count = max(len(pool), min(keys, _MESSAGES_BYTES // size))
        messages = [
            message(key(number % keys), pool[number % len(pool)])
            for number in range(count)
        ]
        return await self.caller(port, _PUT, messages)

    async def caller(
        self, port: int, compressed: bytes, messages: list[bytes]
    ) -> Callable[[int], Deferred[None]]:
        """Return what sends one of *messages*, which are made beforehand."""
        connections = await self.connect(port)

        def call(number: int) -> Deferred[None]:
            connection = connections[number % len(connections)]
            return connection.call(compressed, messages[number % len(messages)])

        return call

    async def watch(self, ports: list[int], seconds: float) -> dict[str, float] | None:
        """Write to all of *ports* until one answers; return when one did."""
        deadline = time.monotonic() + seconds
        found: list[float] = []
        servers = [(await self.connect(port, 1))[0] for port in ports]
        asked = message(b"after the failure", b"x")

        def answered(_: None) -> None:
            found.append(time.monotonic())

        while not found and time.monotonic() < deadline:
            for server in servers:
                call = server.call(_PUT, asked)
                call.addCallbacks(answered, lambda failure: failure.trap(CallError))
            await deferLater(self.reactor, _GLANCE)
        return {"acknowledged": found[0]} if found else None


def main() -> None:
    """Be a client until the bench has enough."""
    reactor = default_reactor()
    answer_requests(Client(reactor).actions(), reactor)


if __name__ == "__main__":
    main()
