"""Tests of consensus.declare.calls: arguments as bytes, checked at both ends."""

from __future__ import annotations

import datetime as dt
import enum
import inspect
import uuid  # noqa: TC003 - annotations are looked at
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.declare import Call, DeclarationError, as_machine, read, write
from consensus.declare.calls import Signature
from consensus.errors import InvalidCommandError, ProtocolError, UnknownCommandError
from consensus.interfaces import Later  # noqa: TC001 - annotations are looked at

if TYPE_CHECKING:
    from collections.abc import Callable


class Colour(enum.Enum):
    """A colour."""

    RED = "red"
    BLUE = "blue"


@dataclass
class Point:
    """A place."""

    x: int
    y: int = 0


class Price(msgspec.Struct, frozen=True):
    """What something costs."""

    amount: Decimal
    currency: Literal["EUR", "USD"] = "EUR"


class Everything:
    """A method for each kind of type that is stored."""

    @write
    def put(
        self,
        numbers: list[int],
        prices: dict[str, Price],
        at: dt.datetime,
        *,
        key: tuple[int, str] = (1, "a"),
        names: frozenset[str] = frozenset(),
        point: Point | None = None,
        colour: Colour = Colour.RED,
        id: uuid.UUID | None = None,  # noqa: A002 - a user's word
        ratio: float = 1.0,
        blob: bytes = b"",
        table: dict[tuple[int, int], str] | None = None,
    ) -> None:
        """Take it all."""

    @read
    def nothing(self) -> None:
        """Return nothing."""

    @read
    def late(self, number: int) -> int | Later:
        """Return something, some time."""
        return number


machine = as_machine(Everything)()

moments = st.datetimes(timezones=st.just(dt.UTC))
prices = st.builds(
    Price,
    st.decimals(allow_nan=False, allow_infinity=False, places=2),
    st.sampled_from(["EUR", "USD"]),
)
small = st.integers(-(2**63), 2**64 - 1)
arguments = st.fixed_dictionaries(
    {
        "numbers": st.lists(small, max_size=4),
        "prices": st.dictionaries(st.text(max_size=4), prices, max_size=3),
        "at": moments,
    },
    optional={
        "key": st.tuples(small, st.text(max_size=4)),
        "names": st.frozensets(st.text(max_size=4), max_size=3),
        "point": st.none() | st.builds(Point, small, small),
        "colour": st.sampled_from(Colour),
        "id": st.none() | st.uuids(),
        "ratio": st.floats(allow_nan=False),
        "blob": st.binary(max_size=8),
        "table": st.none()
        | st.dictionaries(st.tuples(small, small), st.text(max_size=4), max_size=3),
    },
)


