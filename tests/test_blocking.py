"""Tests of consensus.blocking, with a real reactor thread and a server in it."""

from __future__ import annotations

import gc
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from twisted.internet.defer import Deferred, fail

from adapters.transport.memory import MemoryOptions
from consensus import blocking
from consensus.errors import CommandFailedError, TimedOutError, UnreachableError
from consensus.reactor_thread import reactor_thread
from consensus.worlds import bare
from tests.support.tally import Share, TallyClient, encode, start_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from consensus.blocking import BlockingClient
    from consensus.client import Client

PATIENCE = 30.0


@pytest.fixture
def cluster() -> Iterator[BlockingClient]:
    """Return a client of a server that counts."""
    thread = reactor_thread()
    server, network = thread.at_once(lambda: start_server(thread.reactor))
    options = MemoryOptions(network=network)
    with blocking.connect(["at s1"], engine="memory", options=options) as made:
        yield made
    thread.submit(server.stopService).result(PATIENCE)


@pytest.fixture
def tally(cluster: BlockingClient) -> Any:
    """Return an application's client."""
    return cluster.use(TallyClient)


def settle() -> None:
    """Wait until the reactor has done what it was asked for."""
    for _ in range(3):
        reactor_thread().submit(lambda: None).result(PATIENCE)


class ClientTests:
    """The client's own calls."""

    def test_write_and_read(self, cluster: BlockingClient) -> None:
        """They return what the Deferreds give."""
        assert cluster.write(encode(2)) == encode(2)
        assert cluster.read(encode(0)) == encode(2)
        result, index = cluster.write(encode(3), with_index=True)
        assert result == encode(5)
        assert cluster.read(encode(0), consistency="stale", at_index=index) == result
        assert cluster.write_many([encode(1)] * 2) == [encode(6), encode(7)]
        assert cluster.leader == "s1"
        assert cluster.status("s1").leader == "s1"
        assert cluster.status_at("at s1").server == "s1"
        assert cluster.ask_leader("read", encode(0)) == encode(7)
        assert cluster.ask_server("at s1", "read", encode(0)) == encode(7)
        cluster.pause(0.001)

    def test_a_session(self, cluster: BlockingClient) -> None:
        """One of its own, beside the client's."""
        session: Any = cluster.session(ttl=5)
        assert session.write(encode(2)) == encode(2)
        assert session.close() is None

    def test_errors(self, cluster: BlockingClient) -> None:
        """What a Deferred fails with is raised."""
        with pytest.raises(CommandFailedError, match="TypeError"):
            cluster.write(encode("x"))

    def test_a_call_of_ones_own(self, cluster: BlockingClient) -> None:
        """A function gets the client, in the reactor's thread."""

        async def twice(client: Client, number: int) -> bytes:
            await client.write(encode(number))
            return await client.write(encode(number))

        assert cluster.call(lambda client: client.write(encode(1))) == encode(1)
        done: Any = cluster.call(twice, 2)  # type: ignore[arg-type]
        assert done == encode(5)

    def test_closed(self, cluster: BlockingClient) -> None:
        """Nothing works any more, and closing again does no harm."""
        cluster.write(encode(2))
        cluster.close()
        cluster.close()
        with pytest.raises(UnreachableError, match="is closed"):
            cluster.write(encode(2))

    def test_closed_before_use(self) -> None:
        """Nothing is begun then."""
        cluster = blocking.connect(["tcp:127.0.0.1:1"])
        cluster.close()
        with pytest.raises(UnreachableError, match="is closed"):
            cluster.read(b"")


class FaceTests:
    """An application's client."""

    def test_deferreds_and_coroutines(self, tally: Any) -> None:
        """Their results are returned."""
        assert tally.add(2) == 2
        assert tally.total() == 2
        assert tally.add_each(1, 1) == [3, 4]

    def test_what_needs_no_waiting(self, cluster: BlockingClient) -> None:
        """Values and plain methods are there as well."""
        tally: Any = cluster.use(TallyClient, greeting="moin")
        assert tally.greet() == tally.greeting == "moin"
        assert "add" in dir(tally)
        assert "TallyClient" in repr(tally)
        assert tally.add.__doc__ == TallyClient.add.__doc__
        with pytest.raises(AttributeError):
            _ = tally.nothing
        with pytest.raises(AttributeError):
            _ = tally._private

    def test_iterators(self, tally: Any) -> None:
        """A for loop goes through them."""
        assert list(tally.sums(3)) == [1, 2, 3]
        assert tally.ended == ["sums"]

    def test_a_loop_that_is_left(self, tally: Any) -> None:
        """The iterator ends then."""
        for number in tally.sums():
            if number == 2:
                break
        gc.collect()
        settle()
        assert tally.ended == ["sums"]

    def test_an_iterator_that_is_closed(self, tally: Any) -> None:
        sums = tally.sums()
        assert next(sums) == 1
        sums.close()
        assert tally.ended == ["sums"]
        assert list(sums) == []

    def test_context_managers(self, tally: Any) -> None:
        """What they give has a face of its own."""
        with tally.lend(5) as share:
            assert tally.total() == 5
            assert share.enlarge(2) == 7
            assert share.size == 7
        assert tally.total() == 0

    def test_an_error_in_a_block(self, tally: Any) -> None:
        """It comes out, and the context manager has done its part."""
        with pytest.raises(ZeroDivisionError), tally.lend(5):
            raise ZeroDivisionError
        assert tally.total() == 0

    def test_lists_of_objects(self, tally: Any) -> None:
        one, two = tally.shares()
        assert one.enlarge(1) == 1
        assert two.enlarge(2) == 3

    def test_a_face_as_an_argument(self, cluster: BlockingClient, tally: Any) -> None:
        """The application gets what is behind it."""
        tally.add(1)

        def lent(client: Client, owner: Any) -> Share:
            del client
            assert isinstance(owner, TallyClient)
            return Share(owner, 3)

        assert cluster.use(lent, bare(tally)).enlarge(1) == 2


