"""One client in three worlds, against three processes whose leader is killed."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from twisted.internet.defer import succeed

from consensus import aio, blocking
from consensus.errors import ConfigError
from tests.support.processes import PATIENCE, MemberProcesses
from tests.support.tally import TallyClient

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]

THREADS = 8
INCREMENTS = 1000
KILLS = 2

CHILDREN = 3
EACH = 20

#: What the module of an application has, which its workers inherit.
application: dict[str, Any] = {}


def task(number: int) -> int:
    """Do what a worker is asked for."""
    done: int = application["tally"].add(number)
    return done


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MemberProcesses]:
    """Return three processes that count."""
    cluster = MemberProcesses(
        tmp_path_factory.mktemp("cluster"),
        python_path=str(ROOT),
        state_machine="tests.support.tally.Tally",
    )
    with cluster:
        yield cluster


@pytest.fixture
def tally(processes: MemberProcesses) -> Iterator[Any]:
    """Return the client of an application, whose calls wait."""
    with blocking.connect(processes.addresses, timeout=30.0) as cluster:
        yield cluster.use(TallyClient)


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the text of a *program*, whose warnings are errors."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


class ThreadTests:
    """Many threads and one client."""

    def test_a_leader_that_is_killed(
        self, processes: MemberProcesses, tally: Any
    ) -> None:
        """No increment is lost and none is doubled."""
        before = tally.total()
        done = threading.Semaphore(0)

        def add_many(_: int) -> list[int]:
            sums = []
            for _ in range(INCREMENTS):
                sums.append(tally.add(1))
                done.release()
            return sums

        with ThreadPoolExecutor(THREADS) as pool:
            adding = [pool.submit(add_many, each) for each in range(THREADS)]
            for _ in range(KILLS):
                for _ in range(THREADS * INCREMENTS // (KILLS + 1)):
                    assert done.acquire(timeout=PATIENCE)
                leader = tally.cluster.leader
                processes.kill(leader)
                processes.start(leader)
            sums = [each for some in adding for each in some.result(PATIENCE)]
        count = THREADS * INCREMENTS
        assert sorted(sums) == list(range(before + 1, before + count + 1))
        assert tally.total() == before + count


class ForkTests:
    """Processes that are forked from one that has a client."""

    @pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
    def test_workers(self, tally: Any) -> None:
        """Each has its own connections and its own session, as the parent has."""
        before = tally.add(1)
        context = multiprocessing.get_context("fork")
        results: Any = context.Queue()

        def work() -> None:
            results.put([tally.add(1) for _ in range(EACH)])

        workers = [context.Process(target=work) for _ in range(CHILDREN)]
        for worker in workers:
            worker.start()
        sums = [tally.add(1) for _ in range(EACH)]
        for _ in workers:
            sums += results.get(timeout=PATIENCE)
        for worker in workers:
            worker.join(PATIENCE)
            assert worker.exitcode == 0
        count = (CHILDREN + 1) * EACH
        assert sorted(sums) == list(range(before + 1, before + count + 1))
        assert tally.add(1) == before + count + 1

    @pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
    def test_a_pool(self, tally: Any) -> None:
        """A client that was made and not used before the fork does as well."""
        application["tally"] = tally
        with multiprocessing.get_context("fork").Pool(2) as pool:
            sums = pool.map(task, [1] * EACH)
            # Not by a signal: a reactor of another test may have taken them over.
            pool.close()
            pool.join()
        assert sorted(sums) == list(range(min(sums), min(sums) + EACH))

    @pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
    def test_what_a_call_gave(self, tally: Any) -> None:
        """It belongs to the process that made the call, and says so."""
        context = multiprocessing.get_context("fork")
        results: Any = context.Queue()

        def work(share: Any) -> None:
            try:
                share.enlarge(1)
            except RuntimeError as error:
                results.put(str(error))

        with tally.lend(5) as share:
            worker = context.Process(target=work, args=(share,))
            worker.start()
            assert "belongs to the process" in results.get(timeout=PATIENCE)
            worker.join(PATIENCE)
            assert share.enlarge(1) > 0


class DiscoveryTests:
    """Members that the client was not told of."""

    def test_the_one_that_was_told_is_killed(self, processes: MemberProcesses) -> None:
        """The client goes on with those that it has found."""
        told = processes.addresses["s1"]
        with blocking.connect([told], timeout=30.0) as cluster:
            tally: Any = cluster.use(TallyClient)
            before = tally.add(1)
            wait_for_members(cluster)
            processes.kill("s1")
            try:
                assert tally.add(1) == before + 1
                assert cluster.status("s2").server == "s2"
            finally:
                processes.start("s1")


class ConfigTests:
    """The file that the servers have."""

    def test_a_blocking_client(self, processes: MemberProcesses) -> None:
        """It knows the addresses and the transport."""
        with blocking.from_config(processes.config, timeout=30.0) as cluster:
            assert cluster.use(TallyClient).add(1) > 0

    def test_one_for_asyncio(self, processes: MemberProcesses) -> None:
        async def work() -> None:
            async with aio.from_config(processes.config, timeout=30.0) as cluster:
                assert await cluster.use(TallyClient).add(1) > 0

        asyncio.run(work())

    def test_a_wrong_file(self, tmp_path: Path) -> None:
        """It is found out before anything begins."""
        path = tmp_path / "config.yaml"
        path.write_text("membres: {}\n")
        for module in (aio, blocking):
            with pytest.raises(ConfigError):
                module.from_config(path)


def wait_for_members(cluster: blocking.BlockingClient) -> None:
    """Wait until *cluster* knows of three servers."""
    for _ in range(1000):
        targets: Any = cluster.call(lambda client: succeed(client._targets))
        if len(targets.addresses()) == 3:
            return
        cluster.pause(0.01)
    raise AssertionError("no member was found")


class AsyncioTests:
    """A loop of asyncio."""

    async def add_many(self, addresses: dict[str, str]) -> None:
        """Add in many tasks at once, and watch."""
        async with (
            asyncio.timeout(PATIENCE),
            aio.connect(addresses, timeout=30.0) as cluster,
        ):
            tally = cluster.use(TallyClient)
            before = await tally.total()
            sums = await asyncio.gather(*(tally.add(1) for _ in range(100)))
            assert sorted(sums) == list(range(before + 1, before + 101))
            assert await tally.total("stale") == before + 100
            async with tally.lend(5) as share:
                assert await share.enlarge(1) == before + 106

    def test_a_thread_of_its_own(self, processes: MemberProcesses) -> None:
        asyncio.run(self.add_many(processes.addresses))

    def test_the_asyncio_reactor(self, processes: MemberProcesses) -> None:
        """Everything is in one loop, and no other thread has a reactor."""
        done = run(IN_ONE_LOOP, *processes.addresses.values())
        assert done.stdout == "done\n", done.stderr
        assert done.stderr == ""


IN_ONE_LOOP = """
import asyncio, sys, threading
from twisted.internet import asyncioreactor
asyncioreactor.install()
from twisted.internet import reactor
from tests.cluster.test_worlds import AsyncioTests
from consensus import aio
from tests.support.tally import TallyClient

