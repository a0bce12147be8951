"""Tests of consensus.aio, with the reactor in a thread and a server in it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import pytest

from adapters.transport.memory import MemoryOptions
from consensus import aio
from consensus.errors import CommandFailedError, UnreachableError
from consensus.reactor_thread import reactor_thread
from tests.support.tally import TallyClient, encode, start_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from consensus.aio import AsyncioClient

PATIENCE = 30.0

#: Runs a coroutine function with a client.
Run = Callable[[Callable[["AsyncioClient"], Coroutine[Any, Any, None]]], None]


@pytest.fixture
def run() -> Iterator[Run]:
    """Return what runs a coroutine function with a client of a server."""
    thread = reactor_thread()
    server, network = thread.at_once(lambda: start_server(thread.reactor))
    options = MemoryOptions(network=network)

    async def connected(
        work: Callable[[AsyncioClient], Coroutine[Any, Any, None]],
    ) -> None:
        async with (
            asyncio.timeout(PATIENCE),
            aio.connect(["at s1"], engine="memory", options=options) as cluster,
        ):
            await work(cluster)

    yield lambda work: asyncio.run(connected(work))
    thread.submit(server.stopService).result(PATIENCE)


async def settle() -> None:
    """Wait until the reactor has done what it was asked for."""
    for _ in range(3):
        await asyncio.wrap_future(reactor_thread().submit(lambda: None))


class ClientTests:
    """The client's own calls."""

    def test_write_and_read(self, run: Run) -> None:
        """They return what the Deferreds give."""

        async def work(cluster: AsyncioClient) -> None:
            assert await cluster.write(encode(2)) == encode(2)
            assert await cluster.read(encode(0)) == encode(2)
            result, index = await cluster.write(encode(3), with_index=True)
            assert result == encode(5)
            read = cluster.read(encode(0), consistency="stale", at_index=index)
            assert await read == result
            assert await cluster.write_many([encode(1)]) == [encode(6)]
            assert cluster.leader == "s1"
            assert (await cluster.status("s1")).leader == "s1"
            assert (await cluster.status_at("at s1")).server == "s1"
            assert await cluster.ask_leader("read", encode(0)) == encode(6)
            assert await cluster.ask_server("at s1", "read", encode(0)) == encode(6)
            await cluster.pause(0.001)

        run(work)

    def test_a_session(self, run: Run) -> None:
        async def work(cluster: AsyncioClient) -> None:
            session: Any = cluster.session(ttl=5)
            assert await session.write(encode(2)) == encode(2)
            assert await session.close() is None

        run(work)

    def test_errors(self, run: Run) -> None:
        async def work(cluster: AsyncioClient) -> None:
            with pytest.raises(CommandFailedError, match="TypeError"):
                await cluster.write(encode("x"))

        run(work)

    def test_closed(self, run: Run) -> None:
        """Nothing works any more."""

        async def work(cluster: AsyncioClient) -> None:
            await cluster.write(encode(2))
            await cluster.close()
            with pytest.raises(UnreachableError, match="is closed"):
                await cluster.write(encode(2))

        run(work)

    def test_another_loop(self) -> None:
        """A client outlives the loop that it was used in."""
        thread = reactor_thread()
        server, network = thread.at_once(lambda: start_server(thread.reactor))
        options = MemoryOptions(network=network)
        cluster = aio.connect(["at s1"], engine="memory", options=options)
        for number in (1, 2):
            assert asyncio.run(cluster.write(encode(1))) == encode(number)
        asyncio.run(cluster.close())
        thread.submit(server.stopService).result(PATIENCE)


