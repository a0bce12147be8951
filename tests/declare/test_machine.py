"""Tests of consensus.declare.machine: old logs, the suite, clusters, the judge."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
import pytest
from hypothesis import strategies as st

from consensus.applying.applier import Applier
from consensus.core.values import Entry, EntryKind
from consensus.declare import DeclarationError, Machine, as_machine, read, write
from consensus.errors import (
    CommandFailedError,
    InvalidCommandError,
    StorageError,
    UnknownCommandError,
)
from consensus.interfaces import LATER, Tick
from consensus.testing.history import History, Read, Write
from consensus.testing.linearizability import assert_linearizable, judge
from consensus.testing.machine import StateMachineSuite
from tests.support.bank import Accounts, Timer, account_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from consensus.declare import Call
    from consensus.testing.plugin import MakeCluster

accounts = st.sampled_from(["ann", "bob", "Zoë"])
amounts = st.integers(-3, 9)


class TestAccounts(StateMachineSuite):
    """The conformance suite takes a declared class as it takes any machine."""

    machine = Accounts
    commands = st.one_of(
        st.builds(Accounts.deposit.command, accounts, amounts),
        st.builds(Accounts.deposit.command, accounts),
        st.builds(Accounts.transfer.command, accounts, accounts, amounts),
    )
    queries = st.one_of(
        st.builds(Accounts.balance_of.query, accounts),
        st.builds(Accounts.rich.query, amounts),
        st.builds(Accounts.all_accounts.query),
    )


class TestTimer(StateMachineSuite):
    """And one that is told the time."""

    machine = Timer
    commands: ClassVar[Sequence[Call]] = [Timer.start.command("tea", 3.5)]
    queries: ClassVar[Sequence[Call]] = [Timer.running.query()]


class First:
    """A class as it was when the log began."""

    def __init__(self) -> None:
        self.balance: dict[str, int] = {}
        self.closed: list[str] = []

    @write
    def deposit(self, account: str, amount: int = 1) -> int:
        """Put something on an account."""
        self.balance[account] = self.balance.get(account, 0) + amount
        return self.balance[account]

    @write
    def close(self, account: str) -> None:
        """Close an account."""
        self.closed.append(account)

    @write
    def withdraw(self, account: str, amount: int, reason: str = "") -> int:
        """Take something from an account."""
        del reason
        return self.deposit(account, -amount)

    @read
    def balance_of(self, account: str) -> int:
        """Return what is on an account."""
        return self.balance.get(account, 0)


class Second:
    """
    The same after some years.

    ``close`` is gone, ``withdraw`` is called ``take`` and has lost its reason,
    parameters and methods stand in another order, and ``deposit`` has another
    default and one parameter more.
    """

    def __init__(self) -> None:
        self.balance: dict[str, int] = {}

    @read
    def balance_of(self, account: str) -> int:
        """Return what is on an account."""
        return self.balance.get(account, 0)

    @write(aliases=["withdraw"])
    def take(self, amount: int, account: str) -> int:
        """Take something from an account."""
        return self.deposit(5, account, -amount)

    @write
    def open(self, account: str) -> None:
        """Open an account."""
        self.balance[account] = 0

    @write
    def deposit(self, factor: int = 5, account: str = "?", amount: int = 100) -> int:
        """Put something on an account, *factor* being a fifth."""
        self.balance[account] = self.balance.get(account, 0) + amount * factor // 5
        return self.balance[account]


def log_of(machine: type, commands: Sequence[Call]) -> list[Entry]:
    """Return a log with *commands*, as *machine* encoded them."""
    encode = as_machine(machine)().encode
    return [
        Entry(index, 1, EntryKind.COMMAND, encode(each))
        for index, each in enumerate(commands, 1)
    ]


def replayed(machine: type, entries: Sequence[Entry]) -> tuple[Any, list[Any]]:
    """Return the state and the results of a server that applies *entries*."""
    results: list[Any] = []
    applier = Applier(as_machine(machine)(), "s1")
    applier.apply(entries, lambda _, found: results.extend(found))
    return applier.state, [getattr(each, "value", each) for each in results]


class OldLogTests:
    """What is in a log means the same when the class has changed."""

    def test_methods_and_parameters_may_move(self) -> None:
        """A changed class makes the same of what it still knows."""
        log = log_of(
            First,
            [
                First.deposit.command("ann", 7),
                First.deposit.command("ann"),
                First.withdraw.command("ann", 2),
                First.withdraw.command(amount=1, account="ann"),
            ],
        )
        assert replayed(First, log)[1] == [7, 8, 6, 5]
        assert replayed(Second, log)[1] == [7, 8, 6, 5]

    def test_a_method_that_is_gone(self) -> None:
        """Its commands fail, on every server alike, and the service goes on."""
        log = log_of(
            First, [First.close.command("ann"), First.deposit.command("ann", 2)]
        )
        for _ in range(2):
            state, (failed, result) = replayed(Second, log)
            assert isinstance(failed, CommandFailedError)
            assert failed.kind == "UnknownCommandError"
            assert failed.detail == "Second has no method 'close'"
            assert result == 2
            assert state.balance == {"ann": 2}

    def test_an_argument_that_is_gone(self) -> None:
        """A command that used it fails, for it meant something else."""
        log = log_of(First, [First.withdraw.command("ann", 2, "rent")])
        state, (failed,) = replayed(Second, log)
        assert failed.kind == "InvalidCommandError"
        assert "unknown field `reason`" in failed.detail
        assert state.balance == {}

    def test_the_bytes(self) -> None:
        """They are those of the first release: names, and no places."""
        machine = as_machine(First)()
        assert machine.encode(First.deposit.command("ann")) == (
            b"\x01\x93\xa7deposit\x81\xa7account\xa3ann\x81\xa6amount\x01"
        )
        assert machine.encode(First.deposit.command("ann", 1)) == (
            b"\x01\x92\xa7deposit\x82\xa7account\xa3ann\xa6amount\x01"
        )

    def test_a_gone_method_is_refused_before_the_log(self) -> None:
        """Whoever still calls it hears that it is not known."""
        data = as_machine(First)().encode(First.close.command("ann"))
        with pytest.raises(UnknownCommandError, match="has no method 'close'"):
            as_machine(Second)().decode(data)


class RolledMachine(Machine):
    """The second version of :class:`First`."""

    version = 2
    former: ClassVar[dict[int, type]] = {1: First}

    def __init__(self) -> None:
        self.cents: dict[str, int] = {}

    @classmethod
    def upgrade(cls, old: First, version: int) -> RolledMachine:
        """Return what *old* was, in cents."""
        assert version == 1
        new = cls()
        new.cents = {name: 100 * each for name, each in old.balance.items()}
        return new

    @write
    def deposit(self, account: str, amount: float = 1) -> int:
        """Put something on an account."""
        self.cents[account] = self.cents.get(account, 0) + round(100 * amount)
        return self.cents[account]


class VersionTests:
    """A class may be the next version of another."""

    def test_the_former_class_applies_until_then(self) -> None:
        """Commands mean what they meant until the cluster has agreed."""
        machine = as_machine(RolledMachine)()
        old = machine.for_version(1)
        state = old.init("s1")
        _, state = old.handle_write(First.deposit.command("ann", 3), state)
        assert isinstance(state, First)
        state = machine.upgrade(state, 1)
        command = RolledMachine.deposit.command("ann", 0.5)
        assert machine.handle_write(command, state)[0] == 350

    def test_by_default_attributes_are_kept(self) -> None:
        """A class without ``upgrade`` has those of the former."""

        class Next(First):
            version = 2
            former: ClassVar[dict[int, type]] = {1: First}

        old = First()
        old.deposit("ann", 3)
        new = as_machine(Next)().upgrade(old, 1)
        assert type(new) is Next
        assert new.balance == {"ann": 3}

    def test_an_unknown_version(self) -> None:
        """A server that lacks the release stops."""
        with pytest.raises(StorageError, match="install the release"):
            as_machine(RolledMachine)().for_version(3)


class DeclaredMachineTests:
    """What the framework sees."""

    def test_a_read_is_no_write(self) -> None:
        """Each is refused where the other belongs, before the log and behind it."""
        machine = as_machine(Accounts)()
        state = machine.init("s1")
        query = Accounts.balance_of.query("ann")
        for refused in (machine.validate, lambda q: machine.handle_write(q, state)):
            with pytest.raises(InvalidCommandError, match="is a read method: read it"):
                refused(query)
        with pytest.raises(InvalidCommandError, match="is a write method: write it"):
            machine.handle_read(Accounts.deposit.command("ann"), state)
        with pytest.raises(InvalidCommandError, match=r"write Accounts\.<method>"):
            machine.handle_read("ann", state)

    def test_an_atomic_write_that_raises(self) -> None:
        """It leaves nothing behind, though it had begun to change things."""
        machine = as_machine(Accounts)()
        state = machine.init("s1")
        with pytest.raises(ValueError, match="not so much"):
            machine.handle_write(Accounts.transfer.command("ann", "bob", 1), state)
        assert state.balance == {}

    def test_a_read_that_waits(self) -> None:
        """NotYetError is an answer to come; the annotation is that of the result."""
        machine = as_machine(Accounts)()
        state = machine.init("s1")
        query = Accounts.rich.query(5)
        assert machine.handle_read(query, state)[0] is LATER
        machine.handle_write(Accounts.deposit.command("ann", 5), state)
        assert machine.handle_read(query, state)[0] == {"ann"}

    def test_the_time(self) -> None:
        """A Tick calls the method with @tick; the class says when the next is due."""
        machine = as_machine(Timer)()
        assert machine.timed
        assert not as_machine(Accounts).timed
        state = machine.init("s1")
        assert machine.next_time(state) is None
        machine.handle_write(Tick(1000), state)
        machine.handle_write(Timer.start.command("tea", 3), state)
        assert machine.next_time(state) == 4000
        machine.handle_write(Tick(4000), state)
        assert machine.handle_read(Timer.running.query(), state)[0] == []

    def test_a_server_of_another_process_gets_the_class(self) -> None:
        """It is pickled as what its user wrote."""
        machine = as_machine(Accounts)
        again = pickle.loads(pickle.dumps(machine))  # noqa: S301 - our own
        assert again is machine
        assert as_machine(machine) is machine

    def test_options(self) -> None:
        """An ``Options`` of the class is what it is made with, and in no snapshot."""

        @dataclass(frozen=True)
        class Rates:
            rate: int = 2

        class Savings(Machine):
            Options = Rates

            def __init__(self, options: Rates) -> None:
                self.options = options
                self.total = 0

            @write
            def save(self, amount: int) -> int:
                self.total += amount * self.options.rate
                return self.total

        machine = as_machine(Savings)(Rates(3))
        result, state = machine.handle_write(
            Savings.save.command(2), machine.init("s1")
        )
        data = b"".join(machine.snapshot(state).chunks())
        assert result == 6
        again = as_machine(Savings)(Rates(5)).restore([data], 1)
        assert (again.total, again.options.rate) == (6, 5)

    def test_what_cannot_be_made(self) -> None:
        """A class that cannot be made or written down is refused at once."""

        class Needy:
            def __init__(self, name: str) -> None:
                self.name = name

            @read
            def who(self) -> str:
                return self.name

        with pytest.raises(DeclarationError, match="__init__ gets nothing and raised"):
            as_machine(Needy)

    def test_a_time_that_nobody_is_told(self) -> None:
        """``next_time`` alone would never be asked."""

        class Deaf(First):
            def next_time(self) -> int | None:
                return 1

        with pytest.raises(DeclarationError, match=r"write @tick above def on_time"):
            as_machine(Deaf)

    def test_a_dataclass(self) -> None:
        """Its fields are the attributes."""

        @dataclass
        class Counter:
            counts: dict[str, int] = field(default_factory=dict)
            total: int = 0

            @write
            def count(self, what: str) -> int:
                self.counts[what] = self.counts.get(what, 0) + 1
                self.total += 1
                return self.total

        machine = as_machine(Counter)()
        state = machine.init("s1")
        machine.handle_write(Counter.count.command("x"), state)
        data = b"".join(machine.snapshot(state).chunks())
        assert machine.restore([data], 1) == Counter({"x": 1}, 1)

    def test_a_state_that_all_would_share(self) -> None:
        """An attribute of the class is in no snapshot, and the same everywhere."""

        class Shared:
            balance: dict[str, int] = {}  # noqa: RUF012 - that is the mistake

            @read
            def count(self) -> int:
                return len(self.balance)

        class Fine(Shared):
            RATES = {"a": 1}  # noqa: RUF012 - a table that nobody changes
            table: ClassVar[list[int]] = []

            def __init__(self) -> None:
                self.balance = {}

        with pytest.raises(DeclarationError, match=r"self\.balance = … in __init__"):
            as_machine(Shared)
        assert as_machine(Fine)

    @pytest.mark.parametrize("version", [0, "2", True])
    def test_a_version_that_is_none(self, version: object) -> None:
        """A version is a number from 1 on."""
        cls = type("Odd", (First,), {"version": version})
        with pytest.raises(DeclarationError, match="a number from 1 on"):
            as_machine(cls)


class HistoryTests:
    """The judge takes a declared class as the model."""

    def test_a_sale(self) -> None:
        """What one machine could have answered is linearizable; the rest is not."""
        history = History(Accounts)
        history.invoke("a", Write(Accounts.deposit.command("ann", 3))).returned(3)
        history.invoke("a", Write(Accounts.deposit.command("ann", -3))).returned(
            CommandFailedError("ValueError", "a deposit is not negative")
        )
        history.invoke("b", Read(Accounts.balance_of.query("ann"))).returned(3)
        assert_linearizable(history, Accounts, partition=account_of)
        history.invoke("b", Read(Accounts.balance_of.query("ann"))).returned(2)
        assert not judge(history, Accounts, partition=account_of).is_linearizable


class ClusterTests:
    """A simulated cluster takes a declared class."""

    @pytest.mark.raft_seeds(5)
    def test_accounts_survive(self, raft_cluster: MakeCluster) -> None:
        """What was deposited is there when a leader is lost and others restored."""
        cluster = raft_cluster(Accounts, config={"snapshots": {"every_entries": 5}})
        for _ in range(7):
            cluster.write(Accounts.deposit.command("ann", 2))
        with pytest.raises(CommandFailedError, match="not negative"):
            cluster.write(Accounts.deposit.command("ann", -1))
        old = cluster.leader().name
        cluster.crash(old)
        cluster.write(Accounts.deposit.command("Zoë"))
        cluster.restart(old)
        assert cluster.read(Accounts.balance_of.query("ann")) == 14
        cluster.check()


class StrangerTests:
    """Bytes of a stranger."""

    def test_deep_nesting(self) -> None:
        """What is nested too deep for a decoder is refused."""

        class Loose:
            @write
            def put(self, value: Any) -> None:
                """Take anything."""

        machine = as_machine(Loose)()
        body = b"\x01\x92\xa3put\x81\xa5value" + b"\x91" * 100_000 + b"\x00"
        for data in (body, b"\x01\x92\xa3put\x81\xa5value\x81\x80\x00"):
            with pytest.raises(InvalidCommandError):
                machine.decode(data)
        data = b"\x01" + msgspec.msgpack.encode(["put", {"value": {1: (2, 3)}}])
        assert machine.decode(data).arguments == {"value": {1: [2, 3]}}
