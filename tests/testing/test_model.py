"""How states are told apart, and what a machine does to them."""

from __future__ import annotations

import random
import threading
from collections import OrderedDict, defaultdict, deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Any

import pytest

from consensus.core.values import Role
from consensus.interfaces import StateMachine
from consensus.testing.model import Model, canonical
from consensus.testing.operations import Answer
from contrib.kvstore.commands import Set
from contrib.kvstore.digests import DigestedStore


class Colour(Enum):
    """Something with names."""

    RED = 1
    BLUE = 2


@dataclass
class Account:
    """Something with fields."""

    owner: str
    coins: list[int] = field(default_factory=list)


class Slotted:
    """Something without a dict."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


def digested(**items: str) -> DigestedStore:
    """Return a state with *items*."""
    state = DigestedStore()
    for key, value in items.items():
        state.set(key.encode(), value)
    return state


def shared(*, twice: bool) -> Any:
    """Return a list with one list in two places, or with two equal ones."""
    one: list[int] = []
    return [one, one] if twice else [one, []]


def cycle(value: int) -> Any:
    """Return a list that is in itself."""
    found: list[Any] = [value]
    found.append(found)
    return found


def one() -> int:
    """Return 1."""
    return 1


#: Values that differ, each made anew when called.
DIFFERENT: list[Any] = [
    lambda: None,
    lambda: 0,
    lambda: False,
    lambda: 0.0,
    lambda: -0.0,
    lambda: "",
    lambda: b"",
    list,
    tuple,
    set,
    frozenset,
    dict,
    bytearray,
    lambda: {"a": 1, "b": 2},
    lambda: {"b": 2, "a": 1},
    lambda: {"a": True, "b": 2},
    lambda: OrderedDict(a=1, b=2),
    lambda: defaultdict(int, a=1),
    lambda: defaultdict(one, a=1),
    lambda: deque([1, 2]),
    lambda: deque([1, 2], maxlen=2),
    lambda: {1, 2},
    lambda: {2, 3},
    lambda: Colour.RED,
    lambda: Colour.BLUE,
    lambda: Role.LEADER,
    lambda: Account("me", [1]),
    lambda: Account("me", [2]),
    lambda: Slotted(1),
    lambda: Slotted([1]),
    lambda: Set(b"k", "v"),
    lambda: Set(b"k", b"v"),
    lambda: datetime(2020, 1, 1, tzinfo=UTC),
    lambda: Decimal("1.0"),
    lambda: Decimal("1.00"),
    lambda: random.Random(1),  # noqa: S311 - compared, not secret
    lambda: random.Random(2),  # noqa: S311 - likewise
    lambda: digested(a="1"),
    lambda: digested(a="2"),
    lambda: shared(twice=True),
    lambda: shared(twice=False),
    lambda: cycle(1),
    lambda: cycle(2),
    lambda: Account,
    lambda: int,
    lambda: len,
]


class CanonicalTests:
    """The form of a value."""

    def test_equal(self) -> None:
        """The same value, made again, has the same form."""
        for make in DIFFERENT:
            assert canonical(make()) == canonical(make())

    def test_different(self) -> None:
        """Values that a machine can tell apart have different ones."""
        forms = [canonical(make()) for make in DIFFERENT]
        assert len(set(forms)) == len(DIFFERENT)

    def test_unordered(self) -> None:
        """Where the order of a dict does not matter, it does not count."""
        one, other = {"a": 1, "b": [{}]}, {"b": [{}], "a": 1}
        assert canonical(one, is_ordered=False) == canonical(other, is_ordered=False)

    def test_not_to_be_copied(self) -> None:
        """What cannot be copied has none."""
        with pytest.raises(TypeError):
            canonical(threading.Lock())


class Ledger(StateMachine):
    """A list that is changed in place, and by mistake too."""

    def init(self, name: str) -> Any:
        """Begin empty."""
        del name
        return []

    def handle_write(self, command: Any, state: Any) -> tuple[Any, Any]:
        """Append, and perhaps raise."""
        state.append(command)
        if command == "bad":
            raise ValueError(command)
        return {"b": len(state), "a": tuple(state)}, state

    def handle_read(self, query: Any, state: Any) -> tuple[Any, Any]:
        """Return everything, and change it."""
        found = list(state)
        state.append(query)
        return found, state


class ModelTests:
    """A machine on numbered states."""

    def setup_method(self) -> None:
        """Make one."""
        self.model = Model(Ledger)

    def write(self, state: int, command: Any) -> tuple[str, int]:
        """Return the answer and the state after *command*."""
        data = self.model.machine.encode(command)
        answer, after = self.model.apply(state, self.model.call(data, is_write=True))
        return self.model.text(answer), after

    def test_states_stay(self) -> None:
        """A machine that changes its state in place changes a copy."""
        initial = self.model.initial
        answer, one = self.write(initial, "x")
        assert answer == "{'b': 1, 'a': ['x']}"
        assert self.write(initial, "x") == (answer, one)
        assert self.write(one, "x")[1] not in {initial, one}

    def test_a_failure_changes_nothing(self) -> None:
        """A command that raises leaves the state as it was."""
        answer, after = self.write(self.model.initial, "bad")
        assert answer == "raised ValueError: bad"
        assert after == self.model.initial

    def test_a_read_changes_nothing(self) -> None:
        """Not even if it does."""
        model = self.model
        call = model.call(model.machine.encode("q"), is_write=False)
        for _ in range(2):
            answer, after = model.apply(model.initial, call)
            assert (model.text(answer), after) == ("[]", model.initial)

    def test_answers(self) -> None:
        """Equal results are one answer, however they were encoded."""
        encode = self.model.machine.encode
        answer = self.model.answer
        assert answer(Answer(encode({"a": 1, "b": (2,)}))) == answer(
            Answer(encode({"b": [2], "a": 1}))
        )
        assert answer(Answer(encode(1))) != answer(Answer(encode(True)))  # noqa: FBT003 - the answer
        assert answer(Answer(encode(1))) != answer(Answer(encode(1.0)))
        assert answer(Answer(error=("E", "x"))) != answer(Answer(encode(["E", "x"])))

    def test_fingerprint(self) -> None:
        """States are told apart as the user says."""
        model = Model(Ledger, fingerprint=len)
        one, other = (
            model.apply(
                model.initial, model.call(model.machine.encode(text), is_write=True)
            )[1]
            for text in ("x", "y")
        )
        assert one == other != model.initial

    def test_not_to_be_copied(self) -> None:
        """A state that cannot be copied is refused with a sentence."""

        class Locked(Ledger):
            def init(self, name: str) -> Any:
                del name
                return threading.Lock()

        with pytest.raises(TypeError, match="lock"):
            Model(Locked)
