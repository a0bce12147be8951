"""
One server of a PySyncObj cluster: ``python -m tests.bench.pysyncobj_member JSON``.

Everything happens in one thread, which suits it best: a second one would take
turns with it.  Its journal is on, but PySyncObj never syncs it to the disk.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from pysyncobj import FAIL_REASON, SyncObj, SyncObjConf
from pysyncobj.batteries import ReplDict
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater

from tests.bench.control import act, own_output
from tests.bench.load import ClosedLoop, OpenLoop
from tests.bench.values import KEYS, key, values

if TYPE_CHECKING:
    from collections.abc import Callable

_GLANCE = 0.001

# What was found to be fastest.  Compaction is off, since a process would be
# forked for it; larger buffers are a half faster with large batches.
_SETTINGS: dict[str, Any] = {
    "appendEntriesUseBatch": False,
    "appendEntriesPeriod": 0.002,
    "appendEntriesBatchSizeBytes": 1 << 20,
    "sendBufferSize": 1 << 20,
    "recvBufferSize": 1 << 20,
    "logCompactionMinEntries": 1 << 60,
    "logCompactionMinTime": 1 << 60,
}

# Up to so many writes at once, and with values above so many bytes, it is faster
# if each leaves alone, and at once; batches leave every appendEntriesPeriod.
_FEW, _SMALL = 8, 1024


class RefusedByRivalError(Exception):
    """PySyncObj did not do it; the message is its reason."""


class Member:
    """
    A server, and what the bench asks of it.

    Args:
        name: The server's.
        addresses: Of all, by name.
        journal: The file of its log.
    """

    def __init__(
        self,
        name: str,
        addresses: dict[str, str],
        journal: str,
    ) -> None:
        self.name = name
        self.names = {address: each for each, address in addresses.items()}
        self.clock: Any = Clock()
        self.store = ReplDict()
        others = [address for each, address in addresses.items() if each != name]
        self.conf = SyncObjConf(autoTick=False, journalFile=journal, **_SETTINGS)
        self.peer = SyncObj(addresses[name], others, self.conf, consumers=[self.store])

    def run(self) -> None:
        """Serve, and do as the standard input says."""
        lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=_read, args=(lines,), daemon=True).start()
        output = own_output()
        actions: dict[str, Callable[..., Any]] = {
            "start": self.start,
            "status": self.status,
            "puts": self.puts,
            "arrivals": self.arrivals,
            "watch": self.watch,
        }
        last = time.monotonic()
        while True:
            self.peer.doTick(_GLANCE)
            now = time.monotonic()
            self.clock.advance(now - last)
            last = now
            while not lines.empty():
                act(lines.get(), actions, lambda line: os.write(output, line))

    async def start(self) -> float:
        """Return the moment; it runs since the process does."""
        return time.monotonic()

    async def status(self) -> dict[str, Any]:
        """Return what the server knows."""
        status = self.peer.getStatus()
        leader = status["leader"]
        return {
            "leader": None if leader is None else self.names[leader.address],
            "commit": status["commit_idx"],
            "applied": status["last_applied"],
        }

    async def puts(self, **shape: Any) -> dict[str, Any]:
        """Write in a closed loop."""
        size = shape.pop("size", 256)
        put = self.put(size, shape.pop("keys", KEYS))
        self.conf.appendEntriesUseBatch = shape["outstanding"] > _FEW and size <= _SMALL
        sample = await ClosedLoop(put, self.clock, **shape).run()
        return sample.to_json()

    async def arrivals(self, **shape: Any) -> dict[str, Any]:
        """Write whenever a write arrives."""
        self.conf.appendEntriesUseBatch = True
        sample = await OpenLoop(self.put(256, KEYS), self.clock, **shape).run()
        return sample.to_json()

    def put(self, size: int, keys: int) -> Callable[[int], Deferred[Any]]:
        """Return what sets one of *keys* to a value of *size* bytes."""
        pool, names = values(size), [key(number) for number in range(keys)]

        def put(number: int) -> Deferred[Any]:
            return self.set(names[number % keys], pool[number % len(pool)])

        return put

    def set(self, name: bytes, value: bytes) -> Deferred[Any]:
        """Set a key of the replicated dictionary."""
        done: Deferred[Any] = Deferred()

        def called(result: Any, error: int) -> None:
            if error == FAIL_REASON.SUCCESS:
                done.callback(result)
            else:
                done.errback(RefusedByRivalError(f"reason {error}"))

        self.store.set(name, value, callback=called)
        return done

    async def watch(self, dead: str, seconds: float) -> dict[str, float] | None:
        """Write as soon as this server leads; see ``tests.bench.member``."""
        deadline = time.monotonic() + seconds
        led: float | None = None
        while time.monotonic() < deadline:
            leader = (await self.status())["leader"]
            if leader == self.name:
                led = time.monotonic() if led is None else led
                try:
                    await self.set(b"after the failure", b"")
                except RefusedByRivalError:
                    continue
                return {"led": led, "acknowledged": time.monotonic()}
            if leader not in {None, dead}:
                return None
            await deferLater(self.clock, _GLANCE)
        return None


def _read(lines: queue.SimpleQueue[bytes]) -> None:
    for line in sys.stdin.buffer:
        lines.put(line)
    os._exit(0)


def main() -> None:
    """Be a member until the bench has enough."""
    Member(**json.loads(sys.argv[1])).run()


if __name__ == "__main__":
    main()