class FaceTests:
    """An application's client."""

    def test_deferreds_and_coroutines(self, run: Run) -> None:
        """They are awaited, and tasks can be made of them."""

        async def work(cluster: AsyncioClient) -> None:
            tally = cluster.use(TallyClient)
            assert await tally.add(2) == 2
            assert await tally.add_each(1, 1) == [3, 4]
            async with asyncio.TaskGroup() as group:
                total = group.create_task(tally.total())
            assert total.result() == 4
            assert list(await asyncio.gather(tally.total(), tally.total())) == [4, 4]

        run(work)

    def test_what_needs_no_waiting(self, run: Run) -> None:
        """Every method is awaited; a value is not."""

        async def work(cluster: AsyncioClient) -> None:
            tally = cluster.use(TallyClient, greeting="moin")
            assert await tally.greet() == tally.greeting == "moin"
            assert "add" in dir(tally)

        run(work)

    def test_iterators(self, run: Run) -> None:
        async def work(cluster: AsyncioClient) -> None:
            tally = cluster.use(TallyClient)
            assert [each async for each in tally.sums(3)] == [1, 2, 3]
            assert tally.ended == ["sums"]
            sums = await tally.sums(2)
            assert await anext(sums) == 4
            await sums.aclose()
            assert tally.ended == ["sums"] * 2

        run(work)

    def test_a_loop_that_is_left(self, run: Run) -> None:
        """The iterator ends then."""

        async def work(cluster: AsyncioClient) -> None:
            tally = cluster.use(TallyClient)
            async for number in tally.sums():
                if number == 2:
                    break
            gc.collect()
            for _ in range(3):
                await settle()
            assert tally.ended == ["sums"]

        run(work)

    def test_context_managers(self, run: Run) -> None:
        """What they give has a face of its own."""

        async def work(cluster: AsyncioClient) -> None:
            tally = cluster.use(TallyClient)
            async with tally.lend(5) as share:
                assert await tally.total() == 5
                assert await share.enlarge(2) == 7
            assert await tally.total() == 0
            with pytest.raises(ZeroDivisionError):
                async with tally.lend(5):
                    raise ZeroDivisionError
            assert await tally.total() == 0

        run(work)

    def test_lists_of_objects(self, run: Run) -> None:
        async def work(cluster: AsyncioClient) -> None:
            one, two = await cluster.use(TallyClient).shares()
            assert [await one.enlarge(1), await two.enlarge(2)] == [1, 3]

        run(work)

    def test_a_forgotten_await(self, run: Run) -> None:
        """It is said, as nothing was done."""

        async def work(cluster: AsyncioClient) -> None:
            tally = cluster.use(TallyClient)
            with pytest.warns(RuntimeWarning, match="'add' was never awaited"):
                tally.add(1)
            assert await tally.total() == 0
            tally.add(1).close()
            assert await tally.total() == 0

        run(work)


class EndingTests:
    """Calls that end before they are done."""

    def test_a_cancelled_task(self, run: Run) -> None:
        """The call is cancelled."""

        async def work(cluster: AsyncioClient) -> None:
            tally = cluster.use(TallyClient)
            task = asyncio.ensure_future(tally.never())
            await asyncio.sleep(0)
            await settle()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await settle()
            assert tally.ended == ["never"]
            assert await tally.add(1) == 1

        run(work)

    def test_a_timeout(self, run: Run) -> None:
        async def work(cluster: AsyncioClient) -> None:
            tally = cluster.use(TallyClient)
            await tally.total()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await tally.never()
            await settle()
            # On a busy machine it was not even begun.
            assert tally.ended == tally.begun

        run(work)

    def test_a_loop_that_is_cancelled(self, run: Run) -> None:
        """The iterator ends then."""

        async def work(cluster: AsyncioClient) -> None:
            tally = cluster.use(TallyClient)

            async def go_on() -> None:
                async for _ in tally.sums():
                    pass

            task = asyncio.ensure_future(go_on())
            while await tally.total() < 3:
                pass
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await settle()
            assert tally.ended == ["sums"]

        run(work)

    def test_a_call_in_the_reactors_thread(self, run: Run) -> None:
        """It would wait for itself, so it is refused."""

        async def work(cluster: AsyncioClient) -> None:
            await cluster.write(encode(1))
            writing = cluster.write(encode(1))

            def begin() -> None:
                asyncio.run(writing)

            with pytest.raises(RuntimeError, match=r"use consensus\.client\.Client"):
                await asyncio.wrap_future(reactor_thread().submit(begin))

        run(work)
