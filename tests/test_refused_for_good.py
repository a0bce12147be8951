"""Clients whose user may not, or is nobody: they are told so, and try no more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from adapters.transport.memory import MemoryOptions, MemoryTransport
from consensus.client import Client
from consensus.errors import AuthenticationError, PermissionDeniedError
from contrib.counter import CounterClient
from contrib.election import Candidate, ElectionClient
from contrib.kvstore import KVClient
from contrib.locks import LocksClient
from contrib.queue import QueueClient
from tests.support.deferreds import error_of, has_fired

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from consensus.errors import RaftError

REFUSALS = [AuthenticationError, PermissionDeniedError]


class Refusing(MemoryTransport):
    """A transport to servers that refuse every call."""

    def __init__(self, clock: Any, error: type[RaftError]) -> None:
        super().__init__(MemoryOptions(), clock, clock)
        self._error = error
        self.count = 0

    def ask(self, *_: Any, **__: Any) -> Deferred[bytes]:
        """Refuse, and count."""
        self.count += 1
        return fail(self._error("no"))


class World:
    """A client of servers that refuse with *error*."""

    def __init__(self, error: type[RaftError]) -> None:
        self.clock = Clock()
        self.transport = Refusing(self.clock, error)
        self.cluster = Client({"s1": "s1"}, self.transport, self.clock, timeout=2.0)

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.pump([0.1] * round(seconds * 10))


@pytest.fixture(params=REFUSALS)
def world(request: Any) -> World:
    """Return a world with each refusal."""
    return World(request.param)


def _of(call: Deferred[Any] | Coroutine[Any, Any, Any]) -> Deferred[Any]:
    return call if isinstance(call, Deferred) else Deferred.fromCoroutine(call)


CALLS: dict[str, Callable[[Client], Any]] = {
    "kvstore set": lambda cluster: KVClient(cluster).set("a", "1"),
    "kvstore get": lambda cluster: KVClient(cluster).get("a"),
    "kvstore watch": lambda cluster: KVClient(cluster).watch("a").__anext__(),
    "counter": lambda cluster: CounterClient(cluster).add("a"),
    "lock": lambda cluster: LocksClient(cluster).mutex("a").acquire(),
    "put": lambda cluster: QueueClient(cluster).put("q", b"x"),
    "receive": lambda cluster: QueueClient(cluster).receive("q"),
    "consume": lambda cluster: QueueClient(cluster).consume("q").get(),
    "campaign": lambda cluster: ElectionClient(cluster).campaign("o"),
    "leader": lambda cluster: ElectionClient(cluster).leader("o"),
    "discover": lambda cluster: ElectionClient(cluster).discover("s"),
}


@pytest.mark.parametrize("name", CALLS)
def test_it_surfaces(world: World, name: str) -> None:
    """Each call fails with what the servers say, in the same moment."""
    done = _of(CALLS[name](world.cluster))
    assert has_fired(done)
    assert type(error_of(done)) in REFUSALS
    before = world.transport.count
    world.run(60.0)
    assert world.transport.count == before


def test_a_candidate(world: World) -> None:
    """It stands no more, and says why."""
    service = Candidate(ElectionClient(world.cluster), "o")
    with capturedLogs() as logged:
        service.startService()
        before = world.transport.count
        world.run(60.0)
    assert world.transport.count == before
    assert any("stands no more" in each["log_format"] for each in logged)
    assert has_fired(service.stopService())
