"""Tests of consensus.declare: what may be declared, and what is said otherwise."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from consensus.declare import (
    DeclarationError,
    Machine,
    as_machine,
    client,
    read,
    tick,
    using,
    write,
)
from consensus.interfaces import StateMachine
from tests.support.bank import Accounts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


async def waits(self: Any) -> None:  # noqa: ARG001 - as a method has it
    """Wait."""
    await asyncio.sleep(0)


def yields(self: Any) -> Iterator[int]:  # noqa: ARG001 - as a method has it
    """Yield."""
    yield 1


def no_self() -> None:
    """Take nothing."""


def many(self: Any, *items: int) -> None:
    """Take many."""


def named(self: Any, **items: int) -> None:
    """Take many by name."""


def by_place(self: Any, item: int, /) -> None:
    """Take one by its place."""


def untyped(self: Any, item) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001 - that is the point
    """Take anything."""


def says_nothing(self: Any, item: int):  # type: ignore[no-untyped-def]  # noqa: ANN201 - likewise
    """Return anything."""


class DecoratorTests:
    """What a decorator refuses, where the class is defined."""

    @pytest.mark.parametrize(
        ("function", "words"),
        [
            (waits, "async or a generator"),
            (yields, "async or a generator"),
            (no_self, r"write def no_self\(self, …\)"),
            (many, r"does not take items by name"),
            (named, r"does not take items by name"),
            (by_place, "does not take item by name"),
            (untyped, "item has no type: write item: int, say"),
            (says_nothing, "write -> int, say, or -> None"),
            (property(dir), "not for a property: write it directly above def"),
            (partial(untyped), "not for a partial"),
            (3, "not for a int"),
        ],
    )
    @pytest.mark.parametrize("declare", [write, read, tick])
    def test_what_cannot_be_declared(
        self, declare: Callable[[Any], Any], function: Any, words: str
    ) -> None:
        """The error says what to write."""
        with pytest.raises(DeclarationError, match=words):
            declare(function)

    @pytest.mark.parametrize("name", ["", "x" * 256, 3])
    def test_a_name_that_is_none(self, name: Any) -> None:
        """A name is text of a sensible length."""

        def put(self: Any) -> None: ...

        with pytest.raises(DeclarationError, match="a name has 1 to 255"):
            write(name=name)(put)
        with pytest.raises(DeclarationError, match="a name has 1 to 255"):
            write(aliases=[name])(put)

    def test_docstrings_stay(self) -> None:
        """A declared method can be looked up."""
        assert vars(Accounts)["deposit"].__doc__ == "Put *amount* on *account*."
        assert Accounts().deposit.__name__ == "deposit"


class ClassTests:
    """What is wrong with a class as a whole."""

    def test_an_object_is_a_plain_one(self) -> None:
        """Its methods can be called, in a unit test as in another method."""
        bank = Accounts()
        assert bank.deposit("ann", 3) == 3
        assert bank.balance_of("ann") == 3

    def test_nothing_is_declared(self) -> None:
        """A class without methods says what to write."""
        with pytest.raises(DeclarationError, match="write @write above those"):
            as_machine(int)

    def test_a_state_machine_is_one(self) -> None:
        """It is taken as it is."""
        machine = as_machine(Accounts)
        assert issubclass(machine, StateMachine)
        assert machine.__name__ == "Accounts"
        assert machine.__module__ == Accounts.__module__

    def test_two_methods_of_one_name(self) -> None:
        """In the log there is one meaning for a name."""

        class Twice:
            @write
            def put(self) -> None: ...

            @write(aliases=["put"])
            def take(self) -> None: ...

        with pytest.raises(DeclarationError, match=r"Twice\.put and .* the name 'put'"):
            as_machine(Twice)

    def test_one_method_of_two_names(self) -> None:
        """It would be unclear what the log is to say."""
        with pytest.raises((DeclarationError, RuntimeError)) as caught:

            class Twice:
                @write
                def put(self) -> None: ...

                store = put

        said = caught.value.__cause__ or caught.value
        assert "Twice.put is also called store" in str(said)

    @pytest.mark.parametrize("name", ["client", "using", "_put"])
    def test_a_name_that_a_client_has(self, name: str) -> None:
        """Such a method is called otherwise, and keeps its name in the log."""

        def put(self: Any) -> None: ...

        method = write(put)
        cls = type("Odd", (), {name: method})
        with pytest.raises(DeclarationError, match=f"name={name!r}"):
            as_machine(cls)

    def test_a_plain_override(self) -> None:
        """Whether it is still declared has to be said."""

        class Mute(Accounts):
            def deposit(self, account: str, amount: int = 1) -> int:
                return amount + len(account)

        with pytest.raises(DeclarationError, match="write @write above it too"):
            as_machine(Mute)

    def test_a_declared_override(self) -> None:
        """It may call what it overrides; ``None`` takes a method away."""

        class Double(Accounts):
            @write
            def deposit(self, account: str, amount: int = 1) -> int:
                return super().deposit(account, 2 * amount)

            transfer = None  # type: ignore[assignment]

        assert Double().deposit("ann", 2) == 4
        machine = as_machine(Double)()
        state = machine.init("s1")
        assert machine.handle_write(Double.deposit.command("ann"), state)[0] == 2
        assert set(machine.schema.methods) == {  # type: ignore[attr-defined]
            "deposit",
            "balance_of",
            "all_accounts",
            "rich",
        }

    def test_two_ticks(self) -> None:
        """One method is told the time."""

        class Clocks:
            @tick
            def one(self, now: int) -> None: ...

            @tick
            def other(self, now: int) -> None: ...

            @read
            def time(self) -> int:
                return 0

        with pytest.raises(DeclarationError, match="one method is told the time"):
            as_machine(Clocks)

    def test_a_name_in_the_log(self) -> None:
        """It may differ from the method's, and aliases stay readable."""

        class Store:
            @write(name="set", aliases=["put"])
            def set_value(self, value: int) -> int:
                return value

        machine = as_machine(Store)()
        data = machine.encode(Store.set_value.command(1))
        assert b"set" in data
        assert b"set_value" not in data
        old = data.replace(b"set", b"put")
        assert machine.handle_write(machine.decode(old), machine.init("s"))[0] == 1
        assert machine.encode(machine.decode(old)) == old

    def test_calls_of_the_class(self) -> None:
        """A method of the class itself is not called."""
        with pytest.raises(TypeError, match=r"there is Accounts\.deposit\.command"):
            Accounts.deposit("ann")
        with pytest.raises(AttributeError):
            Accounts.nothing  # type: ignore[attr-defined]  # noqa: B018 - that is the point
        with pytest.raises(TypeError, match="for what client"):
            Accounts.using(consistency="stale")
        with pytest.raises(TypeError, match="for what client"):
            using(Accounts, consistency="stale")

    def test_a_plain_class_has_a_client(self) -> None:
        """It gets one with its first declared method, unless it has its own."""

        class Plain:
            @read
            def one(self) -> int:
                return 1

        class Own:
            client = 3

            @read
            def one(self) -> int:
                return 1

        assert Plain.client.__func__ is client  # type: ignore[attr-defined]
        assert Own.client == 3
        assert Machine.client.__doc__
