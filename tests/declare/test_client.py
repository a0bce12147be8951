"""Tests of consensus.declare.client: the same methods, from afar; and their types."""

from __future__ import annotations

import asyncio
import textwrap
from typing import TYPE_CHECKING, Any

import mypy.api
import pytest
from twisted.internet.defer import Deferred, fail, succeed

from adapters.transport.memory import MemoryOptions
from consensus import aio, blocking
from consensus.declare import as_machine, client, using
from consensus.errors import (
    InvalidCommandError,
    NotLeaderError,
    NotYetError,
    ProtocolError,
)
from consensus.reactor_thread import reactor_thread
from tests.support.bank import Accounts, Timer
from tests.support.tally import start_server

if TYPE_CHECKING:
    from pathlib import Path

    from consensus.testing.plugin import MakeCluster


class FakeCluster:
    """A cluster of one machine, here; it notes what it is asked."""

    def __init__(self) -> None:
        self.machine = as_machine(Accounts)()
        self.state = self.machine.init("s1")
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.sessions = 0

    def write(self, command: bytes) -> Deferred[bytes]:
        """Apply *command*."""
        call = self.machine.decode(command)
        self.asked.append((call.name, {}))
        result, self.state = self.machine.handle_write(call, self.state)
        return succeed(self.machine.encode(result))

    def read(self, query: bytes, **options: Any) -> Deferred[bytes]:
        """Answer *query*."""
        call = self.machine.decode(query)
        self.asked.append((call.name, options))
        result, _ = self.machine.handle_read(call, self.state)
        return succeed(self.machine.encode(result))

    def session(self) -> FakeCluster:
        """Return what applies commands once."""
        self.sessions += 1
        return self


def outcome(deferred: Deferred[Any]) -> Any:
    """Return what *deferred* has come to."""
    found: list[Any] = []
    deferred.addBoth(found.append)
    return getattr(found[0], "value", found[0])


class DeferredTests:
    """Calls that give Deferreds."""

    def test_methods(self) -> None:
        """They give the results, of the annotated types."""
        bank = Accounts.client(FakeCluster())
        assert outcome(bank.deposit("ann", 3)) == 3
        assert outcome(bank.deposit(account="ann")) == 4
        assert outcome(bank.balance_of("ann")) == 4
        assert outcome(bank.rich(2)) == {"ann"}

    def test_wrong_arguments(self) -> None:
        """They fail, and nothing is sent."""
        cluster = FakeCluster()
        bank: Any = Accounts.client(cluster)
        for wrong in (bank.deposit(1, "ann"), bank.balance_of(), bank.balance_of(x=1)):
            assert isinstance(outcome(wrong), InvalidCommandError)
        assert cluster.asked == []

    def test_how_to_read(self) -> None:
        """Options are for the reads of that client; they add up."""
        cluster = FakeCluster()
        bank = Accounts.client(cluster)
        stale = bank.using(consistency="stale")
        outcome(stale.using(max_age=2.0).balance_of("ann"))
        outcome(stale.deposit("ann"))
        outcome(using(bank, wait=3).balance_of("ann"))
        outcome(bank.balance_of("ann"))
        assert cluster.asked == [
            ("balance_of", {"consistency": "stale", "max_age": 2.0}),
            ("deposit", {}),
            ("balance_of", {"wait": 3}),
            ("balance_of", {}),
        ]

    def test_sessions(self) -> None:
        """Writes belong to one, unless they are not to."""
        cluster = FakeCluster()
        outcome(Accounts.client(cluster).using().deposit("ann"))
        assert cluster.sessions == 1
        outcome(client(Accounts, cluster, session=False).deposit("ann"))
        assert cluster.sessions == 1

    def test_an_answer_of_another_machine(self) -> None:
        """It is an error of the protocol."""
        cluster = FakeCluster()
        cluster.machine.encode = lambda _: b"\xa1x"  # type: ignore[method-assign, assignment]
        found = outcome(Accounts.client(cluster).balance_of("ann"))
        assert isinstance(found, ProtocolError)

    def test_an_error_of_the_cluster(self) -> None:
        """It is passed on."""
        cluster = FakeCluster()
        cluster.read = lambda _, **__: fail(NotLeaderError())  # type: ignore[method-assign]
        found = outcome(Accounts.client(cluster).balance_of("ann"))
        assert isinstance(found, NotLeaderError)

    def test_what_it_shows(self) -> None:
        """A client says what it is and what it has."""
        bank: Any = Accounts.client(FakeCluster())
        assert {"deposit", "balance_of", "using"} <= set(dir(bank))
        assert repr(bank) == "<a client of Accounts>"
        assert repr(bank.deposit) == "<write Accounts.deposit of a client>"
        assert repr(Accounts.rich) == "<read Accounts.rich>"
        with pytest.raises(AttributeError, match="declares no method 'balance'"):
            _ = bank.balance

    def test_in_a_cluster(self, raft_cluster: MakeCluster) -> None:
        """A real client will do."""
        cluster = raft_cluster(Accounts)
        bank = Accounts.client(cluster.client)
        assert cluster.result(bank.deposit("ann", 3)) == 3
        stale = bank.using(consistency="stale", max_age=5.0)
        assert cluster.result(stale.balance_of("ann")) == 3

    def test_log_time_and_waiting(self, raft_cluster: MakeCluster) -> None:
        """A read waits until the time has come, which the log says."""
        cluster = raft_cluster(Timer)
        timer = Timer.client(cluster.client)
        cluster.result(timer.start("tea", 1.5))
        assert cluster.result(timer.running()) == ["tea"]
        begun = cluster.now
        assert cluster.result(timer.using(wait=10.0).ended("tea")) >= 1500
        assert cluster.now - begun >= 1.0
        cluster.result(timer.start("egg", 60))
        with pytest.raises(NotYetError):
            cluster.result(timer.ended("egg"))


