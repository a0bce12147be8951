"""Random cuts, restarts and transfers: no read breaks what it promises."""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from consensus.errors import RaftError
from consensus.interfaces import StateMachine
from tests.support import storages
from tests.support.servers import Servers
from tests.support.storages import LastingStorage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from twisted.python.failure import Failure

    from adapters.transport.memory import MemoryNetwork
    from consensus.server import RaftServer

_LINEARIZABLE = ("linearizable", "lease", "follower")


class Counter(StateMachine):
    """Counts the writes: what is read never decreases."""

    def init(self, name: str) -> int:
        """Begin with none."""
        del name
        return 0

    def handle_write(self, command: Any, state: int) -> tuple[int, int]:
        """Count one more."""
        del command
        return state + 1, state + 1

    def handle_read(self, query: Any, state: int) -> tuple[int, int]:
        """Return how many there were."""
        del query
        return state, state


class Callers:
    """
    Writes and reads at all servers, and sees that every answer may be.

    Args:
        servers: Whom to ask.
        dice: For all choices.
    """

    def __init__(self, servers: Servers, dice: random.Random) -> None:
        self.servers = servers
        self.dice = dice
        #: The most that anybody has been told, with linearizability.
        self.seen = 0
        #: The same, at each log index that a write was answered with.
        self.written = {0: 0}
        self.answered = dict.fromkeys((*_LINEARIZABLE, "stale", "write"), 0)

    def write(self, server: RaftServer) -> None:
        """Count one more."""

        def done(outcome: tuple[int, int]) -> None:
            count, index = outcome
            self.written[index] = count
            self.seen = max(self.seen, count)
            self.answered["write"] += 1

        server.write(1, with_index=True).addCallbacks(done, self._failed)

    def read(self, server: RaftServer, consistency: Any) -> None:
        """Read what any earlier answer allows."""
        least = self.seen

        def done(count: int) -> None:
            assert count >= least, (consistency, count, least)
            self.seen = max(self.seen, count)
            self.answered[consistency] += 1

        reading = server.read(None, consistency=consistency)
        reading.addCallback(done).addErrback(self._failed)

    def read_own_write(self, server: RaftServer) -> None:
        """Read what was written at an index, anywhere."""
        index = self.dice.choice(sorted(self.written)[-5:])

        def done(count: int) -> None:
            assert count >= self.written[index], (count, index)
            self.answered["stale"] += 1

        reading = server.read(None, consistency="stale", at_index=index)
        reading.addCallback(done).addErrback(self._failed)

    def _failed(self, failure: Failure) -> None:
        if failure.check(RaftError) is None:
            self.broken = failure

    broken: Failure | None = None

    def step(self) -> None:
        """Let somebody ask for something."""
        server = self.dice.choice(sorted(self.servers.servers.items()))[1]
        ask: list[Callable[[], None]] = [
            lambda: self.write(server),
            lambda: self.read_own_write(server),
            *(partial(self.read, server, each) for each in _LINEARIZABLE),
        ]
        self.dice.choice(ask)()
        if self.broken is not None:
            self.broken.raiseException()


def _disturb(servers: Servers, network: MemoryNetwork, dice: random.Random) -> None:
    """Cut, mend, restart or hand over."""
    name, other = dice.sample(servers.names, 2)
    match dice.randrange(7):
        case 0:
            network.down(name)
        case 1:
            network.cut(name, other)
        case 2 | 3 | 4:
            network.heal()
        case 5:
            waiting = servers.servers[name].transfer()
            waiting.addErrback(lambda failure: failure.trap(RaftError))
        case 6:
            network.down(name)  # so that it hands over to nobody
            servers.result(servers.servers[name].stopService())
            servers.start(name)
            network.up(name)


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    storages.reset()
    yield
    storages.reset()


@pytest.mark.parametrize("seed", range(12))
def test_no_schedule_breaks_a_promise(seed: int, tmp_path: Path) -> None:
    """Reads at every server, of every consistency, while everything goes wrong."""
    dice = random.Random(seed)  # noqa: S311 - reproducible, not secret
    config = {
        "storage": {"engine": LastingStorage},
        "reads": {"lease": True},
        "forward": bool(seed % 2),
        "timing": {"request_timeout": 1.0},
    }
    servers = Servers(config=config, data_dir=tmp_path, machine=Counter)
    servers.random.seed(seed)
    network = servers.network
    callers = Callers(servers, dice)
    for _ in range(1500):
        callers.step()
        if dice.random() < 0.01:
            _disturb(servers, network, dice)
        servers.run(dice.choice([0.0, 0.001, 0.001, 0.004]))
    network.heal()
    servers.run(2)
    assert min(callers.answered.values()) > 0, callers.answered
