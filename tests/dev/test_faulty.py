"""A transport and a storage that suffer what they are told."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from adapters.storage.memory import MemoryStorage
from adapters.transport.memory import MemoryTransport
from consensus.config import from_mapping
from consensus.core.messages import RequestPreVoteResponse
from consensus.core.values import Identity
from consensus.dev.channel import Channel, Conditions, Lines, encode
from consensus.dev.faulty import Weather, suffering
from consensus.dev.wall_clock import WallClock
from consensus.errors import UnreachableError
from consensus.registry import name_of
from tests.support.deferreds import error_of
from tests.support.servers import Register

if TYPE_CHECKING:
    from collections.abc import Callable

    from consensus.core.messages import Message
    from consensus.errors import ProtocolError


class BlockingStorage(MemoryStorage):
    """A storage with a thread of its own."""

    blocking = True


class Ears:
    """An inbox that keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.missed: list[str] = []

    def welcome(self, peer: Identity) -> None:
        """Welcome everybody."""

    def refused(self, peer: str, error: ProtocolError) -> None:
        """Not expected."""
        raise AssertionError(peer) from error

    def gone(self, peer: str) -> None:
        """Keep who is gone."""
        self.missed.append(peer)

    def deliver(self, *messages: Message) -> None:
        """Keep who has sent something."""
        self.heard += [each.sender for each in messages]

    def answer(self, method: str, payload: bytes) -> Any:
        """Not expected."""
        raise AssertionError(method, payload)


def config_of(name: str) -> Any:
    """Return the config of one server of two."""
    return from_mapping(
        {"members": {"a": "a", "b": "b"}, "storage": BlockingStorage},
        name=name,
        state_machine=Register,
    )


class Reactor(Clock):
    """Calls on the next turn of a clock."""

    def callFromThread(self, function: Callable[..., Any], *rest: Any) -> None:
        """Call *function* on the next turn."""
        self.callLater(0, function, *rest)


class CutTests:
    """What passes between two sides, and what does not."""

    def test_both_ways(self) -> None:
        """Nothing passes either way while there is a cut; all does afterwards."""
        clock = Reactor()
        ears, transports, weathers = {}, {}, {}
        for name in ("a", "b"):
            weathers[name] = Weather({"a": "a", "b": "b"})
            config = suffering(config_of(name), weathers[name])
            made = config.transport.cls(config.transport.options, clock, clock)
            assert isinstance(made, MemoryTransport)
            ears[name], transports[name] = Ears(), made
            made.listen(Identity("raft", name, name), name, ears[name])
        transports["a"].connect("b", "b")
        transports["b"].connect("a", "a")
        clock.pump([0.0] * 5)

        def exchange() -> list[list[str]]:
            for name, peer in (("a", "b"), ("b", "a")):
                ears[name].heard.clear()
                transports[name].send(
                    peer, RequestPreVoteResponse(name, 1, granted=True)
                )
            clock.pump([0.0] * 5)
            return [ears["a"].heard, ears["b"].heard]

        assert exchange() == [["b"], ["a"]]
        weathers["a"].set(Conditions(cut=("b",)))
        # One side of a cut is enough to keep both silent.
        assert exchange() == [[], []]
        asked = transports["a"].ask("b", "status", b"", 1.0)
        assert isinstance(error_of(asked), UnreachableError)
        weathers["a"].set(Conditions())
        assert exchange() == [["b"], ["a"]]

    def test_names(self) -> None:
        """The classes are called as those that they stand for."""
        plain = config_of("a")
        faulty = suffering(plain, Weather({}))
        for kind in ("transport", "storage"):
            mine, other = getattr(faulty, kind).cls, getattr(plain, kind).cls
            assert mine is not other
            assert issubclass(mine, other)
            assert name_of(mine) == name_of(other)


class Watched(threading.Condition):
    """A condition that says when somebody waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.is_waited_for = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait, and say so."""
        self.is_waited_for.set()
        return super().wait(timeout)


class SlowTests:
    """A disk that takes its time."""

    def test_a_sync_waits_until_the_disk_is_faster(self) -> None:
        """It does not return while the disk is slow, and does when it is not."""
        weather = Weather({})
        weather._change = condition = Watched()
        weather.set(Conditions(sync_delay=3600.0))
        storage = suffering(config_of("a"), weather).storage
        waiting = threading.Thread(target=storage.cls(storage.options).sync)
        waiting.start()
        assert condition.is_waited_for.wait(timeout=60)
        assert waiting.is_alive()
        weather.set(Conditions(sync_delay=0.0))
        waiting.join(timeout=60)
        assert not waiting.is_alive()

    def test_a_storage_of_the_reactor(self) -> None:
        """One that is called in the reactor's thread is left as it is."""
        config = from_mapping({}, name="a", state_machine=Register)
        assert suffering(config, Weather({})).storage is config.storage


class WallClockTests:
    """A wall clock that is wrong."""

    def test_it_is_off(self) -> None:
        """It is off by its skew, in seconds and nanoseconds alike."""
        clock = WallClock()
        clock.skew = -86_400.0
        assert clock.seconds() < time.time() - 86_000
        assert clock.nanoseconds() < time.time_ns() - 86_000 * 10**9


class ChannelTests:
    """What the two ends tell each other."""

    def test_lines(self) -> None:
        """Pieces become lines; one without an end is cut, and the rest kept."""
        taken: list[bytes] = []
        lines = Lines(taken.append, longest=4)
        for piece in (b"a", b"b\nc", b"\n", b"123456", b"7"):
            lines.feed(piece)
        lines.flush()
        lines.flush()
        assert taken == [b"ab", b"c", b"1234", b"567"]

    def test_orders(self) -> None:
        """An order is heard as it was given, and the end of all is noticed."""
        heard: list[Any] = []
        channel = Channel(heard.append, lambda: heard.append("end"))
        order = Conditions(("s1",), 0.5, -3.0)
        # Twisted's own methods have no types.
        untyped: Any = channel
        untyped.makeConnection(StringTransport())
        untyped.dataReceived(encode(order))
        channel.connectionLost()
        assert heard == [order, "end"]
