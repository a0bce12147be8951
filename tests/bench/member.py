"""
One server of the measured cluster: ``python -m tests.bench.member JSON``.

The whole framework runs here as it does for a user who embeds it; the load
calls ``write`` and ``read`` of the server as that user would.
"""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

from twisted.internet.task import deferLater
from twisted.logger import globalLogBeginner, textFileLogObserver

from consensus.clock import default_reactor
from consensus.config import from_mapping
from consensus.core.values import Role
from consensus.errors import RaftError
from consensus.interpreter import tune_interpreter
from consensus.server import RaftServer
from contrib.kvstore import KVStore
from contrib.kvstore.commands import Get, Set
from tests.bench.control import answer_requests
from tests.bench.load import ClosedLoop, OpenLoop
from tests.bench.values import KEYS, key, values

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.defer import Deferred

# How often a survivor looks whether it leads now.
_GLANCE = 0.001


class Member:
    """
    A server, and what the bench asks of it.

    Args:
        name: The server's.
        config: Keys of the config.
        reactor: The reactor.
    """

    def __init__(self, name: str, config: dict[str, Any], reactor: Any) -> None:
        self.reactor = reactor
        self.server = RaftServer(
            from_mapping(config, name=name, state_machine=KVStore), name
        )

    def actions(self) -> dict[str, Callable[..., Any]]:
        """Return what can be asked for."""
        return {
            "start": self.start,
            "status": self.status,
            "puts": self.puts,
            "arrivals": self.arrivals,
            "reads": self.reads,
            "watch": self.watch,
            "snapshot": self.snapshot,
            "puts_beside_snapshot": self.puts_beside_snapshot,
            "catch_up": self.catch_up,
        }

    async def start(self) -> float:
        """Start the server; return when it began to."""
        began = time.monotonic()
        self.server.startService()
        await self.server.when_started()
        return began

    async def status(self) -> dict[str, Any]:
        """Return what the server knows."""
        status = self.server.status()
        return {
            "role": status.role,
            "leader": status.leader,
            "commit": status.commit_index,
            "applied": status.last_applied,
            "first": status.first_index,
        }

    async def puts(self, **shape: Any) -> dict[str, Any]:
        """Write in a closed loop; *shape* is of :meth:`put` and the loop."""
        put = self.put(shape.pop("size", 256), shape.pop("keys", KEYS))
        sample = await ClosedLoop(put, self.reactor, **shape).run()
        return sample.to_json()

    async def arrivals(self, **shape: Any) -> dict[str, Any]:
        """Write whenever a write arrives; *shape* is of the loop."""
        put = self.put(256, KEYS)
        sample = await OpenLoop(put, self.reactor, **shape).run()
        return sample.to_json()

    def put(self, size: int, keys: int) -> Callable[[int], Deferred[Any]]:
        """Return what sets one of *keys* to a value of *size* bytes."""
        write, pool = self.server.write, values(size)
        some = len(pool)
        # To make a million of them beforehand takes longer than a follower waits
        # for its leader.
        names = [key(number) for number in range(keys)] if keys <= KEYS else None

        def put(number: int) -> Deferred[Any]:
            place = number % keys
            name = key(place) if names is None else names[place]
            return write(Set(name, pool[number % some]))

        return put

    async def reads(self, **shape: Any) -> dict[str, Any]:
        """Read, linearizably, in a closed loop of *shape*."""
        read = self.server.read
        queries = [Get(key(number)) for number in range(KEYS)]

        def get(number: int) -> Deferred[Any]:
            return read(queries[number % KEYS])

        sample = await ClosedLoop(get, self.reactor, **shape).run()
        return sample.to_json()

    async def watch(self, dead: str, seconds: float) -> dict[str, float] | None:
        """
        Write as soon as this server leads, unless another does.

        Args:
            dead: Who led and is about to be killed.
            seconds: How long to hope.

        Returns:
            When this server began to lead and when its write was acknowledged,
            by the clock that all processes share; ``None`` if another leads.
        """
        deadline = time.monotonic() + seconds
        led: float | None = None
        while time.monotonic() < deadline:
            status = self.server.status()
            if status.role == Role.LEADER.value:
                led = time.monotonic() if led is None else led
                try:
                    await self.server.write(Set(b"after the failure", b""))
                except RaftError:
                    continue
                return {"led": led, "acknowledged": time.monotonic()}
            if status.leader not in {None, dead}:
                return None
            await deferLater(self.reactor, _GLANCE)
        return None

    async def catch_up(self, index: int) -> float:
        """Wait until the log is applied up to *index*; return the moment."""
        while self.server.status().last_applied < index or not self.server.leader():
            await deferLater(self.reactor, _GLANCE)
        return time.monotonic()

    async def puts_beside_snapshot(self, **shape: Any) -> dict[str, Any]:
        """Write in a closed loop for as long as a snapshot takes."""
        put = self.put(shape.pop("size", 256), shape.pop("keys", KEYS))
        loop = ClosedLoop(put, self.reactor, **shape)
        writing = loop.run()
        await self.snapshot()
        loop.stop()
        return (await writing).to_json()

    async def snapshot(self) -> float:
        """Write a snapshot; return how long that took."""
        began = time.monotonic()
        await self.server.snapshot()
        return time.monotonic() - began


def main() -> None:
    """Be a member until the bench has enough."""
    arguments = json.loads(sys.argv[1])
    # Its log is written, as that of any server is.
    observer: Any = textFileLogObserver(sys.stderr, timeFormat="%H:%M:%S.%f")
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False)
    reactor = default_reactor()
    tune_interpreter()
    member = Member(arguments["name"], arguments["config"], reactor)
    answer_requests(member.actions(), reactor)


if __name__ == "__main__":
    main()