def passed(value: Any) -> Any:
    """Return *value*."""
    return value


class EndingTests:
    """Calls that end before they are done."""

    def test_a_timeout(self, tally: Any) -> None:
        """The call is cancelled; the block's calls before it are not."""
        with blocking.timeout(PATIENCE):
            assert tally.add(1) == 1
        with blocking.timeout(0.01), pytest.raises(TimedOutError, match="the block"):
            tally.never()
        settle()
        # On a busy machine it was not even begun.
        assert tally.ended == tally.begun
        assert tally.add(1) == 2

    def test_the_shorter_timeout_holds(self, tally: Any) -> None:
        with (
            blocking.timeout(0.01),
            blocking.timeout(PATIENCE),
            pytest.raises(TimedOutError),
        ):
            tally.never()
        settle()
        assert tally.ended == tally.begun

    def test_an_interrupt(self, cluster: BlockingClient, tally: Any) -> None:
        """Ctrl-C cancels the call that the main thread waits for."""

        def interrupted(client: Client) -> Any:
            del client
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            return bare(tally).never()

        # A reactor that another test ran may have taken the signal over.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with pytest.raises(KeyboardInterrupt):
                cluster.call(interrupted)
        finally:
            signal.signal(signal.SIGINT, before)
        settle()
        assert tally.ended == ["never"]
        assert tally.add(1) == 1

    def test_cancelled_while_it_begins(self) -> None:
        """It is cancelled before anything that was asked for since is done."""
        begun, cancelled = threading.Event(), threading.Event()
        ended: list[str] = []

        def begin() -> Deferred[None]:
            begun.set()
            assert cancelled.wait(PATIENCE)
            return Deferred(lambda _: ended.append("cancelled"))

        future = reactor_thread().submit(begin)
        assert begun.wait(PATIENCE)
        future.cancel()
        settled = reactor_thread().submit(lambda: list(ended))
        cancelled.set()
        assert settled.result(PATIENCE) == ["cancelled"]

    def test_a_call_in_the_reactors_thread(self, tally: Any) -> None:
        """It would wait for itself, so it is refused."""
        tally.add(1)
        with pytest.raises(RuntimeError, match=r"use consensus\.client\.Client here"):
            reactor_thread().submit(lambda: tally.add(1)).result(PATIENCE)


class ThreadTests:
    """One client, many threads."""

    def test_nothing_is_lost_or_doubled(self, tally: Any) -> None:
        def add_many(_: int) -> list[int]:
            return [tally.add(1) for _ in range(50)]

        with ThreadPoolExecutor(8) as pool:
            sums = [each for some in pool.map(add_many, range(8)) for each in some]
        assert sorted(sums) == list(range(1, 401))

    def test_one_client_for_all(self, cluster: BlockingClient) -> None:
        """Threads that make the first call at once share what it makes."""
        made = []

        def application(client: Client) -> TallyClient:
            made.append(client)
            return TallyClient(client)

        tally: Any = cluster.use(application)
        with ThreadPoolExecutor(8) as pool:
            assert sorted(pool.map(tally.add, [1] * 8)) == list(range(1, 9))
        assert len(made) == 1


class ReactorThreadTests:
    """The thread itself."""

    def test_it_is_no_hindrance(self) -> None:
        """It does not keep a process from exiting."""
        reactor_thread()
        (found,) = [
            each for each in threading.enumerate() if each.name == "raft-client"
        ]
        assert found.daemon
        assert reactor_thread() is reactor_thread()

    def test_work_that_nobody_waits_for_any_more(self) -> None:
        """What was cancelled before it began does not begin."""
        thread = reactor_thread()
        begun: list[int] = []

        def cancelled() -> None:
            future = thread.submit(lambda: begun.append(1))
            assert future.cancel()

        thread.submit(cancelled).result(PATIENCE)
        settle()
        assert begun == []

    def test_late_results(self) -> None:
        """A result that nobody waits for is dropped, an error too."""
        thread = reactor_thread()
        lates: list[Deferred[None]] = [
            Deferred(lambda each: each.callback(None)),
            Deferred(lambda each: each.errback(ValueError())),
        ]
        for late in lates:
            future = thread.submit(partial(passed, late))
            settle()
            future.cancel()
            settle()
            assert late.called

    def test_errors(self) -> None:
        thread = reactor_thread()
        with pytest.raises(LookupError):
            thread.submit(lambda: fail(LookupError("no"))).result(PATIENCE)
