"""Redis' clients at all servers of a cluster whose network fails: one machine."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from consensus.interfaces import StateMachine
from consensus.testing.history import History
from consensus.testing.linearizability import assert_linearizable
from consensus.testing.operations import Read, Write
from tests.support.redis import PortClient, Ports, from_line

if TYPE_CHECKING:
    from consensus.testing.operations import Operation

KEYS = ("a", "b")

SECONDS = 8


class Model(StateMachine):
    """What clients believe to talk to; its results are replies."""

    def init(self, name: str) -> dict[str, int]:
        """Return no numbers."""
        del name
        return {}

    def handle_write(self, command: Any, state: Any) -> tuple[Any, Any]:
        """Set or add."""
        kind, key, number = command
        state[key] = number if kind == "set" else state.get(key, 0) + number
        return "+OK" if kind == "set" else f":{state[key]}", state

    def handle_read(self, query: Any, state: Any) -> tuple[Any, Any]:
        """Return a number."""
        return f"'{state[query]}'" if query in state else "nil", state


class Worker:
    """
    A client that does one thing after another.

    Args:
        client: Its connection.
        history: Where that is noted.
        random: Its dice.
    """

    def __init__(self, client: PortClient, history: History, random: Random) -> None:
        self.client = client
        self.history = history
        self.random = random
        self.name = (
            f"{client.protocol._port.home.name}/{client.protocol.session.number}"
        )
        self.waiting: list[Operation] = []

    def act(self, *, is_over: bool) -> None:
        """Take what came back; ask for more if nothing is under way."""
        for reply in self.client.heard():
            self._end(self.waiting.pop(0), reply)
        if not (is_over or self.waiting) and self.random.random() < 0.3:
            for _ in range(self.random.choice((1, 1, 3))):
                self._begin()

    def _begin(self) -> None:
        key, number = self.random.choice(KEYS), self.random.randrange(100)
        match self.random.randrange(4):
            case 0:
                line, call = f"SET {key} {number}", Write(["set", key, number])
            case 1:
                line, call = f"INCR {key}", Write(["add", key, 1])
            case 2:
                line, call = f"INCRBY {key} {number}", Write(["add", key, number])
            case _:
                self._send(f"GET {key}", Read(key))
                return
        self._send(line, call)

    def _send(self, line: str, call: Write | Read) -> None:
        self.waiting.append(self.history.invoke(self.name, call))
        self.client.send(from_line(line))

    def _end(self, operation: Operation, reply: str) -> None:
        if reply.startswith("-TRYAGAIN"):
            operation.failed()
        elif reply.startswith("-OUTCOMEUNKNOWN"):
            (operation.unknown if operation.is_write else operation.failed)()
        else:
            assert not reply.startswith("-"), reply
            operation.returned(reply)


def _disturb(ports: Ports, random: Random) -> None:
    """Cut something, or heal all."""
    network, names = ports.servers.network, list(ports.servers.names)
    network.heal()
    match random.randrange(4):
        case 0:
            network.down(random.choice(names))
        case 1:
            network.cut(*random.sample(names, 2))
        case 2:
            leader = ports.servers.servers["s1"].leader()
            if leader is not None:
                network.down(leader)


def _history(seed: int, reads: str) -> History:
    """Return what clients of all servers did and were told, under faults."""
    random = Random(seed)  # noqa: S311 - reproducible, not secret
    ports = Ports(("s1", "s2", "s3"), resp_reads=reads)
    ports.servers.run(0.2)
    reactor = ports.servers.reactor
    history = History(Model, reactor.seconds)
    workers = [
        Worker(ports.client(name), history, random)
        for name in ports.servers.names
        for _ in range(2)
    ]
    end = reactor.seconds() + SECONDS
    next_fault = reactor.seconds() + 0.5
    while reactor.seconds() < end or any(worker.waiting for worker in workers):
        for worker in workers:
            worker.act(is_over=reactor.seconds() >= end)
        if next_fault < reactor.seconds() < end:
            next_fault = reactor.seconds() + random.uniform(0.3, 1.5)
            _disturb(ports, random)
        elif reactor.seconds() >= end:
            ports.servers.network.heal()
        ports.servers.run(random.choice((0.001, 0.02, 0.05)))
    return history


@pytest.mark.parametrize("reads", ["linearizable", "follower"])
@pytest.mark.parametrize("seed", range(3))
def test_linearizable(seed: int, reads: str) -> None:
    """Whichever server they talk to, whoever leads, whatever is lost."""
    history = _history(seed, reads)
    ended = [operation.outcome for operation in history.operations]
    assert ended.count("returned") > 60
    assert ended.count("returned") < len(ended)
    assert_linearizable(history, Model, partition=_key)


def test_stale_reads_are_not() -> None:
    """The judge would notice."""
    with pytest.raises(AssertionError, match="not linearizable"):
        assert_linearizable(_history(0, "stale"), Model, partition=_key)


def _key(call: Any) -> str:
    return str(call if isinstance(call, str) else call[1])
