"""Tests of consensus.declare.state: what comes back is what was there."""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.declare import DeclarationError, as_machine, read, write
from consensus.declare.state import StateCodec
from consensus.errors import InvalidCommandError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass
class Entry:
    """A part of a state that can change."""

    text: str
    likes: set[str] = field(default_factory=set)


class Frozen(msgspec.Struct, frozen=True):
    """A part that cannot."""

    at: tuple[int, int]


class Board:
    """States of all kinds."""

    kind: ClassVar[str] = "board"
    entries: dict[int, Entry]
    places: dict[tuple[int, str], frozenset[int]]
    nested: dict[str, dict[int, list[tuple[int, float]]]]
    first: Frozen | None

    def __init__(self) -> None:
        self.entries = {}
        self.places = {}
        self.nested = {}
        self.first = None
        self.plain: Any = []


class Anything:
    """A state without annotations."""

    def __init__(self) -> None:
        self.value: Any = None


entries = st.builds(Entry, st.text(max_size=4), st.sets(st.text(max_size=3)))
whole = st.integers(-99, 99)
boards = st.fixed_dictionaries(
    {
        "entries": st.dictionaries(whole, entries, max_size=4),
        "places": st.dictionaries(
            st.tuples(whole, st.text(max_size=3)), st.frozensets(whole), max_size=4
        ),
        "nested": st.dictionaries(
            st.text(max_size=3),
            st.dictionaries(
                whole, st.lists(st.tuples(whole, st.floats(allow_nan=False)))
            ),
            max_size=3,
        ),
        "first": st.none() | st.builds(Frozen, st.tuples(whole, whole)),
        "plain": st.recursive(
            st.none() | st.booleans() | whole | st.text(max_size=3),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.text(max_size=3) | whole, inner, max_size=3)
            ),
        ),
    }
)


def made(cls: type, **attributes: Any) -> Any:
    """Return an instance with these attributes."""
    state = cls()
    vars(state).update(attributes)
    return state


class StateCodecTests:
    """Instances as bytes."""

    @given(boards)
    def test_annotated_attributes(self, attributes: dict[str, Any]) -> None:
        """Sets, tuples, dataclasses, structs and odd keys come back as they were."""
        codec = StateCodec(Board)
        state = made(Board, **attributes)
        data = codec.encode(state)
        again = codec.decode(data, Board())
        assert vars(again) == attributes
        assert list(again.entries) == list(attributes["entries"])
        assert codec.encode(again) == data

    @given(st.binary(max_size=40) | st.binary(max_size=40).map(b"\x01\x81".__add__))
    def test_bytes_that_are_none(self, data: bytes) -> None:
        """They raise StorageError and nothing else."""
        codec = StateCodec(Board)
        try:
            codec.decode(data, Board())
        except StorageError:
            return
        assert data[0] == 1

    def share() -> Any:  # type: ignore[misc]
        """Return one list in two places."""
        one: list[int] = []
        return {"a": one, "b": one}

    @pytest.mark.parametrize(
        ("value", "words"),
        [
            (defaultdict(int, a=1), "value is a defaultdict and came back as a dict"),
            ({"a": {"b": (1,)}}, r"value\['a'\]\['b'\] is a tuple and .* as a list"),
            ([1, {2}], r"value\[1\] is a set and came back as a list"),
            (deque([1]), "deque is unsupported"),
            (Entry("x"), "value is a Entry and came back as a dict"),
            ({Frozen((1, 2)): 1}, "hashable"),
            (share(), r"value\['b'\] and value\['a'\] are one thing"),
            (object(), "cannot be encoded"),
            (1 << 70, "cannot be encoded"),
            ("\ud800", "cannot be encoded"),
        ],
    )
    def test_what_does_not_survive(self, value: Any, words: str) -> None:
        """The error names the place, and says what to write."""
        codec = StateCodec(Anything)
        with pytest.raises(InvalidCommandError, match=words):
            codec.encode(made(Anything, value=value))

    def test_an_attribute_that_is_not_as_annotated(self) -> None:
        """It is found when it is written, and not when it is needed."""
        with pytest.raises(InvalidCommandError, match=r"Board\.entries cannot be read"):
            StateCodec(Board).encode(made(Board, entries={1: "x"}))

    def test_an_extra_attribute_of_a_part(self) -> None:
        """What is no field of a dataclass would be lost."""
        entry = Entry("x")
        entry.more = 1  # type: ignore[attr-defined]
        with pytest.raises(InvalidCommandError, match=r"entries\[1\]\.more is no fiel"):
            StateCodec(Board).encode(made(Board, entries={1: entry}))

    def test_what_is_no_number(self) -> None:
        """It is not equal to itself, and survives all the same."""
        codec = StateCodec(Anything)
        state = made(Anything, value={"a": float("nan")})
        again = codec.decode(codec.encode(state), Anything())
        assert again.value["a"] != again.value["a"]

    def test_a_constant_may_be_in_two_places(self) -> None:
        """Nobody can tell one from two."""
        codec = StateCodec(Board)
        place = Frozen((1, 2))
        state = made(Board, first=place, plain=[place.at[0]] * 2)
        assert codec.decode(codec.encode(state), Board()).first == place

    def test_an_attribute_that_is_new(self) -> None:
        """It has the value that a new instance has."""
        codec = StateCodec(Board)
        state = Board()
        del state.first
        again = codec.decode(codec.encode(state), Board())
        assert again.first is None

    def test_slots(self) -> None:
        """Attributes in slots are asked for by hooks."""

        class Slotted:
            __slots__ = ("value",)

        with pytest.raises(InvalidCommandError, match="write dump and load"):
            StateCodec(Slotted).encode(Slotted())