async def main():
    try:
        await AsyncioTests().add_many(sys.argv[1:])
        async with aio.connect(sys.argv[1:]) as cluster:
            tally = cluster.use(TallyClient)
            task = asyncio.ensure_future(tally.never())
            await tally.total()
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                assert tally.ended == ["never"]
            async for each in tally.sums(2):
                assert await tally.total() == each
        assert "raft-client" not in [each.name for each in threading.enumerate()]
        print("done")
    finally:
        reactor.stop()

reactor.callWhenRunning(lambda: setattr(reactor, "main", asyncio.ensure_future(main())))
reactor.run()
reactor.main.result()
"""

UNCLOSED = """
import sys
from consensus import blocking
from tests.support.tally import TallyClient
cluster = blocking.connect([sys.argv[1].replace("127.0.0.1", "localhost")])
tally = cluster.use(TallyClient)
tally.add(1)
print("done")
"""

WAITING = """
import sys
from consensus import blocking
cluster = blocking.connect([sys.argv[1]], timeout=1000.0)
cluster.call(lambda client: print("waiting", flush=True))
cluster.read(b"")
"""

TWISTED = """
import sys
from twisted.internet.task import deferLater, react
from twisted.internet.threads import deferToThread
from consensus import blocking
from tests.support.tally import TallyClient
cluster = blocking.connect(sys.argv[1:])
tally = cluster.use(TallyClient)

async def main(reactor):
    await deferLater(reactor, 0)  # it runs from here on
    try:
        tally.add(1)
    except RuntimeError as error:
        print(error)
    before = await deferToThread(tally.add, 1)
    assert await deferToThread(tally.total) == before

react(main)
"""


class ProgramTests:
    """Programs that end, one way or another."""

    def test_an_exit_without_a_close(self, processes: MemberProcesses) -> None:
        """Nothing holds it up, and nothing is said about it."""
        done = run(UNCLOSED, processes.addresses["s2"])
        assert (done.stdout, done.stderr, done.returncode) == ("done\n", "", 0)

    def test_an_interrupt(self) -> None:
        """Ctrl-C ends a program that waits for an answer."""
        with socket.create_server(("127.0.0.1", 0)) as silent:
            port = silent.getsockname()[1]
            program = [sys.executable, "-c", WAITING, f"tcp:127.0.0.1:{port}"]
            process = subprocess.Popen(
                program, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            assert process.stdout is not None
            assert process.stdout.readline() == b"waiting\n"
            with silent.accept()[0]:
                os.kill(process.pid, signal.SIGINT)
                _, errors = process.communicate(timeout=PATIENCE)
        assert errors.decode().endswith("\nKeyboardInterrupt\n")

    def test_a_program_with_a_reactor(self, processes: MemberProcesses) -> None:
        """Blocking calls are for its other threads, and refused in its own."""
        done = run(TWISTED, *processes.addresses.values())
        assert "a blocking call would stop the reactor" in done.stdout, done.stderr
        assert done.returncode == 0