class BlockingTests:
    """The same client where calls block."""

    def test_a_blocking_client(self) -> None:
        """Its methods return their results, also of a client with other options."""
        thread = reactor_thread()
        server, network = thread.at_once(
            lambda: start_server(thread.reactor, machine=Accounts)
        )
        options = MemoryOptions(network=network)
        with blocking.connect(["at s1"], engine="memory", options=options) as cluster:
            bank = cluster.use(Accounts.client)
            assert bank.deposit("ann", 3) == 3
            stale = bank.using(consistency="stale")
            assert stale.balance_of("ann") == 3
            wrong: Any = bank
            with pytest.raises(InvalidCommandError):
                wrong.deposit(1)
        thread.submit(server.stopService).result(30.0)


class AsyncioTests:
    """The client's face for asyncio."""

    def test_methods(self) -> None:
        """They are awaited, also those of a client with other options."""
        thread = reactor_thread()
        server, network = thread.at_once(
            lambda: start_server(thread.reactor, machine=Accounts)
        )
        options = MemoryOptions(network=network)

        async def work() -> None:
            async with aio.connect(
                ["at s1"], engine="memory", options=options
            ) as cluster:
                bank: Any = cluster.use(Accounts.client)
                assert await bank.deposit("ann", 3) == 3
                stale = await bank.using(consistency="stale")
                assert await stale.balance_of("ann") == 3
                with pytest.raises(InvalidCommandError):
                    await bank.deposit(1)

        asyncio.run(work())
        thread.submit(server.stopService).result(30.0)


HEAD = """
from twisted.internet.defer import Deferred
from consensus.client import Client
from consensus.blocking import BlockingClient
from consensus.declare import Machine, client, read, using, write

class Accounts(Machine):
    balance: dict[str, int]

    def __init__(self) -> None:
        self.balance = {}

    @write
    def deposit(self, account: str, amount: int = 1) -> int:
        return self.balance_of(account) + amount

    @read(name="balance")
    def balance_of(self, account: str) -> int:
        return self.balance[account]

class Plain:
    @write
    def deposit(self, account: str, amount: int) -> int:
        return amount

"""

GOOD = """
def good(cluster: Client) -> None:
    bank = Accounts.client(cluster)
    one: Deferred[int] = bank.deposit("ann", amount=3)
    two: Deferred[int] = bank.using(consistency="stale").balance_of("ann")
    three: Deferred[int] = client(Plain, cluster, session=False).deposit("ann", 1)
    four: Deferred[int] = using(bank, wait=3.0).balance_of(account="ann")
    Accounts.deposit.command("ann")
    Accounts.balance_of.query("ann")
    five: int = Accounts().deposit("ann")

def blocking_too(cluster: BlockingClient) -> None:
    six: int = cluster.use(Accounts.client).deposit("ann", amount=3)
    bank = cluster.use(Accounts.client, session=False)
    seven: int = bank.using(consistency="stale").balance_of("ann")
"""

BAD = """
def bad(cluster: Client) -> None:
    bank = Accounts.client(cluster)
    bank.deposit(1, "ann")
    bank.deposit()
    bank.depose("ann")
    bank.balance_of("ann", 1)
    text: Deferred[str] = bank.deposit("ann")
    Accounts.deposit.command(1)
    Accounts.deposit.query("ann")
    Accounts().deposit(1)
    bank.using(consistency="stale").deposit(amount="x")
    bank.using(consistence="stale")
"""

PLAIN = """
from consensus import declare

class Named:
    @declare.write(name="put")
    def store(self, key: str) -> bool:
        return True

def plain(cluster: Client) -> None:
    one: Deferred[int] = Plain.client(cluster).deposit("ann", 1)
    two: Deferred[bool] = Named.client(cluster, session=False).store("ann")
    Plain.client(cluster).deposit(1, "ann")
    Named.client(cluster).using(consistency="stale").store(1)
    three: int = Plain().deposit("ann", 1)
"""


class TypeTests:
    """What mypy sees."""

    def check(self, text: str, directory: Path, *, plugin: bool = False) -> str:
        """Return what mypy says of *text*."""
        path = directory / "bank.py"
        path.write_text(HEAD + textwrap.dedent(text))
        config = directory / "mypy.ini"
        config.write_text("[mypy]\nstrict = True\n")
        if plugin:
            config.write_text(
                "[mypy]\nstrict = True\nplugins = consensus.mypy_plugin\n"
            )
        cache = f"--cache-dir={directory / 'cache'}"
        out, err, _ = mypy.api.run([f"--config-file={config}", cache, str(path)])
        return out + err

    def test_types(self, tmp_path: Path) -> None:
        """Calls that are right pass, and each that is wrong is found."""
        said = self.check(GOOD + BAD, tmp_path)
        first = (HEAD + GOOD).count("\n") + 4
        assert lines_of(said) == set(range(first, first + 10)), said

    def test_a_class_without_the_base(self, tmp_path: Path) -> None:
        """With the plugin it has a client like the others, at every run."""
        for _ in range(2):
            said = self.check(PLAIN, tmp_path, plugin=True)
            first = HEAD.count("\n") + 12
            assert lines_of(said) == {first, first + 1}, said


def lines_of(said: str) -> set[int]:
    """Return the lines in which mypy found an error."""
    return {int(line.split(":")[1]) for line in said.splitlines() if ": error:" in line}