class Ring:
    """A state with hooks of its own."""

    def __init__(self) -> None:
        self.items: deque[int] = deque(maxlen=3)

    @write
    def push(self, item: int) -> None:
        """Add *item*, and forget the oldest."""
        self.items.append(item)

    @read
    def load(self, factor: int) -> int:
        """Return something that is no hook, for it is declared."""
        return factor * len(self.items)


class Hooked(Ring):
    """The same with hooks."""

    load = None  # type: ignore[assignment]

    def dump(self) -> tuple[int, ...]:
        """Return what a snapshot has."""
        return tuple(self.items)


class Whole(Hooked):
    """And with both of them."""

    def load(self, data: tuple[int, ...]) -> None:  # type: ignore[override]
        """Take what :meth:`dump` returned."""
        assert isinstance(data, tuple)
        self.items.extend(data)


class HookTests:
    """A class may say itself what is in a snapshot."""

    def test_dump_and_load(self) -> None:
        """What was dumped is loaded, as the annotation says."""
        machine = as_machine(Whole)()
        state = machine.init("s1")
        for item in range(5):
            machine.handle_write(Whole.push.command(item), state)
        data = b"".join(machine.snapshot(state).chunks())
        again = machine.restore([data], 5)
        assert list(again.items) == [2, 3, 4]
        with pytest.raises(StorageError, match="does not know that"):
            StateCodec(Board).decode(data, Board())

    def test_a_declared_method_is_no_hook(self) -> None:
        """A class may have a command of that name."""
        with pytest.raises(DeclarationError, match="deque is unsupported"):
            as_machine(Ring)

    def test_one_without_the_other(self) -> None:
        """Both are needed."""
        with pytest.raises(DeclarationError, match="has one of dump and load"):
            as_machine(Hooked)

    def test_a_load_that_fails(self) -> None:
        """The server stops, and says that it was the class's own code."""
        machine = as_machine(Whole)()
        broken: Callable[[Any], bytes] = msgspec.msgpack.encode
        with pytest.raises(StorageError, match="cannot be read"):
            machine.restore([b"\x02", broken("x")], 1)

    def test_a_load_that_forgets(self) -> None:
        """It is found before anything runs."""

        class Forgetful(Whole):
            def __init__(self) -> None:
                super().__init__()
                self.items.append(1)

        with pytest.raises(DeclarationError, match="dumps something else"):
            as_machine(Forgetful)