class CallTests:
    """A call and its bytes."""

    @given(arguments)
    def test_what_is_given_arrives(self, given_: dict[str, Any]) -> None:
        """Every argument comes back equal and of its type, and the bytes are stable."""
        command = Everything.put.command(**given_)
        data = machine.encode(command)
        again = machine.decode(data)
        assert isinstance(again, Call)
        assert again.given == given_
        assert {name: type(each) for name, each in again.given.items()} == {
            name: type(each) for name, each in given_.items()
        }
        assert again == command
        assert machine.encode(again) == data
        assert again.arguments.keys() >= {"numbers", "colour", "ratio", "table"}

    @given(st.binary(max_size=60) | st.binary(max_size=60).map(b"\x01\x92".__add__))
    def test_hostile_bytes(self, data: bytes) -> None:
        """Bytes that are no command raise InvalidCommandError and nothing else."""
        try:
            command = machine.decode(data)
        except InvalidCommandError:
            return
        assert machine.decode(machine.encode(command)) == command

    @given(arguments, st.data())
    def test_damaged_bytes(self, given_: dict[str, Any], draw: st.DataObject) -> None:
        """So do a command's that were cut, or changed in one place."""
        data = bytearray(machine.encode(Everything.put.command(**given_)))
        place = draw.draw(st.integers(0, len(data) - 1))
        if draw.draw(st.booleans()):
            data[place] ^= draw.draw(st.integers(1, 255))
        else:
            del data[place:]
        try:
            command = machine.decode(bytes(data))
        except InvalidCommandError:
            return
        assert isinstance(command, Call)

    @given(st.recursive(st.none() | st.integers(-9, 9) | st.text(max_size=3), st.lists))
    def test_hostile_arguments(self, value: Any) -> None:
        """Arguments are what is annotated, or the call is refused."""
        body = ["late", {"number": value}]
        data = b"\x01" + msgspec.msgpack.encode(body)
        if type(value) is int:
            assert machine.decode(data).arguments == {"number": value}
            return
        with pytest.raises(InvalidCommandError, match="Expected `int`"):
            machine.decode(data)

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            (b"", "begins with"),
            (b"\x02\x92", "knows version 1"),
            (b"\x01", "no command of a declared machine"),
            (b"\x01\x90", "no command of a declared machine"),
            (b"\x01\x91\xa4late", "no command of a declared machine"),
            (b"\x01\x92\x04\x80", "no command of a declared machine"),
            (b"\x01\x92\xa4late\x80", "the argument 'number' is missing"),
            (b"\x01\x92\xa4late\x90", "Expected `object`"),
            (b"\x01\x92\xa4late\x81\xa6number\xc3", "Expected `int`, got `bool`"),
            (b"\x01\x92\xa4late\x82\xa6number\x01\xa1x\x01", "unknown field `x`"),
            (b"\x01\x93\xa4late\x81\xa6number\x01\x90", "Expected `object`"),
            (b"\x01\x94\xa4late\x81\xa6number\x01\x80\x80", "no command"),
            (b"\x01\x92\xa4late\x81\xa6number\x01\x00", "trailing"),
            (b"\x01\x92\xa4late\x81\xa6number\xa1\xff", "Expected `int`"),
        ],
    )
    def test_what_is_wrong_is_said(self, body: bytes, words: str) -> None:
        """The error names the method and the argument, where there are any."""
        with pytest.raises(InvalidCommandError, match=words):
            machine.decode(body)

    def test_an_unknown_name(self) -> None:
        """It has an error of its own, and a long one is cut."""
        with pytest.raises(UnknownCommandError, match="no method 'gone'"):
            machine.decode(b"\x01\x92\xa4gone\x80")
        name = "x" * 10_000
        data = b"\x01" + msgspec.msgpack.encode([name, {}])
        with pytest.raises(UnknownCommandError) as caught:
            machine.decode(data)
        assert len(str(caught.value)) < 120

    def test_a_default_that_is_no_more_is_dropped(self) -> None:
        """Only what the caller gave has to be known."""
        data = b"\x01" + msgspec.msgpack.encode(
            ["late", {"number": 1}, {"gone": 2, "number": 7}]
        )
        assert machine.decode(data).arguments == {"number": 1}

    def test_a_call_shows_its_arguments(self) -> None:
        """As it would be written."""
        assert repr(Everything.late.query(number=3)) == "late(number=3)"

    def test_a_result(self) -> None:
        """It comes back as annotated; anything else is no answer of this machine."""
        signature = Signature(Everything.late._method.function, "late", {})
        assert signature.result(msgspec.msgpack.encode(3)) == 3
        for data in (b"", b"\xa1x", b"\xc1", b"\x01\x01"):
            with pytest.raises(ProtocolError, match="not what its annotation says"):
                signature.result(data)


#: Parameters of a made-up method, with a default for some.
parameters = st.dictionaries(
    st.sampled_from("abcdef"), st.none() | st.integers(0, 9), max_size=5
)


def class_with(parameters: dict[str, int | None]) -> Any:
    """Return a class with a method of these integers; ``None`` is no default."""

    def put(self: Any, **arguments: int) -> dict[str, int]:
        del self
        return arguments

    kinds = inspect.Parameter
    function: Any = put
    function.__signature__ = inspect.Signature(
        [
            kinds("self", kinds.POSITIONAL_OR_KEYWORD),
            *(
                kinds(
                    name,
                    kinds.KEYWORD_ONLY,
                    default=kinds.empty if default is None else default,
                    annotation=int,
                )
                for name, default in parameters.items()
            ),
        ]
    )
    function.__annotations__ = dict.fromkeys(parameters, int) | {"return": dict}
    return type("MadeUp", (), {"put": write(function)})


class ChangedClassTests:
    """What a command of an old class means to a new one."""

    @given(parameters, parameters, st.data())
    def test_a_command_is_kept_or_fails(
        self,
        before: dict[str, int | None],
        after: dict[str, int | None],
        draw: st.DataObject,
    ) -> None:
        """It fails exactly if what was given is unknown, or what is needed missing."""
        wanted = {name for name, default in before.items() if default is None}
        more = sorted(before.keys() - wanted)
        given_ = dict.fromkeys((*wanted, *draw.draw(_some(more))), 77)
        old, new = class_with(before), class_with(after)
        data = as_machine(old)().encode(old.put.command(**given_))
        meant = {name: given_.get(name, before[name]) for name in before}
        needed = {name for name, default in after.items() if default is None}
        fits = given_.keys() <= after.keys() and needed <= before.keys()
        try:
            command = as_machine(new)().decode(data)
        except InvalidCommandError:
            assert not fits
            return
        assert fits
        assert command.arguments == {
            name: value for name, value in meant.items() if name in after
        }


def _some(names: list[str]) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(names), unique=True) if names else st.just([])


class ClientSideTests:
    """What a caller passes is looked at before anything is sent."""

    @pytest.mark.parametrize(
        ("args", "kwargs", "words"),
        [
            ((), {}, "missing a required argument: 'number'"),
            ((1, 2), {}, "too many positional arguments"),
            ((1,), {"number": 2}, "multiple values"),
            ((1,), {"x": 2}, "unexpected keyword argument 'x'"),
            (("1",), {}, "Expected `int`, got `str`"),
            ((True,), {}, "Expected `int`, got `bool`"),
            ((1.0,), {}, "Expected `int`, got `float`"),
            ((None,), {}, "Expected `int`, got `None`"),
            ((2**64,), {}, "cannot be encoded"),
            ((object(),), {}, "cannot be encoded"),
        ],
    )
    def test_wrong_arguments(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], words: str
    ) -> None:
        """They are refused, and the error says which."""
        make: Callable[..., Call] = Everything.late.query
        with pytest.raises(InvalidCommandError, match=words):
            make(*args, **kwargs)

    def test_half_a_character(self) -> None:
        """Text that is no UTF-8 cannot be stored."""
        make: Callable[..., Call] = Everything.put.command
        with pytest.raises(InvalidCommandError, match="surrogates"):
            make([], {"\ud800": Price(Decimal(1))}, dt.datetime.now(dt.UTC))


class SignatureTests:
    """Types that cannot be stored are found when the class is."""

    def test_a_class_of_another_kind(self) -> None:
        """A plain object has no form of its own."""

        class Plain:
            pass

        def put(self: Any, things: dict[str, list[Plain]]) -> None: ...

        put.__annotations__["things"] = dict[str, list[Plain]]
        with pytest.raises(DeclarationError, match="Plain, which cannot be stored"):
            Signature(put, "put", {})

    def test_a_union_that_cannot_be_told_apart(self) -> None:
        """Text or bytes is one of them."""

        def put(self: Any, value: str | bytes) -> None: ...

        with pytest.raises(DeclarationError, match="value of put cannot be stored"):
            Signature(put, "put", {})

    def test_a_name_that_is_not_there(self) -> None:
        """Annotations are needed at run time."""

        def put(self: Any, value: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821 - that is the point

        with pytest.raises(DeclarationError, match="outside of 'if TYPE_CHECKING'"):
            Signature(put, "put", {})

    def test_a_default_of_another_type(self) -> None:
        """A default is an argument too."""

        def put(self: Any, value: int = "one") -> None: ...  # type: ignore[assignment]

        with pytest.raises(DeclarationError, match="defaults of put are not as"):
            Signature(put, "put", {})
